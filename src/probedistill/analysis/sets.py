"""The distilled sets of a transfer, which are the rows of its matrix."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..config import AugmentConfig, TransferConfig
from ..errors import UserError, by_caller, option
from ..images.labelled import LabelledImages
from ..probes.kinds import need_head
from ..store.distilled import DistilledSet
from ..store.layout import check_named_once
from ..store.named import run_folder, several_runs
from ..text import counted
from .base import EncoderAbout
from .matrix import Source

UNKNOWN = EncoderAbout("unknown", "unknown", 0)


@dataclass(frozen=True)
class SourceSet:
    """A distilled set, and the folder that it came from (``None`` for one in memory)."""

    distilled: DistilledSet
    folder: Path | None

    @property
    def label(self) -> str:
        """How an error names it."""
        return f"run {str(self.folder)!r}" if self.folder is not None else repr(self.distilled)

    @property
    def method(self) -> str:
        """How it was distilled, by its record."""
        return self.distilled.run.method

    @property
    def way(self) -> str:
        """The method, and whether it began with real images: what a row is called."""
        if self.distilled.run.baseline is not None:
            return f"{self.method}, real images"
        starts = {"average": " from averages", "blend": " from blends", "real": " from real"}
        return self.method + starts.get(self.distilled.run.begun_from, "")

    @property
    def encoders(self) -> tuple[EncoderAbout, ...]:
        """The encoders that it was distilled with, by its record; one that is called unknown if there is none."""
        found = self.distilled.run.encoders
        return tuple(EncoderAbout(one.name, one.fingerprint, one.input_size) for one in found) or (UNKNOWN,)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what a probe is trained on."""
        held = self.distilled
        return self._digest(held.float_images, held.labels, held.soft_labels, *self._head)

    @property
    def head_fingerprint(self) -> str:
        """SHA-256 of the head."""
        return self._digest(*self._head)

    @property
    def _head(self) -> list[torch.Tensor]:
        head = self.distilled.head
        return [] if head is None else [head.weight, head.bias]

    def _digest(self, *tensors: torch.Tensor | None) -> str:
        """SHA-256 of tensors, and of the class names, which give their rows and labels a meaning."""
        digest = hashlib.sha256(json.dumps(self.distilled.class_names).encode())
        for tensor in tensors:
            digest.update(b"none" if tensor is None else f"{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        return digest.hexdigest()


def read_sets(runs: Sequence[Path | str | DistilledSet]) -> list[SourceSet]:
    """Read finished runs, each named once; sets in memory are passed on.

    Raises:
        UserError: There are none, one is named twice, or one cannot be read.
    """
    runs = several_runs(runs)
    if not runs:
        raise UserError("runs is empty; name at least one folder of a finished run")
    found = [run if isinstance(run, DistilledSet) else run_folder(run) for run in runs]
    check_named_once([run for run in found if isinstance(run, Path)])
    return [SourceSet(DistilledSet.load(run), run) if isinstance(run, Path) else SourceSet(run, None) for run in found]


def check_sets(sets: Sequence[SourceSet], train: LabelledImages, config: TransferConfig) -> int:
    """Return the images per class, the same for all; raise `UserError` for sets that do not fit into one matrix."""
    first = sets[0]
    names = set(first.distilled.class_names)
    for other in sets[1:]:
        differing = sorted(names.symmetric_difference(other.distilled.class_names))
        if differing:
            has, lacks = (first, other) if differing[0] in names else (other, first)
            raise UserError(
                f"{first.label} and {other.label} have different classes: {differing[0]!r} is in {has.label} but not "
                f"in {lacks.label}; give runs of the same classes"
            )
    strangers = sorted(names - set(train.class_names))
    if strangers:
        raise UserError(
            f"{first.label} was made for different classes: {strangers[0]!r} is not among those of {train.spec!r}; "
            "give the images that it was made from, in classes of the same names (after rename, of the new ones)"
        )
    heads = need_head(config.probes)
    without = next((held for held in sets if heads and held.distilled.head is None), None)
    if without is not None and without.distilled.run.source is None:
        raise UserError(
            f"probes {heads[0]!r} needs a head, but {without.label} has none and does not say which encoder it was "
            f"made with; leave out {option('probes', heads[0])} or the run"
        )
    if without is not None:
        way = by_caller(
            command="probedistill label RUN --config RUN/config.yaml --keep-head",
            python="probedistill.with_extras(distilled, encoder, bank, keep_head=True)",
        )
        raise UserError(f"probes {heads[0]!r} needs a head, but {without.label} has none; add it: {way}")
    counts = [int(torch.bincount(held.distilled.labels).max()) for held in sets]
    for held, count in zip(sets, counts, strict=True):
        if count != counts[0]:
            raise UserError(
                f"{first.label} has {counted(counts[0], 'image')} per class, but {held.label} has {count}; give runs "
                "with the same number, so that they can share one random baseline"
            )
    return counts[0]


def common_augment(sets: Sequence[SourceSet]) -> AugmentConfig:
    """Return the augmentation that the first set was distilled with. Warns if another set's is different."""
    found = []
    for held in sets:
        found.append(held.distilled.run.config.augment.for_probes())
        if asdict(found[-1]) != asdict(found[0]):
            warnings.warn(
                f"{held.label} was distilled with a different augmentation than {sets[0].label}, which is used for "
                f"all; choose one with {option('augment')}",
                stacklevel=3,
            )
    return found[0]


def named_sources(sets: Sequence[SourceSet], names: Mapping[str, str], config: TransferConfig) -> tuple[Source, ...]:
    """Name the sets as rows: METHOD · ENCODER, and the folder's name if names would be equal or nothing is known."""
    runs = [held.folder.resolve().name if held.folder is not None else "" for held in sets]
    labels = [
        f"{run} · from elsewhere" if run and held.encoders == (UNKNOWN,)
        else f"{held.way} · {' + '.join(names[e.fingerprint] for e in held.encoders)}"
        for held, run in zip(sets, runs, strict=True)
    ]  # fmt: skip
    long = [f"{label} · {run}" if labels.count(label) > 1 and run else label for label, run in zip(labels, runs)]
    found = []
    for number, (held, name, run) in enumerate(zip(sets, long, runs, strict=True)):
        if long.count(name) > 1:
            name = f"{name} ({long[: number + 1].count(name)})"
        encoders = tuple(replace(entry, name=names[entry.fingerprint]) for entry in held.encoders)
        soft = held.distilled.soft_labels is not None and not config.hard_labels
        found.append(Source(name, run, held.method, encoders, soft))
    return tuple(found)
