"""What is in a folder: images, folders of classes, and what systems and programs add, which is neither."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError, first_line
from ..text import and_more, one_line

IMAGE_SUFFIXES = frozenset(
    [
        "avif", "bmp", "gif", "heic", "heif", "hif", "jp2", "jfif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "ppm",
        "tif", "tiff", "webp",
    ]
)  # fmt: skip
"""Suffixes of image files, without the dot; used only if nothing but names is known."""

SYSTEM_FOLDERS = frozenset(
    [
        "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb",  # NAS devices
        "@sharebin", "@synoresource", "~snapshot",
        "__macosx", "temporary items", "network trash folder", "thevolumesettingsfolder",  # macOS
        "$recycle.bin", "system volume information", "_gsdata_",  # Windows and its backup programs
        "lost+found", "__pycache__",
    ]
)  # fmt: skip
"""Folders that systems add, in lower case: neither classes nor inside them."""

_OF_WINDOWS = re.compile(r"RECYCLER|(found|FOUND)\.\d{3}")  # case-sensitive: a class may be called recycler

_HIDDEN = (
    ".@", ".apple", ".cache", ".dropbox", ".fseventsd", ".git", ".ipynb_checkpoints", ".picasa", ".spotlight", ".st",
    ".thumb", ".tmp", ".trash", ".sync", ".documentrevisions",
)  # fmt: skip
"""How hidden folders that programs add begin, in lower case; a warning names other hidden folders with images."""

_HIDDEN_FILES = ("._", ".trashed-", ".pending-", ".thumb")
"""How hidden files with image names begin: macOS metadata, Android's bin, thumbnails."""

