"""Statistics of features for each class: counts, means and second moments, without any image.

Sums of several parties add up to those of all their images, so nobody has to share a photo. `class_statistics` makes a
file of them, ``+`` merges files and ``-`` removes one again; `distill` can use them instead of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import AugmentConfig
from ..encoders.encoder import Encoder
from ..errors import UserError, option
from ..images.labelled import check_class_names, warn_of_alike
from ..machine.progress import ProgressBar
from ..store.layout import STATISTICS, statistics_file
from ..store.named import run_folder
from ..store.records import as_plain, from_plain
from ..store.run_record import EncoderRecord, PartRecord, PrivacyRecord, StatisticsRecord, read_run
from ..store.tensors import read_typed, save_tensors
from ..text import counted
from .bank import FeatureBank

FORMAT = 1
"""Version of the file."""
KIND = "statistics"
_BLOCK = 4_096  # rows per sum: 40 MB in float64 for 1,280 features
_ROUNDING = 1e-6  # relative difference between two sums that should be equal
ROUNDING_OF_FEATURES = 1e-5
"""Share of a sum's length by which sums of the same photos may differ, due to rounding by other batch sizes and
processors."""


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """Counts, sums and second moments of the features of each class, in float64; `StatisticsRecord` says whose.

    An image with V augmented views counts once: its sums are those of its views, divided by V.

    >>> pooled = ClassStatistics.load("a.stats") + ClassStatistics.load("b.stats")  # doctest: +SKIP

    Attributes:
        about: Encoder, views and images behind the sums.
        counts: (C,) number of images of each class; with noise for privacy any number.
        sums: (C, d) sum of the features of each class.
        squares: (C, d) sum of the squares of each feature in each class, or ``None``.
        products: (d, d) sum over all classes of the products of every two features, or ``None``.
    """

    about: StatisticsRecord
    counts: Tensor
    sums: Tensor
    squares: Tensor | None = None
    products: Tensor | None = None

    # ---- making, reading and writing

    @classmethod
    def of_bank(
        cls,
        bank: FeatureBank,
        encoder: EncoderRecord,
        part: PartRecord,
        *,
        second_moments: bool = True,
        progress: bool = False,
    ) -> ClassStatistics:
        """The statistics of a bank's augmented views, or of its centre crops if it has none.

        Args:
            bank: Features of real images.
            encoder: The encoder that made them.
            part: Whose images they are.
            second_moments: Also sum squares and products; without them, only means are available.
            progress: Show a progress bar if that takes more than two seconds.
        """
        about = StatisticsRecord(
            encoder=encoder, views=bank.num_views, augment=bank.augment, class_names=bank.class_names, parts=(part,)
        )
        shape, weight = (bank.num_classes, bank.dim), 1 / max(bank.num_views, 1)
        sums, squares = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        products = torch.zeros(bank.dim, bank.dim, dtype=torch.float64)
        rows = len(bank) * max(bank.num_views, 1)
        with ProgressBar("sums", rows, enabled=progress) as bar:
            for block, labels in bank.blocks(size=_BLOCK):
                features = block.double()
                sums.index_add_(0, labels, features)
                if second_moments:
                    squares.index_add_(0, labels, features.square())
                    products.addmm_(features.T, features)
                bar.advance(len(labels))
        counts = torch.bincount(bank.labels, minlength=bank.num_classes).double()
        if not second_moments:
            return cls(about, counts, weight * sums)
        return cls(about, counts, weight * sums, weight * squares, weight * _mirrored(products))

    @classmethod
    def load(cls, path: Path | str) -> ClassStatistics:
        """Read a file written by `save`.

        Raises:
            UserError: The file does not exist, is damaged, or is from a newer version.
        """
        return read_typed(
            Path(path), f"statistics file {str(path)!r}", KIND, FORMAT,
            lambda tensors, metadata: cls._checked(from_plain(metadata["about"], StatisticsRecord), tensors),
            what="statistics", maker="probedistill stats",
        )  # fmt: skip

    @classmethod
    def _checked(cls, about: StatisticsRecord, tensors: dict[str, Tensor]) -> ClassStatistics:
        """Check the statistics from a file.

        Raises:
            ValueError: The tensors are not what the record says, or cannot be moments of any features.
        """
        classes, dim = len(about.class_names), about.encoder.dim
        shapes = {"counts": (classes,), "sums": (classes, dim)}
        if "squares" in tensors or "products" in tensors:
            shapes |= {"squares": (classes, dim), "products": (dim * (dim + 1) // 2,)}
        for name, shape in shapes.items():
            one = tensors[name]
            if one.shape != shape or one.dtype != torch.float64 or not bool(one.isfinite().all()):
                raise ValueError(f"{name} are not finite float64 numbers of shape {shape}")
        if len(set(about.class_names)) != classes or not classes:
            raise ValueError("class names are not all different")
        check_class_names(about.class_names, "the statistics")
        squares = tensors.get("squares")
        products = None if squares is None else _unpacked(tensors["products"], dim)
        found = cls(about, tensors["counts"], tensors["sums"], squares, products)
        if not (found.private or found._are_moments()):
            raise ValueError("no features can have these sums")
        return found

    def _are_moments(self) -> bool:
        """Whether features with these sums may exist."""
        if bool((self.counts < 0).any()) or bool(self.sums[self.counts == 0].any()):
            return False
        if self.squares is None or self.products is None:
            return True
        room = _ROUNDING * self.squares.sum()
        diagonal = self.products.diagonal()
        fits = (self.sums.square() <= self.counts[:, None] * (self.squares + room)).all()  # Cauchy–Schwarz
        same = ((self.squares.sum(dim=0) - diagonal).abs() <= room).all()
        return bool(fits & same & (self.squares >= 0).all())

    def save(self, path: Path | str) -> None:
        """Write the statistics, completely or not at all, as a safetensors file with a checksum of its content.

        The file holds counts (C,), sums (C, d), squares (C, d) and the upper triangle of the products, row by row, all
        float64: 8 · (C + 2 C d + d (d + 1) / 2) bytes, which is 6.8 MB for 10 classes and 1,280 features.

        Raises:
            UserError: It cannot be written.
        """
        tensors = {"counts": self.counts, "sums": self.sums}
        if self.squares is not None and self.products is not None:
            tensors |= {"squares": self.squares, "products": _packed(self.products)}
        save_tensors(Path(path), tensors, {"kind": KIND, "format": FORMAT, "about": as_plain(self.about)})

    # ---- what they are

    def __repr__(self) -> str:
        what = "" if self.products is not None else ", means alone"
        return (
            f"ClassStatistics({self.total:,.0f} images of {len(self.class_names)} classes, "
            f"{self.about.encoder.name}, d = {self.dim}{what})"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names."""
        return self.about.class_names

    @property
    def dim(self) -> int:
        """Number of features d."""
        return self.sums.shape[1]

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def total(self) -> float:
        """Number of images of all classes."""
        return float(self.counts.sum())

    @property
    def private(self) -> bool:
        """Whether counts and sums have noise for privacy; features then have length 1."""
        return self.about.privacy is not None

    def weights(self) -> Tensor:
        """(C,) counts as weights; at least 1 if they have noise."""
        return self.counts.clamp(min=1) if self.private else self.counts

    def means(self) -> Tensor:
        """(C, d) mean feature of each class; NaN for a class without images."""
        return self.sums / self.weights()[:, None]

    @cached_property
    def centre(self) -> Tensor:
        """(d,) mean of the means of all classes with images; centring subtracts it from every feature."""
        return self.means()[self.weights() > 0].mean(dim=0)

    def variances(self) -> Tensor:
        """(C, d) variance of each feature within each class, 0 or more.

        Raises:
            UserError: The statistics hold no second moments.
        """
        squares, _ = self.second_moments()
        return (squares / self.counts[:, None] - self.means().square()).clamp(min=0)

    def covariance(self) -> Tensor:
        """(d, d) covariance of the features within their classes, shared by all classes, with N in the denominator.

        Raises:
            UserError: The statistics hold no second moments.
        """
        _, products = self.second_moments()
        return self._within_classes(products) / self.counts.sum()

    def _within_classes(self, products: Tensor) -> Tensor:
        """(d, d) products of the deviations of features from the mean of their class, summed over all images."""
        there = self.counts > 0
        means = self.means()[there]
        return products - means.T @ (self.counts[there, None] * means)

    def spread(self) -> float:
        """Mean squared distance of an image's feature from `centre`, with equal weight for every class.

        Raises:
            UserError: The statistics hold no second moments.
        """
        there = self.counts > 0
        within = self.variances()[there].sum(dim=1)
        return float((within + (self.means()[there] - self.centre).square().sum(dim=1)).mean())

    def second_moments(self) -> tuple[Tensor, Tensor]:
        """Squares (C, d) and products (d, d).

        Raises:
            UserError: The statistics hold none.
        """
        if self.private:
            raise UserError(
                f"the statistics {self._label} are differentially private, so they have no second moments; use sfm, "
                "which needs only class means"
            )
        if self.squares is None or self.products is None:
            raise UserError(
                f"the statistics {self._label} have only counts and sums; make them again with second moments, or use "
                "sfm, which needs only class means"
            )
        return self.squares, self.products

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise `UserError` unless these are statistics of an encoder's features."""
        mine = self.about.encoder
        if (mine.fingerprint, mine.precision) != (encoder.fingerprint, encoder.precision):
            raise UserError(
                f"the statistics {self._label} are of encoder {_of(mine)}, not of {_of(encoder)}; give that encoder, "
                "or make the statistics with this one"
            )

    @property
    def _label(self) -> str:
        """The name of the statistics in errors."""
        first = self.about.parts[0].name if self.about.parts else "without a part"
        return repr(first if len(self.about.parts) < 2 else f"{first} and {len(self.about.parts) - 1} more")

    # ---- adding and removing

    def __add__(self, other: ClassStatistics) -> ClassStatistics:
        """Add the statistics of two parties' images of the same classes.

        Raises:
            UserError: They do not fit together, or have the same photos of a class.
        """
        self._check_fits(other)
        # With no class in common, both may have classes of the same part, if others were dropped.
        apart = bool(self.about.dropped or other.about.dropped) and not bool(
            ((self.counts > 0) & (other.counts > 0)).any()
        )
        parts = _joined_parts(self.about.parts, other.about.parts, apart)
        twice = self._class_of_the_same_photos(other)
        if twice is not None:
            raise UserError(
                f"statistics {self._label} and {other._label} have the same photos of class {twice!r}, which would "
                "count twice; make one of the files again without that class"
            )
        return self._combined(other, 1, parts)

    def forgot(self, names: Iterable[str]) -> bool:
        """Whether these classes, at least one, were all dropped, and none has images now."""
        there = {name for name, count in zip(self.class_names, self.counts.tolist()) if count}
        names = set(names)
        return bool(names) and names <= set(self.about.dropped) - there

    def _class_of_the_same_photos(self, other: ClassStatistics) -> str | None:
        """The first class with as many photos and the same sum in both; different photos never have the same sum."""
        if self.private:
            return None
        return next((name for name in self.class_names if self.same_photos_of(name, other)), None)

    def same_photos_of(self, name: str, other: ClassStatistics) -> bool:
        """Whether both have equally many photos of a class with the same sum, as different photos never have."""
        mine, its = self.class_names.index(name), other.class_names.index(name)
        off = (self.sums[mine] - other.sums[its]).norm()
        same = off <= ROUNDING_OF_FEATURES * self.sums[mine].norm()
        return bool((self.counts[mine] > 0) & (self.counts[mine] == other.counts[its]) & same)

    def __sub__(self, other: ClassStatistics) -> ClassStatistics:
        """Subtract the statistics of images that are part of these.

        Raises:
            UserError: They do not fit together, or the other's images cannot all be among these.
        """
        self._check_fits(other)
        for name, mine, less in zip(self.class_names, self.counts.tolist(), other.counts.tolist(), strict=True):
            if less > mine and not self.private:
                raise UserError(
                    f"the statistics {other._label} are not part of {self._label}: class {name!r} has {less:.0f} "
                    f"images there but {mine:.0f} here; give statistics of images that were added"
                )
        left = self._combined(other, -1, _remaining_parts(self.about.parts, other.about.parts))
        if not (self.private or (left._are_moments() and left._may_be_left_of(self))):
            raise UserError(f"the statistics {other._label} are not part of {self._label}; give some that were added")
        return left

    def _may_be_left_of(self, whole: ClassStatistics) -> bool:
        """Whether features with these products may exist. After a class was dropped this is unknown, so True.

        Variance is never negative. If photos that are not in ``whole`` were subtracted, it is almost always negative in
        some direction, unless they are few and there are many more images than features.
        """
        if self.products is None or whole.products is None or self.about.dropped:
            return True
        total = whole.products.diagonal().sum()
        spread = whole._within_classes(whole.products).diagonal().sum().clamp(min=0)
        room = ROUNDING_OF_FEATURES * (total * spread).sqrt() + ROUNDING_OF_FEATURES**2 * total
        within = self._within_classes(self.products)
        within.diagonal().add_(room)
        return not bool(room) or int(torch.linalg.cholesky_ex(within).info) == 0

    def _combined(self, other: ClassStatistics, sign: int, parts: tuple[PartRecord, ...]) -> ClassStatistics:
        counts = self.counts + sign * other.counts
        # Clear classes without images, where only rounding is left; with noise, nobody knows which classes those are.
        there = torch.ones_like(counts)[:, None] if self.private else (counts > 0).double()[:, None]
        sums, squares, products = there * (self.sums + sign * other.sums), None, None
        if self.squares is not None and other.squares is not None:
            squares = (there * (self.squares + sign * other.squares)).clamp(min=0)
        if self.products is not None and other.products is not None:
            products = self.products + sign * other.products
        about = replace(
            self.about,
            parts=parts,
            dropped=tuple(dict.fromkeys((*self.about.dropped, *other.about.dropped))),
            privacy=_joined_promises(self.about.privacy, other.about.privacy),
        )
        return ClassStatistics(about, counts, sums, squares, products)

    def _check_fits(self, other: ClassStatistics) -> None:
        """Refuse statistics that were made differently or are of different classes."""
        mine, its, pair = self.about, other.about, f"statistics {self._label} and {other._label}"
        if (mine.encoder.fingerprint, mine.encoder.precision) != (its.encoder.fingerprint, its.encoder.precision):
            raise UserError(
                f"{pair} are of different encoders ({_of(mine.encoder)} and {_of(its.encoder)}); make both "
                "with the same one"
            )
        if (mine.views, mine.augment) != (its.views, its.augment):
            raise UserError(
                f"{pair} are of different views ({_views(mine)} and {_views(its)}); make both with the same "
                f"{option('real_views')} and {option('augment')}"
            )
        if mine.class_names != its.class_names:
            in_one = set(mine.class_names) ^ set(its.class_names)
            strangers = [name for name in (*mine.class_names, *its.class_names) if name in in_one]
            which = f"{strangers[0]!r} is only in one" if strangers else "in a different order"
            raise UserError(
                f"{pair} are of different classes ({which}); add {option('union', True)} to merge the classes of both"
            )
        if self.private != other.private:
            open_one = other if self.private else self
            raise UserError(
                f"{pair}: {open_one._label} is not private, so nothing could be promised for both together; make it "
                f"with {option('epsilon')}, too"
            )
        if (self.products is None) != (other.products is None):
            without = self if self.products is None else other
            raise UserError(
                f"{pair}: {without._label} has no second moments; make both with them, or both with "
                f"{option('second_moments', False)}"
            )

    def with_classes(self, class_names: Sequence[str]) -> ClassStatistics:
        """Return the statistics of these classes in this order; a class that is not here has no images.

        The counts, sums and squares of a dropped class are removed exactly. Products are summed over all classes, so
        its part of them is estimated as if its features were correlated like those of all classes. `about.dropped` then
        names the class.
        """
        names = tuple(class_names)
        if names == self.class_names:
            return self
        place = {name: number for number, name in enumerate(self.class_names)}
        known = [(new, place[name]) for new, name in enumerate(names) if name in place]
        lost = [name for number, name in enumerate(self.class_names) if name not in names and self.counts[number] > 0]

        def chosen(rows: Tensor) -> Tensor:
            result = rows.new_zeros(len(names), *rows.shape[1:])
            for new, old in known:
                result[new] = rows[old]
            return result

        about = replace(self.about, class_names=names, dropped=tuple(dict.fromkeys((*self.about.dropped, *lost))))
        squares = None if self.squares is None else chosen(self.squares)
        left = ClassStatistics(about, chosen(self.counts), chosen(self.sums), squares, self.products)
        return left if not lost or squares is None else replace(left, products=self._products_of(left))

    def without_photos_of(self, others: Sequence[ClassStatistics]) -> ClassStatistics:
        """Return the statistics without the classes that one of ``others`` has, too, of the same photos.

        Products lose the part of these classes exactly if all photos of the other are among these; otherwise by
        estimate, and `about.dropped` names the classes (see `with_classes`).

        Args:
            others: Statistics of different photos.
        """
        again = {
            name
            for other in others
            for name in self.class_names
            if name in other.class_names and self.same_photos_of(name, other)
        }
        left = self
        for other in others:
            counted = {name for name, count in zip(other.class_names, other.counts.tolist()) if count}
            if counted <= again and left.products is not None and not (left.about.dropped or other.about.dropped):
                with suppress(UserError):  # sums of one class may agree by rounding only; those of products may not
                    left = left - other.with_classes(left.class_names)
        return left.with_classes([name for name in self.class_names if name not in again])

    def _products_of(self, left: ClassStatistics) -> Tensor:
        """Products for some of the classes: their own means and variances, with the correlations of all classes."""
        of_all, of_left = self._within(), left._within()
        scale = torch.where(of_all > 0, (of_left / of_all.clamp(min=1e-300)).sqrt(), 0)
        means = left.means().nan_to_num()
        within = self.counts.sum() * self.covariance() * scale * scale[:, None]
        within.diagonal().copy_(of_left)
        return _mirrored(within + means.T @ (left.counts[:, None] * means))

    def _within(self) -> Tensor:
        """(d,) sums of the squared deviations of all features from the mean of their class."""
        return (self.counts[:, None] * self.variances()).nan_to_num().sum(dim=0)


