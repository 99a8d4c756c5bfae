"""A `DistilledSet`: the synthetic images as a folder that other tools can read.

::

    RUN/
      images/CLASS/000.png …     8-bit images: what is shipped, and what is evaluated
      images/metadata.parquet    file_name, label, class_name: `datasets` reads it
      tensors.safetensors        images (m, 3, S, S) float32 and labels (m,) int64; on request soft_labels (m, C),
                                 and head.weight (C, d) and head.bias (C,) for classifier inheritance, all float32
      SHA256SUMS                 a digest of each file of the set: what belongs together
      README.md                  the card (`store/card.py`), which may be edited
      run.json                   full config, versions, seeds, fingerprints, timings, losses

An exported set (`ship/export.py`) has WebP, JPEG or PNG files, perhaps of another size, and no float images: its images
are the decoded files.
"""

from __future__ import annotations

import html
import os
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from ..errors import UserError, explained, option
from ..images.decode import MAX_FILE_BYTES
from ..images.entries import own_files
from ..images.labelled import check_class_names
from ..text import and_more, as_argument, printable
from .card import REAL_DATA, CardOf, Licence, real_data, rewrite, write_card, write_held_out
from .files import cannot_write, whole_file, whole_folder, without_traces
from .layout import CARD, HELD_OUT, IMAGES, METADATA, OLD_METADATA, RUN, SUFFIXES, SUMS, TENSORS, image_files
from .named import run_folder
from .pixels import as_shipped, decode_files, gallery_html, png_files, to_8_bits
from .records import as_plain, from_plain
from .run_record import (
    ExportRecord,
    HeadRecord,
    RunRecord,
    SoftLabelsRecord,
    read_run,
    run_bytes,
    unrecorded,
    write_run,
)
from .sums import check_digest, digest, file_digest, read_sums, write_sums
from .table import table_bytes
from .tensors import TornFileError, load_tensors, save_tensors, write_tensors


def _hint(folder: Path) -> str:
    return f"make it again or restore it; {if_meant(folder)}"


def if_meant(folder: Path) -> str:
    """The end of an error about a set whose files have changed."""
    return f"if the change is intended: probedistill accept {as_argument(folder)}"


_SUM_TOLERANCE = 1e-3  # for the sum of a row of soft labels


class DamagedImagesError(UserError):
    """Image files of a set are missing or altered; the rest of it is whole."""


@dataclass(frozen=True, eq=False)
class Head:
    """W*: a linear classifier trained on all real features of one encoder, logits = features @ weight.T + bias.

    Attributes:
        weight: (C, d) float32.
        bias: (C,) float32.
        encoder: Name of the encoder.
        fingerprint: Fingerprint of the encoder.
    """

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    encoder: str
    fingerprint: str

    @property
    def num_bytes(self) -> int:
        """What the head adds to the set: (C · d + C) · 4 bytes."""
        return self.weight.nbytes + self.bias.nbytes


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of the shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


@dataclass(frozen=True)
class Encoded:
    """Image files to ship instead of PNG files and float images.

    Attributes:
        files: The bytes of each image's file, in the order of the images.
        about: How they were made; `DistilledSet.save` fills in ``total_bytes``.
    """

    files: Sequence[bytes]
    about: ExportRecord


@dataclass(frozen=True)
class _TensorsRecord:
    """The metadata of ``tensors.safetensors``: what made its extra tensors."""

    soft_labels: SoftLabelsRecord | None = None
    head: HeadRecord | None = None


