"""The content of a run's folder, as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import DistillConfig, EncoderConfig, ImagesConfig
from ..distillation.folder import newest_checkpoint
from ..encoders.trust import read_yaml
from ..errors import option
from ..images.entries import own_files
from ..methods import METHODS, flattened
from ..registry import OWN
from ..show.tables import Table
from ..store.distilled import DistilledSet
from ..store.layout import CONFIG, IMAGES, STATISTICS
from ..store.named import run_folder
from ..store.run_record import BEGINNINGS, ImagesRecord, RunRecord
from ..text import counted, duration
from .watch import read_run_in

_MOST_CLASSES = 12  # classes that are named
_ELSEWHERE = ("method", "preset", "aim", "steps", "seed", "also", "encoder_weights", "micro_batch")
"""Settings that have their own row in the table, or that change no result."""
_SHOWN = ("classes", "input_size", "precision")  # options of images and encoders


def run_info(folder: Path | str) -> Table:
    """Return what made a run, its progress, and what it made.

    Args:
        folder: A run's folder, finished or not.

    Raises:
        UserError: No such folder, a folder without a run, or a damaged run.
    """
    folder = run_folder(folder)
    run = read_run_in(folder)
    now = _result(folder, run) if run.finished else _unfinished(folder, run)
    return Table("", ("what", "of this run"), (*_made_by(run, _of_config_file(folder)), *now), left=2)


def _made_by(run: RunRecord, options: Mapping[str, str]) -> list[tuple[str, str]]:
    config, images = run.config, run.images
    weighted = len({encoder.weight for encoder in run.encoders}) > 1
    encoders = [
        f"{encoder} ({encoder.fingerprint[:12]}), {encoder.dim:,} features"
        + (f", {encoder.precision}" if encoder.precision != "fp32" else "")
        + (f", weight {encoder.weight:g}" if weighted else "")
        for encoder in run.encoders
    ]
    loaded, read = (f", {options[name]}" if options[name] else "" for name in ("encoder", "images"))
    if encoders:
        encoders[0] += loaded + (", as stated when the set was imported" if run.made_elsewhere else "")
    parts = "\nparts: " + ", ".join(part.name for part in run.statistics[0].parts) if run.statistics else ""
    skipped = f", {len(run.skipped)} of them skipped as unreadable" if run.skipped else ""
    more = ", …" if len(run.class_names) > _MOST_CLASSES else ""
    aim = f", aim {config.aim}" if config.aim != "home" else ""
    made = f"{run.method}, preset {config.preset}{aim}, {counted(config.steps, 'step')}, seed {config.seed}"
    if run.baseline is not None:
        made = f"none: real images, chosen by {run.baselines}, seed {config.seed}"
    elif run.parts:
        made = f"{run.method}, each part separately"
    elif run.made_elsewhere:
        made = "unknown: another program made the images"
    rows = [
        ("method", made),
        ("options", _changed(run)),
        ("began as", BEGINNINGS.get(run.begun_from, "")),
        ("encoder", "\n".join(encoders)),
        ("images", f"{_named(images)}{read}{skipped}{parts}"),
        ("held out", "" if run.test is None else _named(run.test)),
        ("privacy", str(run.privacy or "")),
        ("classes", f"{len(run.class_names)}: " + ", ".join(run.class_names[:_MOST_CLASSES]) + more),
        *_history(run),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
    ]
    return [row for row in rows if row[1]]


def _named(images: ImagesRecord) -> str:
    return f"{images.spec} ({images.split}), {counted(images.count, 'image')}"


def _changed(run: RunRecord) -> str:
    """The settings that differ from the defaults of the run's method and preset."""
    config = run.config
    if not run.optimised or run.parts:
        return ""
    # All users' own methods have the same defaults, so this also works if the method's package is not installed.
    method = config.method if config.method in METHODS.built_in else f"{OWN}{config.method}"
    usual = DistillConfig.of(method=method, preset=config.preset, aim=config.aim).resolve()
    return _words(config.to_dict(), usual.to_dict(), leave_out=_ELSEWHERE)


