"""Check, when an encoder is loaded, that its features depend on the image and on nothing else.

An encoder with dropout that is always on, random masks, or batch statistics runs without an error and gives wrong
results. Two passes over the same pictures show it.
"""

from __future__ import annotations

import copy
import pickle
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Precision
from ..errors import UserError, explained, option

SAME = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 5e-2}
"""Relative distance up to which features count as equal: rounding is far below, dropout far above."""


def example_images(size: int, device: torch.device) -> Tensor:
    """Two pictures that no encoder should take for the same: a dark and a bright one, (2, 3, size, size) in [0, 1]."""
    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return (torch.tensor([0.5, 0.7]).view(2, 1, 1, 1) * noise + torch.tensor([0.0, 0.3]).view(2, 1, 1, 1)).to(device)


def check_module(model: object, name: str) -> None:
    """Raise `UserError` for anything but a module, such as its class."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise UserError(f"encoder {name!r} is {what}; give a torch.nn.Module, such as one that the class creates")


def frozen(model: nn.Module, *, name: str) -> nn.Module:
    """The model in evaluation mode and without gradients of its weights.

    Raises:
        UserError: It cannot be: a layer has no weights yet (`torch.nn.LazyLinear`, the device "meta"), or it was
            exported for good.
    """
    hint = "give a torch.nn.Module with all its weights; lazy layers get theirs in a first forward pass"
    with explained(f"encoder {name!r} cannot be frozen", ValueError, RuntimeError, NotImplementedError, hint=hint):
        model = model.eval()
        _leave_inference_mode(model)
        for weights in model.parameters():  # one by one: a scripted module has no requires_grad_
            weights.requires_grad_(False)
            if weights.is_meta:
                raise ValueError("its weights are on the device 'meta', which holds none")
    return model


def _leave_inference_mode(model: nn.Module) -> None:
    """Replace weights that were made in inference mode by copies: no gradient passes through the originals."""
    copies: dict[int, Tensor] = {}  # a tensor may be in several places
    for module in model.modules():
        places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in places:
            for key, value in held.items():
                if value is not None and value.is_inference():
                    held[key] = copies.setdefault(id(value), copy.deepcopy(value))


_LEAST_CROP = 0.05  # of an image; a smaller value is a mistake, and would enlarge the image more than twenty times
_LARGEST = sys.float_info.max  # a whole number may be larger, but is no number for torch


def checked_preparation(
    mean: Any, std: Any, crop_pct: Any, *, name: str
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Check the preparation of images: mean and standard deviation of three channels, and the crop.

    Args:
        mean, std: Three numbers for images in [0, 1], as a sequence, an array or a tensor; or one for all channels.
        crop_pct: The share of the short side that is kept.
        name: Name of the encoder, for errors.

    Raises:
        UserError: A value is of the wrong kind or out of range.
    """
    called = f"encoder {name!r}"
    mean, std = _of_channels(mean, f"{called}: mean"), _of_channels(std, f"{called}: std")
    if not all(-2 <= value <= 2 for value in mean):
        raise UserError(f"{called} has mean {mean}; images are in [0, 1], so divide mean and std by 255")
    if not all(0 < value <= _LARGEST for value in std):
        raise UserError(f"{called} has std {std}; give numbers above 0, for images in [0, 1]")
    if isinstance(crop_pct, bool) or not isinstance(crop_pct, int | float) or not _LEAST_CROP <= crop_pct <= _LARGEST:
        raise UserError(f"{called} has crop_pct {crop_pct!r}; give a number from {_LEAST_CROP} to 1")
    return mean, std, crop_pct


def _of_channels(values: Any, called: str) -> tuple[float, ...]:
    said = " ".join(f"{values!r:.200}".split())
    with explained(f"{called} {said} cannot be used", TypeError, ValueError, OverflowError, RuntimeError,
                   hint="give three numbers"):  # fmt: skip
        given = values.flatten().tolist() if hasattr(values, "tolist") else values
        numbers = tuple(given) if isinstance(given, Sequence) else (float(given),) * 3
        if len(numbers) != 3:
            raise ValueError(f"{len(numbers)} of them")
        # Whole numbers stay whole numbers, because the fingerprint is made of their text.
        return tuple(value if type(value) in (int, float) else float(value) for value in numbers)


