"""Everything that a run needs, read and checked before anything is written."""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path

import torch

from .._version import __version__
from ..config import DistillConfig, EncoderConfig, ImagesConfig, RunConfig, StatisticsConfig, check_names
from ..encoders.encoder import Encoder, several_encoders
from ..encoders.named import YAML, encoder_config, encoder_fields, in_one_word
from ..encoders.pool import EncoderPool
from ..errors import UserError, option
from ..features.statistics import ClassStatistics
from ..features.store import FeatureStore
from ..images.duplicates import check_not_one_picture, digest_of_pictures
from ..images.labelled import LabelledImages, check_class_names, check_labelled
from ..images.sources import check_outside
from ..images.splits import load_images, load_splits
from ..machine.processes import Processes
from ..methods import CANVASES, METHODS
from ..store.records import as_plain
from ..store.run_record import EncoderRecord, ImagesRecord, RunRecord
from ..text import counted
from .base import Base
from .folder import NoFolder, RunFolder, begun_by_this_launch
from .from_statistics import images_record, statistics_for

Data = str | ImagesConfig | LabelledImages | StatisticsConfig | ClassStatistics | Sequence[ClassStatistics]
"""What a set is distilled from: real images, or their statistics."""


@dataclass(frozen=True)
class Task:
    """A run that is ready to start.

    Attributes:
        config: Method and settings, resolved.
        run: When to make previews and to save.
        data: The real images, or their statistics.
        encoders: The frozen encoders.
        record: The run's record, as it will be written.
        features: Where features come from.
        team: The processes that share the run.
        base: The set that the run continues from, if any.
    """

    config: DistillConfig
    run: RunConfig
    data: RealData
    encoders: list[Encoder]
    record: RunRecord
    features: FeatureStore
    team: Processes
    base: Base | None = None


@dataclass(frozen=True)
class RealData:
    """The real images of a run, or their statistics.

    Attributes:
        spec: The options that open the images, or the test images; ``None`` if there are none.
        train: Real training images; ``None`` if there are statistics instead.
        test: Real test images, if there are any.
        statistics: The statistics, merged for each encoder.
        files: The statistics as they were named; ``None`` for loaded ones.
    """

    spec: ImagesConfig | None
    train: LabelledImages | None
    test: LabelledImages | None
    statistics: tuple[ClassStatistics, ...] = ()
    files: StatisticsConfig | None = None


def read_data(
    images: Data,
    statistics: tuple[ClassStatistics, ...],
    test: LabelledImages | ImagesConfig | None,
    config: DistillConfig,
    folder: NoFolder,
    progress: bool,
) -> RealData:
    """Open the images, or use the statistics, that a run is distilled from.

    Args:
        images: As for `distill`.
        statistics: From `read_statistics`, if ``images`` are statistics.
        test: As for `distill`.
        config: Resolved.
        folder: The run's folder, which must not be among the images.
        progress: Show progress bars.

    Raises:
        UserError: No such images, or too few of a class.
    """
    if test is not None and not isinstance(test, ImagesConfig):
        check_labelled(test, "test")
    held_out = load_splits(test, progress=progress)[1] if isinstance(test, ImagesConfig) else test
    if not isinstance(images, (str, ImagesConfig, LabelledImages)):
        spec = test if isinstance(test, ImagesConfig) else None
        files = images if isinstance(images, StatisticsConfig) else None
        return RealData(spec, None, held_out, statistics, files)
    data = RealData(*_load_images(images, held_out, progress))
    if data.train is not None:
        _check_counts(data.train, config)
        if folder.path is not None:
            check_outside(folder.path, data.train)
    return data


