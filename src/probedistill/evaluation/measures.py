"""Scores that compare training sets, by DD-Ranking (arXiv 2505.13300). Accuracies are shares in [0, 1].

With HLR = acc(full real data) − acc(set), hard labels on both sides, IOR = acc(set) − acc(random real images), and a
weight λ = 0.5, as in the paper and in the authors' code:

* Label-robust score: LRS = s(λ · IOR − (1 − λ) · HLR).
* Augmentation-robust score: ARS = s(λ · IOR with augmentation + (1 − λ) · IOR without).

s(x) = (eˣ − e⁻¹) / (e − e⁻¹) maps [−1, 1] to [0, 1]; larger is better. A set that is as good as random images and as
full data has s(0) = 26.9%.
"""

from __future__ import annotations

import math

WEIGHT = 0.5


def scaled(value: float) -> float:
    """s(x) = (eˣ − e⁻¹) / (e − e⁻¹).

    >>> scaled(-1), scaled(1), round(scaled(0), 3)
    (0.0, 1.0, 0.269)
    """
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def label_robust_score(recovery: float, improvement: float) -> float:
    """LRS from hard-label recovery HLR and improvement over random IOR."""
    return scaled(WEIGHT * improvement - (1 - WEIGHT) * recovery)


def augmentation_robust_score(with_augmentation: float, without: float) -> float:
    """ARS from the improvement over random images with augmentation and without."""
    return scaled(WEIGHT * with_augmentation + (1 - WEIGHT) * without)
