"""Counts and sums with differential privacy: each image adds at most 1 to its class, and noise hides whether it is
there.

OpenDP does the accounting and draws the noise. Its Gaussian is discrete, on a fine grid, so no rounding can reveal the
value below it. The random bytes come from OpenSSL's generator, which the operating system seeds. The seeds of this
package are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError, explained
from ..extras import needed
from ..machine.progress import ProgressBar
from ..methods import check_number
from ..store.run_record import PrivacyRecord
from .bank import FeatureBank

if TYPE_CHECKING:
    from opendp.prelude import Measurement

_COUNT_WEIGHT = 0.5  # of an image in its class's count; its feature has length 1 in the class's sum
_GRID = 2.0**30  # features are whole multiples of 1 / _GRID: sums of up to four million images of a class are exact
_ROOM = 1e-9  # by which a rounded length may exceed 1
_BLOCK = 4_096
ADJACENCY = "add or remove one image"
CLIPPING = "the mean of an image's views, scaled to length 1"

Noise = Callable[[list[float], float], list[float]]
"""(values, standard deviation) → values with independent Gaussian noise."""


def unit_sums(bank: FeatureBank) -> tuple[Tensor, Tensor]:
    """Counts (C,) and sums (C, d) of features of length 1, one per image, whatever its number of views."""
    counts = torch.bincount(bank.labels, minlength=bank.num_classes).double()
    sums = torch.zeros(bank.num_classes, bank.dim, dtype=torch.float64)
    for rows in torch.arange(len(bank)).split(_BLOCK):
        views = range(max(bank.num_views, 1))
        # Average the views first: an image with many views must have no more weight than an image with one view.
        mean = torch.stack([bank.take(view * len(bank) + rows).double() for view in views]).mean(dim=0)
        # Truncate to a grid, so that no vector is longer than 1 and sums are exact. In rounded sums, one image would
        # change more than its own vector: also the rounding of everything added after it (arXiv 2207.10635).
        sums.index_add_(0, bank.labels[rows], (F.normalize(mean, dim=1) * _GRID).trunc() / _GRID)
    return counts, sums


def with_noise(
    counts: Tensor,
    sums: Tensor,
    *,
    epsilon: float,
    delta: float,
    insecure_seed: int | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor, PrivacyRecord]:
    """Return counts and sums that are (ε, δ)-differentially private together, and the record of that promise.

    An image changes only one class: its sum by a vector of length 1 and its count by 1. The Gaussian mechanism is
    applied to each class's sum and count, weighted; classes are disjoint, so the promise for one holds for all
    (parallel composition). Anything computed from the result, such as centred means, has the same promise.

    Args:
        counts: (C,) numbers of images.
        sums: (C, d) sums of features of length at most 1, from `unit_sums`.
        epsilon: ε > 0.
        delta: δ, between 0 and 1; choose it below one over the number of images.
        insecure_seed: Draw the noise from this seed, for tests. Nothing is private then, and the record says so.
        progress: Show a progress bar if it takes more than two seconds.

    Raises:
        UserError: A value is out of range, or OpenDP is not installed.
    """
    deviation, noise, library = check_promise(epsilon, delta)
    if insecure_seed is not None:
        noise, library = _insecure(insecure_seed), f"none: insecure noise of seed {insecure_seed}"
    noisy = torch.empty(len(counts), sums.shape[1] + 1, dtype=torch.float64)
    weighted = torch.cat([sums, _COUNT_WEIGHT * counts[:, None]], dim=1)
    with ProgressBar("noise", len(counts), enabled=progress) as bar:
        for label, row in enumerate(weighted.tolist()):
            noisy[label] = torch.tensor(noise(row, deviation), dtype=torch.float64)
            bar.advance()
    record = PrivacyRecord(
        epsilon=float(epsilon) if insecure_seed is None else None,
        delta=float(delta),
        deviation=deviation,
        count_deviation=deviation / _COUNT_WEIGHT,
        adjacency=ADJACENCY,
        clipping=CLIPPING,
        library=library,
    )
    return noisy[:, -1] / _COUNT_WEIGHT, noisy[:, :-1], record


def check_promise(epsilon: float, delta: float) -> tuple[float, Noise, str]:
    """Return the least standard deviation for (ε, δ), the function that adds such noise, and its package and version.

    Raises:
        UserError: A value is out of range, or OpenDP is not installed.
    """
    check_number("epsilon", epsilon, more_than=True)
    check_number("delta", delta, more_than=True)
    if delta >= 1:
        raise UserError(f"delta {delta} must be less than 1; choose it far below one over the number of images")
    dp = needed("opendp.prelude", "privacy", "epsilon needs")
    dp.enable_features("contrib")
    deviation = _least_deviation(epsilon, delta)
    return deviation, lambda values, scale: _gaussian(scale)(values), f"opendp {version('opendp')}"


@cache  # OpenDP's search takes a hundred steps
def _least_deviation(epsilon: float, delta: float) -> float:
    import opendp.prelude as dp

    def promised(deviation: float) -> Measurement:
        return dp.c.make_fix_delta(dp.c.make_zCDP_to_approxDP(_gaussian(deviation)), delta)

    sensitivity = math.hypot(1.0, _COUNT_WEIGHT) * (1 + _ROOM)
    with explained(f"epsilon {epsilon} with delta {delta} cannot be achieved", Exception, hint="try other values"):
        return float(dp.binary_search_param(promised, d_in=sensitivity, d_out=(epsilon, delta)))


def _gaussian(deviation: float) -> Measurement:
    import opendp.prelude as dp

    space = dp.vector_domain(dp.atom_domain(T=float, nan=False)), dp.l2_distance(T=float)
    return space >> dp.m.then_gaussian(scale=deviation)


def _insecure(seed: int) -> Noise:
    generator = torch.Generator().manual_seed(seed)

    def noise(values: list[float], deviation: float) -> list[float]:
        drawn = torch.randn(len(values), generator=generator, dtype=torch.float64)
        return (torch.tensor(values, dtype=torch.float64) + deviation * drawn).tolist()

    return noise
