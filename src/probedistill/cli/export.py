"""export: a distilled set as small image files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..config import EncoderConfig
from ..store.named import run_folder
from .app import EncoderOptions, Folder, Progress, command, show, show_score


@command(EncoderConfig)
def export(
    folder: Folder,
    encoder: EncoderOptions | None = None,
    *,
    out: Path,
    max_bytes: Annotated[int | None, Parameter(name="--bytes")] = None,
    format: str | None = None,
    quality: int | None = None,
    image_size: int | None = None,
    overwrite: bool = False,
    progress: Progress = True,
) -> None:
    """Write a distilled set as small image files, at a given quality or within a byte budget.

    Example: probedistill export runs/photos --out small --bytes 20000 --config runs/photos/config.yaml

    The export is a distilled set of its own, and evaluate scores the images as shipped. --bytes searches formats, sizes
    and qualities for the images nearest to the run's: in the features of the encoder that --config or --encoder names,
    else in pixels. Labels and real images are not used.

    Parameters
    ----------
    out:
        Folder of the export.
    max_bytes:
        Budget in bytes for all image files together. Metadata, labels and any head are extra and are shown.
    format:
        png (lossless), webp or jpeg. Default: webp; with --bytes, the best one.
    quality:
        Quality of webp and jpeg, 1 to 100. Default: 90.
    image_size:
        Side of the images in pixels. Default: unchanged; with --bytes, the best one.
    overwrite:
        Replace the export in OUT.
    """
    from ..distillation.config_file import write_config
    from ..encoders.load import load_encoder
    from ..encoders.named import loads_by_itself, own_encoder
    from ..ship.export import export as run_export
    from ..store.layout import CONFIG

    folder = run_folder(folder)
    report = run_export(
        folder, out, format=format, quality=quality, image_size=image_size, max_bytes=max_bytes,
        encoder=None if encoder is None else load_encoder(encoder), overwrite=overwrite, progress=progress,
    )  # fmt: skip
    if loads_by_itself(folder):  # otherwise it names local files or code
        write_config(out / CONFIG, None, own_encoder(folder, called="--encoder", device="auto"), None)
    show(f"{report} → {out}")
    if max_bytes is not None and encoder is None:
        show(f"chosen by pixels; to choose by features, add --encoder NAME or --config {folder / CONFIG}")
    if (folder / CONFIG).is_file():  # the run's file, because the export's does not name the images
        show_score(out, folder / CONFIG)
