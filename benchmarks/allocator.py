"""The benefit of keeping freed memory: seconds per step and peak memory with malloc's defaults and without trimming.

    python benchmarks/allocator.py        # under two minutes on two cores

EfficientNet-Lite0, sfm: 10 classes at 112 px in one pass, and 1,000 classes at 64 px in micro-batches of 60 views.
Every row runs in its own process. The command line keeps freed memory because of these rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

from _common import argument_parser, in_fresh_process, keep, peak_memory_mib, small_distiller
from probedistill.machine.memory import keep_freed_memory

VIEWS = 3
CASES = {"10": (112, 30, 15), "1000": (64, 60, 3)}  # classes: side in pixels, views in a pass, repeats


def measure(classes: str, kept: bool) -> dict[str, Any]:
    """Median seconds per step, and the rise of peak memory since before the first step."""
    if kept and not keep_freed_memory():
        sys.exit("this C library has no such setting, or the environment sets malloc already")
    size, micro_batch, repeats = CASES[classes]
    distiller = small_distiller(int(classes), size, views=VIEWS, micro_batch=micro_batch)
    before, seconds = peak_memory_mib(), []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        distiller.step()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[1:]), "mib": peak_memory_mib() - before}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--one", nargs=2, metavar=("CLASSES", "MALLOC"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1] == "kept")))
        return
    rows = []
    for classes in CASES:
        for way in ("default", "kept"):
            row = {"classes": int(classes), "malloc": way, **in_fresh_process(__file__, "--one", classes, way)}
            rows.append(row)
            faster = rows[-2]["seconds"] / row["seconds"] if way == "kept" else 1.0
            print(
                f"{classes:>5} classes, {way:8} {row['seconds']:.3f} s ({faster:.2f} ×), {row['mib']:.0f} MiB",
                flush=True,
            )
    print(keep("allocator", {"rows": rows}))


if __name__ == "__main__":
    main()
