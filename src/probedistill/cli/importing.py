"""The command that takes other people's sets: import."""

from __future__ import annotations

from pathlib import Path

from ..config import EncoderConfig
from ..text import as_argument
from .app import EncoderOptions, Progress, command, config_flag, show


@command(EncoderConfig)
def import_(
    place: Path,
    encoder: EncoderOptions | None = None,
    *,
    out: Path,
    classes: list[str] | None = None,
    image_size: int | None = None,
    image_column: str = "image",
    label_column: str = "label",
    progress: Progress = True,
) -> None:
    """Make a run of a set that another program made, so that evaluate, transfer, report and export take it.

    Example: probedistill import data.pth --classes @names.txt --out runs/theirs

    A .pth, .pt or .safetensors file holds tensors 'images' (n, 3, S, S) in [0, 1] and 'labels' (n,), as data.pth of
    Linear Gradient Matching does; or a folder holds a folder of images per class; or a .parquet file has columns image
    and label. Nothing in a file is run.

    With --encoder the set remembers the encoder that it was made with, which no file says: transfer then compares it
    with that encoder's medoids, and label, audit and geometry know it. Options such as --input-size are those
    that it was made with.

    Parameters
    ----------
    place:
        The file or folder.
    out:
        Folder for the run.
    classes:
        Names of the classes, in the order of the labels, or the order of names that the file has; @FILE reads them
        from a text file, one a line.
    image_size:
        Side of the images in pixels. Default: as they are; where they differ, the most frequent short side.
    image_column:
        Column of a .parquet file that holds the images.
    label_column:
        Column of a .parquet file that holds the labels.
    """
    from ..distillation.config_file import config_options
    from ..distillation.new_folder import check_free, write_set
    from ..encoders.load import load_encoder
    from ..images.splits import class_list
    from ..ship.imported import read_set
    from ..store.layout import CONFIG

    check_free(out)
    model = None if encoder is None else load_encoder(encoder)
    made = read_set(
        place, classes=None if classes is None else class_list(classes), image_size=image_size,
        image_column=image_column, label_column=label_column, encoder=model, progress=progress,
    )  # fmt: skip
    write_set(out, made, options=config_options(encoder))
    show(f"{len(made)} images of {len(made.class_names)} classes, {made.float_images.shape[-1]} px → {out}")
    named = "--encoder NAME" if encoder is None else config_flag("evaluate", out / CONFIG)
    show(f"score:  probedistill evaluate {as_argument(out)} --images folder:PHOTOS {named}")
