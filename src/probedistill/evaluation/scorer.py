"""A row of an evaluation: a probe on some views of a training set, fitted and scored for every seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from torch import Tensor

from ..config import EvaluateConfig
from ..encoders.encoder import Encoder
from ..features.bank import FeatureBank
from ..probes.kinds import PROBES, Lesson, kind_of, on_features
from ..probes.scores import Scores, score_probe
from ..store.distilled import Head
from .result import NO_AUGMENTATION, Row
from .training_sets import TrainingSet


@dataclass(frozen=True)
class Trial:
    """One row to compute: a probe on some views of a training set."""

    name: str
    solver: str
    augmented: bool
    soft: bool

    @property
    def probe(self) -> str:
        """How the row calls its probe."""
        return self.solver if self.augmented else self.solver + NO_AUGMENTATION


@dataclass(frozen=True)
class Scorer:
    """Fits probes on training sets and scores them on the features of test images."""

    encoder: Encoder
    test: FeatureBank
    config: EvaluateConfig
    groups: Sequence[str] | None
    head: Head | None
    source: Encoder | None

    def trials(self, training_set: TrainingSet) -> list[Trial]:
        """The rows that a training set is scored in, in the order of the table."""
        names = {training_set.name: training_set.soft is not None}
        if training_set.soft is not None:
            names[f"{training_set.name}, hard labels"] = False
        solvers = self.config.probes if training_set.has_images else on_features(self.config.probes)
        trials = []
        for name, soft in names.items():
            for solver in solvers:
                learns_soft = kind_of(solver).soft_labels
                if not learns_soft and name != training_set.name:
                    continue  # already scored on the hard labels
                for augmented in [True, False] if self.config.without_augmentation else [True]:
                    trials.append(Trial(name, solver, augmented, soft and learns_soft))
        return trials

    def fits(self, training_set: TrainingSet, trial: Trial) -> int:
        """How many seeds a row's probe is fitted for; a single one if all seeds give the same."""
        return 1 if training_set.fixed and kind_of(trial.solver).deterministic else self.config.seeds

    def row(self, training_set: TrainingSet, trial: Trial, *, tell: Callable[[str], object] = lambda note: None) -> Row:
        """Fit and score one probe for every seed; after each fit, tell the accuracy so far."""
        kind = kind_of(trial.solver)
        started = time.perf_counter()
        scores: list[Scores] = []
        for seed in range(self.fits(training_set, trial)):
            scores.append(self._scores(training_set, trial, seed))
            tell(f"{trial.name}, {trial.probe} {100 * fmean(one.top1 for one in scores):.1f}%")
        scores += scores[:1] * (self.config.seeds - len(scores))
        of_full = kind.on_features
        if of_full is not None and not trial.augmented:
            of_full += NO_AUGMENTATION
        return Row(
            name=trial.name,
            probe=trial.probe,
            images=len(training_set.labels(0)),
            scores=tuple(scores),
            seconds=round(time.perf_counter() - started, 3),
            soft_labels=trial.soft,
            on_features=of_full,
            head=kind.needs_head,
            code=PROBES.code_of(trial.solver),
        )

    def passes(self, trials: Sequence[tuple[TrainingSet, Trial]]) -> int:
        """How many images go through the encoder for these rows."""
        wanted = {(id(one), self._views(trial)): (one, self._views(trial)) for one, trial in trials}
        encoders = [self.encoder]
        if self.source is not None and self.source is not self.encoder:
            encoders.append(self.source)
        return sum(
            one.passes(encoder, seed, views)
            for one, views in wanted.values()
            for encoder in encoders
            for seed in range(self.config.seeds)
        )

    def _scores(self, training_set: TrainingSet, trial: Trial, seed: int) -> Scores:
        views, kind = self._views(trial), kind_of(trial.solver)
        features = training_set.features(self.encoder, seed, views)
        lesson = Lesson(
            views=features,
            labels=training_set.labels(seed),
            targets=training_set.soft if trial.soft else None,
            seed=seed,
            epochs=training_set.epochs or self.config.epochs,
        )
        if kind.needs_head:
            assert self.head is not None
            lesson = replace(
                lesson,
                head=(self.head.weight, self.head.bias),
                source_views=self._of_source(training_set, features, seed, views),
            )
        probe, test = kind.fit(lesson), self.test
        return score_probe(
            probe, test.centre, test.labels, class_names=test.class_names, groups=self.groups,
            called=f"probe {trial.solver!r}",
        )  # fmt: skip

    def _of_source(self, training_set: TrainingSet, features: Tensor, seed: int, views: int | None) -> Tensor | None:
        """Features of the same views from the head's encoder, if that encoder is given."""
        if self.source is None or self.source is self.encoder:
            return features if self.source is not None else None
        return training_set.features(self.source, seed, views)

    def _views(self, trial: Trial) -> int | None:
        """Number of augmented views that a probe is trained on; ``None`` for only the centre views."""
        return kind_of(trial.solver).views(self.config) if trial.augmented else None