@dataclass(frozen=True, eq=False)
class DistilledSet:
    """Synthetic images with their labels and their history.

    Attributes:
        float_images: (m, 3, S, S) float32 in [0, 1], as optimised.
        labels: (m,) int64 in [0, C).
        class_names: C names.
        run: What made them: config, versions, seeds, fingerprints, timings, losses.
        soft_labels: (m, C) float32, rows of class weights ≥ 0 that sum to 1, which probes learn from instead of
            ``labels``; or ``None``.
        head: The classifier of the source encoder, for `InheritedProbe`; or ``None``.
    """

    float_images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    run: RunRecord = field(default_factory=unrecorded)
    soft_labels: Tensor | None = None
    head: Head | None = None

    def __post_init__(self) -> None:
        """Raise `UserError` for images and labels that are not those of a set: it may be put together by hand."""
        images, labels, classes = self.float_images, self.labels, len(self.class_names)
        if not (
            isinstance(images, Tensor) and images.is_floating_point() and images.ndim == 4 and images.shape[1] == 3
        ):
            raise UserError(f"float_images are {_kind(images)}; give a tensor of floats (m, 3, S, S), from 0 to 1")
        if not (isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == images.shape[:1]):
            raise UserError(f"labels are {_kind(labels)}; give an int64 tensor of one label for each image")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise UserError(
                f"labels are from {int(labels.min())} to {int(labels.max())}, but there are {classes} classes"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        soft = ", soft labels" if self.soft_labels is not None else ""
        head = f", head of {self.head.encoder} ({self.head.num_bytes:,} bytes)" if self.head is not None else ""
        return (
            f"DistilledSet({len(self)} images of {len(self.class_names)} classes, "
            f"{self.float_images.shape[-1]} px, method={self.run.method!r}{soft}{head})"
        )

    def _repr_html_(self) -> str:
        """HTML for a notebook: the images with their classes."""
        names = [self.class_names[label] for label in self.labels.tolist()]
        return f"<p>{html.escape(printable(repr(self)))}</p>{gallery_html(self.images, names)}"

    @property
    def images(self) -> Tensor:
        """(m, 3, S, S) float32 in [0, 1]: the 8-bit images that are shipped."""
        return as_shipped(self.float_images)

    def of_class(self, name: str) -> Tensor:
        """(n, 3, S, S) float images of a class; none if the set has no such class."""
        label = self.class_names.index(name) if name in self.class_names else -1
        return self.float_images[self.labels == label]

    def save(
        self,
        folder: Path | str,
        encoded: Encoded | None = None,
        *,
        licence: Licence | None = None,
        held_out: Sequence[str] = (),
    ) -> Path:
        """Write the set into ``folder``, with the files in ``encoded`` as its images if they are given.

        ``licence`` goes on its card. ``held_out`` are names of images that were held out for testing.

        Images are written first and ``run.json`` last: a folder whose ``run.json`` says ``finished`` is complete, even
        after a power loss. ``SHA256SUMS`` says which files belong together. If the folder had no set before, an error
        leaves none.

        Raises:
            UserError: The folder cannot be written or contains images that are not from this package, or a class name
                cannot be stored in files.
        """
        folder = Path(folder)
        check_class_names(self.class_names, "the set")
        target = folder / IMAGES
        if target.exists() and not any((target / table).exists() for table in (METADATA, OLD_METADATA)):
            raise UserError(f"{str(target)!r} has images that are not of a run; choose another output folder")
        run, tensors = self._record(), {"labels": self.labels, **self._extra_tensors()}
        files: Iterable[bytes]
        if encoded is None:
            files, suffix = png_files(self.float_images), SUFFIXES["png"]
            tensors["images"] = self.float_images
            run = replace(run, export=None)  # the set may have been loaded from an export
        else:
            files, suffix = encoded.files, SUFFIXES[encoded.about.format]
            run = replace(run, export=encoded.about)
        with _all_or_nothing(folder):
            try:
                with whole_folder(target) as partial:
                    sums = {f"{IMAGES}/{name}": (known,) for name, known in self._write_images(partial, files, suffix)}
                    write_run(folder, replace(run, finished=False))  # the set is incomplete until the end
            except OSError as error:
                raise cannot_write(target, error) from error
            save_tensors(folder / TENSORS, tensors, as_plain(_TensorsRecord(run.soft_labels, run.head)))
            run = _with_total_bytes(run, folder)
            write_held_out(folder, held_out)
            replace(self, run=run).save_card(folder, licence)
            own = {RUN: (digest(run_bytes(run)),), TENSORS: (file_digest(folder / TENSORS),)}
            write_sums(folder, {**own, **sums})
            write_run(folder, run)
        return folder

    def check_is_in(self, folder: Path) -> None:
        """Raise `UserError` if ``folder`` contains a run other than this set's.

        Call it, with the folder claimed, before writing next to a set that was loaded some time ago.
        """
        if (folder / RUN).exists() and _made(read_run(folder)) != _made(self._record()):
            raise UserError(
                f"the run in {str(folder)!r} was replaced while this command was using it; repeat the command for the "
                "new run"
            )

    def save_card(self, folder: Path | str, licence: Licence | None = None) -> None:
        """Write a new card, without scores and edits, into the set's folder."""
        run, labels = self.run, self.labels.tolist()
        suffix = SUFFIXES[run.export.format if run.export is not None else "png"]
        size = run.export.image_size if run.export is not None else self.float_images.shape[-1]
        files = list(image_files(labels, self.class_names, suffix))
        write_card(Path(folder), CardOf(run, files, labels, size, licence or Licence()))

    def _write_images(self, folder: Path, files: Iterable[bytes], suffix: str) -> Iterator[tuple[str, str]]:
        """Write image files and their table into a new folder; yield the name and the digest of each file."""
        labels = self.labels.tolist()
        names = list(image_files(labels, self.class_names, suffix))
        for name, data in zip(names, files, strict=True):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
            yield name, digest(data)
        table = table_bytes(names, labels, self.class_names)
        (folder / METADATA).write_bytes(table)
        yield METADATA, digest(table)

    def save_extras(self, folder: Path | str) -> None:
        """Write soft labels and head into the folder of this set; its images are not changed.

        If it is killed at any point, the folder has either the old or the new set: ``tensors.safetensors`` records what
        made its labels and its head, and ``run.json`` repeats it.

        Raises:
            UserError: The folder cannot be written.
        """
        folder, run = Path(folder), self._record()
        tensors, _ = load_tensors(folder / TENSORS)
        before = read_sums(folder)
        with whole_file(folder / TENSORS) as temporary:
            write_tensors(
                temporary, {**tensors, **self._extra_tensors()}, as_plain(_TensorsRecord(run.soft_labels, run.head))
            )
            run = _with_total_bytes(run, folder, temporary)
            after = {**before, TENSORS: (file_digest(temporary),), RUN: (digest(run_bytes(run)),)}
            both = {name: (*before.get(name, ()), *known) for name, known in after.items()}
            write_sums(folder, both)
        write_run(folder, run)
        write_sums(folder, after)
        rewrite(folder, REAL_DATA, real_data(folder, run))

    def _record(self) -> RunRecord:
        """The content of ``run.json``."""
        return replace(
            self.run,
            finished=True,
            class_names=self.class_names,
            soft_labels=self.run.soft_labels if self.soft_labels is not None else None,
            head=HeadRecord(encoder=self.head.encoder, fingerprint=self.head.fingerprint) if self.head else None,
        )

    def _extra_tensors(self) -> dict[str, Tensor]:
        """The optional tensors of ``tensors.safetensors``."""
        tensors = {} if self.soft_labels is None else {"soft_labels": self.soft_labels}
        return tensors if self.head is None else {**tensors, **_head_tensors(self.head)}

    @staticmethod
    def load(folder: Path | str) -> DistilledSet:
        """Read a set that `save` wrote.

        Args:
            folder: Its folder, or ``"hub:USER/NAME"``, or ``"set:NAME"`` (`run_folder`).

        Raises:
            UserError: No such folder, not a distilled set, an unfinished run, or a damaged file.
        """
        folder = run_folder(folder)
        parts = _Parts.read(folder)
        try:
            return parts.distilled(_read_images(parts))
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            # Only distill and extend can resume; other commands make their sets again, or not at all.
            resumes = parts.run.optimised and not parts.run.derived
            whole = "images" in parts.tensors and resumes
            hint = (
                f"its float images are whole: repeat its command with {option('resume', True)}; {if_meant(folder)}"
                if whole
                else _hint(folder)
            )
            raise DamagedImagesError(f"{str(folder)!r} is damaged ({error}); {hint}") from error


@dataclass(frozen=True)
class _Parts:
    """What a set's folder contains besides its image files."""

    folder: Path
    run: RunRecord
    tensors: dict[str, Tensor]
    sums: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, folder: Path) -> _Parts:
        """Read and check it.

        Raises:
            UserError: No such folder, not a distilled set, an unfinished run, or a damaged file.
        """
        if not folder.is_dir():
            raise UserError(f"no such folder {str(folder)!r}; give the folder of a finished run")
        if not (folder / RUN).exists():
            raise UserError(f"{str(folder)!r} is not a distilled set: it has no {RUN}; give the folder of a run")
        run = read_run(folder)
        if not run.finished:
            what, missing = ("export", "overwrite") if run.export else ("run", "resume")
            raise UserError(
                f"{str(folder)!r} holds an unfinished {what}; repeat its command with {option(missing, True)} first"
            )
        try:
            sums = read_sums(folder)
            for name in (RUN, TENSORS):
                check_digest(sums, name, file_digest(folder / name))
            tensors, metadata = load_tensors(folder / TENSORS)
            about, labels = from_plain(metadata, _TensorsRecord), tensors["labels"]
            if labels.ndim != 1 or not 0 <= int(labels.min()) <= int(labels.max()) < len(run.class_names):
                raise ValueError("labels without a class")
        except (TornFileError, OSError, KeyError, ValueError, RuntimeError, msgspec.ValidationError) as error:
            raise UserError(f"{str(folder)!r} is damaged ({error}); {_hint(folder)}") from error
        return cls(folder, replace(run, soft_labels=about.soft_labels, head=about.head), tensors, sums)

    def image_files(self) -> list[str]:
        """Names of the table and the image files, below ``images/``; they follow from the classes and labels."""
        export = self.run.export if "images" not in self.tensors else None
        suffix = SUFFIXES[export.format if export is not None else "png"]
        is_old = f"{IMAGES}/{OLD_METADATA}" in self.sums and f"{IMAGES}/{METADATA}" not in self.sums
        table = OLD_METADATA if is_old else METADATA
        return [table, *image_files(self.tensors["labels"].tolist(), self.run.class_names, suffix)]

    def distilled(self, images: Tensor | None) -> DistilledSet:
        """The set with these images.

        Raises:
            UserError: The parts do not fit together.
        """
        soft_labels, classes, head = self.tensors.get("soft_labels"), len(self.run.class_names), None
        if self.run.head is not None and {"head.weight", "head.bias"} <= self.tensors.keys():
            about = self.run.head
            head = Head(self.tensors["head.weight"], self.tensors["head.bias"], about.encoder, about.fingerprint)
        labels = self.tensors["labels"]
        whole = (
            images is not None
            and _is_set(images, labels, classes)
            and (soft_labels is None or _are_soft_labels(soft_labels, len(labels), classes))
            and (head is not None) == ("head.weight" in self.tensors)
            and (head is None or _is_head(head, classes))
        )
        if images is None or not whole:
            raise UserError(f"{str(self.folder)!r} is damaged or from another version of probedistill; make it again")
        return DistilledSet(images, labels, self.run.class_names, self.run, soft_labels, head)


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """If the block ends with an error, remove the set that it was writing, unless the folder contained one before."""
    new = [name for name in (IMAGES, RUN, TENSORS, CARD, SUMS, HELD_OUT) if not os.path.exists(folder / name)]
    with without_traces(folder):
        try:
            yield
        except BaseException:
            if {RUN, TENSORS} <= set(new):
                for name in new:
                    with suppress(OSError):
                        shutil.rmtree(folder / name, ignore_errors=True) if name == IMAGES else os.unlink(folder / name)
            raise


