"""The scores of an evaluation: rows, gaps, table and JSON."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from ..config import INHERITED, is_inherited
from ..probes.inherited import IN_ITS_PLACE
from ..probes.scores import Scores
from ..show.tables import as_text
from ..store.files import write_json

RANDOM_REAL, FULL_REAL = "random real", "full real data"


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
        if row.soft or row.name == FULL_REAL:
            return None
        probe = row.probe.replace(INHERITED, IN_ITS_PLACE)
        full = next((other for other in self.rows if (other.name, other.probe) == (FULL_REAL, probe)), None)
        return self._difference(full, row)

    def gain_over_random(self, row: Row) -> float | None:
        """Improvement over random: accuracy of the row less that of as many random real images, by the same probe.

        IOR of DD-Ranking (arXiv 2505.13300), which evaluates both alike. Random images have hard labels, so it is
        ``None`` for a row of soft labels, whose knowledge would count as the images'; its row of hard labels has it.
        ``None``, too, for full data, for random images themselves and where these were not scored by that probe: a
        row of the inherited probe is compared with random images behind the same head, and with nothing else.
        """
        if row.soft or row.name in (FULL_REAL, RANDOM_REAL):
            return None
        wanted = (RANDOM_REAL, row.probe, row.images)
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
        gap = "; gap to full: to ridge" if any(row.name == FULL_REAL for row in self.rows) else ""
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
