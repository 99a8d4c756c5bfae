"""Accuracy against images per class: distilled from noise and from real images, hard and soft labels, real photos.

    python benchmarks/images_per_class.py            # clothing, Lite0 at 112 px: about half an hour on two cores
    python benchmarks/images_per_class.py --quick    # 1 and 2 images per class, 40 steps

A step has 30 views or, from 2 images per class on, one of each image. Scores: ridge and sgd probe, 30 views, 3
evaluation seeds. Finished points are kept. Writes results/images_per_class.json and .png.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import _common
from probedistill import (
    CanvasConfig,
    DistillConfig,
    ImagesConfig,
    RunConfig,
    distill,
    evaluate,
    extract_features,
    load_encoder,
    load_splits,
)
from probedistill.ship.labels import with_extras

COUNTS, LABELS, STARTS = [1, 2, 5, 10], ["none", "source", "learned"], ["noise", "real", "blend"]
REAL = {"random": "random real", "centroids": "class medoids", "herding": "herding", "kmedoids": "k-medoids"}
PROTOCOL: dict[str, Any] = {"probes": ["ridge", "sgd"], "seeds": 3, "views": 30, "sgd_views": 30, "progress": False}


def draw(points: dict[str, Any], path: Any) -> None:
    """The ridge probe's accuracy against images per class, a line for each way to get the images."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    lines: dict[str, list[tuple[int, float, float]]] = {}
    for point in points.values():
        row = next(row for row in point["rows"] if row["probe"] == "ridge")
        lines.setdefault(point["line"], []).append((point["images_per_class"], row["top1"], row["std"]))
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for name, values in lines.items():
        counts, top1, std = zip(*sorted(values), strict=True)
        style = "--" if name in REAL.values() else "-"
        axes.errorbar(counts, [100 * v for v in top1], [100 * v for v in std], fmt=f"o{style}", label=name, capsize=2)
    axes.set(xscale="log", xlabel="images per class", ylabel="top-1 % (ridge probe)", xticks=COUNTS, xticklabels=COUNTS)
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--labels", nargs="+", choices=LABELS, default=LABELS)
    options = parser.parse_args()
    name = "images_per_class-quick" if options.quick else "images_per_class"
    path = _common.RESULTS / f"{name}.json"
    points: dict[str, Any] = json.loads(path.read_text())["points"] if path.exists() else {}

    def keep(line: str, count: int, scores: Any, **more: Any) -> None:
        rows = [{name: getattr(row, name) for name in ("name", "probe", "images", "top1", "std")} for row in scores]
        points[f"{line}, {count}"] = {"line": line, "images_per_class": count, "rows": rows, **more}
        _common.keep(name, {"points": points})
        print(f"{line:36} {count:3}  " + ", ".join(f"{r['probe']} {100 * r['top1']:.1f}" for r in rows), flush=True)

    encoder = load_encoder(_common.encoder("lite0"))
    image_config = ImagesConfig(images=_common.images("clothing"))
    train, test = load_splits(image_config)
    for count in COUNTS[:2] if options.quick else COUNTS:
        if f"herding, {count}" not in points:
            real = evaluate(None, encoder, train, test, images_per_class=count, baselines=list(REAL), **PROTOCOL)
            for row_name, line in REAL.items():
                keep(line, count, [row for row in real.rows if row.name.split()[0] == row_name])
        for start in options.starts:
            wanted = ["hard" if labels == "none" else labels for labels in options.labels]
            if all(f"from {start}, {labels} labels, {count}" in points for labels in wanted):
                continue
            config = DistillConfig(
                method=options.method, images_per_class=count, steps=40 if options.quick else options.steps,
                views=max(1, 3 // count), canvas=CanvasConfig(init=start),  # type: ignore[arg-type]
            )  # fmt: skip
            run = RunConfig(out=_common.RUNS / f"{name}-{start}-{count}", resume=True)
            hard = distill(image_config, _common.encoder("lite0"), config, run=run)
            bank = extract_features(encoder, train)
            for labels in options.labels:
                labelled = with_extras(hard, encoder, bank, soft_labels=labels)
                scores = evaluate(labelled, encoder, None, test, **PROTOCOL)
                rows = [row for row in scores.rows if row.name == "distilled"]
                title = f"from {start}, {'hard' if labels == 'none' else labels} labels"
                keep(title, count, rows, seconds=hard.run.seconds, config=hard.run.config.to_dict())
    draw(points, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
