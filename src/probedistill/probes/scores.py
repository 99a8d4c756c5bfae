"""Scores of a fitted probe."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError
from ..store.records import Count, Share
from ..text import counted
from .arrays import Array, class_indices
from .kinds import Classifier, scores_of

if TYPE_CHECKING:
    import torch

MOST_CONFUSED = 40
_FITTED = "LinearProbe().fit(X, y)"


@dataclass(frozen=True)
class Scores:
    """Scores of a probe on labelled features; all in [0, 1].

    Attributes:
        top1: Share of images whose class has the largest logit.
        top5: Share of images whose class is among the five largest; ``None`` for fewer than five classes, and 1 for
            five, when tables leave it out.
        per_class: Recall of each class that has test images, by class name.
        worst_group: The smallest of ``groups``; ``None`` without groups.
        groups: Top-1 within each group, by group name; ``None`` without groups.
        n: Number of test images.
        balanced: Mean of ``per_class``.
        confusion: C × C counts of test images of class r that the probe assigns to class k. ``None`` for more than
            `MOST_CONFUSED` classes, too many for a matrix.
    """

    top1: Share
    top5: Share | None
    per_class: dict[str, Share] = field(repr=False)
    worst_group: Share | None
    groups: dict[str, Share] | None = field(repr=False)
    n: Count
    balanced: Share
    confusion: tuple[tuple[Count, ...], ...] | None = field(default=None, repr=False)


def score_probe(
    probe: Classifier,
    X: ArrayLike | torch.Tensor,
    y: ArrayLike | torch.Tensor,
    *,
    class_names: Sequence[str],
    groups: Sequence[str] | None = None,
    called: str = "the probe",
) -> Scores:
    """Score a fitted probe on test features.

    A class that the probe never saw in training is never predicted: its test images count as
    wrong in every score. If logits are equal, the lower class wins.

    Args:
        probe: A :class:`LinearProbe`, or another fitted classifier with ``decision_function`` or ``predict_proba``,
            whose labels are indices into ``class_names``.
        X: (n, d) features.
        y: (n,) integer class indices in 0 … C−1.
        class_names: The C names. ``per_class`` distinguishes a name that occurs twice by its
            index: ``"crane (517)"``.
        groups: (n,) group names, for example background or domain.
        called: Name of the probe in errors.

    Returns:
        The scores.

    Raises:
        UserError: No test images, lengths that differ, labels that are not indices into
            ``class_names``, or scores that are NaN or not one for each class.
    """
    names = [str(name) for name in class_names]
    labels = class_indices("y", y, len(names))
    if not hasattr(probe, "classes_"):
        raise UserError(f"{called} is not fitted: it has no classes_; give a fitted classifier, such as {_FITTED}")
    known = class_indices("probe.classes_", probe.classes_, len(names))
    if len(labels) == 0:
        raise UserError("y is empty: there are no test images to score")
    if groups is not None and len(groups) != len(labels):
        raise UserError(f"groups has {counted(len(groups), 'entry', 'entries')} for {counted(len(labels), 'image')}")

    logits = scores_of(probe, X, called)
    if logits.ndim == 1:
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    if len(logits) != len(labels):
        raise UserError(f"X has {counted(len(logits), 'row')} for {counted(len(labels), 'label')} in y")
    if logits.shape[1:] != known.shape:
        classes = counted(len(known), "class", "classes")
        raise UserError(f"{called} cannot be scored: its scores have the shape {logits.shape} for {classes}")
    if np.isnan(logits).any():
        raise UserError(f"{called} cannot be scored: its scores are not numbers (NaN)")
    said = known[_best(logits, 5)]
    hits = said == labels[:, None]
    top1 = hits[:, 0]

    counts = Counter(names)
    shares = _shares(top1, labels, len(names))
    per_class = {
        name if counts[name] == 1 else f"{name} ({index})": shares[index]
        for index, name in enumerate(names)
        if not math.isnan(shares[index])
    }
    by_group: dict[str, float] | None = None
    if groups is not None:
        present, codes = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
        by_group = dict(zip(present.tolist(), _shares(top1, codes, len(present)), strict=True))
    return Scores(
        top1=float(top1.mean()),
        top5=float(hits.any(axis=1).mean()) if len(names) >= 5 else None,
        per_class=per_class,
        worst_group=None if by_group is None else min(by_group.values()),
        groups=by_group,
        n=len(labels),
        balanced=float(np.mean(list(per_class.values()))),
        confusion=_confusion(labels, said[:, 0], len(names)),
    )


def _confusion(labels: Array, said: Array, count: int) -> tuple[tuple[int, ...], ...] | None:
    if count > MOST_CONFUSED:
        return None
    pairs = np.bincount(labels * count + said, minlength=count * count).reshape(count, count)
    return tuple(tuple(row) for row in pairs.tolist())


def _best(logits: Array, count: int) -> Array:
    """The ``count`` columns with the largest logits, largest first; for equal logits the lower column first."""
    columns = np.arange(logits.shape[1])
    if logits.shape[1] <= 4 * count:
        return np.argsort(-logits, axis=1, kind="stable")[:, :count]
    # With a thousand classes, sorting only the candidates, ties included, takes a tenth of the time.
    least = -np.partition(-logits, count - 1, axis=1)[:, count - 1]
    found = np.empty((len(logits), count), dtype=np.int64)
    for row, (values, bound) in enumerate(zip(logits, least)):
        candidates = columns[values >= bound]
        found[row] = candidates[np.argsort(-values[candidates], kind="stable")][:count]
    return found


def _shares(hits: Array, labels: Array, count: int) -> list[float]:
    """Share of hits among the rows of each label; NaN for a label without rows."""
    with np.errstate(invalid="ignore"):
        shares = np.bincount(labels, hits, minlength=count) / np.bincount(labels, minlength=count)
    return [float(share) for share in shares]
