"""Honest evaluation: the same probes and views for synthetic images and for real-image baselines."""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from ._progress import ProgressBar
from ._text import as_text
from .augment import apply_views, derive_seed, draw_views
from .bank import FeatureBank, augmented_views, extract_features
from .baselines import medoids, neighbours, random_images
from .config import INHERITED, AugmentConfig, EvaluateConfig, is_inherited
from .distilled import DistilledSet, Head
from .encoders import Encoder
from .errors import UserError
from .files import write_json
from .images import LabelledImages, UnreadableImageError
from .images.labelled import digest_of
from .inherit import IN_ITS_PLACE, InheritedProbe, without_projector
from .objectives import class_means
from .probe import LinearProbe, Scores, score_probe

_RANDOM, _FULL = "random real", "full real data"
_SEED_STREAM = 6
_BATCH = 64


@dataclass(frozen=True)
class Row:
    """One line of the table: what was trained on, with which probe, and the scores of every seed.

    Attributes:
        name: What was trained on.
        probe: The probe; ``"ridge, no augmentation"`` and the like for centre views alone.
        images: Their number.
        scores: One for each seed.
        seconds: Features of the views and fitting, of all seeds.
        soft: Whether it was trained on soft labels.
    """

    name: str
    probe: str
    images: int
    scores: tuple[Scores, ...]
    seconds: float
    soft: bool = False

    @property
    def top1(self) -> float:
        """Mean top-1 accuracy over seeds, in [0, 1]."""
        return statistics.fmean(s.top1 for s in self.scores)

    @property
    def std(self) -> float:
        """Standard deviation of top-1 over seeds (0 for one seed)."""
        return statistics.stdev(s.top1 for s in self.scores) if len(self.scores) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "probe": self.probe,
            "images": self.images,
            "soft_labels": self.soft,
            "top1": self.top1,
            "std": self.std,
            "seconds": round(self.seconds, 3),
            "scores": [s.to_dict() for s in self.scores],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Row:
        """The row that `to_dict` gave as these values; what else is among them is passed over.

        Raises:
            KeyError, TypeError: They are no row's.
        """
        scores = tuple(Scores(**s) for s in values["scores"])
        soft = values["soft_labels"]
        return cls(values["name"], values["probe"], values["images"], scores, values["seconds"], soft)


