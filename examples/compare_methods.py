"""Compare distillation methods under one protocol, over several distillation seeds.

python examples/compare_methods.py folder:photos --methods lgm clp sfm --seeds 3
"""

from __future__ import annotations

import argparse
from statistics import mean, stdev

from probedistill import distill, evaluate, load_encoder, load_splits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images")
    parser.add_argument("--encoder", default="efficientnet_lite0@112")
    parser.add_argument("--methods", nargs="+", default=["lgm", "clp", "sfm"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()

    encoder = load_encoder(options.encoder)
    train, test = load_splits(options.images)
    for method in options.methods:
        accuracies = []
        for seed in range(options.seeds):
            # Without test images, so that nothing about a run can be chosen on them.
            distilled = distill(train, encoder, method=method, seed=seed, steps=options.steps)
            scores = evaluate(distilled, encoder, train, test, baselines=[], progress=False)
            accuracies.append(100 * scores.rows[0].top1)
        spread = f" ± {stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        print(f"{method}: {mean(accuracies):.1f}{spread}% over {len(accuracies)} distillation seeds")


if __name__ == "__main__":
    main()