def merge_statistics(parts: Iterable[ClassStatistics], *, union: bool = False) -> ClassStatistics:
    """Merge the statistics of several parties' images.

    Args:
        parts: At least one.
        union: Merge different classes: those of the first party in its order, then those that each further one adds.

    Raises:
        UserError: They do not fit together, or the same images occur twice.
    """
    parts = list(parts)
    if not parts:
        raise UserError("statistics is empty; give at least one file")
    if union:
        warn_of_alike(part.class_names for part in parts)
        names = tuple(dict.fromkeys(name for part in parts for name in part.class_names))
        parts = [part.with_classes(names) for part in parts]
    return reduce(add, parts)


def load_statistics(paths: Path | str | Sequence[Path | str], *, union: bool = False) -> ClassStatistics:
    """Read a file of statistics, or merge several; see `merge_statistics`."""
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    return merge_statistics([ClassStatistics.load(path) for path in paths], union=union)


def statistics_of_run(folder: Path | str) -> list[ClassStatistics]:
    """Return the statistics in a run, in the order of its encoders.

    Raises:
        UserError: It has none, or they are damaged, or those of another run.
    """
    folder = run_folder(folder)
    run = read_run(folder)
    encoders = run.encoders
    paths = [folder / statistics_file(number, one.name, one.input_size) for number, one in enumerate(encoders)]
    if not paths or not all(path.exists() for path in paths):
        raise UserError(f"run {str(folder)!r} has no statistics; distil it again with {option('keep_stats', True)}")
    found = [ClassStatistics.load(path) for path in paths]
    for path, one, encoder in zip(paths, found, encoders, strict=True):
        if (one.class_names, one.about.encoder.fingerprint) != (run.class_names, encoder.fingerprint):
            raise UserError(f"statistics file {str(path)!r} is of another run; restore the run's own")
    return found