def set_files(folder: Path) -> list[str]:
    """Names of the table and the images of a set, below ``images/``; they need not be there yet.

    Raises:
        UserError: ``run.json`` or ``tensors.safetensors`` is missing or damaged.
    """
    return _Parts.read(folder).image_files()


def _made(run: RunRecord) -> Any:
    """What identifies a run's set: its settings, its history, and what probes learn from."""
    shipped = run.export and (run.export.format, run.export.quality, run.export.image_size)
    kept = (run.finished, run.config, run.encoders, run.images, run.class_names, run.losses, run.seconds, shipped)
    return as_plain((*kept, run.soft_labels))


def rebuilt(folder: Path | str) -> DistilledSet:
    """Write the image files of a set again from its float images.

    Raises:
        UserError: Something else than image files is damaged, or the folder cannot be written.
    """
    folder = Path(folder)
    card = folder / CARD
    edited = card.read_bytes() if card.exists() else None
    parts = _Parts.read(folder)
    parts.distilled(parts.tensors.get("images")).save(folder)
    if edited is not None:
        with whole_file(card) as temporary:
            temporary.write_bytes(edited)
    return DistilledSet.load(folder)


def take_images_of_files(folder: Path) -> bool:
    """Copy edited image files into the float images, from which everything else is made.

    Returns:
        Whether there were any; ``SHA256SUMS`` must then be written again.

    Raises:
        UserError: A file is not an image of the set's size.
    """
    tensors, about = load_tensors(folder / TENSORS)
    if "images" not in tensors:
        return False
    floats = tensors["images"]
    files = ((folder / IMAGES / name).read_bytes() for name in set_files(folder)[1:])
    with explained(
        f"{str(folder)!r} has an edited image that cannot be accepted", OSError, ValueError, hint="restore it"
    ):
        shipped = decode_files(files, floats.shape[-1])
    edited = (to_8_bits(shipped) != to_8_bits(floats)).flatten(1).any(dim=1)
    if bool(edited.any()):
        tensors["images"] = torch.where(edited[:, None, None, None], shipped, floats)
        save_tensors(folder / TENSORS, tensors, about)
    return bool(edited.any())


