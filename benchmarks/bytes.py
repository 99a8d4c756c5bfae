"""Accuracy against bytes: a distilled set at a range of budgets, next to real images at the same budgets.

    python benchmarks/bytes.py                          # with sets of seeds.py, made if need be; two hours or three
    python benchmarks/bytes.py --run RUN --quick        # of a finished run on them; few budgets, one seed: five minutes

The sets are those of three distillation seeds. Every point is exported by the same search (formats, sizes and
qualities; nearest in the encoder's features) and scored from its files with a ridge probe. Real images are class
medoids and random images, 1 and 4 per class, cropped to their centre square, at twice the encoder's input size or their
own size. The budgets are compared with lossless PNG files and, for the distilled sets, with the default export.
Finished points are kept in results/bytes.json and not computed again (--again forgets them).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import ImageOps
from torchvision.transforms.v2 import functional as tv

from _common import RESULTS, argument_parser, images, keep, kept
from probedistill import (
    AugmentConfig,
    DistillConfig,
    DistilledSet,
    Encoder,
    FeatureBank,
    LabelledImages,
    UserError,
    encoder_config,
    evaluate,
    export,
    extract_features,
    load_encoder,
    load_splits,
)
from probedistill.features.classes import medoids, random_images
from probedistill.images.labelled import digest_of
from probedistill.store.run_record import unrecorded
from seeds import Cell, made

KB = 1000
LITE0 = "efficientnet_lite0@112"
SEEDS = 3  # of distillation
BUDGETS = [1, 2, 4, 8, 16, 32, 64, 128]
COLOURS = {"distilled": "C0", "medoids": "C1", "random real": "C2"}
MARKS = {1: "o", 4: "^"}


def real_set(
    photos: LabelledImages, bank: FeatureBank, rows: torch.Tensor, side: int, augment: AugmentConfig
) -> DistilledSet:
    """The real images in ``rows`` of the bank as a set: their centre squares, of one size, at most ``side`` px."""
    chosen = [photos.load(int(bank.indices[row])) for row in rows]
    side = min(side, *(min(photo.size) for photo in chosen))
    squares = torch.stack([tv.pil_to_tensor(ImageOps.fit(photo, (side, side))) for photo in chosen]).float() / 255
    run = replace(unrecorded(), config=DistillConfig(augment=augment))
    return DistilledSet(squares, bank.labels[rows], bank.class_names, run)


def point(
    distilled: DistilledSet, encoder: Encoder, test: LabelledImages, protocol: dict[str, Any], **options: Any
) -> dict[str, Any]:
    """Export, read back and score."""
    with tempfile.TemporaryDirectory() as folder:
        report = export(distilled, folder, encoder=encoder, progress=False, **options)
        row = evaluate(DistilledSet.load(folder), encoder, None, test, progress=False, **protocol).rows[0]
    values = {k: getattr(report, k) for k in ("format", "quality", "image_size", "bytes", "feature_distance")}
    return {**values, "top1": row.top1, "std": row.std}


def draw(points: list[dict[str, Any]], title: str, path: Path) -> None:
    """Plot accuracy against bytes, with open markers for lossless files."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for source, colour in COLOURS.items():
        for per_class, mark in MARKS.items():
            curve: dict[str, list[dict[str, Any]]] = {}
            for p in points:
                if (p["source"], p["images_per_class"]) == (source, per_class):
                    curve.setdefault(p["setting"], []).append(p)
            x = {s: statistics.fmean(p["bytes"] for p in drawn) / KB for s, drawn in curve.items()}
            y = {s: 100 * statistics.fmean(p["top1"] for p in drawn) for s, drawn in curve.items()}
            budgets = [s for s in curve if s.isdigit()]
            if not budgets:
                continue
            label = source if source == "distilled" else f"{source}, {per_class} per class"
            style = {"color": colour, "marker": mark, "alpha": 0.5 + 0.5 / per_class, "ms": 5}
            axes.plot([x[s] for s in budgets], [y[s] for s in budgets], label=label, **style)
            if "png" in curve:
                axes.plot(x["png"], y["png"], mfc="none", ls="", **style)
            if "default" in curve:
                axes.plot(
                    x["default"], y["default"], mfc="white", ls="", **{**style, "marker": "D"}, label="default export"
                )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="kB of image files (open marks: PNG)", ylabel="top-1 % (ridge probe)")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--run", type=Path, help="folder of a finished run on the clothing photos; else one is made")
    parser.add_argument("--encoder", default=LITE0, help="of RUN, in one word, or a YAML file")
    parser.add_argument("--quick", action="store_true", help="few budgets, one seed, one real image per class")
    parser.add_argument("--again", action="store_true", help="forget points that are finished")
    options = parser.parse_args()
    if options.run is None and options.encoder != LITE0:
        parser.error(f"--encoder {options.encoder} needs --run: the set of seeds.py is made with {LITE0}")
    protocol = {"seeds": 1, "views": 10} if options.quick else {"seeds": 3, "views": 20}
    budgets, counts, draws = ([2, 8, 32], [1], 1) if options.quick else (BUDGETS, list(MARKS), 2)

    encoder = load_encoder(encoder_config(options.encoder))
    train, test = load_splits(images("clothing"))
    if options.run is not None:
        distilled = [DistilledSet.load(options.run)]
    else:
        distilled = [made(Cell("clothing", "lite0", "auto", seed, steps=300), train) for seed in range(SEEDS)]
    bank = extract_features(encoder, train)
    augment = distilled[0].run.config.augment
    side = 2 * encoder.input_size

    def real(rows: torch.Tensor) -> DistilledSet:
        return real_set(train, bank, rows, side, augment)

    sets = [("distilled", 1, i, one) for i, one in enumerate(distilled)]
    for count in counts:
        sets.append(("medoids", count, 0, real(medoids(bank, count))))
        sets += [("random real", count, i, real(random_images(bank, count, seed=i))) for i in range(draws)]

    settings = {
        "protocol": protocol,
        "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint, "input_size": encoder.input_size},
        "runs": [
            {"config": one.run.config.to_dict(), "images": digest_of(one.images.numpy().tobytes())} for one in distilled
        ],
    }
    name = "bytes-quick" if options.quick else "bytes"
    known = {} if options.again else kept(name)
    points = known["points"] if known.get("settings") == settings else []
    for source, count, drawn, one in sets:
        for setting in [*map(str, budgets), "png", *(["default"] if source == "distilled" else [])]:
            key = {"source": source, "images_per_class": count, "draw": drawn, "setting": setting}
            found = next((p for p in points if key.items() <= p.items()), None)
            if found is None:
                how: dict[str, Any] = {"max_bytes": int(setting) * KB} if setting.isdigit() else {}
                if setting == "png":
                    how = {"format": "png"}
                try:
                    found = {**key, **point(one, encoder, test, protocol, **how)}
                except UserError as error:
                    print(f"{source:12} {count} per class  {setting:>8} {error}", flush=True)
                    continue
                points.append(found)
                keep(name, {"settings": settings, "points": points})
            quality = "" if found["quality"] is None else f" q{found['quality']}"
            print(
                f"{source:12} {count} per class  {setting:>8} {found['bytes']:8,} bytes  {100 * found['top1']:5.1f}%  "
                f"{found['format']}{quality} {found['image_size']} px, distance {found['feature_distance']:.3f}",
                flush=True,
            )
    title = f"Clothing, {encoder.name} at {encoder.input_size} px, ten classes"
    path = RESULTS / f"{name}.json"
    draw(points, title, path.with_suffix(".png"))
    print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
