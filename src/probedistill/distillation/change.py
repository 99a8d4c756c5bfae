"""A finished set over time: classes and data come in or go out, without the old images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack, cast

import torch
from torch import Tensor

from ..config import AugmentConfig, DistillConfig, RunConfig, check_config, with_options
from ..encoders.encoder import Encoder, check_encoder
from ..errors import UserError, option
from ..features.overlap import photos_counted_before
from ..features.statistics import ClassStatistics, merge_statistics
from ..features.store import FeatureStore
from ..features.summed import class_statistics
from ..images.labelled import LabelledImages, check_labelled
from ..images.sources import check_outside
from ..images.splits import class_list
from ..machine.places import cache_folder
from ..machine.processes import ALONE
from ..machine.torch_state import own_torch_state
from ..methods import check_number
from ..ship.joined import KeptSet, load_runs, merge_sets, with_names, without_classes
from ..store.distilled import DistilledSet
from ..store.named import run_folder
from ..store.run_record import BEGINNINGS
from ..text import counted, quoted
from .base import Base
from .beginnings import starting_images
from .callbacks import named_callbacks
from .config_file import encoder_options
from .new_folder import check_free, write_set
from .options import RunOptions
from .prepare import check_run, folder_of
from .run import distill

_FromPhotos = Literal["average", "blend", "real"]


def merge(
    folders: Sequence[Path | str], *, out: Path | str | None = None, same_classes: bool = False
) -> tuple[DistilledSet, list[str]]:
    """Merge sets of different classes into one set.

    If every run has statistics, they are added up, and the head of the merged set is computed from them. Soft labels
    and, without statistics, heads do not cover the other sets' classes, so they are left out.

    Args:
        folders: Folders of two or more finished runs, made with the same encoders and with images of the same size.
        out: Folder of the merged set; ``None`` writes nothing.
        same_classes: Allow sets to share classes; such a class keeps the images of all of them. Otherwise this is an
            error.

    Returns:
        The merged set, and sentences about what was left out.

    Raises:
        UserError: The sets do not fit together, or ``out`` is not empty.
    """
    if out is not None:
        check_free(Path(out))
    merged = merge_sets(load_runs(folders), same_classes=same_classes)
    if out is not None:
        _write(Path(out), merged, folders[0])
    return merged.distilled, list(merged.notes)


def rename(
    folder: Path | str, classes: Mapping[str, str], *, out: Path | str | None = None
) -> tuple[DistilledSet, list[str]]:
    """Rename classes of a finished set; nothing else changes.

    Args:
        folder: The finished run.
        classes: The new name of each class that gets one.
        out: Folder of the set with the new names; ``None`` writes nothing.

    Returns:
        The set, and sentences about it.

    Raises:
        UserError: Unknown class, two classes of one name, or ``out`` is not empty.
    """
    if not isinstance(classes, Mapping):
        raise UserError(f"classes is a {type(classes).__name__}; give a dictionary, a new name for each former one")
    if not classes:
        raise UserError("classes is empty; give the new name of at least one class")
    if out is not None:
        check_free(Path(out))
    named = with_names(KeptSet.load(folder), classes)
    if out is not None:
        _write(Path(out), named, folder)
    return named.distilled, list(named.notes)


@own_torch_state()
def extend(
    folder: Path | str,
    images: LabelledImages,
    encoder: Encoder | Sequence[Encoder],
    *,
    run: RunConfig | None = None,
    refine: bool = False,
    steps: int | None = None,
    seed: int | None = None,
    test: LabelledImages | None = None,
    strict: bool = False,
    **options: Unpack[RunOptions],
) -> DistilledSet:
    """Add classes or photos to a finished set, without its original photos.

    The statistics in the run (``keep_stats``) replace the old photos; the set is distilled from the statistics of old
    and new photos together. New classes get new images, which start as the old ones did: from photos of their class or
    from noise. Images of a class that gets more photos are optimised further. All other images are not changed, but
    take part in every step, so that the new images complement them.

    Args:
        folder: The finished run.
        images: The new photos.
        encoder: The run's encoder, or all its encoders in the run's order.
        run: Where the new set goes, and how it is saved; ``resume`` continues an interrupted run. Without ``out``,
            nothing is written.
        refine: Optimise all old images further, instead of keeping them fixed.
        steps: Optimisation steps. Default: those of the run.
        seed: Seed of all random numbers. Default: the run's.
        test: Test images of all classes, for the accuracy during the run.
        strict: Raise on unreadable images instead of leaving them out with a warning.
        **options: Fields of ``run``, as for `distill`: ``out="runs/more"``.

    Returns:
        The set of all classes, also saved in ``run.out``.

    Raises:
        UserError: The run has no statistics, was made with other encoders, or has already seen these photos.
    """
    check_config("run", run, RunConfig)
    run = with_options(run or RunConfig(), options, "extend")
    check_run(run)
    callbacks = named_callbacks(run.log, run.callback)  # an early error: features may take long
    run = replace(run, log=[], callback=[])
    check_labelled(images, "images")
    if run.out is not None:
        check_outside(Path(run.out), images)
    _check_other_folder(folder, run)
    folder_of(run, ALONE).look()
    kept = KeptSet.load(folder)
    _check_statistics(kept)
    encoders = _encoders(encoder)
    if steps is not None:
        check_number("steps", steps, least=1, whole=True)
    held, store = kept.distilled, FeatureStore(run.cache, strict, run.progress)
    name = Path(run.out).name if run.out is not None else "images"
    added = [_statistics_like(o, e, images, name, store) for o, e in _paired(kept.statistics, encoders)]
    _check_unseen(kept, added, encoders, images, store)
    statistics = [merge_statistics(pair, union=True) for pair in zip(kept.statistics, added)]
    names = statistics[0].class_names
    config = _continued_config(held, statistics, steps, seed)
    new = [name for name in images.class_names if name not in held.class_names]
    for name, now in ((name, held.run.once_called(name)) for name in new):
        if now:
            warnings.warn(
                f"class {name!r} of {images.spec!r} is a new class of {kept.name!r}, where {now[0]!r} was called so "
                "before; if they are one class, give its photos the name that it has now",
                stacklevel=3,
            )
    changing = torch.tensor([refine or held.class_names[i] in images.class_names for i in held.labels.tolist()])
    each = config.images_per_class
    labels = torch.tensor([names.index(name) for name in new], dtype=torch.int64).repeat_interleave(each)
    if held.run.began_as_photos:
        photos = replace(config, canvas=replace(config.canvas, init=cast(_FromPhotos, held.run.begun_from)))
        begin = _beginnings(images, new, encoders, store, held.float_images.shape[-1], photos)
    else:
        begin = torch.full((len(labels), *held.float_images.shape[1:]), torch.nan)
    if not len(labels) and not bool(changing.any()):
        raise UserError(f"images {images.spec!r} would change no image of {kept.name!r} and add none; give others")
    base = Base(
        kept.name, held.float_images[~changing], held.labels[~changing],
        labels=torch.cat([held.labels[changing], labels]),
        start=torch.cat([held.float_images[changing], begin]), refined=int(changing.sum()),
        forgotten=held.run.forgotten, renamed=held.run.renamed, begun_from=held.run.begun_from,
        held_out=[*kept.held_out, *images.held_out],
    )  # fmt: skip
    return distill(statistics, encoders, config, test=test, run=run, callbacks=callbacks, base=base, strict=strict)


@own_torch_state()
def forget(
    folder: Path | str,
    classes: Sequence[str] | str = (),
    removed: Sequence[ClassStatistics] = (),
    *,
    run: RunConfig | None = None,
    encoder: Encoder | Sequence[Encoder] = (),
    redistil: bool = False,
    steps: int | None = None,
    seed: int | None = None,
    **options: Unpack[RunOptions],
) -> tuple[DistilledSet, list[str]]:
    """Remove classes or photos from a finished set.

    * A class is removed with its images, its sums and its part of the head. Images of other classes are not changed;
      they were optimised together with the class, so they may contain traces of it.
    * Photos are removed by subtracting their statistics from those in the run. Images of their classes are distilled
      again from noise, together with the other images, which are not changed.
    * ``redistil`` distils all images again, from noise and the remaining statistics. Then only traces in the
      statistics remain (see `ClassStatistics.with_classes`).

    Args:
        folder: The finished run.
        classes: Classes to remove; ``"@FILE"`` reads them from a text file, one per line.
        removed: Statistics of the photos to remove, for each encoder of the run.
        run: Where the new set goes, and how it is saved.
        encoder: The run's encoder, or all its encoders; not needed if only classes are removed.
        redistil: Distil all images again.
        steps: Optimisation steps. Default: those of the run.
        seed: Seed of all random numbers. Default: the run's.
        **options: Fields of ``run``, as for `distill`: ``out="runs/less"``.

    Returns:
        The set, and sentences about what traces may remain.

    Raises:
        UserError: Unknown class, statistics that are not part of the run's, or a run without the statistics that are
            needed.
    """
    classes = class_list([classes] if isinstance(classes, str) else classes)
    if not classes and not removed:
        raise UserError(f"nothing to forget; give {option('classes', 'NAME')} or {option('stats', 'FILE')}")
    check_config("run", run, RunConfig)
    run = with_options(run or RunConfig(), options, "forget")
    if run.out is None:
        raise UserError("out is missing; give a folder for the new set")
    if not (removed or redistil):
        for argument, value in {"steps": steps, "seed": seed}.items():
            if value is not None:
                raise UserError(
                    f"{argument} {value} is for images that are distilled again, but none are; leave it out or add "
                    f"{option('redistil', True)}"
                )
    _check_other_folder(folder, run)
    kept = KeptSet.load(folder)
    for name in classes:
        kept.check_class("class", name)
    removed = _by_present_names(kept, removed)
    hit: list[str] = []
    if removed or redistil:
        _check_statistics(kept)
    unproven = _not_named(kept, removed)
    if removed:
        kept, hit = _subtracted(kept, removed, classes)
    left = without_classes(kept, classes) if classes else kept
    notes = [*left.notes, *_what_remains(left, classes, hit, redistil), *unproven, _still_there(left.name, run.cache)]
    if not hit and not redistil:
        _write(Path(run.out), left, folder)
        return left.distilled, notes
    held, encoders = left.distilled, _encoders(encoder)
    config = _continued_config(replace(held, head=kept.distilled.head), left.statistics, steps, seed)
    again = torch.tensor([redistil or held.class_names[i] in hit for i in held.labels.tolist()])
    labels = held.labels[again]
    base = Base(
        left.name, held.float_images[~again], held.labels[~again], labels=labels,
        start=torch.full((len(labels), *held.float_images.shape[1:]), torch.nan), dropped=int(again.sum()),
        forgotten=held.run.forgotten, renamed=held.run.renamed,
        begun_from="noise" if bool(again.all()) else held.run.begun_from, held_out=left.held_out, licence=left.licence,
    )  # fmt: skip
    return distill(left.statistics, encoders, config, run=run, base=base), notes


# ---------------------------------------------------------------------------------------------------
# Shared helpers


def _write(out: Path, kept: KeptSet, before: Path | str) -> None:
    """Write a set that took no step, with the options of the encoder of the run ``before``."""
    options = encoder_options(run_folder(before))
    write_set(
        out, kept.distilled, options=options, statistics=kept.statistics, held_out=kept.held_out, licence=kept.licence
    )


def _check_other_folder(folder: Path | str, run: RunConfig) -> None:
    """Refuse to write into the run that the new set is made from: an interruption would lose its images."""
    if run.out is not None and os.path.realpath(run.out) == os.path.realpath(run_folder(folder)):
        raise UserError(f"out {str(run.out)!r} is the run that the new set is made from; give another folder")


def _check_statistics(kept: KeptSet) -> None:
    """Raise `UserError` unless the run has statistics of its photos that may be changed."""
    if not kept.statistics:
        exported = kept.distilled.run.export is not None
        raise UserError(
            f"run {kept.name!r} has no statistics of its photos, which this needs; "
            + ("exports never have: give the run that it was exported from, or " if exported else "")
            + f"distil it again with {option('keep_stats', True)}"
        )
    if any(one.private for one in kept.statistics):
        raise UserError(
            f"run {kept.name!r} has differentially private statistics, which cannot be changed; merge such files with "
            "probedistill stats, and distil from them"
        )


def _encoders(given: Encoder | Sequence[Encoder]) -> list[Encoder]:
    found = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not found:
        raise UserError(f"the encoder of the run is needed to distil; give {option('encoder')}")
    for one in found:
        check_encoder(one)
    return found


def _paired(
    statistics: Sequence[ClassStatistics], encoders: Sequence[Encoder]
) -> list[tuple[ClassStatistics, Encoder]]:
    """Pair statistics with their encoders.

    Raises:
        UserError: Other encoders than those of the run.
    """
    if len(statistics) != len(encoders):
        raise UserError(
            f"{counted(len(encoders), 'encoder')} for a run that was made with {len(statistics)}; give all its encoders"
        )
    for one, encoder in zip(statistics, encoders):
        one.check_encoder(encoder)
    return list(zip(statistics, encoders))


def _statistics_like(
    old: ClassStatistics, encoder: Encoder, images: LabelledImages, name: str, store: FeatureStore
) -> ClassStatistics:
    """The new photos' statistics, made with the options of the old ones."""
    return class_statistics(
        encoder, images, name=name, views=old.about.views, augment=old.about.augment,
        second_moments=old.products is not None, features=store,
    )  # fmt: skip


