"""The picture of a transfer matrix: a heat map for each probe."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from numpy.typing import NDArray

from ..store.files import whole_file

if TYPE_CHECKING:
    from .matrix import TransferMatrix


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