def prepare(
    data: RealData,
    named: list[EncoderConfig | Encoder],
    config: DistillConfig,
    run: RunConfig,
    strict: bool,
    team: Processes,
    base: Base | None,
    wished: DistillConfig,
) -> Task:
    """Load the encoders, choose settings that depend on them, and create the run's record.

    Args:
        data: From `read_data`.
        named: From `name_encoders`.
        config: Resolved.
        run: When to make previews and to save.
        strict: Raise on unreadable images.
        team: The processes that share the run.
        base: The set that the run continues from, if any.
        wished: The config as the user gave it.

    Raises:
        UserError: An encoder cannot be loaded or has no gradient, the processes see different data, or there are more
            processes than images.
    """
    encoders = _load_encoders(named)
    config = suited(config, wished, encoders)
    for line in without_effect(config, wished, encoders) if base is None else []:
        warnings.warn(f"without effect: {line}", stacklevel=4)
    if data.statistics:
        data = replace(data, statistics=tuple(statistics_for(encoders, data.statistics)))
    record = _describe(config, encoders, data)
    if base is not None:
        record = replace(
            record, base=base.record, forgotten=base.forgotten, renamed=base.renamed, begun_from=base.begun_from
        )
    count = len(record.class_names) * config.images_per_class if base is None else len(base.labels)
    if count < team.count:
        raise UserError(f"{team.count} processes for {count} synthetic images; start no more processes than images")
    _check_same_data(team, record)
    features = FeatureStore(run.cache, strict, run.progress and team.is_first, team)
    return Task(config, run, data, encoders, record, features, team, base)


def check_run(run: RunConfig) -> None:
    """Raise `UserError` if a time or a number of steps is out of range, or names are not a list of names."""
    if not run.timeout_seconds > 0:
        raise UserError(f"timeout_seconds {run.timeout_seconds} must be more than 0")
    check_names("log", run.log)
    check_names("callback", run.callback)
    for name, whole in {"checkpoint_seconds": False, "evaluate_every": True}.items():
        value = getattr(run, name)
        if value is not None and not (isinstance(value, Integral if whole else Real) and float(value) >= 0):
            raise UserError(f"{name} {value!r} must be a {'whole ' * whole}number, 0 or more")


def folder_of(run: RunConfig, team: Processes) -> NoFolder:
    """Return the folder that a run writes into; after a restart by torchrun, the run of this launch continues."""
    if run.out is None:
        return NoFolder()
    path, resume, overwrite = Path(run.out), run.resume, run.overwrite
    if team.restarted and not resume:
        resume = not overwrite or bool(team.largest(int(team.is_first and begun_by_this_launch(path))))
        overwrite = not resume
    return RunFolder(path, resume=resume, overwrite=overwrite)


def name_encoders(
    encoder: str | EncoderConfig | Encoder | Sequence[str | EncoderConfig | Encoder], config: DistillConfig
) -> tuple[list[EncoderConfig | Encoder], DistillConfig, EncoderConfig | None]:
    """Return all encoders of a run, and what repeats it: the config with ``also`` and weights filled in, and the first
    encoder's config; ``None`` if no options make these encoders.
    """
    given = [*several_encoders(encoder), *config.also]
    if not given:
        raise UserError("encoder is empty; give at least one")
    count, weights = len(given), [float(weight) for weight in config.encoder_weights]
    if weights and len(weights) != count:
        raise UserError(f"encoder_weights {weights} for {counted(count, 'encoder')}; give one for each")
    if not weights and count > 1:
        weights = [1.0] * count
    prepared = config.encoder_values
    first = encoder_config(given[0], **prepared) if isinstance(given[0], str) else given[0]
    known = first.config if isinstance(first, Encoder) else first
    if known is not None:
        prepared = {"preprocess": known.preprocess}

    def like_first(word: str) -> EncoderConfig:
        return encoder_config(word, device=str((known or first).device), precision=first.precision, **prepared)

    def named_word(other: str | EncoderConfig | Encoder) -> str | None:
        if isinstance(other, str):
            return in_one_word(encoder_fields(other)) if other.endswith(YAML) else other
        config = other.config if isinstance(other, Encoder) else other
        if config is None:
            return None
        usual = like_first(config.encoder)
        own = {name: value for name, value in vars(config).items() if value != getattr(usual, name)}
        return in_one_word({"encoder": config.encoder, **own})

    named = [first, *(like_first(other) if isinstance(other, str) else other for other in given[1:])]
    words = [word for word in map(named_word, given[1:]) if word is not None]
    return named, replace(config, also=words, encoder_weights=weights), known if len(words) == count - 1 else None


def _load_images(
    images: str | ImagesConfig | LabelledImages, test: LabelledImages | None, progress: bool
) -> tuple[ImagesConfig | None, LabelledImages, LabelledImages | None]:
    if isinstance(images, LabelledImages):
        return images.config, images, test
    config = ImagesConfig(images=images) if isinstance(images, str) else images
    if test is not None:
        return config, load_images(config, min_per_class=2, progress=progress), test
    train, test = load_splits(config, progress=progress)
    return train.config, train, test


