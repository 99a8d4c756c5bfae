"""A distillation from labelled images to a `DistilledSet`, with checkpoints, previews and signals.

The engine does steps; this module decides when to save, show and stop. A run's folder holds, while it
is under way, ``run.json`` (``finished: false``), ``preview.png``, ``progress.json`` and ``checkpoints/``;
afterwards it is a distilled set. ``evolution/`` keeps what the images looked like along the way.
"""

from __future__ import annotations

import hashlib
import json
import platform
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from ..config import DistillConfig, EncoderConfig, ImagesConfig, RunConfig
from ..encoders.encoder import Encoder
from ..encoders.named import encoder_config
from ..encoders.pool import EncoderPool
from ..errors import NonFiniteLossError, UserError, unknown_name
from ..features.bank import FeatureBank
from ..features.extract import extract_features
from ..images.labelled import LabelledImages
from ..images.sources import check_outside
from ..images.splits import load_images, load_splits
from ..machine.processes import Processes, processes
from ..machine.progress import ProgressBar
from ..machine.signals import Interrupted, Stop, catch_signals
from ..machine.torch_state import own_torch_state
from ..probes.linear import LinearProbe
from ..show.previews import save_grid, save_sprite
from ..store.distilled import DistilledSet
from ..store.layout import check_class_names
from ..store.pixels import as_shipped
from ..store.records import as_plain
from ..store.run_record import EncoderRecord, History, ImagesRecord, RunRecord, with_history
from .engine import Distiller
from .folder import (
    ProgressFile,
    begun_by_this_launch,
    check_folder,
    check_same_run,
    claimed,
    newest_checkpoint,
    remove_temporary,
    resumable,
    save_checkpoint,
    start_run,
)
from .start import load_method, make_distiller

_STOP = 1000  # plus the signal's number


@own_torch_state()
def distill(
    images: str | ImagesConfig | LabelledImages,
    encoder: str | EncoderConfig | Encoder | Sequence[str | EncoderConfig | Encoder],
    config: DistillConfig | None = None,
    *,
    test: LabelledImages | None = None,
    run: RunConfig | None = None,
    strict: bool = False,
    **options: Any,
) -> DistilledSet:
    """Distil labelled images into a few synthetic ones per class.

    >>> distilled = distill("folder:photos", "efficientnet_lite0", method="sfm", out="runs/x")  # doctest: +SKIP

    Args:
        images: Real training images: a spec string, a config, or loaded images. With a spec the test
            split (or a held-out part) gives the probe accuracy that is shown along the way.
        encoder: The frozen encoder, its config, or its name in one word (`encoder_config`). With a sequence the
            loss is the sum over the encoders, weighted by ``encoder_weights``; the images are as large as the
            largest input. ``config.also`` names further ones.
        config: Method and settings; ``options`` override its fields or those of ``run``. Without it ``options`` are
            those of `DistillConfig.of`, which knows ``preset="paper"``.
        test: Test images for the accuracy along the way, when ``images`` are loaded images.
        run: Output folder, resuming, checkpoints. Without ``out`` nothing is written.
        strict: Raise on unreadable images instead of leaving them out with a warning.

    Returns:
        The synthetic images, also saved in ``out``. Equal inputs and seed give equal images, on the CPU bit for bit
        with the same number of threads, processes and views in a micro-batch (``"auto"`` goes by free memory); also
        when the run was interrupted and resumed, which goes on with the micro-batch that it had.

    Raises:
        UserError: Bad input; nothing has been written.
        NonFiniteLossError: The loss became NaN or infinite; the last good state is in ``checkpoints/``.
        Interrupted: SIGINT or SIGTERM came; the state has been saved.
    """
    run, config = _with_options(run or RunConfig(), config, options)
    named, config, repeatable = _name_encoders(encoder, config.resolve())
    load_method(config)  # a method of the user's own may not be there, or not have these options
    if not run.timeout_seconds > 0:
        raise UserError(f"timeout_seconds {run.timeout_seconds} must be more than 0")
    with processes(str(named[0].device), run.timeout_seconds) as team:
        return _distill(images, named, repeatable, config, test, run, strict, team)


