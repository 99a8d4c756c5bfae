"""The probe of the LGM protocol: a linear layer trained by Adam."""

from __future__ import annotations

import math
import operator

import numpy as np
import torch

from ..errors import NonFiniteLossError
from .arrays import Array

_ADAM_BETAS, _ADAM_EPS = (0.9, 0.999), 1e-8


def generator_of(random_state: int | np.random.RandomState | None) -> torch.Generator:
    """A generator for scikit-learn's ``random_state``."""
    generator = torch.Generator()
    if random_state is None:
        generator.seed()
    elif isinstance(random_state, np.random.RandomState):
        generator.manual_seed(int(random_state.randint(2**31 - 1)))
    else:
        generator.manual_seed(operator.index(random_state))
    return generator


@torch.no_grad()
def fit_sgd(
    views: Array,
    targets: Array,
    weights: Array,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Array, Array]:
    """Train a linear layer by Adam on the cross-entropy; shapes as in :func:`fit_ridge`.

    The gradient is written out, (softmax(logits) − target) · w / batch, and weight and bias share
    one flat buffer: a step on small data costs what a dozen tensor operations cost.

    Returns:
        ``coef`` (C, d) and ``intercept`` (C,) in the dtype of ``views``.
    """
    n_views, n, d = views.shape
    hard = targets.ndim == 1
    # torch.from_numpy warns about read-only memory, although nothing here writes to it.
    features = torch.from_numpy(np.require(views, requirements=["C", "W"])).to(device)
    if hard:
        n_classes, answers = int(targets.max()) + 1, torch.from_numpy(targets.astype(np.int64))[:, None].to(device)
    else:
        n_classes, answers = targets.shape[2], torch.from_numpy(targets).to(features)
    minus_one = features.new_full((n, 1), -1)
    weight_of = torch.from_numpy(weights)[:, None].to(features) if np.any(weights != 1) else None

    parameters = torch.cat([part.flatten() for part in _initial_linear(d, n_classes, generator)]).to(features)
    gradient, first, second = (torch.zeros_like(parameters) for _ in range(3))
    coef, intercept = parameters[: n_classes * d].view(n_classes, d), parameters[n_classes * d :]
    coef_gradient, intercept_gradient = (
        gradient[: n_classes * d].view(n_classes, d),
        gradient[n_classes * d :],
    )

    batch = min(n, batch_size)
    n_steps = epochs * math.ceil(n / batch)
    peak = lr * batch / 256
    beta1, beta2 = _ADAM_BETAS
    step = 0
    for epoch in range(epochs):
        view = features[epoch % n_views]
        order = torch.randperm(n, generator=generator).to(device)
        for rows in order.split(batch):
            x = view.index_select(0, rows)
            slope = torch.addmm(intercept, x, coef.T).softmax(dim=1)
            if hard:
                slope.scatter_add_(1, answers[rows], minus_one[: len(rows)])
            else:
                slope.sub_(answers[epoch % len(answers)].index_select(0, rows))
            if weight_of is not None:
                slope.mul_(weight_of[rows])
            slope.div_(len(rows))
            torch.mm(slope.T, x, out=coef_gradient)
            torch.sum(slope, 0, out=intercept_gradient)

            rate = peak * 0.5 * (1 + math.cos(math.pi * step / n_steps))
            step += 1
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            spread = second.sqrt().div_(math.sqrt(1 - beta2**step)).add_(_ADAM_EPS)
            parameters.addcdiv_(first, spread, value=-rate / (1 - beta1**step))
    if not torch.isfinite(parameters).all():
        raise NonFiniteLossError(f"the sgd probe diverged with lr={lr!r}; use a smaller lr or standardize=True")
    return coef.cpu().numpy().copy(), intercept.cpu().numpy().copy()


def _initial_linear(d: int, n_classes: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight (C, d) and bias (C,), float32, as ``torch.nn.Linear(d, C)`` draws them."""
    weight = torch.empty(n_classes, d)
    torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(d)
    return weight, torch.empty(n_classes).uniform_(-bound, bound, generator=generator)