@dataclass(frozen=True)
class Evaluation:
    """Scores of a synthetic set and of its real-image baselines under one protocol.

    Attributes:
        rows: One per (training set, probe).
        context: Encoder, test data and protocol.
    """

    rows: tuple[Row, ...]
    context: dict[str, Any]

    def __getitem__(self, key: tuple[str, str] | str) -> Row:
        """The row of ``(name, probe)``, or of ``name`` with the first probe."""
        name, probe = key if isinstance(key, tuple) else (key, None)
        for row in self.rows:
            if row.name == name and probe in (None, row.probe):
                return row
        raise KeyError(key)

    def gap_to_full(self, row: Row) -> float | None:
        """Hard-label recovery: accuracy of full real data less that of the row, by the same probe; smaller is better.

        Defined for hard labels alone (HLR of DD-Ranking, arXiv 2505.13300); ``None`` for a row of soft labels, for
        full data itself and where that was not scored. No projector is fitted on full data: a row of the inherited
        probe is compared with the ridge probe there.
        """
        if row.soft or row.name == _FULL:
            return None
        probe = row.probe.replace(INHERITED, IN_ITS_PLACE)
        full = next((other for other in self.rows if (other.name, other.probe) == (_FULL, probe)), None)
        return self._difference(full, row)

    def gain_over_random(self, row: Row) -> float | None:
        """Improvement over random: accuracy of the row less that of as many random real images, by the same probe.

        IOR of DD-Ranking (arXiv 2505.13300), which evaluates both alike. Random images have hard labels, so it is
        ``None`` for a row of soft labels, whose knowledge would count as the images'; its row of hard labels has it.
        ``None``, too, for full data, for random images themselves and where these were not scored by that probe: a
        row of the inherited probe is compared with random images behind the same head, and with nothing else.
        """
        if row.soft or row.name in (_FULL, _RANDOM):
            return None
        wanted = (_RANDOM, row.probe, row.images)
        random = next((other for other in self.rows if (other.name, other.probe, other.images) == wanted), None)
        return self._difference(row, random)

    @staticmethod
    def _difference(better: Row | None, worse: Row | None) -> float | None:
        return None if better is None or worse is None else better.top1 - worse.top1

    def table(self) -> Table:
        """The scores as a rich table."""
        gaps = {"gap to full": self.gap_to_full, "over random": self.gain_over_random}
        gaps = {title: gap for title, gap in gaps.items() if any(gap(row) is not None for row in self.rows)}
        has_top5 = any(row.scores[0].top5 is not None for row in self.rows)
        has_groups = any(row.scores[0].worst_group is not None for row in self.rows)
        table = Table(
            title=escape(self.context["title"]), title_justify="left", caption=self._caption(), caption_justify="left"
        )
        table.add_column("trained on", min_width=9, overflow="fold")
        table.add_column("images", justify="right")
        table.add_column("probe", min_width=5, overflow="fold")
        table.add_column("top-1 %", justify="right")
        table.add_column("balanced %", justify="right")
        if has_top5:
            table.add_column("top-5 %", justify="right")
        if has_groups:
            table.add_column("worst group %", justify="right")
        for title in gaps:
            table.add_column(title, justify="right")
        for row in self.rows:
            cells = [row.name, f"{row.images:,}", row.probe, f"{100 * row.top1:.1f} ± {100 * row.std:.1f}"]
            cells.append(_percent([s.balanced for s in row.scores]))
            if has_top5:
                cells.append(_percent([s.top5 for s in row.scores]))
            if has_groups:
                cells.append(_percent([s.worst_group for s in row.scores]))
            for gap in gaps.values():
                points = gap(row)
                cells.append("–" if points is None else f"{100 * points:+.1f}")
            table.add_row(*cells)
        return table

    def _caption(self) -> str | None:
        """What an inherited probe costs, and what it is compared with."""
        cost = self.context.get("inherited")
        if cost is None:
            return None
        features = "with" if cost["source_features"] else "without"
        gap = "; gap to full: to ridge" if any(row.name == _FULL for row in self.rows) else ""
        return (
            f"inherited: projector of {cost['projector_parameters']:,} parameters, head W* of {cost['head_bytes']:,} "
            f"bytes ({escape(cost['source'])}), {features} the source's features{gap}"
        )

    def __str__(self) -> str:
        return as_text(self.table())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        rows = [
            {**row.to_dict(), "gap_to_full": self.gap_to_full(row), "gain_over_random": self.gain_over_random(row)}
            for row in self.rows
        ]
        return {"context": self.context, "rows": rows}

    def save(self, path: Path | str) -> None:
        """Write the scores as JSON; rows of an earlier evaluation by the same protocol stay where they are not anew.

        Those of another protocol cannot stand beside them and are replaced, with a warning.
        """
        result = self
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # no file, or a damaged one
            before = json.loads(Path(path).read_text(encoding="utf-8"))
            result = self._and(before)
            replaced = result is self and before["rows"]
            if replaced and (other := _differences(before["context"], json.loads(json.dumps(self.context)))):
                warnings.warn(f"{path} held scores of other {', '.join(other)}, which these replace", stacklevel=2)
        write_json(Path(path), result.to_dict())

    def _and(self, before: dict[str, Any]) -> Evaluation:
        """With the rows of an earlier evaluation that this one does not have, where they can stand beside its own."""
        of_before, own = before["context"], json.loads(json.dumps(self.context))
        trained_on = [context["train"] for context in (of_before, own) if "train" in context]  # by baselines alone
        if _comparable(of_before) != _comparable(own) or trained_on[1:] not in ([], trained_on[:1]):
            return self
        context = {**of_before, **own}
        for what in ("probes", "baselines"):
            both = [*own["protocol"][what], *of_before["protocol"][what]]
            context["protocol"] = {**context["protocol"], what: list(dict.fromkeys(both))}
        known = {(row.name, row.probe, row.images) for row in self.rows}
        others = [Row.from_dict(row) for row in before["rows"]]
        others = [row for row in others if (row.name, row.probe, row.images) not in known]
        if "inherited" in own and of_before.get("inherited") != own["inherited"]:  # another head, or other features
            others = [row for row in others if not is_inherited(row.probe)]
        return Evaluation(self.rows + tuple(others), context)