@torch.no_grad()
def check_features(encode: Callable[[Tensor], Tensor], images: Tensor, *, name: str, precision: Precision) -> Tensor:
    """Compute and check the features of the example images.

    Args:
        encode: Images (n, 3, S, S) in [0, 1] → features (n, d).
        images: From `example_images`.
        name: Name of the encoder, for errors.
        precision: Arithmetic of ``encode``.

    Raises:
        UserError: The features are not (n, d), not finite, the same for different images, or they differ from pass to
            pass or with the other images of a batch.
    """
    called, size = f"encoder {name!r}", images.shape[-1]
    with explained(
        f"{called} cannot take images of {size} pixels", Exception,
        hint=f"choose another {option('input_size')} or extra {option('encoder_args')}",
    ):  # fmt: skip
        with _other_random_numbers(images.device):
            before = _random_states(images.device, encode)
            features = encode(images)
            after = _random_states(images.device, encode)
        again = encode(images)
        later_on = _random_states(images.device, encode)
    draws = before != after
    seeds = any(was != now == then for was, now, then in zip(before, after, later_on, strict=True))
    if not isinstance(features, Tensor):
        raise UserError(f"{called} returns {type(features).__name__}; it must return a tensor (images, features)")
    if not is_plain(features):
        kind = "complex" if features.is_complex() else "nested" if features.is_nested else "sparse"
        raise UserError(f"{called} returns {kind} features; it must return a plain tensor of real numbers")
    if features.ndim != 2 or len(features) != len(images):
        shape = tuple(features.shape)
        raise UserError(f"{called} returns features of shape {shape} for 2 images; it must return (images, features)")
    if not bool(features.isfinite().all()):
        raise UserError(f"{called} returns features that are not finite in {precision}; check its weights")
    if features.numel() and features.data_ptr() == again.data_ptr():
        raise UserError(f"{called} returns its features in the same memory each time; return a copy (.clone())")
    stored = "its batch norms must use stored statistics (model.eval())"
    differs = UserError(
        f"{called} gives different features for the same images each time; switch off dropout, masking and random "
        f"crops (transformers models: {option('encoder_args.mask_ratio', 0)})"
    )
    # Two passes over the same images round alike, except in a masked autoencoder: it shuffles its tokens, which changes
    # features by half a percent in bfloat16.
    alike = SAME[precision] / 5
    if _distance(features, again) > alike:
        raise differs
    with explained(f"{called} cannot take a single image", Exception, hint=stored):
        alone, *more = (encode(images[:1]) for _ in range(1 + _MORE_PASSES * draws))
    if any(_distance(alone, other) > alike for other in more):
        raise differs
    order = [1, 0, 1, 1, 0]  # other positions and neighbours: reveals a model that mixes the images of a batch
    with explained(f"{called} cannot take five images", Exception, hint="it must take any number of images"):
        mixed, later = encode(images[order]), encode(images)
    if max(_distance(features[:1], alone), _distance(features[order], mixed)) > SAME[precision]:
        raise UserError(
            f"{called} gives an image different features if the batch has other images; {stored}, and no layer may mix "
            "the images of a batch"
        )
    drift = _distance(features, later)
    if not draws and drift > max(
        _SLOWEST * SAME[precision], 3 * _distance(features, again)
    ):  # it grows; noise does not
        raise changes_itself(name)
    if _distance(features[0], features[1]) < _ROUNDING:
        raise UserError(f"{called} gives a dark and a bright image the same features; check its weights")
    if seeds:
        warnings.warn(
            f"{called} seeds the random numbers of the whole program in each pass, so that whatever draws them later "
            "gets the same ones; let it draw from a torch.Generator of its own",
            stacklevel=2,
        )
    return features


_ROUNDING = 1e-6
"""Relative distance of float32 features that may be nothing but rounding; a collapsed encoder's are as near."""
_SLOWEST = 1e-3
"""Share of `SAME` by which features must change in a few passes to count as drifting; in most models it is 0."""
_MORE_PASSES = 32
"""Further passes over one image if an encoder draws random numbers: reveals a block that is skipped one time in ten."""


def changes_itself(name: str) -> UserError:
    """The error for an encoder with a state that follows its inputs."""
    return UserError(f"encoder {name!r} changes its own weights or statistics in each pass; remove that")


def _random_states(device: torch.device, encode: Callable[[Tensor], Tensor]) -> list[Any]:
    """The next random numbers of the global generators, and of those that are attributes of a model's modules."""
    drawn_by_numpy = pickle.dumps(np.random.get_state())  # noqa: NPY002
    states: list[Any] = [random.getstate(), drawn_by_numpy, torch.get_rng_state().numpy().tobytes()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device).numpy().tobytes())
    for module in encode.modules() if isinstance(encode, nn.Module) else ():
        for held in vars(module).values():
            if isinstance(held, torch.Generator):
                states.append(held.get_state().numpy().tobytes())
            elif isinstance(held, np.random.Generator | np.random.RandomState | random.Random):
                states.append(pickle.dumps(held))
    return states


@contextmanager
def _other_random_numbers(device: torch.device) -> Iterator[None]:
    """Move the global generators on for a block, and back after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        kept = random.getstate(), np.random.get_state()  # noqa: NPY002
        torch.rand(1), torch.rand(1, device=device), random.random(), np.random.random()  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])  # noqa: NPY002


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is one of real numbers in a row: not complex, sparse, nested, quantised or without values."""
    others = tensor.is_complex() or tensor.is_nested or tensor.is_quantized or tensor.is_meta
    return tensor.layout == torch.strided and not others


