"""stats: sums of features that stand for images."""

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
    """Write what images say about their classes as sums of features, without any image; merge such files; show one.

    Example: probedistill stats --images folder:photos --encoder efficientnet_lite0@112 --out a.stats

    Merge them: probedistill stats a.stats b.stats --out all.stats

    Show one: probedistill stats all.stats

    A file holds the count, the sum and the sum of squares of the features of each class, and the products of every two
    features over all classes: 6.8 MB for 10 classes and 1,280 features. Several parties' files, merged, are those of
    their pooled images, and distill --stats distils from them. Sums are not anonymous by themselves: those of a single
    image are its features.

    The images are those that distill trains on: where a source has no test split, a part stays out for testing.

    Parameters
    ----------
    files:
        Files to merge or to show, in place of --images.
    out:
        File to write.
    name:
        What others read of whose images these are. Default: the name of OUT without its suffix.
    real_views:
        Augmented views of each image, whose mean is its feature; 0: its centre crop.
    all_images:
        Hold no image out for testing.
    second_moments:
        Sum squares and products too; --no-second-moments writes counts and sums alone, which sfm needs no more than.
    epsilon:
        Add noise that makes the file (ε, δ)-differentially private: it is nearly the same with any one image and
        without it. Smaller is more private; 1 is strict, 8 is lenient. Files hold no second moments then.
    delta:
        δ of --epsilon: far below one over the number of images.
    union:
        Merge files of different classes: all classes of all files.
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
                    f"{flag} is for images, and files are merged and shown as they are; leave one of them out"
                )
        if len(files) > 1 and out is None:
            raise UserError(f"{len(files)} files to merge, and out is missing; add --out FILE")
        _write(load_statistics(files, union=union), out)
        return
    if images is None or encoder is None or out is None:
        missing = "images" if images is None else "encoder" if encoder is None else "out"
        raise UserError(f"{missing} is missing; give --images, --encoder and --out, or files to merge or show")
    if union:
        raise UserError("--union is for merging files, and there are images; leave it out")
    _check_out(out)
    check_number("real_views", real_views, whole=True)
    if epsilon is not None:
        check_promise(epsilon, delta)
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
        show(f"class {first!r} has one image: its sum is that image's feature, which shows what is in it")
    if out is not None:
        show(f"statistics: {out} ({out.stat().st_size:,} bytes)")


def _of_noise(found: ClassStatistics, promise: PrivacyRecord) -> Iterator[str]:
    """The privacy promise, and warnings if it or the statistics are worth little; only noisy counts are used."""
    deviation, count_deviation = promise.deviation, promise.count_deviation
    yield f"{promise}; standard deviation of the noise: {count_deviation:.1f} in counts, {deviation:.2f} in sums"
    length = deviation * math.sqrt(found.dim)
    small = int((found.counts < length).sum())
    if small:
        yield (
            f"mostly noise: {small} of {len(found.class_names)} classes; the noise of a sum is about {length:,.0f} "
            "long, and the sum of n images at most n"
        )
    if promise.delta * found.total >= 1:
        yield (
            f"delta {promise.delta:g} promises next to nothing for {found.total:,.0f} images: who publishes one of "
            f"them keeps it, too; take far less than {1 / found.total:.1g}"
        )


def _table(found: ClassStatistics) -> Table:
    from ..show.tables import Table

    rows = tuple((name, f"{count:,.0f}") for name, count in zip(found.class_names, found.counts.tolist(), strict=True))
    parts = ", ".join(f"{'without ' * part.removed}{part.name} ({part.count:,})" for part in found.about.parts)
    return Table("Statistics of features", ("class", "images"), rows, caption=f"parts: {parts}")


def _check_out(out: Path) -> None:
    from ..store.files import check_file

    check_file(out, f"out {str(out)!r} is a folder; give the name of a file, such as {str(out / 'all.stats')!r}")
