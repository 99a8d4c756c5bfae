"""The table: every method on every encoder and both photo sets, one image per class, beside the real-image baselines.

    python benchmarks/table.py --quick             # clothing, Lite0 and MobileNetV1, 60 steps: five minutes, two cores
    python benchmarks/table.py                     # all of it, then transfer, bytes and the tables in docs/: hours
    python benchmarks/table.py --datasets grocery --encoders clip --methods auto

All encoders at 112 px. What is finished is kept, run by run (runs/benchmarks/) and row by row (results/table/), so the
command can be stopped and repeated, and several can work on different parts at the same time. Every row names its
settings: where a run is dear (81 classes, CLIP), it has fewer steps or views than the default.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import _common
from _common import ENCODERS, METHODS
from probedistill import (
    AugmentConfig,
    DistillConfig,
    Encoder,
    ImagesConfig,
    LabelledImages,
    RunConfig,
    distill,
    evaluate,
    load_encoder,
    load_splits,
)
from tables import table_of

DATASETS = ["clothing", "grocery"]
# Evaluation views of every image: the same for all rows of a dataset.
VIEWS = {"clothing": 30, "grocery": 10}
# Smallest share of an image's area that a view shows, in distillation and in all rows of evaluation. The default is
# 0.08; at 112 px CLIP makes nothing of so small a crop (from medoids the first loss is 4.0, above chance).
SMALLEST_CROP = {"clip": 0.35}
DEAR: dict[tuple[str, bool], dict[str, int]] = {  # (dataset, is it CLIP): what a run may cost
    ("clothing", False): {"steps": 150},
    ("clothing", True): {"steps": 60, "views": 2},
    ("grocery", False): {"steps": 200, "views": 1},
    ("grocery", True): {"steps": 40, "views": 1},
}

# Rows with more steps or views than that, where it decides: they are named for it, and other pages use the runs.
LONGER: dict[tuple[str, str], list[tuple[str, dict[str, int]]]] = {
    ("clothing", "clip"): [("auto", {"steps": 300}), ("clp", {"steps": 300})],
    ("grocery", "lite0"): [("auto", {"views": 3})],
    ("grocery", "mobilenetv2"): [("auto", {"views": 3})],
    ("grocery", "clip"): [("auto", {"steps": 120})],
}


def settings_of(dataset: str, encoder: str, method: str, quick: bool) -> DistillConfig:
    """The default recipe, or what is affordable of it."""
    settings: dict[str, Any] = {"steps": 60} if quick else dict(DEAR[dataset, encoder == "clip"])
    augment = AugmentConfig(scale=(SMALLEST_CROP.get(encoder, 0.08), 1.0))
    return DistillConfig(method=method, augment=augment, **settings)  # type: ignore[arg-type]


def rows_of(evaluation: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "scores"} for row in evaluation.plain_rows()]


def keep(name: str, content: dict[str, Any]) -> None:
    (_common.RESULTS / "table").mkdir(parents=True, exist_ok=True)
    _common.keep(f"table/{name}", content)


def wanted(name: str, asked: dict[str, Any]) -> bool:
    """Whether this row is still to be done; one that was made in another way is not passed off as it."""
    path = _common.RESULTS / "table" / f"{name}.json"
    if not path.exists():
        return True
    content = json.loads(path.read_text())
    differ = [what for what, value in json.loads(json.dumps(asked)).items() if content[what] != value]
    if differ:
        sys.exit(f"{path} was made with another {' and '.join(differ)}; remove it, and {_common.RUNS / name}")
    print(f"{name}: there")
    return False


def the_rest() -> None:
    """What is measured on the sets (alignment, geometry and bias stay with diagnosis.py), then the pages' tables."""
    here = Path(__file__).parent
    auto = _common.RUNS / "clothing-lite0-auto"
    scripts = [["diagnosis.py", "--parts", "transfer"], ["bytes.py", "--run", str(auto)]]
    for script in [*scripts, ["fair_scores.py"], ["export_loss.py"], ["tables.py"]]:
        subprocess.run([sys.executable, str(here / script[0]), *script[1:]], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two encoders, one dataset, 60 steps, two seeds")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--steps", type=int, help="of every run, in rows of their own")
    parser.add_argument("--views", type=int, help="views per image and step, in rows of their own")
    options = parser.parse_args()
    if options.quick:
        options.datasets, options.encoders = ["clothing"], ["lite0", "mobilenetv1"]
    changed = {name: value for name in ("steps", "views") if (value := getattr(options, name))}
    as_is = options.methods == METHODS and not changed and not options.quick
    for dataset in options.datasets:
        images = ImagesConfig(images=_common.images(dataset))
        splits = load_splits(images)
        for encoder_name in options.encoders:
            jobs = [*((method, changed) for method in options.methods), ("real", {})]
            jobs += LONGER.get((dataset, encoder_name), []) if as_is else []
            make_rows(dataset, images, splits, encoder_name, jobs, quick=options.quick)
    if options.quick:
        print(table_of("quick-clothing"))
    elif as_is and (options.datasets, options.encoders) == (DATASETS, ENCODERS):
        the_rest()


