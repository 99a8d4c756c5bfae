"""The command that imports other people's sets: import."""

from __future__ import annotations

from pathlib import Path

from ..config import EncoderConfig
from .app import EncoderOptions, Progress, command, show, show_score


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
    """Turn a set made by another program into a run, which evaluate, transfer, report and export accept.

    Example: probedistill import data.pth --classes @names.txt --out runs/theirs

    The set is a .pth, .pt or .safetensors file with tensors 'images' (n, 3, S, S) in [0, 1] and 'labels' (n,), such as
    data.pth of Linear Gradient Matching; a folder with one folder of images per class; or a .parquet file with columns
    image and label. No code in a file is run.

    Use --encoder to record the encoder that the set was made with, which the files do not say, and --input-size and its
    other options as they were. transfer then compares the set with that encoder's medoids, and label, audit and
    geometry can use the encoder.

    Parameters
    ----------
    place:
        The file or folder.
    out:
        Folder for the run.
    classes:
        Names of the classes, in the order of the labels. If the file has class names, this list sets their order. @FILE
        reads the names from a text file, one per line.
    image_size:
        Side of the images in pixels. Default: unchanged; if sizes differ, the most frequent short side.
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
    show_score(out, "--images folder:PHOTOS", "--encoder NAME" if encoder is None else out / CONFIG)
