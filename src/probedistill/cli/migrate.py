"""The commands for a head for another encoder: migrate, predict."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..config import EncoderConfig, ImagesConfig
from ..errors import UserError
from ..methods import check_number
from ..store.named import results_folder, run_folder
from ..text import as_argument, counted
from .app import Cache, EncoderOptions, Folder, Images, Progress, command, show

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder
    from ..features.statistics import ClassStatistics

Choice = Literal["auto", "ridge", "logistic", "inherited", "procrustes", "low-rank", "average"]


@command(EncoderConfig, ImagesConfig)
def migrate(
    folder: Folder,
    encoder: EncoderOptions,
    images: Images | None = None,
    *,
    out: Path,
    candidate: Choice = "auto",
    source: list[str] | None = None,
    stats: list[Path] | None = None,
    seed: int = 0,
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """Train a ready-to-use head for a new encoder from a distilled set, with a forecast of its accuracy.

    Example: probedistill migrate runs/photos --encoder timm:resnet18 --out heads/resnet18

    The photos are not needed: candidate heads are trained on views of the synthetic images. Some are probes from
    scratch; others map the new features to the old ones and then use the head of the old encoder (distill --keep-head).
    The forecast combines cross-validation on both encoders with the set's accuracy on the old one; run evaluate first,
    which measures that accuracy best. docs/over-time.md says how far off forecasts were. With --images, all candidates
    are also scored on the test images. For the encoder that the set was made with, the head is a probe from scratch.

    OUT/head.safetensors is the head. In Python, load_head("OUT") loads it for predictions; its as_sklearn() gives a
    scikit-learn classifier.

    Parameters
    ----------
    out:
        Folder for the head.
    candidate:
        Which head to write. auto: the one with the best forecast.
    source:
        Encoders that the set was made with: names or YAML files. Default: the one in RUN/config.yaml, if `probedistill
        encoders` lists it or it is a timm:NAME.
    stats:
        Class statistics of old encoders, in addition to those in the run (distill --keep-stats).
    seed:
        Seed of the views.
    """
    from ..analysis.migrate import migrate as run_migrate
    from ..distillation.config_file import write_config
    from ..encoders.load import load_encoder
    from ..encoders.named import loads_by_itself
    from ..features.store import FeatureStore
    from ..images.labelled import of_classes
    from ..images.sources import check_results_outside
    from ..images.splits import load_splits
    from ..store.card import warn_of_seen
    from ..store.distilled import DistilledSet
    from ..store.files import check_writable
    from ..store.layout import CONFIG, HEAD
    from ..store.locks import claimed

    folder = run_folder(folder)
    distilled = DistilledSet.load(folder)
    _check_out(out)
    check_writable(out)
    test = None
    if images is not None:
        name = f"run {str(folder)!r}"
        train, test = (of_classes(part, distilled.class_names, name) for part in load_splits(images, progress=progress))
        check_results_outside(out, train)
        warn_of_seen(folder, train, test)
    new = load_encoder(encoder)
    old = _old_encoders(folder, source, encoder.device)
    if source is None and any(one.fingerprint == new.fingerprint for one in old):
        show("the set was made with this encoder: the head is a probe from scratch, which evaluate scores")
        old = []
    store = FeatureStore(cache, images is not None and images.strict, progress)
    head, report = run_migrate(
        distilled, new, old=old, statistics=_statistics(folder, stats or [], old), measured=_measured(folder, old),
        candidate=candidate, test=test, name=folder.resolve().name, seed=seed, features=store,
    )  # fmt: skip
    with claimed(out, called="head"):
        _check_out(out)
        write_config(out / CONFIG, None, encoder, None)
        head.save(out)
        report.write(out)
        report.draw(out)
    show(report)
    trust = "" if loads_by_itself(out) else " --trust"
    show(f"head: {out / HEAD}   try: probedistill predict {as_argument(out)} PHOTO.jpg{trust}")


@command(EncoderConfig)
def predict(
    folder: Path,
    photos: list[Path],
    /,
    encoder: EncoderOptions | None = None,
    *,
    top: int = 1,
    csv: Path | None = None,
    progress: Progress = True,
) -> None:
    """Classify photos with a head that migrate wrote, with the head's confidence.

    Example: probedistill predict heads/resnet18 a.jpg b.jpg

    Example: probedistill predict heads/resnet18 new-photos --top 3 --csv classes.csv

    The percentages show which photos are less certain than others. They are not calibrated: of photos at 90%, more or
    fewer than nine in ten may be right.

    Parameters
    ----------
    folder:
        Folder of the head.
    photos:
        Image files, or folders of them.
    top:
        Number of classes to list for each photo, most likely first.
    csv:
        CSV file to write, one line per photo, instead of printing a table.
    """
    import numpy as np

    from ..encoders.load import load_encoder
    from ..images.entries import files_below
    from ..ship.heads import load_head
    from ..show.tables import Table, percent
    from ..store.files import check_file, whole_file

    check_number("top", top, least=1, whole=True)
    head = load_head(folder)
    if csv is not None:
        check_file(csv, begins=rb"\W*photo\b")
    files = [file for photo in photos for file in (files_below(photo) if photo.is_dir() else [photo])]
    # A photo given by name must be readable; an unreadable one in a folder must not stop the others.
    strict = not any(photo.is_dir() for photo in photos)
    own = None if encoder is None else load_encoder(encoder)
    shares = head.predict_proba(files, own, strict=strict, progress=progress)
    names = head.about.class_names
    rows = []
    for file, row in zip(files, shares, strict=True):
        best = np.argsort(-row, kind="stable")[:top]
        found = [(names[i], percent(row[i])) if np.isfinite(row[i]) else ("", "") for i in best]
        rows.append((str(file), *itertools.chain(*found)))
    more = ((f"class {place}", f"percent {place}") for place in range(2, min(top, len(names)) + 1))
    columns = ("photo", "class", "percent", *itertools.chain(*more))
    table = Table("", columns, tuple(rows), left=2, texts=tuple(range(3, len(columns), 2)))
    if csv is None:
        show(table)
        return
    with whole_file(csv) as temporary:
        temporary.write_text(table.csv(), encoding="utf-8", newline="")
    show(f"classes of {counted(len(files), 'photo')}: {csv}")


def _check_out(out: Path) -> None:
    from ..ship.heads import KIND
    from ..store.files import check_file
    from ..store.layout import CONFIG, HEAD, RUN
    from ..store.tensors import check_tensors_file

    if out.is_file():
        raise UserError(f"out {str(out)!r} is a file; give a folder for the head")
    if (out / RUN).exists():
        raise UserError(f"out {str(out)!r} is the folder of a run; give another folder for the head")
    check_tensors_file(out / HEAD, KIND)
    if not (out / HEAD).is_file():
        check_file(out / CONFIG, begins=b"encoder:")  # of a call that was killed before it wrote the head


def _old_encoders(folder: Path, given: list[str] | None, device: str) -> list[Encoder]:
    """Load the named encoders, or the run's own if it is safe to load."""
    from ..encoders.load import load_encoder
    from ..encoders.named import encoder_config, own_encoder

    if given is not None:
        return [load_encoder(encoder_config(word, device=device)) for word in given]
    try:
        return [load_encoder(own_encoder(folder, called="--source", device=device))]
    except UserError as error:
        show(f"only probes from scratch, and no forecast: {error}")
        return []


def _measured(folder: Path, old: list[Encoder]) -> float | None:
    """Return the set's accuracy on the first old encoder, if evaluate has saved it in the run."""
    from ..evaluation.result import DISTILLED, load_evaluation
    from ..store.layout import scores_file

    path = results_folder(folder) / scores_file(old[0]) if old else folder
    if not path.is_file():
        return None
    rows = [row for row in load_evaluation(path).rows if (row.name, row.probe) == (DISTILLED, "ridge")]
    return rows[0].top1 if rows and rows[0].top1 > 0 else None


def _statistics(folder: Path, paths: list[Path], old: list[Encoder]) -> list[ClassStatistics]:
    """Return the statistics of old encoders, from the run and from files."""
    from ..features.statistics import ClassStatistics, statistics_if_kept

    given = [ClassStatistics.load(path) for path in paths]
    for path, one in zip(paths, given, strict=True):
        if all(one.about.encoder.fingerprint != encoder.fingerprint for encoder in old):
            raise UserError(
                f"statistics file {str(path)!r} is of {one.about.encoder}, which is not among the old encoders; add it "
                "to --source, or leave the file out"
            )
    return [*statistics_if_kept(folder), *given]
