"""A power loss at any moment: what was not synced is lost, and the run is finished or continues.

The test records what is durable: the content of a file at its last fsync, and the names in a folder at the folder's
last fsync. At every operation it makes two pictures of the disk: only the synced names (``lost``), and all names, but
only with synced content, so that other files are empty (``torn``).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from conftest import TINY
from probedistill import DistilledSet, UserError, distill, export

OPERATIONS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")
Picture = dict[str, bytes | None]
"""Path below the root → content; ``None`` for a folder."""


class Disk:
    """The part of a folder that would survive a power loss, at each operation so far."""

    def __init__(self, root: Path) -> None:
        self.root, self.pictures = root, {}
        self.operations, self.last = 0, {}
        self._held: dict[int, int] = {}
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._folders: set[int] = set()
        self._real = {name: getattr(os, name) for name in OPERATIONS}
        self._note_all()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patched:
            for name in OPERATIONS:
                patched.setattr(os, name, self._wrapped(name))
            yield
        self._picture()
        for handle in self._held.values():
            os.close(handle)

    def _wrapped(self, name: str) -> Callable[..., object]:
        def operation(*arguments: object, **options: object) -> object:
            self._picture()
            result = self._real[name](*arguments, **options)
            if name == "fsync":
                self._note(Path(os.readlink(f"/proc/self/fd/{arguments[0]}")))
            return result

        return operation

    def _note_all(self) -> None:
        """Files from before are on the disk."""
        for folder, _, files in os.walk(self.root):
            self._note(Path(folder))
            for file in files:
                self._note(Path(folder, file))

    def _note(self, path: Path) -> None:
        if self.root not in (path, *path.parents):
            return
        number = path.stat().st_ino
        if number not in self._held:  # kept open, so that its inode number is not reused when the file is removed
            self._held[number] = os.open(path, os.O_RDONLY)
        if path.is_dir():
            self._folders.add(number)
            self._names[number] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self._contents[number] = path.read_bytes()

    def _picture(self) -> None:
        self.operations += 1
        torn, self.last = self._torn(), self._lost()
        for picture in (torn, self.last):
            key = hashlib.sha256(repr(sorted(picture.items())).encode()).hexdigest()
            self.pictures.setdefault(key, picture)

    def _torn(self) -> Picture:
        found: Picture = {}
        for folder, folders, files in os.walk(self.root):
            at = Path(folder).relative_to(self.root)
            found |= {str(at / name): None for name in folders}
            found |= {str(at / name): self._contents.get(Path(folder, name).stat().st_ino, b"") for name in files}
        return found

    def _lost(self) -> Picture:
        found: Picture = {}
        everything = {path.stat().st_ino for path in self.root.rglob("*") if path.is_dir()} | self._folders

        def visit(number: int, at: Path) -> None:
            for name, inside in self._names.get(number, {}).items():
                is_folder = inside in everything and inside not in self._contents
                found[str(at / name)] = None if is_folder else self._contents.get(inside, b"")
                if is_folder:
                    visit(inside, at / name)

        visit(self.root.stat().st_ino, Path())
        return found


def lay_out(picture: Picture, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, content in sorted(picture.items()):
        path = place / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return place


def run(photos: Path, out: Path, **options: object) -> DistilledSet:
    return distill(
        f"folder:{photos}", TINY, out=out, steps=4, evaluate_every=2, checkpoint_seconds=0, progress=False, **options
    )


def whole(photos: Path, out: Path) -> DistilledSet:
    """The set in ``out``, after ``--resume`` if an error says so."""
    try:
        return DistilledSet.load(out)
    except UserError:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torn checkpoints
            return run(photos, out, resume=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_a_run_is_finished_or_resumes_after_a_power_loss(photos, tmp_path):
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    with disk.recorded():
        expected = run(photos, tmp_path / "disk/run")
    for picture in disk.pictures.values():
        place = lay_out(picture, tmp_path / "after")
        found = whole(photos, place / "run")
        assert torch.equal(found.float_images, expected.float_images)
        assert not list((place / "run").rglob("*.part"))
    last = lay_out(disk.last, tmp_path / "after")
    assert torch.equal(DistilledSet.load(last / "run").float_images, expected.float_images), "finished means finished"
    print(f"\n{disk.operations} operations, {len(disk.pictures)} states of the disk")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
@pytest.mark.parametrize("what", ["export", "labels"])
def test_exports_and_labels_after_a_power_loss(photos, tmp_path, what):
    distilled = run(photos, tmp_path / "disk/run")
    soft = torch.eye(2)
    disk = Disk(tmp_path / "disk")
    with disk.recorded():
        if what == "export":
            export(distilled, tmp_path / "disk/small", progress=False)
        else:
            from dataclasses import replace

            replace(distilled, soft_labels=soft).save_extras(tmp_path / "disk/run")
    states = set()
    for picture in disk.pictures.values():
        place = lay_out(picture, tmp_path / "after")
        if what == "labels":
            found = DistilledSet.load(place / "run")  # with labels or without, but never a mixture
            states.add(found.soft_labels is not None)
        else:
            assert torch.equal(DistilledSet.load(place / "run").float_images, distilled.float_images)
            options = {"overwrite": (place / "small/run.json").exists(), "progress": False}
            export(distilled, place / "small", **options)
            states = {False, True}
    assert states == {False, True}
    print(f"\n{what}: {disk.operations} operations, {len(disk.pictures)} states of the disk")
