"""Statistics of features without an encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from helpers_runs import encoder_record
from probedistill.features.bank import FeatureBank
from probedistill.features.statistics import ClassStatistics, PartRecord

NAMES = ("cat", "dog", "owl")


def bank(labels: list[int], *, seed: int = 0, views: int = 0, dim: int = 5, names: tuple[str, ...] = NAMES):
    """Features (n, d) in float64 of images with these labels; classes differ in mean and variance."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor(labels)
    raw = torch.randn(1 + views, len(y), dim, generator=generator, dtype=torch.float64)
    raw = raw @ torch.randn(dim, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    raw = raw * (1 + y[:, None]) + 3 * y[:, None] + 1
    return FeatureBank(raw[0], raw[1:], y, torch.arange(len(y)), names)


def statistics_of(features: FeatureBank, name: str = "a", **options) -> ClassStatistics:
    """The statistics of a bank, as of a party with this name."""
    about = encoder_record(dim=features.dim)
    return ClassStatistics.of_bank(features, about, PartRecord(name, name, len(features), "tests"), **options)


def same(one: ClassStatistics, other: ClassStatistics, rounding: float = 1e-9) -> bool:
    """Whether two statistics are equal except for rounding."""
    assert (one.products is None) == (other.products is None)

    def close(a: Tensor | None, b: Tensor | None) -> bool:
        return a is None or b is None or torch.allclose(a, b, rtol=rounding, atol=rounding * (1 + float(b.abs().max())))

    pairs = ((one.counts, other.counts), (one.sums, other.sums), (one.squares, other.squares))
    return all(close(a, b) for a, b in (*pairs, (one.products, other.products)))