_SYSTEM_FILES = frozenset(
    {".ds_store", ".localized", "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "desktop.ini", "icon\r"}
)
_SIDECARS = frozenset(
    [
        ".txt", ".json", ".jsonl", ".parquet", ".csv", ".md", ".xml", ".yaml", ".yml",
        ".aae", ".xmp", ".ini", ".lnk", ".url", ".identifier",  # photo programs and Windows
    ]
)  # fmt: skip
_ARCHIVES = frozenset([".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"])
RUNS = "runs of probedistill"  # their images are not photos
_DEEPEST = 50  # folders inside a class folder


def listing(path: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, by name.

    Raises:
        UserError: The folder cannot be listed.
    """
    return [entry for entry in _everything(path) if not entry.name.startswith(".")]


def _everything(path: Path) -> list[os.DirEntry[str]]:
    """As `listing`, with hidden entries."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        reason = f"images folder {one_line(str(path))!r} cannot be listed ({first_line(error)})"
        raise UserError(f"{reason}; allow reading it or remove it") from error


def subfolders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones and those that systems add."""
    return [entry.name for entry in listing(path) if _is_class_like(entry)]


def _hidden_folders(path: Path) -> list[str]:
    """Hidden folders that may be meant as classes: they contain images, and no system is known to create them."""
    hidden = [entry.name for entry in _everything(path) if entry.name.startswith(".") and is_folder(entry)]
    return [name for name in hidden if not name.lower().startswith(_HIDDEN) and has_images(path / name, 0)]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run or a set of probedistill; other programs write a run.json, too."""
    try:
        if not (folder / "run.json").is_file():  # a pipe would block
            return False
        with open(folder / "run.json", "rb") as file:
            return b'"kind": "run"' in file.read(200)
    except OSError:
        return False


def is_system_folder(name: str) -> bool:
    """Whether an operating system or a NAS box adds folders of that name."""
    return name.lower() in SYSTEM_FOLDERS or _OF_WINDOWS.fullmatch(name) is not None


def is_of_a_system(name: str) -> bool:
    """Whether an operating system or a NAS box adds files or folders of that name."""
    return name.lower() in _SYSTEM_FILES or name.startswith("._") or is_system_folder(name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_class_like(entry: os.DirEntry[str]) -> bool:
    return not is_system_folder(entry.name) and is_folder(entry)


def has_images(folder: Path, depth: int = 3) -> bool:
    """Whether a folder contains files with image names, up to ``depth`` folders deeper; runs do not count."""
    try:
        entries = listing(folder)
    except UserError:
        return False
    if is_run(folder):
        return False
    if any(_is_image_name(entry.name) and not is_folder(entry) for entry in entries):
        return True
    return depth > 0 and any(has_images(Path(entry.path), depth - 1) for entry in entries if _is_class_like(entry))


def is_archive(name: str) -> bool:
    """Whether a name is that of an archive or another packed file."""
    return os.path.splitext(name)[1].lower() in _ARCHIVES


def archive_in(folder: Path) -> str | None:
    """The name of the first archive in a folder."""
    return next((entry.name for entry in listing(folder) if is_archive(entry.name) and not is_folder(entry)), None)


def _is_image_name(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_SUFFIXES and "." in name


@dataclass
class LeftOut:
    """What is ignored in a class folder, to be reported in one line."""

    reasons: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        """Add a path that is ignored for a reason."""
        self.reasons.setdefault(reason, []).append(path)

    def warn(self, spec: str) -> None:
        """Warn once for each reason."""
        for reason, paths in self.reasons.items():
            first = one_line(paths[0] if len(paths[0]) <= 80 else paths[0][:79] + "…")
            warnings.warn(f"images {spec!r}: ignoring {reason}: {first!r}{and_more(len(paths))}", stacklevel=2)


def add_others(parent: Path, left_out: LeftOut, *, hidden: bool) -> None:
    """Add what lies next to the class folders and is not read; with ``hidden``, also hidden folders with images."""
    for name in _hidden_folders(parent) if hidden else []:
        left_out.add("hidden folders with images", name)
    for entry in listing(parent):
        if _is_image_name(entry.name) and not is_folder(entry):
            left_out.add("files next to the class folders", entry.name)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            left_out.add("broken links", entry.name)


def files_below(folder: Path) -> list[Path]:
    """Find everything in a folder and its subfolders that should be an image, by name; a warning names the rest.

    Raises:
        UserError: The folder cannot be listed, or contains no such file.
    """
    left_out = LeftOut()
    found = sorted(image_files(folder, ".", left_out))
    left_out.warn(str(folder))
    if not found:
        raise UserError(f"images folder {str(folder)!r} holds no images; give another one")
    return [folder / name for name in found]


def image_files(folder: Path, prefix: str, left_out: LeftOut) -> Iterator[str]:
    """Yield the relative path of everything that should be an image; linked folders are entered.

    Everything except well-known sidecar files counts, so that a wrong file is reported later and not silently ignored.
    Real folders come first and each is entered only once, so links cannot make a loop.
    """
    # A link up to the folder of all classes, or to the whole disk, does not lead to images of this class.
    # abspath, because the parents of photos/cat/.. are not above photos.
    seen = {_identity(above) for above in (*Path(os.path.abspath(folder)).parents, *folder.resolve().parents)}
    real, linked = [(folder, prefix, 0)], list[tuple[Path, str, int]]()
    while real or linked:
        here, name, depth = real.pop() if real else linked.pop(0)
        mark, why = _identity(here), None
        if mark in seen:
            why = "links to folders that are already read"
        elif depth > _DEEPEST:
            why = f"folders more than {_DEEPEST} deep"
        elif is_run(here):
            why = RUNS
        seen.add(mark)
        if why is not None:
            left_out.add(why, name)
            continue
        for entry in _everything(here):
            relative = f"{name}/{entry.name}"
            if entry.name.startswith("."):
                if entry.name.endswith(".icloud"):
                    left_out.add("photos that are only in iCloud (download them first)", relative)
                elif _is_image_name(entry.name) and not entry.name.startswith(_HIDDEN_FILES):
                    left_out.add("hidden files", relative)
            elif is_folder(entry):
                if not is_system_folder(entry.name):
                    (linked if entry.is_symlink() else real).append((here / entry.name, relative, depth + 1))
            elif is_archive(entry.name):
                left_out.add("archives (unpack them)", relative)
            elif _is_image(entry):
                yield relative


def own_files(folder: Path) -> list[Path]:
    """Files in a folder and those inside, sorted, without links to folders, hidden files and what systems add."""
    found: list[Path] = []
    for here, inside, names in os.walk(folder):
        inside[:] = [name for name in inside if not name.startswith(".") and not is_system_folder(name)]
        found += [Path(here, name) for name in names if not name.startswith(".") and name.lower() not in _SYSTEM_FILES]
    return sorted(found)


def images_below(folder: Path) -> list[str]:
    """Paths of files with image names in a folder, including linked folders, without system folders."""
    return [path for path in image_files(folder, str(folder), LeftOut()) if _is_image_name(os.path.basename(path))]


def _is_image(entry: os.DirEntry[str]) -> bool:
    if entry.name.lower() in _SYSTEM_FILES or os.path.splitext(entry.name)[1].lower() in _SIDECARS:
        return False
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:  # a link to itself counts as an unreadable image, like every broken link
        return True


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (-1, hash(path))
    return status.st_dev, status.st_ino
