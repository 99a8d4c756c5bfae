"""``hf:REPO``: Hugging Face datasets, from the hub or a local folder."""

from __future__ import annotations

import errno
import itertools
import os
import re
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import ImagesConfig
from ..errors import UserError, option
from ..extras import needed
from ..machine.network import asking_the_hub, check_waits
from ..machine.places import at_home
from ..machine.progress import ProgressBar, is_terminal
from ..methods import check_name
from ..text import and_more, counted, one_line
from .contents import UNREADABLE, digest_of_bytes, digests_of_files, remembered
from .decode import UnreadableImageError, decode_image
from .entries import IMAGE_SUFFIXES, archive_in, images_below, is_archive, is_system_folder
from .labelled import LabelledImages, digest_of
from .sources import Source, described


@described("hf:REPO", options=("image_column", "label_column"), is_path=True)
def hf_source(place: str, config: ImagesConfig) -> Source:
    """A data set of the Hugging Face hub, or of a local folder that `datasets` reads."""
    check_waits()
    datasets = needed("datasets", "hf", f"images {config.images!r} need")
    if not is_terminal(sys.stderr):
        datasets.disable_progress_bars()  # in a log file they would be lines of numbers
    bare = {name: data.with_format(None) for name, data in _opened(place, config, datasets).items()}
    labelled = _labelled_splits(bare, config)

    def read(split: str) -> LabelledImages:
        class_names, labels = _hf_labels(bare[split], split, config)
        try:
            encoded = bare[split].cast_column(config.image_column, datasets.Image(decode=False))
        except Exception as error:  # Arrow has its own errors
            raise UserError(
                f"image_column {config.image_column!r} of {config.images} has no images; "
                f"name another column: {', '.join(bare[split].column_names)}"
            ) from error
        rows = encoded.select_columns([config.image_column])
        loader = _HfLoader(rows, config.image_column, split, _own_folders(place, datasets))
        contents = _contents(loader, config.images, source.progress)
        return LabelledImages(
            class_names=class_names,
            labels=labels,
            names=[loader.name(i) for i in range(len(labels))],
            load=loader,
            spec=config.images,
            split=split,
            fingerprint=digest_of(
                "hf", config.image_column, config.label_column, *class_names, "\n", labels.astype("<i8").tobytes(),
                digest_of_bytes(b"".join(contents)),
            ),
            contents=contents,
        )  # fmt: skip

    source = Source(config.images, {split: partial(read, split) for split in labelled})
    return source


def _opened(place: str, config: ImagesConfig, datasets: Any) -> Any:
    """The splits of a data set by name, as `datasets` reads them."""
    local = at_home(Path(place))
    is_here = local.is_dir()
    if local.is_file() and is_archive(local.name):
        raise UserError(f"images {config.images!r} is an archive; unpack it and give {_UNPACKED}")
    if local.is_file():
        raise UserError(f"images {config.images!r} is a file; give its folder, hf:{local.parent}")
    way_out = "check the name, or give a folder with the data set, as hf:FOLDER"
    with asking_the_hub(f"images {config.images!r}", way_out, needed=not is_here):
        return _read(str(local) if is_here else place, config, datasets)


def _read(place: str, config: ImagesConfig, datasets: Any) -> Any:
    try:
        if any(os.path.exists(os.path.join(place, name)) for name in _OF_SAVE_TO_DISK):
            saved = datasets.load_from_disk(place)
            return saved if isinstance(saved, dict) else {"train": saved}
        builder = datasets.load_dataset_builder(place)
        _prepare(builder, place)
        splits = builder.as_dataset()
    except Exception as error:  # the hub client raises many types
        reason = error.__cause__ or error if type(error).__name__ == "DatasetGenerationError" else error
        why = one_line(str(reason).strip().split("\n")[0]) or type(reason).__name__
        way_out = "check the name and the network, or give a folder with the data set"
        file = os.path.abspath(str(getattr(reason, "filename", None) or "/"))
        if getattr(reason, "errno", None) in _UNWRITABLE and not file.startswith(os.path.abspath(place)):
            way_out = "the package datasets keeps a copy: set HF_HOME to a writable folder with free space"
        elif os.path.isdir(place) and images_below(Path(place)):
            way_out = f"correct its files, or give folder:{place} if it has one folder per class"
        elif os.path.isdir(place) and (packed := archive_in(Path(place))):
            way_out = f"unpack {packed!r} and give {_UNPACKED}"
        raise UserError(f"images {config.images!r} cannot be loaded ({why}); {way_out}") from error
    _check_one_order(builder, splits, config, datasets)
    if any(config.label_column in data.column_names for data in splits.values()):
        _check_class_folders(builder, place, config.images)
    return splits


