"""From a resolved config to the objectives, the canvas and the engine that it describes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import DistillConfig
from ..encoders.encoder import Encoder
from ..errors import UserError, explained, option, unknown_name
from ..features.bank import FeatureBank, FeatureColumns, comfortable_bytes
from ..features.classes import clusters, k_medoids, nearest_to_centres
from ..features.encode import load_again, prefetched
from ..features.fresh import FreshBatches
from ..features.statistics import ClassStatistics
from ..images.labelled import LabelledImages
from ..machine.memory import total_memory
from ..machine.processes import ALONE, Processes
from ..machine.progress import ProgressBar
from ..methods import CANVASES, METHODS, Normalization
from ..objectives.layers import with_inner_layers
from ..objectives.moments import Draws, RealMoments
from ..objectives.real import Objective, RealFeatures
from .base import Base
from .canvas import AnyCanvas, Canvas, rendered
from .engine import Distiller, Loop, Tower

_BLEND_CONTRAST = 2.0
_AVERAGED = 100  # photos: more change the average of a class little, and each has to be read
_AVERAGE_SIDE = 32  # pixels


def suited(config: DistillConfig, wished: DistillConfig, encoders: Sequence[Encoder]) -> DistillConfig:
    """Settle what "auto" means for these encoders.

    A vision transformer wants to see a photo and not an average, large crops, many views and small steps:
    docs/recipes.md.

    Args:
        config: Resolved.
        wished: As the user gave it.
        encoders: The run's encoders.
    """
    if not any(encoder.is_transformer for encoder in encoders):
        return config
    if config.canvas.from_photos:
        if wished.canvas.init == "auto":
            config = replace(config, canvas=replace(config.canvas, init="real"))
        if wished.lr == "auto":
            config = replace(config, lr=0.01)
        if wished.views == "auto":
            config = replace(config, views=12)
        if wished.clp.ridge == "auto":
            config = replace(config, clp=replace(config.clp, ridge=3.0))
    return replace(config, augment=wished.augment.settled(transformer=True))


def without_effect(config: DistillConfig, wished: DistillConfig, encoders: Sequence[Encoder]) -> list[str]:
    """Options that the user has changed and that nothing looks at in this run, each with the reason.

    Args:
        config: Suited.
        wished: As the user gave it.
        encoders: The run's encoders.
    """
    found = wished.without_effect(config)
    if config.starts_for_transfer:
        return found  # the aim asks for layers only where there are any
    asked = {
        "aim transfer": wished.aim == "transfer",
        f"layers {wished.layers}": wished.layers not in ("auto", 0),
        f"layer_weight {wished.layer_weight}": wished.layer_weight != DistillConfig.layer_weight,
    }
    assert config.layers != "auto", "a resolved config"
    if config.layers and any(asked.values()) and not any(one.with_layers(config.layers).widths for one in encoders):
        first = next(name for name, is_asked in asked.items() if is_asked)
        names = " and ".join(repr(encoder.name) for encoder in encoders)
        found.append(f"{first} is about inner layers, and {names} gives none; convolutional models of timm do")
    return found


def load_method(config: DistillConfig) -> Callable[..., Objective]:
    """The function real features → objective that a resolved config asks for, with its options filled in.

    Raises:
        UserError: There is no such method, or it has not these options.
    """
    factory, options = METHODS.load(config.method), config.options()
    if config.method in METHODS.built_in:
        options.pop("normalize")  # the real features are made with it
    known = _keywords(factory, config.method)
    for name in options:
        if name not in known:
            raise unknown_name(f"option of method {config.method!r}", name, known, f"({option('method_args')})")
    missing = [name for name, has_default in known.items() if not has_default and name not in {*options, "seed"}]
    if missing:
        raise UserError(
            f"method {config.method!r} needs the option {missing[0]!r}; add {option(f'method_args.{missing[0]}', '…')}"
        )
    if "seed" in known:
        options.setdefault("seed", config.seed)

    def make(real: RealFeatures) -> Objective:
        objective = factory(real, **options)
        if not callable(objective):
            raise UserError(
                f"method {config.method!r} gives {type(objective).__name__}; it must give a function of "
                "(features, labels, step)"
            )
        return objective

    return make


def _keywords(factory: Any, method: str) -> dict[str, bool]:
    """Options of a method: name → whether it has a default."""
    with explained(f"method {method!r} is not a function of real features", TypeError, ValueError):
        parameters = list(inspect.signature(factory).parameters.values())
    if not parameters:
        raise UserError(f"method {method!r} takes no argument; it must take the real features")
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name: p.default is not p.empty for p in parameters[1:] if p.kind in kinds}


def make_objective(
    config: DistillConfig,
    bank: FeatureBank | ClassStatistics,
    device: torch.device | str = "cpu",
    fresh: FreshBatches | None = None,
) -> Objective:
    """The objective that a resolved config asks for, on the features of a bank.

    The features are held on the device when the bank is in memory and takes no more than a quarter of the
    device's (`comfortable_bytes`); otherwise they are read again, block by block, at each pass over them.

    Args:
        config: Resolved.
        bank: Features of the real images, or their statistics.
        device: Where the synthetic features are.
        fresh: Where fresh batches of real images come from.
    """
    if isinstance(bank, ClassStatistics):
        return load_method(config)(RealMoments(Draws(bank, seed=config.seed), _normalization(config), device))
    return load_method(config)(_real_features(config, bank, device, fresh=fresh))


def _normalization(config: DistillConfig) -> Normalization:
    if config.method not in METHODS.built_in:
        return "none"  # a method of the user's own normalises, or does not, as it likes
    normalize: Normalization = config.options()["normalize"]
    return normalize


def _real_features(
    config: DistillConfig,
    bank: FeatureBank,
    device: torch.device | str,
    part: FeatureColumns | None = None,
    fresh: FreshBatches | None = None,
) -> RealFeatures:
    """The features of a bank, or a part of them, as the method normalises them."""
    on_gpu = torch.device(device).type == "cuda"
    features: Tensor | FeatureBank | FeatureColumns = bank if part is None else part
    if bank.in_memory and not (on_gpu and bank.num_bytes > comfortable_bytes(device)):
        features = bank.all_views()[0] if part is None else part.all_views()
    return RealFeatures(features, bank.all_labels(), bank.num_classes, _normalization(config), device, fresh)


@dataclass(frozen=True)
class InnerLayers:
    """What a run needs to ask its method of an encoder's inner layers.

    Attributes:
        encoder: The encoder with the layers' features after its own (`Encoder.with_layers`).
        bank: These features of the real images.
    """

    encoder: Encoder
    bank: FeatureBank

    def select(self, rows: Tensor) -> InnerLayers:
        """The same with some of the real images."""
        return replace(self, bank=self.bank.select(rows))

    def beside(self, own: Objective, config: DistillConfig) -> Objective:
        """The objective of the encoder's features and of its layers; ``own`` is that of the features."""
        made, method, start = [], load_method(config), self.encoder.plain.dim
        for width in self.encoder.widths:
            layer = self.bank.columns(start, start + width)
            made.append((width, method(_real_features(config, self.bank, self.encoder.device, layer))))
            start += width
        return with_inner_layers(own, self.encoder.plain.dim, made, config.layer_weight)


