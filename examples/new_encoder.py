"""Train a head for a new encoder on a distilled set, in seconds and without real images.

python examples/new_encoder.py runs/photos timm:resnet18@112 folder:photos
"""

from __future__ import annotations

import argparse

from probedistill import DistilledSet, LinearProbe, extract_features, load_encoder, load_splits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("encoder", help="any encoder, for example timm:resnet18@112")
    parser.add_argument("images", help="source of the test images")
    options = parser.parse_args()

    distilled = DistilledSet.load(options.run)
    encoder = load_encoder(options.encoder)
    head = LinearProbe().fit(encoder(distilled.images), distilled.labels)
    _, test = load_splits(options.images)
    bank = extract_features(encoder, test.with_classes(distilled.class_names))
    print(f"{100 * head.score(bank.centre, bank.labels):.1f}% of {len(bank):,} test images")


if __name__ == "__main__":
    main()
