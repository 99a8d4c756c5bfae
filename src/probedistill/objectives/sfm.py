"""Statistical Flow Matching (SFM, arXiv 2602.05391)."""

from __future__ import annotations

from torch import Tensor

from .formulas import class_flows, sfm_loss
from .real import Objective, RealFeatures


def sfm_objective(real: RealFeatures) -> Objective:
    """Statistical flow matching against the flows of fixed real features."""
    flows = real.flows()

    def objective(features: Tensor, labels: Tensor, step: int) -> Tensor:
        return sfm_loss(class_flows(real.normalize(features), labels, real.num_classes), flows)

    return objective