def is_alike(features: Any, others: Any, precision: Precision) -> bool:
    """Whether features are equal except for rounding. If either is not a tensor of features, they count as alike."""
    both = all(isinstance(part, Tensor) and is_plain(part) for part in (features, others))
    return not both or _distance(features, others) <= SAME[precision]


def uneven_like(tensor: Tensor) -> Tensor:
    """Values of a tensor's shape, on its device, all different: from −sin 1 to sin 1, float32."""
    return torch.linspace(-1, 1, tensor.numel(), device=tensor.device).sin().view_as(tensor)


_PARTS = 4
"""Parts of the features whose gradients are checked one by one: any contiguous half contains a whole part."""


@torch.enable_grad()
def check_gradient(encode: Callable[[Tensor], Tensor], images: Tensor, *, name: str, precision: Precision) -> None:
    """Raise `UserError` unless the encoder has a gradient and gives the same features with and without one.

    Warns if the gradient is not that of the features, for instance because a branch is detached.

    Raises:
        UserError: The gradient of the features with respect to the images is missing, zero or not finite; or it is
            zero for some features that nevertheless differ between images; or the features differ while a gradient is
            computed.
    """
    images = images.clone().requires_grad_()
    hint = "distillation needs one: remove torch.no_grad, torch.inference_mode and .detach() from its forward"
    with explained(f"encoder {name!r} lets no gradient through to its images", Exception, hint=hint):
        features = encode(images)
        if not features.requires_grad:
            raise RuntimeError("its features do not depend on them")
        # Not the plain sum, which is constant for layer-normalised features.
        weights = uneven_like(features)
        gradient, without, dim = torch.zeros_like(images), [], features.shape[1]
        for number in range(_PARTS):
            part = slice(dim * number // _PARTS, dim * (number + 1) // _PARTS)
            output = (features * weights)[:, part].sum()
            images.grad = None
            output.backward(retain_graph=number < _PARTS - 1)  # as in a step; torch.autograd.grad fails for some
            own = images.grad
            if own is not None and bool(own.any()):
                gradient += own
            elif not torch.equal(*features[:, part]):
                without.append(f"{part.start} to {part.stop - 1}")
        if not bool(gradient.any()):
            raise RuntimeError("it is zero")
        if without:
            raise RuntimeError(f"it is zero for features {' and '.join(without)} of {dim}")
        if not bool(gradient.flatten(1).any(1).all()):
            raise RuntimeError("it is zero for one of two images")
        if not bool(gradient.isfinite().all()):
            raise RuntimeError("it is not finite")
    with torch.no_grad():
        if _distance(features, encode(images)) > SAME[precision]:
            raise UserError(
                f"encoder {name!r} gives different features while a gradient is computed; switch off what it does only "
                "in training"
            )
        error = _error_of_slope(encode, images, weights, gradient) if precision == "fp32" else 0
    if error > _WRONG_SLOPE:
        warnings.warn(
            f"the gradient of encoder {name!r} is wrong: it differs by {error:.0%} from finite differences of its "
            "features; look for .detach() on a branch, or for a custom backward pass",
            stacklevel=2,
        )


_WRONG_SLOPE = 0.15
"""Relative error of a gradient. Kinks of ReLUs cause up to 0.1; cutting off one of three channels causes 0.2."""


def _error_of_slope(encode: Callable[[Tensor], Tensor], images: Tensor, weights: Tensor, gradient: Tensor) -> float:
    """Relative error of a gradient of ``(features * weights).sum()``, compared with finite differences.

    Each channel of each quarter of the images is changed. If the gradient looks wrong, it is checked again with a tenth
    of the step, which crosses fewer kinks. Returns 0 if the two differences then disagree or are zero: the features are
    step functions, or there is only rounding.
    """
    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (4, 1, 3, 2, 2), generator=draw).float().to(images) * 2 - 1
    ways = [F.interpolate(sign, size=images.shape[-2:], mode="nearest") for sign in signs]

    def differences(step: float) -> Tensor:
        pairs = [(encode(images + step * way), encode(images - step * way)) for way in ways]
        return torch.stack([((up.double() - down) * weights).sum(1) for up, down in pairs]) / (2 * step)

    ours = torch.stack([(gradient.double() * way).sum((1, 2, 3)) for way in ways])
    longer = differences(1e-4)
    error = _distance(longer, ours)
    if error <= _WRONG_SLOPE:
        return error
    short = differences(1e-5)
    return 0 if not bool(short.any()) or _distance(longer, short) > _WRONG_SLOPE else _distance(short, ours)


def _distance(features: Tensor, others: Tensor) -> float:
    """Relative distance; infinite if the shapes differ."""
    if features.shape != others.shape:
        return float("inf")
    scale = features.double().norm().clamp(min=1e-30)
    return float((features.double() - others.double()).norm() / scale)
