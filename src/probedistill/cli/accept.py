"""accept: take a deliberate edit of a file as it is."""

from __future__ import annotations

from pathlib import Path

from .app import command, show


@command()
def accept(path: Path) -> None:
    """Accept a file of results, or the files of a run, as they are after a deliberate edit.

    Example: probedistill accept runs/photos

    Every file that probedistill writes has a digest of its content, and a run has one of all its files
    (SHA256SUMS). A file that was changed is refused by every command; this command makes new digests.
    What cannot be read, or is no set, is still refused. Edited images become those of the run in every way: tensors and
    preview are made from them.

    Parameters
    ----------
    path:
        Folder of a run or an export, or a JSON file of results.
    """
    from ..show.previews import save_preview
    from ..store.accept import accept_edits
    from ..store.distilled import DistilledSet
    from ..store.layout import IMAGES, PREVIEW

    changed = accept_edits(path)
    if any(name.startswith(f"{IMAGES}/") for name in changed) and (path / PREVIEW).is_file():
        save_preview(path, DistilledSet.load(path))
    show(*(f"accepted: {name}" for name in changed) if changed else ("nothing has changed",))
