"""The command that takes other people's sets: import."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from ..errors import UserError, explained
from .app import command, show


@command()
def import_(
    place: Path,
    *,
    out: Path,
    classes: list[str] | None = None,
    image_size: int | None = None,
    image_column: str = "image",
    label_column: str = "label",
    progress: bool = True,
) -> None:
    """Make a run of a set that another program made, so that evaluate, transfer, report and export take it.

    Example: probedistill import data.pth --classes @names.txt --out runs/theirs

    A .pth, .pt or .safetensors file holds tensors 'images' (n, 3, S, S) in [0, 1] and 'labels' (n,), as data.pth of
    Linear Gradient Matching does; or a folder holds a folder of images per class; or a .parquet file has columns image
    and label. Nothing in a file is run.

    Parameters
    ----------
    place:
        The file or folder.
    out:
        Folder for the run.
    classes:
        Names of the classes, in the order of the labels; @FILE reads them from a text file, one a line.
    image_size:
        Side of the images in pixels. Default: as they are; where they differ, the most frequent short side.
    image_column:
        Column of a .parquet file that holds the images.
    label_column:
        Column of a .parquet file that holds the labels.
    progress:
        Show progress bars.
    """
    from ..images.splits import class_list
    from ..ship.imported import read_set
    from ..show.previews import save_grid
    from ..store.files import check_writable, whole_folder, without_traces
    from ..store.layout import PREVIEW

    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"out {str(out)!r} is there already; give another folder")
    check_writable(out)
    made = read_set(
        place, classes=None if classes is None else class_list(classes), image_size=image_size,
        image_column=image_column, label_column=label_column, progress=progress,
    )  # fmt: skip
    hint = "free some space or choose another folder"
    with (
        explained(f"cannot write {str(out)!r}", OSError, hint=hint),
        without_traces(out.parent),
        whole_folder(out) as partial,
    ):
        save_grid(partial / PREVIEW, made.images, [made.class_names[i] for i in made.labels.tolist()])
        made.save(partial)
    show(f"{len(made)} images of {len(made.class_names)} classes, {made.float_images.shape[-1]} px → {out}")
    show(f"score:  probedistill evaluate {quote(str(out))} --images folder:PHOTOS --encoder NAME")
