"""Which photos are already in class sums, found from the sums alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..images.labelled import rows_of_labels
from .bank import FeatureBank
from .statistics import ROUNDING_OF_FEATURES, ClassStatistics

_SMALLEST = 1e-6  # smaller singular values are ignored: single precision leaves such a rest between equal features


def photos_counted_before(
    held: ClassStatistics, bank: FeatureBank, once_called: Callable[[str], Sequence[str]] = lambda name: ()
) -> tuple[str, int] | None:
    """The first class of which a bank has all photos behind the sums, and their number; ``None`` if there is none.

    Features of photos are almost always linearly independent, so linear equations show which of them add up to a sum.
    Nothing is known if a bank has only some of the photos behind a sum, or other views of them.

    Args:
        held: Sums without noise.
        bank: Features of photos, of the same views as in the sums.
        once_called: Gives the classes that had a name before they were renamed.
    """
    for name, rows in zip(bank.class_names, rows_of_labels(bank.labels.numpy(), bank.num_classes), strict=True):
        for known in {name, *once_called(name)} & set(held.class_names):
            place = held.class_names.index(known)
            count = round(float(held.counts[place]))
            if 0 < count <= len(rows):
                some = bank.select(torch.from_numpy(rows))
                features = (some.augmented.mean(dim=0) if some.num_views else some.centre).double()
                if rows_of_sum(features, held.sums[place], count) is not None:
                    return known, count
    return None


def rows_of_sum(features: Tensor, total: Tensor, count: int) -> Tensor | None:
    """Which rows add up to a sum: (n,) bool, or ``None`` if none do or there are too many rows to know.

    Args:
        features: (n, d) float64; n ≤ d, or n = ``count``.
        total: (d,) the sum.
        count: Number of rows that add up to it.
    """
    if count == len(features):
        chosen = features.new_ones(count)
    elif len(features) <= features.shape[1]:
        weights = torch.linalg.lstsq(features.T, total[:, None], rcond=_SMALLEST, driver="gelsy").solution
        chosen = (weights.squeeze(1) > 0.5).to(features)
    else:
        return None
    off = (chosen @ features - total).norm()
    is_it = int(chosen.sum()) == count and bool(off <= ROUNDING_OF_FEATURES * total.norm())
    return chosen.bool() if is_it else None
