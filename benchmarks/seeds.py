"""Methods on photos with three distillation seeds, next to the strongest real images: docs/benchmarks.md.

    python benchmarks/seeds.py                          # two hours of one core; it resumes, row by row
    python benchmarks/seeds.py --encoders lite0 --methods auto --seeds 0
    python benchmarks/seeds.py --encoders lite0+mobilenetv1 --methods auto --steps 300       # for two at once
    python benchmarks/seeds.py --encoders lite0 --methods auto real --images-per-class 5
    python benchmarks/seeds.py --dataset grocery --encoders lite0 --methods auto real
    python benchmarks/seeds.py --dataset cifar-10 --photos FOLDER --encoders lite0 --steps 300
    python benchmarks/seeds.py --encoders lite0 --size 224 --steps 300                       # for a GPU, as these:
    python benchmarks/seeds.py --encoders clip --size 224 --steps 300 --step-views 12 --precision bf16
    python benchmarks/seeds.py --encoders lite0 --size 224 --methods lgm-paper --steps 5000 --step-views 10

One image per class of clothing, 150 steps of three views (``--steps``, ``--step-views``), encoders at 112 px
(``--size``). With ten images per class each image has one view, with two encoders two. `clp`, `sfm` and `lgm` start
from noise, `auto` from averages of photos. `transfer` is `auto` with that aim, `noise` is `auto` from noise, and names
like `lgm-paper` have the papers' settings (``--preset paper``). Each set is scored with three probes on 30 views, over
two evaluation seeds; a cell of the table is the mean and the standard deviation over the *distillation* seeds. The real
baselines have five evaluation seeds. Nothing here is chosen on test images.

Each set of `auto` is also scored on held-out encoders, next to the medoids that each encoder chooses (``--methods
medoids``) and random photos. On CLIP, real and distilled images are scored with crops of at least 35%, because at this
size CLIP gets nothing from smaller crops. ``--steps 75`` and ``300`` show the effect of steps.

CIFAR-10 is read from ``FOLDER/cifar-10/train/CLASS`` and ``FOLDER/cifar-10/test/CLASS``: the first 300 images of each
class in the first training batch, and the first 100 in the test batch. Nothing was ever chosen on it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

import _common
from probedistill import (
    AugmentConfig,
    DistillConfig,
    DistilledSet,
    Encoder,
    Evaluation,
    LabelledImages,
    RunConfig,
    distill,
    evaluate,
    load_encoder,
    load_splits,
)
from probedistill.config import Precision
from probedistill.evaluation.real_sets import real_set

PROBES = ["ridge", "logistic", "sgd"]
VIEWS = 30
STEPS = 150
METHODS: dict[str, dict[str, Any]] = {
    **{method: {"method": method} for method in _common.METHODS},
    "transfer": {"method": "auto", "aim": "transfer"},
    "noise": {"method": "auto", "canvas": {"init": "noise"}},
    **{f"{method}-paper": {"method": method, "preset": "paper"} for method in ("clp", "sfm", "lgm")},
}
CHOSEN = {"medoids": "centroids", "random": "random"}
PICTURED = {
    "clothing-lite0-auto-0-steps300-px224": "clothing.jpg",
    "clothing-clip-clp-0-steps300-bf16-v12-px224": "clothing-clip.jpg",
}
"""Runs whose images the docs show."""
WITHOUT_SEED = ("real", "medoids")
PHOTOS: list[str] = ["cifar-10"]  # folders below --photos
BASELINES = ["random", "centroids", "herding", "kmedoids", "means", "full"]
ENCODERS = ["lite0", "mobilenetv1", "mobilenetv2"]
TARGETS = [*ENCODERS, "lite1", "lite2", "clip"]
LARGE_CROPS = AugmentConfig(scale=(0.35, 1.0))
PROTOCOL: dict[str, Any] = {"probes": PROBES, "views": VIEWS, "sgd_views": VIEWS}


@dataclass(frozen=True)
class Cell:
    """The subject of one file of results/seeds."""

    dataset: str
    encoder: str  # with + between several encoders of a run
    method: str
    seed: int
    steps: int
    views: int = VIEWS  # per image, in evaluation
    images_per_class: int = 1
    precision: Precision = "fp32"  # of the encoder, during distillation
    step_views: int | None = None  # per image and step; None: as in the table of 112 px
    size: int = 112  # of the encoder's input, in pixels

    @property
    def key(self) -> str:
        """Name of the file and of the run; settings of the table of 112 px are left out."""
        key = f"{self.dataset}-{self.encoder}-{self.method}" + f"-{self.seed}" * (self.method not in WITHOUT_SEED)
        if self.method in METHODS:
            key += f"-steps{self.steps}" * (self.steps != STEPS) + f"-{self.precision}" * (self.precision != "fp32")
            key += f"-v{self.step_views}" * bool(self.step_views)
        key += f"-px{self.size}" * (self.size != 112)
        return key + f"-n{self.images_per_class}" * (self.images_per_class > 1)

    @property
    def travels(self) -> bool:
        """Whether its images are also scored on other encoders; for grocery's 81 classes that would take too long."""
        return self.dataset != "grocery" and self.size == 112

    @property
    def encoders(self) -> list[str]:
        return self.encoder.split("+")

    @property
    def config(self) -> DistillConfig:
        one_encoder = 3 if self.images_per_class < 10 else 1
        views = self.step_views or (one_encoder if len(self.encoders) == 1 else 2)
        sizes = {"images_per_class": self.images_per_class, "views": views, "steps": self.steps, "seed": self.seed}
        return DistillConfig.of(**{**METHODS[self.method], **sizes})