def _check_unseen(
    kept: KeptSet,
    added: Sequence[ClassStatistics],
    encoders: Sequence[Encoder],
    images: LabelledImages,
    store: FeatureStore,
) -> None:
    """Refuse photos that the set was already made from, if its sums show it: they would count twice.

    Raises:
        UserError: They are the same photos, or include all photos of a class.
    """
    way_out = "give only new photos"
    for old, one, encoder in zip(kept.statistics, added, encoders):
        same = any(part.images == one.about.parts[0].images and not part.removed for part in old.about.parts)
        if same and not old.forgot(images.class_names):
            raise UserError(f"images {images.spec!r} are already in {kept.name!r}; {way_out}")
        bank = store.of(encoder, images, views=old.about.views, augment=old.about.augment or AugmentConfig())
        found = photos_counted_before(old, bank, kept.distilled.run.once_called)
        if found is not None:
            name, count = found
            photos = "the photo" if count == 1 else f"the {count:,} photos"
            raise UserError(
                f"images {images.spec!r} contain {photos} of class {name!r} already in {kept.name!r}; {way_out}"
            )
    before, known = kept.distilled.run.images, kept.distilled.class_names
    shared = [name for name in images.class_names if name in known]
    if shared and (before.spec, before.split) == (images.spec, images.split):
        warnings.warn(
            f"{kept.name!r} was also made from {images.spec!r}: photos of class {shared[0]!r} that it has already seen "
            "count twice",
            stacklevel=3,
        )


