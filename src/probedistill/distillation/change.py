"""A finished set over time: classes and data come in or go out, without the old images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack, cast

import torch
from torch import Tensor

from ..config import AugmentConfig, DistillConfig, RunConfig, with_options
from ..encoders.encoder import Encoder
from ..errors import UserError, option
from ..features.overlap import photos_counted_before
from ..features.statistics import ClassStatistics, merge_statistics
from ..features.store import FeatureStore
from ..features.summed import class_statistics
from ..images.labelled import LabelledImages
from ..images.splits import class_list
from ..machine.places import cache_folder
from ..machine.torch_state import own_torch_state
from ..methods import check_name, check_number
from ..ship.joined import KeptSet, load_runs, merge_sets, without_classes
from ..store.distilled import DistilledSet
from ..store.named import run_folder
from ..store.run_record import BEGINNINGS
from ..text import counted
from .base import Base
from .beginnings import starting_images
from .config_file import encoder_options
from .new_folder import check_free, write_set
from .options import RunOptions
from .run import distill

_FromPhotos = Literal["average", "blend", "real"]


def merge(
    folders: Sequence[Path | str], *, out: Path | str | None = None, same_classes: bool = False
) -> tuple[DistilledSet, list[str]]:
    """Merge sets of different classes into one set.

    Statistics are added up if every run keeps them, and the head of the merged set is computed from them. Soft labels
    and, without statistics, the heads were made without the other sets' classes: they are left out.

    Args:
        folders: Folders of two or more finished runs, made with the same encoders and of one size.
        out: Where the merged set goes; ``None`` writes nothing.
        same_classes: Let images of several sets stand for a class that they share; otherwise that is an error.

    Returns:
        The merged set, and what was left out, a sentence each.

    Raises:
        UserError: The sets do not fit together, or the folder holds something already.
    """
    if out is not None:
        check_free(Path(out))
    merged = merge_sets(load_runs(folders), same_classes=same_classes)
    if out is not None:
        of_encoder = encoder_options(run_folder(folders[0]))
        write_set(Path(out), merged.distilled, options=of_encoder, statistics=merged.statistics, licence=merged.licence)
    return merged.distilled, list(merged.notes)


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
    """Add classes, or more photos of its classes, to a finished set whose photos are gone.

    What the old photos said is in the statistics that the run keeps (``keep_stats``). New classes get images of their
    own, which begin as the old ones did: as photos of their class or as noise. Images of a class that gets more photos
    are optimised further from what they are. All others stay as they are, but take part in every step, so that the new
    ones are made to fit beside them. What is distilled from is the statistics of all photos together.

    Args:
        folder: The finished run.
        images: The new photos.
        encoder: The run's encoder, or all of its encoders in their order.
        run: Where the new set goes, and how it is saved; ``resume`` goes on where it was stopped. Without ``out``
            nothing is written.
        refine: Optimise all old images further, instead of holding them fixed.
        steps: Optimisation steps; default: those of the run.
        seed: Seed; default: that of the run.
        test: Test images for the accuracy along the way, of all classes.
        strict: Raise on unreadable images instead of leaving them out with a warning.
        **options: Fields of ``run``, as for `distill`: ``out="runs/more"``.

    Returns:
        The set of all classes, also saved in ``run.out``.

    Raises:
        UserError: The run keeps no statistics, was made with other encoders, or holds these photos already.
    """
    run = with_options(run or RunConfig(), options, "extend")
    _check_other_folder(folder, run)
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
    config = _going_on(held, statistics, steps, seed)
    new = [name for name in images.class_names if name not in held.class_names]
    changing = torch.tensor([refine or held.class_names[i] in images.class_names for i in held.labels.tolist()])
    each = config.images_per_class
    labels = torch.tensor([names.index(name) for name in new], dtype=torch.int64).repeat_interleave(each)
    if held.run.began_as_photos:
        photos = replace(config, canvas=replace(config.canvas, init=cast(_FromPhotos, held.run.begun_from)))
        begin = _beginnings(images, new, encoders, store, held.float_images.shape[-1], photos)
    else:
        begin = torch.full((len(labels), *held.float_images.shape[1:]), torch.nan)
    if not len(labels) and not bool(changing.any()):
        raise UserError(f"images {images.spec!r} have no class that would change {kept.name!r}")
    base = Base(
        kept.name, held.float_images[~changing], held.labels[~changing],
        labels=torch.cat([held.labels[changing], labels]),
        start=torch.cat([held.float_images[changing], begin]), refined=int(changing.sum()),
        forgotten=held.run.forgotten, begun_from=held.run.begun_from,
    )  # fmt: skip
    return distill(statistics, encoders, config, test=test, run=run, base=base, strict=strict)


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
    """Take classes, or somebody's photos, out of a finished set.

    * A class goes with its images, its sums and its part in the head. Images of other classes stay as they are, and
      they were optimised beside the class: traces of it may be in them.
    * Photos are taken out by their statistics, which are subtracted from those that the run keeps. Images of their
      classes are made again from noise, beside the others, which stay.
    * ``redistil`` makes all images again, from noise and from what is left of the statistics: then only traces in the
      statistics remain (`ClassStatistics.with_classes` says which).

    Args:
        folder: The finished run.
        classes: Classes to take out; ``"@FILE"`` reads them from a text file, one a line.
        removed: Statistics of the photos to take out, for each encoder of the run.
        run: Where the new set goes, and how it is saved.
        encoder: The run's encoder, or all of its encoders; not needed to take classes out alone.
        redistil: Make all images again.
        steps: Optimisation steps; default: those of the run.
        seed: Seed; default: that of the run.
        **options: Fields of ``run``, as for `distill`: ``out="runs/less"``.

    Returns:
        The set, and what may remain of what was taken out, a sentence each.

    Raises:
        UserError: No such class, statistics that are not part of the run's, or a run that keeps none although they are
            needed.
    """
    classes = class_list([classes] if isinstance(classes, str) else classes)
    if not classes and not removed:
        raise UserError(f"nothing to forget; give {option('classes', 'NAME')} or {option('stats', 'FILE')}")
    run = with_options(run or RunConfig(), options, "forget")
    if run.out is None:
        raise UserError("out is missing; give a folder for what is left")
    if not (removed or redistil):
        for argument, value in {"steps": steps, "seed": seed}.items():
            if value is not None:
                raise UserError(
                    f"{argument} {value} is for images that are made again, and none are; leave it out or add "
                    f"{option('redistil', True)}"
                )
    _check_other_folder(folder, run)
    kept = KeptSet.load(folder)
    for name in classes:
        check_name("class", name, kept.distilled.class_names, f"(in {kept.name!r})")
    hit: list[str] = []
    if removed or redistil:
        _check_statistics(kept)
    unproven = _not_named(kept, removed)
    if removed:
        kept, hit = _subtracted(kept, removed, classes)
    left = without_classes(kept, classes) if classes else kept
    notes = [*left.notes, *_what_remains(left, classes, hit, redistil), *unproven, _still_there(left.name, run.cache)]
    if not hit and not redistil:
        check_free(Path(run.out))
        of_encoder = encoder_options(run_folder(folder))
        write_set(
            Path(run.out), left.distilled, options=of_encoder, statistics=left.statistics,
            held_out=left.held_out, licence=left.licence,
        )  # fmt: skip
        return left.distilled, notes
    held, encoders = left.distilled, _encoders(encoder)
    config = _going_on(replace(held, head=kept.distilled.head), left.statistics, steps, seed)
    again = torch.tensor([redistil or held.class_names[i] in hit for i in held.labels.tolist()])
    labels = held.labels[again]
    base = Base(
        left.name, held.float_images[~again], held.labels[~again], labels=labels,
        start=torch.full((len(labels), *held.float_images.shape[1:]), torch.nan), dropped=int(again.sum()),
        forgotten=held.run.forgotten, begun_from="noise" if bool(again.all()) else held.run.begun_from,
        held_out=left.held_out, licence=left.licence,
    )  # fmt: skip
    return distill(left.statistics, encoders, config, run=run, base=base), notes


# ---------------------------------------------------------------------------------------------------
# What both need


def _check_other_folder(folder: Path | str, run: RunConfig) -> None:
    """Refuse to write into the run that the new set goes on from: a stop would lose its images."""
    if run.out is not None and os.path.realpath(run.out) == os.path.realpath(run_folder(folder)):
        raise UserError(f"out {str(run.out)!r} is the run that the new set goes on from; give another folder")


def _check_statistics(kept: KeptSet) -> None:
    """Raise `UserError` unless the run keeps statistics of its photos that may be changed."""
    if not kept.statistics:
        raise UserError(
            f"run {kept.name!r} keeps no statistics, and its photos are not here; distil it again with "
            f"{option('keep_stats', True)}"
        )
    if any(one.private for one in kept.statistics):
        raise UserError(f"run {kept.name!r} keeps private statistics; merge and distil them with probedistill stats")


def _encoders(given: Encoder | Sequence[Encoder]) -> list[Encoder]:
    found = [given] if isinstance(given, Encoder) else list(given)
    if not found:
        raise UserError(f"the encoder of the run is needed to distil; give {option('encoder')}")
    return found


def _paired(
    statistics: Sequence[ClassStatistics], encoders: Sequence[Encoder]
) -> list[tuple[ClassStatistics, Encoder]]:
    """Statistics with their encoders.

    Raises:
        UserError: Other encoders than those of the run.
    """
    if len(statistics) != len(encoders):
        raise UserError(
            f"{counted(len(encoders), 'encoder')} for a run that was made with {len(statistics)}; give all of them"
        )
    for one, encoder in zip(statistics, encoders):
        one.check_encoder(encoder)
    return list(zip(statistics, encoders))


def _statistics_like(
    old: ClassStatistics, encoder: Encoder, images: LabelledImages, name: str, store: FeatureStore
) -> ClassStatistics:
    """The new photos' statistics, made as the old ones were."""
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
    """Refuse photos that a set was made of, as far as its sums tell; they would count twice.

    Raises:
        UserError: They are the same, or all photos of a class are among them.
    """
    way_out = "give photos that it has not seen"
    for old, one, encoder in zip(kept.statistics, added, encoders):
        same = any(part.images == one.about.parts[0].images and not part.removed for part in old.about.parts)
        if same and not old.forgot(images.class_names):
            raise UserError(f"images {images.spec!r} are in {kept.name!r} already; {way_out}")
        bank = store.of(encoder, images, views=old.about.views, augment=old.about.augment or AugmentConfig())
        found = photos_counted_before(old, bank)
        if found is not None:
            name, count = found
            photos = "the photo" if count == 1 else f"the {count:,} photos"
            raise UserError(
                f"images {images.spec!r} hold {photos} of class {name!r} that are in {kept.name!r} already; {way_out}"
            )
    before, known = kept.distilled.run.images, kept.distilled.class_names
    shared = [name for name in images.class_names if name in known]
    if shared and (before.spec, before.split) == (images.spec, images.split):
        warnings.warn(
            f"{kept.name!r} was made from {images.spec!r}, too: photos of class {shared[0]!r} that were there then "
            "count twice",
            stacklevel=3,
        )


