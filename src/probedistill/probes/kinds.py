"""Probes by name, and what `evaluate` must know of each.

Adding a probe is a file ``probes/NAME.py`` with a `Kind`, and a line in `PROBES`. A user's own needs neither: a
scikit-learn classifier is enough, named on the command line as ``--probes module:mine:Nearest`` or added by a package
under the entry point ``probedistill.probe``. This is ``mine.py``, a whole probe::

    import numpy as np
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Nearest(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):                       # (n, d) features of all views, (n,) class indices
            self.classes_ = np.unique(y)
            self.means_ = np.stack([X[y == c].mean(0) for c in self.classes_])
            return self

        def decision_function(self, X):            # (n, C), the largest wins
            return X @ self.means_.T - (self.means_**2).sum(1) / 2

A classifier with a parameter ``random_state`` is given the evaluation seed and fitted once for each. Instead of a class
it may be an object with its settings: ``probe = make_pipeline(StandardScaler(), KNeighborsClassifier(3))``. A probe
that needs more (soft labels, the set's head, its own number of views) is a `Kind`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..config import EvaluateConfig
from ..errors import UserError, explained
from ..methods import check_known
from ..registry import Registry
from .arrays import Array, to_numpy

if TYPE_CHECKING:
    from torch import Tensor

PROBES = Registry(
    "probe",
    {
        "ridge": ".probes.linear:RIDGE",
        "logistic": ".probes.linear:LOGISTIC",
        "sgd": ".probes.linear:SGD",
        "1nn": ".probes.nearest:NEAREST",
        "inherited": ".probes.inherited:INHERITED",
    },
)
# Not part of `Kind`: whoever only reads scores need not load probes, whose libraries take seconds, or may be gone.
_WITHOUT_EPOCHS = frozenset({"ridge", "logistic", "1nn", "inherited"})


class Classifier(Protocol):
    """The part of a fitted scikit-learn classifier that `score_probe` needs."""

    classes_: Array

    def decision_function(self, X: Any) -> Array:
        """Return scores (n, C), the largest of which wins, or their difference (n,) for two classes."""


@dataclass(frozen=True)
class Lesson:
    """What a probe is trained on.

    Attributes:
        views: (V, n, d) features of V views of n images.
        labels: (n,) class indices.
        targets: (n, C) soft labels, which a probe with `Kind.soft_labels` learns instead of ``labels``, or ``None``.
        seed: Seed of all random numbers of the probe.
        epochs: Passes over the images, for probes that make passes.
        head: Weight (C, d_φ) and bias (C,) of the set's head, for a probe with `Kind.needs_head`.
        source_views: (V, n, d_φ) features of the same views by the head's encoder, or ``None``.
    """

    views: Tensor
    labels: Tensor
    targets: Tensor | None = None
    seed: int = 0
    epochs: int = 1000
    head: tuple[Tensor, Tensor] | None = None
    source_views: Tensor | None = None


def _stored_views(config: EvaluateConfig) -> int:
    return int(config.views)  # evaluation has replaced "auto" by now


@dataclass(frozen=True)
class Kind:
    """What `evaluate` must know of a probe.

    Attributes:
        fit: Fits the probe.
        deterministic: Whether the fit draws nothing: a training set that is the same for every seed is then fitted
            once.
        soft_labels: Whether it learns from soft labels. If not, a set with soft labels is scored by it once.
        needs_head: Whether it needs the set's head.
        on_features: Name of the probe that takes its place on features without images (all real data, class means),
            or ``None`` if it can be fitted there itself.
        views: How many augmented views of each image it takes, by the config.
    """

    fit: Callable[[Lesson], Classifier]
    deterministic: bool = True
    soft_labels: bool = True
    needs_head: bool = False
    on_features: str | None = None
    views: Callable[[EvaluateConfig], int] = _stored_views


def kind_of(name: str) -> Kind:
    """The kind of a probe's name.

    Raises:
        UserError: No probe has this name, or the named object is neither a `Kind` nor a classifier.
    """
    found = PROBES.load(name)
    if isinstance(found, Kind):
        return found
    if callable(found) and hasattr(found, "fit"):
        return _of_classifier(found, "random_state" in inspect.signature(found).parameters, name)
    if hasattr(found, "fit") and hasattr(found, "get_params"):
        seeds = [one for one in found.get_params() if one == "random_state" or one.endswith("__random_state")]
        return _of_classifier(partial(_copied, found, seeds), bool(seeds), name)
    raise UserError(f"probe {name!r} must be a scikit-learn classifier, its class or a Kind, not {found!r:.60}")


def _copied(classifier: Any, seeds: Sequence[str], random_state: int | None = None) -> Any:
    """A classifier that is not fitted, with the same parameters, apart from its seeds."""
    from sklearn.base import clone

    return clone(classifier).set_params(**dict.fromkeys(seeds, random_state))


def check_probes(names: Iterable[str]) -> None:
    """Raise `UserError` if no probe has one of the names."""
    for name in names:
        check_known(PROBES, "probe", name)
        kind_of(name)


def on_features(names: Iterable[str]) -> list[str]:
    """The probes that are fitted on features without images, each once."""
    return list(dict.fromkeys(kind_of(name).on_features or name for name in names))


def need_head(names: Iterable[str]) -> list[str]:
    """The probes among these that need the set's head."""
    return [name for name in names if kind_of(name).needs_head]


def has_epochs(name: str) -> bool:
    """Whether a probe's scores depend on the number of epochs or of sgd's views; those of one's own may."""
    return name not in _WITHOUT_EPOCHS


def _of_classifier(factory: Callable[..., Any], drawn: bool, name: str) -> Kind:
    """The kind for a scikit-learn classifier: each view of each image is a sample, in the order of the views.

    Args:
        factory: Makes one that is not fitted.
        drawn: Whether it takes a ``random_state``.
        name: Name of the probe.
    """

    def fit(lesson: Lesson) -> Classifier:
        samples = lesson.views.flatten(0, 1).numpy()
        labels = lesson.labels.repeat(len(lesson.views)).numpy()
        with explained(f"probe {name!r} could not be fitted", Exception):
            probe = factory(random_state=lesson.seed) if drawn else factory()
            return _Outside(probe.fit(samples, labels), name)

    return Kind(fit, deterministic=not drawn, soft_labels=False)


class _Outside:
    """A user's classifier with a `decision_function`, which may return its probabilities."""

    def __init__(self, probe: Any, name: str) -> None:
        self._probe, self._name = probe, name
        if not hasattr(probe, "classes_"):
            raise UserError(f"probe {name!r} has no classes_ after fit, which must return the probe; set it there")
        self.classes_ = probe.classes_

    def decision_function(self, X: Any) -> Array:
        return scores_of(self._probe, np.asarray(to_numpy(X)), f"probe {self._name!r}")


def scores_of(probe: Any, X: Any, called: str) -> Array:
    """What a fitted classifier says of each class of features (n, d): its `decision_function`, else its probabilities.

    Args:
        probe: The classifier.
        X: Features.
        called: Its name in errors.

    Raises:
        UserError: It has neither, or fails.
    """
    with explained(f"{called} could not be scored", Exception):
        for method in ("decision_function", "predict_proba"):
            if hasattr(probe, method):
                return np.asarray(getattr(probe, method)(to_numpy(X)))
    raise UserError(f"{called} has neither decision_function nor predict_proba; add one")