def _continued_config(
    held: DistilledSet, statistics: Sequence[ClassStatistics], steps: int | None, seed: int | None
) -> DistillConfig:
    """Return the settings of a run that continues from a set: the set's, without options that need photos."""
    config, first = held.run.config, statistics[0]
    head = held.head is not None and held.head.fingerprint == first.about.encoder.fingerprint
    canvas = replace(config.canvas, init="noise", size=held.float_images.shape[-1], level_every=0)
    return replace(
        config, steps=config.steps if steps is None else steps, seed=config.seed if seed is None else seed, also=[],
        canvas=canvas, keep_head=head and first.products is not None, soft_labels="none", keep_stats=True,
        layers=0,
    )  # fmt: skip


def _beginnings(
    images: LabelledImages,
    classes: Sequence[str],
    encoders: Sequence[Encoder],
    store: FeatureStore,
    size: int,
    config: DistillConfig,
) -> Tensor:
    """(C · ipc, 3, S, S) starting images of these classes."""
    if not classes:
        return torch.empty(0, 3, size, size)
    some = images.with_classes(classes)
    return starting_images(config, encoders, store.of(encoders[0], some), some, size)


def _by_present_names(kept: KeptSet, removed: Sequence[ClassStatistics]) -> list[ClassStatistics]:
    """The statistics with the present names of classes that were renamed since the files were made."""
    return [replace(one, about=replace(one.about, class_names=_present(kept, one.class_names))) for one in removed]


