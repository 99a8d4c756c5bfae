"""When does an inherited classifier beat a probe from scratch? Lite0's head on other encoders, by images per class.

    python benchmarks/inheritance.py       # some minutes of one core, and eight for each set that seeds.py has not made

The clothing sets of seeds.py with EfficientNet-Lite0 (`auto`, 300 steps, 1 to 10 images per class, three distillation
seeds). Probes on MobileNetV1, MobileNetV2 and Lite0 itself: ridge from scratch, the inherited head with the source's
features of the same views, and both on random real images. Ridge is scored with the probe's own penalty and with the
projector's smaller one, so that the gain cannot be due to the penalty. Writes results/inheritance.json.
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import torch

import _common
from probedistill import (
    AugmentConfig,
    InheritedProbe,
    LinearProbe,
    extract_features,
    load_encoder,
    load_splits,
    with_extras,
)
from probedistill.features.classes import random_images
from probedistill.features.views import apply_views, draw_views
from probedistill.seeds import Stream, seed_of
from seeds import Cell, made

TARGETS, VIEWS, SEEDS = ["lite0", "mobilenetv1", "mobilenetv2"], 30, 3


@torch.no_grad()
def features_of(images: torch.Tensor, encoder: Any, seed: int) -> torch.Tensor:
    """(V, m, d) features of augmented views, the same views for every encoder."""
    views = draw_views(AugmentConfig(), VIEWS * len(images), seed=seed_of(seed, Stream.PROBE_VIEWS, 11))
    parts = []
    for i in range(0, len(views), len(images)):
        parts.append(encoder(apply_views(images, views[i : i + len(images)], encoder.input_size)))
    return torch.stack(parts)


def main() -> None:
    _common.argument_parser(__doc__).parse_args()
    train, test = load_splits(_common.images("clothing"))
    encoders = {name: load_encoder(_common.encoder(name)) for name in TARGETS}
    source = encoders["lite0"]
    bank = extract_features(source, train)
    tests = {name: extract_features(encoder, test) for name, encoder in encoders.items()}
    rows = []
    parameters: dict[str, int] = {}
    for count in (1, 2, 5, 10):
        scores: dict[tuple[str, str], dict[str, list[float]]] = {}
        for seed in range(SEEDS):
            cell = Cell("clothing", "lite0", "auto", seed=seed, steps=300, images_per_class=count)
            distilled = with_extras(made(cell, train), source, bank, keep_head=True)
            head = distilled.head
            assert head is not None
            chosen = random_images(bank, count, seed=seed)
            photos = torch.stack([source.centre_view(train.load(int(bank.indices[i]))) for i in chosen])
            sets = {"distilled": (distilled.images, distilled.labels), "random real": (photos, bank.labels[chosen])}
            for (kind, (images, labels)), target in itertools.product(sets.items(), TARGETS):
                target_views, source_views = (features_of(images, e, seed) for e in (encoders[target], source))
                inherited = InheritedProbe(head.weight, head.bias)
                probes = {
                    "ridge": LinearProbe().fit_views(target_views, labels),
                    "ridge, penalty of the projector": LinearProbe(ridge=inherited.ridge).fit_views(
                        target_views, labels
                    ),
                    "inherited": inherited.fit_views(target_views, labels, source_views),
                }
                parameters[target], size = inherited.n_parameters_, inherited.num_bytes_
                for name, probe in probes.items():
                    score = probe.score(tests[target].centre.numpy(), tests[target].labels.numpy())
                    scores.setdefault((kind, target), {}).setdefault(name, []).append(float(score))
        for (kind, target), top1 in scores.items():
            row = {"images_per_class": count, "set": kind, "target": target, "top1": top1}
            rows.append(row | {"projector_parameters": parameters[target], "head_bytes": size})
            cells = ", ".join(f"{name} {100 * statistics.fmean(values):.1f}" for name, values in top1.items())
            print(f"{count:3} {kind:12} {target:12} {cells}", flush=True)
        _common.keep("inheritance", {"rows": rows, "views": VIEWS, "seeds": SEEDS})


if __name__ == "__main__":
    main()
