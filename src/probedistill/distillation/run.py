"""A distillation from labelled images to a `DistilledSet`, in four parts: prepare, open, loop, finish.

The engine does the steps; this module decides when to make previews, save and stop. `prepare` checks everything and
writes nothing, `folder` knows what is written where, and `callbacks` are notified.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Unpack

from torch import Tensor

from ..config import DistillConfig, EncoderConfig, ImagesConfig, RunConfig
from ..encoders.encoder import Encoder
from ..errors import NonFiniteLossError, UserError, option
from ..features.bank import FeatureBank
from ..features.encode import encode
from ..features.statistics import ClassStatistics
from ..features.summed import class_statistics
from ..images.labelled import LabelledImages
from ..images.splits import held_out_names
from ..machine.processes import Processes, processes
from ..machine.signals import Interrupted, Stop, catch_signals
from ..machine.torch_state import own_torch_state
from ..probes.linear import LinearProbe
from ..ship.heads import head_of_statistics
from ..store.distilled import DistilledSet
from ..store.layout import CHECKPOINTS
from ..store.pixels import as_shipped
from ..store.run_record import History, with_history
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
    checked_callbacks,
    named_callbacks,
)
from .engine import Distiller
from .folder import NoFolder
from .from_statistics import read_statistics, settled
from .objective import inner_layers, load_method
from .options import DistillOptions, with_options
from .prepare import Data, Task, check_run, folder_of, name_encoders, prepare, read_data
from .start import make_distiller


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
        images: Real training images: a spec string, a config, or loaded images. With a spec, the test split (or a
            held-out part) provides the probe accuracy shown during the run. Or statistics of images, of any number of
            parties and for each encoder; `RealMoments` then draws features from them.
        encoder: The frozen encoder, its config, or its name (`encoder_config`). With a sequence, the loss is the sum
            over the encoders, weighted by ``encoder_weights``, and the images have the size of the largest input.
            ``config.also`` names further encoders.
        config: Method and settings; ``options`` override its fields or those of ``run``. Without a config, ``options``
            are those of `DistillConfig.of`, which accepts ``preset="paper"``.
        test: Test images for the accuracy during the run, if ``images`` are loaded images or statistics.
        run: Output folder, resuming, checkpoints. Without ``out``, nothing is written.
        callbacks: Further callbacks (`Callback`).
        strict: Raise on unreadable images instead of leaving them out with a warning.
        base: A set that the run continues from; used by `extend` and `forget`.

    Returns:
        The synthetic images, also saved in ``out``. Equal inputs and seed give equal images: bit-identical on the CPU
        with the same number of threads, processes and views in a micro-batch (``"auto"`` depends on free memory). This
        includes runs that were interrupted and resumed, which keep their micro-batch.

    Raises:
        UserError: Bad input; nothing has been written.
        NonFiniteLossError: The loss became NaN or infinite; the last good state is in ``checkpoints/``.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the state has been saved.
    """
    run, config = with_options(run or RunConfig(), config, dict(options))
    given = () if isinstance(images, (str, ImagesConfig, LabelledImages)) else read_statistics(images)
    wished = config
    named, config, repeats = name_encoders(encoder, settled(config, given) if given else config.resolve())
    load_method(config)  # an early error if a user's own method is missing or lacks these options
    check_run(run)
    own = [*checked_callbacks(callbacks), *named_callbacks(run.log, run.callback)]
    with processes(str(named[0].device), run.timeout_seconds) as team:
        folder = folder_of(run, team)
        folder.look()  # for an early error; only the check below, in the claimed folder, is reliable
        data = read_data(images, given, test, config, folder, run.progress)
        with folder.claimed(team):
            folder.check()
            task = prepare(data, named, config, run, strict, team, base, wished)
            finished = folder.finished(task.record, team)
            if finished is not None:
                return finished
            with catch_signals(folder.path) as stop:
                session = _open(task, folder, repeats, own, stop)
                with folder.resumable():
                    _loop(session)
                    # Signals are still deferred: a run whose steps are done is finished, not interrupted.
                    return _finish(session)


# ---------------------------------------------------------------------------------------------------
# Open: the folder, and from features and checkpoint the engine


@dataclass
class _Session:
    """A running distillation.

    Attributes:
        task: What was prepared.
        folder: Where it is saved.
        distiller: The engine.
        history: What was recorded so far.
        test: Features of the test images, for the accuracy during the run.
        skipped: Real images that could not be read.
        told: The callbacks.
        stop: Whether a signal was received.
    """

    task: Task
    folder: NoFolder
    distiller: Distiller
    history: History
    test: FeatureBank | None
    skipped: tuple[str, ...]
    told: Callback
    stop: Stop


def _open(task: Task, folder: NoFolder, repeats: EncoderConfig | None, own: Sequence[Callback], stop: Stop) -> _Session:
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
            features.release(deep.encoder)  # the objective has already read them
    step = checkpoint.step if checkpoint is not None else 0
    if not task.team.agree(step):  # all processes must have read the folder before one of them changes it
        raise UserError(
            f"out {str(folder.path)!r} is not the same folder for all processes (this one continues from "
            f"step {step}); put it on a file system that every machine sees"
        )
    if task.team.is_first:
        folder.start(task.record, data.spec, repeats, step, data.files)
    stop.defer = True
    history = History(tower_losses=[[] for _ in encoders])
    if checkpoint is not None:
        try:
            distiller.load_state(checkpoint.tensors, checkpoint.about.engine)
        except (ValueError, IndexError) as error:
            raise UserError(
                f"the checkpoint of step {step} in {str(folder.path)!r} is damaged ({error}); start again with "
                f"{option('overwrite', True)}"
            ) from error
        history = checkpoint.about.history
    told = Callbacks(_callbacks(task, folder, own) if task.team.is_first else [])
    skipped = tuple(banks[0].skipped) if banks else ()
    return _Session(task, folder, distiller, history, test, skipped, told, stop)