def _present(kept: KeptSet, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of classes with the present name of each that the set has renamed, if there is no doubt which it is."""
    run, found = kept.distilled.run, list(names)
    for number, name in enumerate(names):
        now = run.once_called(name)
        if name not in run.class_names and len(now) == 1 and now[0] not in found:
            found[number] = now[0]
    return tuple(found)


def _subtracted(kept: KeptSet, removed: Sequence[ClassStatistics], classes: Sequence[str]) -> tuple[KeptSet, list[str]]:
    """Return the set with its remaining statistics, and the classes that lost photos but remain."""
    names, left = kept.distilled.class_names, []
    for one in kept.statistics:
        own = [r for r in removed if r.about.encoder.fingerprint == one.about.encoder.fingerprint]
        if not own:
            raise UserError(
                f"stats has no file for encoder {one.about.encoder}, which {kept.name!r} was made with; give one file "
                "for each of its encoders"
            )
        share = merge_statistics(own, union=True)
        for name in share.class_names:
            kept.check_class("class of the statistics", name)
        left.append(one - share.with_classes(names))
    counts = left[0].counts.tolist()
    lost = [name for name, old, now in zip(names, kept.statistics[0].counts.tolist(), counts) if now < old]
    hit = [name for name in lost if name not in classes]
    for name in hit:
        if not counts[names.index(name)]:
            raise UserError(f"class {name!r} has no photos left; also remove the class: {option('classes', name)}")
    return replace(kept, statistics=tuple(left)), hit


def _not_named(kept: KeptSet, removed: Sequence[ClassStatistics]) -> list[str]:
    """Return a sentence if the run's statistics do not list some of the removed parts."""
    known = {part.images for one in kept.statistics for part in one.about.parts}
    names = dict.fromkeys(part.name for one in removed for part in one.about.parts if part.images not in known)
    if not names:
        return []
    which = quoted(list(names))
    return [
        f"Not proven that these photos were in {kept.name!r}: {which} is not among the parts that {kept.name!r} lists. "
        "The sums fit, but if there are many more photos than features, those of other photos may fit, too."
    ]


def _still_there(name: str, cache: Path | str | None) -> str:
    """Return a sentence about what no command removes."""
    return (
        f"Not removed: {name!r} itself, exports and copies of it, and features of its photos in the cache "
        f"({cache_folder(cache) / 'features'}). Delete them if you do not want to keep them."
    )


def _what_remains(left: KeptSet, classes: Sequence[str], hit: Sequence[str], redistil: bool) -> list[str]:
    """Return sentences about what was removed, and what traces may remain."""
    notes = []
    if classes:
        notes.append(f"Removed: images{' and sums' * bool(left.statistics)} of {quoted(classes)}.")
    if hit:
        notes.append(f"Removed: the photos' share of the sums. Images of {quoted(hit)} were distilled again.")
    run = left.distilled.run
    if not redistil and run.baseline is None:
        began = f" Some of them began as {BEGINNINGS[run.begun_from]}." if run.began_as_photos else ""
        notes.append(
            "May remain: the other images are unchanged, but were optimised together with what was removed."
            + began
            + (f" {option('redistil', True)} distils all images again." if left.statistics else "")
        )
    if classes and left.statistics and any(one.products is not None for one in left.statistics):
        notes.append(
            "May remain: products of features are summed over all classes, so they keep correlations that were "
            "specific to the removed class."
        )
    return notes
