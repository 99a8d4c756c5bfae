"""Candidates for a head of a new encoder, fitted on views of synthetic images: from scratch, or behind a projector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq

from ..probes.inherited import InheritedProbe
from ..probes.linear import LinearProbe
from ..probes.projectors import low_rank_affine, procrustes
from .base import Array

SCRATCH = ("ridge", "logistic")
"""Candidates that need only the synthetic images."""
INHERITED = ("inherited", "procrustes", "low-rank")
"""Candidates behind a projector: they need the old encoder and its head."""
AVERAGE = "average"
CANDIDATES = (*SCRATCH, *INHERITED, AVERAGE)

_EVERY = 4  # cross-validation fits on every fourth view
_POWERS = 16.0  # largest exponent of e for a temperature

Linear = tuple[Array, Array]
"""Weight (C, d) and bias (C,)."""


@dataclass(frozen=True)
class Lesson:
    """Views that candidates are fitted on: of the new encoder, and of each old one with its head."""

    target: Array
    labels: Array
    teachers: list[tuple[Linear, Array]]
    soft: Array | None = None

    def fit(self, name: str) -> Linear:
        """Weight and bias of a candidate."""
        if name in SCRATCH:
            probe = LinearProbe(name).fit_views(self.target, self.labels, self.soft)
            return probe.coef_, probe.intercept_
        if name == AVERAGE:
            return _mean([self.fit("ridge"), self.fit("inherited")])
        return _mean([self._behind(name, head, source) for head, source in self.teachers])

    def _behind(self, name: str, head: Linear, source: Array) -> Linear:
        """A projector to an old encoder's features, followed by that encoder's head W*, as one linear classifier."""
        if name == "inherited":
            probe = InheritedProbe(*head).fit_views(self.target, self.labels, source)
            return probe.coef_, probe.intercept_
        project = {"procrustes": procrustes, "low-rank": low_rank_affine}[name]
        matrix, offset = project(flat(self.target), flat(source))
        weight, bias = head
        return weight @ matrix, weight @ offset + bias

    def of(self, views: Array) -> Lesson:
        """Some of the views of all images."""
        teachers = [(head, source[views]) for head, source in self.teachers]
        return replace(self, target=self.target[views], teachers=teachers)

    @property
    def units(self) -> int:
        """Views on which a candidate is fitted, in all: one in each fold, and every view for its head."""
        return len(self._first_views) + len(self.target)

    @property
    def _first_views(self) -> range:
        return range(0, len(self.target), _EVERY)

    def folds(self) -> Iterator[tuple[Lesson, Lesson]]:
        """One view of each image to train on and all others to test on, several times.

        A head is trained on many more views, but with twenty, nearly every held-out view is classified correctly with
        any encoder.
        """
        for first in self._first_views:
            one = np.arange(len(self.target)) == first
            yield self.of(one), self.of(~one)


def _mean(heads: Sequence[Linear]) -> Linear:
    """The classifier whose logits are the mean of the given classifiers' logits."""
    return sum(head[0] for head in heads) / len(heads), sum(head[1] for head in heads) / len(heads)  # type: ignore[return-value]


def flat(views: Array) -> Array:
    """Features (n, N, d) of n views as doubles, one row (n · N, d) for each view of an image."""
    return views.reshape(-1, views.shape[2]).astype(np.float64)


def cross_validated(lesson: Lesson, name: str) -> float:
    """Mean accuracy on the held-out views."""
    return float(np.mean(list(accuracies(lesson, name))))


def accuracies(lesson: Lesson, name: str) -> Iterator[float]:
    """A candidate's accuracy on the held-out views of each fold."""
    for part, rest in lesson.folds():
        yield _accuracy(part.fit(name), rest.target, rest.labels)


def _accuracy(head: Linear, features: Array, labels: Array) -> float:
    return float(np.mean((features @ head[0].T + head[1]).argmax(axis=-1) == labels))


def temperature(head: Linear, logistic: Linear, lesson: Lesson) -> float:
    """Divisor of a head's logits that makes its softmax as confident as that of the logistic probe, on average.

    Logits of regressions are so close together that their softmax would give all classes nearly the same probability.
    The logistic probe is fitted to probabilities. Held-out photos would be a better reference, but they are gone.
    """
    views = flat(lesson.target)

    def sure(logits: Array) -> float:
        return float(np.mean(1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)))

    (weight, bias), (known_weight, known_bias) = head, logistic
    logits, wanted = views @ weight.T + bias, sure(views @ known_weight.T + known_bias)

    def excess(power: float) -> float:
        return sure(logits / np.exp(power)) - wanted

    if excess(-_POWERS) <= 0 or excess(_POWERS) >= 0:  # e.g. all logits are equal
        return 1.0
    return float(np.exp(brentq(excess, -_POWERS, _POWERS)))
