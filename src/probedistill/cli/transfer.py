"""The command that compares encoders by what distilled sets teach them: transfer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal  # noqa: F401  Literal: in a field that is inherited, looked up here

from ..config import AugmentConfig, ImagesConfig, TransferConfig
from ..store.named import run_folder
from .app import Cache, Images, Probes, Progress, command, flat, show
from .runs import name_unused, unused_of


@dataclass(kw_only=True)
class _TransferOptions(TransferConfig):
    """Flags of transfer."""

    probes: Probes = field(default_factory=lambda: TransferConfig().probes)


@command(ImagesConfig, TransferConfig)
def transfer(
    runs: list[Path],
    /,
    images: Images,
    settings: Annotated[_TransferOptions, flat("Protocol")] | None = None,
    *,
    augment: AugmentConfig | None = None,
    encoders: list[str] | None = None,
    out: Path = Path("runs/transfer"),
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """Score distilled sets with encoders other than their own: accuracy, source × target.

    Example: probedistill transfer runs/a runs/b --images folder:photos --encoders efficientnet_lite0@112 mobilenet.yaml

    For comparison, the table also has as many real images per class (random ones, and "centroids", the class medoids in
    the features of a set's own encoder) and all the real data. Scores are saved cell by cell in OUT/transfer.json. The
    same command continues if it was stopped, and computes only missing scores. OUT/transfer.png is the heat map.

    All rows are scored with the same crops and flips, without noise. By default they are those that the first run was
    distilled with. To change them, use --augment.scale and the other --augment options; those not given then have the
    defaults shown below.

    Parameters
    ----------
    runs:
        Folders of finished runs with the same classes and images per class.
    encoders:
        One or more encoders to train probes with: NAME, NAME@PIXELS, or a YAML file of encoder options such as
        RUN/config.yaml.
    out:
        Folder for transfer.json and transfer.png.
    """
    from ..analysis.transfer import transfer as run_transfer
    from ..images.splits import load_splits

    runs = [run_folder(run) for run in runs]
    if settings is not None:
        settings.check()
        name_unused(unused_of(settings))
    train, test = load_splits(images, progress=progress)
    matrix = run_transfer(
        runs, encoders or [], train, test, settings, out=out, augment=augment, cache=cache, strict=images.strict,
        progress=progress,
    )  # fmt: skip
    show(matrix)
    show(f"scores: {out / 'transfer.json'}   heat map: {out / 'transfer.png'}")
