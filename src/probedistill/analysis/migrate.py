"""From a distilled set to a ready head for an encoder that the data never saw, with a forecast of its accuracy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.special import expit, logit

from .._version import __version__
from ..config import AugmentConfig, check_config
from ..encoders.encoder import Encoder, check_encoder
from ..errors import UserError, by_caller, option, unknown_name
from ..evaluation.cost import SAID_FROM
from ..features.statistics import ClassStatistics
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages, of_classes
from ..machine.progress import ProgressBar, say
from ..machine.torch_state import own_torch_state
from ..methods import check_name
from ..seeds import Stream, seed_of
from ..ship.heads import HeadAbout, Preparation, ReadyHead, head_of_statistics
from ..show.figures import Bars, Figure
from ..show.tables import Table, number, percent, points
from ..store.distilled import DistilledSet, as_set, check_each_class
from ..store.records import Count, OrNaN, Share
from ..store.run_record import EncoderRecord, ImagesRecord
from ..text import counted, duration
from .base import Analysis, Array, EncoderAbout
from .candidates import CANDIDATES, SCRATCH, Lesson, Linear, accuracies, cross_validated, flat, temperature
from .similarity import linear_cka

AUTO = "auto"

VIEWS = 20
_DRAWS = 20_000  # for the simulated accuracy: a sampling error of 0.3 points

CROSSING = {
    "ridge": -0.37, "logistic": -0.46, "inherited": -0.33, "procrustes": -0.47, "low-rank": -0.48, "average": -0.27
}  # fmt: skip
"""Candidate → the cost of crossing to an encoder that the images were not made for, in logits of accuracy. Measured
by benchmarks/migrate.py; docs/over-time.md says how good forecasts are on other data."""
_HALF = 0.5  # share of a fall in cross-validated accuracy that accuracy on photos shows, both in logits

_KNOWN_FROM = {
    "evaluate": "measured by evaluate",
    "run": "measured by a quick probe during its run; run probedistill evaluate RUN for a better forecast",
    "statistics": "estimated for normally distributed features, which is too high if there were few photos",
}


@dataclass(frozen=True)
class Old:
    """An encoder that the set was made with.

    Attributes:
        encoder: The encoder.
        head: Where its head came from: ``"stored"`` with the set, ``"statistics"``, or ``"none"``.
        alignment: Linear CKA of its features and the new encoder's on the views of the synthetic images.
    """

    encoder: EncoderAbout
    head: str
    alignment: float


@dataclass(frozen=True)
class Anchor:
    """The accuracy of the set on an old encoder: the basis of a forecast.

    Attributes:
        accuracy: Accuracy of the probe from scratch on the old encoder.
        known_from: ``"evaluate"``: measured for the old encoder with the same protocol; ``"run"``: measured during the
            run, on its test images, with a probe on centre views; ``"statistics"``: that of normally distributed
            features with the stored class means and covariance, without any image.
        cross_validated: The old encoder's cross-validation, with which the new encoder's is compared.
    """

    accuracy: Share
    known_from: Literal["evaluate", "run", "statistics"]
    cross_validated: Share


@dataclass(frozen=True)
class Candidate:
    """One way to a head.

    Attributes:
        name: One of `CANDIDATES`.
        cross_validated: Accuracy on views of the synthetic images that it was not fitted on.
        forecast: Forecast of the accuracy on photos; ``None`` without an anchor.
        accuracy: Accuracy on test images, if there are any: computed after the choice.
    """

    name: str
    cross_validated: Share
    forecast: OrNaN = None
    accuracy: OrNaN = None


@dataclass(frozen=True)
class Migration(Analysis):
    """What `migrate` found: every candidate with its forecast.

    Attributes:
        run: Name of the set.
        target: The new encoder.
        old: The available old encoders.
        anchor: What the forecast starts from; ``None`` if no accuracy on an old encoder is known.
        candidates: All candidates.
        chosen: The chosen candidate.
        by_forecast: Whether it was chosen by its forecast.
        views: Augmented views of each image.
        test: Images that the candidates were scored on afterwards.
        version: Version of probedistill.
    """

    kind = "migrate"

    run: str
    target: EncoderAbout
    old: tuple[Old, ...]
    anchor: Anchor | None
    candidates: tuple[Candidate, ...]
    chosen: str
    by_forecast: bool
    views: Count
    test: ImagesRecord | None = None
    version: str = __version__

    def __post_init__(self) -> None:
        """Refuse a choice that is not among the candidates."""
        if self.chosen not in [one.name for one in self.candidates]:
            raise ValueError(f"{self.chosen!r} is not among the candidates")

    @property
    def taken(self) -> Candidate:
        """The candidate that became the head."""
        return next(one for one in self.candidates if one.name == self.chosen)

    def tables(self) -> list[Table]:
        """Candidates, and old encoders."""
        scored = self.test is not None
        columns = ("candidate", "forecast", "held-out\nviews")
        rows = []
        for one in self.candidates:
            name = f"{one.name} ←" if one.name == self.chosen else one.name
            row = [name, percent(one.forecast), percent(one.cross_validated)]
            if scored and one.accuracy is not None:
                off = None if one.forecast is None else one.forecast - one.accuracy
                row += [percent(one.accuracy), points(off)]
            rows.append(tuple(row))
        more = ("accuracy", "forecast off\nby, points") if scored else ()
        about = Table(
            f"Heads for {self.target.sized}, in percent", (*columns, *more), tuple(rows),
            caption="← the saved head. Candidates with a projector use the old encoder's head.",
        )  # fmt: skip
        if not self.old:
            return [about]
        old = tuple((one.encoder.sized, one.head, number(one.alignment)) for one in self.old)
        return [about, Table("Old encoders", ("encoder", "head", "alignment (CKA)"), old, left=2)]

    def findings(self) -> list[str]:
        """Sentences about the forecast for the head, and its basis."""
        found, anchor, taken = [], self.anchor, self.taken
        if not self.old:
            found.append(
                "No forecast: it needs another encoder, one that the set was made with; name it with --source. For the "
                "set's own encoder, evaluate measures the accuracy."
            )
        elif anchor is None or taken.forecast is None:
            found.append(
                "No forecast: the set's accuracy on an old encoder is unknown. Name that encoder with --source, and "
                "distil with a test split or give its statistics with --stats."
            )
        else:
            how = _KNOWN_FROM[anchor.known_from]
            found.append(
                f"Forecast for {self.chosen!r}: {percent(taken.forecast)}% on photos. The set reaches "
                f"{percent(anchor.accuracy)}% on its own encoder ({how}). Where such forecasts could be checked, "
                "they were off by 4 to 7 points on average (docs/over-time.md)."
            )
        if self.test is not None and taken.accuracy is not None:
            best = max(self.candidates, key=lambda one: one.accuracy or 0.0)
            found.append(
                f"Measured afterwards on {counted(self.test.count, 'image')} of {self.test.spec} ({self.test.split}): "
                f"{percent(taken.accuracy)}%; the best candidate was {best.name!r} with {percent(best.accuracy)}%."
            )
        return found

    def figures(self) -> list[Figure]:
        """Forecast and measured accuracy."""

        def values(name: str) -> Array:
            return np.array([np.nan if (v := getattr(c, name)) is None else 100 * v for c in self.candidates])

        series = {"forecast": values("forecast"), "accuracy": values("accuracy")}
        series = {name: row for name, row in series.items() if not np.isnan(row).all()}
        drawing = None
        if series:
            names = tuple(one.name for one in self.candidates)
            drawing = Bars(names, series, "top-1 accuracy, %", limits=(0, 100))
        return [Figure(f"Heads for {self.target.sized}", " ".join(self.findings()), drawing, self.tables()[0])]


@own_torch_state()
def migrate(
    distilled: DistilledSet | Path | str,
    encoder: Encoder,
    *,
    old: Sequence[Encoder] = (),
    statistics: Sequence[ClassStatistics] = (),
    measured: float | None = None,
    candidate: str = AUTO,
    test: LabelledImages | None = None,
    name: str = "",
    augment: AugmentConfig | None = None,
    seed: int = 0,
    features: FeatureStore | None = None,
) -> tuple[ReadyHead, Migration]:
    """Make a head for an encoder that the data never saw, from the synthetic images and what is stored with them.

    >>> head, report = migrate(distilled, new, old=[source])  # doctest: +SKIP

    Candidates are fitted on 20 augmented views of each synthetic image. "ridge" and "logistic" are probes from scratch.
    The others apply the old encoder's head W* after a linear projector from the new features to the old ones, fitted
    on both encoders' features of the same views: "inherited" by ridge regression (SFM, arXiv 2602.05391), "procrustes"
    by a rotation with one scale, and "low-rank" by an affine map of rank 64 (the linear adapters of Drift-Adapter,
    arXiv 2509.23471). With several old encoders, each candidate is the mean of their logits. "average" is the mean of
    the logits of "ridge" and "inherited".

    The forecast is made before any test image is used. It is logit f = logit a + ½ (logit v' − logit v) + c, where a is
    the accuracy on the old encoder, v and v' are the cross-validated accuracies of the ridge probe on the old and the
    new encoder, and c is the cost of crossing for a candidate (`CROSSING`). Cross-validation fits on one view of each
    image and scores on the others.

    Args:
        distilled: The set, or the folder or name of its run; its 8-bit images are used, and probes from scratch
            learn its soft labels if it has any.
        encoder: The new encoder.
        old: Encoders that the set was made with, or that statistics belong to. Without any, there are only probes from
            scratch and no forecast.
        statistics: Class statistics of old encoders. They provide a head if the set has none, and the basis of the
            forecast if the run has measured no accuracy.
        measured: Accuracy of the set on the first old encoder, as `evaluate` measures it. Default: the run's own
            measurement, or an estimate from statistics.
        candidate: Which candidate to use; ``"auto"``: the one with the best forecast.
        test: Images to score all candidates on, after the choice.
        name: Name of the set in the report.
        augment: How views are drawn, without noise; default: as the set was distilled.
        seed: Seed of the views.
        features: Where features come from.

    Raises:
        UserError: Unknown candidate, or one that needs an old encoder's head when there is none; a class without an
            image; the new encoder is an old one; an old encoder that neither the set nor any statistics were made
            with; statistics of different classes.
    """
    distilled = as_set(distilled)
    if distilled.soft_labels is None:  # soft labels also cover classes without an image
        check_each_class(distilled, "a head")
    check_encoder(encoder)
    check_config("augment", augment, AugmentConfig)
    _check(candidate, measured, encoder, old)
    _check_sources(distilled, old, statistics)
    store = features or FeatureStore()
    augment = (augment or distilled.run.config.augment).for_probes(transformer=encoder.is_transformer)
    statistics = [_of_classes(one, distilled) for one in statistics]
    heads_of_old = [_head_of(one, distilled, statistics) for one in old]
    target, *views = _views_by([encoder, *old], distilled, augment, seed, store)
    teachers = [_Teacher(one, *head, seen) for one, head, seen in zip(old, heads_of_old, views, strict=True)]
    soft = None if distilled.soft_labels is None else distilled.soft_labels.numpy()
    taught = [(one.head, one.views) for one in teachers if one.head is not None]
    lesson = Lesson(target, distilled.labels.numpy(), taught, soft)
    anchor = _anchor(distilled, teachers, lesson, statistics, measured, seed)
    found, heads = _candidates(lesson, anchor, candidate, store.progress)
    chosen = _choice(found) if candidate == AUTO else candidate
    weight, bias = (torch.from_numpy(np.ascontiguousarray(part)).float() for part in heads[chosen])
    report = Migration(
        run=name,
        target=EncoderAbout.of(encoder),
        old=tuple(
            Old(EncoderAbout.of(one.encoder), one.head_from, linear_cka(flat(lesson.target), flat(one.views)))
            for one in teachers
        ),
        anchor=anchor,
        candidates=tuple(found),
        chosen=chosen,
        by_forecast=candidate == AUTO and anchor is not None,
        views=VIEWS,
    )
    about = HeadAbout(
        class_names=distilled.class_names, encoder=EncoderRecord.of(encoder), preparation=Preparation.of(encoder),
        candidate=chosen, forecast=report.taken.forecast,
        temperature=1.0 if chosen == "logistic" else temperature(heads[chosen], heads["logistic"], lesson),
        made_of=name,
    )  # fmt: skip
    if test is not None:
        report = _scored(report, heads, encoder, of_classes(test, distilled.class_names, f"set {name!r}"), store)
    return ReadyHead(weight, bias, about, encoder), report


def _check(candidate: str, measured: float | None, encoder: Encoder, old: Sequence[Encoder]) -> None:
    check_name("candidate", candidate, (AUTO, *CANDIDATES))
    if measured is not None and not 0 < measured <= 1:
        raise UserError(f"measured {measured} must be an accuracy between 0 and 1")
    for one in old:
        if one.fingerprint == encoder.fingerprint:
            raise UserError(
                f"encoder {encoder.name!r} at {encoder.input_size} px is the one that the set was made with; give the "
                f"new encoder, or leave it out of {by_caller(command='--source', python='old')}"
            )


def _check_sources(distilled: DistilledSet, old: Sequence[Encoder], statistics: Sequence[ClassStatistics]) -> None:
    """Refuse an old encoder about which nothing is known: it made neither the set nor any statistics."""
    made_with = distilled.run.encoders
    for one in old:
        known = distilled.run.made_with(one.fingerprint) or _of_encoder(statistics, one) is not None
        if made_with and not known:
            raise UserError(
                f"source {one.name!r} at {one.input_size} px is not among the set's encoders "
                f"({', '.join(map(str, made_with))}); name one of those, or give statistics of this one with "
                f"{option('stats')}"
            )


# ---------------------------------------------------------------------------------------------------
# The data on which candidates are fitted


@dataclass(frozen=True)
class _Teacher:
    """An old encoder, its head if there is one, and its features of the synthetic images' views."""

    encoder: Encoder
    head: Linear | None
    head_from: str
    views: Array


def _head_of(
    encoder: Encoder, distilled: DistilledSet, statistics: Sequence[ClassStatistics]
) -> tuple[Linear | None, str]:
    """The set's own head, else a head from statistics; and where it came from."""
    stored, how = distilled.head, "stored"
    if stored is None or stored.fingerprint != encoder.fingerprint:
        own = _of_encoder(statistics, encoder)
        stored, how = (head_of_statistics(own), "statistics") if own is not None else (None, "none")
    return None if stored is None else (stored.weight.double().numpy(), stored.bias.double().numpy()), how


def _views_by(
    encoders: Sequence[Encoder], distilled: DistilledSet, augment: AugmentConfig, seed: int, store: FeatureStore
) -> list[Array]:
    """Features (V, n, d) of the synthetic images' views by each encoder; every encoder sees the same views."""
    found = []
    with ProgressBar("views", len(encoders), enabled=store.progress) as bar:
        for encoder in encoders:
            views = store.synthetic_views(encoder, distilled.images, views=VIEWS, augment=augment, seed=seed)
            found.append(np.asarray(views.float().numpy()))
            bar.advance()
    return found


def _of_classes(statistics: ClassStatistics, distilled: DistilledSet) -> ClassStatistics:
    missing = [name for name in distilled.class_names if name not in statistics.class_names]
    if missing:
        raise unknown_name("class of the set", missing[0], statistics.class_names, "(in the statistics)")
    return statistics.with_classes(distilled.class_names)


def _of_encoder(statistics: Sequence[ClassStatistics], encoder: Encoder) -> ClassStatistics | None:
    """Statistics of an encoder's features with second moments, if there are any."""
    for one in statistics:
        if one.about.encoder.fingerprint == encoder.fingerprint and one.products is not None:
            return one
    return None


# ---------------------------------------------------------------------------------------------------
# The forecast


def _candidates(
    lesson: Lesson, anchor: Anchor | None, wanted: str, progress: bool
) -> tuple[list[Candidate], dict[str, Linear]]:
    """Every candidate with its forecast, and its head."""
    names = CANDIDATES if lesson.teachers else SCRATCH
    if wanted not in (AUTO, *names):
        raise UserError(
            f"candidate {wanted!r} needs an old encoder and its head; add "
            f"{option('source')}, and {option('keep_head', True)} when distilling or {option('stats')}, or take "
            "ridge or logistic"
        )
    held_out: dict[str, float] = {}
    heads: dict[str, Linear] = {}
    with ProgressBar("candidates", len(names) * lesson.units, enabled=progress) as bar:
        for name in names:
            begun, folds = time.monotonic(), list[float]()
            for accuracy in accuracies(lesson, name):
                folds.append(accuracy)
                bar.advance()
                if len(folds) == 1 and progress:
                    _say_cost(name, (time.monotonic() - begun) * lesson.units, lesson)
            held_out[name], heads[name] = float(np.mean(folds)), lesson.fit(name)
            bar.advance(len(lesson.target), note=name)
    found = [Candidate(name, held_out[name], _forecast(name, anchor, held_out["ridge"], lesson)) for name in names]
    return found, heads


def _say_cost(name: str, seconds: float, lesson: Lesson) -> None:
    """Say that a candidate takes over a minute, once its first fold has been timed."""
    if seconds >= SAID_FROM:
        say(f"candidate {name}: up to {duration(seconds)}, because there are {len(np.unique(lesson.labels)):,} classes")


def _anchor(
    distilled: DistilledSet,
    teachers: Sequence[_Teacher],
    lesson: Lesson,
    statistics: Sequence[ClassStatistics],
    measured: float | None,
    seed: int,
) -> Anchor | None:
    """The set's accuracy on the first old encoder for which it is known."""
    source, on_the_way = distilled.run.source, distilled.run.accuracy
    for teacher in teachers:
        own = replace(lesson, target=teacher.views, teachers=[])
        if measured is not None:
            return Anchor(measured, "evaluate", cross_validated(own, "ridge"))
        if on_the_way and source is not None and source.fingerprint == teacher.encoder.fingerprint:
            return Anchor(on_the_way[-1][1], "run", cross_validated(own, "ridge"))
        kept = _of_encoder(statistics, teacher.encoder)
        if kept is not None:
            simulated = simulated_accuracy(own.fit("ridge"), kept, seed=seed)
            return Anchor(simulated, "statistics", cross_validated(own, "ridge"))
    return None


def simulated_accuracy(head: Linear, statistics: ClassStatistics, *, seed: int = 0) -> float:
    """Accuracy of a linear classifier on normally distributed features with class means and one shared covariance.

    Classes are drawn in proportion to their images. Logits of such features are also normal, so that only C numbers are
    drawn instead of d.

    Args:
        head: Weight (C, d) and bias (C,).
        statistics: With second moments.
        seed: Seed of 20,000 draws.
    """
    weight, bias = head
    means = statistics.means().numpy() @ weight.T + bias
    spread = weight @ statistics.covariance().numpy() @ weight.T
    rng = np.random.default_rng(seed_of(seed, Stream.FORECAST))
    shares = statistics.counts.numpy() / statistics.total
    classes = rng.choice(len(shares), _DRAWS, p=shares)
    values, vectors = np.linalg.eigh(spread)
    noise = rng.standard_normal((_DRAWS, len(values))) * np.sqrt(values.clip(min=0)) @ vectors.T
    return float(np.mean((means[classes] + noise).argmax(axis=1) == classes))


def _forecast(name: str, anchor: Anchor | None, cross_validated: float, lesson: Lesson) -> float | None:
    """The accuracy to expect of a candidate on photos."""
    if anchor is None:
        return None
    least = 0.5 / (len(lesson.labels) * len(lesson.target))  # with so many trials, a share is never known to be 0 or 1

    def safe(share: float) -> float:
        return float(logit(min(max(share, least), 1 - least)))

    fall = safe(cross_validated) - safe(anchor.cross_validated)
    return float(expit(safe(anchor.accuracy) + _HALF * fall + CROSSING[name]))


def _choice(candidates: Sequence[Candidate]) -> str:
    """The candidate with the best forecast; without forecasts, the one that loses least by crossing."""
    return max(candidates, key=lambda one: (one.forecast or 0.0, CROSSING[one.name])).name


def _scored(
    report: Migration, heads: dict[str, Linear], encoder: Encoder, test: LabelledImages, store: FeatureStore
) -> Migration:
    """The report with accuracies on test images."""
    bank = store.of(encoder, test)
    if not len(bank):
        raise UserError(f"no test images in {test.spec!r} ({test.split}); choose another {option('test_split')}")
    right = dict.fromkeys(heads, 0)
    for block, labels in bank.blocks(views="centre"):
        for name, (weight, bias) in heads.items():
            right[name] += int(np.sum((block.numpy() @ weight.T + bias).argmax(axis=1) == labels.numpy()))
    scored = tuple(replace(one, accuracy=right[one.name] / len(bank)) for one in report.candidates)
    return replace(report, candidates=scored, test=ImagesRecord.of(test, len(bank)))