def _going_on(
    held: DistilledSet, statistics: Sequence[ClassStatistics], steps: int | None, seed: int | None
) -> DistillConfig:
    """The settings of a run that goes on from a set: those of the set, without what needs photos."""
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
    """(C · ipc, 3, S, S) what images of these classes start from."""
    if not classes:
        return torch.empty(0, 3, size, size)
    some = images.with_classes(classes)
    return starting_images(config, encoders, store.of(encoders[0], some), some, size)


def _subtracted(kept: KeptSet, removed: Sequence[ClassStatistics], classes: Sequence[str]) -> tuple[KeptSet, list[str]]:
    """The set with what is left of its statistics, and the classes that lost photos but stay."""
    names, left = kept.distilled.class_names, []
    for one in kept.statistics:
        own = [r for r in removed if r.about.encoder.fingerprint == one.about.encoder.fingerprint]
        if not own:
            raise UserError(
                f"none of the statistics to take out is of {one.about.encoder}, with which {kept.name!r} was made; "
                "give one for each of its encoders"
            )
        share = merge_statistics(own, union=True)
        for name in share.class_names:
            check_name("class of the statistics", name, names, f"(in {kept.name!r})")
        left.append(one - share.with_classes(names))
    counts = left[0].counts.tolist()
    lost = [name for name, old, now in zip(names, kept.statistics[0].counts.tolist(), counts) if now < old]
    hit = [name for name in lost if name not in classes]
    for name in hit:
        if not counts[names.index(name)]:
            raise UserError(f"class {name!r} has no photos left; take it out too: {option('classes', name)}")
    return replace(kept, statistics=tuple(left)), hit


