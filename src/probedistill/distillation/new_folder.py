"""New folders that no run makes: of sets that were merged, imported or chosen, and of composed images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, explained
from ..features.statistics import ClassStatistics, save_in_run
from ..show.previews import save_preview
from ..store.card import Licence
from ..store.distilled import DistilledSet
from ..store.files import check_writable, is_empty, whole_folder, without_traces
from ..store.layout import CONFIG
from ..store.locks import sole_maker


def write_set(
    out: Path,
    distilled: DistilledSet,
    *,
    options: Mapping[str, Any],
    statistics: Sequence[ClassStatistics] = (),
    held_out: Sequence[str] = (),
    licence: Licence | None = None,
) -> None:
    """Write a set that was not made by a run into a new folder; if this is killed, the folder is complete or absent.

    Args:
        out: The folder; it must be empty or not exist.
        distilled: The set.
        options: Content of its ``config.yaml``; without options, there is none.
        statistics: Its statistics, for each encoder.
        held_out: Names of the images that were held out.
        licence: Its licence.

    Raises:
        UserError: The folder is not empty, cannot be written, or is being made by another process.
    """
    check_free(out)
    with (
        explained(f"cannot write {str(out)!r}", OSError, hint="free some space or choose another folder"),
        new_folder(out) as partial,
    ):
        save_preview(partial, distilled)
        if options:
            (partial / CONFIG).write_text(yaml.safe_dump(dict(options), sort_keys=False), encoding="utf-8")
        save_in_run(partial, statistics)
        distilled.save(partial, licence=licence, held_out=held_out)  # last, because its card lists the other files


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Make a folder that is complete or absent; within the block, its content goes into another one.

    Raises:
        UserError: The folder is not empty, or another process is making it, or has made it or begun a run there.
        OSError: It cannot be written.
    """
    with without_traces(out.parent), sole_maker(out), whole_folder(out) as partial:
        check_free(out)
        yield partial
        check_free(out)


def check_free(out: Path) -> None:
    """Raise `UserError` unless a new folder can be made here, or be renamed to an empty one."""
    if out.exists() and (not out.is_dir() or not is_empty(out)):
        raise UserError(f"out {str(out)!r} already exists; give another folder")
    if out.resolve() == Path.cwd():
        raise UserError(f"out {str(out)!r} is the folder that you are in; name a new one")
    check_writable(out)