def statistics_if_kept(folder: Path | str) -> list[ClassStatistics]:
    """As `statistics_of_run`, but return none if the run has none.

    Raises:
        UserError: Some are missing or damaged.
    """
    return statistics_of_run(folder) if any(run_folder(folder).glob(STATISTICS)) else []


def save_in_run(folder: Path, statistics: Sequence[ClassStatistics]) -> None:
    """Write the statistics of each encoder where `statistics_of_run` finds them."""
    for number, one in enumerate(statistics):
        encoder = one.about.encoder
        one.save(folder / statistics_file(number, encoder.name, encoder.input_size))


def _joined_parts(
    ours: tuple[PartRecord, ...], theirs: tuple[PartRecord, ...], apart: bool = False
) -> tuple[PartRecord, ...]:
    """The parts of both; one that is in both counts once if they are ``apart``, with no class in common."""
    result = list(ours)
    for part in theirs:
        same = next((one for one in result if one.images == part.images), None)
        if same is None:
            result.append(part)
        elif same.removed != part.removed:
            result.remove(same)
        elif part.removed:
            raise UserError(f"the images of {part.name!r} have already been removed; remove them only once")
        elif not apart:
            raise UserError(
                f"the images of {part.name!r} are in both statistics and would count twice; leave one of them out"
            )
    return tuple(result)


