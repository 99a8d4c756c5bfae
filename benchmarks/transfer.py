"""`transfer` of three sets on three encoders: its CPU seconds, against those of the necessary encoder passes.

    python benchmarks/transfer.py                        # ten classes of clothing photos, every image: half an hour
    python benchmarks/transfer.py --classes 4 --per-class 20 --seeds 1 --size 64       # half a minute

The sets are distilled in a few steps, because their quality does not matter here. The cache is empty at the start. A
second call of `transfer` into another folder finds all features, and so shows the cost of everything but the encoders.
The aim is at most twice the time of the passes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import _common
from probedistill import Encoder, LabelledImages, distill, load_encoder, load_splits, transfer

ENCODERS = ["lite0", "mobilenetv1", "mobilenetv2"]


class Passes:
    """Counts the images that pass through any encoder, and the CPU seconds of these passes."""

    def __init__(self) -> None:
        self.images, self.seconds = 0, 0.0
        forward = Encoder.forward

        def timed(encoder: Encoder, images: Any) -> Any:
            started = time.process_time()
            features = forward(encoder, images)
            self.seconds += time.process_time() - started
            self.images += len(images)
            return features

        Encoder.forward = timed  # type: ignore[method-assign, assignment]

    def reset(self) -> None:
        self.images, self.seconds = 0, 0.0


def some(images: LabelledImages, classes: int, per_class: int) -> LabelledImages:
    """The first images of each of the first classes."""
    images = images.with_classes(images.class_names[:classes])
    rows = [np.flatnonzero(images.labels == c)[:per_class] for c in range(len(images.class_names))]
    return images.select(np.sort(np.concatenate(rows)))


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--per-class", type=int, default=10**9, help="images of each class, to train and to test on")
    parser.add_argument("--seeds", type=int, default=5, help="evaluation seeds")
    parser.add_argument("--size", type=int, default=112, help="input of the encoders in pixels")
    parser.add_argument("--probes", nargs="+", default=["ridge"])
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    train, test = load_splits(_common.images("clothing"))
    train, test = (some(part, options.classes, options.per_class) for part in (train, test))
    passes = Passes()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        sets = []
        for name in ENCODERS:
            encoder = load_encoder(_common.encoder(name, options.size))
            run: dict[str, Any] = {"out": Path(folder) / name, "cache": cache, "evaluate_every": 0, "progress": False}
            distill(train, encoder, steps=options.steps, views=1, **run)
            sets.append(Path(folder) / name)
        targets = [_common.encoder(name, options.size) for name in ENCODERS]
        empty = Path(folder) / "empty"
        for call in ("empty cache", "all features there"):
            passes.reset()
            started = time.process_time()
            protocol = {"probes": options.probes, "seeds": options.seeds}
            transfer(sets, targets, train, test, out=Path(folder) / call, cache=empty, progress=False, **protocol)
            seconds = time.process_time() - started
            found[call] = {
                "seconds": round(seconds, 1),
                "images encoded": passes.images,
                "seconds in encoders": round(passes.seconds, 1),
                "times": round(seconds / max(passes.seconds, 1e-9), 2),
            }
            print(call, found[call], flush=True)
    about = {"training_images": len(train), "test_images": len(test), **vars(options)}
    _common.keep("transfer", {**about, "calls": found})


if __name__ == "__main__":
    main()