Splits = tuple[LabelledImages, LabelledImages]
Scores = tuple[Evaluation, dict[str, Any]]  # on the set's own encoder, and everything else


def rows_of(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {"name": row.name, "probe": row.probe, "images": row.images, "top1": row.top1, "std": row.std}
        for row in evaluation.rows
    ]


def elsewhere(one: DistilledSet, home: str, test: LabelledImages) -> dict[str, list[dict[str, Any]]]:
    """Scores on held-out encoders; for medoids, on all encoders."""
    found = {}
    for name in TARGETS:
        if name not in home.split("+"):
            encoder = load_encoder(_common.encoder(name))
            protocol = {**PROTOCOL, "probes": PROBES[:2]}
            if name == "clip":
                protocol |= {"augment": LARGE_CROPS, "views": 10}
            found[name] = rows_of(evaluate(one, encoder, None, test, baselines=[], seeds=2, progress=False, **protocol))
    return found


def real(cell: Cell, encoder: Encoder, splits: Splits) -> Scores:
    """Every baseline on the encoder; class means and full real data only at one image per class."""
    baselines = BASELINES if cell.images_per_class == 1 else BASELINES[:-2]
    count = cell.images_per_class
    return evaluate(None, encoder, *splits, baselines=baselines, images_per_class=count, seeds=5, **PROTOCOL), {}


def chosen(cell: Cell, encoder: Encoder, splits: Splits) -> Scores:
    """The photos that the encoder chooses."""
    photos = real_set(CHOSEN[cell.method], encoder, splits[0], seed=cell.seed)
    scores = evaluate(photos, encoder, None, splits[1], baselines=[], seeds=2, **PROTOCOL)
    return scores, {"others": elsewhere(photos, cell.encoder, splits[1])} if cell.travels else {}


def made(cell: Cell, train: LabelledImages) -> DistilledSet:
    """The distilled set of a cell, from a new or a resumed run."""
    run = RunConfig(out=_common.RUNS / f"seeds-{cell.key}", resume=True, evaluate_every=0)
    encoders = [replace(_common.encoder(name, cell.size), precision=cell.precision) for name in cell.encoders]
    return distill(train, encoders, cell.config, run=run)


def clothing_sets(train: LabelledImages) -> Iterator[tuple[str, list[DistilledSet]]]:
    """Lite0's sets of each method in the table of 112 px, one per distillation seed."""
    for method in _common.METHODS:
        yield method, [made(Cell("clothing", "lite0", method, seed, steps=STEPS), train) for seed in range(3)]


def distilled(cell: Cell, encoder: Encoder, splits: Splits) -> Scores:
    """Score a distilled set; at 112 px on every encoder, and the first seed next to its nearest photos."""
    one = made(cell, splits[0])
    nearest = ["neighbours"] if cell.seed == 0 and cell.images_per_class == 1 else []
    scores = evaluate(one, encoder, *splits, baselines=nearest, seeds=2, **PROTOCOL)
    about: dict[str, Any] = {"seconds": one.run.seconds}
    if METHODS[cell.method]["method"] == "auto" and cell.images_per_class == 1 and cell.travels:
        about["others"] = elsewhere(one, cell.encoder, splits[1])
    return scores, about


