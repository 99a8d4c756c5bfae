"""The command that compares all runs in a folder: runs."""

from __future__ import annotations

from pathlib import Path

from .app import command, show


@command()
def runs(folder: Path = Path("runs"), *, csv: Path | None = None) -> None:
    """Compare all runs below a folder in one table: settings that differ, and accuracy over distillation seeds.

    Example: probedistill runs runs --csv runs.csv

    Runs that differ only in their seed are one row, with the mean and standard deviation of their accuracies. --json
    prints the table as JSON.

    Parameters
    ----------
    folder:
        Folder that contains runs, at any depth.
    csv:
        CSV file to write, one line per run and score.
    """
    from ..analysis.runs import collect_runs
    from ..store.files import check_file

    if csv is not None:
        check_file(csv, begins=rb"\W*run\b")
    found = collect_runs(folder)
    show(found)
    if csv is not None:
        found.save_csv(csv)
        show(f"scores of each run: {csv}")
