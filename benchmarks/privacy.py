"""Accuracy against ε: images distilled from private statistics, next to private prototypes.

    python benchmarks/privacy.py --minutes 7       # again until it says "done": 30 minutes on one core

Statistics of Lite0's features at 112 px with (ε, 1e-5)-differential privacy, ε from 1 to 8, and without noise (inf),
for clothing (10 classes of 112 to 795 photos) and for 20 classes of grocery (the first by name, 16 to 45 photos). Each
file gives class means as prototypes, and one image per class by sfm, 60 steps from noise. Prototypes classify by cosine
(DPPL-Mean, arXiv 2406.08039), or by distance after subtracting the known length of the noise ("corrected"). Images are
scored with ridge probes on Lite0 and on MobileNetV1. "Prototypes of both" spends half of ε on each encoder, and both
must be known beforehand; the images spend nothing on MobileNetV1. There are three releases each. The noise is drawn
again every time, so the rows of another run differ. Writes results/privacy.json after every row, and continues where
it was stopped.
"""

from __future__ import annotations

import math
import time
from itertools import product
from typing import Any

import torch.nn.functional as F

import _common
from probedistill import (
    ClassStatistics,
    Encoder,
    FeatureBank,
    ImagesConfig,
    distill,
    evaluate,
    extract_features,
    load_encoder,
    load_splits,
)
from probedistill.features.summed import private_statistics
from probedistill.store.run_record import EncoderRecord

EPSILONS = [1.0, 2.0, 4.0, 8.0, math.inf]
ENCODERS = ["lite0", "mobilenetv1"]
DELTA, RELEASES, STEPS = 1e-5, 3, 60
VIEWS = {"clothing": 2, "grocery": 1}
CLASSES = {"clothing": 10, "grocery": 20}


def released(bank: FeatureBank, encoder: Encoder, epsilon: float) -> ClassStatistics:
    """What a party sends. ε = 10,000 stands for infinity: features also have length 1, and the noise is 0.008."""
    return private_statistics(bank, EncoderRecord.of(encoder), "benchmark", epsilon=min(epsilon, 1e4), delta=DELTA)


def prototypes(found: ClassStatistics, test: FeatureBank) -> float:
    nearest = (F.normalize(test.centre.double(), dim=1) @ F.normalize(found.means(), dim=1).T).argmax(dim=1)
    return float((nearest == test.labels).double().mean())


def corrected(found: ClassStatistics, test: FeatureBank) -> float:
    """Nearest by distance, after subtracting the noise's expected share of a prototype's squared length."""
    means, promise = found.means(), found.about.privacy
    assert promise is not None
    noise = found.dim * (promise.deviation / found.weights()).square()
    logits = F.normalize(test.centre.double(), dim=1) @ means.T - (means.square().sum(dim=1) - noise) / 2
    return float((logits.argmax(dim=1) == test.labels).double().mean())


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing after so many minutes")
    stop = time.monotonic() + 60 * parser.parse_args().minutes
    rows: list[dict[str, Any]] = _common.kept("privacy").get("rows", [])

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        _common.keep("privacy", {"delta": DELTA, "steps": STEPS, "rows": rows})

    def named(data: str, epsilon: float, release: int) -> dict[str, Any]:
        return {"data": data, "epsilon": "inf" if math.isinf(epsilon) else epsilon, "release": release}

    def is_there(**about: Any) -> bool:
        return any(about.items() <= row.items() for row in rows)

    encoders = {name: load_encoder(_common.encoder(name)) for name in ENCODERS}
    first = encoders["lite0"]
    splits: dict[str, tuple[Any, Any]] = {}
    banks: dict[str, dict[str, FeatureBank]] = {}
    for data in CLASSES:
        spec = _common.images(data)
        names = sorted(load_splits(spec)[0].class_names)[: CLASSES[data]]
        splits[data] = load_splits(ImagesConfig(images=spec, classes=names))
        banks[data] = {name: extract_features(one, splits[data][0]) for name, one in encoders.items()}
        tests = {name: extract_features(one, splits[data][1]) for name, one in encoders.items()}
        for release, epsilon in product(range(RELEASES), EPSILONS):
            about = named(data, epsilon, release)
            if not is_there(name="prototypes", **about):
                found = released(banks[data]["lite0"], first, epsilon)
                keep({"name": "prototypes", **about, "lite0": prototypes(found, tests["lite0"])})
                keep({"name": "prototypes, corrected", **about, "lite0": corrected(found, tests["lite0"])})
            if not is_there(name="prototypes of both", **about):
                both = {n: released(banks[data][n], encoders[n], epsilon / 2) for n in ENCODERS}
                keep({"name": "prototypes of both", **about, **{n: prototypes(both[n], tests[n]) for n in ENCODERS}})
        if not is_there(name="random real", data=data):
            for name, one in encoders.items():
                real = evaluate(None, one, *splits[data], probes=["ridge"], views=10, baselines=["random", "full"])
                for row in real.rows:
                    keep({"name": row.name, "data": data, "epsilon": "", "release": 0, name: row.top1})
    for release, data, epsilon in product(range(RELEASES), CLASSES, EPSILONS):  # the slow part, release by release
        about = named(data, epsilon, release)
        if is_there(name="sfm", **about):
            continue
        if time.monotonic() > stop:
            print("not done: run it again")
            return
        place = _common.RUNS / _common.run_name("privacy", data, str(epsilon), str(release))
        # Kept for resuming a set, because its noise cannot be drawn again.
        file = place.with_name(f"{place.name}.stats")
        if not file.exists():
            released(banks[data]["lite0"], first, epsilon).save(file)
        distilled = distill(
            ClassStatistics.load(file), first, method="sfm", steps=STEPS, views=VIEWS[data], seed=release,
            evaluate_every=0, progress=False, out=place, resume=True,
        )  # fmt: skip
        scores = {}
        for name, one in encoders.items():
            result = evaluate(distilled, one, *splits[data], probes=["ridge"], seeds=2, views=10, baselines=[])
            scores[name] = result.rows[0].top1
        keep({"name": "sfm", **about, **scores, "seconds": distilled.run.seconds})
    print("done")


if __name__ == "__main__":
    main()
