"""The picture of an alignment: a heat map for each metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context

from ..store.files import whole_file
from .alignment import Alignment
from .similarity import METRICS


@rc_context({"text.parse_math": False})  # a $ in a name is a $
def draw_alignment(alignment: Alignment, path: Path) -> None:
    """Draw a heat map for each metric, with the values in the cells."""
    from matplotlib.figure import Figure

    names, count = alignment.names, len(alignment.encoders)
    side = max(2.6, 0.85 * count)
    margin = 0.075 * max(map(len, names))  # inches that the names take
    figure = Figure((len(METRICS) * side + margin + 1.2, side + 0.7 * margin + 0.7), layout="constrained")
    panels = figure.subplots(1, len(METRICS))
    titles = {
        **METRICS,
        "mutual_knn": f"mutual {alignment.options['k']}-NN",
        "linear_map": "linear map, row → column, R²",
    }
    for panel, (metric, title) in zip(panels, titles.items(), strict=True):
        values = alignment.metrics[metric]
        panel.imshow(values, vmin=0, vmax=1, cmap="viridis")
        for i, j in np.ndindex(values.shape):
            colour = "black" if values[i, j] > 0.6 else "white"
            panel.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=10)
        panel.set_title(title, fontsize=11)
        panel.set_xticks(range(count), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
        panel.set_yticks(range(count), names if panel is panels[0] else [""] * count, fontsize=9)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
    images = alignment.images
    figure.suptitle(f"{images['count']:,} images of {Path(images['spec']).name} ({images['split']})", fontsize=11)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
