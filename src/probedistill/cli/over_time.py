"""The commands that change a set over time: merge, rename, forget, extend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..config import EncoderConfig, ImagesConfig, RunConfig
from ..errors import UserError
from ..machine.launch import speaks
from ..store.layout import CONFIG
from ..store.named import run_folder
from .app import EncoderOptions, Folder, Images, command, flat, show, show_score

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder
    from ..store.distilled import DistilledSet


@dataclass(kw_only=True)
class _Out(RunConfig):
    """Where a changed set goes, and how its run is saved."""

    out: Path | None = None
    """Folder of the new set (required). The old set is not changed."""


@command()
def merge(
    runs: list[Path],
    /,
    *,
    out: Path,
    same_classes: bool = False,
) -> None:
    """Merge sets with different classes into one set.

    Example: probedistill merge runs/fruit runs/cartons --out runs/shop

    The sets must be made with the same encoders and have images of the same size. OUT is a set like any other, which
    evaluate, transfer, export and report accept; info says where its parts came from. If every run has statistics
    (distill --keep-stats), they are added up and the head is computed from them; otherwise both are left out.

    Parameters
    ----------
    runs:
        Folders of finished runs.
    out:
        Folder of the new set.
    same_classes:
        Allow sets to share classes; such a class keeps the images of all of them. Otherwise this is an error.
    """
    from ..distillation.change import merge as run_merge

    merged, notes = run_merge(runs, out=out, same_classes=same_classes)
    _show(runs, merged, out, notes)


@command()
def rename(folder: Folder, classes: list[str], /, *, out: Path) -> None:
    """Rename classes of a finished set.

    Example: probedistill rename runs/photos 0=cat 1=dog --out runs/named

    Images, statistics, head and soft labels stay as they are, under the new names.

    Parameters
    ----------
    classes:
        OLD=NEW for each class that gets another name. @FILE reads them from a text file, one per line.
    out:
        Folder of the new set.
    """
    from ..distillation.change import rename as run_rename
    from ..report.watch import read_run_in

    names = _new_names(classes, read_run_in(run_folder(folder)).class_names)
    named, notes = run_rename(folder, names, out=out)
    _show([named], named, out, notes)


@command(EncoderConfig, RunConfig)
def forget(
    folder: Folder,
    encoder: EncoderOptions | None = None,
    run: Annotated[_Out, flat("Run")] | None = None,
    *,
    classes: Annotated[list[str] | None, Parameter(name=["--classes", "--class"])] = None,
    stats: list[Path] | None = None,
    redistil: bool = False,
    steps: int | None = None,
    seed: int | None = None,
) -> None:
    """Remove classes or photos from a finished set, and say what traces may remain.

    Example: probedistill forget runs/photos --class hat --out runs/without

    A class is removed with its images and sums. --stats subtracts the photos behind a file of `probedistill stats` from
    the statistics in the run, and distils the images of their classes again from noise. The other images were distilled
    with the removed data in view; --redistil distils all images again from the remaining statistics.

    Parameters
    ----------
    classes:
        Classes to remove. @FILE reads them from a text file, one per line.
    stats:
        Statistics of the photos to remove: one file for each encoder of the run.
    redistil:
        Distil all images again, from noise.
    steps:
        Optimisation steps for images that are distilled again. Default: those of the run.
    seed:
        Seed for images that are distilled again. Default: the run's.
    """
    from ..distillation.change import forget as run_forget
    from ..features.statistics import ClassStatistics

    folder, run = run_folder(folder), _given(run)
    removed = [ClassStatistics.load(path) for path in stats or []]
    encoders = _encoders(folder, encoder) if removed or redistil else []
    found, notes = run_forget(
        folder, classes or [], removed, run=run, encoder=encoders, redistil=redistil, steps=steps, seed=seed
    )
    _show([folder], found, run.out, notes)


@command(ImagesConfig, EncoderConfig, RunConfig)
def extend(
    folder: Folder,
    images: Images,
    encoder: EncoderOptions | None = None,
    run: Annotated[_Out, flat("Run")] | None = None,
    *,
    refine: bool = False,
    all_images: bool = False,
    steps: int | None = None,
    seed: int | None = None,
) -> None:
    """Add classes or photos to a finished set, without its original photos.

    Example: probedistill extend runs/photos --images folder:new --out runs/more

    The run must have its statistics (distill --keep-stats). Images of old classes are not changed, unless their class
    gets more photos; the new images are optimised alongside them. Ctrl-C saves. The same command with --resume
    continues, and the result is the same as without the interruption.

    Parameters
    ----------
    refine:
        Optimise the old images, too, instead of keeping them fixed.
    all_images:
        Hold out no new photos for testing.
    steps:
        Optimisation steps. Default: those of the run.
    seed:
        Seed of all random numbers. Default: the run's.
    """
    from ..distillation.change import extend as run_extend
    from ..images.splits import load_training

    folder, run = run_folder(folder), _given(run)
    encoders = _encoders(folder, encoder)
    new = load_training(images, everything=all_images, progress=run.progress)
    found = run_extend(folder, new, encoders, run=run, refine=refine, steps=steps, seed=seed, strict=images.strict)
    _show([folder], found, run.out)


def _new_names(words: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """OLD=NEW → names; a known class may have a = in its own name."""
    from ..images.splits import class_list

    names: dict[str, str] = {}
    for word in class_list(words):
        ways = [(word[: match.start()], word[match.end() :]) for match in re.finditer("=", word)]
        if not ways:
            raise UserError(f"classes {word!r} is not OLD=NEW; give the name of a class, = and its new name")
        possible = [way for way in ways if way[0] in known]
        if len(possible) > 1:
            shown = " or ".join(f"{old!r} to {new!r}" for old, new in possible)
            raise UserError(f"classes {word!r} may rename {shown}; use rename in Python, which takes a dictionary")
        old, new = (possible or ways)[0]
        if old in names:
            raise UserError(f"classes renames {old!r} twice; give it one new name")
        names[old] = new
    return names


def _given(run: _Out | None) -> _Out:
    if run is None or run.out is None:
        raise UserError("out is missing; give --out FOLDER")
    return run


def _encoders(folder: Path, given: EncoderConfig | None) -> list[Encoder]:
    """Load the encoders of a run: the named one, or the run's own, and those of its ``also``."""
    from ..encoders.load import load_encoder
    from ..encoders.named import own_encoder, own_others
    from ..store.run_record import read_run

    first = given or own_encoder(folder, called="--encoder")
    others = own_others(folder, read_run(folder).config.also, first)
    return [load_encoder(one) for one in (first, *others)]


def _show(
    before: Sequence[DistilledSet | Path], found: DistilledSet, out: Path | None, notes: Sequence[str] = ()
) -> None:
    """Show what happened to the images of each class; under torchrun, in one process only."""
    from ..distillation.changed import ChangedSet
    from ..store.distilled import as_set

    assert out is not None
    if not speaks():
        return
    show(ChangedSet.of([as_set(one) for one in before], found, out, notes))
    if (out / CONFIG).is_file():
        show_score(out, out / CONFIG, "--images SPEC")
