"""A distilled set is a folder that other tools can read."""

from __future__ import annotations

import json
import os
import unicodedata
from dataclasses import replace

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from helpers_runs import run_record
from probedistill import DistilledSet, Head, UserError
from probedistill.show.previews import save_grid
from probedistill.store.layout import class_folders, safe_name
from probedistill.store.pixels import to_8_bits
from probedistill.store.run_record import SoftLabelsRecord
from probedistill.store.tensors import load_tensors, save_tensors

NASTY = ["a/b", "..", "smörgås 日本", "<script>alert(1)</script>", ".hidden", "Cat", "cat", "50%", "x " * 3,
         "__init__", "a*b[c]?", "con:aux", "aux", "a.", "\u200fleft", "\u05d0\u05d1", "%2E%2E", "{x}", "train",
         "night train", "test", "1dev2", "metadata.jsonl", "x" * 255, "#1", "a::b", "a~", "$HOME", "&", "'",
         '"']  # fmt: skip


def make_set(names=("cat", "dog"), per_class: int = 1, size: int = 12) -> DistilledSet:
    count = len(names) * per_class
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return DistilledSet(
        images, torch.arange(len(names)).repeat_interleave(per_class), tuple(names), run_record(device="x")
    )


@pytest.fixture
def saved(tmp_path):
    return make_set(per_class=2).save(tmp_path / "set")


def test_layout(saved):
    files = sorted(str(p.relative_to(saved)) for p in saved.rglob("*") if p.is_file())
    assert files == [
        "README.md", "SHA256SUMS", "images/cat/000.png", "images/cat/001.png", "images/dog/000.png",
        "images/dog/001.png",
        "images/metadata.parquet", "run.json", "tensors.safetensors",
    ]  # fmt: skip
    lines = parquet.read_table(saved / "images/metadata.parquet").to_pylist()
    assert lines[3] == {"file_name": "dog/001.png", "label": 1, "class_name": "dog"}


def test_round_trip(saved):
    before, after = make_set(per_class=2), DistilledSet.load(saved)
    assert torch.equal(before.float_images, after.float_images)
    assert torch.equal(before.labels, after.labels)
    assert after.labels.dtype == torch.int64
    assert before.class_names == after.class_names
    assert after.run.device == "x"
    assert after.save(saved) == saved  # saving in place again is allowed
    assert torch.equal(DistilledSet.load(saved).float_images, before.float_images)


def test_images_are_the_8_bit_values_of_the_files(saved):
    distilled = DistilledSet.load(saved)
    for i, name in enumerate(["cat/000", "cat/001", "dog/000", "dog/001"]):
        pixels = np.asarray(Image.open(saved / f"images/{name}.png"))
        assert np.array_equal(pixels, (distilled.images[i] * 255).round().permute(1, 2, 0).numpy())
    assert not torch.equal(distilled.images, distilled.float_images)
    assert float((distilled.images - distilled.float_images).abs().max()) <= 0.5 / 255 + 1e-6


def test_rounding_is_to_the_nearest_and_clipped():
    assert to_8_bits(torch.tensor([-1.0, 0.0, 0.6 / 255, 1.4 / 255, 1.0, 7.0])).tolist() == [0, 0, 1, 1, 255, 255]


