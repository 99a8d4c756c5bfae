"""Statistical Flow Matching (SFM, arXiv 2602.05391)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..features.classes import class_sums
from .formulas import flows_of_sums, sfm_loss
from .real import Objective, RealFeatures


def sfm_objective(
    real: RealFeatures,
    *,
    cosine: Literal["classes", "all"] = "classes",
    others: Literal["samples", "centres"] = "samples",
) -> Objective:
    """Match the flows of the synthetic features with those of the real ones: mean_c (1 − cos(F_c(Z, t), F*_c)).

    A flow points from the centre of a class to the centre of all others. The defaults are our reading of the paper's
    formula; ``cosine="all"`` and ``others="centres"`` are the authors' code.

    Args:
        real: The fixed real features, normalised.
        cosine: ``"classes"`` averages C cosines, so that each class has the same weight; ``"all"`` uses one cosine over
            the flattened (C, d) flows, in which long flows have more weight.
        others: What a flow points to: the mean of all other ``"samples"``, or of the other classes' ``"centres"``.
    """
    # Real features enter only through these (C, d) numbers; no step reads them again.
    target = flows_of_sums(*real.class_sums(), others=others).to(real.device, real.dtype)

    def objective(features: Tensor, labels: Tensor, step: int) -> Tensor:
        sums = class_sums(real.normalize(features), labels, real.num_classes)
        return sfm_loss(flows_of_sums(*sums, others=others), target, cosine=cosine)

    return objective
