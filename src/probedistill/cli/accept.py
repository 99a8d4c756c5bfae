"""accept: accept a deliberate edit of a file."""

from __future__ import annotations

from pathlib import Path

from .app import command, show


@command()
def accept(path: Path) -> None:
    """Accept deliberate edits to the files of a run or to a results file.

    Example: probedistill accept runs/photos

    Every file that probedistill writes has a checksum, and a run lists those of all its files in SHA256SUMS. Every
    command rejects a file that was changed; this command writes new checksums. Unreadable or invalid files are still
    rejected. Edited images replace those of the run: tensors, preview, and
    the last picture of the evolution are made again from them.

    Parameters
    ----------
    path:
        Folder of a run or an export, or a JSON file of results.
    """
    from ..show.previews import read_evolution, save_preview, save_sprite
    from ..store.accept import accept_edits
    from ..store.distilled import DistilledSet
    from ..store.layout import IMAGES, PREVIEW

    changed = accept_edits(path)
    if any(name.startswith(f"{IMAGES}/") for name in changed):
        distilled = DistilledSet.load(path)
        if (path / PREVIEW).is_file():
            save_preview(path, distilled)
        for step, _ in read_evolution(path)[-1:]:  # the last sprite shows the final images
            save_sprite(path, step, distilled.images)
    show(*(f"accepted: {name}" for name in changed) if changed else ("nothing has changed",))
