"""The commands that show a run: report, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .app import Cache, Progress, command, console, show


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
    """Write one self-contained HTML file about runs: images, evolution, curves, scores, comparisons.

    Example: probedistill report runs/photos --out report.html --real-images

    Scores and result files in the runs' folders (evaluation-*.json, geometry.json, bias.json, transfer.json,
    align.json) are included automatically. An unfinished run is shown as far as it has got.

    Parameters
    ----------
    runs:
        Folders of runs with the same classes.
    out:
        File to write, ending in .html.
    title:
        Title of the page. Default: the names of the runs.
    real_images:
        Include the nearest real training images. They and the encoder are opened as each run's config.yaml names them,
        so use this only for runs that you trust and photos that you may share.
    transfer:
        Results of probedistill transfer: the file or its folder.
    align:
        Results of probedistill align: the file or its folder.
    bias:
        Results of probedistill bias: the file or its folder.
    geometry:
        Results of probedistill geometry: the file or its folder.
    analysis:
        Your own kinds of analysis, module:MODULE:CLASS. Their results in the runs' folders are shown.
    """
    from ..report.page import write_report

    path = write_report(
        runs, out, title=title, real_images=real_images, transfer=transfer, align=align, bias=bias, geometry=geometry,
        analyses=analysis or (), cache=cache, progress=progress,
    )  # fmt: skip
    show(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


@command()
def watch(run: Path) -> None:
    """Follow a running distillation: progress, loss, accuracy. Ends when the run does.

    Example: probedistill watch runs/photos

    You may start it before the run. It only reads: Ctrl-C ends it and leaves the run alone. If the run is stopped
    before it is finished, that is an error. To see the images, too, make a report of the unfinished run.

    Parameters
    ----------
    run:
        Folder of the run.
    """
    from ..report.watch import watch as follow

    follow(run, console=console(text=True))
