"""Peak memory of a step from 10 to 2,000 classes: micro-batches against one pass over all views.

    python benchmarks/memory.py              # about 10 minutes on two cores

EfficientNet-Lite0 at 64 px, 3 views. Next to the measured peak, "held" is the part that has to grow with the classes:
the canvas, its gradient and Adam's two moments. The one-pass curve stops before it would exceed 16 GiB. Writes
results/memory.json and results/memory.png.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from _common import argument_parser, in_fresh_process, keep, peak_memory_mib, small_distiller

CLASSES = [10, 30, 100, 300, 1000, 2000]
SIZE, VIEWS, MICRO_BATCH, LIMIT_MIB = 64, 3, 60, 16 * 1024


def measure(classes: int, method: str, one_pass: bool) -> dict[str, float]:
    """Peak memory minus the memory before the first step, and the bytes of the state."""
    micro_batch = classes * VIEWS if one_pass else MICRO_BATCH
    distiller = small_distiller(classes, SIZE, views=VIEWS, micro_batch=micro_batch, method=method)
    with torch.no_grad():
        distiller.towers[0].encoder(torch.rand(2, 3, SIZE, SIZE))
    before = peak_memory_mib()
    for _ in range(2):
        distiller.step()
    held = 3 * sum(level.nbytes for level in distiller.canvas.levels) / 2**20  # gradient and two moments
    return {"classes": classes, "mib": peak_memory_mib() - before, "held_mib": held}


def draw(curves: dict[str, list[dict[str, Any]]], path: Any) -> None:
    """Plot peak memory against classes, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, points in curves.items():
        axes.plot([p["classes"] for p in points], [p["mib"] for p in points], "o-", label=name)
        if name == f"micro-batches of {MICRO_BATCH} views":
            axes.plot(
                [p["classes"] for p in points], [p["mib"] - p["held_mib"] for p in points], "o--",
                label="… without the images' own state",
            )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="classes", ylabel="peak memory of a step, MiB")
    axes.set_title(f"EfficientNet-Lite0, {SIZE} px, {VIEWS} views", fontsize=10)
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--one", nargs=3, metavar=("CLASSES", "METHOD", "MODE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(int(options.one[0]), options.one[1], options.one[2] == "one-pass")))
        return
    small = f"micro-batches of {MICRO_BATCH} views"
    ways = {small: ("sfm", "small"), f"{small}, lgm": ("lgm", "small"), f"{small}, clp": ("clp", "small")}
    ways["one pass"] = ("sfm", "one-pass")
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for name, points in curves.items():
        for classes in CLASSES:
            if points and points[-1]["mib"] * classes / points[-1]["classes"] > LIMIT_MIB:
                break
            points.append(in_fresh_process(__file__, "--one", str(classes), *ways[name]))
            print(
                f"{name:28} {classes:5} classes {points[-1]['mib']:8.0f} MiB, held {points[-1]['held_mib']:.0f}",
                flush=True,
            )
    path = keep("memory", {"curves": curves})
    draw(curves, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
