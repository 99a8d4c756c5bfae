"""Honest evaluation: the same probes and views for synthetic images and for real-image baselines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..config import AugmentConfig, EvaluateConfig, EvaluateOptions, with_options
from ..encoders.encoder import Encoder
from ..errors import UserError
from ..features.bank import FeatureBank
from ..features.extract import extract_features
from ..images.labelled import LabelledImages, digest_of, of_classes
from ..machine.progress import ProgressBar
from ..probes.kinds import Classifier, Lesson, check_probes, kind_of, need_head, on_features
from ..probes.scores import Scores, score_probe
from ..store.distilled import DistilledSet, Head
from ..store.records import as_plain
from .result import Evaluation, Row
from .training_sets import TrainingSet, baseline_sets, of_images

if TYPE_CHECKING:
    from typing_extensions import Unpack


def evaluate(
    distilled: DistilledSet | None,
    encoder: Encoder,
    train: LabelledImages | None,
    test: LabelledImages,
    config: EvaluateConfig | None = None,
    *,
    augment: AugmentConfig | None = None,
    images_per_class: int = 1,
    groups: Sequence[str] | None = None,
    cache: Path | str | None = None,
    strict: bool = False,
    progress: bool = True,
    source: Encoder | None = None,
    head: Head | None = None,
    **options: Unpack[EvaluateOptions],
) -> Evaluation:
    """Score linear probes trained on a synthetic set and on real-image baselines.

    Every row is tested on the centre crops of ``test``. Training views are random resized crops and
    flips (no noise), by the augmentation that the set was distilled with unless ``augment`` is given. A set with
    soft labels is scored with them, in the row "distilled", and with its hard labels in a row of its own.

    The probe ``"inherited"`` takes the set's head (`InheritedProbe`). Synthetic images, and real ones of the
    baselines in their place, are what its projector is fitted on; "full real data" and "class-mean features" are
    scored with ridge in its place.

    Args:
        distilled: The synthetic set; its 8-bit images are scored. ``None`` scores the baselines alone.
        encoder: The frozen encoder; it may differ from the one the set was made with.
        train: Real training images for the baselines; ``None`` leaves the baselines out.
        test: Real test images.
        config: Protocol; ``options`` override its fields, e.g. ``probes=["ridge", "sgd"]``.
        augment: How training views are drawn.
        images_per_class: Size of the baselines when ``distilled`` is ``None``.
        groups: Group name of each image of ``test``, for the worst group.
        cache: Folder of feature banks.
        strict: Raise on unreadable real images.
        progress: Show progress bars.
        source: The encoder of the set's head, for the probe ``"inherited"``; without it the projector is fitted on
            class prototypes. Not needed where ``encoder`` is the one.
        head: The head of the probe ``"inherited"``, for baselines alone; its rows are the classes of ``test``.
            Default: the set's.

    Raises:
        UserError: Unknown probe or baseline, classes of the set that the images do not have, a set whose record of
            its augmentation is damaged, or an inherited probe without a head or with a head of another encoder than
            ``source``.
    """
    config = with_options(config or EvaluateConfig(), options, "evaluate")
    config.check()
    check_probes(config.probes)
    if images_per_class < 1:
        raise UserError(f"images_per_class {images_per_class} must be at least 1")
    class_names = distilled.class_names if distilled is not None else test.class_names
    if groups is not None:
        if len(groups) != len(test):
            raise UserError(f"groups are {len(groups)} names for {len(test)} test images; give one for each")
        kept = np.isin(test.labels, [label for label, name in enumerate(test.class_names) if name in class_names])
        groups = [groups[i] for i in np.flatnonzero(kept).tolist()]
    test = of_classes(test, class_names)
    train = of_classes(train, class_names) if train is not None else None
    head = checked_head(distilled, head, source) if need_head(config.probes) else None
    if head is not None and head.fingerprint == encoder.fingerprint:
        source = encoder
    if augment is None:
        augment = distilled.run.config.augment if distilled is not None else AugmentConfig()
    augment.check()
    augment = replace(augment, noise_prob=0.0)
    if not len(test):
        raise UserError(f"no test images in {test.spec!r} ({test.split}); choose another --test-split")
    test_bank = extract_features(encoder, test, cache=cache, strict=strict, progress=progress)
    group_of = [groups[i] for i in test_bank.indices.tolist()] if groups is not None else None
    scorer = _Scorer(encoder, test_bank, augment, config, group_of, head, source)

    sets: list[TrainingSet] = []
    if distilled is not None:
        soft = None if config.hard_labels else distilled.soft_labels
        sets.append(of_images(encoder, augment, "distilled", distilled.images, distilled.labels, soft))
        if config.floats:
            sets.append(of_images(encoder, augment, "distilled, float", distilled.float_images, distilled.labels, soft))
        images_per_class = int(torch.bincount(distilled.labels).max())
    if train is not None and config.baselines:
        views = config.full_views if "full" in config.baselines else 0
        bank = extract_features(
            encoder, train, views=views, augment=augment, cache=cache, strict=strict, progress=progress
        )
        sets += baseline_sets(encoder, augment, bank, train, distilled, images_per_class, config)
    rows: list[Row] = []
    with ProgressBar("probes", config.seeds * len(sets), enabled=progress) as bar:
        for training_set in sets:
            rows += scorer.score(training_set, bar)
    context: dict[str, Any] = {
        "title": f"{encoder.name} at {encoder.input_size} px, tested on {len(test_bank):,} images of {test.spec} "
        f"({test.split}), {config.seeds} seeds",
        "encoder": {
            "name": encoder.name,
            "fingerprint": encoder.fingerprint,
            "input_size": encoder.input_size,
            "precision": encoder.precision,
        },
        "test": {
            "spec": test.spec,
            "split": test.split,
            "images": len(test_bank),
            "fingerprint": test.fingerprint,
        },
        "protocol": asdict(config),
        "augment": asdict(augment),
        "class_names": list(class_names),
    }
    if train is not None and config.baselines:
        context["train"] = {"spec": train.spec, "split": train.split, "fingerprint": train.fingerprint}
    if distilled is not None and distilled.soft_labels is not None:
        context["soft_labels"] = as_plain(distilled.run.soft_labels)
    if head is not None:
        context["inherited"] = {
            "source": head.encoder,
            "source_fingerprint": head.fingerprint,
            "source_features": source is not None,
            "projector_parameters": head.weight.shape[1] * (encoder.dim + 1),
            "head_bytes": head.num_bytes,
            "head": digest_of(*(part.numpy().tobytes() for part in (head.weight, head.bias))),
        }
    return Evaluation(tuple(rows), context)


def checked_head(distilled: DistilledSet | None, head: Head | None = None, source: Encoder | None = None) -> Head:
    """The head that the inherited probe takes: the one given, else the set's.

    Raises:
        UserError: There is none, or it is not of ``source``.
    """
    if distilled is None and head is None:
        raise UserError("probes 'inherited' needs a distilled set with a head; real images alone have none")
    head = head or (distilled.head if distilled is not None else None)
    if head is None:
        raise UserError(
            "probes 'inherited' needs the head of the source encoder, which this set does not hold; add it with: "
            "probedistill label RUN --config RUN/config.yaml --keep-head"
        )
    if source is not None and source.fingerprint != head.fingerprint:
        raise UserError(
            f"the set's head is of encoder {head.encoder!r} ({head.fingerprint[:12]}), not of the source "
            f"{source.name!r} at {source.input_size} px ({source.fingerprint[:12]}); give the encoder it was made with"
        )
    return head


@dataclass(frozen=True)
class _Trial:
    """One row to be made: a probe on some number of views of a training set."""

    name: str
    solver: str
    augmented: bool
    soft: bool

    @property
    def probe(self) -> str:
        return self.solver if self.augmented else f"{self.solver}, no augmentation"


class _Scorer:
    """Makes training sets of images, fits probes on them and scores those; knows the test features."""

    def __init__(
        self,
        encoder: Encoder,
        test: FeatureBank,
        augment: AugmentConfig,
        config: EvaluateConfig,
        groups: Sequence[str] | None,
        head: Head | None,
        source: Encoder | None,
    ) -> None:
        self.encoder, self.test, self.augment, self.config, self.groups = encoder, test, augment, config, groups
        self.head, self.source = head, source

    def score(self, training_set: TrainingSet, bar: ProgressBar) -> list[Row]:
        """Fit and score every probe for every seed."""
        trials = self._trials(training_set)
        scores: dict[_Trial, list[Scores]] = {trial: [] for trial in trials}
        seconds = dict.fromkeys(trials, 0.0)
        for seed in range(self.config.seeds):
            y = training_set.labels(seed)
            known = [t for t in trials if seed and training_set.fixed and kind_of(t.solver).deterministic]
            for trial in known:
                scores[trial].append(scores[trial][0])
            to_fit = [t for t in trials if t not in known]
            for views in dict.fromkeys(map(self._views, to_fit)):  # features of one number of views at a time
                started = time.perf_counter()
                features = training_set.features(self.encoder, seed, views)
                encoding = time.perf_counter() - started
                for trial in (t for t in to_fit if self._views(t) == views):
                    started = time.perf_counter()
                    probe = self._fitted(trial, training_set, features, y, seed, views)
                    test, names = self.test, self.test.class_names
                    found = score_probe(probe, test.centre, test.labels, class_names=names, groups=self.groups)
                    scores[trial].append(found)
                    seconds[trial] += encoding + time.perf_counter() - started
                del features  # before the next are made
            bar.advance(note=f"{training_set.name} {100 * scores[trials[0]][-1].top1:.1f} %")
        return [Row(t.name, t.probe, len(y), tuple(scores[t]), seconds[t], t.soft) for t in trials]

    def _trials(self, training_set: TrainingSet) -> list[_Trial]:
        """The rows that a training set is scored in, in the order of the table."""
        names = {training_set.name: training_set.soft is not None}
        if training_set.soft is not None:
            names[f"{training_set.name}, hard labels"] = False
        solvers = self.config.probes
        if not training_set.inherits:
            solvers = on_features(solvers)
        trials = []
        for name, soft in names.items():
            for solver in solvers:
                learns_soft = kind_of(solver).soft_labels  # if not, soft labels have no row of their own
                if not learns_soft and name != training_set.name:
                    continue
                for augmented in [True, False] if self.config.without_augmentation else [True]:
                    trials.append(_Trial(name, solver, augmented, soft and learns_soft))
        return trials

    def _views(self, trial: _Trial) -> int | None:
        """Augmented views that a probe is fitted on."""
        if not trial.augmented:
            return None
        return kind_of(trial.solver).views(self.config)

    def _fitted(
        self, trial: _Trial, training_set: TrainingSet, features: Tensor, y: Tensor, seed: int, views: int | None
    ) -> Classifier:
        kind, head, of_source = kind_of(trial.solver), None, None
        if kind.needs_head:
            assert self.head is not None
            head = (self.head.weight, self.head.bias)
            if self.source is not None:
                same = self.source is self.encoder
                of_source = features if same else training_set.features(self.source, seed, views)
        targets = training_set.soft if trial.soft else None
        return kind.fit(Lesson(features, y, targets, seed, training_set.epochs or self.config.epochs, head, of_source))