def _prepare(builder: Any, place: str) -> None:
    """Have `datasets` read a data set, again if its files have other bytes than before.

    It knows files by their path and time, and unpacked archives may give all versions of a file the same time.
    """
    is_here = os.path.isdir(place)  # else it is from the hub, whose revisions have names
    named = itertools.chain.from_iterable((builder.config.data_files or {}).values()) if is_here else ()
    tables = [file for file in map(str, named) if os.path.splitext(file)[1][1:].lower() not in IMAGE_SUFFIXES]
    files = [file for file in tables if os.path.isfile(file)]
    if not files:
        builder.download_and_prepare()
        return
    note = Path(builder.cache_dir) / "contents-of-files"
    contents = digest_of_bytes(b"".join(digests_of_files(files, place=place, progress=False))).hex()
    before = note.read_text(encoding="utf-8", errors="replace") if note.is_file() else contents
    builder.download_and_prepare(download_mode=None if before == contents else "force_redownload")
    with suppress(OSError):
        note.write_text(contents, encoding="utf-8")


_UNPACKED = "folder:PATH if it has one folder per class, else hf:PATH"
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENOENT)
_OF_SAVE_TO_DISK = ("dataset_dict.json", "state.json")


def _check_one_order(builder: Any, splits: Mapping[str, Any], config: ImagesConfig, datasets: Any) -> None:
    """Refuse Parquet files that number their classes differently.

    `datasets` takes the names of the first file, or of the card, for the numbers in all of them.
    """
    column = config.label_column
    features: Mapping[str, Any] = next((data.features for data in splits.values() if column in data.column_names), {})
    used: list[str] = getattr(features.get(column), "names", None) or []
    files = [*itertools.chain.from_iterable((builder.config.data_files or {}).values())] if used else []
    found = ((os.path.basename(file), _names_in(file, column, datasets)) for file in files)
    named = [(file, names) for file, names in found if names is not None]
    if named and named[0][1] != used and sorted(named[0][1]) == sorted(used):  # otherwise the card renames the classes
        named.insert(0, ("the card, README.md", used))
    for file, names in named[1:]:
        first, numbers = named[0]
        number = next((i for i, (one, two) in enumerate(zip(names, numbers, strict=False)) if one != two), None)
        if number is not None:
            raise UserError(
                f"images {config.images!r}: label {number} is {names[number]!r} in {file} and {numbers[number]!r} in "
                f"{first}; write all files with the same names in the same order (in datasets: cast_column to one "
                "ClassLabel)"
            )


def _check_class_folders(builder: Any, place: str, spec: str) -> None:
    """Compare the images that `datasets` finds in a local folder with those that are there.

    `datasets` treats a class called train as a split and drops the other classes, does not follow links, and treats
    the system folders of a NAS as classes.

    Raises:
        UserError: Some of its images are in a system folder.
    """
    root = os.path.abspath(place)
    if not os.path.isdir(root) or builder.name != "imagefolder":
        return
    read = {str(file) for file in itertools.chain.from_iterable((builder.config.data_files or {}).values())}
    relative = sorted(os.path.relpath(file, root) for file in read if file.startswith(root + os.sep))
    added = [name for name in relative if any(map(is_system_folder, name.split(os.sep)[:-1]))]
    if added:
        raise UserError(
            f"images {spec!r}: {one_line(added[0])!r} is in a system folder, but the package datasets reads it "
            f"as an image; use folder:{place}, which ignores such folders"
        )
    left_out = [os.path.relpath(path, root) for path in images_below(Path(root)) if path not in read]
    if left_out and relative:
        warnings.warn(
            f"images {spec!r}: the package datasets ignored {one_line(left_out[0])!r}{and_more(len(left_out))}; "
            f"folder:{place} reads one folder per class, links included",
            stacklevel=2,
        )


