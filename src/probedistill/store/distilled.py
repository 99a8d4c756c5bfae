"""A `DistilledSet`: the synthetic images as a folder that other tools read as it is.

::

    RUN/
      images/CLASS/000.png …     8-bit images: what is shipped, and what is evaluated
      images/metadata.jsonl      file_name, label, class_name: Hugging Face's imagefolder reads it
      tensors.safetensors        images (m, 3, S, S) float32 and labels (m,) int64; on request soft_labels (m, C),
                                 and head.weight (C, d) and head.bias (C,) for classifier inheritance, all float32
      run.json                   full config, versions, seeds, fingerprints, timings, losses

An exported set (`ship/export.py`) has its image files as WebP, JPEG or PNG, perhaps of another size, and no float
images: its images are what the files give back.
"""

from __future__ import annotations

import functools
import hashlib
import html
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from ..errors import UserError
from ..text import printable
from .files import cannot_write, remove_folder, whole_file
from .layout import IMAGES, METADATA, RUN, SUFFIXES, TENSORS, check_class_names, image_files
from .pixels import as_shipped, decode_files, gallery_html, png_files
from .records import as_plain, from_plain
from .run_record import ExportRecord, HeadRecord, RunRecord, SoftLabelsRecord, read_run, unrecorded, write_run
from .tensors import TornFileError, load_tensors, save_tensors

_SUM_TOLERANCE = 1e-3  # of a row of soft labels


@dataclass(frozen=True)
class Head:
    """W*: a linear classifier trained on all real features of one encoder, logits = features @ weight.T + bias.

    Attributes:
        weight: (C, d) float32.
        bias: (C,) float32.
        encoder: Name of the encoder.
        fingerprint: Of the encoder.
    """

    weight: Tensor
    bias: Tensor
    encoder: str
    fingerprint: str

    @property
    def num_bytes(self) -> int:
        """What the head adds to the set: (C · d + C) · 4 bytes."""
        return sum(part.numel() * part.element_size() for part in (self.weight, self.bias))


@dataclass(frozen=True)
class Encoded:
    """Image files to ship in place of PNG and floats.

    Attributes:
        files: The bytes of each image's file, in the order of the images.
        about: How they were made; `DistilledSet.save` fills in the bytes.
    """

    files: Sequence[bytes]
    about: ExportRecord


@dataclass(frozen=True)
class _TensorsRecord:
    """What ``tensors.safetensors`` says of itself: a digest of the image files, and what made its extra tensors."""

    files: str
    soft_labels: SoftLabelsRecord | None = None
    head: HeadRecord | None = None


