"""``wds:PATH``: WebDataset shards, read in place from plain tar files."""

from __future__ import annotations

import itertools
import json
import re
import tarfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import ImagesConfig
from ..errors import UserError, option
from ..machine.threads import Workers
from ..text import counted, one_line, text_of
from .contents import UNREADABLE, digest_of_bytes, digests_of_files, remembered
from .decode import UnreadableImageError, decode_image, decoding, reason_of
from .entries import IMAGE_SUFFIXES, is_system_folder
from .labelled import LabelledImages, digest_of
from .shards import Shard, find_shards
from .sources import FOLDER_SPLITS, Source, described

_LABEL_MEMBERS = ("cls", "json")
_MAX_LABEL_BYTES = 1 << 20
_MAX_IMAGE_BYTES = 1 << 28
_MOST_COMPARED_BYTES = 1 << 32  # of shards per split: looking for duplicates reads them again


@dataclass(frozen=True)
class _Sample:
    """What a shard contains under one key: the place of the image, and the label."""

    name: str
    shard: int
    offset: int
    size: int  # of the image; -1 if there is none
    label: int | str | None
    fault: str | None = None  # why it cannot be used


@described("wds:FOLDER_OF_TARS", options=("image_column", "label_column"))
def wds_source(place: str, config: ImagesConfig) -> Source:
    """Shards of a folder, a glob or a brace range; split by their names or folders."""
    shards = find_shards(place, config.images)
    splits = sorted({shard.split for shard in shards})
    folders = {shard.path.parent for shard in shards}
    folders |= {folder.parent for folder in folders if folder.name.lower() in FOLDER_SPLITS}

    chosen = _chosen_kind(config)
    kind = "wds" if chosen is None else f"wds {chosen}"

    def read(split: str) -> LabelledImages:
        own = [shard for shard in shards if shard.split == split]
        with Workers(8) as workers:  # headers are scattered, so most of the time is spent waiting for the disk
            found = list(workers.map(lambda number: _read_index(number, own[number], config), range(len(own))))
        contents = digests_of_files([shard.path for shard in own], place=place, progress=source.progress)
        samples = [sample for samples in found for sample in samples]
        class_names, labels = _wds_labels(samples, folders, split, config)
        stamps = [f"{shard.name}\n{content.hex()}" for shard, content in zip(own, contents, strict=True)]
        loader = _TarLoader([shard.path for shard in own], samples)
        return LabelledImages(
            class_names=class_names,
            labels=labels,
            names=[sample.name for sample in samples],
            load=loader,
            spec=config.images,
            split=split,
            fingerprint=digest_of(kind, config.label_column, *class_names, "\n", *stamps),
            contents=_contents(loader, place) if sum(shard.size for shard in own) <= _MOST_COMPARED_BYTES else None,
        )

    source = Source(config.images, {split: partial(read, split) for split in splits})
    return source


def _contents(loader: _TarLoader, place: str) -> list[bytes]:
    """A digest of each sample's image; `UNREADABLE` for one that cannot be read."""
    places = "\n".join(f"{sample.shard} {sample.offset} {sample.size}" for sample in loader.samples)
    samples = range(len(loader.samples))

    def make() -> list[bytes]:
        with Workers(8) as workers:
            return list(workers.map(loader.digest, samples))

    return remembered(loader.paths, digest_of(places), place, len(samples), make)


_MOST_HEADER_BYTES = 1 << 24  # per member: its name, its attributes and the map of a sparse file


