"""The result of a transfer: a matrix source × target, as numbers, table and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from ..config import MATRIX_BASELINES, is_inherited
from ..errors import UserError
from ..show.tables import as_text
from ..store.files import whole_file, write_json

FILE = "transfer.json"
FORMAT = 1
ROWS = dict(zip(MATRIX_BASELINES, ("random real", "centroids", "full real data"), strict=True))
"""Baselines, and what `evaluate` calls them."""
RANDOM_INHERITED = "random_inherited"
"""Random real images behind the heads of the sets: the baseline of `INHERITED` in place of ``"random"``."""
_PER_SET = ("centroids", RANDOM_INHERITED)


@dataclass(frozen=True)
class Source:
    """A distilled set: a row of the matrix.

    Attributes:
        name: For tables and figures; no two sources share it.
        run: Name of the run's folder.
        method: What distilled it.
        encoder: ``name`` and ``fingerprint`` of the encoder that it was distilled with.
        also: The same of further encoders of the run.
        soft_labels: Whether probes were trained on soft labels; the baselines never are.
    """

    name: str
    run: str
    method: str
    encoder: dict[str, str]
    also: tuple[dict[str, str], ...] = ()
    soft_labels: bool = False

    def made_with(self, fingerprint: str) -> bool:
        """Whether it was distilled with the encoder of that fingerprint."""
        return any(e["fingerprint"] == fingerprint for e in (self.encoder, *self.also))


@dataclass(frozen=True)
class Target:
    """An encoder that probes are scored on: a column of the matrix; no two targets share a ``name``."""

    name: str
    fingerprint: str
    input_size: int


@dataclass(frozen=True)
class TransferMatrix:
    """Accuracy of P probes that were trained on S distilled sets, on T encoders.

    Attributes:
        sources: S distilled sets.
        targets: T encoders.
        probes: P names.
        accuracy: (P, S, T) float64, mean top-1 in [0, 1] over seeds; NaN where nothing was scored.
        std: (P, S, T), standard deviation over seeds (0 for one seed).
        baselines: ``"random"`` and ``"full"`` (P, T), ``"centroids"`` (P, S, T): probes trained on real
            images; the centroids are the class medoids in the features of the source's encoder. With the probe
            ``"inherited"`` also ``"random_inherited"`` (P, S, T), random images behind the head of the source, NaN
            for other probes; its centroids are behind that head, too, and its ``"full"`` is of the ridge probe.
        baselines_std: The same shapes.
        context: Class names, protocol, images and versions.
    """

    sources: tuple[Source, ...]
    targets: tuple[Target, ...]
    probes: tuple[str, ...]
    accuracy: NDArray[np.float64]
    std: NDArray[np.float64]
    baselines: dict[str, NDArray[np.float64]]
    baselines_std: dict[str, NDArray[np.float64]]
    context: dict[str, Any]

    @property
    def same(self) -> NDArray[np.bool_]:
        """(S, T): whether the target is an encoder that the source was distilled with."""
        return np.array([[s.made_with(t.fingerprint) for t in self.targets] for s in self.sources])

    def row_name(self, probe: int, source: int) -> str:
        """What a row is called: the name of the source, and of soft labels where the probe was trained on them.

        The inherited probe learns from features: labels of either kind change nothing.
        """
        soft = self.sources[source].soft_labels and not self._inherits(probe)
        return self.sources[source].name + (", soft labels" if soft else "")

    def baseline_rows(self, probe: int) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
        """Name, mean (T,) and standard deviation (T,) of the baselines' rows.

        Centroids have one for each source encoder. Those of the inherited probe, and its random images, have one for
        each set, whose head is used.
        """
        if self._inherits(probe):
            return self._inherited_rows(probe)
        found = []
        if "centroids" in self.baselines:
            seen = set()
            for s, source in enumerate(self.sources):
                mean = self.baselines["centroids"][probe, s]
                if source.encoder["fingerprint"] not in seen and not np.isnan(mean).all():
                    seen.add(source.encoder["fingerprint"])
                    label = f"centroids of {source.encoder['name']}"
                    found.append((label, mean, self.baselines_std["centroids"][probe, s]))
        for name in ("random", "full"):
            if name in self.baselines and not np.isnan(self.baselines[name][probe]).all():
                found.append((ROWS[name], self.baselines[name][probe], self.baselines_std[name][probe]))
        return found

    def _inherits(self, probe: int) -> bool:
        return is_inherited(self.probes[probe])

    def _inherited_rows(self, probe: int) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
        rows: list[tuple[str, str, Any]] = [
            (kind, f"{ROWS[title]}, head of {source.name}", (probe, s))
            for kind, title in (("centroids", "centroids"), (RANDOM_INHERITED, "random"))
            for s, source in enumerate(self.sources)
        ]
        rows.append(("full", f"{ROWS['full']}, ridge", probe))
        return [
            (label, self.baselines[kind][at], self.baselines_std[kind][at])
            for kind, label, at in rows
            if kind in self.baselines and not np.isnan(self.baselines[kind][at]).all()
        ]

    def table(self) -> Table:
        """The matrix as a rich table; the encoders that a set was distilled with are marked with =."""
        train, test = self.context["images"]["train"], self.context["images"]["test"]
        table = Table(
            title=escape(
                f"top-1 % on {test['count']:,} images of {train['spec']} ({test['split']}), "
                f"{self.context['protocol']['seeds']} seeds; = is the set's own encoder"
            ),
            title_justify="left",
        )
        table.add_column("trained on", overflow="fold")
        table.add_column("probe")
        for target in self.targets:
            table.add_column(escape(target.name.replace("@", "\n@")), justify="right", overflow="fold")
        for p, probe in enumerate(self.probes):
            for s in range(len(self.sources)):
                own = ["= " if own else "" for own in self.same[s]]
                cells = map(_percent, self.accuracy[p, s], self.std[p, s])
                table.add_row(escape(self.row_name(p, s)), probe, *(a + b for a, b in zip(own, cells, strict=True)))
            table.add_section()
            for name, mean, std in self.baseline_rows(p):
                table.add_row(escape(name), probe, *map(_percent, mean, std), style="dim")
            table.add_section()
        return table

    def __str__(self) -> str:
        return as_text(self.table())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; ``null`` where nothing was scored."""

        def by_probe(values: NDArray[np.float64]) -> dict[str, Any]:
            return {probe: _plain(values[p]) for p, probe in enumerate(self.probes)}

        def per_baseline(values: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
            return {probe: {n: _plain(v[p]) for n, v in values.items()} for p, probe in enumerate(self.probes)}

        return {
            "kind": "transfer",
            "format": FORMAT,
            "sources": [asdict(source) for source in self.sources],
            "targets": [asdict(target) for target in self.targets],
            "probes": list(self.probes),
            "accuracy": by_probe(self.accuracy),
            "std": by_probe(self.std),
            "baselines": per_baseline(self.baselines),
            "baselines_std": per_baseline(self.baselines_std),
            **self.context,
        }

    def save(self, folder: Path | str) -> None:
        """Write ``transfer.json`` and ``transfer.png`` into ``folder``."""
        folder = Path(folder)
        write_json(folder / FILE, self.to_dict())
        self.draw(folder / "transfer.png")

    def draw(self, path: Path | str) -> None:
        """Draw a heat map for each probe: sets above, real-image baselines below, own encoders framed."""
        draw_transfer(self, Path(path))


def _percent(mean: float, std: float) -> str:
    return "–" if np.isnan(mean) else f"{100 * mean:.1f} ± {100 * std:.1f}"


def _plain(values: NDArray[np.float64]) -> Any:
    """Nested lists with ``None`` for NaN."""
    return [_plain(v) if isinstance(v, np.ndarray) else None if np.isnan(v) else float(v) for v in values]


def load_transfer(path: Path | str) -> dict[str, Any]:
    """Read a ``transfer.json`` as `TransferMatrix.to_dict` gives it.

    Args:
        path: The file, or the folder that holds it.

    Raises:
        UserError: No such file, another file, or a matrix with cells still to be scored.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    content = read_json(path)
    if content.get("finished") is not True:
        raise UserError(f"transfer {str(path)!r} is not finished; repeat its command to go on")
    if not _is_matrix(content):
        raise UserError(f"transfer {str(path)!r} is damaged or of another version of probedistill; make it again")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file of this kind, finished or not; nothing in it has been checked."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"transfer {str(path)!r} is not there; give a file that probedistill transfer wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"transfer {str(path)!r} cannot be read ({reason}); make it again") from error
    if not isinstance(content, dict) or content.get("kind") != "transfer":
        raise UserError(f"transfer {str(path)!r} is another file; give one that probedistill transfer wrote")
    return content


def _is_matrix(content: dict[str, Any]) -> bool:
    """Whether names and numbers are there, in their shapes."""
    try:
        sources, targets = content["sources"], content["targets"]
        shape = (len(sources), len(targets))
        texts = [*content["probes"], *content["class_names"]]
        texts += [source[key] for source in sources for key in ("name", "run", "method")]
        encoders = [*(source["encoder"] for source in sources), *targets]
        texts += [encoder[key] for encoder in encoders for key in ("name", "fingerprint")]
        arrays: list[tuple[Any, tuple[int, ...]]] = [
            (content[what][probe], shape) for what in ("accuracy", "std") for probe in content["probes"]
        ]
        for probe in content["probes"]:
            for name, values in content["baselines"][probe].items():
                arrays.append((values, shape if name in _PER_SET else shape[1:]))
        return all(isinstance(text, str) for text in texts) and all(
            (array := np.array(values, dtype=np.float64)).shape == wanted
            and bool((np.isnan(array) | ((array >= 0) & (array <= 1))).all())
            for values, wanted in arrays
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


# ---------------------------------------------------------------------------------------------------
# The picture


_CELL = (1.5, 0.5)  # inches
_LETTER, _HEAD, _GAP = 0.08, 0.8, 0.25  # inches: of a row's name, title with column names, above the baselines


@rc_context({"text.parse_math": False})  # a $ in a name is a $
def draw_transfer(matrix: TransferMatrix, path: Path) -> None:
    """Write a PNG: distilled sets above, real-image baselines below, a set's own encoders framed.

    Args:
        matrix: What is shown, with one colour scale for all of it.
        path: The file.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    probes, across = len(matrix.probes), len(matrix.targets)
    baselines = [matrix.baseline_rows(p) for p in range(probes)]
    sets, real = len(matrix.sources), max(map(len, baselines))
    titles = [[matrix.row_name(p, s) for s in range(sets)] for p in range(probes)]
    longest = max(map(len, chain(*titles, (name for rows in baselines for name, *_ in rows))))
    names = max(longest * _LETTER + 0.2, 3.6 - across * _CELL[0])  # wide enough for the line below, too
    width, height = names + across * _CELL[0] + 0.2, _HEAD + (sets + real) * _CELL[1] + _GAP + 0.35
    every = np.concatenate([matrix.accuracy.ravel(), *(mean for rows in baselines for _, mean, _ in rows)])
    scale = {"vmin": 100 * np.nanmin(every), "vmax": 100 * np.nanmax(every)}
    figure = Figure(figsize=(width * probes, height), dpi=130)
    for p, probe in enumerate(matrix.probes):

        def block(above: float, rows: int, left: float = p * width + names) -> Any:
            """Axes for some rows, ``above`` inches below the top."""
            size = (across * _CELL[0], rows * _CELL[1])
            return figure.add_axes(
                (left / (width * probes), 1 - (above + size[1]) / height, size[0] / (width * probes), size[1] / height)
            )

        axes = block(_HEAD, sets)
        _draw_block(axes, titles[p], matrix.accuracy[p], matrix.std[p], scale)
        axes.set_xticks(range(across), [_in_lines(target.name) for target in matrix.targets])
        axes.xaxis.tick_top()
        axes.set_title(f"top-1 %, probe: {probe}", loc="left", fontsize=11, fontweight="bold", pad=12)
        for s, t in np.argwhere(matrix.same):
            frame = Rectangle((t - 0.47, s - 0.46), 0.94, 0.92, fill=False, edgecolor="#d1495b", linewidth=2.5)
            axes.add_patch(frame)
        if baselines[p]:
            axes = block(_HEAD + sets * _CELL[1] + _GAP, len(baselines[p]))
            labels, mean, std = zip(*baselines[p], strict=True)
            _draw_block(axes, labels, np.stack(mean), np.stack(std), scale)
            axes.set_xticks([])
    figure.text(
        0.01, 0.015, "columns: the probe's encoder · framed: the set's own encoder", fontsize=8, color="#555555"
    )
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _in_lines(name: str, width: int = 16) -> str:
    """A long encoder's name over several lines, broken after underscores and before its size."""
    lines = [""]
    for piece in name.replace("_", "_ ").replace("@", " @").split(" "):
        if lines[-1] and (len(lines[-1]) + len(piece) > width or piece.startswith("@")):
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _draw_block(
    axes: Any, names: Sequence[str], mean: NDArray[np.float64], std: NDArray[np.float64], scale: dict[str, float]
) -> None:
    """Cells (rows, T) with their numbers."""
    axes.set_facecolor("#eeeeee")  # nothing was scored
    image = axes.imshow(100 * mean, cmap="YlGnBu", aspect="auto", **scale)
    for row, column in np.ndindex(mean.shape):
        value = 100 * mean[row, column]
        text, dark = "–", False
        if not np.isnan(value):
            text = f"{value:.1f} ± {100 * std[row, column]:.1f}"
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        axes.text(column, row, text, ha="center", va="center", fontsize=9.5, color="white" if dark else "black")
    for edge in range(1, max(mean.shape)):
        axes.axhline(edge - 0.5, color="white", linewidth=2)
        axes.axvline(edge - 0.5, color="white", linewidth=2)
    axes.set_xlim(-0.5, mean.shape[1] - 0.5)
    axes.set_ylim(mean.shape[0] - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
