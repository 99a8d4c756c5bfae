"""Batch norms of a frozen encoder, folded into the convolutions before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .checks import uneven_like


class _FoldedNorm(nn.Module):
    """What is left of a timm BatchNormAct2d once its affine part is in the convolution: dropout and activation."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.drop = getattr(norm, "drop", None) or nn.Identity()
        self.act = getattr(norm, "act", None) or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


_Fold = tuple[nn.Conv2d, Any, Any, nn.Module, str, nn.BatchNorm2d]
"""A convolution, its own weight and bias, and the place of the batch norm that was folded into it."""


@torch.no_grad()
def fold_batchnorms(model: nn.Module, example: Tensor) -> int:
    """Fold frozen batch norms into the convolutions that feed them, in place.

    Pairs are found while ``example`` passes through the model: the input of the batch norm is the tensor object that
    the convolution has just returned. If folding changes the model's output, everything is restored.

    Args:
        model: In evaluation mode, frozen.
        example: Normalised images (n, 3, S, S).

    Returns:
        Number of batch norms folded.
    """
    # Uneven, because an image of one colour would not reveal a wrong fold.
    example = example + uneven_like(example)
    before, pairs = _pairs(model, example)
    undo: list[_Fold] = []
    for conv, name, norm in pairs:
        if norm.running_mean is None or norm.running_var is None:
            continue
        weight, bias = conv.weight, conv.bias
        conv.weight, conv.bias = _folded(weight, bias, norm)
        parent_name, _, child = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child, _FoldedNorm(norm))
        undo.append((conv, weight, bias, parent, child, norm))
    after = model(example).float()
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.nan_to_num().abs().max())):
        for step in reversed(undo):  # a convolution may be in two pairs
            _restore(*step)
        return 0
    model.__dict__["_folded"] = undo
    return len(undo)


@torch.no_grad()
def unfold_batchnorms(model: nn.Module) -> None:
    """Undo `fold_batchnorms`, because a caller may make several encoders from one model.

    A model whose convolutions have been trained since is not changed.
    """
    undo: list[_Fold] = model.__dict__.pop("_folded", [])
    for conv, weight, bias, _, _, norm in undo:
        folded_weight, folded_bias = _folded(weight, bias, norm)
        if not torch.equal(folded_weight.to(conv.weight), conv.weight):
            return
        if conv.bias is None or not torch.equal(folded_bias.to(conv.bias), conv.bias):
            return
    for step in reversed(undo):
        _restore(*step)


def _folded(weight: Any, bias: Any, norm: nn.BatchNorm2d) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of a convolution that includes the batch norm after it."""
    mean, variance = norm.running_mean, norm.running_var
    return fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, norm.weight, norm.bias)  # type: ignore[arg-type]


def _pairs(model: nn.Module, example: Tensor) -> tuple[Tensor, list[tuple[nn.Conv2d, str, nn.BatchNorm2d]]]:
    """The model's output, float32; and for each convolution that feeds a batch norm: (convolution, norm's name, norm).

    A pair is left out if either of its modules is used more than once.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, str, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}
    hooks = []

    def after_conv(module: nn.Module, inputs: Any, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = (module, output)  # a reference to the tensor prevents reuse of its id

    def before_norm(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[module] = calls.get(module, 0) + 1
            conv, _ = made.get(id(inputs[0]), (None, None))
            # Parametrized, weight-normalised and pruned convolutions recompute their weights in each pass.
            if (
                conv is not None
                and isinstance(module, nn.BatchNorm2d)
                and {"weight", "bias"} <= conv._parameters.keys()
            ):
                pairs.append((conv, name, module))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm(name)))
    output = model(example).float()
    for handle in hooks:
        handle.remove()
    return output, [pair for pair in pairs if calls[pair[0]] == calls[pair[2]] == 1]


def _restore(
    conv: nn.Conv2d,
    weight: nn.Parameter,
    bias: nn.Parameter | None,
    parent: nn.Module,
    child: str,
    norm: nn.BatchNorm2d,
) -> None:
    conv.weight, conv.bias = weight, bias
    setattr(parent, child, norm)