def inner_layers(
    config: DistillConfig, encoders: Sequence[Encoder], bank_of: Callable[[Encoder], FeatureBank]
) -> list[InnerLayers | None]:
    """The inner layers of each encoder that gives any, as many as a resolved config asks for.

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


def make_distiller(
    config: DistillConfig,
    encoders: Sequence[Encoder],
    banks: Sequence[FeatureBank | ClassStatistics],
    train: LabelledImages | None = None,
    team: Processes = ALONE,
    base: Base | None = None,
    inner: Sequence[InnerLayers | None] = (),
    *,
    fill: bool = True,
    progress: bool = False,
) -> Distiller:
    """The engine for a resolved config, at step 0.

    Args:
        config: Resolved; ``encoder_weights`` are empty or one for each encoder.
        encoders: The frozen encoders.
        banks: Each encoder's features of the real images, or their statistics.
        train: The real images, needed to start from them, and for fresh batches.
        team: The processes that share the run.
        base: The set that the run goes on from; the engine then holds the images that change.
        inner: Each encoder's inner layers, from `inner_layers`; empty for none.
        fill: Give the canvas its starting values. Without them no photo is read: a checkpoint has the images.
        progress: Show a bar while photos are read to start from.

    Raises:
        UserError: More processes than images, or no real images although they are needed.
    """
    labels = torch.arange(banks[0].num_classes).repeat_interleave(config.images_per_class)
    labels = labels if base is None else base.labels
    if len(labels) < team.count:
        raise UserError(f"{team.count} processes for {len(labels)} synthetic images; start no more than one each")
    weights = config.encoder_weights or [1.0] * len(encoders)
    towers: list[Tower] = []
    layers = inner or [None] * len(encoders)
    for encoder, bank, weight, deep in zip(encoders, banks, weights, layers, strict=True):
        fresh = None
        if train is not None and isinstance(bank, FeatureBank):
            fresh = FreshBatches(encoder, train, bank.indices, config.augment, config.seed, team)
        objective = make_objective(config, bank, encoder.device, fresh)
        if base is not None:
            objective = base.beside_fixed(objective, encoder, len(towers), config)
        if deep is not None:
            objective = deep.beside(objective, config)
        towers.append(Tower(encoder if deep is None else deep.encoder, objective, weight, encoder.input_size))
    assert config.lr != "auto", "a resolved config"
    assert config.views != "auto", "a resolved config"
    loop = Loop(
        steps=config.steps,
        lr=config.lr,
        schedule=config.schedule,
        views=config.views,
        augment=config.augment,
        level_every=config.canvas.level_every,
        new_level=config.canvas.new_level,
        micro_batch=None if config.micro_batch == "auto" else config.micro_batch,
        seed=config.seed,
    )
    own = team.share(len(labels))
    canvas = _empty_canvas(config, own.stop - own.start, _canvas_size(config, encoders), encoders[0].device)
    if fill:
        _fill(canvas, config, encoders, banks[0], train, own, base, progress)
    if not isinstance(canvas, Canvas):
        _check_rendering(canvas, config.canvas.kind)
    return Distiller(towers, canvas, labels, loop, team)


def _canvas_size(config: DistillConfig, encoders: Sequence[Encoder]) -> int:
    return max(encoder.input_size for encoder in encoders) if config.canvas.size == "auto" else config.canvas.size


def _fill(
    canvas: AnyCanvas,
    config: DistillConfig,
    encoders: Sequence[Encoder],
    bank: FeatureBank | ClassStatistics,
    train: LabelledImages | None,
    own: slice,
    base: Base | None,
    progress: bool,
) -> None:
    """Give some of the images their starting values; the first encoder's features say which photos."""
    options = config.canvas
    if options.init == "noise":
        canvas.fill_with_noise(options.init_noise, seed=config.seed, first=own.start)
        if base is not None:
            start = base.start[own].to(encoders[0].device)
            noise = torch.stack([row.isnan().any() for row in start])
            if not bool(noise.all()):
                canvas.fill_with_images(torch.where(noise[:, None, None, None], rendered(canvas), start))
    else:
        if train is None or not isinstance(bank, FeatureBank):
            raise UserError(f"canvas.init {options.init!r} needs the real images")
        canvas.fill_with_images(starting_images(config, encoders, bank, train, canvas.size, own, progress=progress))


