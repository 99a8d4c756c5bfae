"""A frozen `Encoder`: images in [0, 1] to features, with its own resize, crop and mean/std."""

from __future__ import annotations

import copy
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, get_args
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..code import digest_of_code, is_own_function
from ..config import EncoderConfig, Precision
from ..errors import UserError
from ..machine.torch_state import own_torch_state
from ..methods import check_name, check_number
from .checks import (
    changes_itself,
    check_features,
    check_gradient,
    check_module,
    checked_preparation,
    example_images,
    frozen,
    is_alike,
    is_plain,
)
from .fold import fold_batchnorms, unfold_batchnorms
from .known import IMAGENET
from .layers import features_with_layers, inner_layers
from .source import resolve_device

Channels = tuple[float, float, float]
"""A number for each of red, green and blue."""
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Encoder(nn.Module):
    """A frozen vision encoder φ: images (n, 3, H, W) in [0, 1] → features (n, d), float32.

    Images of a size other than ``input_size`` are resized (anti-aliased, short side) and centre-cropped; the mean and
    standard deviation are applied here. Always in evaluation mode, never trained.

    Args:
        model: Maps normalised images (n, 3, S, S) to features (n, d). The encoder changes this module: it is frozen, in
            evaluation mode and in float32, with its batch norms folded. Pass a copy to keep the original.
        name: Short name for tables and folders.
        input_size: S in pixels.
        mean, std: Per channel, for images in [0, 1].
        interpolation: Filter of the resize: nearest, bilinear, bicubic or lanczos.
        crop_pct: The short side is resized to ``input_size / crop_pct`` before the centre crop of a
            real image.
        cuts: Whether images larger than the input are cropped like real ones, as in the papers: a view of 224 is the
            middle of a canvas of 256 pixels. Otherwise they are resized to the input.
        precision: Arithmetic of the forward and backward pass.
        fold_batchnorm: Fold batch norms into the preceding convolutions: the same function, faster.
        identity: What else the features depend on, for the fingerprint. Default: the model's layers, the plain
            attributes and source code of your own classes, and your functions among its attributes and hooks.

    Attributes:
        dim: Number of features d.
        fingerprint: SHA-256 of weights, input size, mean, std, interpolation and crop, and for a ``module:`` encoder
            the factory's file. Equal fingerprints mean equal features if that file's imports are the same.
        config: The options with which `load_encoder` created it; ``None`` if it was created directly.
        widths: Number of features of each inner layer that follow the encoder's own; see `with_layers`.

    Raises:
        UserError: An argument is wrong, the model cannot take such images, or its features are not those of the image
            (`checks`).
    """

    mean: Tensor
    std: Tensor

    @own_torch_state()
    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        input_size: int,
        mean: tuple[float, ...] = IMAGENET[0],
        std: tuple[float, ...] = IMAGENET[1],
        interpolation: str = "bicubic",
        crop_pct: float = 1.0,
        cuts: bool = False,
        precision: Precision = "fp32",
        device: torch.device | str = "cpu",
        fold_batchnorm: bool = True,
        identity: str = "",
    ) -> None:
        super().__init__()
        if not isinstance(name, str) or not name:
            raise UserError(f"name {name!r} must be a short name for tables and folders")
        check_number("input_size", input_size, least=1, whole=True)
        check_name("interpolation", interpolation, RESAMPLING)
        check_name("precision", precision, get_args(Precision))
        device = resolve_device(str(device))
        mean, std, crop_pct = checked_preparation(mean, std, crop_pct, name=name)
        self.name, self.input_size, self.precision = name, input_size, precision
        self.config: EncoderConfig | None = None
        self._layers: tuple[int, ...] = ()
        self.widths: tuple[int, ...] = ()
        self.interpolation, self.crop_pct, self.cuts = interpolation, crop_pct, cuts
        check_module(model, name)
        unfold_batchnorms(model)
        model = frozen(model, name=name)
        if any(t.is_floating_point() and t.dtype != torch.float32 for t in _tensors(model)):
            model = model.float()  # ``precision`` decides the arithmetic, however the weights are stored
        for module in model.modules():
            if isinstance(module, nn.Hardtanh):  # an in-place ReLU6 makes autograd copy its input first
                module.inplace = False
        identity = identity or _behaviour(model)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        identity += f"|{input_size}|{mean}|{std}|{interpolation}|{crop_pct:.6f}" + "|cuts" * cuts
        self.fingerprint = _fingerprint(model, identity)
        self.model = model
        self.to(device)
        images = example_images(input_size, self.device)
        self._find_layout(images)
        before = _changes(model)
        self.dim = check_features(self, images, name=name, precision=precision).shape[1]
        if _changes(model) != before:
            raise changes_itself(name)
        if fold_batchnorm:
            fold_batchnorms(self.model, self._normalised(images[:1]))

    def _lay_out(self, layout: torch.memory_format) -> None:
        """Keep weights and maps in this memory format."""
        self._channels_last = layout == torch.channels_last  # a `torch.memory_format` does not survive every pickle
        self.model.to(memory_format=layout)  # type: ignore[call-overload]

    @torch.no_grad()
    def _find_layout(self, images: Tensor) -> None:
        """Choose channels last, which is faster, unless the model needs the other one (``.view``, ``as_strided``)."""
        found = []
        for layout in (torch.contiguous_format, torch.channels_last):
            with suppress(Exception):  # `check_features` reports errors that occur in both
                self._lay_out(layout)
                found.append(self(images))
        if len(found) < 2 or not is_alike(found[0], found[1], self.precision):
            self._lay_out(torch.contiguous_format)

    @own_torch_state()
    def check_gradient(self) -> None:
        """Raise `UserError` if no gradient reaches the images; distillation needs one, evaluation does not."""
        images = example_images(self.input_size, self.device)
        if self._channels_last:
            with suppress(UserError):
                return check_gradient(self, images, name=self.name, precision=self.precision)
            # The backward pass may need the other format even if the forward pass does not.
            self._lay_out(torch.contiguous_format)
        return check_gradient(self, images, name=self.name, precision=self.precision)

    @torch.no_grad()
    def with_layers(self, count: int) -> Encoder:
        """Return the same encoder with the features of some inner layers appended to its own, in the same pass.

        The weights are shared, not copied.

        Args:
            count: Number of layers, at most; 0 for none.

        Returns:
            An encoder of ``dim + sum(widths)`` features with its own fingerprint; the encoder itself if it does not
            provide inner layers. Convolutional timm models provide them.
        """
        if self.is_transformer:  # with its layers in the loss, CLIP's images got worse (docs/recipes.md)
            return self
        layers, widths = inner_layers(self.model, count, self._normalised(example_images(self.input_size, self.device)))
        if not layers:
            return self
        deep = copy.copy(self)
        deep._layers, deep.widths, deep.dim = layers, widths, self.dim + sum(widths)
        deep.__dict__["_plain"] = self  # not as a submodule, which would list the weights twice
        deep.fingerprint = hashlib.sha256(f"{self.fingerprint}|layers {layers}".encode()).hexdigest()
        return deep

    @property
    def plain(self) -> Encoder:
        """The encoder without its inner layers."""
        return self.__dict__.get("_plain", self)

    @property
    def is_transformer(self) -> bool:
        """Whether the model has attention layers."""
        return any("attention" in type(module).__name__.lower() for module in self.model.modules())

    @property
    def device(self) -> torch.device:
        """Where the encoder runs."""
        return self.mean.device

    @property
    def normalisation(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation of the channels as in records, with six decimals."""
        mean, std = ([round(value, 6) for value in part.flatten().tolist()] for part in (self.mean, self.std))
        return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])

    def train(self, mode: bool = True) -> Encoder:
        """Stay in evaluation mode, the only one of a frozen encoder."""
        return super().train(False)

    if TYPE_CHECKING:

        def __call__(self, images: Tensor) -> Tensor:
            """Features of a batch; see `forward`. Declared here because the type in `nn.Module` is ``Any``."""

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of a batch.

        Args:
            images: (n, 3, H, W) in [0, 1], float.

        Returns:
            (n, dim), float32 (float64 for a float64 model and input).

        Raises:
            UserError: The images have another shape or type. Values outside [0, 1], as noise may give, are accepted.
        """
        if not (isinstance(images, Tensor) and images.is_floating_point() and images.shape[-3:-2] in ((3,), (1,))):
            about = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise UserError(f"images are {about}; give a tensor of floats (n, 3, H, W), from 0 to 1")
        if images.shape[-1] != self.input_size or images.shape[-2] != self.input_size:
            images = self._fitted(images)
        images = self._normalised(images)
        features = self._output(images)
        if not isinstance(features, Tensor) or not is_plain(features):
            return features  # `check_features` refuses it
        features = features.to(torch.float64 if features.dtype == images.dtype == torch.float64 else torch.float32)
        if self.precision == "fp16" and features.requires_grad:
            _scale_gradient(features, images)
        return features

    def _fitted(self, images: Tensor) -> Tensor:
        """Resize images of any size to the model's input size."""
        if self.cuts and min(images.shape[-2:]) > self.input_size:
            return _resize_and_crop(images, self.input_size, round(self.input_size / self.crop_pct), "bilinear")
        return _resize_and_crop(images, self.input_size, self.input_size, "bicubic")

    def _normalised(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        return ((images.to(self.mean.dtype) - self.mean) / self.std).contiguous(memory_format=layout)

    def _output(self, images: Tensor) -> Any:
        """The model's output for normalised images of its input size."""
        kind = images.device.type
        if self.precision == "fp32" and not torch.is_autocast_enabled(kind):
            return self._forward_model(images)
        with torch.autocast(kind, _AUTOCAST.get(self.precision), enabled=self.precision != "fp32"):
            return self._forward_model(images)  # the caller's own autocast does not count

    def _forward_model(self, images: Tensor) -> Any:
        if not self._layers:
            return self.model(images)
        parts = features_with_layers(self.model, images, self._layers)
        return torch.cat([part.to(parts[-1].dtype) for part in parts], dim=1)

    def centre_view(self, image: Image.Image, side: int | None = None) -> Tensor:
        """Return the evaluation view of a real image: short side resized, centre-cropped.

        Args:
            image: RGB, any size.
            side: Side of the view in pixels; ``None`` for the encoder's input.

        Returns:
            (3, side, side) float32 in [0, 1], on the CPU.
        """
        from torchvision.transforms.v2 import functional as tv

        side = side or self.input_size
        short = max(side, round(side / self.crop_pct))
        scale = short / min(image.size)
        size = (max(short, round(image.width * scale)), max(short, round(image.height * scale)))
        image = image.resize(size, RESAMPLING[self.interpolation])
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        return tv.to_dtype(tv.pil_to_tensor(image), torch.float32, scale=True)

    def __repr__(self) -> str:
        return (
            f"Encoder({self.name!r}, input_size={self.input_size}, dim={self.dim}, "
            f"precision={self.precision!r}, device={str(self.device)!r}, {self.fingerprint[:12]})"
        )


def _scale_gradient(features: Tensor, images: Tensor) -> None:
    """Keep the gradient between ``features`` and ``images`` in float16's range.

    The gradient of a feature shrinks as the number of images grows, and float16 rounds values below 6e-8 to 0. So the
    largest value is scaled to about 1/8 on the way in, by a power of two, which is exact, and back on the way out.
    """
    scales: list[Tensor] = []

    def enlarge(gradient: Tensor) -> Tensor:
        largest = gradient.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        scales.append(torch.exp2(-3 - largest.log2().ceil()))
        return gradient * scales[-1]

    features.register_hook(enlarge)
    images.register_hook(lambda gradient: gradient / scales.pop())


# ---------------------------------------------------------------------------------------------------
# Helpers


def _resize_and_crop(images: Tensor, size: int, short: int, mode: str) -> Tensor:
    """Resize images (n, 3, H, W) to a short side of ``short`` pixels, and crop the middle ``size`` pixels."""
    height, width = images.shape[-2:]
    scale = short / min(height, width)
    to = (max(size, round(height * scale)), max(size, round(width * scale)))
    if to != (height, width):
        images = F.interpolate(images, size=to, mode=mode, antialias=True, align_corners=False)
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size].clamp(0, 1)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())