def test_torchvision_reads_it(saved):
    data = ImageFolder(str(saved / "images"))
    assert data.classes == ["cat", "dog"]
    assert data.targets == [0, 0, 1, 1]
    expected = (DistilledSet.load(saved).images[2] * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(data[2][0]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("names", [["cat", "dog"], NASTY])
def test_hugging_face_reads_it(tmp_path, names):
    datasets = pytest.importorskip("datasets")
    folder = make_set(names, per_class=2).save(tmp_path / "set")
    data = datasets.load_dataset("imagefolder", data_dir=str(folder / "images"), cache_dir=str(tmp_path / "hf"))
    rows = sorted(data["train"], key=lambda row: row["label"])
    assert [row["label"] for row in rows] == [label for label in range(len(names)) for _ in "ab"]
    assert [row["class_name"] for row in rows] == [name for name in names for _ in "ab"]
    assert data["train"].features["label"].names == names
    assert rows[0]["image"].size == (12, 12)


def test_torchvision_reads_class_names_of_any_kind(tmp_path):
    folder = make_set(NASTY, per_class=2).save(tmp_path / "set")
    data = ImageFolder(str(folder / "images"))
    assert data.classes == class_folders(NASTY)
    assert [target for _, target in data.samples] == [label for label in range(len(NASTY)) for _ in "ab"]


def test_class_names_stay_inside_the_folder_and_apart(tmp_path):
    folder = make_set(NASTY).save(tmp_path / "set")
    assert DistilledSet.load(folder).class_names == tuple(NASTY)
    files = sorted((folder / "images").rglob("*.png"))
    assert len(files) == len(NASTY)
    assert all(p.parent.parent == folder / "images" for p in files)
    assert all(not p.parent.name.startswith(".") for p in files)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert len({safe_name(name) for name in NASTY}) == len(NASTY)


def test_a_set_from_a_disk_with_another_form_of_accents(tmp_path):
    """macOS archives may write é as two characters."""
    images = torch.rand(2, 3, 8, 8)
    folder = DistilledSet(images, torch.arange(2), ("zoo", "école")).save(tmp_path / "run")
    (folder / "images" / "école").rename(folder / "images" / unicodedata.normalize("NFD", "école"))
    assert torch.equal(DistilledSet.load(folder).float_images, images)


def test_same_set_gives_the_same_bytes(tmp_path):
    one, two = make_set().save(tmp_path / "one"), make_set().save(tmp_path / "two")
    for path in (p for p in one.rglob("*") if p.suffix in (".png", ".json", ".parquet")):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


# ---------------------------------------------------------------- soft labels and head


def with_both(distilled: DistilledSet) -> DistilledSet:
    head = Head(torch.arange(10.0).view(2, 5), torch.tensor([0.5, -0.5]), "tiny", "ab" * 32)
    return replace(distilled, soft_labels=torch.full((len(distilled), 2), 0.5), head=head)


@pytest.mark.parametrize("way", ["save", "save_extras"])
def test_soft_labels_and_head_come_back(saved, way):
    both = with_both(make_set(per_class=2))
    pngs = {path: path.stat().st_mtime_ns for path in saved.rglob("*.png")}
    getattr(both, way)(saved)
    again = DistilledSet.load(saved)
    assert torch.equal(again.soft_labels, both.soft_labels)
    assert torch.equal(again.head.weight, both.head.weight)
    assert torch.equal(again.head.bias, both.head.bias)
    assert (again.head.encoder, again.head.fingerprint) == ("tiny", "ab" * 32)
    assert again.head.num_bytes == 12 * 4
    assert torch.equal(again.float_images, both.float_images)
    assert again.run.device == "x"
    assert json.loads((saved / "run.json").read_text())["head"]["encoder"] == "tiny"
    assert "soft labels, head of tiny (48 bytes)" in repr(again)
    assert ({path: path.stat().st_mtime_ns for path in pngs} == pngs) == (way == "save_extras")
    assert "soft labels" not in repr(make_set())


def test_killed_while_adding_a_head_leaves_the_set_as_it_was(saved, monkeypatch):
    tensors = (saved / "tensors.safetensors").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(os, "rename", os.replace)
    with pytest.raises(KeyboardInterrupt):
        with_both(make_set(per_class=2)).save_extras(saved)
    assert (saved / "tensors.safetensors").read_bytes() == tensors
    again = DistilledSet.load(saved)
    assert again.head is None
    assert again.soft_labels is None


def test_extras_are_named_correctly_after_a_kill_between_two_files(saved, monkeypatch):
    def with_record(kind: str) -> DistilledSet:
        both = with_both(make_set(per_class=2))
        head = replace(both.head, encoder=f"{kind}'s", fingerprint=kind)
        return replace(both, head=head, run=replace(both.run, soft_labels=SoftLabelsRecord(kind=kind)))

    with_record("source").save_extras(saved)
    other = with_record("learned")
    with monkeypatch.context() as patched:
        patched.setattr(
            "probedistill.store.distilled.write_run", lambda path, run: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            other.save_extras(saved)
    assert json.loads((saved / "run.json").read_text())["soft_labels"]["kind"] == "source"
    again = DistilledSet.load(saved)
    assert again.run.soft_labels.kind == "learned"
    assert (again.head.encoder, again.head.fingerprint) == ("learned's", "learned")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("soft_labels", torch.full((4, 3), 1 / 3)),
        ("soft_labels", torch.full((3, 2), 0.5)),
        ("soft_labels", torch.full((4, 2), 0.6)),
        ("soft_labels", torch.tensor([[1.5, -0.5]] * 4)),
        ("soft_labels", torch.full((4, 2), float("nan"))),
        ("soft_labels", torch.ones(4, 2, dtype=torch.int64)),
        ("head.weight", torch.ones(3, 5)),
        ("head.weight", torch.ones(2)),
        ("head.weight", torch.full((2, 5), float("inf"))),
        ("head.bias", torch.ones(3)),
        ("head.bias", None),
    ],
)
def test_damaged_soft_labels_or_head(saved, name, value):
    with_both(make_set(per_class=2)).save(saved)
    tensors, metadata = load_tensors(saved / "tensors.safetensors")
    tensors[name] = value
    save_tensors(saved / "tensors.safetensors", {k: v for k, v in tensors.items() if v is not None}, metadata)
    with pytest.raises(UserError, match="damaged"):
        DistilledSet.load(saved)


def test_head_without_the_name_of_its_encoder(saved):
    with_both(make_set(per_class=2)).save(saved)
    tensors, metadata = load_tensors(saved / "tensors.safetensors")
    for entry in (None, "tiny", {"encoder": "tiny"}):
        save_tensors(saved / "tensors.safetensors", tensors, {**metadata, "head": entry})
        with pytest.raises(UserError, match="damaged"):
            DistilledSet.load(saved)


# ---------------------------------------------------------------- what is not a distilled set


def test_not_a_set(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        DistilledSet.load(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no run\.json"):
        DistilledSet.load(tmp_path)


def _edit(run_json, **changes):
    run = json.loads(run_json.read_text())
    run.update(changes, sha256=None)
    run_json.write_text(json.dumps({k: v for k, v in run.items() if v is not None}))


_DAMAGED = r"damaged|not complete JSON|no JSON object|not a probedistill run file"


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "run.json").write_text("{"),
        lambda f: (f / "run.json").write_text("[]"),
        lambda f: (f / "run.json").write_bytes(b"\xff\xfe"),
        lambda f: _edit(f / "run.json", class_names=None),
        lambda f: _edit(f / "run.json", class_names=["cat"]),
        lambda f: _edit(f / "run.json", kind="align"),
        lambda f: _edit(f / "run.json", config="clp"),
        lambda f: _edit(f / "run.json", encoders=[1]),
        lambda f: (f / "tensors.safetensors").unlink(),
        lambda f: (f / "tensors.safetensors").write_bytes(b"noise"),
        lambda f: os.truncate(f / "tensors.safetensors", 900),
        lambda f: (f / "tensors.safetensors").write_bytes(
            (f / "tensors.safetensors").read_bytes()[:-1] + b"\x01"
        ),
    ],
)  # fmt: skip
def test_damaged_set(saved, damage):
    damage(saved)
    with pytest.raises(
        UserError, match=r"damaged|not complete JSON|no JSON object|not a probedistill run file"
    ) as caught:
        DistilledSet.load(saved)
    assert "\n" not in str(caught.value)