def starting_images(
    config: DistillConfig,
    encoders: Sequence[Encoder],
    bank: FeatureBank,
    train: LabelledImages,
    size: int,
    own: slice = slice(None),
    *,
    progress: bool = False,
) -> Tensor:
    """What synthetic images start from: photos, blends or averages of them, as ``canvas.init`` says.

    Args:
        config: Resolved.
        encoders: The run's encoders; the one of the largest input cuts the photos.
        bank: Features of the first encoder, which choose the photos.
        train: The photos.
        size: Side S of the canvas.
        own: Which of the m images.
        progress: Show a bar while photos are read.

    Returns:
        (m, 3, S, S) in [0, 1].

    Raises:
        UserError: A photo cannot be read any more, or a class has too few.
    """
    sharpest = max(encoders, key=lambda encoder: encoder.input_size)
    together = average_of if config.canvas.init == "average" else blend_of

    def cut(index: int) -> Tensor:
        return sharpest.centre_view(load_again(train, index), size)

    photos_of, found = _photos_to_start_from(config, bank)[own], []
    with ProgressBar("photos to start from", sum(map(len, photos_of)), enabled=progress) as bar:
        for photos in photos_of:
            (cuts,) = prefetched(cut, photos, len(photos))
            found.append(together(cuts))
            bar.advance(len(photos))
    return torch.stack(found)


