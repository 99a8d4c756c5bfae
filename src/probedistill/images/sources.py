"""What every source is: a spec with splits, each of which gives labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .labelled import CLASSES_ARGUMENT, LabelledImages

TRAINING = ("trainval", "train", "training", "train-standard", "all")
TESTING = ("test", "testing", "val", "validation", "valid")
ALIASES = ({"train", "training"}, {"test", "testing"}, {"val", "valid", "validation"})
FOLDER_SPLITS = frozenset().union(*ALIASES)
WHOLE = "all"  # the one split of a source without splits


class Source:
    """Where images come from: its splits, and a function that finds the images of one of them."""

    def __init__(self, spec: str, splits: Sequence[str], read: Callable[[str], LabelledImages]) -> None:
        self.spec, self.splits, self._read = spec, tuple(splits), read

    def load(self, split: str, classes: tuple[str, ...] | None, *, absent_ok: bool = False) -> LabelledImages:
        """Find the images of a split; ``absent_ok`` lets it lack some of ``classes``."""
        images = self._read(split)
        if classes is None:
            return images
        return images._with_classes(classes, CLASSES_ARGUMENT, absent_ok)
