"""The result of an evaluation: rows of scores, how they were scored, and what they show."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from msgspec import Meta

from ..config import AugmentConfig, EvaluateConfig
from ..errors import UserError
from ..features.notes import ImagesNote
from ..probes.kinds import has_epochs
from ..probes.scores import Scores
from ..show.figures import Figure, HeatMap, accuracy_bars
from ..show.results import Result
from ..show.tables import NOTHING, Table, percent, points
from ..store.layout import EVALUATIONS
from ..store.locks import PATIENCE, claimed
from ..store.records import as_plain, read_record, write_record
from ..store.run_record import RunRecord, SoftLabelsRecord
from .measures import augmentation_robust_score, label_robust_score

if TYPE_CHECKING:
    from ..store.distilled import DistilledSet

DISTILLED, RANDOM_REAL, FULL_REAL = "distilled", "random real", "full real data"
BASELINE_ROWS = {"random": RANDOM_REAL, "centroids": "centroids", "herding": "herding", "kmedoids": "k-means medoids"}
"""Baseline of real images → the name of its row."""
NO_AUGMENTATION = ", no augmentation"
"""Ending of the name of a probe that was fitted on only centre views."""
KIND = "evaluation"
_DEFAULT = EvaluateConfig()


def row_name(run: RunRecord) -> str:
    """Name of the row of a set: "distilled", or which real images it contains."""
    return DISTILLED if run.baseline is None else f"{BASELINE_ROWS.get(run.baseline, run.baseline)}, saved"


@dataclass(frozen=True)
class Row:
    """One line of the table: training set, probe, and the scores of every seed.

    Attributes:
        name: The training set.
        probe: The probe; ``"ridge, no augmentation"`` and the like for centre views alone.
        images: Number of training images.
        scores: One for each seed.
        seconds: Time for features of the views and fitting, of all seeds.
        soft_labels: Whether it was trained on soft labels.
        on_features: The probe of the full-data row that this row is compared with. Default: the same probe.
        head: Whether the probe needs the set's head.
        code: Digest of the file of a probe from outside this package.
    """

    name: str
    probe: str
    images: Annotated[int, Meta(ge=1)]
    scores: Annotated[tuple[Scores, ...], Meta(min_length=1)]
    seconds: float = 0.0
    soft_labels: bool = False
    on_features: str | None = None
    head: bool = False
    code: str = ""

    def without_confusion(self) -> Row:
        """The row without its confusion counts, which are kept only for the set's rows."""
        return replace(self, scores=tuple(replace(one, confusion=None) for one in self.scores))

    @property
    def top1(self) -> float:
        """Mean top-1 accuracy over seeds, in [0, 1]."""
        return statistics.fmean(s.top1 for s in self.scores)

    @property
    def std(self) -> float:
        """Standard deviation of top-1 over seeds (0 for one seed)."""
        return statistics.stdev(s.top1 for s in self.scores) if len(self.scores) > 1 else 0.0

    def accuracy(self) -> str:
        """Mean top-1 in percent with its standard deviation, which one seed does not have."""
        return percent(self.top1, self.std if len(self.scores) > 1 else None)

    @property
    def has_epochs(self) -> bool:
        """Whether the score depends on the number of epochs."""
        return has_epochs(self.probe.removesuffix(NO_AUGMENTATION))

    @property
    def key(self) -> tuple[str, str, int]:
        """Identifies the row in its table."""
        return self.name, self.probe, self.images


@dataclass(frozen=True)
class ScoredBy:
    """The properties of an encoder that scores depend on; `EncoderRecord` also has its role in a distillation."""

    name: str
    fingerprint: str
    input_size: int
    precision: str


@dataclass(frozen=True)
class ScoredOn:
    """Test images; ``images`` counts the readable ones, whereas `ImagesRecord` counts all."""

    spec: str
    split: str
    images: int
    fingerprint: str


@dataclass(frozen=True)
class InheritedBy:
    """What the inherited probe takes over.

    Attributes:
        source: Name of the head's encoder.
        source_fingerprint: Its fingerprint.
        source_features: Whether the projector was fitted on its features.
        projector_parameters: Number of parameters of the projector.
        head_bytes: Size of the head.
        head: Digest of the head.
    """

    source: str
    source_fingerprint: str
    source_features: bool
    projector_parameters: int
    head_bytes: int
    head: str


