"""Script for several processes in test_parallel: each rank extracts the features of its own small shards."""

import sys
from pathlib import Path

from probedistill import extract_features, load_encoder, load_images
from probedistill.machine.processes import processes

if __name__ == "__main__":
    photos, cache, report = sys.argv[1:]
    encoder = load_encoder("module:helpers_encoders:tiny", device="cpu")
    with processes("cpu") as team:
        images = load_images(f"folder:{photos}", split="train")
        loaded: list[int] = []
        load = images.load

        def note(index: int):  # type: ignore[no-untyped-def]
            loaded.append(index)
            return load(index)

        images.load = note  # type: ignore[method-assign]
        bank = extract_features(encoder, images, views=2, shard_size=2, cache=cache, progress=False, processes=team)
        Path(report, f"rank-{team.rank}.txt").write_text(
            f"{sorted(loaded)}\n{float(bank.augmented.double().sum())!r}\n"
        )
