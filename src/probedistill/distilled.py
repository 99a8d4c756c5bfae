"""A `DistilledSet`: the synthetic images as a folder that other tools read as it is.

::

    RUN/
      images/CLASS/000.png …     8-bit images: what is shipped, and what is evaluated
      images/metadata.jsonl      file_name, label, class_name: Hugging Face's imagefolder reads it
      tensors.safetensors        images (m, 3, S, S) float32 and labels (m,) int64; on request soft_labels (m, C),
                                 and head.weight (C, d) and head.bias (C,) for classifier inheritance, all float32
      run.json                   full config, versions, seeds, fingerprints, timings, losses

An exported set (`exporting.py`) has its image files as WebP, JPEG or PNG, of another size perhaps, and no float images:
it is what its files give back.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import UserError
from .files import TornFileError, cannot_write, load_tensors, remove_folder, save_tensors, whole_file, write_json
from .images.decode import decode_image

FORMAT = 1
SUFFIXES = {"png": "png", "webp": "webp", "jpeg": "jpg"}
"""Image formats that a set is kept in, with the end of a file's name."""

_NAME_BYTES = 200  # of a folder's name; file systems take 255
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
        about: What ``run.json`` says of them under ``export``, where the bytes are added: ``format``, one of
            `SUFFIXES`, ``image_size`` in pixels, and whatever else made them.
    """

    files: Sequence[bytes]
    about: dict[str, Any]


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
    run: dict[str, Any] = field(default_factory=dict)
    soft_labels: Tensor | None = None
    head: Head | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        method = self.run.get("config", {}).get("method", "?")
        soft = ", soft labels" if self.soft_labels is not None else ""
        head = f", head of {self.head.encoder} ({self.head.num_bytes:,} bytes)" if self.head is not None else ""
        return (
            f"DistilledSet({len(self)} images of {len(self.class_names)} classes, "
            f"{self.float_images.shape[-1]} px, method={method!r}{soft}{head})"
        )

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
            UserError: The folder cannot be written, or holds images that are not from this package.
        """
        folder = Path(folder)
        target = folder / "images"
        if target.exists() and not (target / "metadata.jsonl").exists():
            raise UserError(f"{str(target)!r} holds images of something else; choose another output folder")
        partial = folder / "images.part"
        run = self._run_json()
        tensors = {"labels": self.labels, **self._extra_tensors()}
        files: Iterable[bytes]
        digest = _Digest()
        if encoded is None:
            files, suffix = _png_files(self.float_images), SUFFIXES["png"]
            tensors["images"] = self.float_images
            run.pop("export", None)  # of a set that was loaded from an export
        else:
            files, suffix = encoded.files, SUFFIXES[encoded.about["format"]]
            run["export"] = {**encoded.about, "bytes": sum(map(len, files))}
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            lines = []
            labels = self.labels.tolist()
            for name, label, data in zip(_file_names(labels, self.class_names, suffix), labels, files, strict=True):
                (partial / name).parent.mkdir(exist_ok=True)
                (partial / name).write_bytes(data)
                digest.add(data)
                lines.append({"file_name": name, "label": label, "class_name": self.class_names[label]})
            with whole_file(partial / "metadata.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
            write_json(folder / "run.json", {**run, "finished": False})  # until the end the set is not whole
            remove_folder(target)
            partial.rename(target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise cannot_write(target, error) from error
        except UserError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        save_tensors(folder / "tensors.safetensors", tensors, {"files": digest.value(), **self._about_extras()})
        if encoded is not None:
            run["export"]["total_bytes"] = _total_bytes(folder)
        write_json(folder / "run.json", run)
        return folder

    def save_extras(self, folder: Path | str) -> None:
        """Write soft labels and head into a folder that holds this set already; its images stay as they are.

        Killed at any point, the folder holds the set as it was or as it is now: what the labels and the head are is
        said in the file that holds them, and ``run.json`` repeats it.

        Raises:
            UserError: The folder cannot be written.
        """
        path = Path(folder) / "tensors.safetensors"
        tensors, metadata = load_tensors(path)
        save_tensors(path, {**tensors, **self._extra_tensors()}, {**metadata, **self._about_extras()})
        run = self._run_json()
        if isinstance(run.get("export"), dict):
            run["export"] = {**run["export"], "total_bytes": _total_bytes(Path(folder))}
        write_json(Path(folder) / "run.json", run)

    def _run_json(self) -> dict[str, Any]:
        """What ``run.json`` holds."""
        return {
            "format": FORMAT, "finished": True, "class_names": list(self.class_names), **self.run,
            **self._about_extras(),
        }  # fmt: skip

    def _about_extras(self) -> dict[str, Any]:
        """What is known of the soft labels and the head."""
        about: dict[str, Any] = {}
        if self.soft_labels is not None and "soft_labels" in self.run:
            about["soft_labels"] = self.run["soft_labels"]
        if self.head is not None:
            about["head"] = {"encoder": self.head.encoder, "fingerprint": self.head.fingerprint}
        return about

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
        path = folder / "run.json"
        if not path.exists():
            raise UserError(f"{str(folder)!r} is not a distilled set: it has no run.json; give the folder of a run")
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            if run.get("finished") is False:
                what, mend = ("export", "--overwrite") if "export" in run else ("run", "--resume")
                raise UserError(f"{str(folder)!r} holds an unfinished {what}; repeat its command with {mend} first")
            class_names = tuple(str(name) for name in run.pop("class_names"))
            tensors, metadata = load_tensors(folder / "tensors.safetensors")
            labels = tensors["labels"]
            files = functools.partial(_checked_files, folder / "images", labels, class_names, digest=metadata["files"])
            if "images" in tensors:
                images = tensors["images"]
                for _ in files(suffix=SUFFIXES["png"]):  # they are what is shipped: a set without them is not whole
                    pass
            else:
                about = run["export"]
                images = decode_files(list(files(suffix=SUFFIXES[about["format"]])), int(about["image_size"]))
            run |= {name: metadata[name] for name in ("soft_labels", "head") if name in metadata}
            soft_labels, head = tensors.get("soft_labels"), _read_head(tensors, run.pop("head", None))
        except UserError:
            raise
        except (TornFileError, OSError, KeyError, ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{str(folder)!r} is damaged ({error}); make it again or restore it") from error
        whole = (
            run.get("format") == FORMAT
            and all(isinstance(run.get(name, {}), dict) for name in ("config", "encoder", "images"))
            and _is_set(images, labels, len(class_names))
            and (soft_labels is None or _are_soft_labels(soft_labels, len(labels), len(class_names)))
            and (head is None or _is_head(head, len(class_names)))
        )
        if not whole:
            raise UserError(f"{str(folder)!r} is damaged or of another version of probedistill; make it again")
        return DistilledSet(images, labels, class_names, run, soft_labels, head)


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


def _read_head(tensors: dict[str, Tensor], entry: Any) -> Head | None:
    """The head that is stored, if any; its encoder stands in ``run.json``."""
    if "head.weight" not in tensors:
        return None
    return Head(tensors["head.weight"], tensors["head.bias"], str(entry["encoder"]), str(entry["fingerprint"]))


def _is_head(head: Head, classes: int) -> bool:
    """Whether this is a finite linear classifier of the classes."""
    if head.weight.ndim != 2 or head.weight.shape[0] != classes or head.bias.shape != (classes,):
        return False
    return all(part.is_floating_point() and bool(part.isfinite().all()) for part in _head_tensors(head).values())


def _total_bytes(folder: Path) -> int:
    """Of the image files, ``metadata.jsonl`` and ``tensors.safetensors`` of an exported set."""
    files = (path for path in (folder / "images").rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in [*files, folder / "tensors.safetensors"])


def _file_names(labels: Sequence[int], class_names: Sequence[str], suffix: str) -> Iterator[str]:
    """CLASS/000.png … of each image, below ``images/``: from classes and order alone, never from a file's content."""
    counts, folders = [0] * len(class_names), folder_names(class_names)
    for label in labels:
        yield f"{folders[label]}/{counts[label]:03d}.{suffix}"
        counts[label] += 1


def _png_files(images: Tensor) -> Iterator[bytes]:
    """The 8-bit images (m, 3, S, S) as PNG files."""
    for pixels in to_8_bits(images).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG", optimize=True)
        yield file.getvalue()


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
    for name in _file_names(labels.tolist(), class_names, suffix):
        if not (folder / name).is_file():
            raise ValueError(f"images/{name} is missing")
        data = (folder / name).read_bytes()
        found.add(data)
        yield data
    if found.value() != digest:
        raise ValueError("an image file is not what was written")


def decode_files(files: Iterable[bytes], size: int) -> Tensor:
    """Image files → (m, 3, size, size) float32 in [0, 1].

    Raises:
        ValueError: A file is no image, or not of that size.
    """
    images = []
    for data in files:
        image = decode_image(data)
        if image.size != (size, size):
            raise ValueError(f"an image of {image.width} × {image.height} pixels where {size} × {size} were written")
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(images).float() / 255


def as_shipped(images: Tensor) -> Tensor:
    """Images in [0, 1] as their 8-bit files give them back, float32 on the CPU."""
    return to_8_bits(images).float() / 255


def to_8_bits(images: Tensor) -> Tensor:
    """Images in [0, 1] → uint8, rounded to the nearest value, on the CPU."""
    return (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def folder_name(class_name: str) -> str:
    """A class name as the name of one folder: characters with a meaning to file systems are %-escaped.

    >>> folder_name("T-shirt/top"), folder_name(".."), folder_name("café au lait")
    ('T-shirt%2Ftop', '%2E%2E', 'café au lait')
    """
    escaped = "".join(quote(c, safe="") if c in '/\\:*?"<>|%' or ord(c) < 32 else c for c in class_name)
    if escaped.strip(". ") != escaped:
        escaped = "".join(f"%{ord(c):02X}" if c in ". " else c for c in escaped)
    return escaped or "%"


def folder_names(class_names: Sequence[str]) -> list[str]:
    """A folder for each class, all different also where a file system ignores case or the form of accents.

    >>> folder_names(["Cat", "cat", "dog"])
    ['Cat', 'cat~2', 'dog']
    """
    taken: set[str] = set()
    names = []
    for class_name in class_names:
        base = folder_name(class_name).encode()[:_NAME_BYTES].decode(errors="ignore")
        name, number = base, 1
        while _same_file(name) in taken:
            number += 1
            name = f"{base}~{number}"
        taken.add(_same_file(name))
        names.append(name)
    return names


def _same_file(name: str) -> str:
    """What file systems that ignore case and the form of accents see of a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def save_grid(
    path: Path, images: Tensor, titles: list[str] | None = None, *, columns: int = 10, limit: int = 100
) -> None:
    """Write a preview PNG of the first ``limit`` images (m, 3, S, S), small ones enlarged, with their titles."""
    shown = to_8_bits(images[:limit]).permute(0, 2, 3, 1).numpy()
    side = shown.shape[1]
    factor = max(1, 112 // side)
    cell, band = side * factor, 16 if titles else 0
    columns = min(columns, max(1, int(np.ceil(np.sqrt(len(shown) * 2)))))
    rows = -(-len(shown) // columns)
    gap = 4
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * (cell + band + gap) + gap), "white")
    from PIL import ImageDraw, ImageFont

    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for i, pixels in enumerate(shown):
        x, y = gap + (i % columns) * (cell + gap), gap + (i // columns) * (cell + band + gap)
        picture = Image.fromarray(pixels)
        sheet.paste(picture.resize((cell, cell), Image.Resampling.NEAREST) if factor > 1 else picture, (x, y))
        if titles:
            title = titles[i]
            while title and pen.textlength(title, font=font) > cell:
                title = title[:-1]
            pen.text((x, y + cell), title, fill="black", font=font)
    with whole_file(path) as temporary:
        sheet.save(temporary, format="PNG")


__all__ = ["DistilledSet", "Head", "folder_name", "folder_names", "save_grid", "to_8_bits"]
