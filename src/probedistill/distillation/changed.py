"""What became of the images of a set that was merged, extended, or had something taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from ..features.statistics import statistics_if_kept
from ..show.results import Result
from ..show.tables import NOTHING, Table
from ..store.distilled import DistilledSet
from ..text import counted

Became = Literal["as before", "changed", "new", "gone"]
_MOST_ALIKE = 20  # classes that became the same, each with its own line on a page


@dataclass(frozen=True)
class ChangedClass:
    """A class before and after.

    Attributes:
        name: Its name.
        images: How many synthetic images it has now.
        photos: How many photos are behind its statistics now; ``None`` if the set has no statistics.
        became: ``"as before"``: bit-identical; ``"changed"``: optimised again, or images were added; ``"new"`` or
            ``"gone"``: only one of the sets has the class.
    """

    name: str
    images: int
    photos: int | None
    became: Became


@dataclass(frozen=True)
class ChangedSet(Result):
    """What happened to the images of a set, class by class.

    Attributes:
        out: Folder of the new set.
        images: How many images it has.
        classes: Its classes, then those that are gone.
        notes: Sentences about what was left out or may remain.
    """

    out: str
    images: int
    classes: tuple[ChangedClass, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, before: Sequence[DistilledSet], after: DistilledSet, out: Path | str, notes: Sequence[str] = ()
    ) -> ChangedSet:
        """Compare a set in a folder with the sets that it was made from.

        Args:
            before: The sets that were changed or merged.
            after: The new set.
            out: Its folder.
            notes: Further sentences.
        """
        kept = statistics_if_kept(out)
        counts = dict(zip(kept[0].class_names, kept[0].counts.tolist(), strict=True)) if kept else {}
        rows = []
        for name in after.class_names:
            images, each = after.of_class(name), [one.of_class(name) for one in before]
            old = torch.cat(each)
            same = any(torch.equal(images, one) for one in (old, *each))
            became: Became = "new" if not len(old) else "as before" if same else "changed"
            rows.append(ChangedClass(name, len(images), round(counts[name]) if name in counts else None, became))
        gone = dict.fromkeys(n for one in before for n in one.class_names if n not in after.class_names)
        rows += [ChangedClass(name, 0, 0 if kept else None, "gone") for name in gone]
        return cls(str(out), len(after), tuple(rows), tuple(notes))

    def tables(self) -> list[Table]:
        """A row for each class."""
        return [_table(self.classes)]

    def fitting(self, width: int) -> list[Table]:
        """A row for each class, but only the first of many classes that became the same; their others share a row."""
        alike = [[one for one in self.classes if one.became == became] for became in get_args(Became)]
        shown = {one.name for classes in alike for one in classes[:_MOST_ALIKE]}
        others = [_together(classes[_MOST_ALIKE:]) for classes in alike if len(classes) > _MOST_ALIKE]
        return [_table([*(one for one in self.classes if one.name in shown), *others])]

    def findings(self) -> list[str]:
        """The notes, and how many images there are."""
        count = sum(one.became != "gone" for one in self.classes)
        return [*self.notes, f"{self.images} images of {count} classes → {self.out}"]


def _together(classes: Sequence[ChangedClass]) -> ChangedClass:
    photos = None if classes[0].photos is None else sum(one.photos or 0 for one in classes)
    name = counted(len(classes), "more class", "more classes")
    return ChangedClass(name, sum(one.images for one in classes), photos, classes[0].became)


def _table(classes: Sequence[ChangedClass]) -> Table:
    rows = tuple(
        (one.name, one.became, f"{one.images:,}", NOTHING if one.photos is None else f"{one.photos:,}")
        for one in classes
    )
    return Table("Images of each class", ("class", "images are", "images", "photos"), rows, left=2)