class _Headers:
    """A shard for tarfile to read, with bounds: a header may claim any size, even a negative one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left, self._last = file, _MOST_HEADER_BYTES, -1
        self.name, self.seek, self.tell, self.close = file.name, file.seek, file.tell, file.close

    def read(self, count: int) -> bytes:
        """Read bytes of headers."""
        self._left -= count
        if count < 0 or self._left < 0:
            raise tarfile.ReadError(f"a header of {count:,} bytes")
        return self._file.read(count)

    def next_of(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        """The next member. It must come after the previous one in the file, so that there is an end."""
        self._left = _MOST_HEADER_BYTES
        member = tar.next()
        tar.members = []  # type: ignore[attr-defined]  # else it keeps all of them
        if member is not None:
            if member.size < 0 or member.offset <= self._last:
                raise tarfile.ReadError(f"a member of {member.size:,} bytes")
            self._last = member.offset
        return member


@dataclass
class _TarLoader:
    paths: Sequence[Path]
    samples: Sequence[_Sample]

    def __call__(self, index: int) -> Image.Image:
        sample = self.samples[index]
        with self._read(sample) as content:
            return decode_image(content, name=sample.name)

    def digest(self, index: int) -> bytes:
        """The digest of an image's bytes; `UNREADABLE` for one that cannot be read."""
        try:
            with self._read(self.samples[index]) as content:
                return digest_of_bytes(content)
        except UnreadableImageError:
            return UNREADABLE

    @contextmanager
    def _read(self, sample: _Sample) -> Iterator[bytes]:
        if sample.fault is not None:
            raise UnreadableImageError(f"{sample.name}: {sample.fault}")
        with decoding.hold(sample.size // 4):  # four bytes a pixel; threads do not read all large members at once
            try:
                with open(self.paths[sample.shard], "rb") as file:  # per call: threads must not share a position
                    file.seek(sample.offset)
                    content = file.read(sample.size)
            except OSError as error:
                raise UnreadableImageError(f"{sample.name}: {reason_of(error)}") from error
            if len(content) < sample.size:
                raise UnreadableImageError(f"{sample.name}: its shard is cut short")
            yield content


def _read_index(number: int, shard: Shard, config: ImagesConfig) -> list[_Sample]:
    """Return the samples of a shard; those before the damage, with a warning, if it is damaged."""
    chosen = _chosen_kind(config)
    try:
        with open(shard.path, "rb") as file:
            held = _members(file, shard.size)
            if held.fault is not None and not held.found:
                raise tarfile.ReadError(held.fault)
            samples = [
                _read_sample(file, f"{shard.name}/{key}", number, members, config, shard.size)
                for key, members in held.found.items()
                if "cls" in members or any(_is_image(kind, chosen) or _is_of_image(kind) for kind in members)
            ]
    except UserError:
        raise
    except _TAR_ERRORS as error:
        hint = "decompress it: only plain tar files can be read" if _is_packed(shard.path) else "download it again"
        raise UserError(
            f"images {config.images!r}: shard {shard.name!r} is not a tar file that can be read ({_why(error)}); {hint}"
        ) from error
    if held.fault is not None:
        after = f"{counted(len(samples), 'sample')} ({held.fault})"
        line = f"shard {shard.name!r} of {config.images!r} is cut short or damaged after {after}"
        if config.strict:
            raise UserError(f"{line}; download it again, or leave {option('strict', True)} out to use those")
        warnings.warn(f"{line}; using those", stacklevel=2)
    if held.again:
        line = f"shard {shard.name!r} of {config.images!r} holds {held.again!r} more than once"
        if config.strict:
            raise UserError(f"{line}; give each sample its own key")
        warnings.warn(f"{line}; using the last one, as tar does", stacklevel=2)
    return samples


_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\3\4")
"""How files of gzip, bzip2, xz, Zstandard and zip begin."""


def _is_packed(path: Path) -> bool:
    """Whether a file is compressed, whatever its name."""
    try:
        with open(path, "rb") as file:
            return file.read(8).startswith(_PACKED)
    except OSError:
        return False


def _chosen_kind(config: ImagesConfig) -> str | None:
    """The part of image names after the key, such as ``left.jpg``; ``None`` if the user did not choose one."""
    column = config.image_column
    return None if column == ImagesConfig.image_column else column.lower().lstrip(".")


def _is_image(kind: str, chosen: str | None) -> bool:
    """Whether a member of a sample is its image: what follows the key is chosen, or the suffix of an image file."""
    return kind in IMAGE_SUFFIXES if chosen is None else kind == chosen


def _is_of_image(kind: str) -> bool:
    return kind.rpartition(".")[2] in IMAGE_SUFFIXES


@dataclass
class _Members:
    found: dict[str, dict[str, tuple[int, int]]]  # sample → kind → (offset, size)
    fault: str | None = None  # what is wrong with the rest of the shard
    again: str = ""  # the first name that occurs twice


def _members(file: BinaryIO, size: int) -> _Members:
    """The members of a shard.

    Names of members are labels of bytes here, never paths to write to. Of two members of one name the last one counts,
    as it does for tar.
    """
    held, end = _Members({}), 0
    with tarfile.open(fileobj=(headers := _Headers(file)), mode="r:") as tar:  # type: ignore[call-overload]
        try:
            while (member := headers.next_of(tar)) is not None:
                end = member.offset_data + member.size
                folder, _, base = member.name.rpartition("/")
                stem, _, kind = base.partition(".")
                system = any(is_system_folder(part) for part in folder.split("/"))
                if member.isreg() and not member.issparse() and stem and not system:
                    key = f"{folder}/{stem}" if folder else stem
                    members = held.found.setdefault(key, {})
                    held.again = held.again or (one_line(member.name) if kind.lower() in members else "")
                    members[kind.lower()] = (member.offset_data, member.size)
        except _TAR_ERRORS as error:
            held.fault = _why(error)
            return held
        file.seek(tar.offset)
        if end > size:
            held.fault = "unexpected end of data"
        elif file.read(512) != bytes(512):  # tarfile stops silently at a damaged header
            held.fault = "no end mark where the last member ends"
    return held


def _why(error: BaseException) -> str:
    return one_line(str(error)) or type(error).__name__


_TAR_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError, MemoryError)


