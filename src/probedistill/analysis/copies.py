"""How near images are to photos: three distances, and how common such a distance is among the photos themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from scipy.stats import betabinom
from torch import Tensor

SIDE = 32
"""Side in pixels of the grey thumbnails for comparing pixels and structure."""
NEIGHBOURS = 50
"""Number of nearest photos with which the nearest one is compared."""

_WINDOW = 24  # side of the part that is moved over a photo, in pixels
_SHIFTS = (-4, -2, 0, 2, 4)  # pixels
_SCALES = (0.8, 0.9, 1.0, 1.1, 1.25)
_GREY = torch.tensor([0.299, 0.587, 0.114])
_BLOCK = 2048  # photos per block
_QUERIES, _EACH = 64, 8  # queries that share what is computed of a block; queries compared at a time
_PATCH, _STRIDE = 8, 4  # pixels: the SSIM paper's windows, at every fourth position
_C1, _C2 = 0.01**2, 0.03**2  # the SSIM paper's constants, for values in [0, 1]

Distances = Callable[[Tensor, Tensor], Tensor]
"""(queries (q, …), photos (N, …)) → distances (q, N)."""


def thumbnails(images: Tensor) -> Tensor:
    """Grey thumbnails (n, 32, 32) uint8 of images (n, 3, S, S) in [0, 1]."""
    small = F.interpolate(images.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    grey = (small * _GREY.to(small)[:, None, None]).sum(dim=1)
    return (grey.clamp(0, 1) * 255).round().to(torch.uint8)


def pixel_distances(queries: Tensor, photos: Tensor) -> Tensor:
    """1 − the largest correlation of grey values over small shifts, scales and the mirror image, (q, N).

    A part of the query, moved by up to an eighth of its side, enlarged or reduced by up to a quarter and perhaps
    mirrored, is laid on the middle of the photo. A correlation does not see brightness and contrast.

    Args:
        queries: (q, 32, 32) thumbnails.
        photos: (N, 32, 32) thumbnails.
    """
    edge = (SIDE - _WINDOW) // 2
    moved = [_moved(some) for some in queries.split(_EACH)]  # (8, T, w) each
    found = []
    for block in photos.split(_BLOCK):
        middle = _standard(block[:, edge:-edge, edge:-edge].float().flatten(1))
        found.append(torch.cat([(some @ middle.T).amax(dim=1) for some in moved]))
    return 1 - torch.cat(found, dim=1)


def _moved(queries: Tensor) -> Tensor:
    """Every query under each of T moves, (q, T, 24 · 24), standardised."""
    share = _WINDOW / SIDE
    moves = [
        [[mirror * scale * share, 0.0, 2 * x / SIDE], [0.0, scale * share, 2 * y / SIDE]]
        for scale, x, y, mirror in product(_SCALES, _SHIFTS, _SHIFTS, (1, -1))
    ]
    grid = F.affine_grid(torch.tensor(moves), [len(moves), 1, _WINDOW, _WINDOW], align_corners=False)
    shown = [
        F.grid_sample(
            query.float().expand(len(moves), 1, -1, -1), grid, align_corners=False, padding_mode="border"
        ).flatten(1)
        for query in queries
    ]
    return _standard(torch.stack(shown))


def _standard(values: Tensor) -> Tensor:
    """Rows with mean 0 and length 1; a row without contrast becomes 0 and correlates with nothing."""
    values = values - values.mean(dim=-1, keepdim=True)
    length = values.norm(dim=-1, keepdim=True)
    return torch.where(length > 1e-3, values / length.clamp_min(1e-3), torch.zeros_like(values))


def structure_distances(queries: Tensor, photos: Tensor) -> Tensor:
    """1 − SSIM (Wang et al. 2004), the larger of that of the image and of its mirror image, (q, N).

    SSIM compares mean, variance and covariance in 8 × 8 windows. Both images are brought to one brightness and
    contrast first.

    Args:
        queries: (q, 32, 32) thumbnails.
        photos: (N, 32, 32) thumbnails.
    """
    sides = [[_windows(side) for side in some] for some in zip(queries.split(_EACH), queries.flip(-1).split(_EACH))]
    found = []
    for block in photos.split(_BLOCK // 8):
        theirs = _windows(block)
        found.append(torch.cat([torch.maximum(*(_ssim(mine, theirs) for mine in both)) for both in sides]))
    return 1 - torch.cat(found, dim=1)


@dataclass(frozen=True)
class _Windows:
    """The windows of n thumbnails, after standardising brightness and contrast.

    Attributes:
        values: (W, n, 64).
        columns: The same as (W, 64, n), contiguous, so that products need no copy.
        mean, variance: Mean and variance of each window, (W, n).
    """

    values: Tensor
    columns: Tensor
    mean: Tensor
    variance: Tensor


def _windows(images: Tensor) -> _Windows:
    flat = images.float().flatten(1)
    level = 0.5 + 0.2 * (flat - flat.mean(dim=1, keepdim=True)) / flat.std(dim=1, keepdim=True).clamp_min(1e-3)
    windows: Tensor = F.unfold(level.view(-1, 1, SIDE, SIDE), _PATCH, stride=_STRIDE)  # (n, 64, W)
    values = windows.permute(2, 0, 1)
    return _Windows(values, values.transpose(1, 2).contiguous(), values.mean(dim=2), values.var(dim=2, correction=0))


def _ssim(one: _Windows, other: _Windows) -> Tensor:
    """Mean SSIM of q and n thumbnails over their windows, (q, n)."""
    mean, mean2 = one.mean[:, :, None], other.mean[:, None, :]
    variance, variance2 = one.variance[:, :, None], other.variance[:, None, :]
    product_of_means = mean * mean2
    covariance = one.values @ other.columns / one.values.shape[2] - product_of_means
    above = (2 * product_of_means + _C1) * (2 * covariance + _C2)
    return (above / ((mean**2 + mean2**2 + _C1) * (variance + variance2 + _C2))).mean(dim=0)


def feature_distances(queries: Tensor, photos: Tensor) -> Tensor:
    """1 − cosine of features (q, d) and (N, d), which are centred already: (q, N)."""
    theirs = F.normalize(photos, dim=1).T
    return 1 - torch.cat([F.normalize(some, dim=1) @ theirs for some in queries.split(_EACH)])


# ---------------------------------------------------------------------------------------------------
# The nearest photo, and how common such nearness is


@dataclass(frozen=True)
class Near:
    """The nearest photo of each of q images.

    Attributes:
        photo: (q,) its number.
        distance: (q,) its distance.
        relative: (q,) the distance divided by the mean distance of the next 50 nearest photos: small if only one photo
            is near (Carlini et al., arXiv 2301.13188, section 5.1, who divide by half of it).
    """

    photo: Tensor
    distance: Tensor
    relative: Tensor


def nearest(
    distances: Distances,
    queries: Tensor,
    photos: Tensor,
    *,
    own: Tensor | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Near:
    """Find the nearest photo of each query.

    Args:
        distances: One of the distances of this module.
        queries: (q, …).
        photos: (N, …), at least 3.
        own: (q,) index of the photo that each query is, if queries are photos: it is not its own neighbour.
        advance: Called with the number of queries that have been looked up.
    """
    parts = []
    for start in range(0, len(queries), _QUERIES):
        found = distances(queries[start : start + _QUERIES], photos)
        if own is not None:
            found[torch.arange(len(found)), own[start : start + _QUERIES]] = torch.inf
        few = min(1 + NEIGHBOURS, len(photos) - (own is not None))
        parts.append(found.topk(few, dim=1, largest=False))
        advance(len(found))
    values, rows = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    values = values.double().clamp_min(0)
    relative = values[:, 0] / values[:, 1:].mean(dim=1).clamp_min(1e-9)
    return Near(rows[:, 0], values[:, 0].contiguous(), relative)


def share_below(values: Tensor, reference: Tensor, *, left_out: int = 0) -> Tensor:
    """For each of the values the share of the reference values that are smaller; ties count half.

    With ``left_out=1`` each value is one of the reference values itself, and is compared with the others.
    """
    ordered = reference.sort().values
    below, not_above = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + not_above - left_out).double() / (2 * (len(ordered) - left_out))


def chance_of_suspects(count: int, images: int, share: float, reference: int) -> float:
    """Probability that at least ``count`` images have a `share_below` under ``share`` if they are like the photos.

    The reference photos are a sample, too: the number of values below the r-th of n others is beta-binomial, which is
    wider than the binomial distribution for a known share.

    Args:
        count: Number of images with such a share.
        images: Number of images.
        share: The threshold.
        reference: n, the number of values that shares are computed from.
    """
    rank = math.ceil(round(share * reference, 6))
    return float(betabinom.sf(count - 1, images, rank, reference + 1 - rank))