def _distill(
    images: str | ImagesConfig | LabelledImages,
    named: list[EncoderConfig | Encoder],
    repeatable: bool,
    config: DistillConfig,
    test: LabelledImages | None,
    run: RunConfig,
    strict: bool,
    team: Processes,
) -> DistilledSet:
    run = replace(run, progress=run.progress and team.is_first)
    for name in ("checkpoint_seconds", "evaluate_every"):
        if (getattr(run, name) or 0) < 0:
            raise UserError(f"{name} {getattr(run, name)} must be 0 or more")
    folder = Path(run.out) if run.out is not None else None
    if folder is not None:
        if team.restarted and not run.resume:  # the same command again: what it has begun goes on
            begun = not run.overwrite or bool(team.largest(int(team.is_first and begun_by_this_launch(folder))))
            run = replace(run, resume=begun, overwrite=not begun)
        check_folder(folder, resume=run.resume, overwrite=run.overwrite)
    image_config, train, test = _load_images(images, test)
    _check_counts(train, config)
    if folder is not None:
        check_outside(folder, train)
    encoders = _load_encoders(named)
    about = _describe(config, encoders, train)
    _check_same_data(team, about)
    if folder is not None and run.resume:
        finished = check_same_run(folder, about)
        if finished is not None:
            if team.is_first:
                remove_temporary(folder)  # a kill may have come just before
                print(f"{folder} is finished already", file=sys.stderr)
            return finished

    with claimed(folder if team.is_first else None), catch_signals() as stop:
        try:
            keep: dict[str, Any] = {"cache": run.cache, "strict": strict, "progress": run.progress, "processes": team}
            views: dict[str, Any] = {"views": config.real_view_count, "augment": config.augment, "seed": config.seed}
            banks = [extract_features(encoder, train, **views, **keep) for encoder in encoders]
            test_bank = None
            if test is not None and run.evaluate_every != 0:
                test_bank = extract_features(encoders[0], test.with_classes(train.class_names), **keep)
            distiller = make_distiller(config, encoders, banks, train, team)
            checkpoint = newest_checkpoint(folder) if folder is not None and run.resume else None
            step = checkpoint.about.engine["step"] if checkpoint is not None else 0
            if not team.agree(step):  # and everyone has looked before anyone changes the folder
                raise UserError(
                    f"out {str(folder)!r} is not the same folder for all processes (this one goes on from "
                    f"step {step}); put it on a file system that every machine sees"
                )
            if folder is not None and team.is_first:
                repeats = named[0] if repeatable and isinstance(named[0], EncoderConfig) else None
                start_run(folder, about, image_config, repeats, anew=run.overwrite, step=step)
            stop.defer = True
        except KeyboardInterrupt:
            raise Interrupted(stop.number or signal.SIGINT, folder) from None
        history = History(tower_losses=[[] for _ in encoders])
        if checkpoint is not None:
            distiller.load_state(checkpoint.tensors, checkpoint.about.engine)
            history = checkpoint.about.history
            del checkpoint  # as large as the run's whole state
        with resumable(folder):
            _optimise(distiller, history, run, folder, about, test_bank, stop, team)

        # Still with the signals deferred: a run whose steps are done is finished, not interrupted.
        about = replace(
            with_history(about, history),
            micro_batch=tuple(memory.size for memory in distiller.memory),  # "auto" went by the memory that was free
            skipped=tuple(banks[0].skipped),
        )
        synthetic = distiller.images().float().cpu()
        distilled = DistilledSet(synthetic, distiller.labels.cpu(), tuple(train.class_names), about)
        if config.soft_labels != "none" or config.keep_head:
            from ..ship.labels import with_extras

            with resumable(folder):
                distilled = with_extras(
                    distilled, encoders[0], banks[0], soft_labels=config.soft_labels, keep_head=config.keep_head,
                    augment=config.augment, seed=config.seed,
                )  # fmt: skip
        if folder is not None and team.is_first:
            with resumable(folder):
                save_grid(folder / "preview.png", distilled.images, [train.class_names[i] for i in distilled.labels])
                distilled.save(folder)
            remove_temporary(folder)
        team.wait()
    return distilled


