"""The effect of each setting: one change at a time from each method's default, on the clothing photos.

    python benchmarks/recipes.py                 # about 20 minutes on two cores
    python benchmarks/recipes.py --only clp      # the rows whose name begins with clp

EfficientNet-Lite0 at 112 px, one image per class, one distillation seed, 200 steps. Accuracy of a ridge and of an sgd
probe, both on 100 views of the 8-bit images and over 3 evaluation seeds. Rows within ±2 points of each other count as
equal. Finished rows are kept, so the command can be repeated after a break.
"""

from __future__ import annotations

from typing import Any

from _common import argument_parser, images, keep, kept
from probedistill import (
    AugmentConfig,
    CanvasConfig,
    CLPConfig,
    DistillConfig,
    LGMConfig,
    distill,
    evaluate,
    load_encoder,
    load_splits,
)

NOISE = AugmentConfig(noise_prob=0.5)
AUTHORS_LOOP = {"lr": 2e-3, "schedule": "constant", "canvas": CanvasConfig(level_every=8), "augment": NOISE}
VARIANTS: dict[str, dict[str, Any]] = {
    "clp": {"method": "clp"},
    "sfm": {"method": "sfm"},
    "lgm": {"method": "lgm"},
    "clp, MSE outer loss": {"method": "clp", "clp": CLPConfig(outer="mse")},
    "clp, ridge 0.1": {"method": "clp", "clp": CLPConfig(ridge=0.1)},
    "sfm, noise on views": {"method": "sfm", "augment": NOISE},
    "lgm, features as they are, sigma 0.01": {"method": "lgm", "lgm": LGMConfig(normalize="none", sigma=0.01)},
    "clp, from class medoids": {"method": "clp", "canvas": CanvasConfig(init="real")},
    "sfm, authors' loop, 200 steps": {"method": "sfm", **AUTHORS_LOOP},
    "clp, features only centred": {"method": "clp", "clp": CLPConfig(normalize="center")},
    "sfm, plain pixels": {"method": "sfm", "canvas": CanvasConfig(kind="pixels")},
    "lgm, unbalanced": {"method": "lgm", "lgm": LGMConfig(balanced=False)},
    "sfm, real centre crops only": {"method": "sfm", "real_views": 0},
    "clp, head not normalised": {"method": "clp", "clp": CLPConfig(normalize_head=False)},
    "sfm, levels opened one by one": {"method": "sfm", "canvas": CanvasConfig(level_every=8)},
    "clp, temperature 0.2": {"method": "clp", "clp": CLPConfig(temperature=0.2)},
    "lgm, sigma 1": {"method": "lgm", "lgm": LGMConfig(sigma=1.0)},
    "sfm, 1 view": {"method": "sfm", "views": 1},
    "sfm, from class medoids": {"method": "sfm", "canvas": CanvasConfig(init="real")},
    "clp, ridge 1": {"method": "clp", "clp": CLPConfig(ridge=1.0)},
    "clp, 2 augmented real views": {"method": "clp", "real_views": 2},
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--only", default="", help="rows whose name starts so")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    known = kept("recipes").get("rows", {})
    encoder = load_encoder("efficientnet_lite0", input_size=112)
    train, test = load_splits(images("clothing"))
    for name, settings in VARIANTS.items():
        if not name.startswith(options.only):
            continue
        config = DistillConfig(steps=options.steps, **settings)
        wanted = config.resolve().to_dict()
        if known.get(name, {}).get("config") != wanted:
            distilled = distill(train, encoder, config, evaluate_every=0, progress=False)
            scores = evaluate(
                distilled, encoder, None, test, augment=AugmentConfig(), probes=["ridge", "sgd"], seeds=3,
                sgd_views=100, progress=False,
            )  # fmt: skip
            rows = {row.probe: {"top1": row.top1, "std": row.std} for row in scores.rows}
            known[name] = {"config": wanted, "seconds": distilled.run.seconds, **rows}
            keep("recipes", {"rows": known})
        row = known[name]
        print(
            f"{name:36} ridge {100 * row['ridge']['top1']:5.1f} ± {100 * row['ridge']['std']:.1f}   "
            f"sgd {100 * row['sgd']['top1']:5.1f} ± {100 * row['sgd']['std']:.1f}   {row['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
