"""The commands of a set over time: merge, forget, extend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..config import EncoderConfig, ImagesConfig, RunConfig
from ..errors import UserError
from ..machine.launch import speaks
from ..store.named import run_folder
from ..text import as_argument
from .app import EncoderOptions, Folder, Images, command, config_flag, flat, show

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder
    from ..store.distilled import DistilledSet


@dataclass(kw_only=True)
class _Out(RunConfig):
    """Where a changed set goes, and how its run is saved."""

    out: Path | None = None
    """Folder of the new set; it must be given. The old one stays as it is."""


@command()
def merge(
    runs: list[Path],
    /,
    *,
    out: Path,
    same_classes: bool = False,
) -> None:
    """Put sets of different classes together to one set.

    Example: probedistill merge runs/fruit runs/cartons --out runs/shop

    The sets must be made with the same encoders and have images of one size. OUT is a set like any other: evaluate,
    transfer, export and report take it, and info says where its parts came from. Statistics (distill --keep-stats) are
    added up if every run keeps them, and the head is then computed from them; otherwise these are left out.

    Parameters
    ----------
    runs:
        Folders of finished runs.
    out:
        Folder of the new set.
    same_classes:
        Let images of several sets stand for a class that they share; otherwise that is an error.
    """
    from ..distillation.change import merge as run_merge

    merged, notes = run_merge(runs, out=out, same_classes=same_classes)
    _show([run_folder(one) for one in runs], merged, out, notes)


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
    """Take classes, or somebody's photos, out of a finished set, and say what may remain of them.

    Example: probedistill forget runs/photos --class hat --out runs/without

    A class goes with its images and sums. With --stats the photos behind a file of `probedistill stats` are subtracted
    from the statistics that the run keeps, and images of their classes are made again from noise. What stays was made
    with what goes in sight; --redistil makes all images again from what is left of the statistics.

    Parameters
    ----------
    classes:
        Classes to take out; @FILE reads them from a text file, one a line.
    stats:
        Statistics of the photos to take out, one for each encoder of the run.
    redistil:
        Make all images again, from noise.
    steps:
        Optimisation steps where images are made again. Default: those of the run.
    seed:
        Seed of that. Default: that of the run.
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
    """Add classes, or more photos of its classes, to a finished set whose photos are gone.

    Example: probedistill extend runs/photos --images folder:new --out runs/more

    The run must keep its statistics (distill --keep-stats). Images of the old classes stay as they are, unless their
    class gets more photos; the new ones are made to fit beside them. Ctrl-C saves; the same command with --resume goes
    on, with the same result as without the break.

    Parameters
    ----------
    refine:
        Go on from all old images, in place of holding them fixed.
    all_images:
        Hold no new photo out for testing.
    steps:
        Optimisation steps. Default: those of the run.
    seed:
        Seed. Default: that of the run.
    """
    from ..distillation.change import extend as run_extend
    from ..images.splits import load_training

    folder, run = run_folder(folder), _given(run)
    encoders = _encoders(folder, encoder)
    new = load_training(images, everything=all_images, progress=run.progress)
    found = run_extend(folder, new, encoders, run=run, refine=refine, steps=steps, seed=seed, strict=images.strict)
    _show([folder], found, run.out)


def _given(run: _Out | None) -> _Out:
    if run is None or run.out is None:
        raise UserError("out is missing; give --out FOLDER")
    return run


def _encoders(folder: Path, given: EncoderConfig | None) -> list[Encoder]:
    """The encoders of a run: the named one, or the run's own, and those that it was distilled for as well."""
    from ..encoders.load import load_encoder
    from ..encoders.named import own_encoder, own_others
    from ..store.run_record import read_run

    first = given or own_encoder(folder, called="--encoder")
    others = own_others(folder, read_run(folder).config.also, first)
    return [load_encoder(one) for one in (first, *others)]


def _show(before: list[Path], found: DistilledSet, out: Path | None, notes: Sequence[str] = ()) -> None:
    """Show what became of the images of each class; under torchrun only one process does."""
    from ..distillation.changed import ChangedSet
    from ..store.distilled import DistilledSet

    assert out is not None
    if not speaks():
        return
    show(ChangedSet.of([DistilledSet.load(one) for one in before], found, out, notes))
    if (out / "config.yaml").is_file():
        flag = config_flag("evaluate", out / "config.yaml")
        show(f"score:  probedistill evaluate {as_argument(out)} {flag} --images SPEC")