def _read_sample(
    file: BinaryIO, name: str, shard: int, members: Mapping[str, tuple[int, int]], config: ImagesConfig, end: int
) -> _Sample:
    name = one_line(name)
    label, fault = _read_label(file, members, config.label_column)
    chosen = _chosen_kind(config)
    kinds = [kind for kind in members if _is_image(kind, chosen)]
    if len(kinds) > 1:
        raise UserError(
            f"images {config.images!r}: sample {name!r} has several images, {_listed(kinds)}; choose one for all "
            f"samples with {option('image_column', kinds[0])}, or give each its own key"
        )
    kind = next(iter(kinds), None)
    if kind is None:
        return _Sample(name, shard, 0, -1, label, fault or _no_image(members))
    offset, size = members[kind]
    if fault is None and offset + size > end:
        fault = "its shard is cut short"
    if fault is None and size > _MAX_IMAGE_BYTES:
        fault = f"{size} bytes; the limit is {_MAX_IMAGE_BYTES}"
    return _Sample(f"{name}.{kind}", shard, offset, size, label, fault)


def _no_image(members: Collection[str]) -> str:
    """Why a sample has no image; as in WebDataset, a key ends at the first dot of a name."""
    longer = [kind for kind in members if _is_of_image(kind)]
    if not longer:
        return "there is a label but no image"
    way_out = f"name it KEY.{longer[0].rpartition('.')[2]}, or choose it with {option('image_column', longer[0])}"
    return f"there is a label, but the only image is {_listed(longer)}; {way_out}"


def _listed(kinds: Collection[str]) -> str:
    return " and ".join(f".{kind}" for kind in itertools.islice(map(one_line, kinds), 4))


