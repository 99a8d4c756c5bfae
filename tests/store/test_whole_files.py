"""Files that are complete or absent."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probedistill.errors import UserError
from probedistill.store.files import whole_file
from probedistill.store.tensors import TornFileError, load_tensors, save_tensors

TENSORS = {
    "level.0": torch.arange(6, dtype=torch.float32).view(1, 2, 3) / 7,
    "adam.step": torch.tensor(3.0),
    "indices": torch.tensor([5, -1, 2**40]),
    "mask": torch.tensor([True, False]),
    "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
    "brain": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
    "double": torch.tensor([1 / 3], dtype=torch.float64),
    "empty": torch.zeros(0, 4),
}
METADATA = {"step": 7, "skipped": ["a: ü"], "nested": {"x": None, "y": 0.1}}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(one[k].dtype == two[k].dtype and torch.equal(one[k], two[k]) for k in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "x.safetensors"
    save_tensors(path, TENSORS, METADATA)
    return path.read_bytes()


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)


# ---- tensors


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "folders" / "x.safetensors"
    save_tensors(path, TENSORS, METADATA)
    tensors, metadata = load_tensors(path)
    assert same(tensors, TENSORS)
    assert metadata == METADATA
    assert os.listdir(path.parent) == ["x.safetensors"]


@pytest.mark.parametrize("metadata", [None, {}])
def test_round_trip_of_nothing(tmp_path, metadata):
    save_tensors(tmp_path / "x", {}, metadata)
    assert load_tensors(tmp_path / "x") == ({}, {})


def test_views_and_parameters_are_saved_by_value(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    tensors = {"transposed": base.T, "row": base[1].clone()[1:3], "parameter": torch.nn.Parameter(base * 2)}
    save_tensors(tmp_path / "x", tensors)
    assert same(load_tensors(tmp_path / "x")[0], {k: v.detach().contiguous() for k, v in tensors.items()})


def test_loaded_tensors_outlive_the_file(tmp_path):
    path = tmp_path / "x"
    save_tensors(path, TENSORS)
    tensors, _ = load_tensors(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert same(tensors, TENSORS)


@pytest.mark.slow
def test_a_file_cut_at_any_byte_is_torn(tmp_path, whole):
    path = tmp_path / "x"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(TornFileError):
            load_tensors(path)
    path.write_bytes(whole)
    assert same(load_tensors(path)[0], TENSORS)


def test_a_file_with_extra_bytes_is_torn(tmp_path, whole):
    (tmp_path / "x").write_bytes(whole + b"\0")
    with pytest.raises(TornFileError):
        load_tensors(tmp_path / "x")


def read_altered(path: Path, altered: bytes) -> None:
    """Check for an error or the right data: white space in the header may change without harm."""
    path.write_bytes(altered)
    try:
        tensors, metadata = load_tensors(path)
    except TornFileError:
        return
    assert same(tensors, TENSORS)
    assert metadata == METADATA


@pytest.mark.slow
def test_a_flipped_byte_anywhere_is_never_wrong_data(tmp_path, whole):
    for position in range(len(whole)):
        for mask in (0x01, 0x20, 0xFF):
            altered = bytearray(whole)
            altered[position] ^= mask
            read_altered(tmp_path / "x", bytes(altered))


def test_a_flipped_bit_of_the_data_is_torn(tmp_path, whole):
    start = 8 + int.from_bytes(whole[:8], "little")
    assert len(whole) - start == sum(t.numel() * t.element_size() for t in TENSORS.values())
    for position in range(start, len(whole) - 2):  # the last two are booleans, whose other bits have no meaning
        altered = bytearray(whole)
        altered[position] ^= 1 << position % 8
        (tmp_path / "x").write_bytes(altered)
        with pytest.raises(TornFileError, match="does not match its own checksum"):
            load_tensors(tmp_path / "x")


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_stretch_is_never_wrong_data(tmp_path, whole, data):
    start = data.draw(st.integers(0, len(whole) - 1))
    stretch = data.draw(st.binary(min_size=1, max_size=min(40, len(whole) - start)))
    read_altered(tmp_path / "x", whole[:start] + stretch + whole[start + len(stretch) :])


@pytest.mark.parametrize("content", [b"", b"{}", b"\x02\0\0\0\0\0\0\0{}", b"not a file of ours " * 100])
def test_other_files_are_torn(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(TornFileError, match="truncated or not a file of probedistill"):
        load_tensors(tmp_path / "x")


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"a": 1} {}', "[]", "null"])
def test_a_digest_that_fits_other_metadata_is_no_excuse(tmp_path, text, run_cli, monkeypatch):
    """Anyone can write a file of statistics with a correct digest."""
    path, dumps = tmp_path / "theirs.stats", json.dumps
    monkeypatch.setattr(json, "dumps", lambda value, **how: dumps(value, **how) if value else text)
    save_tensors(path, TENSORS)
    with pytest.raises(TornFileError):
        load_tensors(path)
    assert "is damaged (" in run_cli("stats", path).error()


def test_files_are_in_the_library_s_format_and_have_the_same_bytes_each_time(tmp_path):
    from safetensors.torch import load_file

    save_tensors(tmp_path / "x", TENSORS, METADATA)
    assert same(load_file(tmp_path / "x"), TENSORS)
    save_tensors(tmp_path / "y", dict(reversed(TENSORS.items())), METADATA)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_other_programs_tensors_and_folders_are_torn(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "x")
    for path in (tmp_path / "x", tmp_path, tmp_path / "absent"):
        with pytest.raises(TornFileError):
            load_tensors(path)


# ---- whole or absent


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.json"
    path.write_text("old")
    expected = UserError if isinstance(error, OSError) else type(error)

    def write() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half of the ne")
            raise error

    with pytest.raises(expected):
        write()
    assert os.listdir(tmp_path) == ["x.json"]
    assert path.read_text() == "old"


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with whole_file(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    def write() -> None:
        with whole_file(tmp_path / "x.json"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        UserError, match=r"cannot write '.*x\.json': No space left on device; free some space"
    ) as caught:
        write()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [lambda path: save_tensors(path, TENSORS), lambda path: write_text(path, "x")])
def test_a_folder_that_cannot_be_written(tmp_path, save):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "deeper" / "x"):
        with pytest.raises(UserError, match=r"cannot write '.*x': (Not a directory|File exists)"):
            save(path)
    with pytest.raises(UserError, match="File name too long"):
        save(tmp_path / ("y" * 300) / "x")
    assert sorted(os.listdir(tmp_path)) == ["file"]
    (tmp_path / "folder" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write '.*x': Is a directory"):
        save(tmp_path / "folder" / "x")
    assert os.listdir(tmp_path / "folder") == ["x"]


def test_files_have_the_usual_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "x", "ü")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


KILLED = """
import os, sys
from pathlib import Path
from probedistill.store.files import whole_file

with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_the_next_writer_removes_a_killed_writers_file(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "page.html")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".part"
    with whole_file(tmp_path / "other.html") as temporary:
        temporary.write_text("x")
    assert left.exists(), "of another file: its own writer clears it"
    with whole_file(tmp_path / "page.html") as temporary:
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.html", "page.html"]