def _not_named(kept: KeptSet, removed: Sequence[ClassStatistics]) -> list[str]:
    """A sentence if the run's statistics do not name some of the parts that are taken out."""
    known = {part.images for one in kept.statistics for part in one.about.parts}
    names = dict.fromkeys(part.name for one in removed for part in one.about.parts if part.images not in known)
    if not names:
        return []
    which = ", ".join(map(repr, names))
    return [
        f"Not proven: {which} is not among the parts that {kept.name!r} names. Its sums fit into those of the run, as "
        "those of some of its photos do; other photos' sums may fit, too, where there are many more photos than "
        "features."
    ]


def _still_there(name: str, cache: Path | str | None) -> str:
    """What no command takes away."""
    return (
        f"Still there: {name!r} itself, what was exported or copied from it, and features of its photos in the cache "
        f"({cache_folder(cache) / 'features'}). Delete them where they are not to be kept."
    )


def _what_remains(left: KeptSet, classes: Sequence[str], hit: Sequence[str], redistil: bool) -> list[str]:
    """What was taken out, and what may remain of it."""
    notes = []
    if classes:
        notes.append(f"Taken out: images and sums of {', '.join(map(repr, classes))}.")
    if hit:
        notes.append(
            f"Taken out: the photos' share of the sums; images of {', '.join(map(repr, hit))} were made again."
        )
    run = left.distilled.run
    if not redistil and run.baseline is None:
        began = f" Some of them began as {BEGINNINGS[run.begun_from]}." if run.began_as_photos else ""
        notes.append(
            "May remain: images of the other classes were optimised beside what was taken out, and stay as they were."
            + began
            + (f" {option('redistil', True)} makes all of them again." if left.statistics else "")
        )
    if classes and left.statistics and any(one.products is not None for one in left.statistics):
        notes.append(
            "May remain: the products of features are of all classes together and keep the way in which features of "
            "the class went together, as far as it is not that of all classes."
        )
    return notes