OF_EACH_SET = ("images", "soft_labels", "train", "chosen_by")
"""Differences that do not prevent comparing the scores of two sets: the sets themselves, and their baselines."""

OF_EPOCHS = ("epochs", "full_epochs", "sgd_views")
"""Settings of probes that have epochs."""
OF_FULL = ("full_views", "full_epochs")
"""Settings of the baseline full."""
_CHOSEN = frozenset({"centroids", "herding", "kmedoids", "neighbours"})


def unused_settings(config: EvaluateConfig) -> dict[str, str]:
    """Settings that no score depends on, because of the probes and baselines that are named → why."""
    unused = {} if "full" in config.baselines else dict.fromkeys(OF_FULL, "it is for the baseline full")
    if not any(map(has_epochs, config.probes)):
        unused |= dict.fromkeys(OF_EPOCHS, "it is for the probe sgd")
    if _CHOSEN.isdisjoint(config.baselines):
        unused["chosen_by"] = "none of the baselines chooses by features"
    return unused


@dataclass(frozen=True)
class Context:
    """How the rows were scored. Rows of two evaluations fit into one table if this is the same for both.

    Attributes:
        title: For the table.
        encoder: The encoder.
        test: The test images.
        protocol: The settings.
        augment: How training views were drawn.
        class_names: C names.
        train: The real images of the baselines, if any.
        inherited: What the inherited probe uses, if it was requested.
        images: Digest of the synthetic images and labels, if any.
        soft_labels: How the soft labels were made, if the set has any.
        chosen_by: The encoder that chose the real images, if not the one that scored them.
        version: Version of the package.
        set_name: Name of the set's row: `row_name` of its record.
        groups: Digest of the groups of the test images, if there are groups.
    """

    title: str
    encoder: ScoredBy
    test: ScoredOn
    protocol: EvaluateConfig
    augment: AugmentConfig
    class_names: tuple[str, ...]
    train: ImagesNote | None = None
    inherited: InheritedBy | None = None
    images: str | None = None
    soft_labels: SoftLabelsRecord | None = None
    chosen_by: ScoredBy | None = None
    version: str = ""
    set_name: str = DISTILLED
    groups: str | None = None

    def compared(self) -> dict[str, Any]:
        """What must be the same for rows to fit into one table, in the words of the options."""
        # These settings only choose rows; they change no score.
        rows_only = ("probes", "baselines", "floats", "hard_labels", "without_augmentation")
        protocol = {f.name: getattr(self.protocol, f.name) for f in fields(_DEFAULT) if f.name not in rows_only}
        names = ("encoder", "test", "augment", "class_names", "soft_labels", "images", "chosen_by")
        return as_plain({**{name: getattr(self, name) for name in names}, **protocol})

    @property
    def with_epochs(self) -> set[str]:
        """The probes whose scores depend on the number of epochs."""
        return set(filter(has_epochs, self.protocol.probes))

    def differences(self, other: Context) -> list[str]:
        """Why rows of another context do not fit into this one's table; empty if they do."""
        own, theirs = self.compared(), other.compared()
        unused = {**unused_settings(self.protocol), **unused_settings(other.protocol)}
        found = [name for name in own if own[name] != theirs[name] and name not in unused]
        if "images" in found and None in (self.images, other.images):  # scores of real images do not depend on the set
            found.remove("images")
        found += [name for name in ("train", "groups") if _differ(getattr(self, name), getattr(other, name))]
        return found


