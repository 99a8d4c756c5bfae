"""Distil a folder of photos, score the result, and write an HTML report.

python examples/distil.py folder:photos runs/photos
"""

from __future__ import annotations

import argparse
from pathlib import Path

from probedistill import distill, evaluate, load_encoder, load_splits, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="folder:PATH, or another source of images")
    parser.add_argument("out", type=Path, help="folder of the run; an earlier run there is resumed")
    parser.add_argument("--encoder", default="efficientnet_lite0@112")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()

    encoder = load_encoder(options.encoder)
    train, test = load_splits(options.images)
    distilled = distill(train, encoder, test=test, steps=options.steps, out=options.out, resume=True)
    scores = evaluate(distilled, encoder, train, test, baselines=["random", "centroids", "full"])
    scores.save(options.out / "evaluation-example.json")
    print(scores)
    print("report:", write_report([options.out], options.out / "report.html"))


if __name__ == "__main__":
    main()
