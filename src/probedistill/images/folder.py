"""``folder:PATH``: a folder for each class, optionally inside split folders."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..config import ImagesConfig
from ..errors import UserError
from .decode import as_utf8, decode_image
from .labelled import CLASSES_ARGUMENT, LabelledImages, check_classes, digest_of
from .sources import FOLDER_SPLITS, WHOLE, Source

_SIDECARS = frozenset({".txt", ".json", ".jsonl", ".csv", ".md", ".xml", ".yaml", ".yml"})
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})


class _FolderSource(Source):
    """A folder of class folders, or of split folders of class folders."""

    def __init__(self, spec: str, root: Path) -> None:
        self.root = root
        splits = [name for name in subfolders(root) if name.lower() in FOLDER_SPLITS]
        splits = [name for name in splits if subfolders(root / name)]
        super().__init__(spec, splits or [WHOLE], lambda split: self.load(split, None))
        self._split_folders = frozenset(splits)

    def load(self, split: str, classes: tuple[str, ...] | None, *, absent_ok: bool = False) -> LabelledImages:
        """Find the images of a split; only the folders of ``classes`` are listed."""
        parent = self.root / split if split in self._split_folders else self.root
        found = subfolders(parent)
        if not found:
            raise UserError(
                f"images {self.spec!r} have no class folders in {parent}; give a folder with one folder per class"
            )
        if classes is not None:
            check_classes(classes, found, CLASSES_ARGUMENT, self.spec, absent_ok)
        class_names = tuple(found) if classes is None else classes
        present = set(found)
        paths: list[str] = []
        labels: list[int] = []
        stamps: list[str] = []
        for label, name in enumerate(class_names):
            if name not in present:
                continue
            if name != as_utf8(name):
                raise UserError(
                    f"images {self.spec!r}: the class folder {as_utf8(name)!r} has a name that is not "
                    "UTF-8; rename it, or choose others with --classes"
                )
            for relative, size, mtime in sorted(_image_files(parent / name, name)):
                paths.append(relative if parent == self.root else f"{split}/{relative}")
                labels.append(label)
                stamps.append(f"{paths[-1]}\n{size}\n{mtime}")
        names = [as_utf8(path) for path in paths]
        return LabelledImages(
            class_names=class_names,
            labels=labels,
            names=names,
            load=_FileLoader(self.root, paths, names),
            spec=self.spec,
            split=split,
            fingerprint=digest_of("folder", *class_names, "\n", *stamps),
        )


@dataclass
class _FileLoader:
    root: Path
    paths: Sequence[str]
    names: Sequence[str]

    def __call__(self, index: int) -> Image.Image:
        return decode_image(self.root / self.paths[index], name=self.names[index])


def listing(path: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, by name."""
    try:
        with os.scandir(path) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UserError(f"images folder {str(path)!r} cannot be listed ({error.strerror}); allow reading it") from error


def subfolders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones left out."""
    return [entry.name for entry in listing(path) if entry.is_dir()]


def _image_files(folder: Path, prefix: str) -> Iterator[tuple[str, int, int]]:
    """Yield (relative path, size, mtime_ns) of what should be images; linked folders are not entered.

    Anything that is not a well-known sidecar counts, so that a wrong file is reported later
    and not lost in silence.
    """
    for entry in listing(folder):
        relative = f"{prefix}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _image_files(folder / entry.name, relative)
        elif entry.name.lower() in _SYSTEM_FILES or Path(entry.name).suffix.lower() in _SIDECARS:
            continue
        elif entry.is_file():
            status = entry.stat()
            yield relative, status.st_size, status.st_mtime_ns
        elif entry.is_symlink() and not entry.is_dir():
            yield relative, -1, -1  # a broken link is an image that cannot be read


def folder_source(place: str, config: ImagesConfig) -> Source:
    """A folder for each class, or such folders inside split folders."""
    root = Path(place).expanduser()
    if config.images != as_utf8(config.images):
        raise UserError(f"images {as_utf8(config.images)!r}: the path is not UTF-8; rename the folder")
    if not root.exists():
        siblings = subfolders(root.parent) if os.access(root.parent, os.R_OK) else []
        near = difflib.get_close_matches(root.name, siblings, n=1)
        mend = f"did you mean 'folder:{root.parent / near[0]}'?" if near else "check the path"
        raise UserError(f"images {config.images!r}: no such folder; {mend}")
    if not root.is_dir():
        raise UserError(f"images {config.images!r} is a file; give the folder with one folder per class")
    return _FolderSource(config.images, root)
