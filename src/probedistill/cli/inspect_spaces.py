"""The commands that look inside feature spaces: align, geometry."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..config import EncoderConfig, ImagesConfig
from ..store.named import results_folder, run_folder
from .app import Cache, EncoderOptions, Folder, Images, Progress, command, show


@command(ImagesConfig)
def align(
    images: Images,
    *,
    encoders: list[str],
    k: int = 10,
    limit: int = 5000,
    seed: int = 0,
    transfer: Path | None = None,
    out: Path = Path("runs/align"),
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """Measure how similar the feature spaces of encoders are, on the same real images.

    Example: probedistill align --encoders efficientnet_lite0@112 runs/b/config.yaml --images folder:photos

    For every pair: mutual k-nearest neighbours (Platonic Representation Hypothesis), linear CKA, and how well one space
    maps linearly to the other (leave-one-out R² of ridge regression, from row to column). The images are those of the
    training split, whose features a distillation has cached; --split chooses another. Results go to OUT/align.json and
    OUT/align.png.

    Parameters
    ----------
    encoders:
        Two or more encoders, each NAME, NAME@PIXELS, or a YAML file of encoder options such as RUN/config.yaml.
    k:
        Number of neighbours for mutual k-nearest neighbours.
    limit:
        Largest number of images, balanced over the classes. Fewer images are faster.
    seed:
        Seed for the choice of images.
    transfer:
        transfer.json of `probedistill transfer` for these encoders. Adds the rank correlation between its accuracy and
        each metric over pairs of different encoders (at least 3), with a permutation p-value.
    out:
        Folder for the results.
    """
    from ..analysis.alignment import align as run_align
    from ..analysis.matrix import load_transfer
    from ..images.sources import check_results_outside
    from ..images.splits import load_splits
    from ..store.files import check_writable

    check_writable(out)
    results = load_transfer(transfer) if transfer is not None else None
    train, _ = load_splits(images, progress=progress)
    check_results_outside(out, train)
    alignment = run_align(
        encoders, train, k=k, limit=limit, seed=seed, transfer=results, cache=cache, strict=images.strict,
        progress=progress,
    )  # fmt: skip
    alignment.save(out)
    show(alignment)
    show(f"figure: {out / 'align.png'}   numbers: {out / 'align.json'}")


@command(ImagesConfig, EncoderConfig)
def geometry(
    folder: Folder,
    images: Images,
    encoder: EncoderOptions,
    *,
    k: int = 10,
    seed: int = 0,
    out: Path | None = None,
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """Show where synthetic images lie among the real images of their class: in the middle, or at the edge.

    Example: probedistill geometry runs/photos --config runs/photos/config.yaml --classes hat --classes shoes

    Plots real and synthetic features in a PCA plane fitted on the real ones. For every class, measures how far out its
    synthetic image lies, its margin to other classes and its nearest real neighbours, compared with class medoids and
    random real images. --classes chooses the classes in the plot (default: the first thirty); the numbers cover all
    classes. Results go to OUT/geometry.json and OUT/geometry.png.

    Parameters
    ----------
    k:
        Number of nearest real neighbours.
    seed:
        Seed for the choice of plotted real images, and for the bootstrap.
    out:
        Folder for the results. Default: FOLDER.
    """
    from ..analysis.geometry import geometry as run_geometry
    from ..encoders.load import load_encoder
    from ..images.sources import check_results_outside
    from ..images.splits import load_splits, named_classes
    from ..store.distilled import DistilledSet
    from ..store.files import check_writable

    folder = run_folder(folder)
    out = results_folder(folder) if out is None else out
    distilled = DistilledSet.load(folder)
    check_writable(out)
    chosen = named_classes(images)
    if chosen is not None:
        images = dataclasses.replace(images, classes=list(distilled.class_names))
        # a list of all the run's classes, as in its config.yaml, is no choice
        chosen = None if set(chosen) == set(distilled.class_names) else chosen
    train, _ = load_splits(images, progress=progress)
    check_results_outside(out, train)
    result = run_geometry(
        distilled, load_encoder(encoder), train,
        classes=chosen, k=k, seed=seed, cache=cache, strict=images.strict, progress=progress,
    )  # fmt: skip
    result.save(out)
    show(result)
    show(f"figure: {out / 'geometry.png'}   numbers: {out / 'geometry.json'}")