def _is_set(images: Tensor, labels: Tensor, classes: int) -> bool:
    """Whether these are finite RGB images with a label of one of the classes each."""
    if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0 or labels.shape != images.shape[:1]:
        return False
    if not images.is_floating_point() or labels.dtype != torch.int64:
        return False
    return int(labels.min()) >= 0 and int(labels.max()) < classes and bool(images.isfinite().all())


def _are_soft_labels(rows: Tensor, count: int, classes: int) -> bool:
    """Whether these are class weights ≥ 0 that sum to 1 for each of the images."""
    if rows.shape != (count, classes) or not rows.is_floating_point() or not bool(rows.isfinite().all()):
        return False
    return float(rows.min()) >= 0 and float((rows.sum(dim=1) - 1).abs().max()) < _SUM_TOLERANCE


def _head_tensors(head: Head) -> dict[str, Tensor]:
    return {"head.weight": head.weight, "head.bias": head.bias}


def _is_head(head: Head, classes: int) -> bool:
    """Whether this is a finite linear classifier of the classes."""
    if head.weight.ndim != 2 or head.weight.shape[0] != classes or head.bias.shape != (classes,):
        return False
    return all(part.is_floating_point() and bool(part.isfinite().all()) for part in _head_tensors(head).values())


def _with_total_bytes(run: RunRecord, folder: Path, tensors: Path | None = None) -> RunRecord:
    """The record of an exported set with the size of its files; ``tensors``: its next tensors file, if any."""
    if run.export is None:
        return run
    files = own_files(folder / IMAGES)
    total = sum(path.stat().st_size for path in [*files, tensors or folder / TENSORS])
    return replace(run, export=replace(run.export, total_bytes=total))