def _comparable(context: dict[str, Any]) -> dict[str, Any]:
    """What rows of two evaluations must share to stand in one table."""
    asked_for = ("probes", "baselines", "floats", "hard_labels", "without_augmentation")
    protocol = {name: value for name, value in context["protocol"].items() if name not in asked_for}
    rest = {name: context.get(name) for name in ("encoder", "test", "augment", "class_names", "soft_labels")}
    return {**rest, "protocol": protocol}


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What differs between two evaluations that cannot stand in one table, in the words of the options."""
    flat = [{**(c := _comparable(context)), **c["protocol"], "train": context.get("train")} for context in (one, other)]
    return [name for name in flat[1] if name != "protocol" and flat[0].get(name) != flat[1][name]]


def _percent(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{100 * statistics.fmean(known):.1f}" if known else "–"


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
    **options: Any,
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
    config = replace(config or EvaluateConfig(), **options)
    config.check()
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
    head = checked_head(distilled, head, source) if INHERITED in config.probes else None
    if head is not None and head.fingerprint == encoder.fingerprint:
        source = encoder
    if augment is None:
        augment = made_with(distilled) if distilled is not None else AugmentConfig()
    augment.check()
    augment = replace(augment, noise_prob=0.0)
    if not len(test):
        raise UserError(f"no test images in {test.spec!r} ({test.split}); choose another --test-split")
    test_bank = extract_features(encoder, test, cache=cache, strict=strict, progress=progress)
    group_of = [groups[i] for i in test_bank.indices.tolist()] if groups is not None else None
    scorer = _Scorer(encoder, test_bank, augment, config, group_of, head, source)

    sets: list[_TrainingSet] = []
    if distilled is not None:
        soft = None if config.hard_labels else distilled.soft_labels
        sets.append(scorer.of_images("distilled", distilled.images, distilled.labels, soft))
        if config.floats:
            sets.append(scorer.of_images("distilled, float", distilled.float_images, distilled.labels, soft))
        images_per_class = int(torch.bincount(distilled.labels).max())
    if train is not None and config.baselines:
        views = config.full_views if "full" in config.baselines else 0
        bank = extract_features(
            encoder, train, views=views, augment=augment, cache=cache, strict=strict, progress=progress
        )
        sets += _baseline_sets(scorer, bank, train, distilled, images_per_class, config)
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
        context["soft_labels"] = distilled.run.get("soft_labels")
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


def of_classes(images: LabelledImages, class_names: Sequence[str], name: str = "the set") -> LabelledImages:
    """The images of the classes of a set, labelled by their place there.

    Raises:
        UserError: The images have no such class; the message calls the set ``name``.
    """
    try:
        return images.with_classes(class_names)
    except UserError as error:
        raise UserError(f"{name} was made for other classes: {error}; give the images that it was made from") from error


def made_with(distilled: DistilledSet, name: str = "the set") -> AugmentConfig:
    """The augmentation that a set was distilled with, checked.

    Raises:
        UserError: The set's record does not describe one; the message calls the set ``name``.
    """
    try:
        augment = AugmentConfig(**(distilled.run.get("config", {}).get("augment") or {}))
        augment.check()
    except (TypeError, AttributeError, ValueError, LookupError) as error:  # a UserError is a ValueError
        raise UserError(f"{name} is damaged (augment: {error}); make it again or restore it") from error
    return augment


def scores_file(encoder: Encoder) -> str:
    """Name of the file that keeps a set's scores on an encoder, in the folder of the set."""
    return f"evaluation-{encoder.name.replace('/', '_')}-{encoder.input_size}px.json"