def _name_encoders(
    encoder: str | EncoderConfig | Encoder | Sequence[str | EncoderConfig | Encoder], config: DistillConfig
) -> tuple[list[EncoderConfig | Encoder], DistillConfig, bool]:
    """All encoders of a run; the config with further ones and weights written out; whether it can repeat the run."""
    given = [encoder] if isinstance(encoder, (str, EncoderConfig, Encoder)) else list(encoder)
    given += config.also
    if not given:
        raise UserError("encoder [] names none; give at least one")
    count, weights = len(given), [float(weight) for weight in config.encoder_weights]
    if weights and len(weights) != count:
        raise UserError(f"encoder_weights {weights} for {count} encoder{'s' * (count > 1)}; give one for each")
    if not weights and count > 1:
        weights = [1.0] * count
    prepared: dict[str, Any] = {"preprocess": "papers"} if config.preset == "paper" else {}
    first = encoder_config(given[0], **prepared) if isinstance(given[0], str) else given[0]
    if isinstance(first, EncoderConfig):
        prepared = {"preprocess": first.preprocess}

    def like_first(word: str) -> EncoderConfig:
        return encoder_config(word, device=str(first.device), precision=first.precision, **prepared)

    def in_one_word(other: str | EncoderConfig | Encoder) -> str | None:
        if not isinstance(other, EncoderConfig):
            return other if isinstance(other, str) else None
        word = other.encoder if other.input_size is None else f"{other.encoder}@{other.input_size}"
        return word if like_first(word) == other else None

    named = [first, *(like_first(other) if isinstance(other, str) else other for other in given[1:])]
    words = [word for word in map(in_one_word, given[1:]) if word is not None]
    return named, replace(config, also=words, encoder_weights=weights), len(words) == count - 1


def _load_images(
    images: str | ImagesConfig | LabelledImages, test: LabelledImages | None
) -> tuple[ImagesConfig | None, LabelledImages, LabelledImages | None]:
    if isinstance(images, LabelledImages):
        return None, images, test
    config = ImagesConfig(images=images) if isinstance(images, str) else images
    if test is not None:
        return config, load_images(config, min_per_class=2), test
    return config, *load_splits(config)


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
# The loop around the engine


