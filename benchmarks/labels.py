"""What soft labels are worth: hard, source and learned labels on Lite0's clothing sets, at home and elsewhere.

    python benchmarks/labels.py       # half an hour of one core, and minutes for each set that seeds.py has not made

Sets of `auto` (300 steps; one and ten images per class) and of `clp` from noise (150 steps), with three distillation
seeds. Each is scored on the test photos with its hard labels and with both kinds of soft labels, on Lite0, which made
the labels, and on MobileNetV2. Writes results/labels.json.
"""

from __future__ import annotations

from typing import Any, Literal

import _common
from probedistill import evaluate, extract_features, load_encoder, load_splits, with_extras
from seeds import PROTOCOL, STEPS, Cell, made

TARGETS, SEEDS = ["lite0", "mobilenetv2"], 3
LABELS: dict[str, Literal["none", "source", "learned"]] = {"hard": "none", "source": "source", "learned": "learned"}
SETS = [("auto", 300, 1), ("auto", 300, 10), ("clp", STEPS, 1)]  # method, steps, images per class


def main() -> None:
    _common.argument_parser(__doc__).parse_args()
    encoders = {name: load_encoder(_common.encoder(name)) for name in TARGETS}
    train, test = load_splits(_common.images("clothing"))
    bank = extract_features(encoders["lite0"], train)
    rows: list[dict[str, Any]] = []
    for method, steps, count in SETS:
        top1: dict[tuple[str, str, str], list[float]] = {}
        for seed in range(SEEDS):
            one = made(Cell("clothing", "lite0", method, seed, steps=steps, images_per_class=count), train)
            for labels, soft_labels in LABELS.items():
                labelled = with_extras(one, encoders["lite0"], bank, soft_labels=soft_labels)
                for target, encoder in encoders.items():
                    scores = evaluate(labelled, encoder, None, test, baselines=[], seeds=2, progress=False, **PROTOCOL)
                    for row in scores.rows:
                        if row.soft_labels or labels == "hard":  # a set with soft labels is scored with hard ones, too
                            top1.setdefault((labels, target, row.probe), []).append(row.top1)
        for (labels, target, probe), values in top1.items():
            about = {"method": method, "steps": steps, "images_per_class": count}
            rows.append({**about, "labels": labels, "target": target, "probe": probe, "top1": values})
            print(method, count, labels, target, probe, [round(100 * value, 1) for value in values], flush=True)
        _common.keep("labels", {"rows": rows, "views": PROTOCOL["views"], "seeds": SEEDS})


if __name__ == "__main__":
    main()
