"""Sets put together, and classes taken out or renamed: what needs no step of optimisation."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .._version import __version__
from ..errors import UserError, option
from ..features.statistics import ClassStatistics, merge_statistics, statistics_if_kept
from ..images.labelled import check_class_names, plain_name, warn_of_alike
from ..methods import check_name
from ..store.card import Licence, held_out_in, licence_of
from ..store.distilled import DistilledSet, Head
from ..store.layout import HELD_OUT, check_named_once
from ..store.named import run_folder, several_runs
from ..store.run_record import BEGINNINGS, ImagesRecord, PartOfSet, RunRecord
from ..text import and_more, counted, quoted
from .heads import head_of_statistics

_MOST_NAMED = 10  # renamed classes in a sentence


@dataclass(frozen=True)
class KeptSet:
    """A set with the statistics in its run.

    Attributes:
        distilled: The images.
        statistics: Statistics for each encoder, in their order; empty if the run has none.
        name: Name of the set in errors and records.
        notes: Sentences about parts that could not be carried over.
        licence: Its licence; ``None`` if it is unknown.
        held_out: Names of the images that were held out for testing.
    """

    distilled: DistilledSet
    statistics: tuple[ClassStatistics, ...] = ()
    name: str = "set"
    notes: tuple[str, ...] = ()
    licence: Licence | None = None
    held_out: tuple[str, ...] = ()

    def check_class(self, argument: str, name: str) -> None:
        """Raise `UserError` unless the set has the class; the message says if it was renamed."""
        now = self.distilled.run.once_called(name)
        since = f", where {name!r} was renamed to {' or '.join(map(repr, now))}" if now else ""
        check_name(argument, name, self.distilled.class_names, f"(in {self.name!r}{since})")

    @classmethod
    def load(cls, folder: Path | str) -> KeptSet:
        """Read a finished run.

        Raises:
            UserError: No such run, or a damaged one.
        """
        folder = run_folder(folder)
        distilled = DistilledSet.load(folder)
        return cls(
            distilled, tuple(statistics_if_kept(folder)), folder.resolve().name,
            licence=licence_of(folder), held_out=tuple(held_out_in(folder)),
        )  # fmt: skip


def load_runs(folders: Sequence[Path | str]) -> list[KeptSet]:
    """Read several finished runs.

    Raises:
        UserError: Fewer than two, one twice, or one that cannot be read.
    """
    folders = several_runs(folders)
    if len(folders) < 2:
        raise UserError(f"{counted(len(folders), 'run')} to merge; name two or more")
    found = [run_folder(folder) for folder in folders]
    check_named_once(found)
    return [KeptSet.load(folder) for folder in found]


def merge_sets(sets: Sequence[KeptSet], *, same_classes: bool = False) -> KeptSet:
    """Merge several sets into one with all their images and classes.

    If every set has statistics, they are added up, and the head of the merged set is computed from them, because rows
    of several heads were never trained against each other's classes. Soft labels are left out for the same reason.
    A class that sets share with the same images, because they extend one set, is taken once; photos of a class that
    sets share are counted once.

    Args:
        sets: At least two, made with the same encoders and with images of the same size.
        same_classes: Allow sets to share classes with different images; otherwise this is an error.

    Raises:
        UserError: The sets do not fit together, or have the same images of a class under two names.
    """
    first = sets[0]
    for one in sets:
        _check_fits(first, one)
    _check_one_name(sets)
    _warn_of_former_names(sets)
    whole = sets
    sets, once = _each_class_once(whole)
    names: list[str] = []
    for number, one in enumerate(sets):
        shared = [name for name in one.distilled.class_names if name in names]
        if shared and not same_classes:
            other = next(o for o in sets[:number] if shared[0] in o.distilled.class_names)
            both = [name for name in shared if name in other.distilled.class_names]
            which = f"classes {quoted(both)} are" if both[1:] else f"class {both[0]!r} is"
            it = "them" if both[1:] else "it"
            raise UserError(
                f"{which} in {other.name!r} and in {one.name!r}; forget {it} in one of the two, or let both sets' "
                f"images stand for {it} with {option('same_classes', True)}"
            )
        names += [name for name in one.distilled.class_names if name not in names]
    numbers = [torch.tensor([names.index(name) for name in one.distilled.class_names]) for one in sets]
    labels = torch.cat([number[one.distilled.labels] for number, one in zip(numbers, sets, strict=True)])
    order = labels.argsort(stable=True)
    images = torch.cat([one.distilled.float_images for one in sets])[order]
    statistics, notes = _merged_statistics(whole)
    if not statistics:  # merging statistics has warned already
        warn_of_alike(one.distilled.class_names for one in sets)
    head, more = _merged_head(sets, statistics)
    if any(one.distilled.soft_labels is not None for one in sets):
        more.append("Soft labels were left out: those of each set cover only its own classes.")
    most = int(torch.bincount(labels).max())
    private = [one.name for one in sets if one.distilled.run.privacy is not None]
    if private:
        more.append(f"The privacy promise of {private[0]!r} was left out: a merged set has none.")
    record = _merged_record(sets, tuple(names), statistics, most)
    merged = DistilledSet(images, labels[order], tuple(names), record, head=head)
    licence = first.licence if len({one.licence for one in sets}) == 1 else None
    name = " + ".join(one.name for one in sets)
    return KeptSet(merged, statistics, name, (*once, *notes, *more), licence, _held_out_of_all(whole))


def _held_out_of_all(sets: Sequence[KeptSet]) -> tuple[str, ...]:
    """Names of the images that every set of their class held out."""
    names = list(dict.fromkeys(name for one in sets for name in one.distilled.class_names))

    def everywhere(line: str) -> bool:
        of_class = _class_of_file(line, names)
        having = [one for one in sets if of_class is None or of_class in one.distilled.class_names]
        return all(line in one.held_out for one in having)

    return tuple(line for line in dict.fromkeys(line for one in sets for line in one.held_out) if everywhere(line))


def _check_one_name(sets: Sequence[KeptSet]) -> None:
    """Refuse a class that two sets have under different names: its photos would count twice."""
    known: dict[bytes, tuple[str, KeptSet]] = {}
    for one in sets:
        for name in one.distilled.class_names:
            images = one.distilled.of_class(name)
            other, theirs = known.setdefault(hashlib.sha256(images.numpy().tobytes()).digest(), (name, one))
            if len(images) and theirs is not one and other != name:
                raise UserError(
                    f"class {name!r} of {one.name!r} has the same images as class {other!r} of {theirs.name!r}; forget "
                    "one of the two, or rename one to the name of the other"
                )


def _warn_of_former_names(sets: Sequence[KeptSet]) -> None:
    """Warn of a class with the name that a class of another set had before: its photos may count twice."""
    for one, other in itertools.permutations(sets, 2):
        for name in one.distilled.class_names:
            now = other.distilled.run.once_called(name)
            if now and name not in other.distilled.class_names and now[0] not in one.distilled.class_names:
                warnings.warn(
                    f"class {now[0]!r} of {other.name!r} was called {name!r} before, as a class of {one.name!r} is; if "
                    "they are one class, give both the same name",
                    stacklevel=3,
                )


def _each_class_once(sets: Sequence[KeptSet]) -> tuple[list[KeptSet], list[str]]:
    """The sets without classes that an earlier one has, of the same images and photos; and sentences about these.

    Raises:
        UserError: A set has no other classes.
    """
    found: list[KeptSet] = []
    notes = []
    for one in sets:
        again = [name for name in one.distilled.class_names if any(_has_the_same(name, one, other) for other in found)]
        rest = tuple(name for name in one.distilled.class_names if name not in again)
        if again and not rest:
            raise UserError(
                f"{one.name!r} has only classes that the sets before it have, with the same images; leave it out, or "
                "name it before them"
            )
        if again:
            notes.append(f"Taken once: {quoted(again)}, with the same images in {one.name!r} as before.")
            one = replace(one, distilled=_images_of(one.distilled, rest))
        found.append(one)
    return found, notes


def _has_the_same(name: str, one: KeptSet, other: KeptSet) -> bool:
    """Whether two sets have a class with the same images, and with the same sums if both have statistics."""
    if name not in other.distilled.class_names:
        return False
    mine, its = (each.distilled.of_class(name) for each in (one, other))
    pairs = zip(one.statistics, other.statistics)
    return torch.equal(mine, its) and all(a.same_photos_of(name, b) for a, b in pairs)


def _images_of(held: DistilledSet, names: tuple[str, ...]) -> DistilledSet:
    """Return the set with some of its classes. Head and soft labels are still those of all."""
    place = torch.tensor([names.index(name) if name in names else -1 for name in held.class_names])
    labels = place[held.labels]
    stay = labels >= 0
    return replace(held, float_images=held.float_images[stay], labels=labels[stay], class_names=names)


def without_classes(kept: KeptSet, gone: Sequence[str]) -> KeptSet:
    """Return the set without some classes: without their images, statistics, and part of the head.

    The images of the other classes are not changed. The head is computed again from the remaining statistics; without
    statistics it is left out, because each of its rows was trained against the removed classes.

    Args:
        kept: The set.
        gone: Names of the classes.

    Raises:
        UserError: Unknown class, or fewer than two classes would remain.
    """
    held = kept.distilled
    for name in gone:
        kept.check_class("class", name)
    names = tuple(name for name in held.class_names if name not in gone)
    if len(names) < 2:
        left_over = f"{len(names)} class" if len(names) == 1 else "no class"
        raise UserError(f"{left_over} of {kept.name!r} would be left; a set needs two")
    statistics = tuple(one.with_classes(names) for one in kept.statistics)
    head, notes = _head_again(held.head, statistics)
    if held.soft_labels is not None:
        notes.append("Soft labels were left out: they were made with the removed classes.")
    record = replace(
        held.run, class_names=names, statistics=tuple(one.about for one in statistics) if held.run.statistics else (),
        forgotten=(*held.run.forgotten, *gone), images=_left_of(held.run.images, gone, statistics),
        accuracy=[], skipped=(),  # accuracy on other classes; names of removed photos
    )  # fmt: skip
    distilled = replace(_images_of(held, names), run=record, head=head, soft_labels=None)
    held_out = tuple(line for line in kept.held_out if _class_of_file(line, held.class_names) not in gone)
    return replace(kept, distilled=distilled, statistics=statistics, notes=tuple(notes), held_out=held_out)


def with_names(kept: KeptSet, renamed: Mapping[str, str]) -> KeptSet:
    """Return the set with other names for some classes; images, sums, head and soft labels stay as they are.

    Args:
        kept: The set.
        renamed: The new name of each class that gets one.

    Raises:
        UserError: Unknown class, a name that cannot be stored, or two classes of one name.
    """
    held = kept.distilled
    for name in renamed:
        kept.check_class("class", name)
    names = tuple(renamed.get(name, name) for name in held.class_names)
    check_class_names(names, f"{kept.name!r}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two classes of {kept.name!r} would be called {twice!r}; give each a name of its own")
    statistics = tuple(replace(one, about=replace(one.about, class_names=names)) for one in kept.statistics)
    record = replace(
        held.run, class_names=names, renamed=_names_since(held.run.renamed, renamed),
        statistics=tuple(replace(about, class_names=names) for about in held.run.statistics),
    )  # fmt: skip
    pairs = [f"{old!r} → {new!r}" for old, new in list(renamed.items())[:_MOST_NAMED]]
    notes = [
        f"Renamed: {', '.join(pairs)}{and_more(len(renamed), _MOST_NAMED)}. Commands that read photos of these classes "
        "need the new names, too: those of their folders, for example."
    ]
    held_out = tuple(_renamed_file(line, held.class_names, renamed) for line in kept.held_out)
    if held_out != kept.held_out:
        notes.append(
            "Held out: which photos are held out depends on the names of their folders. If you rename the folders, "
            f"too, test only on the photos in {HELD_OUT}."
        )
    named = replace(held, class_names=names, run=record)
    return replace(kept, distilled=named, statistics=statistics, notes=tuple(notes), held_out=held_out)


def _names_since(before: Sequence[tuple[str, str]], renamed: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Pairs of a former and the present name: those of earlier renamings, and the new ones."""
    pairs = [*((old, renamed.get(now, now)) for old, now in before), *renamed.items()]
    return tuple(pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1])