def _optimise(
    distiller: Distiller,
    history: History,
    run: RunConfig,
    folder: Path | None,
    about: RunRecord,
    test_bank: FeatureBank | None,
    stop: Stop,
    team: Processes,
) -> None:
    steps = distiller.steps
    every = max(1, steps // 10) if run.evaluate_every is None else run.evaluate_every
    class_names = about.class_names
    note = f"probe {100 * history.accuracy[-1][1]:.1f} %" if history.accuracy else ""
    place = folder if team.is_first else None
    progress = ProgressFile(place, steps)

    def save() -> None:
        if folder is not None:
            save_checkpoint(folder, distiller, history, team)

    if distiller.step_count == 0:
        images = distiller.images_on_first()
        if place is not None:
            save_sprite(place, 0, as_shipped(images))
    progress.write(history)
    mark = saved = time.monotonic()
    with ProgressBar(f"distil {about.method}", steps, initial=distiller.step_count, enabled=run.progress) as bar:
        while distiller.step_count < steps:
            try:
                loss = float(distiller.step())
            except NonFiniteLossError as error:
                save()
                kept = f"; the last good state is in {folder / 'checkpoints'}" if folder is not None else ""
                raise NonFiniteLossError(f"{error}{kept}; start anew with a smaller --lr or --precision fp32") from None
            history.losses.append(loss)
            for values, value in zip(history.tower_losses, distiller.losses.tolist(), strict=True):
                values.append(value)
            now = time.monotonic()
            history.seconds += now - mark
            mark = now
            done = distiller.step_count
            look = done == steps or (every > 0 and done % every == 0)
            if look:
                images = as_shipped(distiller.images_on_first())
                if test_bank is not None and team.is_first:
                    history.accuracy.append((done, _quick_accuracy(distiller, images, test_bank)))
                    note = f"probe {100 * history.accuracy[-1][1]:.1f} %"
                if place is not None:
                    save_grid(place / "preview.png", images, [class_names[i] for i in distiller.labels.tolist()])
                    save_sprite(place, done, images)
            progress.write(history, at_once=look)
            bar.advance(note=f"loss {loss:.4f}  {note}")
            # A signal to one process stops all of them, and one clock says when to save.
            due = folder is not None and team.is_first and time.monotonic() - saved > run.checkpoint_seconds
            wish = team.largest(_STOP + stop.number if stop.number is not None else int(due and done < steps))
            if wish:
                save()
                saved = time.monotonic()
            if wish > _STOP and done < steps:  # with all steps done the run is finished, not interrupted
                raise Interrupted(wish - _STOP, folder)
            mark = time.monotonic()  # looking and saving are not part of the method's cost
    save()


def _check_same_data(team: Processes, about: RunRecord) -> None:
    """Raise `UserError` where the processes see other data or settings: their parts would not fit together."""
    shared = as_plain((about.config, about.encoders, about.images, about.class_names))
    digest = hashlib.sha256(json.dumps(shared).encode()).digest()
    if not team.agree(int.from_bytes(digest[:7], "big")):
        raise UserError(
            "the processes of this run see different images, encoders or settings; give every machine the same ones"
        )


def _quick_accuracy(distiller: Distiller, images: Tensor, test: FeatureBank) -> float:
    """Accuracy of a ridge probe on the centre view of the 8-bit images: the number shown along the way."""
    with torch.no_grad():
        encoder = distiller.towers[0].encoder
        features = torch.cat([encoder(part.to(distiller.device)).cpu() for part in images.split(64)])
    probe = LinearProbe("ridge").fit(features, distiller.labels.cpu())
    right = sum(int((probe.predict(real) == y.numpy()).sum()) for real, y in test.blocks(views="centre"))
    return right / len(test)


def _describe(config: DistillConfig, encoders: list[Encoder], train: LabelledImages) -> RunRecord:
    import timm
    import torchvision

    weights = config.encoder_weights or [1.0]
    return RunRecord(
        finished=False,
        config=config,
        encoders=tuple(
            EncoderRecord(
                name=encoder.name,
                fingerprint=encoder.fingerprint,
                input_size=encoder.input_size,
                dim=encoder.dim,
                precision=encoder.precision,
                weight=weight,
            )
            for encoder, weight in zip(encoders, weights, strict=True)
        ),
        images=ImagesRecord(spec=train.spec, split=train.split, count=len(train), fingerprint=train.fingerprint),
        class_names=tuple(train.class_names),
        versions={
            "probedistill": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "timm": str(timm.__version__),
        },
        device=str(encoders[0].device),
        begun_from=config.canvas.init or "noise",
    )


def _check_counts(train: LabelledImages, config: DistillConfig) -> None:
    check_class_names(train.class_names, repr(train.spec))
    if len(train.class_names) < 2:
        raise UserError(
            f"{train.spec!r} has the class {train.class_names[0]!r} alone; give images of at least 2 classes"
        )
    least = max(2, config.images_per_class if config.canvas.init == "real" else 2)
    for name, count in zip(train.class_names, train.counts().tolist(), strict=True):
        if count < least:
            raise UserError(
                f"class {name!r} of {train.spec!r} has {count} image{'s' * (count != 1)}; each class needs at least "
                f"{least}: add images or leave the class out with --classes"
            )


def _with_options(
    run: RunConfig, config: DistillConfig | None, options: dict[str, Any]
) -> tuple[RunConfig, DistillConfig]:
    run_names, config_names = RunConfig.__dataclass_fields__, DistillConfig.__dataclass_fields__
    for name in options:
        if name not in run_names and name not in config_names:
            raise unknown_name("option", name, [*config_names, *run_names])
    run = replace(run, **{k: v for k, v in options.items() if k in run_names})
    settings = {k: v for k, v in options.items() if k in config_names}
    return run, DistillConfig.of(**settings) if config is None else replace(config, **settings)
