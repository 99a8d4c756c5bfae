"""The command that compares all runs of a folder: runs."""

from __future__ import annotations

from pathlib import Path

from .app import command, show


@command()
def runs(folder: Path = Path("runs"), *, csv: Path | None = None) -> None:
    """Show all runs below a folder: the settings that differ, and the accuracy over distillation seeds.

    Example: probedistill runs runs --csv runs.csv

    Runs that differ by their seed alone are one row, with the mean and the standard deviation of their accuracies.
    With --json the table is printed as JSON.

    Parameters
    ----------
    folder:
        Folder that holds runs, at any depth.
    csv:
        File for a line of each run and score.
    """
    from ..analysis.runs import collect_runs
    from ..store.files import check_file

    if csv is not None:
        check_file(csv)
    found = collect_runs(folder)
    show(found)
    if csv is not None:
        found.save_csv(csv)
        show(f"scores of each run: {csv}")