def _names_in(file: str, column: str, datasets: Any) -> list[str] | None:
    """A Parquet file's names for the numbers in a column; ``None`` if it has none, or is not on this machine."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    path = _on_this_machine(str(file))
    if path is None or not path.lower().endswith(".parquet"):
        return None
    with suppress(ArrowException, OSError, ValueError, KeyError, TypeError):  # its metadata may be malformed
        return getattr(datasets.Features.from_arrow_schema(read_schema(path)).get(column), "names", None)
    return None


def _on_this_machine(place: str) -> str | None:
    """The path of a data file, perhaps one fetched from the hub; ``None`` if it is not on this machine."""
    fetched = re.fullmatch(r"hf://datasets/([^@]+)@([^/]+)/(.+)", place)
    if fetched is None:
        return place if os.path.isfile(place) else None
    from huggingface_hub import try_to_load_from_cache

    repo, revision, name = fetched.groups()
    found = try_to_load_from_cache(repo, name, revision=unquote(revision), repo_type="dataset")
    return found if isinstance(found, str) else None


def _labelled_splits(splits: Mapping[str, Any], config: ImagesConfig) -> list[str]:
    """Names of the splits that have labels; published test splits often have none, or only -1.

    Raises:
        UserError: No split has labels, or there is no such column.
    """
    columns = sorted({column for data in splits.values() for column in data.column_names})
    if columns == [config.image_column]:
        place = at_home(Path(config.images.partition(":")[2]))
        # datasets finds no labels if a folder is deeper than others, as system folders of a NAS are, or is called train
        if place.is_dir() and any(entry.is_dir() for entry in os.scandir(place)):
            raise UserError(
                f"images {config.images!r} have no labels, only the column {config.image_column!r}: the package "
                f"datasets finds none in these folders; use folder:{place}, which reads one folder per class"
            )
        raise UserError(
            f"images {config.images!r} have no labels, only the column {config.image_column!r}; put the images of each "
            "class into a folder of its own, or give a data set with labels"
        )
    for argument, column in (("image_column", config.image_column), ("label_column", config.label_column)):
        check_name(argument, column, columns, f"(in {config.images})")

    def has_labels(data: Any) -> bool:
        if not len(data) or not {config.image_column, config.label_column} <= set(data.column_names):
            return False
        first = data.select_columns([config.label_column])[0][config.label_column]
        return first is not None and first != -1

    labelled = [name for name, data in splits.items() if has_labels(data)]
    if not labelled:
        raise UserError(
            f"label_column {config.label_column!r} of {config.images} has no labels; "
            f"name another column: {', '.join(columns)}"
        )
    return labelled


def _own_folders(place: str, datasets: Any) -> tuple[str, ...]:
    """Folders whose files belong to a data set: its own, or the places where `datasets` keeps downloads."""
    local = at_home(Path(place))
    if local.is_dir():
        return (os.path.realpath(local),)
    from huggingface_hub.constants import HF_HUB_CACHE

    hub = os.path.join(HF_HUB_CACHE, "datasets--" + place.replace("/", "--"))
    return tuple(os.path.realpath(folder) for folder in (hub, datasets.config.EXTRACTED_DATASETS_PATH))


_ROWS_AT_ONCE = 256


def _contents(loader: _HfLoader, spec: str, progress: bool) -> list[bytes]:
    """A digest of each row's image; they are remembered while the files behind the table stay as they are.

    Raises:
        UserError: A row names a file that is not the data set's own.
    """
    rows = loader.data

    def make() -> list[bytes]:
        digests: list[bytes] = []
        files: dict[int, str] = {}
        with ProgressBar("reading images", len(rows), enabled=progress and len(rows) > 20_000) as bar:
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                block = rows[start : start + _ROWS_AT_ONCE][loader.column]
                for index, item in enumerate(block, start):
                    content = loader.content(item, spec, index)
                    if isinstance(content, str):
                        files[index] = content
                    digests.append(UNREADABLE if isinstance(content, str) else digest_of_bytes(content))
                bar.advance(len(block))
        for index, digest in zip(files, digests_of_files([*files.values()], place=spec, progress=progress)):
            digests[index] = digest
        return digests

    table = rows.data.column(loader.column)
    if any(chunk.field("bytes").null_count for chunk in table.chunks):
        return make()  # images in files of their own, whose digests are remembered one by one
    files_behind = [entry["filename"] for entry in rows.cache_files]
    return remembered(files_behind, f"{rows._fingerprint} {loader.column}", spec, len(rows), make)


def _hf_labels(data: Any, split: str, config: ImagesConfig) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    column = config.label_column
    values = list(data.select_columns([column])[:][column])
    if any(value is None or value == -1 for value in values):
        raise UserError(
            f"label_column {column!r} of {config.images} has images without a label in split {split!r}; "
            "name another split or another column"
        )
    if all(isinstance(value, float) and value.is_integer() for value in values):  # as from a table that had gaps
        values = [int(value) for value in values]
    names = getattr(data.features[column], "names", None)  # ClassLabel
    if names is not None:
        labels = np.asarray(values, dtype=np.int64)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
            odd = int(labels.max() if labels.max() >= len(names) else labels.min())
            raise UserError(
                f"label_column {column!r} of {config.images} has {counted(len(names), 'name')} and the label {odd} in "
                f"split {split!r}; write all files of the data set with the names of all its classes"
            )
        return tuple(names), labels
    if not all(isinstance(value, str | int) for value in values):
        raise UserError(
            f"label_column {column!r} of {config.images} has neither names nor whole numbers; "
            f"name another {option('label_column')} or make its values names"
        )
    present = sorted(set(values))
    place = {value: label for label, value in enumerate(present)}
    return tuple(str(value) for value in present), np.array([place[value] for value in values], dtype=np.int64)


@dataclass
class _HfLoader:
    """Decodes the image of a row: bytes in the row itself, or a file below the data set's own folders.

    A stranger's table may name any file of this computer. It must not end up in distilled images.
    """

    data: Any
    column: str
    split: str
    folders: tuple[str, ...]

    def __call__(self, index: int) -> Image.Image:
        item = self.data[index][self.column]
        if item is None or (item["bytes"] is None and not item["path"]):
            raise UnreadableImageError(f"{self.name(index)}: there is no image in this row")
        if item["bytes"] is None and not self._is_own(item["path"]):
            raise UnreadableImageError(f"{self.name(index)}: names a file outside the data set")
        return decode_image(item["path"] if item["bytes"] is None else item["bytes"], name=self.name(index))

    def name(self, index: int) -> str:
        """The name of a row."""
        return f"{self.split}/{index:06d}"

    def content(self, item: dict[str, Any] | None, spec: str, index: int) -> str | bytes:
        """The encoded image of a row or its path; no bytes for a row without an image."""
        if item is None or (item["bytes"] is None and not item["path"]):
            return b""
        if item["bytes"] is not None:
            return bytes(item["bytes"])
        packed = item["path"].partition("::")[2]  # as datasets 3 names a photo in an archive: zip://PATH::ARCHIVE
        if packed and self._is_own(packed):
            raise UserError(
                f"images {spec!r}: the photos are in the archive {one_line(os.path.basename(packed))!r}; unpack it and "
                f"give {_UNPACKED}"
            )
        if not self._is_own(item["path"]):
            raise UserError(
                f"images {spec!r}: row {self.name(index)} names the file {one_line(item['path'])!r} outside "
                "the data set; use a set whose rows contain the images, or folder: for your own folder"
            )
        return str(item["path"])

    def _is_own(self, path: str) -> bool:
        try:
            real = os.path.realpath(path)
            return any(os.path.commonpath([real, folder]) == folder for folder in self.folders)
        except ValueError:  # another drive, or not a path at all
            return False