def _renamed_file(name: str, class_names: Sequence[str], renamed: Mapping[str, str]) -> str:
    """The name of a file below the folder of its class, with the new name of the class as the folder."""
    parts, place = name.split("/"), _place_of_class(name, class_names)
    if place is not None:
        parts[place] = renamed.get(plain_name(parts[place]), parts[place])
    return "/".join(parts)


def _class_of_file(name: str, class_names: Sequence[str]) -> str | None:
    """The class of a file in a class folder, ``cat/1.png`` or ``train/cat/1.png``; ``None`` if its path has none."""
    place = _place_of_class(name, class_names)
    return None if place is None else plain_name(name.split("/")[place])


def _place_of_class(name: str, class_names: Sequence[str]) -> int | None:
    """Which part of a file's path is the folder of its class: the first, or the second below that of a split."""
    folders = name.split("/")[:-1][:2]
    return next((place for place, folder in enumerate(folders) if plain_name(folder) in class_names), None)


def _left_of(images: ImagesRecord, gone: Sequence[str], statistics: Sequence[ClassStatistics]) -> ImagesRecord:
    """Return the record of the photos without some classes; only statistics know how many photos that leaves."""
    digest = hashlib.sha256("\n".join((images.fingerprint, *gone)).encode()).hexdigest()
    return replace(images, fingerprint=digest, count=_count_of(statistics, images.count))


