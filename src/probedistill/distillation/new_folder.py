"""The folder of a set that no run has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, explained
from ..features.statistics import ClassStatistics, save_in_run
from ..show import previews as evolution
from ..store.distilled import DistilledSet
from ..store.files import (
    check_writable,
    whole_folder,
    without_traces,
)
from ..store.layout import (
    CONFIG,
    PREVIEW,
)


def write_set(
    out: Path, distilled: DistilledSet, statistics: Sequence[ClassStatistics], options: Mapping[str, Any]
) -> None:
    """Write a set that no run has made into a new folder, in one piece: killed at any point, it is whole or absent.

    Args:
        out: The folder; it must be empty or not there.
        distilled: The set.
        statistics: What it keeps, for each encoder.
        options: What its ``config.yaml`` says.

    Raises:
        UserError: The folder holds something, or it cannot be written.
    """
    check_free(out)
    titles = [distilled.class_names[label] for label in distilled.labels.tolist()]
    with (
        explained(f"cannot write {str(out)!r}", OSError, hint="free some space or choose another folder"),
        without_traces(out.parent),
        whole_folder(out) as partial,
    ):
        distilled.save(partial)
        save_in_run(partial, statistics)
        if options:
            (partial / CONFIG).write_text(yaml.safe_dump(dict(options), sort_keys=False), encoding="utf-8")
        evolution.save_grid(partial / PREVIEW, distilled.images, titles)


def check_free(out: Path) -> None:
    """Raise `UserError` unless a folder can be written and holds nothing."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"out {str(out)!r} is there already; give another folder")
    check_writable(out)