def _photos_to_start_from(config: DistillConfig, bank: FeatureBank) -> list[list[int]]:
    """Numbers of the real images that each synthetic image starts from."""
    if config.canvas.init == "real":
        rows = list(k_medoids(bank, config.images_per_class, seed=config.seed)[:, None])
    elif config.canvas.init == "average":
        least = config.canvas.blend
        rows = clusters(bank, config.images_per_class, least=least, most=_AVERAGED, seed=config.seed)
    else:
        rows = nearest_to_centres(bank, config.images_per_class, config.canvas.blend, seed=config.seed)
    return [bank.indices[some].tolist() for some in rows]


def blend_of(photos: Sequence[Tensor]) -> Tensor:
    """The mean (3, S, S) of several images; one image stays as it is."""
    return photos[0] if len(photos) == 1 else _with_contrast(torch.stack(list(photos)).mean(dim=0))


def average_of(photos: Sequence[Tensor]) -> Tensor:
    """The mean (3, S, S) of images in few pixels: of many, it shows what they share and none of them."""
    size = photos[0].shape[-1]
    coarse = [F.adaptive_avg_pool2d(photo, min(size, _AVERAGE_SIDE)) for photo in photos]
    mean = _with_contrast(torch.stack(coarse).mean(dim=0))
    return F.interpolate(mean[None], size=size, mode="bilinear", align_corners=False)[0]


def _with_contrast(mean: Tensor) -> Tensor:
    # A mean of photos has about half of a photo's contrast; an encoder has seen few images as flat as that.
    middle = mean.mean(dim=(1, 2), keepdim=True)
    return (middle + _BLEND_CONTRAST * (mean - middle)).clamp(0, 1)


def _empty_canvas(config: DistillConfig, count: int, size: int, device: torch.device) -> AnyCanvas:
    options, make = config.canvas, CANVASES.load(config.canvas.kind)
    # Values, their gradients and Adam's two moments, of a pyramid of levels.
    needed = count * 3 * size**2 * 4 * 4 * 4 // 3
    if needed > total_memory():
        raise UserError(
            f"canvas.size {size} takes {needed / 1e9:,.0f} GB for {count} images, more than this machine has; "
            f"give a smaller {option('canvas.size')}"
        )
    if options.kind in CANVASES.built_in:
        grows = options.level_every > 0 and options.kind == "pyramid"
        open_levels = 1 if grows else None
        return Canvas(count, size, options.kind, colour=options.colour, open_levels=open_levels, device=device)
    with explained(f"canvas {options.kind!r} cannot be made", Exception, hint="it is called with count, size, device"):
        canvas: AnyCanvas = make(count, size, device=device)
        shapes = [tuple(level.shape) for level in canvas.levels]
    if not shapes or any(not shape or shape[0] != count for shape in shapes):
        raise UserError(
            f"canvas {options.kind!r} has levels of shape {shapes}; each needs a row for each image, {count}"
        )
    if options.level_every and not isinstance(canvas, Canvas):
        raise UserError(f"canvas.level_every {options.level_every} is for pyramids; leave it out for {options.kind!r}")
    return canvas


def _check_rendering(canvas: AnyCanvas, kind: str) -> None:
    """Raise `UserError` if the images of a user's canvas are not what the engine needs."""
    with explained(f"canvas {kind!r} cannot be rendered", Exception):
        image = rendered(canvas, 0, 1)
    if not bool(((image >= 0) & (image <= 1)).all()):
        raise UserError(f"canvas {kind!r} renders values outside [0, 1]; end with a sigmoid or a clamp")
