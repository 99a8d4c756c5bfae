"""What a run's folder holds, as a table for a person."""

from __future__ import annotations

from pathlib import Path

from ..distillation.folder import newest_checkpoint
from ..errors import UserError, option
from ..show.tables import Table
from ..store.distilled import DistilledSet
from ..store.layout import RUN
from ..store.named import run_folder
from ..store.run_record import RunRecord, read_run

_MOST_CLASSES = 12  # that are named


def run_info(folder: Path | str) -> Table:
    """What made a run, how far it is, and what it made.

    Args:
        folder: A run's folder, finished or not.

    Raises:
        UserError: No such folder, one that holds no run, or a damaged run.
    """
    folder = run_folder(folder)
    if not folder.is_dir():
        raise UserError(f"no such folder {str(folder)!r}; give the folder of a run")
    if not (folder / RUN).exists():
        raise UserError(f"{str(folder)!r} holds no run; give the folder of a run")
    run = read_run(folder)
    rows = [*_made_by(run), *(_result(folder, run) if run.finished else [_unfinished(folder, run)])]
    return Table("", ("what", "of this run"), tuple(rows), left=2)


def _made_by(run: RunRecord) -> list[tuple[str, str]]:
    config, images = run.config, run.images
    weighted = len({encoder.weight for encoder in run.encoders}) > 1
    encoders = [
        f"{encoder} ({encoder.name} {encoder.fingerprint[:12]})" + (f", weight {encoder.weight:g}" if weighted else "")
        for encoder in run.encoders
    ]
    parts = "\nparts: " + ", ".join(part.name for part in run.statistics[0].parts) if run.statistics else ""
    skipped = f", {len(run.skipped)} of them left out as unreadable" if run.skipped else ""
    more = ", …" if len(run.class_names) > _MOST_CLASSES else ""
    promise = [("privacy", str(run.privacy))] if run.privacy is not None else []
    made = f"{run.method}, preset {config.preset}, {config.steps} steps"
    if run.baseline is not None:
        made = f"none: real images, chosen by {run.baseline}"
    return [
        ("method", f"{made}, seed {config.seed}"),
        ("encoder", "\n".join(encoders)),
        ("images", f"{images.spec} ({images.split}), {images.count:,} images{skipped}{parts}"),
        *promise,
        ("classes", f"{len(run.class_names)}: " + ", ".join(run.class_names[:_MOST_CLASSES]) + more),
        *_history(run),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
    ]


def _history(run: RunRecord) -> list[tuple[str, str]]:
    """What became of other sets in this one."""
    rows = []
    if run.parts:
        lines = [
            f"{part.name}: {len(part.class_names)} classes of {part.images.spec}, {part.method}, {part.steps} steps, "
            f"seed {part.seed}"
            for part in run.parts
        ]
        rows.append(("merged from", "\n".join(lines)))
    if run.base is not None:
        base = run.base
        rows.append(
            ("goes on from", f"{base.name}: {base.fixed} images fixed, {base.refined} refined, {base.dropped} replaced")
        )
    if run.forgotten:
        rows.append(("forgotten", ", ".join(run.forgotten)))
    return rows


def _unfinished(folder: Path, run: RunRecord) -> tuple[str, str]:
    if run.export is not None:
        return "state", "an export that was stopped before it was whole; repeat its command"
    checkpoint = newest_checkpoint(folder)
    done = checkpoint.about.engine["step"] if checkpoint else 0
    return (
        "state",
        f"not finished: {done} of {run.config.steps} steps saved; repeat its command with {option('resume', True)}",
    )


def _result(folder: Path, run: RunRecord) -> list[tuple[str, str]]:
    distilled = DistilledSet.load(folder)
    files = list((folder / "images").glob("*/*"))
    kib, kind = sum(file.stat().st_size for file in files) / 1024, files[0].suffix[1:].upper()
    rows = [
        ("state", f"finished in {run.seconds:.0f} s on {run.device}"),
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
    if run.losses:
        rows.append(("loss", f"{run.losses[0]:.4f} → {run.losses[-1]:.4f}"))
    if run.accuracy:
        last = (f"step {step}: {100 * value:.1f} %" for step, value in run.accuracy[-3:])
        rows.append(("probe accuracy", ", ".join(last)))
    return rows