def _banks(task: Task) -> list[FeatureBank]:
    """Each encoder's features of the real images; empty if there are only statistics."""
    return [_bank(task, encoder) for encoder in task.encoders] if task.data.train is not None else []


def _bank(task: Task, encoder: Encoder) -> FeatureBank:
    """An encoder's features of the real images."""
    train, config = task.data.train, task.config
    assert train is not None
    return task.features.of(encoder, train, views=config.real_view_count, augment=config.augment, seed=config.seed)


def _callbacks(task: Task, folder: NoFolder, own: Sequence[Callback]) -> list[Callback]:
    of_folder = [Pictures(folder.path), ProgressFile(folder.path)] if folder.path is not None else []
    return [*of_folder, Bar(task.run.progress), Forecast(task.run.progress), Growing(task.run.progress), *own]


# ---------------------------------------------------------------------------------------------------
# Loop: step, look, save, stop


@dataclass(frozen=True)
class Wish:
    """What one process, or all of them together, want after a step.

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


_PAUSE = 30.0  # seconds between two checkpoints
_SHARE = 1 / 20  # share of the time for checkpoints: for a thousand classes at 224 px each has 2.4 GB


def _loop(session: _Session) -> None:
    distiller, history, told, run = session.distiller, session.history, session.told, session.task.run
    steps = distiller.steps
    every = max(1, steps // 10) if run.evaluate_every is None else run.evaluate_every
    pause = _PAUSE if run.checkpoint_seconds is None else run.checkpoint_seconds
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
            told.on_step(_last_step(distiller, history))
            if done == steps or (every > 0 and done % every == 0):
                _look(session)
            due = session.task.team.is_first and time.monotonic() - saved > pause
            wish = Wish(session.stop.number, due and done < steps).shared(session.task.team)
            if wish.save:
                began = time.monotonic()
                session.folder.save(session.task.record, distiller, history)
                saved = time.monotonic()
                if run.checkpoint_seconds is None:
                    pause = max(_PAUSE, (saved - began) / _SHARE)
            if wish.stop is not None and done < steps:  # else the run is finished, not interrupted
                raise Interrupted(wish.stop, session.folder.path)
            mark = time.monotonic()  # previews and checkpoints do not count as the method's time
        session.folder.save(session.task.record, distiller, history)
    finally:
        told.on_end(End(distiller.step_count, distiller.step_count == steps, history))


def _step(session: _Session) -> None:
    """Do a step and record it; if its loss is not finite, save the state before it."""
    try:
        loss = float(session.distiller.step())
    except NonFiniteLossError as error:
        session.folder.save(session.task.record, session.distiller, session.history)
        folder = session.folder.path
        kept = f"; the last good state is in {folder / CHECKPOINTS}" if folder is not None else ""
        way_out = f"start again with a smaller {option('lr')} or {option('precision', 'fp32')}"
        if not session.distiller.step_count:  # at the first step, the learning rate has had no effect
            way_out = f"look at the images and the encoder, or start again with {option('precision', 'fp32')}"
        raise NonFiniteLossError(f"{error}{kept}; {way_out}") from None
    session.history.losses.append(loss)
    for values, value in zip(session.history.tower_losses, session.distiller.losses.tolist(), strict=True):
        values.append(value)


def _last_step(distiller: Distiller, history: History) -> Step:
    """The step that was just done."""
    losses = tuple(values[-1] for values in history.tower_losses)
    done = distiller.step_count
    return Step(done, history.losses[-1], losses, distiller.loop.lr_at(done - 1), history)


def _look(session: _Session) -> None:
    """Show the images as they are now and, after step 0, measure their accuracy."""
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
    """Accuracy of a ridge probe on the centre view of the 8-bit images: the number shown during the run."""
    probe = LinearProbe("ridge").fit(encode(encoder, images), labels.cpu())
    right = sum(int((probe.predict(real) == y.numpy()).sum()) for real, y in test.blocks(views="centre"))
    return right / len(test)


# ---------------------------------------------------------------------------------------------------
# Finish: the set and its extras


def _finish(session: _Session) -> DistilledSet:
    task, distiller = session.task, session.distiller
    record = replace(
        with_history(task.record, session.history),
        finished=True,
        micro_batch=tuple(memory.size for memory in distiller.memory),  # "auto" depended on free memory
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

        # Soft labels take minutes with many classes. If the images are in a checkpoint, nobody has to wait for them.
        session.stop.defer = session.folder.path is None or task.team.count > 1
        distilled = with_extras(
            distilled, task.encoders[0], _banks(task)[0], soft_labels=config.soft_labels, keep_head=config.keep_head,
            augment=config.augment, seed=config.seed, progress=task.features.progress,
        )  # fmt: skip
        session.stop.defer = True
    if task.team.is_first:
        statistics = _kept_statistics(session) if config.keep_stats else []
        held_out, licence = held_out_names(task.data.test), None
        if task.base is not None:
            held_out, licence = list(dict.fromkeys([*task.base.held_out, *held_out])), task.base.licence
        session.folder.finish(distilled, statistics, held_out, licence)
    task.team.wait()
    return distilled


def _kept_statistics(session: _Session) -> list[ClassStatistics]:
    """The statistics of each encoder's real features, to be kept in the run."""
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
