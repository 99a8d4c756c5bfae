"""stats: sums of features that replace images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import AugmentConfig, EncoderConfig, ImagesConfig
from ..errors import UserError
from ..methods import check_number
from ..text import counted
from .app import Cache, EncoderOptions, Images, Progress, command, show

if TYPE_CHECKING:
    from ..features.statistics import ClassStatistics
    from ..show.tables import Table
    from ..store.run_record import PrivacyRecord

_DELTA = 1e-5


@command(ImagesConfig, EncoderConfig)
def stats(
    files: list[Path] | None = None,
    /,
    images: Images | None = None,
    encoder: EncoderOptions | None = None,
    *,
    out: Path | None = None,
    name: str | None = None,
    real_views: int = 0,
    augment: AugmentConfig | None = None,
    all_images: bool = False,
    second_moments: bool = True,
    epsilon: float | None = None,
    delta: float = _DELTA,
    union: bool = False,
    seed: int = 0,
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """Summarise images as per-class sums of features, to share or distil from instead of images; merge or show files.

    Example: probedistill stats --images folder:photos --encoder efficientnet_lite0@112 --out a.stats

    Merge: probedistill stats a.stats b.stats --out all.stats

    Show: probedistill stats all.stats

    A file contains, for each class, the count, the sum and the sum of squares of the features, and the products of
    every two features over all classes: 6.8 MB for 10 classes and 1,280 features. Merged files of several parties equal
    the statistics of their pooled images, and distill --stats distils from them. Sums are not anonymous by themselves:
    the sum over a single image is its features.

    The images are those that distill trains on: if a source has no test split, some are held out for testing.

    Parameters
    ----------
    files:
        Files to merge or show, instead of --images.
    out:
        File to write.
    name:
        Name that tells others whose images these are. Default: the name of OUT without its suffix.
    real_views:
        Augmented views of each image, whose mean is its feature; 0: the centre crop alone.
    all_images:
        Hold out no images for testing.
    second_moments:
        Also sum squares and products. --no-second-moments writes only counts and sums, which is all that sfm needs.
    epsilon:
        Add noise that makes the file (ε, δ)-differentially private: it is nearly the same with or without any one
        image. Smaller is more private; 1 is strict, 8 is lenient. The file then has no second moments.
    delta:
        δ of --epsilon; choose it far below one over the number of images.
    union:
        Merge files even if their classes differ; keep the classes of all files.
    seed:
        Seed of the views.
    """
    from ..features.privacy import check_promise
    from ..features.statistics import load_statistics
    from ..features.store import FeatureStore
    from ..features.summed import class_statistics

    if files:
        of_images = {
            "--images": images is not None, "--encoder": encoder is not None, "--name": name is not None,
            "--real-views": real_views != 0, "--augment": augment is not None, "--all-images": all_images,
            "--no-second-moments": not second_moments, "--epsilon": epsilon is not None, "--delta": delta != _DELTA,
            "--seed": seed != 0,
        }  # fmt: skip
        for flag, is_given in of_images.items():
            if is_given:
                raise UserError(
                    f"{flag} is for images, but files are merged and shown as they are; leave out {flag} or the files"
                )
        if len(files) > 1 and out is None:
            raise UserError(f"out is missing, and there are {len(files)} files to merge; add --out FILE")
        _write(load_statistics(files, union=union), out)
        return
    if images is None or encoder is None or out is None:
        missing = "images" if images is None else "encoder" if encoder is None else "out"
        raise UserError(f"{missing} is missing; give --images, --encoder and --out, or files to merge or show")
    if union:
        raise UserError("--union is for merging files, not for images; leave it out")
    _check_out(out)
    check_number("real_views", real_views, whole=True)
    if epsilon is not None:
        check_promise(epsilon, delta)
        if out.exists() and load_statistics([out]).about.privacy is not None:
            raise UserError(
                f"out {str(out)!r} is a release already, and a second one of the same images adds its ε and δ; "
                "choose another name, or remove the file if nobody has seen it"
            )
    elif delta != _DELTA:
        raise UserError(f"delta {delta} is for --epsilon; give that too, or leave --delta out")
    from ..encoders.load import load_encoder
    from ..images.splits import load_training

    train = load_training(images, everything=all_images, independent=epsilon is not None, progress=progress)
    found = class_statistics(
        load_encoder(encoder), train, name=name or out.stem, views=real_views, augment=augment, seed=seed,
        second_moments=second_moments, epsilon=epsilon, delta=delta,
        features=FeatureStore(cache, images.strict, progress),
    )  # fmt: skip
    _write(found, out)


def _write(found: ClassStatistics, out: Path | None) -> None:
    if out is not None:
        _check_out(out)
        found.save(out)
    show(_table(found))
    about = found.about
    views = f"{counted(about.views, 'view')} of each image" if about.views else "centre crops"
    show(f"{found.total:,.0f} images of {counted(len(about.parts), 'part')}, {views}, "
         f"features of {about.encoder}")  # fmt: skip
    if about.privacy is not None:
        for line in _of_noise(found, about.privacy):
            show(line)
    elif bool((found.counts == 1).any()):
        first = found.class_names[int((found.counts == 1).nonzero()[0])]
        show(f"class {first!r} has a single image: its sum is that image's feature, which reveals what is in it")
    if out is not None:
        show(f"statistics: {out} ({out.stat().st_size:,} bytes)")


def _of_noise(found: ClassStatistics, promise: PrivacyRecord) -> Iterator[str]:
    """Yield the privacy promise, and warnings if it or the statistics are worth little; uses only noisy counts."""
    deviation, count_deviation = promise.deviation, promise.count_deviation
    yield f"{promise}; standard deviation of the noise: {count_deviation:.1f} in counts, {deviation:.2f} in sums"
    length = deviation * math.sqrt(found.dim)
    small = int((found.counts < length).sum())
    if small:
        yield (
            f"mostly noise: {small} of {len(found.class_names)} classes; the noise in a sum has length "
            f"{length:,.0f} or so, and the sum of n images has length n at most"
        )
    if promise.delta * found.total >= 1:
        yield (
            f"delta {promise.delta:g} promises almost nothing for {found.total:,.0f} images: publishing one of them "
            f"would keep the promise, too; use far less than {1 / found.total:.1g}"
        )


def _table(found: ClassStatistics) -> Table:
    from ..show.tables import Table

    rows = tuple((name, f"{count:,.0f}") for name, count in zip(found.class_names, found.counts.tolist(), strict=True))
    parts = ", ".join(f"{'without ' * part.removed}{part.name} ({part.count:,})" for part in found.about.parts)
    return Table("Statistics of features", ("class", "images"), rows, caption=f"parts: {parts}")


def _check_out(out: Path) -> None:
    from ..features.statistics import KIND
    from ..store.tensors import check_tensors_file

    named = f"out {str(out)!r} is a folder; give the name of a file, such as {str(out / 'all.stats')!r}"
    check_tensors_file(out, KIND, named)