def _count_of(statistics: Sequence[ClassStatistics], count: int) -> int:
    """How many photos are behind statistics; ``count`` if there are none."""
    return max(round(statistics[0].total), 0) if statistics else count


def _check_fits(first: KeptSet, other: KeptSet) -> None:
    """Refuse a set that cannot be merged with the first set."""
    mine, its = first.distilled, other.distilled
    ours, theirs = ([(e.fingerprint, e.precision) for e in one.run.encoders] for one in (mine, its))
    if ours != theirs:
        encoders = (" and ".join(map(str, one.run.encoders)) or "none" for one in (mine, its))
        raise UserError(
            f"{first.name!r} and {other.name!r} were made with different encoders ({', '.join(encoders)}); merge sets "
            "of the same encoders"
        )
    if mine.float_images.shape[1:] != its.float_images.shape[1:]:
        sides = (one.float_images.shape[-1] for one in (mine, its))
        raise UserError(
            f"images of {first.name!r} and {other.name!r} have {' and '.join(map(str, sides))} px; distil one again "
            f"with the other's {option('canvas.size')}"
        )
    views, its_views = (vars(one.run.config.augment.settled()) for one in (mine, its))
    for name, value in views.items():
        if value != its_views[name]:
            raise UserError(
                f"{first.name!r} and {other.name!r} were distilled with different views (augment.{name} {value} and "
                f"{its_views[name]}), and probes would train on those of {first.name!r} alone; distil one of them "
                "again with the views of the other"
            )


