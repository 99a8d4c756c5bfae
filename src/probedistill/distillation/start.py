"""From a resolved config to the engine that it describes, at step 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..config import DistillConfig
from ..encoders.checks import uneven_like
from ..encoders.encoder import Encoder
from ..errors import UserError, explained, option
from ..features.bank import FeatureBank
from ..features.fresh import FreshBatches
from ..features.statistics import ClassStatistics
from ..images.labelled import LabelledImages
from ..machine.memory import total_memory
from ..machine.processes import ALONE, Processes
from ..methods import CANVASES
from .base import Base
from .beginnings import starting_images
from .canvas import AnyCanvas, Canvas, rendered
from .engine import Distiller, Loop, Tower
from .objective import InnerLayers, make_objective


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
    """Create the engine for a resolved config, at step 0.

    Args:
        config: Resolved; ``encoder_weights`` are empty or one for each encoder.
        encoders: The frozen encoders.
        banks: Each encoder's features of the real images, or their statistics.
        train: The real images, needed to start from them, and for fresh batches.
        team: The processes that share the run.
        base: The set that the run continues from; the engine then holds only the images that change.
        inner: Each encoder's inner layers, from `inner_layers`; empty for none.
        fill: Give the canvas its starting values. Otherwise no photo is read, because a checkpoint has the images.
        progress: Show a progress bar while photos to start from are read.

    Raises:
        UserError: No real images although they are needed.
    """
    labels = torch.arange(banks[0].num_classes).repeat_interleave(config.images_per_class)
    labels = labels if base is None else base.labels
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
        others = () if isinstance(canvas, Canvas) else (Exception,)  # a user's own canvas may raise anything
        with explained(f"canvas {config.canvas.kind!r} cannot be given its starting values", *others):
            _fill(canvas, config, encoders, banks[0], train, own, base, progress)
        if others:
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
    """Give some of the images their starting values; the first encoder's features choose the photos."""
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


def _empty_canvas(config: DistillConfig, count: int, size: int, device: torch.device) -> AnyCanvas:
    options, make = config.canvas, CANVASES.load(config.canvas.kind)
    # Values, gradients and Adam's two moments, in float32; a pyramid has 4/3 of the values of its largest level.
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
        whole = [str(level.dtype) for level in canvas.levels if not level.is_floating_point()]
    if whole:
        raise UserError(f"canvas {options.kind!r} has levels of {whole[0]}; they must be floating-point tensors")
    if not shapes or any(not shape or shape[0] != count for shape in shapes):
        raise UserError(
            f"canvas {options.kind!r} has levels of shape {shapes}; each needs one row per image, so {count} rows"
        )
    if options.level_every and not isinstance(canvas, Canvas):
        raise UserError(f"canvas.level_every {options.level_every} is for pyramids; leave it out for {options.kind!r}")
    return canvas


@torch.enable_grad()
def _check_rendering(canvas: AnyCanvas, kind: str) -> None:
    """Raise `UserError` if the images of a user's canvas are not what the engine needs."""
    leaves = [level[:1].detach().clone().requires_grad_() for level in canvas.levels]
    with explained(f"canvas {kind!r} cannot be rendered", Exception):
        image = canvas.render(leaves)
        shape, wanted = tuple(image.shape), (1, 3, canvas.size, canvas.size)
        in_range = bool(((image >= 0) & (image <= 1)).all())
    if shape != wanted:
        raise UserError(f"canvas {kind!r} renders an image of shape {shape}; it must be {wanted}")
    if not in_range:
        raise UserError(f"canvas {kind!r} renders values outside [0, 1]; end with a sigmoid or a clamp")
    with explained(f"canvas {kind!r} lets no gradient through", Exception, hint="leave out .detach() and rounding"):
        # Not the plain sum, which is constant for normalised images.
        gradients = torch.autograd.grad((image * uneven_like(image)).sum(), leaves, allow_unused=True)
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            raise RuntimeError("it is zero")
