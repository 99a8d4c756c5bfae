"""How the runs in a report were made: what they share, and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..images.entries import own_files
from ..show.tables import NOTHING, Table
from ..store.layout import IMAGES, METADATA, OLD_METADATA
from ..store.run_record import differs
from ..text import counted, duration
from .gather import ShownRun

_IN_THE_SUMMARY = ("method", "steps", "images_per_class")  # settings that `runs_table` has columns for


def runs_table(runs: Sequence[ShownRun]) -> Table:
    """One row per run: how it was made, and its progress."""
    rows = []
    for run in runs:
        config, progress = run.about.config, run.progress
        state = "finished" if run.finished else f"step {progress.step:,} of {progress.steps:,}"
        encoders = ", ".join(map(str, run.about.encoders)) or NOTHING
        steps = progress.steps if run.finished else config.steps
        numbers = (f"{config.images_per_class:,}", f"{steps:,}" if steps else NOTHING)
        rows.append((run.name, run.about.method, encoders, state, *numbers, f"{progress.seconds:,.0f}"))
    columns = ("run", "method", "encoder", "state", "images per class", "steps", "seconds")
    return Table("", columns, tuple(rows), left=4)


def differences(runs: Sequence[ShownRun]) -> Table | None:
    """The settings in which runs differ, a row for each; ``None`` if there are none, or only one run."""
    settings = [{name: _text(value) for name, value in run.about.settings().items()} for run in runs]
    names = [name for name in dict.fromkeys(n for s in settings for n in s) if name not in _IN_THE_SUMMARY]
    rows = [(name, *(s.get(name, NOTHING) for s in settings)) for name in names if differs(name, settings)]
    facts = [dict(_facts(run)) for run in runs]
    rows += [(name, *(fact.get(name, NOTHING) for fact in facts)) for name in ("real images", "device", "versions")]
    different = tuple(row for row in rows if len(set(row[1:])) > 1)
    return Table("", ("setting", *(run.name for run in runs)), different, left=len(runs) + 1) if different else None


def facts(runs: Sequence[ShownRun]) -> tuple[list[tuple[str, str]], list[list[tuple[str, str]]]]:
    """(name, text) of what made the runs: facts that all share, and the other facts of each."""
    every = [_facts(run) for run in runs]
    shared = [fact for fact in every[0] if all(fact in of_run for of_run in every[1:])]
    own = [
        [*_state(run), *(fact for fact in of_run if fact not in shared)]
        for run, of_run in zip(runs, every, strict=True)
    ]
    return shared, own


def _state(run: ShownRun) -> list[tuple[str, str]]:
    state = "finished" if run.finished else "not finished"
    if run.progress.steps:  # sets of real images, and imported sets, have no steps
        state += f": {run.progress.reached()}, {duration(run.progress.seconds)}"
    found = [("state", state)]
    if run.pixels is not None:
        files = own_files(run.folder / IMAGES)
        kib = sum(path.stat().st_size for path in files if path.name not in (METADATA, OLD_METADATA)) / 1024
        side = run.pixels.shape[1]
        what = "distilled images" if run.about.baseline is None else "shipped images"
        found.append((what, f"{len(run.pixels):,} of {side} × {side} px, {kib:,.0f} KiB"))
    return found


def _facts(run: ShownRun) -> list[tuple[str, str]]:
    about, images = run.about, run.about.images
    made = f"{about.method}, preset {about.config.preset}, {counted(about.config.steps, 'step')}"
    found = [
        ("method", made if about.baseline is None else f"none: real images, chosen by {about.baselines}"),
        ("seed", str(about.config.seed)),
    ]
    if about.made_elsewhere:
        found = [("method", "unknown: another program made the images")]
    for number, encoder in enumerate(about.encoders, 1):
        which = f" {number}" if len(about.encoders) > 1 else ""
        found.append((f"encoder{which}", f"{encoder}, {encoder.precision}, fingerprint {encoder.fingerprint}"))
    return [
        *found,
        ("real images", f"{images.count} of {images.spec} ({images.split})"),
        ("fingerprint of real images", images.fingerprint),
        ("versions", ", ".join(f"{name} {version}" for name, version in about.versions.items())),
        ("device", about.device),
    ]


def _text(value: Any) -> str:
    if value is None:
        return NOTHING
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