def _merged_statistics(sets: Sequence[KeptSet]) -> tuple[tuple[ClassStatistics, ...], list[str]]:
    """Add up all sets' statistics for each encoder, with the photos of each class once; and sentences about them.

    Return none, with a note, unless every set has statistics.
    """
    without = [one.name for one in sets if not one.statistics]
    if 0 < len(without) < len(sets):
        return (), [f"Statistics were left out: {without[0]!r} has none."]
    added: list[list[ClassStatistics]] = [[] for _ in sets[0].statistics]
    notes = []
    for one in sets:
        for before, statistics in zip(added, one.statistics):
            before.append(statistics.without_photos_of(before))
        by_estimate = [
            left[-1].products is not None and left[-1].total > 0 and left[-1].about.dropped != whole.about.dropped
            for left, whole in zip(added, one.statistics)
        ]
        if any(by_estimate):
            notes.append(
                f"Products of features are summed over all classes, so the part of the classes in {one.name!r} whose "
                "photos are in the sets before it was taken out by estimate. If these sets extend one set, name that "
                "set first: then nothing is estimated."
            )
    return tuple(merge_statistics(parts, union=True) for parts in added), notes


def _merged_head(sets: Sequence[KeptSet], statistics: Sequence[ClassStatistics]) -> tuple[Head | None, list[str]]:
    heads = [one.distilled.head for one in sets]
    if any(heads) and not all(heads):
        return None, ["The head was left out: not every set has one."]
    return _head_again(heads[0], statistics)


def _head_again(old: Head | None, statistics: Sequence[ClassStatistics]) -> tuple[Head | None, list[str]]:
    """A head of the same encoder, from statistics; ``None``, with a note, if they do not suffice."""
    if old is None:
        return None, []
    for one in statistics:
        if one.about.encoder.fingerprint == old.fingerprint and one.products is not None and not one.private:
            return head_of_statistics(one), []
    return None, [
        "The head was left out: it was trained on different classes, and without statistics (distill "
        "--keep-stats) it cannot be computed again."
    ]


def _merged_record(
    sets: Sequence[KeptSet], names: tuple[str, ...], statistics: Sequence[ClassStatistics], most: int
) -> RunRecord:
    """The record of the merged set: the settings of the first set that was distilled, and an entry for each part."""
    runs = [one.distilled.run for one in sets]
    begun, first = {run.begun_from for run in runs}, runs[0]
    config = next((run.config for run in runs if run.optimised), first.config)
    digest = hashlib.sha256("".join(run.images.fingerprint for run in runs).encode()).hexdigest()
    parts = tuple(
        PartOfSet(
            name=one.name, class_names=run.class_names, images=run.images, method=run.method,
            steps=0 if run.made_elsewhere else run.config.steps, seed=run.config.seed, pictures=run.pictures,
        )
        for one, run in zip(sets, runs, strict=True)
    )  # fmt: skip
    return RunRecord(
        finished=True,
        config=replace(config, images_per_class=most),
        encoders=first.encoders,
        images=ImagesRecord(
            " + ".join(r.images.spec for r in runs),
            "merged",
            _count_of(statistics, sum(r.images.count for r in runs)),
            digest,
        ),
        class_names=names,
        versions={**first.versions, "probedistill": __version__},
        device=first.device,
        skipped=tuple(line for run in runs for line in run.skipped),
        begun_from=next((start for start in BEGINNINGS if start in begun), first.begun_from),
        statistics=tuple(one.about for one in statistics) if all(run.statistics for run in runs) else (),
        parts=parts,
        renamed=tuple(dict.fromkeys(pair for run in runs for pair in run.renamed)),
        seconds=sum(run.seconds for run in runs),
    )
