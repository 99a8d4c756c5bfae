"""README's table: methods on photos with three distillation seeds, beside the real images that flatter least.

    python benchmarks/seeds.py                          # two hours of one core; it resumes, row by row
    python benchmarks/seeds.py --encoders lite0 --methods auto --seeds 0
    python benchmarks/seeds.py --encoders lite0+mobilenetv1 --methods auto --steps 300       # for two at once
    python benchmarks/seeds.py --encoders lite0 --methods auto real --images-per-class 5
    python benchmarks/seeds.py --dataset grocery --encoders lite0 --methods auto real

One image per class of clothing, 150 steps of three views (``--steps``), encoders at 112 px; from five images per class
on they have one view each, with two encoders each has two. `clp`, `sfm` and `lgm` start from noise, `auto` from blends
of photos; `transfer` is `auto` with the aim of that name. Each set is scored with three probes on 30 views, over two
evaluation seeds; a cell of the table is the mean and the standard deviation over the *distillation* seeds. The real
baselines have five evaluation seeds. Nothing here is chosen on test images.

Each set of `auto` is scored on the encoders that had no part in it, too, beside the medoids that each encoder chooses
(``--methods medoids``) and random photos. CLIP is one of these; it is scored with crops of at least 35 %, real images
and distilled ones alike, because it makes nothing of smaller ones at this size. ``--steps 75`` and ``300`` show what
steps bring.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from typing import Any

import _common
from probedistill import (
    AugmentConfig,
    DistillConfig,
    DistilledSet,
    ImagesConfig,
    LabelledImages,
    RunConfig,
    distill,
    evaluate,
    load_encoder,
    load_splits,
)
from probedistill.evaluation.real_sets import real_set

PROBES = ["ridge", "logistic", "sgd"]
VIEWS = 30
STEPS = 150
METHODS: dict[str, dict[str, Any]] = {
    **{method: {"method": method} for method in _common.METHODS},
    "transfer": {"method": "auto", "aim": "transfer"},
}
CHOSEN = {"medoids": "centroids", "random": "random"}
BASELINES = ["random", "centroids", "herding", "kmedoids", "means", "full"]
ENCODERS = ["lite0", "mobilenetv1", "mobilenetv2"]
TARGETS = [*ENCODERS, "lite1", "lite2", "clip"]
LARGE_CROPS = AugmentConfig(scale=(0.35, 1.0))
PROTOCOL: dict[str, Any] = {"probes": PROBES, "views": VIEWS, "sgd_views": VIEWS}


def rows_of(evaluation: Any) -> list[dict[str, Any]]:
    return [
        {"name": row.name, "probe": row.probe, "images": row.images, "top1": row.top1, "std": row.std}
        for row in evaluation.rows
    ]


def elsewhere(made: DistilledSet, home: str, test: LabelledImages) -> dict[str, list[dict[str, Any]]]:
    """Scores on the encoders that had no part, and for medoids on all."""
    found = {}
    for name in TARGETS:
        if name not in home.split("+"):
            encoder = load_encoder(_common.encoder(name))
            protocol = {**PROTOCOL, "probes": PROBES[:2]}
            if name == "clip":
                protocol |= {"augment": LARGE_CROPS, "views": 10}
            found[name] = rows_of(
                evaluate(made, encoder, None, test, baselines=[], seeds=2, progress=False, **protocol)
            )
    return found


REFERENCES = {"full real data": "-", "class-mean features": "--", "herding": ":"}


def draw(encoder: str) -> None:
    """Accuracy against encoder passes, a line for each method, beside what real images give: results/speed.png."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    contents = [
        json.loads(path.read_text()) for path in sorted((_common.RESULTS / "seeds").glob(f"clothing-{encoder}-*"))
    ]
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.8), sharey=True, layout="constrained")
    for panel, probe in zip(panels, PROBES, strict=True):
        of_method: dict[str, dict[int, list[float]]] = {}
        for content in contents:
            for row in content["rows"]:
                if content.get("images_per_class", 1) > 1:
                    continue
                if row["probe"] == probe and row["name"] == "distilled" and content["method"] in METHODS:
                    passes = content["steps"] * 3 * row["images"]
                    of_method.setdefault(content["method"], {}).setdefault(passes, []).append(100 * row["top1"])
                elif row["probe"] == probe and row["name"] in REFERENCES:
                    panel.axhline(
                        100 * row["top1"], color="grey", linewidth=1, linestyle=REFERENCES[row["name"]],
                        label=row["name"],
                    )  # fmt: skip
        for method, points in sorted(of_method.items()):
            passes, scores = zip(*sorted(points.items()), strict=True)
            means = [statistics.fmean(values) for values in scores]
            spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in scores]
            panel.errorbar(passes, means, spread, marker="o", capsize=2, label=method)
        panel.set(title=probe, xlabel="views, forward and backward")
        panel.set_xscale("log")
        panel.set_xticks([2250, 4500, 9000], ["2,250", "4,500", "9,000"])
        panel.minorticks_off()
    panels[0].set_ylabel("top-1 %")
    panels[0].legend(loc="lower right", bbox_to_anchor=(1, 0.07), fontsize=8)
    figure.savefig(_common.RESULTS / "speed.png", dpi=130)