def _joined_promises(one: PrivacyRecord | None, other: PrivacyRecord | None) -> PrivacyRecord | None:
    """The privacy promise for the images of both parties; each image belongs to only one of them."""
    return one if one is None or other is None else one.with_disjoint(other)


def _remaining_parts(ours: tuple[PartRecord, ...], less: tuple[PartRecord, ...]) -> tuple[PartRecord, ...]:
    """Our parts without theirs; a part that we did not name is recorded as removed."""
    return _joined_parts(ours, tuple(replace(part, removed=not part.removed) for part in less))


def _of(encoder: EncoderRecord | Encoder) -> str:
    return f"{encoder.name!r} at {encoder.input_size} px ({encoder.fingerprint[:12]}, {encoder.precision})"


def _views(about: StatisticsRecord) -> str:
    if not about.views:
        return "centre crops"
    different: list[Any] = []
    if about.augment is not None:
        usual = AugmentConfig().settled()
        different = [
            f"{key} {value}" for key, value in vars(about.augment.settled()).items() if value != getattr(usual, key)
        ]
    return ", ".join([counted(about.views, "view"), *different])


def _mirrored(square: Tensor) -> Tensor:
    """The symmetric matrix with this upper triangle: rounded sums of products are only almost symmetric."""
    upper = square.triu()
    return upper + upper.triu(1).T


def _packed(square: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(*square.shape)
    return square[rows, columns]


def _unpacked(triangle: Tensor, dim: int) -> Tensor:
    square = triangle.new_zeros(dim, dim)
    rows, columns = torch.triu_indices(dim, dim)
    square[rows, columns] = triangle
    return square + square.triu(1).T