def _read_images(parts: _Parts) -> Tensor:
    """Read the images of a set, (m, 3, S, S): the float images if there are any, else the files.

    All files are read and checked, because they are what is shipped.

    Raises:
        ValueError: A file is missing or has changed.
        OSError: A file cannot be read.
    """
    floats, export, files = parts.tensors.get("images"), parts.run.export, []
    for name in parts.image_files():
        # An archive made on macOS may write é as two characters.
        ways = (name, *(unicodedata.normalize(form, name) for form in ("NFD", "NFC")))
        path = next((path for way in ways if (path := parts.folder / IMAGES / way).is_file()), None)
        if path is None:
            raise ValueError(f"{IMAGES}/{name} is missing")
        if path.stat().st_size > MAX_FILE_BYTES:  # this could exhaust memory
            raise ValueError(f"{IMAGES}/{name} is larger than any image")
        data = path.read_bytes()
        check_digest(parts.sums, f"{IMAGES}/{name}", digest(data))
        if floats is None:
            files.append(data)
    if floats is not None:
        return floats
    if export is None:
        raise ValueError("it has no images")
    return decode_files(files[1:], export.image_size)


def as_set(given: DistilledSet | Path | str) -> DistilledSet:
    """Return a set that is given directly, or by the folder or name of its run (`DistilledSet.load`)."""
    if isinstance(given, Tensor):
        raise UserError("distilled is a Tensor; give DistilledSet(images, labels, class_names), or the folder of a run")
    return given if isinstance(given, DistilledSet) else DistilledSet.load(given)


def check_each_class(distilled: DistilledSet, what: str) -> None:
    """Raise `UserError` if there is a class without an image, as imported sets may have; ``what`` needs one of each."""
    there = set(distilled.labels.tolist())
    empty = [name for label, name in enumerate(distilled.class_names) if label not in there]
    if empty:
        raise UserError(
            f"the set has no image of class {empty[0]!r}{and_more(len(empty))}, but {what} needs one of each; correct "
            "the labels and import it again, or remove the class with forget"
        )