@dataclass(frozen=True)
class Evaluation(Result):
    """Scores of a synthetic set and of its real-image baselines under one protocol.

    Attributes:
        rows: One per (training set, probe).
        context: Encoder, test data and protocol.
    """

    rows: tuple[Row, ...]
    context: Context

    def __getitem__(self, key: tuple[str, str] | str) -> Row:
        """The row of ``(name, probe)``, or of ``name`` with the first probe."""
        name, probe = key if isinstance(key, tuple) else (key, None)
        for row in self.rows:
            if row.name == name and probe in (None, row.probe):
                return row
        known = ", ".join(repr((row.name, row.probe)) for row in self.rows)
        raise KeyError(f"no row {key!r}; there are {known}")

    # ---- comparisons

    def gap_to_full(self, row: Row) -> float | None:
        """Hard-label recovery: accuracy of full real data minus the row's, with the same probe; smaller is better.

        Defined only for hard labels (HLR of DD-Ranking, arXiv 2505.13300). ``None`` for a row with soft labels, for
        full data itself, and if full data were not scored. A probe that needs images is compared with its replacement
        on features.
        """
        if row.soft_labels or row.name == FULL_REAL:
            return None
        full = self._find(FULL_REAL, row.on_features or row.probe)
        return None if full is None else full.top1 - row.top1

    def gain_over_random(self, row: Row) -> float | None:
        """Improvement over random: accuracy of the row minus that of as many random real images, with the same probe.

        IOR of DD-Ranking (arXiv 2505.13300), which evaluates both in the same way. Random images have hard labels, so
        it is ``None`` for a row with soft labels, whose information would be credited to the images; the set's row with
        hard labels has it. Also ``None`` for full data, for random images themselves, and if these were not scored with
        that probe.
        """
        if row.soft_labels or row.name in (FULL_REAL, RANDOM_REAL):
            return None
        random = self._find(RANDOM_REAL, row.probe, row.images)
        return None if random is None else row.top1 - random.top1

    def label_robust_score(self, row: Row) -> float | None:
        """LRS of DD-Ranking, in [0, 1]; ``None`` without gap or gain. See `evaluation.measures`."""
        gap, gain = self.gap_to_full(row), self.gain_over_random(row)
        return None if gap is None or gain is None else label_robust_score(gap, gain)

    def augmentation_robust_score(self, row: Row) -> float | None:
        """ARS of DD-Ranking, in [0, 1], of a row with augmentation; ``None`` if the row without is missing."""
        bare = self._find(row.name, row.probe + NO_AUGMENTATION, row.images)
        gains = [None if one is None else self.gain_over_random(one) for one in (row, bare)]
        return None if gains[0] is None or gains[1] is None else augmentation_robust_score(gains[0], gains[1])

    def _find(self, name: str, probe: str, images: int | None = None) -> Row | None:
        for row in self.rows:
            if (row.name, row.probe) == (name, probe) and images in (None, row.images):
                return row
        return None

    # ---- what the result shows

    def tables(self) -> list[Table]:
        """The scores, without empty columns, and without top-5 if there are only five classes."""
        tells = len(self.context.class_names) > 5
        columns: dict[str, Callable[[Row], str]] = {
            "top-1 %": Row.accuracy,
            "balanced %": lambda row: percent(_mean(s.balanced for s in row.scores)),
            "top-5 %": lambda row: percent(_mean(s.top5 for s in row.scores) if tells else None),
            "worst group %": lambda row: percent(_mean(s.worst_group for s in row.scores)),
            "gap to full": lambda row: points(self.gap_to_full(row)),
            "over random": lambda row: points(self.gain_over_random(row)),
            "LRS %": lambda row: percent(self.label_robust_score(row)),
            "ARS %": lambda row: percent(self.augmentation_robust_score(row)),
        }
        known = {name: cell for name, cell in columns.items() if any(cell(row) != NOTHING for row in self.rows)}
        cells = tuple(
            (row.name, row.probe, f"{row.images:,}", *(cell(row) for cell in known.values())) for row in self.rows
        )
        baselines = tuple(i for i, row in enumerate(self.rows) if not row.name.startswith(self.context.set_name))
        return [Table(self.context.title, ("trained on", "probe", "images", *known), cells, dim=baselines, left=2)]

    def findings(self) -> list[str]:
        """Sentences about how the distilled images do, and what an inherited head costs."""
        own = self.context.set_name
        found = [sentence for row in self.rows if row.name == own for sentence in self._sentences(row)]
        if (cost := self.context.inherited) is not None:
            features = "with" if cost.source_features else "without"
            gap = "; its gap to full is to ridge" if any(row.name == FULL_REAL for row in self.rows) else ""
            found.append(
                f"inherited: a projector of {cost.projector_parameters:,} parameters and head W* of "
                f"{cost.head_bytes:,} bytes ({cost.source}), {features} the source's features{gap}"
            )
        return found

    def _sentences(self, row: Row) -> list[str]:
        found = []
        gap, gain = self.gap_to_full(row), self.gain_over_random(row)
        parts = [] if gap is None else [f"{_points(-gap)} all real data"]
        if gain is not None:
            parts.append(f"{_points(gain)} as many random real images")
        if parts:
            what = "distilled images" if row.name == DISTILLED else f"real images ({row.name})"
            found.append(f"{row.images:,} {what} with {row.probe}: {' and '.join(parts)}.")
        other = self._find(f"{row.name}, float", row.probe)
        if other is not None:
            found.append(f"8-bit images with {row.probe}: {_points(row.top1 - other.top1)} the float ones.")
        return found

    def figures(self) -> list[Figure]:
        """Return the accuracy of each row as bars, one colour per probe, and the set's confusion matrix."""
        return [self._bars(), *([found] if (found := self.confusion()) is not None else [])]

    def own_rows(self) -> list[Row]:
        """Return the set's rows; those of probes trained on its images alone come before those with a stored head."""
        ours = [row for row in self.rows if row.name == self.context.set_name]
        return sorted(ours, key=lambda row: row.on_features is not None)

    def confusion(self) -> Figure | None:
        """Return the confusion matrix of the set's first probe (see `own_rows`); ``None`` if that row has none."""
        row = next(iter(self.own_rows()), None)
        found = [one.confusion for one in row.scores] if row is not None else []
        counts = np.array([matrix for matrix in found if matrix is not None], dtype=float)
        if row is None or not len(counts):
            return None
        with np.errstate(invalid="ignore"):
            shares = counts.sum(0) / counts.sum((0, 2))[:, None]  # NaN for a class without test images
        names = self.context.class_names
        right = np.eye(len(names), dtype=bool)
        wrong = np.where(right | np.isnan(shares), -1.0, shares)
        r, k = np.unravel_index(wrong.argmax(), wrong.shape)
        summary = f"Percentage of test images of each class (row) that the {row.probe} probe assigns to each class."
        if wrong[r, k] > 0:
            summary += f" The largest error: {percent(wrong[r, k])}% of class {names[r]} are classified as {names[k]}."
        text = tuple(tuple(NOTHING if np.isnan(v) else f"{100 * v:.0f}" for v in line) for line in shares)
        drawing = HeatMap(
            names, names, 100 * shares, text=text, unit="%", limits=(0, 100), framed=np.eye(len(names)) > 0
        )
        rows = tuple((name, *line) for name, line in zip(names, text, strict=True))
        table = Table("Confusion matrix", ("class", *names), rows)
        return Figure("Confusion matrix", summary, drawing, table)

    def _bars(self) -> Figure:
        sets = list(dict.fromkeys((row.name, row.images) for row in self.rows))
        probes = list(dict.fromkeys(row.probe for row in self.rows))
        found = {(row.name, row.images, row.probe): (row.top1, row.std) for row in self.rows}
        nothing = (np.nan, np.nan)
        series = {probe: [found.get((*one, probe), nothing) for one in sets] for probe in probes}
        names = tuple(f"{name} ({images:,})" for name, images in sets)
        best = max(self.rows, key=lambda row: row.top1)
        summary = (
            f"Accuracy of probes trained on each set (number of images in brackets). The highest is "
            f"{percent(best.top1)}%, for {best.name} with {best.probe}."
        )
        if any(row.std for row in self.rows):
            summary += " Lines show ± one standard deviation over evaluation seeds."
        return Figure("Accuracy by training set", summary, accuracy_bars(names, series), self.tables()[0])

    # ---- files

    def save(self, path: Path | str, *, of: DistilledSet | None = None) -> None:
        """Write the scores as JSON.

        Rows of an earlier evaluation in the file are kept if they fit into the same table and are not among the new
        ones. Otherwise they are replaced, with a warning.

        Args:
            path: The file.
            of: The set that was scored.

        Raises:
            UserError: The file cannot be written, or is in the folder of a run other than the set's.
        """
        path = Path(path)
        with claimed(path.parent, called="folder", wait=PATIENCE):  # another process may be adding its rows
            if of is not None:
                of.check_is_in(path.parent)  # it may have been distilled again meanwhile
            self._save(path)

    def _save(self, path: Path) -> None:
        result = self
        if path.exists():
            try:
                before = load_evaluation(path)
            except UserError as error:
                warnings.warn(f"{error}; replacing it", stacklevel=2)
            else:
                result = self.beside(before)
                kept = before.comparable_with(self.context)
                if len(kept) < len(before.rows):
                    lost = dict.fromkeys(row.probe for row in before.rows if row.has_epochs)
                    what = f"the scores of {', '.join(lost)}" if kept else "the scores"
                    other = ", ".join(self.context.differences(before.context))
                    warnings.warn(f"replacing {what} in {path}, which are for different {other}", stacklevel=2)
        write_record(path, result.plain(), kind=KIND)

    def plain(self) -> dict[str, Any]:
        """The scores as plain values: what the file and ``--json`` contain."""
        return {"context": as_plain(self.context), "rows": self.plain_rows()}

    def plain_rows(self) -> list[dict[str, Any]]:
        """The rows as plain values, with the measures computed from them."""
        return [
            {
                **as_plain(replace(row, scores=())),
                "top1": row.top1,
                "std": row.std,
                "gap_to_full": self.gap_to_full(row),
                "gain_over_random": self.gain_over_random(row),
                "label_robust_score": self.label_robust_score(row),
                "augmentation_robust_score": self.augmentation_robust_score(row),
                "scores": as_plain(list(row.scores)),
            }
            for row in self.rows
        ]

    def comparable_with(self, context: Context) -> tuple[Row, ...]:
        """The rows that fit into the table of another evaluation; with other epochs, those that have no epochs."""
        different = {*context.differences(self.context)}
        if not different <= {*OF_EPOCHS}:
            return ()
        return tuple(row for row in self.rows if not (different and row.has_epochs))

    def beside(self, before: Evaluation) -> Evaluation:
        """Add the rows of an earlier evaluation that this one lacks and that can be compared with its own."""
        own, theirs = self.context, before.context
        fitting = before.comparable_with(own)
        if before.rows and not fitting:
            return self
        known = {row.key for row in self.rows}
        others = tuple(row for row in fitting if row.key not in known)
        if own.inherited is not None and theirs.inherited != own.inherited:  # a different head, or different features
            others = tuple(row for row in others if not row.head)
        lost = theirs.with_epochs if own.differences(theirs) else set()
        probes = list(dict.fromkeys([*own.protocol.probes, *(p for p in theirs.protocol.probes if p not in lost)]))
        baselines = list(dict.fromkeys([*own.protocol.baselines, *theirs.protocol.baselines]))
        unused = unused_settings(own.protocol)
        settings = {name: getattr(theirs.protocol, name) for name in unused if hasattr(theirs.protocol, name)}
        context = replace(
            own,
            protocol=replace(own.protocol, probes=probes, baselines=baselines, **settings),
            chosen_by=theirs.chosen_by if "chosen_by" in unused else own.chosen_by,
            train=own.train or theirs.train,
            inherited=own.inherited or theirs.inherited,
            groups=own.groups or theirs.groups,
            images=own.images or theirs.images,
            set_name=own.set_name if own.images else theirs.set_name,
        )
        return Evaluation(self.rows + others, context)