def score(cell: Cell, encoder: Encoder, splits: Splits) -> None:
    """Compute and write a cell's file, unless it exists."""
    if (_common.RESULTS / "seeds" / f"{cell.key}.json").exists():
        print(f"{cell.key}: there")
        return
    kind = real if cell.method == "real" else chosen if cell.method in CHOSEN else distilled
    scores, about = kind(cell, encoder, splits)
    _common.keep(f"seeds/{cell.key}", {**asdict(cell), **about, "rows": rows_of(scores)})
    shown = {f"{row.name}, {row.probe}": round(100 * row.top1, 1) for row in scores.rows}
    print(time.strftime("%H:%M"), cell.key, json.dumps(shown), flush=True)


REFERENCES = {"full real data": "-", "class-mean features": "--", "herding": ":"}


def draw() -> None:
    """Plot Lite0's accuracy against encoder passes, with a line per method and real images: results/speed.png."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    contents = [json.loads(path.read_text()) for path in sorted((_common.RESULTS / "seeds").glob("clothing-lite0-*"))]
    ours = [c for c in contents if (c["images_per_class"], c["size"]) == (1, 112)]
    rows = [(c, row) for c in ours for row in c["rows"]]
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.8), sharey=True, layout="constrained")
    for panel, probe in zip(panels, PROBES, strict=True):
        of_probe = [(content, row) for content, row in rows if row["probe"] == probe]
        draw_real(panel, [row for _, row in of_probe if row["name"] in REFERENCES])
        draw_methods(panel, [(c, row) for c, row in of_probe if row["name"] == "distilled" and c["method"] in METHODS])
        panel.set(title=probe, xlabel="views, forward and backward")
        panel.set_xscale("log")
        panel.set_xticks([2250, 9000, 100_000], ["2,250", "9,000", "100,000"])
        panel.minorticks_off()
    panels[0].set_ylabel("top-1 %")
    panels[0].legend(loc="lower right", bbox_to_anchor=(1, 0.07), fontsize=8)
    figure.savefig(_common.RESULTS / "speed.png", dpi=130)


def draw_real(panel: Any, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        style = REFERENCES[row["name"]]
        panel.axhline(100 * row["top1"], color="grey", linewidth=1, linestyle=style, label=row["name"])


def draw_methods(panel: Any, rows: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    of_method: dict[str, dict[int, list[float]]] = {}
    for content, row in rows:
        passes = content["steps"] * (content["step_views"] or 3) * row["images"]
        of_method.setdefault(content["method"], {}).setdefault(passes, []).append(100 * row["top1"])
    for method, points in sorted(of_method.items()):
        passes, scores = zip(*sorted(points.items()), strict=True)
        means = [statistics.fmean(values) for values in scores]
        spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in scores]
        panel.errorbar(passes, means, spread, marker="o", capsize=2, label=method)


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("--dataset", choices=["clothing", "grocery", *PHOTOS], default="clothing")
    parser.add_argument("--photos", type=Path, help=f"folder of {' and '.join(PHOTOS)}")
    parser.add_argument("--encoders", nargs="+", default=ENCODERS, help="a + between those of one run")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=[*METHODS, *CHOSEN, "real"],
        default=[*(method for method in METHODS if not method.endswith("-paper")), *CHOSEN, "real"],
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--images-per-class", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the encoder, in distilling")
    parser.add_argument("--step-views", type=int, help="views of each image in a step; see above")
    parser.add_argument("--size", type=int, default=112, help="of the encoders' input, in pixels")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    if (options.dataset in PHOTOS) != (options.photos is not None):
        parser.error(f"--photos FOLDER is for {' and '.join(PHOTOS)}, and needed there; see above")
    if any(method.endswith("-paper") for method in options.methods) and not options.step_views:
        parser.error("the papers' settings need the papers' --steps and --step-views, too; see above")
    splits = load_splits(_common.images(options.dataset, options.photos))
    (_common.RESULTS / "seeds").mkdir(parents=True, exist_ok=True)
    sizes = {name: getattr(options, name) for name in ("steps", "images_per_class", "precision", "step_views", "size")}
    for names in options.encoders:
        encoder = load_encoder(_common.encoder(names.split("+")[0], options.size))
        for method in options.methods:
            for seed in [0] if method in WITHOUT_SEED else options.seeds:
                score(Cell(options.dataset, names, method, seed, **sizes), encoder, splits)
    for key, name in PICTURED.items():
        picture = _common.RUNS / f"seeds-{key}" / "preview.png"
        if picture.exists():
            with Image.open(picture) as opened:
                opened.convert("RGB").save(_common.ROOT / "docs" / "images" / name, quality=85)
    draw()


if __name__ == "__main__":
    main()
