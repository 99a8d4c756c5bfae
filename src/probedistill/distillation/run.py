"""A distillation from labelled images to a `DistilledSet`, in four parts: prepare, open, loop, finish.

The engine does steps; this module decides when to look, save and stop. `folder` knows what is written where, and
`callbacks` who is told of it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import Unpack

from .._version import __version__
from ..config import DistillConfig, EncoderConfig, ImagesConfig, RunConfig, StatisticsConfig
from ..encoders.encoder import Encoder, several_encoders
from ..encoders.named import YAML, encoder_config, encoder_fields, in_one_word
from ..encoders.pool import EncoderPool
from ..errors import NonFiniteLossError, UserError, option
from ..features.bank import FeatureBank
from ..features.encode import encode
from ..features.statistics import ClassStatistics, class_statistics
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages, check_class_names
from ..images.sources import check_outside
from ..images.splits import held_out_names, load_images, load_splits
from ..machine.processes import Processes, processes
from ..machine.signals import Interrupted, Stop, catch_signals
from ..machine.torch_state import own_torch_state
from ..probes.linear import LinearProbe
from ..ship.heads import head_of_statistics
from ..store.distilled import DistilledSet
from ..store.layout import CHECKPOINTS
from ..store.pixels import as_shipped
from ..store.records import as_plain
from ..store.run_record import EncoderRecord, History, ImagesRecord, RunRecord, with_history
from ..text import counted
from .base import Base
from .callbacks import (
    Bar,
    Callback,
    Callbacks,
    End,
    Forecast,
    Growing,
    Pictures,
    Preview,
    ProgressFile,
    Start,
    Step,
    named_callbacks,
)
from .engine import Distiller
from .folder import NoFolder, RunFolder, begun_by_this_launch
from .from_statistics import images_record, read_statistics, settled, statistics_for
from .objective import inner_layers, load_method
from .options import DistillOptions, with_options
from .start import make_distiller, suited, without_effect

Data = str | ImagesConfig | LabelledImages | StatisticsConfig | ClassStatistics | Sequence[ClassStatistics]
"""What a set is distilled from: real images, or their statistics."""


@own_torch_state()
def distill(
    images: Data,
    encoder: str | EncoderConfig | Encoder | Sequence[str | EncoderConfig | Encoder],
    config: DistillConfig | None = None,
    *,
    test: LabelledImages | ImagesConfig | None = None,
    run: RunConfig | None = None,
    callbacks: Sequence[Callback] = (),
    strict: bool = False,
    base: Base | None = None,
    **options: Unpack[DistillOptions],
) -> DistilledSet:
    """Distil labelled images into a few synthetic ones per class.

    >>> distilled = distill("folder:photos", "efficientnet_lite0", method="sfm", out="runs/x")  # doctest: +SKIP

    Args:
        images: Real training images: a spec string, a config, or loaded images. With a spec the test
            split (or a held-out part) gives the probe accuracy that is shown along the way. Or their statistics,
            of any number of parties and of each encoder: what is then drawn from them is `RealMoments`' business.
        encoder: The frozen encoder, its config, or its name in one word (`encoder_config`). With a sequence the
            loss is the sum over the encoders, weighted by ``encoder_weights``; the images are as large as the
            largest input. ``config.also`` names further ones.
        config: Method and settings; ``options`` override its fields or those of ``run``. Without it ``options`` are
            those of `DistillConfig.of`, which knows ``preset="paper"``.
        test: Test images for the accuracy along the way, when ``images`` are loaded images or statistics.
        run: Output folder, resuming, checkpoints. Without ``out`` nothing is written.
        callbacks: Who else is told of steps and previews.
        strict: Raise on unreadable images instead of leaving them out with a warning.
        base: A set that the run goes on from, as `extend` and `forget` make it.

    Returns:
        The synthetic images, also saved in ``out``. Equal inputs and seed give equal images, on the CPU bit for bit
        with the same number of threads, processes and views in a micro-batch (``"auto"`` goes by free memory); also
        when the run was interrupted and resumed, which goes on with the micro-batch that it had.

    Raises:
        UserError: Bad input; nothing has been written.
        NonFiniteLossError: The loss became NaN or infinite; the last good state is in ``checkpoints/``.
        Interrupted: SIGINT or SIGTERM came; the state has been saved.
    """
    run, config = with_options(run or RunConfig(), config, dict(options))
    given = () if isinstance(images, (str, ImagesConfig, LabelledImages)) else read_statistics(images)
    wished = config
    named, config, repeatable = _name_encoders(encoder, settled(config, given) if given else config.resolve())
    load_method(config)  # a method of the user's own may not be there, or not have these options
    _check_run(run)
    own = [*callbacks, *named_callbacks(run.log, run.callback)]
    with processes(str(named[0].device), run.timeout_seconds) as team:
        folder = _folder_of(run, team)
        folder.look()  # an early word; what counts is the second look, when nobody else may change the folder
        data = _read_data(images, given, test, config, folder, run.progress)
        with folder.claimed(team):
            folder.check()
            task = _prepare(data, named, config, run, strict, team, base, wished)
            finished = folder.finished(task.record, team)
            if finished is not None:
                return finished
            with catch_signals(folder.path) as stop:
                first = named[0].config if isinstance(named[0], Encoder) else named[0]
                repeats = first if repeatable else None
                session = _open(task, folder, repeats, own, stop)
                with folder.resumable():
                    _loop(session)
                    # Still with the signals deferred: a run whose steps are done is finished, not interrupted.
                    return _finish(session)


# ---------------------------------------------------------------------------------------------------
# Prepare: everything is checked, nothing is written


@dataclass(frozen=True)
class _Task:
    """A run that may begin.

    Attributes:
        config: Method and settings, resolved.
        run: When to look and to save.
        data: The real images, or their statistics.
        encoders: The frozen encoders.
        record: What will be written of the run.
        features: Where features come from.
        team: The processes that share the run.
        base: The set that the run goes on from, if it does.
    """

    config: DistillConfig
    run: RunConfig
    data: _Data
    encoders: list[Encoder]
    record: RunRecord
    features: FeatureStore
    team: Processes
    base: Base | None = None


@dataclass(frozen=True)
class _Data:
    """The real images of a run, or their statistics.

    Attributes:
        spec: The options that open the images, or the test images; ``None`` if there are none.
        train: Real training images; ``None`` where there are statistics in place of them.
        test: Real test images, if there are any.
        statistics: The statistics, merged for each encoder.
        files: The statistics as they were named; ``None`` for loaded ones.
    """

    spec: ImagesConfig | None
    train: LabelledImages | None
    test: LabelledImages | None
    statistics: tuple[ClassStatistics, ...] = ()
    files: StatisticsConfig | None = None


def _read_data(
    images: Data,
    statistics: tuple[ClassStatistics, ...],
    test: LabelledImages | ImagesConfig | None,
    config: DistillConfig,
    folder: NoFolder,
    progress: bool,
) -> _Data:
    held_out = load_splits(test, progress=progress)[1] if isinstance(test, ImagesConfig) else test
    if not isinstance(images, (str, ImagesConfig, LabelledImages)):
        spec = test if isinstance(test, ImagesConfig) else None
        files = images if isinstance(images, StatisticsConfig) else None
        return _Data(spec, None, held_out, statistics, files)
    data = _Data(*_load_images(images, held_out, progress))
    if data.train is not None:
        _check_counts(data.train, config)
        if folder.path is not None:
            check_outside(folder.path, data.train)
    return data


def _prepare(
    data: _Data,
    named: list[EncoderConfig | Encoder],
    config: DistillConfig,
    run: RunConfig,
    strict: bool,
    team: Processes,
    base: Base | None,
    wished: DistillConfig,
) -> _Task:
    encoders = _load_encoders(named)
    config = suited(config, wished, encoders)
    for line in without_effect(config, wished, encoders) if base is None else []:
        warnings.warn(f"without effect: {line}", stacklevel=4)
    if data.statistics:
        data = replace(data, statistics=tuple(statistics_for(encoders, data.statistics)))
    record = _describe(config, encoders, data)
    if base is not None:
        record = replace(record, base=base.record, forgotten=base.forgotten, begun_from=base.begun_from)
    _check_same_data(team, record)
    features = FeatureStore(run.cache, strict, run.progress and team.is_first, team)
    return _Task(config, run, data, encoders, record, features, team, base)


def _check_run(run: RunConfig) -> None:
    if not run.timeout_seconds > 0:
        raise UserError(f"timeout_seconds {run.timeout_seconds} must be more than 0")
    for name in ("checkpoint_seconds", "evaluate_every"):
        if not (getattr(run, name) or 0) >= 0:  # NaN would never save
            raise UserError(f"{name} {getattr(run, name)} must be 0 or more")


def _folder_of(run: RunConfig, team: Processes) -> NoFolder:
    """The folder that a run writes into; after a restart by torchrun, what the launch has begun goes on."""
    if run.out is None:
        return NoFolder()
    path, resume, overwrite = Path(run.out), run.resume, run.overwrite
    if team.restarted and not resume:
        resume = not overwrite or bool(team.largest(int(team.is_first and begun_by_this_launch(path))))
        overwrite = not resume
    return RunFolder(path, resume=resume, overwrite=overwrite)


def _name_encoders(
    encoder: str | EncoderConfig | Encoder | Sequence[str | EncoderConfig | Encoder], config: DistillConfig
) -> tuple[list[EncoderConfig | Encoder], DistillConfig, bool]:
    """All encoders of a run; the config with further ones and weights written out; whether it can repeat the run."""
    given = [*several_encoders(encoder), *config.also]
    if not given:
        raise UserError("encoder [] names none; give at least one")
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
    return named, replace(config, also=words, encoder_weights=weights), len(words) == count - 1


def _load_images(
    images: str | ImagesConfig | LabelledImages, test: LabelledImages | None, progress: bool
) -> tuple[ImagesConfig | None, LabelledImages, LabelledImages | None]:
    if isinstance(images, LabelledImages):
        return images.config, images, test
    config = ImagesConfig(images=images) if isinstance(images, str) else images
    if test is not None:
        return config, load_images(config, min_per_class=2, progress=progress), test
    return config, *load_splits(config, progress=progress)


def _load_encoders(named: list[EncoderConfig | Encoder]) -> list[Encoder]:
    pool = EncoderPool(named, argument="encoder", room=None, once="name it once and give it more encoder_weights")
    for encoder in pool:
        if encoder.device != pool[0].device:
            raise UserError(
                f"encoder {encoder.name!r} is on device {str(encoder.device)!r}, {pool[0].name!r} on "
                f"{str(pool[0].device)!r}; load them on one device"
            )
        encoder.check_gradient()
    return list(pool)


# ---------------------------------------------------------------------------------------------------
# Open: the folder, and from features and checkpoint the engine


@dataclass
class _Session:
    """A run that is under way.

    Attributes:
        task: What it is.
        folder: Where it is kept.
        distiller: The engine.
        history: What was recorded so far.
        test: Features of the test images, for the accuracy along the way.
        skipped: Real images that could not be read.
        told: Who is told of it.
        stop: Whether a signal came.
    """

    task: _Task
    folder: NoFolder
    distiller: Distiller
    history: History
    test: FeatureBank | None
    skipped: tuple[str, ...]
    told: Callback
    stop: Stop


def _open(
    task: _Task, folder: NoFolder, repeats: EncoderConfig | None, own: Sequence[Callback], stop: Stop
) -> _Session:
    config, features, encoders = task.config, task.features, task.encoders
    data = task.data
    inner = inner_layers(config, encoders, partial(_bank, task))
    banks = _banks(task)
    test = None
    if data.test is not None and task.run.evaluate_every != 0:
        test = features.of(encoders[0], data.test.with_classes(task.record.class_names))
    if task.base is not None:
        task.base.prepare(encoders, features, config)
    real = data.statistics or banks
    shown = task.run.progress and task.team.is_first
    checkpoint = folder.checkpoint(task.record)
    distiller = make_distiller(
        config, encoders, real, data.train, task.team, task.base, inner, fill=checkpoint is None, progress=shown
    )
    for deep in inner:
        if deep is not None:
            features.release(deep.encoder)  # the objective has taken what it needs
    step = checkpoint.step if checkpoint is not None else 0
    if not task.team.agree(step):  # and everyone has looked before anyone changes the folder
        raise UserError(
            f"out {str(folder.path)!r} is not the same folder for all processes (this one goes on from "
            f"step {step}); put it on a file system that every machine sees"
        )
    if task.team.is_first:
        folder.start(task.record, data.spec, repeats, step, data.files)
    stop.defer = True
    history = History(tower_losses=[[] for _ in encoders])
    if checkpoint is not None:
        distiller.load_state(checkpoint.tensors, checkpoint.about.engine)
        history = checkpoint.about.history
    told = Callbacks(_callbacks(task, folder, own) if task.team.is_first else [])
    skipped = tuple(banks[0].skipped) if banks else ()
    return _Session(task, folder, distiller, history, test, skipped, told, stop)


def _banks(task: _Task) -> list[FeatureBank]:
    """Each encoder's features of the real images; none where there are only statistics."""
    return [_bank(task, encoder) for encoder in task.encoders] if task.data.train is not None else []