def _changes(model: nn.Module) -> list[int]:
    """How often each floating-point tensor of a model has been written to. Integer counters do not matter."""
    return [t._version for t in _tensors(model) if t.is_floating_point() and not t.is_inference()]


def _behaviour(model: nn.Module) -> str:
    """What is known of how a model uses its weights: two models with equal weights may pool differently."""
    parts: dict[str, None] = {}
    for name, module in model.named_modules():
        kind = type(module)
        held: dict[str, Any] = {}
        file = str(getattr(sys.modules.get(kind.__module__), "__file__", ""))
        if "-packages" not in file:  # the user's own code
            parts[_source(kind)] = None
            held = {key: value for key, value in sorted(vars(module).items()) if isinstance(value, str | int | float)}
        unnamed = {key: module._buffers[key] for key in sorted(module._non_persistent_buffers_set)} | {
            key: value for key, value in sorted(vars(module).items()) if isinstance(value, Tensor)
        }
        digest = hashlib.sha256()
        for key, value in unnamed.items():
            _add(digest, key, value)
        parts[f"{name} {kind.__qualname__} {module.extra_repr()} {held} {digest.hexdigest()}"] = None
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        for key, value in [*sorted(vars(module).items()), *enumerate(hooks)]:
            if is_own_function(value):  # such as a ``forward`` that replaces the one of a library's model
                parts[f"{name} {key} {digest_of_code(value)}"] = None
    return "\n".join(parts)


