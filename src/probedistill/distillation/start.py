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
from .engine import Distiller, Tower


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
    encoder: Encoder,
    bank: FeatureBank,
    train: LabelledImages | None = None,
    team: Processes = ALONE,
    also: Sequence[tuple[Encoder, FeatureBank]] = (),
) -> Distiller:
    """The engine for a resolved config, at step 0.

    Args:
        config: Resolved; ``encoder_weights`` are empty or one for each encoder.
        encoder: The frozen encoder.
        bank: Its features of the real images.
        train: The real images, needed to start from them.
        team: The processes that share the run.
        also: Further encoders, each with its features of the same images. The canvas is as large as the largest
            input of any encoder.

    Raises:
        UserError: More processes than images, or no real image to start from.
    """
    assert config.steps is not None
    assert config.views is not None
    assert config.lr is not None
    canvas_config = config.canvas
    labels = torch.arange(bank.num_classes).repeat_interleave(config.images_per_class)
    if len(labels) < team.count:
        raise UserError(f"{team.count} processes for {len(labels)} synthetic images; start no more than one each")
    own = team.share(len(labels))
    weights = config.encoder_weights or [1.0] * (1 + len(also))
    sharpest = max((encoder, *(other for other, _ in also)), key=lambda e: e.input_size)
    canvas = Canvas(
        own.stop - own.start,
        sharpest.input_size,
        canvas_config.kind or "pyramid",
        open_levels=1 if canvas_config.level_every and canvas_config.kind == "pyramid" else None,
        device=encoder.device,
    )
    if canvas_config.init == "real":
        if train is None:
            raise UserError("canvas.init 'real' needs the real images")
        rows = bank.indices[medoids(bank, config.images_per_class)][own]
        try:
            photos = [sharpest.centre_view(train.load(i)) for i in rows.tolist()]
        except UnreadableImageError as error:
            raise UserError(f"{error}; it could be read when its features were computed: restore it") from error
        canvas.fill_with_images(torch.stack(photos))
    else:
        canvas.fill_with_noise(canvas_config.init_noise or 0.0, seed=config.seed, first=own.start)
    return Distiller(
        encoder,
        make_objective(config, bank, encoder.device),
        canvas,
        labels,
        steps=config.steps,
        views=config.views,
        lr=config.lr,
        schedule=config.schedule or "cosine",
        level_every=canvas_config.level_every or 0,
        augment=config.augment,
        micro_batch=None if config.micro_batch == "auto" else int(config.micro_batch),
        seed=config.seed,
        processes=team,
        weight=weights[0],
        input_size=encoder.input_size,
        also=[
            Tower(other, make_objective(config, features, other.device), weight, other.input_size)
            for (other, features), weight in zip(also, weights[1:], strict=True)
        ],
    )