@dataclass(frozen=True)
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
        """What a notebook shows: the images with their classes."""
        names = [self.class_names[label] for label in self.labels.tolist()]
        return f"<p>{html.escape(printable(repr(self)))}</p>{gallery_html(self.images, names)}"

    @property
    def images(self) -> Tensor:
        """(m, 3, S, S) float32 in [0, 1]: the 8-bit images that are shipped."""
        return as_shipped(self.float_images)

    def save(self, folder: Path | str, encoded: Encoded | None = None) -> Path:
        """Write the set into ``folder``, with the files in ``encoded`` as its images when they are given.

        Images come first and ``run.json`` last: a folder with a ``run.json`` that says ``finished``
        is complete. Each file is whole or absent. Each class has a folder of its own, also where upper
        and lower case are the same; ``metadata.jsonl`` says which.

        Raises:
            UserError: The folder cannot be written or holds images that are not from this package, or a class has a
                name that files cannot hold.
        """
        folder = Path(folder)
        check_class_names(self.class_names, "the set")
        target = folder / IMAGES
        if target.exists() and not (target / METADATA).exists():
            raise UserError(f"{str(target)!r} holds images of something else; choose another output folder")
        partial = folder / "images.part"
        run = self._record()
        tensors = {"labels": self.labels, **self._extra_tensors()}
        files: Iterable[bytes]
        digest = _Digest()
        if encoded is None:
            files, suffix = png_files(self.float_images), SUFFIXES["png"]
            tensors["images"] = self.float_images
            run = replace(run, export=None)  # the set may have been loaded from an export
        else:
            files, suffix = encoded.files, SUFFIXES[encoded.about.format]
            run = replace(run, export=replace(encoded.about, bytes=sum(map(len, files))))
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            lines = []
            labels = self.labels.tolist()
            for name, label, data in zip(image_files(labels, self.class_names, suffix), labels, files, strict=True):
                (partial / name).parent.mkdir(exist_ok=True)
                (partial / name).write_bytes(data)
                digest.add(data)
                lines.append({"file_name": name, "label": label, "class_name": self.class_names[label]})
            with whole_file(partial / METADATA) as temporary:
                temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
            write_run(folder, replace(run, finished=False))  # until the end the set is not whole
            remove_folder(target)
            partial.rename(target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise cannot_write(target, error) from error
        except UserError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        save_tensors(folder / TENSORS, tensors, as_plain(_TensorsRecord(digest.value(), run.soft_labels, run.head)))
        write_run(folder, _with_total_bytes(run, folder))
        return folder

    def save_extras(self, folder: Path | str) -> None:
        """Write soft labels and head into a folder that holds this set already; its images stay as they are.

        Killed at any point, the folder holds the set as it was or as it is now: what the labels and the head are is
        said in the file that holds them, and ``run.json`` repeats it.

        Raises:
            UserError: The folder cannot be written.
        """
        path, run = Path(folder) / TENSORS, self._record()
        tensors, metadata = load_tensors(path)
        about = as_plain(_TensorsRecord(metadata["files"], run.soft_labels, run.head))
        save_tensors(path, {**tensors, **self._extra_tensors()}, about)
        write_run(Path(folder), _with_total_bytes(run, Path(folder)))

    def _record(self) -> RunRecord:
        """What ``run.json`` holds."""
        return replace(
            self.run,
            finished=True,
            class_names=self.class_names,
            soft_labels=self.run.soft_labels if self.soft_labels is not None else None,
            head=HeadRecord(encoder=self.head.encoder, fingerprint=self.head.fingerprint) if self.head else None,
        )

    def _extra_tensors(self) -> dict[str, Tensor]:
        """What ``tensors.safetensors`` holds on request."""
        tensors = {} if self.soft_labels is None else {"soft_labels": self.soft_labels}
        return tensors if self.head is None else {**tensors, **_head_tensors(self.head)}

    @staticmethod
    def load(folder: Path | str) -> DistilledSet:
        """Read a set that `save` wrote.

        Raises:
            UserError: No such folder, not a distilled set, an unfinished run, or a damaged file.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"no such folder {str(folder)!r}; give the folder of a finished run")
        if not (folder / RUN).exists():
            raise UserError(f"{str(folder)!r} is not a distilled set: it has no {RUN}; give the folder of a run")
        run = read_run(folder)
        if not run.finished:
            what, option = ("export", "--overwrite") if run.export else ("run", "--resume")
            raise UserError(f"{str(folder)!r} holds an unfinished {what}; repeat its command with {option} first")
        try:
            tensors, metadata = load_tensors(folder / TENSORS)
            about, labels = from_plain(metadata, _TensorsRecord), tensors["labels"]
            files = functools.partial(_checked_files, folder / IMAGES, labels, run.class_names, digest=about.files)
            if "images" in tensors:
                images = tensors["images"]
                for _ in files(suffix=SUFFIXES["png"]):  # the files are what is shipped: the set needs all of them
                    pass
            elif run.export is not None:
                images = decode_files(list(files(suffix=SUFFIXES[run.export.format])), run.export.image_size)
            else:
                raise ValueError("it holds no images")
            head = _read_head(tensors, about.head)
        except (TornFileError, OSError, KeyError, ValueError, msgspec.ValidationError) as error:
            raise UserError(f"{str(folder)!r} is damaged ({error}); make it again or restore it") from error
        run = replace(run, soft_labels=about.soft_labels, head=about.head)
        soft_labels = tensors.get("soft_labels")
        whole = (
            _is_set(images, labels, len(run.class_names))
            and (soft_labels is None or _are_soft_labels(soft_labels, len(labels), len(run.class_names)))
            and (head is None or _is_head(head, len(run.class_names)))
        )
        if not whole:
            raise UserError(f"{str(folder)!r} is damaged or of another version of probedistill; make it again")
        return DistilledSet(images, labels, run.class_names, run, soft_labels, head)


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


def _read_head(tensors: dict[str, Tensor], about: HeadRecord | None) -> Head | None:
    """The stored head, if there is one."""
    if "head.weight" not in tensors:
        return None
    if about is None:
        raise ValueError("nothing says whose head it holds")
    return Head(tensors["head.weight"], tensors["head.bias"], about.encoder, about.fingerprint)


def _is_head(head: Head, classes: int) -> bool:
    """Whether this is a finite linear classifier of the classes."""
    if head.weight.ndim != 2 or head.weight.shape[0] != classes or head.bias.shape != (classes,):
        return False
    return all(part.is_floating_point() and bool(part.isfinite().all()) for part in _head_tensors(head).values())


def _with_total_bytes(run: RunRecord, folder: Path) -> RunRecord:
    """The record of an exported set with the size of its files."""
    if run.export is None:
        return run
    files = [path for path in (folder / IMAGES).rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in [*files, folder / TENSORS])
    return replace(run, export=replace(run.export, total_bytes=total))


class _Digest:
    """SHA-256 over the digests of files."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self._sum.update(hashlib.sha256(data).digest())

    def value(self) -> str:
        return self._sum.hexdigest()


def _checked_files(
    folder: Path, labels: Tensor, class_names: Sequence[str], suffix: str, digest: str
) -> Iterator[bytes]:
    """The image files of a set, one after the other.

    Raises:
        ValueError: One is missing, or, at the end, one is not what was written.
    """
    if labels.numel() == 0 or int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        raise ValueError("labels without a class")
    found = _Digest()
    for name in image_files(labels.tolist(), class_names, suffix):
        if not (folder / name).is_file():
            raise ValueError(f"images/{name} is missing")
        data = (folder / name).read_bytes()
        found.add(data)
        yield data
    if found.value() != digest:
        raise ValueError("an image file is not what was written")