_sources: WeakKeyDictionary[type, str] = WeakKeyDictionary()


def _source(kind: type) -> str:
    """What a class of the user's does: its source, or its code if it has no file, as in a notebook.

    The source is read once. Finding it means parsing its file, which may be edited while this process runs.
    """
    if kind not in _sources:
        try:
            _sources[kind] = inspect.getsource(kind)
        except (OSError, TypeError):
            _sources[kind] = digest_of_code(kind)
    return _sources[kind]


def _fingerprint(model: nn.Module, identity: str) -> str:
    digest = hashlib.sha256(identity.encode())
    for name, value in model.state_dict().items():
        _add(digest, name, value)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, value: Any) -> None:
    """Add a value of a state dict: a tensor, or any other object in quantised models and models with custom state."""
    if isinstance(value, tuple | list):
        for part in value:
            _add(digest, name, part)
    elif isinstance(value, Tensor):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        plain = value.detach().dequantize() if value.is_quantized else value.detach()
        digest.update(plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        digest.update(f"{name}{value!r}".encode())


def check_encoder(given: object, argument: str = "encoder") -> None:
    """Raise `UserError` for anything but a loaded encoder, with how to load one."""
    if isinstance(given, Encoder):
        return
    if isinstance(given, (str, EncoderConfig)):
        name = given if isinstance(given, str) else given.encoder
        raise UserError(f"{argument} {name!r} is the name of an encoder; load it first with load_encoder")
    kind = type(given).__name__
    if isinstance(given, nn.Module):
        raise UserError(
            f"{argument} is the module {kind}; wrap it: Encoder(module, name={kind.lower()!r}, input_size=224), with "
            "mean and std if they are not ImageNet's"
        )
    raise UserError(f"{argument} is a {kind}; give an encoder from load_encoder")


def several_encoders(
    given: str | EncoderConfig | Encoder | Sequence[str | EncoderConfig | Encoder], argument: str = "encoder"
) -> list[str | EncoderConfig | Encoder]:
    """One encoder, or several, as a list.

    Raises:
        UserError: Something else is among them.
    """
    is_one = isinstance(given, (str, EncoderConfig, nn.Module)) or not isinstance(given, Iterable)
    found: list[Any] = [given] if is_one else list(given)  # type: ignore[arg-type]
    for one in found:
        if not isinstance(one, (str, EncoderConfig)):
            check_encoder(one, argument)
    return found
