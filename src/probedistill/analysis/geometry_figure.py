"""The picture of a run's geometry: a PCA plane, and how far out each synthetic image lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context

from ..store.files import whole_file
from .geometry import Geometry


@rc_context({"text.parse_math": False})  # a $ in a name is a $
def draw_geometry(geometry: Geometry, path: Path) -> None:
    """Draw the PCA plane, and where each drawn class's synthetic image and medoid lie in its distribution."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    points, drawn = geometry.points, geometry.drawn
    kinds = np.array(points.kinds)
    colours = colormaps["tab10" if len(drawn) <= 10 else "tab20"](np.arange(len(drawn)) % 20)
    figure = Figure((11.5, max(5.2, 1.6 + 0.3 * len(drawn))), layout="constrained")
    plane, places = figure.subplots(1, 2, width_ratios=(1.55, 1))
    style: dict[str, dict[str, Any]] = {
        "real": {"s": 9, "alpha": 0.3, "lw": 0},
        "medoid": {"s": 55, "marker": "D", "edgecolors": "black", "lw": 0.8, "zorder": 3},
        "synthetic": {"s": 190, "marker": "*", "edgecolors": "black", "lw": 0.8, "zorder": 4},
    }
    for kind, look in style.items():
        for colour, c in zip(colours, drawn, strict=True):
            x, y = points.xy[(kinds == kind) & (points.labels == c)].T
            plane.scatter(x, y, color=colour, **look)
        plane.scatter([], [], color="grey", label=kind, **{**look, "alpha": 1, "s": min(2 * look["s"], 70)})
    plane.legend(loc="best", fontsize=9)
    first, second = (f"{100 * share:.0f} % of the real variance" for share in points.explained)
    plane.set(xlabel=first, ylabel=second)
    plane.set_title("features in the plane of the real images' first two components", fontsize=10)

    rows = np.arange(len(drawn))[::-1]
    for kind in ("medoid", "synthetic"):
        look = style[kind] | {"clip_on": False}
        quantiles = [getattr(geometry.classes[c], kind).distance_quantile for c in drawn]
        places.scatter(quantiles, rows, color=colours, **look)
    places.axvline(0.5, color="grey", lw=1, ls="--")
    places.text(0.5, len(drawn) - 0.35, " random real images", color="grey", fontsize=8)
    places.set_yticks(rows, [geometry.classes[c].name[:24] for c in drawn], fontsize=9)
    for tick, colour in zip(places.get_yticklabels(), colours, strict=True):
        tick.set_color(0.75 * np.asarray(colour[:3]))
    places.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(drawn) - 0.05))
    places.set_xlabel("share of real images nearer to the class mean")
    places.grid(axis="y", lw=0.4)
    places.set_axisbelow(True)
    places.spines[["top", "right", "left"]].set_visible(False)
    test = geometry.tests["periphery"]
    places.set_title(
        f"periphery {test.score:.2f} [{test.interval[0]:.2f}, {test.interval[1]:.2f}] over "
        f"{len(geometry.classes)} classes, p = {test.p:.2g}",
        fontsize=10,
    )
    name = f"{geometry.encoder['name']} at {geometry.encoder['input_size']} px"
    figure.suptitle(f"{geometry.run['method'] or ''} images of {Path(geometry.images['spec']).name}, {name}".strip())
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