def titled(dataset: str, encoders: str, method: str, seed: int, steps: int, count: int) -> str:
    """Name of a row's file and of its run."""
    key = f"{dataset}-{encoders}-{method}" + f"-{seed}" * (method not in ("real", "medoids"))
    return key + f"-steps{steps}" * (steps != STEPS and method in METHODS) + f"-n{count}" * (count > 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=["clothing", "grocery"], default="clothing")
    parser.add_argument("--encoders", nargs="+", default=ENCODERS, help="a + between those of one run")
    parser.add_argument(
        "--methods", nargs="+", choices=[*METHODS, *CHOSEN, "real"], default=[*METHODS, *CHOSEN, "real"]
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--images-per-class", type=int, default=1)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    images = ImagesConfig(images=_common.images(options.dataset))
    splits = load_splits(images)
    (_common.RESULTS / "seeds").mkdir(parents=True, exist_ok=True)
    count = options.images_per_class
    for name in options.encoders:
        names = name.split("+")
        encoder = load_encoder(_common.encoder(names[0]))
        for method in options.methods:
            for seed in [0] if method in ("real", "medoids") else options.seeds:
                key = titled(options.dataset, name, method, seed, options.steps, count)
                if (_common.RESULTS / "seeds" / f"{key}.json").exists():
                    print(f"{key}: there")
                    continue
                about: dict[str, Any] = {
                    "dataset": options.dataset,
                    "encoder": name,
                    "method": method,
                    "seed": seed,
                    "steps": options.steps,
                    "views": VIEWS,
                    "images_per_class": count,
                }
                if method == "real":
                    baselines = BASELINES if count == 1 else BASELINES[:-2]
                    scores = evaluate(
                        None, encoder, *splits, baselines=baselines, images_per_class=count, seeds=5, **PROTOCOL
                    )
                elif method in CHOSEN:
                    made = real_set(CHOSEN[method], encoder, splits[0], seed=seed)
                    scores = evaluate(made, encoder, None, splits[1], baselines=[], seeds=2, **PROTOCOL)
                    about["others"] = elsewhere(made, name, splits[1])
                else:
                    views = (3 if count < 5 else 1) if len(names) == 1 else 2
                    of_method = {**METHODS[method], "images_per_class": count, "views": views}
                    config = DistillConfig.of(**of_method, steps=options.steps, seed=seed)
                    run = RunConfig(out=_common.RUNS / f"seeds-{key}", resume=True, evaluate_every=0)
                    made = distill(images, [_common.encoder(one) for one in names], config, run=run)
                    nearest = ["neighbours"] if seed == 0 and count == 1 else []
                    scores = evaluate(made, encoder, *splits, baselines=nearest, seeds=2, **PROTOCOL)
                    about["seconds"] = made.run.seconds
                    if METHODS[method]["method"] == "auto" and count == 1 and options.dataset == "clothing":
                        about["others"] = elsewhere(made, name, splits[1])
                _common.keep(f"seeds/{key}", {**about, "rows": rows_of(scores)})
                best = {(row.name, row.probe): round(100 * row.top1, 1) for row in scores.rows}
                print(
                    time.strftime("%H:%M"), key, json.dumps({f"{a}, {b}": v for (a, b), v in best.items()}), flush=True
                )
    pictured = _common.RUNS / "seeds-clothing-lite0-auto-0-steps300" / "preview.png"
    if pictured.exists():  # what README shows
        shutil.copy(pictured, _common.ROOT / "docs" / "images" / "clothing.png")
    draw(options.encoders[0])


if __name__ == "__main__":
    main()