def _load_encoders(named: list[EncoderConfig | Encoder]) -> list[Encoder]:
    pool = EncoderPool(named, argument="encoder", room=None, once="name it once and give it more encoder_weights")
    for encoder in pool:
        if encoder.device != pool[0].device:
            raise UserError(
                f"encoder {encoder.name!r} is on device {str(encoder.device)!r}, {pool[0].name!r} on "
                f"{str(pool[0].device)!r}; load them on the same device"
            )
        encoder.check_gradient()
    return list(pool)


def _check_same_data(team: Processes, about: RunRecord) -> None:
    """Raise `UserError` if processes see different data or settings: their parts would not fit together."""
    shared = as_plain((about.config, about.encoders, about.images, about.class_names, about.base))
    digest = hashlib.sha256(json.dumps(shared).encode()).digest()
    if not team.agree(int.from_bytes(digest[:7], "big")):
        raise UserError(
            "the processes of this run see different images, encoders or settings; use the same ones on every machine"
        )


def _describe(config: DistillConfig, encoders: list[Encoder], data: RealData) -> RunRecord:
    import torchvision

    weights = config.encoder_weights or [1.0]
    return RunRecord(
        finished=False,
        config=config,
        encoders=tuple(EncoderRecord.of(encoder, weight) for encoder, weight in zip(encoders, weights, strict=True)),
        images=ImagesRecord.of(data.train) if data.train is not None else images_record(data.statistics),
        class_names=data.train.class_names if data.train is not None else data.statistics[0].class_names,
        versions={
            "probedistill": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "timm": version("timm"),  # not imported, because a user's own encoder does not need it
        },
        device=str(encoders[0].device),
        test=ImagesRecord.of(data.test) if data.test is not None else None,
        begun_from=config.canvas.init or "noise",
        statistics=tuple(one.about for one in data.statistics),
        pictures=digest_of_pictures(data.train),
        code=_own_code(config),
    )


def _own_code(config: DistillConfig) -> dict[str, str]:
    """Digests of the code of the user's own method and canvas, by option."""
    found = {}
    for name, registry, value in (("method", METHODS, config.method), ("canvas.kind", CANVASES, config.canvas.kind)):
        if value not in registry.built_in:
            registry.load(value)
            found[name] = registry.code_of(value)
    return found


def _check_counts(train: LabelledImages, config: DistillConfig) -> None:
    check_class_names(train.class_names, f"images {train.spec!r}")
    if len(train.class_names) < 2:
        raise UserError(
            f"{train.spec!r} has only the class {train.class_names[0]!r}; give images of at least 2 classes"
        )
    least = max(2, config.images_per_class if config.canvas.from_photos else 2)
    for name, count in zip(train.class_names, train.counts().tolist(), strict=True):
        if count < least:
            raise UserError(
                f"class {name!r} of {train.spec!r} has {counted(count, 'image')}; each class needs at least "
                f"{least}: add images or leave the class out with {option('classes')}"
            )
    check_not_one_picture(train)


def suited(config: DistillConfig, wished: DistillConfig, encoders: Sequence[Encoder]) -> DistillConfig:
    """Replace ``"auto"`` by the values for these encoders.

    A vision transformer does best from single photos, with large crops, many views and small steps: docs/recipes.md.

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
    """List options that the user has changed but that have no effect in this run, each with the reason.

    Args:
        config: From `suited`.
        wished: As the user gave it.
        encoders: The run's encoders.
    """
    found = wished.without_effect(config)
    if config.starts_for_transfer:
        return found  # with this aim, layers are used only if the encoder has them
    asked = {
        "aim transfer": wished.aim == "transfer",
        f"layers {wished.layers}": wished.layers not in ("auto", 0),
        f"layer_weight {wished.layer_weight}": wished.layer_weight != DistillConfig.layer_weight,
    }
    assert config.layers != "auto", "a resolved config"
    if config.layers and any(asked.values()) and not any(one.with_layers(config.layers).widths for one in encoders):
        first = next(name for name, is_asked in asked.items() if is_asked)
        names = " and ".join(repr(encoder.name) for encoder in encoders)
        found.append(
            f"{first} needs inner layers, but those of {names} cannot be used; those of convolutional timm models can"
        )
    return found
