"""Gap to full data and gain over random, with and without augmentation in evaluation, of clothing sets.

    python benchmarks/fair_scores.py       # some minutes of one core, and one for each set that seeds.py has not made

Lite0 at 112 px, five evaluation seeds, 30 views; and the same probes on only the centre views. Writes
results/fair_scores.json.
"""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

import _common
from probedistill import evaluate, load_encoder, load_splits
from seeds import clothing_sets


def main() -> None:
    _common.argument_parser(__doc__).parse_args()
    encoder = load_encoder(_common.encoder("lite0"))
    train, test = load_splits(_common.images("clothing"))
    rows = []
    for method, sets in clothing_sets(train):
        found: dict[str, list[dict[str, Any]]] = {}
        for shipped in sets:
            scores = evaluate(
                shipped, encoder, train, test, probes=["ridge", "sgd"], seeds=5, views=30, sgd_views=30,
                baselines=["random", "full"], full_views=2, without_augmentation=True, progress=False,
            )  # fmt: skip
            for row in scores.rows:
                if row.name == "distilled":
                    gap, gain = scores.gap_to_full(row), scores.gain_over_random(row)
                    found.setdefault(row.probe, []).append({"top1": row.top1, "gap": gap, "gain": gain})
        for probe, ours in found.items():
            means = {key: fmean(one[key] for one in ours) for key in ours[0]}
            rows.append({"method": method, "probe": probe, **means, "std": stdev(one["top1"] for one in ours)})
            print(f"{method:5} {probe:24} {100 * means['top1']:.1f}", flush=True)
    _common.keep("fair_scores", {"rows": rows})


if __name__ == "__main__":
    main()
