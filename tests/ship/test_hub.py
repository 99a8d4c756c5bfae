"""push and hub:, against a stand-in of the hub's HTTP interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from helpers_hub import Hub
from helpers_runs import run_record
from probedistill import DistilledSet, UserError, export
from probedistill.ship.hub import push
from probedistill.store.named import run_folder
from probedistill.store.pixels import to_8_bits
from probedistill.store.run_record import ImagesRecord

NAMES = ("cat", "a b/c", "train", "[x]*")


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    found = Hub()
    # huggingface_hub 0 keeps addresses from when it was imported, and sessions that ask nobody if they began offline
    reset_sessions = getattr(_http, "reset_sessions", lambda: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", found.url)
    template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    reset_sessions()
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("PROBEDISTILL_CACHE", str(tmp_path / "cache"))
    yield found
    reset_sessions()
    found.stop()


def make_set(seed: int = 0) -> DistilledSet:
    images = torch.rand(len(NAMES), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    where = ImagesRecord(spec="folder:/home/me/secret/photos", split="train", count=9, fingerprint="ab" * 32)
    run = run_record(class_names=NAMES, images=where, test=where, skipped=("/home/me/secret/x.jpg: torn",))
    return DistilledSet(images, torch.arange(len(NAMES)), NAMES, run)


@pytest.fixture
def run(tmp_path) -> Path:
    also = '{"encoder": "timm:resnet18", "checkpoint": "/home/me/secret/w.pth", "device": "cpu"}'
    made = make_set()
    made.run.config.also = [also]
    folder = made.save(tmp_path / "run")
    (folder / "config.yaml").write_text(
        f"images: folder:/home/me/secret/photos\nencoder: x\ndata_dir: /home/me/secret\nalso:\n- {also}\n"
    )
    (folder / "held-out.txt").write_text("cat/1.png\n")
    (folder / "evaluation-x.json").write_text('{"spec": "/home/me/secret"}')
    return folder


@pytest.mark.slow
def test_what_is_pushed_comes_back(hub, run):
    push(run, "me/set")
    before, after = DistilledSet.load(run), DistilledSet.load("hub:me/set")
    assert torch.equal(before.float_images, after.float_images)
    assert after.class_names == NAMES
    assert sorted(hub.repos["me/set"].files) == sorted(
        p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and p.name != "evaluation-x.json"
    )


@pytest.mark.slow
def test_datasets_reads_a_repository_with_the_names_of_its_classes(hub, tmp_path):
    """In a separate process, because `datasets` reads the hub's address when it is imported."""
    names = ["b", "bullet train", "a: 'b'", "null", "1.0", "caf\u00e9", " x"]
    images = torch.rand(len(names), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    run = DistilledSet(images, torch.arange(len(names)), tuple(names)).save(tmp_path / "run")
    push(run, "me/set")
    code = """
import json, datasets
data = datasets.load_dataset("me/set", split="train")
rows = [(row["label"], row["class_name"], row["image"].tobytes().hex()) for row in data]
print(json.dumps([data.features["label"].names, rows]))
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    pixels = [image.permute(1, 2, 0).numpy().tobytes().hex() for image in to_8_bits(images)]
    assert json.loads(done.stdout) == [names, [list(row) for row in zip(range(len(names)), names, pixels)]]


@pytest.mark.slow
def test_an_export_is_pushed_unchanged(hub, run, tmp_path):
    export(DistilledSet.load(run), tmp_path / "small", progress=False)
    push(tmp_path / "small", "me/small")
    assert torch.equal(DistilledSet.load(tmp_path / "small").images, DistilledSet.load("hub:me/small").images)


@pytest.mark.slow
def test_no_folder_of_this_machine_is_published(hub, run):
    push(run, "me/set")
    for name, data in hub.repos["me/set"].files.items():
        assert b"secret" not in data, name
        assert b"/home/me" not in data, name
    assert json.loads(hub.repos["me/set"].files["run.json"])["images"]["spec"] == "folder:photos"
    also = {"encoder": "timm:resnet18", "checkpoint": "w.pth", "device": "cpu"}
    assert yaml.safe_load(hub.repos["me/set"].files["config.yaml"])["also"] == [also]
    assert json.loads(*json.loads(hub.repos["me/set"].files["run.json"])["config"]["also"]) == also


@pytest.mark.slow
def test_the_owners_card_is_pushed(hub, run):
    (run / "README.md").write_text("All mine.\n")
    push(run, "me/set")
    assert hub.repos["me/set"].files["README.md"] == b"All mine.\n"


@pytest.mark.slow
def test_revisions(hub, run, tmp_path):
    push(run, "me/set")
    make_set(seed=1).save(tmp_path / "other")
    push(tmp_path / "other", "me/set")
    first, newest = (DistilledSet.load(f"hub:me/set{revision}") for revision in ("@v1", ""))
    assert torch.equal(first.float_images, make_set().float_images)
    assert torch.equal(newest.float_images, make_set(seed=1).float_images)


@pytest.mark.slow
def test_cached_sets_are_not_fetched_again_and_work_without_a_network(hub, run, monkeypatch):
    push(run, "me/set")
    folder = run_folder("hub:me/set")
    hub.asked.clear()
    assert run_folder(Path("hub:me/set")) == folder
    assert not [one for one in hub.asked if "/resolve/" in one]
    hub.stop()
    assert run_folder("hub:me/set") == folder
    with pytest.raises(UserError, match="hub:me/other' cannot be found"):
        run_folder("hub:me/other")


@pytest.mark.slow
def test_a_dry_run_sends_nothing(hub, run):
    upload = push(run, "me/set", dry_run=True)
    assert "public: anyone can see it" in str(upload)
    assert "left out: evaluation-x.json" in str(upload)
    assert not hub.asked


@pytest.mark.slow
def test_private_and_public_are_not_mixed_up(hub, run):
    push(run, "me/set", private=True)
    assert hub.repos["me/set"].private
    with pytest.raises(UserError, match=r"exists and is private; add private=True"):
        push(run, "me/set")


@pytest.mark.slow
def test_without_a_token(hub, run, run_cli, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "no token for the Hugging Face hub; set HF_TOKEN" in run_cli("push", run, "me/set").error()
    assert not hub.asked


@pytest.mark.slow
def test_commands(hub, run, run_cli):
    said = run_cli("push", run, "me/set", "--private", "--dry-run")
    assert said.code == 0, said.err
    assert "private" in said.out
    assert "nothing was uploaded" in said.out
    said = run_cli("push", run, "me/set")
    assert said.code == 0, said.err
    said = run_cli("info", "hub:me/set")
    assert said.code == 0, said.err
    assert "4 images of 8 px" in said.out
    said = run_cli("export", "hub:me/set", "--out", run.parent / "small")
    assert said.code == 0, said.err


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["unfinished", "torn", "nothing"])
def test_incomplete_sets_are_not_pushed(hub, run, damage, tmp_path):
    if damage == "unfinished":
        from probedistill.store.run_record import read_run, write_run

        write_run(run, replace(read_run(run), finished=False))
    elif damage == "torn":
        (run / "images/0-cat/000.png").write_bytes(b"x")
    else:
        run = tmp_path / "nothing"
    with pytest.raises(UserError, match=r"unfinished|damaged|no such folder"):
        push(run, "me/set")
    assert not hub.asked


@pytest.mark.parametrize("repo", ["set", "a/b/c", "../x", "me/set@v1", "me/s t", ""])
def test_names_that_the_hub_refuses(run, repo):
    with pytest.raises(UserError, match="must be USER/NAME"):
        push(run, repo)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("images/0-cat/000.png", b"other", "damaged"),
        ("images/0-cat/000.png", None, "images/0-cat/000.png is missing"),
        ("tensors.safetensors", b"\x80\x04.", "damaged"),
        ("run.json", None, "not a probedistill set: it has no run.json"),
        ("run.json", b"{}", "not a probedistill run file"),
        ("SHA256SUMS", b"x", "damaged"),
    ],
)
def test_files_that_are_not_those_of_the_set(hub, run, file, content, says, tmp_path):
    push(run, "me/set")
    files = hub.repos["me/set"].files
    if content is None:
        del files[file]
    else:
        files[file] = content
    with pytest.raises(UserError, match=says) as caught:
        run_folder("hub:me/set")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("run.json"))


@pytest.mark.slow
def test_files_that_the_set_does_not_need_are_not_fetched(hub, run, tmp_path):
    push(run, "me/set")
    hub.repos["me/set"].files.update({"../../evil.py": b"x", "evil.py": b"x", "checkpoint.pth": b"x",
                                      "images/../../../evil.png": b"x"})  # fmt: skip
    folder = run_folder("hub:me/set")
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert not any("evil" in name or name.endswith(".pth") for name in found)
    assert not [one for one in hub.asked if "evil" in one]


@pytest.mark.parametrize("spec", ["hub:", "hub:me", "hub:me/set@", "hub:../me/set", "hub:me/set@/x"])
def test_names_that_are_not_repositories(spec):
    with pytest.raises(UserError, match="must be hub:USER/NAME"):
        DistilledSet.load(spec)