def _bank(task: _Task, encoder: Encoder) -> FeatureBank:
    """An encoder's features of the real images."""
    train, config = task.data.train, task.config
    assert train is not None
    return task.features.of(encoder, train, views=config.real_view_count, augment=config.augment, seed=config.seed)


def _callbacks(task: _Task, folder: NoFolder, own: Sequence[Callback]) -> list[Callback]:
    of_folder = [Pictures(folder.path), ProgressFile(folder.path)] if folder.path is not None else []
    return [*of_folder, Bar(task.run.progress), Forecast(task.run.progress), Growing(task.run.progress), *own]


# ---------------------------------------------------------------------------------------------------
# Loop: step, look, save, stop


@dataclass(frozen=True)
class Wish:
    """What a process, or all of them together, want after a step.

    Attributes:
        stop: The signal that stops the run, if one came.
        save: Whether it is time to save.
    """

    stop: int | None
    save: bool

    def shared(self, team: Processes) -> Wish:
        """The wish of all processes: a signal to one stops all of them, and one clock says when to save."""
        number = team.largest(2 * (self.stop or 0) + self.save)
        return Wish(number // 2 or None, bool(number))


def _loop(session: _Session) -> None:
    distiller, history, told, run = session.distiller, session.history, session.told, session.task.run
    steps = distiller.steps
    every = max(1, steps // 10) if run.evaluate_every is None else run.evaluate_every
    told.on_start(Start(session.task.record, session.folder.path, distiller.step_count, steps, history))
    try:
        if distiller.step_count == 0:
            _look(session)
        mark = saved = time.monotonic()
        while distiller.step_count < steps:
            _step(session)
            now = time.monotonic()
            history.seconds += now - mark
            done = distiller.step_count
            told.on_step(_told_of(distiller, history))
            if done == steps or (every > 0 and done % every == 0):
                _look(session)
            due = session.task.team.is_first and time.monotonic() - saved > run.checkpoint_seconds
            wish = Wish(session.stop.number, due and done < steps).shared(session.task.team)
            if wish.save:
                session.folder.save(session.task.record, distiller, history)
                saved = time.monotonic()
            if wish.stop is not None and done < steps:  # with all steps done the run is finished, not interrupted
                raise Interrupted(wish.stop, session.folder.path)
            mark = time.monotonic()  # looking and saving are not part of the method's cost
        session.folder.save(session.task.record, distiller, history)
    finally:
        told.on_end(End(distiller.step_count, distiller.step_count == steps, history))


def _step(session: _Session) -> None:
    """Do a step and record it; if its loss is not finite, the state before it is kept."""
    try:
        loss = float(session.distiller.step())
    except NonFiniteLossError as error:
        session.folder.save(session.task.record, session.distiller, session.history)
        folder = session.folder.path
        kept = f"; the last good state is in {folder / CHECKPOINTS}" if folder is not None else ""
        raise NonFiniteLossError(
            f"{error}{kept}; start again with a smaller {option('lr')} or {option('precision', 'fp32')}"
        ) from None
    session.history.losses.append(loss)
    for values, value in zip(session.history.tower_losses, session.distiller.losses.tolist(), strict=True):
        values.append(value)


def _told_of(distiller: Distiller, history: History) -> Step:
    """The step that was just done."""
    losses = tuple(values[-1] for values in history.tower_losses)
    done = distiller.step_count
    return Step(done, history.losses[-1], losses, distiller.loop.lr_at(done - 1), history)


def _look(session: _Session) -> None:
    """Show the images as they are now, and after step 0 measure them."""
    distiller, names = session.distiller, session.task.record.class_names
    images, labels = distiller.images_on_first(), distiller.labels
    if not session.task.team.is_first:
        return
    if session.task.base is not None:
        images, labels = session.task.base.with_fixed(images, labels)
    images, accuracy = as_shipped(images), None
    if session.test is not None and distiller.step_count:
        accuracy = _quick_accuracy(session.task.encoders[0], images, labels, session.test)
        session.history.accuracy.append((distiller.step_count, accuracy))
    titles = tuple(names[label] for label in labels.tolist())
    session.told.on_preview(Preview(distiller.step_count, images, titles, accuracy, session.history))


def _quick_accuracy(encoder: Encoder, images: Tensor, labels: Tensor, test: FeatureBank) -> float:
    """Accuracy of a ridge probe on the centre view of the 8-bit images: the number shown along the way."""
    probe = LinearProbe("ridge").fit(encode(encoder, images), labels.cpu())
    right = sum(int((probe.predict(real) == y.numpy()).sum()) for real, y in test.blocks(views="centre"))
    return right / len(test)


# ---------------------------------------------------------------------------------------------------
# Finish: the set, with what it was asked to take along


def _finish(session: _Session) -> DistilledSet:
    task, distiller = session.task, session.distiller
    record = replace(
        with_history(task.record, session.history),
        micro_batch=tuple(memory.size for memory in distiller.memory),  # "auto" went by the memory that was free
        skipped=session.skipped,
    )
    synthetic, labels = distiller.images().float().cpu(), distiller.labels.cpu()
    if task.base is not None:
        synthetic, labels = task.base.with_fixed(synthetic, labels)
    distilled = DistilledSet(synthetic, labels, record.class_names, record)
    config = task.config
    if task.data.train is None and config.keep_head:
        distilled = replace(distilled, head=head_of_statistics(task.data.statistics[0]))
    elif config.soft_labels != "none" or config.keep_head:
        from ..ship.labels import with_extras

        distilled = with_extras(
            distilled, task.encoders[0], _banks(task)[0], soft_labels=config.soft_labels, keep_head=config.keep_head,
            augment=config.augment, seed=config.seed,
        )  # fmt: skip
    if task.team.is_first:
        statistics = _kept_statistics(session) if config.keep_stats else []
        session.folder.finish(distilled, statistics, held_out_names(task.data.test))
    task.team.wait()
    return distilled


def _kept_statistics(session: _Session) -> list[ClassStatistics]:
    """The statistics of each encoder's real features, which the run keeps."""
    task, config, path = session.task, session.task.config, session.folder.path
    if task.data.train is None:
        return list(task.data.statistics)
    return [
        class_statistics(
            encoder, task.data.train, name=path.name if path is not None else "images", views=config.real_view_count,
            augment=config.augment, seed=config.seed, features=task.features,
        )
        for encoder in task.encoders
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------
# What a run is


def _check_same_data(team: Processes, about: RunRecord) -> None:
    """Raise `UserError` where the processes see other data or settings: their parts would not fit together."""
    shared = as_plain((about.config, about.encoders, about.images, about.class_names, about.base))
    digest = hashlib.sha256(json.dumps(shared).encode()).digest()
    if not team.agree(int.from_bytes(digest[:7], "big")):
        raise UserError(
            "the processes of this run see different images, encoders or settings; give every machine the same ones"
        )


def _describe(config: DistillConfig, encoders: list[Encoder], data: _Data) -> RunRecord:
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
            "timm": version("timm"),  # without importing it: an encoder of one's own does not need it
        },
        device=str(encoders[0].device),
        test=ImagesRecord.of(data.test) if data.test is not None else None,
        begun_from=config.canvas.init or "noise",
        statistics=tuple(one.about for one in data.statistics),
    )


def _check_counts(train: LabelledImages, config: DistillConfig) -> None:
    check_class_names(train.class_names, f"images {train.spec!r}")
    if len(train.class_names) < 2:
        raise UserError(
            f"{train.spec!r} has the class {train.class_names[0]!r} alone; give images of at least 2 classes"
        )
    least = max(2, config.images_per_class if config.canvas.from_photos else 2)
    for name, count in zip(train.class_names, train.counts().tolist(), strict=True):
        if count < least:
            raise UserError(
                f"class {name!r} of {train.spec!r} has {counted(count, 'image')}; each class needs at least "
                f"{least}: add images or leave the class out with {option('classes')}"
            )
