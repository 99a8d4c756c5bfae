"""How good is a head for an encoder that the data never saw, and how good was its forecast?

    python benchmarks/migrate.py distil     # the sets: 10 to 20 minutes on one core; repeat to continue
    python benchmarks/migrate.py            # one minute; writes results/migrate.json

Sets distilled from clothing with EfficientNet-Lite0, MobileNetV1 and MobileNetV2 (`auto`, 40 steps, 112 px, three
seeds, one and two images per class) are each migrated to the two other encoders. The truth is the accuracy on the 372
test images. The cost of crossing (`CROSSING` in analysis/migrate.py) is the mean over these pairs. Errors of forecasts
use only the cost measured on the sets of the two other source encoders. As a check on other data, sets from 20 classes
of grocery (20 steps) are forecast with the constants from clothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit
from scipy.stats import spearmanr

import _common
from probedistill import DistilledSet, Encoder, ImagesConfig, distill, evaluate, load_encoder, load_splits
from probedistill.analysis.migrate import CANDIDATES, CROSSING, Migration, migrate
from probedistill.features.store import FeatureStore

ENCODERS = ["lite0", "mobilenetv1", "mobilenetv2"]
MINUTES = 7
SETS = {  # name → data, classes, steps, images per class, seeds
    "clothing, 1 image": ("clothing", None, 40, 1, 3),
    "clothing, 2 images": ("clothing", None, 40, 2, 3),
    "grocery, 20 classes": ("grocery", 20, 20, 1, 3),
}


def data(name: str, classes: int | None) -> Any:
    spec = _common.images(name)
    if classes is None:
        return load_splits(spec)
    names = load_splits(spec)[0].class_names
    return load_splits(ImagesConfig(images=spec, classes=list(names[:: len(names) // classes][:classes])))


def folder(title: str, source: str, seed: int) -> Path:
    return _common.RUNS / _common.run_name("migrate", title, source, str(seed))


def distil() -> None:
    """Make the missing sets; stop when the time is up."""
    start = time.monotonic()
    for title, (name, classes, steps, count, seeds) in SETS.items():
        train, test = data(name, classes)
        for seed in range(seeds):
            for source in ENCODERS:
                if time.monotonic() - start > 60 * MINUTES:
                    sys.exit("time is up: repeat the command to go on")
                out = folder(title, source, seed)
                distill(
                    train, _common.encoder(source), test=test, steps=steps, images_per_class=count, seed=seed,
                    keep_head=True, evaluate_every=steps, out=out, resume=True, progress=False,
                )  # fmt: skip
                print(f"{title}, {source}, seed {seed}: {time.monotonic() - start:.0f} s", flush=True)


def pairs(encoders: dict[str, Encoder], store: FeatureStore) -> Iterator[dict[str, Any]]:
    """Migrate every set to every encoder that it was not made with."""
    for title, (name, classes, _, _, seeds) in SETS.items():
        _, test = data(name, classes)
        for seed in range(seeds):
            for source in ENCODERS:
                out = folder(title, source, seed)
                if not (out / "images").is_dir():
                    print(f"{out} is not there: run migrate.py distil first")
                    continue
                distilled = DistilledSet.load(out)
                own = evaluate(
                    distilled, encoders[source], None, test, seeds=1, features=store, probes=["ridge"], baselines=[]
                )
                for target in ENCODERS:
                    if target != source:
                        _, report = migrate(
                            distilled,
                            encoders[target],
                            old=[encoders[source]],
                            measured=own.rows[0].top1,
                            test=test,
                            features=store,
                        )
                        yield {"sets": title, "seed": seed, "source": source, "target": target, **_row(report)}


def _row(report: Migration) -> dict[str, Any]:
    assert report.anchor is not None
    return {
        "anchor": report.anchor.accuracy,
        "held_out_old": report.anchor.cross_validated,
        "alignment": report.old[0].alignment,
        "candidates": {
            one.name: {"forecast": one.forecast, "held_out": one.cross_validated, "accuracy": one.accuracy}
            for one in report.candidates
        },
        "chosen": report.chosen,
    }


def cost(row: dict[str, Any], name: str) -> float:
    """What crossing cost a candidate, in logits: its accuracy minus a forecast without that cost."""
    one = row["candidates"][name]
    return float(logit(one["accuracy"]) - logit(one["forecast"]) + CROSSING[name])


def without(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float]:
    """Forecasts with the cost of crossing measured on the sets of other source encoders."""
    others = [other for other in rows if other["source"] != row["source"]]
    return {
        name: float(expit(logit(one["forecast"]) - CROSSING[name] + np.mean([cost(other, name) for other in others])))
        for name, one in row["candidates"].items()
    }


def quality(rows: list[dict[str, Any]], forecasts: list[dict[str, float]]) -> dict[str, Any]:
    """How far off the forecasts were, and how good the choice based on them was."""
    truth = [{name: one["accuracy"] for name, one in row["candidates"].items()} for row in rows]
    off = [f[name] - t[name] for f, t in zip(forecasts, truth) for name in CANDIDATES]
    picked = [max(f, key=lambda name: f[name]) for f in forecasts]
    order = [
        spearmanr([f[n] for n in CANDIDATES], [t[n] for n in CANDIDATES]).statistic for f, t in zip(forecasts, truth)
    ]
    across = spearmanr([f["average"] for f in forecasts], [t["average"] for t in truth]).statistic
    return {
        "pairs": len(rows),
        "mean_absolute_error": float(np.mean(np.abs(off))),
        "bias": float(np.mean(off)),
        "largest_error": float(np.max(np.abs(off))),
        "rank_correlation_of_candidates": float(np.mean(order)),
        "rank_correlation_of_pairs": float(across),
        "auto_is_best": float(np.mean([t[p] == max(t.values()) for p, t in zip(picked, truth)])),
        "auto_loses": float(np.mean([max(t.values()) - t[p] for p, t in zip(picked, truth)])),
        "accuracy": {name: float(np.mean([t[name] for t in truth])) for name in CANDIDATES},
    }


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("part", nargs="?", choices=["distil"], help="make the sets; without it, migrate and score them")
    if parser.parse_args().part == "distil":
        distil()
        return
    encoders = {name: load_encoder(_common.encoder(name)) for name in ENCODERS}
    rows = list(pairs(encoders, FeatureStore(progress=False)))
    known = [row for row in rows if row["sets"].startswith("clothing")]
    summary: dict[str, Any] = {}
    for title in SETS:
        some = [row for row in rows if row["sets"] == title]
        forecasts = [
            without(row, known) if row in known else {n: c["forecast"] for n, c in row["candidates"].items()}
            for row in some
        ]  # fmt: skip
        if some:
            summary[title] = quality(some, forecasts)
            print(title, summary[title])
    costs = {name: round(float(np.mean([cost(row, name) for row in known])), 2) for name in CANDIDATES}
    print("crossing costs:", costs)
    alignment = spearmanr([r["alignment"] for r in known], [r["candidates"]["average"]["accuracy"] for r in known])
    _common.keep(
        "migrate",
        {"crossing": costs, "alignment_and_accuracy": float(alignment.statistic), "summary": summary, "pairs": rows},
    )


if __name__ == "__main__":
    main()
