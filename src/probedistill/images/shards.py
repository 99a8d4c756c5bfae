"""The tar files of a place: of a folder, a glob or a brace range; each belongs to a split."""

from __future__ import annotations

import glob
import os
import re
import stat
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, option
from ..machine.places import at_home
from ..text import and_more, as_utf8
from .entries import is_system_folder, listing, subfolders
from .sources import FOLDER_SPLITS, WHOLE

_MAX_SHARDS = 1_000_000


@dataclass(frozen=True)
class Shard:
    """A tar file: its path, its name, and its split."""

    path: Path
    name: str
    split: str
    size: int


def find_shards(place: str, spec: str) -> list[Shard]:
    """Return the tar files of a place, by name; each knows its split.

    Raises:
        UserError: There are none, one cannot be read, or only some name a split; the message calls the place ``spec``.
    """
    if "://" in place or place.startswith("pipe:"):
        raise UserError(f"images {spec!r}: shards are read from this machine; download them and give their folder")
    root = at_home(Path(place))
    if os.path.isdir(root):
        under = [root / name for name in subfolders(root) if name.lower() in FOLDER_SPLITS]
        found = [Path(entry.path) for folder in [root, *under] for entry in listing(folder)]
        paths = [path for path in found if _is_tar(path.name) and not path.is_dir()]
        packed = [path.name for path in found if re.search(r"\.(tar\.\w+|tgz)$", path.name.lower())]
        if not paths:
            way_out = f"decompress its shards, such as {packed[0]!r}" if packed else "give the folder of the shards"
            raise UserError(f"images {spec!r}: the folder has no .tar files; {way_out}")
        if packed:
            shown = f"{as_utf8(packed[0])!r}{and_more(len(packed))}"
            warnings.warn(f"images {spec!r}: ignoring {shown}; decompress what is to be read", stacklevel=2)
        _warn_of_other_folders(root, spec)
        base = root
    else:
        paths = [root] if os.path.exists(root) else _expanded(str(root), spec)
        base = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    shards = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(
                f"images {spec!r}: cannot read shard {str(path)!r} ({error.strerror}); correct the path"
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"images {spec!r}: shard {str(path)!r} is not a file; give tar files")
        name = os.path.relpath(path.absolute(), base.absolute()).replace(os.sep, "/")
        shards.append(Shard(path, name, _split_of_shard(name), status.st_size))
    shards.sort(key=lambda shard: shard.name)
    if len({shard.split == WHOLE for shard in shards}) > 1:
        named = next(shard for shard in shards if shard.split != WHOLE)
        other = next(shard for shard in shards if shard.split == WHOLE)
        raise UserError(
            f"images {spec!r}: shard {named.name!r} is of split {named.split!r}, but {other.name!r} of none; "
            "rename it or give a pattern that leaves it out"
        )
    return shards


def _warn_of_other_folders(root: Path, spec: str) -> None:
    """Warn of shards in folders without the name of a split: these are not read."""
    for name in subfolders(root):
        if name.lower() not in FOLDER_SPLITS and any(_is_tar(entry.name) for entry in listing(root / name)):
            warnings.warn(
                f"images {spec!r}: ignoring the shards in {as_utf8(name)!r}; "
                f"{option('images', f'wds:{root}/**/*.tar')} reads all folders inside",
                stacklevel=2,
            )
            return


def _is_tar(name: str) -> bool:
    return name.lower().endswith(".tar")


def _split_of_shard(name: str) -> str:
    """Return the split in a shard's folder or name, such as ``train/000.tar`` or ``x-val-000.tar``."""
    *folders, file = name.lower().split("/")
    for words in ([folders[-1]] if folders else [], re.split(r"[^a-z]+", file.removesuffix(".tar"))):
        found = next((word for word in words if word in FOLDER_SPLITS), None)
        if found is not None:
            return found
    return WHOLE


def _expanded(pattern: str, spec: str) -> list[Path]:
    """The paths that match a brace range or a glob, each once."""
    paths: dict[str, None] = {}
    for one in _without_braces(pattern, spec):
        if os.path.exists(one):
            matches = [one]
        elif any(c in one for c in "*?["):
            matches = [path for path in sorted(glob.glob(one, recursive=True)) if not _is_of_a_system(path, one)]
            if not matches:
                raise UserError(f"images {spec!r}: no shard matches {one!r}; check the pattern")
        else:
            raise UserError(f"images {spec!r}: no such shard {one!r}; check the path and the range")
        paths.update(dict.fromkeys(matches))
    return [Path(path) for path in paths]


def _is_of_a_system(path: str, pattern: str) -> bool:
    """Whether a path is in a folder that a system added, unless the pattern names that folder."""
    return any(is_system_folder(part) for part in Path(path).parts if part not in Path(pattern).parts)


def _without_braces(pattern: str, spec: str) -> list[str]:
    """Expand {000..146} and {a,b} as a shell does."""
    done, todo = [], [pattern]
    while todo:
        one = todo.pop()
        group = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", one)
        if group is None:
            done.append(one)
            continue
        first, last, words = group.groups()
        values: Iterable[str] = (words or "").split(",")
        count = len(words.split(",")) if words is not None else abs(int(last) - int(first)) + 1
        if count + len(todo) + len(done) > _MAX_SHARDS:
            raise UserError(f"images {spec!r} name more than {_MAX_SHARDS:,} shards; give a smaller range")
        if words is None:
            low, high = sorted((int(first), int(last)))
            width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
            values = (f"{number:0{width}d}" for number in range(low, high + 1))
        todo += [one[: group.start()] + value + one[group.end() :] for value in values]
    return sorted(done)
