"""Files are tied to their set: a changed digit, a file of another run, a deliberate edit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from helpers_runs import run_record
from probedistill import DistilledSet, UserError, export
from probedistill.distillation.new_folder import write_set
from probedistill.show.previews import save_sprite
from probedistill.store.distilled import rebuilt
from probedistill.store.sums import read_sums


def make_set(seed: int = 0) -> DistilledSet:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return DistilledSet(images, torch.arange(2), ("cat", "dog"), run_record(losses=[2.0, 1.0]))


@pytest.fixture
def saved(tmp_path):
    return make_set().save(tmp_path / "run")


FILES = ["run.json", "tensors.safetensors", "images/metadata.parquet", "images/cat/000.png"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_run_is_refused(saved, tmp_path, name):
    other = make_set(seed=1).save(tmp_path / "other")
    if name == "run.json":
        make_set(1).save(other)
        content = json.loads((other / name).read_text())
        (other / name).write_text(json.dumps({**content, "device": "elsewhere", "sha256": None}))
    if name == "images/metadata.parquet":
        (other / name).write_bytes((other / name).read_bytes().replace(b"dog", b"cow"))
    shutil.copy(other / name, saved / name)
    with pytest.raises(UserError, match=f"{name} has changed since it was written"):
        DistilledSet.load(saved)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["run.json", "images/metadata.parquet"])
def test_every_changed_digit_is_noticed(saved, file):
    whole = (saved / file).read_bytes()
    places = [at for at, byte in enumerate(whole) if chr(byte).isdigit()]
    for at in places[:: max(1, len(places) // 40)]:
        (saved / file).write_bytes(whole[:at] + str(9 - int(chr(whole[at]))).encode() + whole[at + 1 :])
        with pytest.raises(UserError) as caught:
            DistilledSet.load(saved)
        assert "\n" not in str(caught.value)


def test_a_deliberate_edit_can_be_accepted(saved, run_cli):
    content = json.loads((saved / "run.json").read_text())
    content["config"]["seed"] = 7
    (saved / "run.json").write_text(json.dumps(content))
    assert f"probedistill accept {saved}" in run_cli("info", saved).error()
    result = run_cli("accept", saved)
    assert result.out.splitlines() == ["accepted: run.json"]
    assert DistilledSet.load(saved).run.config.seed == 7
    assert run_cli("accept", saved).out == "nothing has changed\n"


def test_an_accepted_image_edit_becomes_the_runs_image(run_cli, tmp_path):
    before = make_set()
    write_set(tmp_path / "run", before, options={})
    path, shown = tmp_path / "run/images/cat/000.png", (tmp_path / "run/preview.png").read_bytes()
    first, last = (save_sprite(tmp_path / "run", step, DistilledSet.load(tmp_path / "run").images) for step in (0, 3))
    with Image.open(path) as image:
        size = image.size
    Image.new("RGB", size, (255, 0, 51)).save(path)
    assert run_cli("accept", tmp_path / "run").code == 0
    after = DistilledSet.load(tmp_path / "run")
    assert after.images[0, :, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    assert torch.equal(after.float_images[1:], before.float_images[1:])
    assert (tmp_path / "run/preview.png").read_bytes() != shown
    assert first.read_bytes() != last.read_bytes() == save_sprite(tmp_path / "now", 3, after.images).read_bytes()
    export(tmp_path / "run", tmp_path / "small", format="png", progress=False)
    assert torch.equal(DistilledSet.load(tmp_path / "small").images, after.images)
    assert run_cli("accept", tmp_path / "run").out == "nothing has changed\n"
    sums = (tmp_path / "run/SHA256SUMS").read_bytes()
    for harm in (lambda: path.write_bytes(b""), lambda: Image.new("RGB", (5, 5)).save(path)):
        harm()
        assert "cannot be accepted" in run_cli("accept", tmp_path / "run").error()
        assert (tmp_path / "run/SHA256SUMS").read_bytes() == sums


def test_line_ends_of_a_checkout_do_not_matter(saved, run_cli):
    """As Git writes text files on Windows."""
    for name in ("run.json", "SHA256SUMS", "README.md"):
        (saved / name).write_bytes((saved / name).read_bytes().replace(b"\n", b"\r\n"))
    assert run_cli("info", saved).code == 0
    assert DistilledSet.load(saved).run.losses == [2.0, 1.0]
    assert run_cli("accept", saved).out == "nothing has changed\n"


def test_files_that_a_system_adds_are_not_accepted(saved, run_cli):
    told = run_cli("info", saved).out
    for name in ("images/cat/Thumbs.db", "images/cat/._000.png", "images/cat/@eaDir/000.png", "._run.json"):
        (saved / name).parent.mkdir(exist_ok=True)
        (saved / name).write_bytes(bytes(5000))
    assert run_cli("accept", saved).out == "nothing has changed\n"
    assert run_cli("info", saved).out == told


def test_a_file_whose_name_is_no_text_can_be_accepted(saved, run_cli):
    path = os.fsencode(saved) + b"/images/cat/\xff.txt"
    try:
        with open(path, "wb") as file:
            file.write(b"mine")
    except OSError:
        pytest.skip("no such name on this disk")
    assert run_cli("accept", saved).out == "accepted: images/cat/\\udcff.txt\n"
    assert b"/\xff.txt\n" in (saved / "SHA256SUMS").read_bytes()
    assert run_cli("accept", saved).out == "nothing has changed\n"


def test_folders_that_are_not_sets_are_not_accepted(saved, run_cli):
    before = (saved / "SHA256SUMS").read_bytes()
    (saved / "images/cat/000.png").unlink()
    assert "is missing" in run_cli("accept", saved).error()
    assert (saved / "SHA256SUMS").read_bytes() == before


def test_the_sums_are_those_of_sha256sum(saved):
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum")
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=saved, check=True)


@pytest.mark.parametrize("harm", ["remove", "empty"])
def test_image_files_are_restored_from_the_float_images(saved, harm):
    path = saved / "images/cat/000.png"
    whole = path.read_bytes()
    path.unlink() if harm == "remove" else path.write_bytes(b"")
    with pytest.raises(UserError, match="float images are whole: repeat its command with resume=True"):
        DistilledSet.load(saved)
    assert torch.equal(rebuilt(saved).float_images, make_set().float_images)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["run.json", "tensors.safetensors", "SHA256SUMS", "README.md"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_not_read(saved, run_cli, name, kind):
    (saved / name).unlink()
    os.mkfifo(saved / name) if kind == "pipe" else (saved / name).symlink_to("/dev/zero")
    for command in ("info", "accept"):
        error = run_cli(command, saved).error()
        assert f"has {name!r}, which is a pipe or a device; remove it" in error


def test_a_pipe_among_the_images_is_not_accepted(saved, run_cli):
    path = saved / "images/cat/000.png"
    path.unlink()
    os.mkfifo(path)
    assert f"{str(path)!r} is not a file; restore or remove it" in run_cli("accept", saved).error()


@pytest.mark.parametrize("name", FILES[1:])
def test_accept_does_not_send_its_user_to_accept(saved, run_cli, name):
    (saved / name).unlink()
    error = run_cli("accept", saved).error()
    assert name in error
    assert "probedistill accept" not in error


def test_a_table_that_others_could_not_read_is_not_accepted(saved, tmp_path, run_cli):
    path = saved / "images/metadata.parquet"
    more = DistilledSet(torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 1]), ("cat", "dog"), run_record()).save(
        tmp_path / "b"
    )
    for content in (path.read_bytes()[:-9], (more / "images/metadata.parquet").read_bytes()):
        path.write_bytes(content)
        sums = (saved / "SHA256SUMS").read_bytes()
        error = run_cli("accept", saved).error()
        assert str(path) in error
        assert error.endswith("restore it")
        assert (saved / "SHA256SUMS").read_bytes() == sums


def test_a_table_with_another_column_is_accepted(saved, run_cli):
    path = saved / "images/metadata.parquet"
    table = parquet.read_table(path)
    parquet.write_table(table.append_column("caption", [["a cat", "a dog"]]), path)
    assert run_cli("accept", saved).code == 0
    assert len(DistilledSet.load(saved)) == 2


def test_accept_changes_nothing_if_it_refuses(saved, run_cli):
    """An edited run.json next to a missing image, and one that is no record of a run any more."""
    content = json.loads((saved / "run.json").read_text())
    image = (saved / "images/cat/000.png").read_bytes()
    for edit in ({"device": "elsewhere"}, {"losses": "none"}):
        (saved / "run.json").write_text(json.dumps(content | edit))
        (saved / "images/cat/000.png").unlink()
        before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
        run_cli("accept", saved).error()
        assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before
        (saved / "images/cat/000.png").write_bytes(image)


def test_an_image_file_of_a_terabyte_is_not_read(saved):
    with (saved / "images/cat/000.png").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"images/cat/000\.png is larger than any image"):
        DistilledSet.load(saved)


def test_many_lines_of_one_name_cost_little(saved):
    lines = (saved / "SHA256SUMS").read_text()
    (saved / "SHA256SUMS").write_text(lines + lines.splitlines(keepends=True)[0] * 200_000)
    assert len(read_sums(saved)) == len(lines.splitlines())