def _read_label(
    file: BinaryIO, members: Mapping[str, tuple[int, int]], field: str
) -> tuple[int | str | None, str | None]:
    """Return the label, or ``None`` and why there is none."""
    kind = next((kind for kind in _LABEL_MEMBERS if kind in members), None)
    if kind is None:
        return None, "it has no label (.cls or .json)"
    offset, size = members[kind]
    if size > _MAX_LABEL_BYTES:
        return None, f"its .{kind} has {size} bytes; the limit is {_MAX_LABEL_BYTES}"
    file.seek(offset)
    content = file.read(size)
    try:
        if len(content) < size:
            raise ValueError("cut short")
        text = content.decode("utf-8-sig")
        value = text.strip() if kind == "cls" else json.loads(text)[field]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        why = f"no field {field!r}" if isinstance(error, KeyError) else one_line(str(error))
        return None, f"its .{kind} has no label ({why})"
    if isinstance(value, str):
        value = _as_number(one_line(value), r"0|[1-9][0-9]{0,17}")
    if not ((type(value) is int and value >= 0) or (isinstance(value, str) and value)):
        return None, f"its .{kind} has no label ({str(value)[:40]!r} is neither a name nor a number from 0)"
    return value, None


def _as_number(label: int | str, form: str = "[0-9]{1,18}") -> int | str:
    """A label as a number if it is one in that form; 007 stays text at first, because a list may name it so."""
    return int(label) if isinstance(label, str) and re.fullmatch(form, label) else label


def _wds_labels(
    samples: Sequence[_Sample], folders: Collection[Path], split: str, config: ImagesConfig
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names of the classes that occur, and each sample's label."""
    given = {sample.label for sample in samples if sample.label is not None}
    if not given:
        why = next((f" ({sample.name}: {sample.fault})" for sample in samples if sample.fault), "")
        raise UserError(
            f"images {config.images!r} have no labelled samples in split {split!r}{why}; "
            "each needs KEY.jpg (or .png, .webp …) with KEY.cls, or KEY.json and its "
            f"{option('label_column')}"
        )
    names = _class_list(folders, config.images)
    if names is None:
        numbered = all(isinstance(_as_number(label), int) for label in given)
        name_of = {label: str(_as_number(label)) for label in sorted(given, key=int if numbered else str)}
    else:
        name_of = _names_of(given, samples, names, config.images)
    class_names = tuple(dict.fromkeys(name_of.values()))
    number = {name: i for i, name in enumerate(class_names)}
    # A sample without a label counts as an unreadable image, so its class does not matter.
    return class_names, np.array(
        [0 if sample.label is None else number[name_of[sample.label]] for sample in samples], dtype=np.int64
    )


def _names_of(
    given: Collection[int | str], samples: Sequence[_Sample], names: Sequence[str], spec: str
) -> dict[int | str, str]:
    """The class name of each label, in the order of ``names``; a label is a name or an index into that list."""
    place = {name: i for i, name in enumerate(names)}
    name_of: dict[int | str, str] = {}
    for label in given:
        number = _as_number(label)
        if str(label) in place:
            name_of[label] = str(label)
        elif isinstance(number, int) and number < len(names):
            name_of[label] = names[number]
        else:
            sample = next(sample for sample in samples if sample.label == label)
            raise UserError(
                f"images {spec!r}: label {label!r} of {sample.name} is not in classes.txt "
                f"({counted(len(names), 'name')}); add it there"
            )
    return dict(sorted(name_of.items(), key=lambda item: place[item[1]]))


def _class_list(folders: Collection[Path], spec: str) -> list[str] | None:
    path = next((folder / "classes.txt" for folder in sorted(folders) if (folder / "classes.txt").is_file()), None)
    if path is None:
        return None
    try:
        lines = text_of(path.read_bytes()).rstrip().split("\n")
        lines = [*itertools.dropwhile(re.compile(r"#(\s|$)").match, lines)]  # comments above the list
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"images {spec!r}: {str(path)!r} cannot be read ({one_line(str(error))}); correct it"
        ) from error
    names = [line.strip() or str(i) for i, line in enumerate(lines)]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"images {spec!r}: {str(path)!r} names {name!r} twice; give each class its own name")
        seen.add(name)
    return names
