"""Write the tables of README.md and docs/ from benchmarks/results/*.json, between their markers.

python benchmarks/tables.py            # rewrites them
python benchmarks/tables.py --check    # fails when one is not what the results say
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = RESULTS.parents[1]
METHODS = {
    "clp": "distilled, `clp`",
    "sfm": "distilled, `sfm`",
    "lgm": "distilled, `lgm`",
    "clp, MSE outer loss": "distilled, `clp` with the MSE outer loss",
}


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def made_by(content: dict[str, Any]) -> str:
    machine = content["machine"]
    return (
        f"Made by `{content['command']}` on {machine['cpu']}, {machine['threads']} of {machine['cores']} cores, "
        f"torch {machine['torch']}, {machine['date']}."
    )


def percent(row: dict[str, Any]) -> str:
    return f"{100 * row['top1']:.1f} ± {100 * row['std']:.1f}"


def methods() -> str:
    content = read("methods")
    lines = [
        "| trained on | images | ridge probe | sgd probe | seconds | peak memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, title in METHODS.items():
        runs = [run for run in content["methods"] if run["method"] == name]
        cells = {}
        for probe in ("ridge", "sgd"):
            rows = [row for run in runs for row in run["rows"] if row["probe"] == probe]
            mean = {"top1": statistics.fmean(r["top1"] for r in rows), "std": statistics.fmean(r["std"] for r in rows)}
            cells[probe] = percent(mean)
        seconds = statistics.fmean(run["seconds"] for run in runs)
        memory = max(run["peak_mib"] for run in runs)
        images = runs[0]["rows"][0]["images"]
        lines.append(
            f"| {title} | {images} | {cells['ridge']} | {cells['sgd']} | {seconds:.0f} | {memory / 1024:.1f} GiB |"
        )
    names = list(dict.fromkeys(row["name"] for row in content["real"]))
    for name in names:
        of_probe = {row["probe"]: row for row in content["real"] if row["name"] == name}
        images = of_probe["ridge"]["images"]
        lines.append(f"| {name} | {images:,} | {percent(of_probe['ridge'])} | {percent(of_probe['sgd'])} | | |")
    seeds = len({run["seed"] for run in content["methods"]})
    note = (
        f"{made_by(content)} Top-1 %; {seeds} distillation seed{'s' * (seeds > 1)}, mean ± std over 5 evaluation seeds."
    )
    return "\n".join(lines) + f"\n\n{note}"


def headline() -> str:
    content = read("methods")
    run = next(run for run in content["methods"] if run["method"] == "clp")
    ours = next(row for row in run["rows"] if row["probe"] == "ridge")
    real = {row["name"]: row for row in content["real"] if row["probe"] == "ridge"}
    picks, full = real["random real"], real["full real data"]
    best = 100 * ours["top1"]
    threads = content["machine"]["threads"]
    return (
        f"*These ten images stand for {full['images']:,} photos of clothes. A linear probe on EfficientNet-Lite0 that\n"
        f"has seen nothing else is right on {best:.0f} % of the test photos; trained on ten random real photos\n"
        f"it is right on {100 * picks['top1']:.0f} %, on all of them {100 * full['top1']:.0f} %. Distilled from "
        f"noise in {run['seconds']:.0f} s on {'one CPU core' if threads == 1 else f'{threads} CPU cores'}.*"
    )


def recipes() -> str:
    content = read("recipes")
    lines = ["| change from the default | ridge probe | sgd probe |", "| --- | --- | --- |"]
    for method in ("clp", "sfm", "lgm"):
        for name, row in content["rows"].items():
            if name.split(",")[0] == method:
                title = f"**`{method}`, default** (200 steps)" if name == method else name
                lines.append(f"| {title} | {percent(row['ridge'])} | {percent(row['sgd'])} |")
    return "\n".join(lines) + f"\n\n{made_by(content)} Top-1 %; one distillation seed, 3 evaluation seeds."


def step_cost() -> str:
    content = read("step_cost-efficientnet_lite0-112-fp32")
    lines = ["| case | step | seconds | faster | peak MiB | memory |", "| --- | --- | --- | --- | --- | --- |"]
    for case, rows in content["cases"].items():
        base = next(iter(rows.values()))
        classes, views = case.split("x")
        for name, row in rows.items():
            faster, smaller = base["seconds"] / row["seconds"], base["mib"] / max(row["mib"], 1)
            cells = [f"{classes} classes × {views} views", name, f"{row['seconds']:.3f}", f"{faster:.1f} ×"]
            lines.append("| " + " | ".join([*cells, f"{row['mib']:.0f}", f"1/{smaller:.1f}"]) + " |")
    return "\n".join(lines) + f"\n\n{made_by(content)}"


def kernels() -> str:
    content = read("kernels-efficientnet_lite0-112")
    what = ["forward", "forward + backward"]
    lines = ["| encoder | forward | forward + backward | first call |", "| --- | --- | --- | --- |"]
    base = next(iter(content["ways"].values()))
    for name, row in content["ways"].items():
        cells = [f"{1000 * row[w]:.0f} ms ({base[w] / row[w]:.2f} ×)" for w in what]
        lines.append("| " + " | ".join([name, *cells, f"{row['first call']:.1f} s"]) + " |")
    return "\n".join(lines) + f"\n\n{made_by(content)} 30 images."


def profile() -> str:
    content = read("profile_step")
    parts = ["views", "canvas", "objective", "adam"]
    lines = ["| method | step | encoder | " + " | ".join(parts) + " |", "| --- " * (3 + len(parts)) + "|"]
    for name, row in content["methods"].items():
        rest = [f"{1000 * row['rest'][part]:.1f} ms" for part in parts]
        cells = [f"`{name}`", f"{1000 * row['step']:.0f} ms", f"{100 * row['share']:.1f} %", *rest]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\n{made_by(content)}"


def memory() -> str:
    content = read("memory")
    curves = list(content["curves"].items())
    counts = [point["classes"] for point in curves[0][1]]
    lines = ["| | " + " | ".join(f"{count:,}" for count in counts) + " |", "| --- " * (1 + len(counts)) + "|"]
    for name, points in curves:
        known = {point["classes"]: point for point in points}
        cells = [f"{known[count]['mib']:,.0f}" if count in known else "over 16 GiB" for count in counts]
        lines.append(f"| {name}, peak MiB | " + " | ".join(cells) + " |")
    held = " | ".join(f"{point['held_mib']:,.0f}" for point in curves[0][1])
    lines.append(f"| of it images, gradient and moments, MiB | {held} |")
    return "\n".join(lines) + f"\n\n{made_by(content)}"


def time_to_accuracy() -> str:
    content = read("time_to_accuracy")
    reference = content["curves"]["reference"]
    target, total = content["target"], reference[-1][1]
    lines = [
        f"The reference reaches {100 * target:.1f} % after {reference[-1][0]:,} steps and {total:.0f} s.",
        "",
        "| | seconds until then | sooner | at its end |",
        "| --- | --- | --- | --- |",
    ]
    for name, curve in content["curves"].items():
        if name != "reference":
            seconds = next((s for _, s, accuracy in curve if accuracy >= target), None)
            cells = ["never", ""] if seconds is None else [f"{seconds:.1f}", f"{total / seconds:.0f} ×"]
            end = f"{100 * curve[-1][2]:.1f} % after {curve[-1][1]:.0f} s"
            lines.append(f"| {name} | {cells[0]} | {cells[1]} | {end} |")
    return "\n".join(lines) + f"\n\n{made_by(content)}"


def stream() -> str:
    content = read("stream")
    lines = [
        "| rows | on disk | peak memory | of it labels and numbers | class sums | LGM gradient | plain read |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for point in content["points"]:
        rates = [f"{point[task]['mb_per_second']:,.0f} MB/s" for task in ("class sums", "LGM gradient", "plain read")]
        cells = [f"{point['rows']:,}", f"{point['mb'] / 1000:.2f} GB", f"{point['peak_mib']:.0f} MiB"]
        lines.append("| " + " | ".join([*cells, f"{point['rows_mib']:.0f} MiB", *rates]) + " |")
    return "\n".join(lines) + f"\n\n{made_by(content)} {content['dim']} features in float16, 1,000 classes."


TABLES = {
    "headline": headline,
    "methods": methods,
    "recipes": recipes,
    "step_cost": step_cost,
    "kernels": kernels,
    "profile": profile,
    "memory": memory,
    "stream": stream,
    "time_to_accuracy": time_to_accuracy,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a table is out of date")
    options = parser.parse_args()
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = new = path.read_text()
        for name, make in TABLES.items():
            pattern = re.compile(rf"(<!-- {name}: benchmarks/tables.py -->\n).*?(<!-- end -->)", re.DOTALL)
            if pattern.search(new):
                table = make()
                new = pattern.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", new)
        if new != text:
            stale.append(path.name)
            if not options.check:
                path.write_text(new)
    if stale:
        print(("out of date: " if options.check else "rewritten: ") + ", ".join(stale))
    sys.exit(bool(stale and options.check))


if __name__ == "__main__":
    main()
