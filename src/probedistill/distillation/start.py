"""From a resolved config to the objective and the engine that it describes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..config import DistillConfig
from ..encoders.encoder import Encoder
from ..errors import UserError
from ..features.bank import FeatureBank, comfortable_bytes
from ..features.classes import medoids
from ..images.decode import UnreadableImageError
from ..images.labelled import LabelledImages
from ..machine.processes import ALONE, Processes
from ..objectives.clp import clp_objective
from ..objectives.lgm import lgm_objective
from ..objectives.real import Objective, RealFeatures
from ..objectives.sfm import sfm_objective
from .canvas import Canvas
from .engine import Distiller, Loop, Tower


def make_objective(config: DistillConfig, bank: FeatureBank, device: torch.device | str = "cpu") -> Objective:
    """The objective that a resolved config asks for, on the features of a bank.

    The features are held on the device when the bank is in memory and takes no more than a quarter of the
    device's (`comfortable_bytes`); otherwise they are read again, block by block, at each pass over them.
    """
    options = getattr(config, config.method)
    on_gpu = torch.device(device).type == "cuda"
    held = bank.in_memory and not (on_gpu and bank.num_bytes > comfortable_bytes(device))
    features = bank.all_views()[0] if held else bank
    real = RealFeatures(features, bank.all_labels(), bank.num_classes, options.normalize, device)
    if config.method == "sfm":
        return sfm_objective(real)
    if config.method == "lgm":
        batch = options.real_batch
        if batch < 0:  # the authors': as many real images as synthetic views
            batch = bank.num_classes * config.images_per_class * (config.views or 1)
        return lgm_objective(real, sigma=options.sigma, balanced=options.balanced, real_batch=batch, seed=config.seed)
    return clp_objective(
        real,
        ridge=options.ridge,
        temperature=options.temperature,
        outer=options.outer,
        normalize_head=options.normalize_head,
        real_per_class=options.real_per_class,
        seed=config.seed,
    )


def make_distiller(
    config: DistillConfig,
    encoders: Sequence[Encoder],
    banks: Sequence[FeatureBank],
    train: LabelledImages | None = None,
    team: Processes = ALONE,
) -> Distiller:
    """The engine for a resolved config, at step 0.

    Args:
        config: Resolved; ``encoder_weights`` are empty or one for each encoder.
        encoders: The frozen encoders. The canvas is as large as the largest input of any of them.
        banks: Each encoder's features of the real images.
        train: The real images, needed to start from them.
        team: The processes that share the run.

    Raises:
        UserError: More processes than images, or no real image to start from.
    """
    assert config.steps is not None
    assert config.views is not None
    assert config.lr is not None
    labels = torch.arange(banks[0].num_classes).repeat_interleave(config.images_per_class)
    if len(labels) < team.count:
        raise UserError(f"{team.count} processes for {len(labels)} synthetic images; start no more than one each")
    weights = config.encoder_weights or [1.0] * len(encoders)
    towers = [
        Tower(encoder, make_objective(config, bank, encoder.device), weight, encoder.input_size)
        for encoder, bank, weight in zip(encoders, banks, weights, strict=True)
    ]
    loop = Loop(
        steps=config.steps,
        lr=config.lr,
        schedule=config.schedule or "cosine",
        views=config.views,
        augment=config.augment,
        level_every=config.canvas.level_every or 0,
        micro_batch=None if config.micro_batch == "auto" else int(config.micro_batch),
        seed=config.seed,
    )
    return Distiller(
        towers, _make_canvas(config, encoders, banks[0], train, team.share(len(labels))), labels, loop, team
    )


def _make_canvas(
    config: DistillConfig, encoders: Sequence[Encoder], bank: FeatureBank, train: LabelledImages | None, own: slice
) -> Canvas:
    """The canvas of some of the images, with its starting values; the first encoder's features say which photos."""
    options = config.canvas
    sharpest = max(encoders, key=lambda encoder: encoder.input_size)
    canvas = Canvas(
        own.stop - own.start,
        sharpest.input_size,
        options.kind or "pyramid",
        open_levels=1 if options.level_every and options.kind == "pyramid" else None,
        device=encoders[0].device,
    )
    if options.init != "real":
        canvas.fill_with_noise(options.init_noise or 0.0, seed=config.seed, first=own.start)
        return canvas
    if train is None:
        raise UserError("canvas.init 'real' needs the real images")
    rows = bank.indices[medoids(bank, config.images_per_class)][own]
    try:
        photos = [sharpest.centre_view(train.load(i)) for i in rows.tolist()]
    except UnreadableImageError as error:
        raise UserError(f"{error}; it could be read when its features were computed: restore it") from error
    canvas.fill_with_images(torch.stack(photos))
    return canvas
