"""The commands that show a run: report, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .app import Cache, Progress, command, show


@command()
def report(
    runs: Annotated[list[Path], Parameter(name="RUNS")],
    /,
    *,
    out: Path = Path("report.html"),
    title: str | None = None,
    real_images: bool = False,
    transfer: Path | None = None,
    align: Path | None = None,
    bias: Path | None = None,
    geometry: Path | None = None,
    analysis: list[str] | None = None,
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """Write one HTML file that shows runs: images, evolution, curves, scores, comparisons. It loads nothing.

    Example: probedistill report runs/photos --out report.html --real-images

    Scores and result files in the runs' folders (evaluation-*.json, geometry.json, bias.json, transfer.json,
    align.json) are shown without being named. A run that is not finished is shown as far as it is.

    Parameters
    ----------
    runs:
        Folders of runs of the same classes.
    out:
        The file to write, ending in .html.
    title:
        Title of the page. Default: the names of the runs.
    real_images:
        Also put the nearest real training images into the file. They and the encoder are opened as each run's
        config.yaml names them: only for runs that you trust, and photos that may be passed on.
    transfer:
        File of probedistill transfer, or its folder.
    align:
        File of probedistill align, or its folder.
    bias:
        File of probedistill bias, or its folder.
    geometry:
        File of probedistill geometry, or its folder.
    analysis:
        Your own kinds of analysis, module:MODULE:CLASS; their results in the runs' folders are shown.
    """
    from ..report.page import write_report

    path = write_report(
        runs, out, title=title, real_images=real_images, transfer=transfer, align=align, bias=bias, geometry=geometry,
        analyses=analysis or (), cache=cache, progress=progress,
    )  # fmt: skip
    show(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


@command()
def watch(run: Path) -> None:
    """Follow a run while it is under way: progress, loss, accuracy; ends when the run does.

    Example: probedistill watch runs/photos

    It may be started before the run. It only reads; Ctrl-C ends it and leaves the run alone. To look at the images
    as well, make a report of the unfinished run.

    Parameters
    ----------
    run:
        Folder of the run.
    """
    from ..report.watch import watch as follow

    follow(run)
