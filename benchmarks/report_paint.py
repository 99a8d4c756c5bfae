"""How soon a report on 1,000 distilled images appears: first paint, whole file read, pictures drawn.

python benchmarks/report_paint.py [--images 1000] [--side 112] [--loads 5]

Each load has a fresh page in headless Chromium; results are medians. Writes benchmarks/results/report_paint.json.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from _common import ROOT, argument_parser, keep

sys.path.insert(0, str(ROOT / "tests"))
from helpers_report import make_run
from probedistill.report.page import write_report

PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
READ = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
DRAWN = """() => {
  const seen = [...document.querySelectorAll('.wall .cell, .gallery li')].filter(card => {
    const box = card.getBoundingClientRect(); return box.height && box.top < innerHeight && box.bottom > 0;
  });
  return seen.length > 0 && seen.every(card => [...card.querySelectorAll('canvas')].every(c => c.width > 8));
}"""


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--loads", type=int, default=5)
    arguments = parser.parse_args()
    browser_path = os.environ.get("PROBEDISTILL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = make_run(Path(folder) / "run", [f"class {i:04d}" for i in range(arguments.images)], side=arguments.side)
        started = time.perf_counter()
        file = write_report([run], Path(folder) / "report.html")
        writing = time.perf_counter() - started
        browser = playwright.chromium.launch(executable_path=browser_path)
        loads = []
        for _ in range(arguments.loads):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(file.as_uri(), timeout=120_000)
            while not page.evaluate(DRAWN):  # the page's policy forbids eval, which wait_for_function uses
                page.wait_for_timeout(20)
            drawn = page.evaluate("performance.now()")
            loads.append({"paint": page.evaluate(PAINT), "read": page.evaluate(READ), "pictures": drawn})
            page.close()
        result = {name: round(statistics.median(load[name] for load in loads) / 1000, 3) for name in loads[0]}
        result |= {"images": arguments.images, "side": arguments.side, "megabytes": round(file.stat().st_size / 1e6, 1)}
        result |= {"writing": round(writing, 1), "chromium": browser.version, "loads": arguments.loads}
        browser.close()
    print(result)
    print(f"kept in {keep('report_paint', {'seconds': result})}")


if __name__ == "__main__":
    main()