@torch.no_grad()
def encode(encoder: Encoder, images: Tensor) -> Tensor:
    """Features (n, d), on the CPU, of images (n, 3, S, S) as they are."""
    return torch.cat([encoder(part.to(encoder.device)).cpu() for part in images.split(_BATCH)])


def view_features(
    encoder: Encoder, images: Tensor, augment: AugmentConfig, views: int, *, seed: int, stream: int = _SEED_STREAM
) -> Tensor:
    """Features (V, m, d) of V augmented views of images (m, 3, S, S); the same seed gives the same views."""
    drawn = draw_views(augment, views * len(images), seed=derive_seed(seed, stream))
    which = torch.arange(len(drawn)) % len(images)
    features = torch.empty(0)
    for start in range(0, len(drawn), _BATCH):
        part = slice(start, start + _BATCH)
        found = encode(encoder, apply_views(images[which[part]], drawn[part], encoder.input_size))
        if not start:  # all of them at once: a list of parts would be in memory twice in the end
            features = found.new_empty(len(drawn), found.shape[1])
        features[part] = found
    return features.view(views, len(images), -1)


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
class _TrainingSet:
    """What a row is trained on.

    Attributes:
        name: Of the row.
        features: (encoder, seed, number of views V) → (V, n, d); with V = 0 or ``None`` of the centre view, (1, n, d).
            Stored features of real data are given as they are, unless V is ``None``.
        labels: seed → (n,).
        soft: (n, C) soft labels, if any: then there is a row for the hard ones, too.
        epochs: Of sgd, where they are not the config's.
        inherits: Whether a projector may be fitted on it: its images can be encoded by the source. Where not, ridge
            is fitted in place of the inherited probe.
        fixed: Whether it is the same for every seed, so that one answer of ridge or logistic is that of all.
    """

    name: str
    features: Callable[[Encoder, int, int | None], Tensor]
    labels: Callable[[int], Tensor]
    soft: Tensor | None = None
    epochs: int | None = None
    inherits: bool = True
    fixed: bool = False


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


def _baseline_sets(
    scorer: _Scorer,
    bank: FeatureBank,
    train: LabelledImages,
    distilled: DistilledSet | None,
    ipc: int,
    config: EvaluateConfig,
) -> list[_TrainingSet]:
    """The real-image rows that the config names, in its order."""
    sets = []
    for name in config.baselines:
        if name == "random":
            rows = partial(_drawn, bank, ipc)
            sets.append(scorer.of_real(_RANDOM, bank, train, rows))
        elif name == "centroids":
            sets.append(scorer.of_real("centroids", bank, train, _always(medoids(bank, ipc))))
        elif name == "neighbours" and distilled is not None:
            nearest = neighbours(bank, encode(scorer.encoder, distilled.images), distilled.labels)
            sets.append(scorer.of_real("neighbours", bank, train, _always(nearest)))
        elif name == "means":
            means = class_means(bank.centre, bank.labels, bank.num_classes)
            classes = torch.arange(bank.num_classes)
            each, labels = _always(means[None]), _always(classes)
            sets.append(_TrainingSet("class-mean features", each, labels, inherits=False, fixed=True))
        elif name == "full":
            stored, labels, epochs = partial(_stored, bank), _always(bank.labels), config.full_epochs
            sets.append(_TrainingSet(_FULL, stored, labels, epochs=epochs, inherits=False, fixed=True))
    return sets


def _drawn(bank: FeatureBank, ipc: int, seed: int) -> Tensor:
    return random_images(bank, ipc, seed=seed)


def _stored(bank: FeatureBank, encoder: Encoder, seed: int, views: int | None) -> Tensor:
    """All features of the bank, whatever the number of views; for ``None`` those of its centre crops."""
    centre = bank.centre[None]
    return centre if views is None or not bank.num_views else torch.cat([centre, bank.augmented])