def test_unfinished_run(saved):
    _edit(saved / "run.json", finished=False)
    with pytest.raises(UserError, match="unfinished run; repeat its command with resume=True"):
        DistilledSet.load(saved)


def test_saving_over_images_of_something_else(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="images that are not of a run"):
        make_set().save(tmp_path)
    assert (tmp_path / "images/holiday.jpg").read_bytes() == b"mine"
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def test_failure_while_saving_leaves_no_set(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"cannot write '.*images': No space left on device"):
        make_set().save(tmp_path / "set")
    assert not list((tmp_path / "set").rglob("*"))


def test_failure_while_saving_again_keeps_the_old_set(saved, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    before = DistilledSet.load(saved).float_images
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError):
        make_set(size=8).save(saved)
    assert torch.equal(DistilledSet.load(saved).float_images, before)


# ---------------------------------------------------------------- pictures of it


@pytest.mark.parametrize(("count", "side"), [(1, 12), (10, 12), (3, 150), (130, 8)])
def test_grid(tmp_path, count, side):
    images = torch.rand(count, 3, side, side)
    save_grid(tmp_path / "grid.png", images, [f"a long class name {i}" for i in range(count)], columns=10, limit=100)
    sheet = Image.open(tmp_path / "grid.png")
    sheet.load()
    assert sheet.mode == "RGB"
    factor = max(1, -(-112 // side))
    assert sheet.width >= side * factor
    pixels = np.asarray(sheet)[4 : 4 + side * factor : factor, 4 : 4 + side * factor : factor]
    assert np.array_equal(pixels, to_8_bits(images)[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("remove", "000.png is missing"),
        ("cut", "changed since it was written"),
        ("blacken", "changed since it was written"),
    ],
)
def test_a_set_whose_images_were_changed_does_not_load(tmp_path, harm, message):
    folder = make_set().save(tmp_path / "set")
    path = next((folder / "images").rglob("000.png"))
    if harm == "remove":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:50])
    else:
        with Image.open(path) as image:
            size = image.size
        Image.new("RGB", size).save(path)
    with pytest.raises(UserError, match=f"is damaged .*{message}"):
        DistilledSet.load(folder)


def test_sets_and_heads_are_found_in_lists(saved):
    """Like encoders and banks of features they are equal only to themselves."""
    sets = [DistilledSet.load(saved) for _ in range(2)]
    assert sets.index(sets[1]) == 1
    assert len({*sets, sets[0]}) == 2
    heads = [Head(torch.zeros(2, 3), torch.zeros(2), "tiny", "f") for _ in range(2)]
    assert heads.index(heads[1]) == 1


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (torch.rand(4, 3, 8, 8), torch.arange(3), r"labels are torch.int64 of the shape \(3,\); give an int64 tensor"),
        (torch.rand(4, 3, 8, 8), torch.arange(4) + 2, "labels are from 2 to 5, but there are 4 classes"),
        (torch.rand(4, 3, 8, 8), [0, 1, 2, 3], "labels are a list"),
        (torch.rand(4, 8, 8), torch.arange(4), "float_images are torch.float32 of the shape"),
        (np.zeros((4, 3, 8, 8)), torch.arange(4), "float_images are a ndarray; give a tensor of floats"),
    ],
)
def test_a_set_that_is_put_together_by_hand(images, labels, says):
    with pytest.raises(UserError, match=says):
        DistilledSet(images, labels, ("a", "b", "c", "d"))