def make_rows(
    dataset: str,
    images: ImagesConfig,
    splits: tuple[LabelledImages, LabelledImages],
    encoder_name: str,
    jobs: list[tuple[str, dict[str, int]]],
    *,
    quick: bool,
) -> None:
    """Distil with each method, with settings changed for it, and score; "real" is the real-image baselines alone."""
    protocol = {"probes": ["ridge", "sgd"], "seeds": 2 if quick else 5, "views": VIEWS[dataset]}
    protocol["sgd_views"] = protocol["views"]
    train, test = splits
    augment = AugmentConfig(scale=(SMALLEST_CROP.get(encoder_name, 0.08), 1.0))
    encoder: Encoder | None = None
    for method, changed in jobs:
        title = ", ".join([method, *(f"{value} {setting}" for setting, value in changed.items())])
        name = "quick-" * quick + _common.run_name(dataset, encoder_name, title)
        config = replace(settings_of(dataset, encoder_name, method, quick), **changed)  # type: ignore[arg-type]
        made = {} if method == "real" else {"config": config.resolve().to_dict()}
        if not wanted(name, {"protocol": protocol, **made}):
            continue
        encoder = encoder or load_encoder(_common.encoder(encoder_name))
        about = {"dataset": dataset, "encoder": encoder_name, "method": title, "protocol": protocol}
        if method == "real":
            baselines = ["random", "centroids", "means", "full"]
            full_views = 0 if encoder_name == "clip" else 2
            options: dict[str, Any] = {"baselines": baselines, "augment": augment, "full_views": full_views, **protocol}
            scores = evaluate(None, encoder, train, test, **options)
        else:
            out = _common.RUNS / name
            distilled = distill(images, _common.encoder(encoder_name), config, run=RunConfig(out=out, resume=True))
            dear = (dataset, encoder_name) == ("grocery", "clip") and method != "auto"  # minutes for each row
            scores = evaluate(distilled, encoder, train, test, baselines=[] if dear else ["neighbours"], **protocol)
            if distilled.run.config.canvas.init == "noise" and dataset == "clothing":
                preview(out, name)  # what starts from photos may show them, and does not belong here
            about |= {"config": distilled.run.config.to_dict(), "seconds": distilled.run.seconds}
        keep(name, {**about, "rows": rows_of(scores)})
        for row in scores.rows:
            score = f"{100 * row.top1:.1f} ± {100 * row.std:.1f}"
            print(
                f"{time.strftime('%H:%M')} {dataset} {encoder_name} {row.name} ({title}), {row.probe}: {score}",
                flush=True,
            )


def preview(run: Path, name: str) -> None:
    """Keep the picture of the images beside the rows."""
    target = _common.RESULTS / "table" / f"{name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((run / "preview.png").read_bytes())


if __name__ == "__main__":
    main()
