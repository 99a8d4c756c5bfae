"""From a resolved config to its objective, on features of real images or on their statistics."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..config import DistillConfig
from ..encoders.encoder import Encoder
from ..errors import UserError, explained, option
from ..features.bank import FeatureBank, FeatureColumns, comfortable_bytes
from ..features.fresh import FreshBatches
from ..features.statistics import ClassStatistics
from ..methods import METHODS, Normalization, check_name
from ..objectives.layers import with_inner_layers
from ..objectives.moments import Draws, RealMoments
from ..objectives.real import Objective, RealFeatures


def load_method(config: DistillConfig) -> Callable[..., Objective]:
    """Return the function real features → objective of a resolved config, with its options filled in.

    Raises:
        UserError: Unknown method, or an option that it does not have.
    """
    factory, options = METHODS.load(config.method), config.options()
    if config.method in METHODS.built_in:
        options.pop("normalize")  # applied to the real features before
    known = _keywords(factory, config.method)
    for name in options:
        check_name(f"option of method {config.method!r}", name, known, f"({option('method_args')})")
    missing = [name for name, has_default in known.items() if not has_default and name not in {*options, "seed"}]
    if missing:
        raise UserError(
            f"method {config.method!r} needs the option {missing[0]!r}; add {option(f'method_args.{missing[0]}', '…')}"
        )
    if "seed" in known:
        options.setdefault("seed", config.seed)

    def make(real: RealFeatures) -> Objective:
        objective = factory(real, **options)
        if config.method not in METHODS.built_in:
            _check(objective, real, config)
        return objective

    return make


def _check(objective: Any, real: RealFeatures, config: DistillConfig) -> None:
    """Try a user's objective on random features, as many as in a step, before anything is written.

    Raises:
        UserError: It is not a function of three arguments, or returns no loss with a gradient.
    """
    called, wanted = f"method {config.method!r} returns", "it must return a function of (features, labels, step)"
    if not callable(objective):
        raise UserError(f"{called} {type(objective).__name__}; {wanted}")
    try:
        signature: Any = inspect.signature(objective)
        signature.bind(None, None, 0)
    except ValueError:
        pass  # the arguments of a compiled function may be unknown
    except TypeError as error:
        raise UserError(f"{called} a function of {signature}; {wanted}") from error
    assert config.views != "auto", "a resolved config"
    labels = torch.arange(real.num_classes, device=real.device).repeat_interleave(
        config.images_per_class * config.views
    )
    generator = torch.Generator().manual_seed(config.seed)
    features = torch.rand(len(labels), real.dim, generator=generator).to(real.device).requires_grad_()
    with torch.enable_grad():
        loss: Any = objective(features, labels, 0)
    if not isinstance(loss, Tensor) or loss.ndim:
        kind = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"{called} a function whose loss is {kind}; it must be a scalar tensor, of shape ()")
    if not loss.requires_grad:
        raise UserError(
            f"{called} a loss without a gradient; compute it from the features, without .detach() and .item()"
        )


def _keywords(factory: Any, method: str) -> dict[str, bool]:
    """Options of a method: name → whether it has a default."""
    with explained(f"method {method!r} is not a function of real features", TypeError, ValueError):
        parameters = list(inspect.signature(factory).parameters.values())
    if not parameters:
        raise UserError(f"method {method!r} takes no arguments; it must take the real features")
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name: p.default is not p.empty for p in parameters[1:] if p.kind in kinds}


def make_objective(
    config: DistillConfig,
    bank: FeatureBank | ClassStatistics,
    device: torch.device | str = "cpu",
    fresh: FreshBatches | None = None,
) -> Objective:
    """Create the objective of a resolved config on the features of a bank.

    The features are kept on the device if the bank is in memory and takes at most a quarter of the device's memory
    (`comfortable_bytes`); otherwise they are read again, block by block, at each pass over them.

    Args:
        config: Resolved.
        bank: Features of the real images, or their statistics.
        device: Where the synthetic features are.
        fresh: Source of fresh batches of real images.
    """
    if isinstance(bank, ClassStatistics):
        return load_method(config)(RealMoments(Draws(bank, seed=config.seed), _normalization(config), device))
    return load_method(config)(_real_features(config, bank, device, fresh=fresh))


def _normalization(config: DistillConfig) -> Normalization:
    if config.method not in METHODS.built_in:
        return "none"  # a user's own method decides whether to normalise
    normalize: Normalization = config.options()["normalize"]
    return normalize


def _real_features(
    config: DistillConfig,
    bank: FeatureBank,
    device: torch.device | str,
    part: FeatureColumns | None = None,
    fresh: FreshBatches | None = None,
) -> RealFeatures:
    """The features of a bank, or a part of them, with the method's normalisation."""
    on_gpu = torch.device(device).type == "cuda"
    features: Tensor | FeatureBank | FeatureColumns = bank if part is None else part
    if bank.in_memory and not (on_gpu and bank.num_bytes > comfortable_bytes(device)):
        features = bank.all_views()[0] if part is None else part.all_views()
    return RealFeatures(features, bank.all_labels(), bank.num_classes, _normalization(config), device, fresh)


@dataclass(frozen=True)
class InnerLayers:
    """An encoder's inner layers with their real features, which the objective is also applied to.

    Attributes:
        encoder: The encoder with the layers' features appended to its own (`Encoder.with_layers`).
        bank: These features of the real images.
    """

    encoder: Encoder
    bank: FeatureBank

    def select(self, rows: Tensor) -> InnerLayers:
        """The same with some of the real images."""
        return replace(self, bank=self.bank.select(rows))

    def beside(self, own: Objective, config: DistillConfig) -> Objective:
        """Combine the objective ``own`` of the encoder's features with that of its inner layers."""
        made, method, start = [], load_method(config), self.encoder.plain.dim
        for width in self.encoder.widths:
            layer = self.bank.columns(start, start + width)
            made.append((width, method(_real_features(config, self.bank, self.encoder.device, layer))))
            start += width
        return with_inner_layers(own, self.encoder.plain.dim, made, config.layer_weight)


def inner_layers(
    config: DistillConfig, encoders: Sequence[Encoder], bank_of: Callable[[Encoder], FeatureBank]
) -> list[InnerLayers | None]:
    """Return the inner layers of each encoder that provides any, as many as a resolved config requests.

    Args:
        config: Resolved.
        encoders: The run's encoders.
        bank_of: Gives the features of the real images.
    """
    assert config.layers != "auto", "a resolved config"
    if not config.layers:
        return []
    deep = [encoder.with_layers(config.layers) for encoder in encoders]
    return [InnerLayers(encoder, bank_of(encoder)) if encoder.widths else None for encoder in deep]