def _always(value: Tensor) -> Callable[..., Tensor]:
    """The same for every seed."""
    return lambda *_: value


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

    def of_images(self, name: str, images: Tensor, labels: Tensor, soft: Tensor | None) -> _TrainingSet:
        """Augmented views of images (m, 3, S, S)."""

        def features(encoder: Encoder, seed: int, views: int | None) -> Tensor:
            if not views:
                return encode(encoder, images)[None]
            return view_features(encoder, images, self.augment, views, seed=seed)

        return _TrainingSet(name, features, _always(labels), soft)

    def of_real(
        self, name: str, bank: FeatureBank, images: LabelledImages, rows: Callable[[int], Tensor]
    ) -> _TrainingSet:
        """Augmented views of the real images in ``rows(seed)`` of the bank."""

        def of_one(encoder: Encoder, index: int, seed: int, views: int | None) -> Tensor:
            try:
                image = images.load(index)
            except UnreadableImageError as error:
                raise UserError(f"{error}; it could be read when its features were computed: restore it") from error
            if not views:
                return encode(encoder, encoder.centre_view(image)[None])
            parts = []
            for start in range(0, views, _BATCH):
                key = derive_seed(seed, _SEED_STREAM, index, start)
                count = min(_BATCH, views - start)
                parts.append(encode(encoder, augmented_views(image, encoder.input_size, count, self.augment, key)))
            return torch.cat(parts)

        def features(encoder: Encoder, seed: int, views: int | None) -> Tensor:
            chosen = rows(seed)
            if not views and encoder is self.encoder:
                return bank.centre[chosen][None]
            return torch.stack([of_one(encoder, int(bank.indices[row]), seed, views) for row in chosen.tolist()], dim=1)

        return _TrainingSet(name, features, lambda seed: bank.labels[rows(seed)])

    def score(self, training_set: _TrainingSet, bar: ProgressBar) -> list[Row]:
        """Fit and score every probe for every seed."""
        trials = self._trials(training_set)
        scores: dict[_Trial, list[Scores]] = {trial: [] for trial in trials}
        seconds = dict.fromkeys(trials, 0.0)
        for seed in range(self.config.seeds):
            y = training_set.labels(seed)
            known = [t for t in trials if seed and training_set.fixed and t.solver != "sgd"]
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

    def _trials(self, training_set: _TrainingSet) -> list[_Trial]:
        """The rows that a training set is scored in, in the order of the table."""
        names = {training_set.name: training_set.soft is not None}
        if training_set.soft is not None:
            names[f"{training_set.name}, hard labels"] = False
        solvers = self.config.probes
        if not training_set.inherits:
            solvers = without_projector(solvers)
        trials = []
        for name, soft in names.items():
            for solver in solvers:
                inherited = solver == INHERITED  # takes class numbers: soft labels have no row of their own
                if inherited and name != training_set.name:
                    continue
                for augmented in [True, False] if self.config.without_augmentation else [True]:
                    trials.append(_Trial(name, solver, augmented, soft and not inherited))
        return trials

    def _views(self, trial: _Trial) -> int | None:
        """Augmented views that a probe is fitted on."""
        if not trial.augmented:
            return None
        if trial.solver != "sgd":
            return self.config.views
        return self.config.epochs if self.config.sgd_views is None else self.config.sgd_views

    def _fitted(
        self, trial: _Trial, training_set: _TrainingSet, features: Tensor, y: Tensor, seed: int, views: int | None
    ) -> LinearProbe | InheritedProbe:
        if trial.solver == INHERITED:
            assert self.head is not None
            of_source = None
            if self.source is not None:
                same = self.source is self.encoder
                of_source = features if same else training_set.features(self.source, seed, views)
            return InheritedProbe(self.head.weight, self.head.bias).fit_views(features, y, of_source)
        epochs = training_set.epochs or self.config.epochs
        targets = training_set.soft if trial.soft else None
        return LinearProbe(trial.solver, epochs=epochs, random_state=seed).fit_views(features, y, targets)


__all__ = [
    "Evaluation",
    "Row",
    "checked_head",
    "encode",
    "evaluate",
    "made_with",
    "of_classes",
    "scores_file",
    "view_features",
]