def _of_config_file(folder: Path) -> dict[str, str]:
    """Image and encoder options in a run's config.yaml, without their names; empty if there is no such file."""
    path = folder / CONFIG
    content = read_yaml(path, f"config {str(path)!r}") if path.is_file() else {}
    parts = {"encoder": vars(EncoderConfig(encoder="")), "images": vars(ImagesConfig(images=""))}
    return {
        name: _words({key: content[key] for key in usual if key in content}, usual, (name, *_SHOWN))
        for name, usual in parts.items()
    }


def _words(values: Mapping[str, Any], usual: Mapping[str, Any], leave_out: tuple[str, ...]) -> str:
    """Options that differ from ``usual``, with their names on the command line: ``layers 3, canvas.init real``."""
    flat, others = flattened(values), flattened(usual)
    return ", ".join(
        f"{name} {_word(value)}" for name, value in flat.items() if name not in leave_out and others.get(name) != value
    )


def _word(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)  # as in a YAML file


def _history(run: RunRecord) -> list[tuple[str, str]]:
    """How the set was made from other sets."""
    rows = []
    if run.parts:
        lines = [
            f"{part.name}: {counted(len(part.class_names), 'class', 'classes')} of {part.images.spec}, "
            + (
                f"{part.method}, {counted(part.steps, 'step')}, seed {part.seed}"
                if part.steps
                else "not distilled here"
            )
            for part in run.parts
        ]
        rows.append(("merged from", "\n".join(lines)))
    if run.base is not None:
        base = run.base
        rows.append(
            (
                "continues from",
                f"{base.name}: {base.fixed} images fixed, {base.refined} refined, {base.dropped} replaced",
            )
        )
    if run.forgotten:
        rows.append(("forgotten", ", ".join(run.forgotten)))
    if run.renamed:
        rows.append(("renamed", ", ".join(f"{old} → {new}" for old, new in run.renamed)))
    return rows


def _unfinished(folder: Path, run: RunRecord) -> list[tuple[str, str]]:
    if run.export is not None:
        return [("state", "an export that was stopped before it was complete; repeat its command")]
    checkpoint = newest_checkpoint(folder)
    done = checkpoint.about.engine["step"] if checkpoint else 0
    again = f"repeat its command with {option('resume', True)}"
    return [("state", f"not finished: {done} of {counted(run.config.steps, 'step')} saved; {again}")]


def _result(folder: Path, run: RunRecord) -> list[tuple[str, str]]:
    distilled = DistilledSet.load(folder)
    files = [file for file in own_files(folder / IMAGES) if file.parent.parent == folder / IMAGES]
    kib, kind = sum(file.stat().st_size for file in files) / 1024, files[0].suffix[1:].upper()
    rows = [
        ("state", f"finished in {duration(run.seconds)} on {run.device}" if not run.made_elsewhere else "whole"),
        ("result", f"{len(distilled)} images of {distilled.float_images.shape[-1]} px, {kib:.0f} KiB as {kind}"),
    ]
    if run.export is not None:
        known = {name: getattr(run.export, name) for name in ("format", "quality", "image_size")}
        rows.append(("export", ", ".join(f"{name} {value}" for name, value in known.items() if value)))
    if distilled.soft_labels is not None:
        kept = distilled.run.soft_labels
        rows.append(("soft labels", kept.kind if kept is not None else "of unknown origin"))
    if distilled.head is not None:
        rows.append(("head", f"of {distilled.head.encoder}, {distilled.head.num_bytes:,} bytes"))
    statistics = len(list(folder.glob(STATISTICS)))
    if statistics:
        rows.append(("statistics", f"kept of the photos' features, for {counted(statistics, 'encoder')}"))
    if run.losses:
        rows.append(("loss", f"{run.losses[0]:.4f} → {run.losses[-1]:.4f}"))
    if run.accuracy:
        last = (f"step {step}: {100 * value:.1f}%" for step, value in run.accuracy[-3:])
        rows.append(("probe accuracy", ", ".join(last)))
    return rows