@dataclass(frozen=True)
class _File:
    """The part of a file of scores that is read; the rest can be computed from it."""

    context: Context
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        """Raise `ValueError` for a confusion matrix that is not one of the classes."""
        classes = len(self.context.class_names)
        for matrix in (score.confusion for row in self.rows for score in row.scores):
            if matrix is not None and not len(matrix) == classes == min(map(len, matrix)) == max(map(len, matrix)):
                raise ValueError("a confusion matrix is not of the classes")


def load_evaluation(path: Path | str) -> Evaluation:
    """Read the scores that `Evaluation.save` wrote.

    Args:
        path: The file, such as ``runs/photos/evaluation-efficientnet_lite0-112px.json``.

    Raises:
        UserError: The file does not exist, is a folder, or is damaged.
    """
    if Path(path).is_dir():
        inside = sorted(Path(path).glob(EVALUATIONS))
        found = f"such as {str(inside[0])!r}" if inside else "which probedistill evaluate writes into a run"
        raise UserError(f"evaluation {str(path)!r} is a folder; give a file of scores, {found}")
    content = read_record(
        Path(path), _File, kind=KIND, what="evaluation", hint="make it again with probedistill evaluate"
    )
    return Evaluation(content.rows, content.context)


def _differ(one: object, other: object) -> bool:
    return None not in (one, other) and one != other


def _points(difference: float) -> str:
    """A difference of accuracies in words, without a sign."""
    points = f"{abs(100 * difference):.1f}"
    if float(points) == 0:
        return "level with"
    return f"{points} points {'above' if difference > 0 else 'below'}"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
