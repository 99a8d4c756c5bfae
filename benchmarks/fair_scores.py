"""Gap to full data and gain over random, with and without augmentation in evaluation, of clothing sets.

    python benchmarks/fair_scores.py       # some minutes of one core, and one for each set that seeds.py has not made

Lite0 at 112 px, five evaluation seeds, 30 views; and the same probes on only the centre views. Writes
results/fair_scores.json.
"""

from __future__ import annotations

import _common
from probedistill import evaluate, load_encoder, load_splits
from seeds import clothing_sets


def main() -> None:
    encoder = load_encoder(_common.encoder("lite0"))
    train, test = load_splits(_common.images("clothing"))
    rows = []
    for method, shipped in clothing_sets(train):
        scores = evaluate(
            shipped, encoder, train, test, probes=["ridge", "sgd"], seeds=5, views=30, sgd_views=30,
            baselines=["random", "full"], full_views=2, without_augmentation=True,
        )  # fmt: skip
        for row in scores.rows:
            if row.name == "distilled":
                gap, gain = scores.gap_to_full(row), scores.gain_over_random(row)
                rows.append(
                    {"method": method, "probe": row.probe, "top1": row.top1, "std": row.std, "gap": gap, "gain": gain}
                )
                print(f"{method:5} {row.probe:24} {100 * row.top1:.1f}", flush=True)
    _common.keep("fair_scores", {"rows": rows})


if __name__ == "__main__":
    main()
