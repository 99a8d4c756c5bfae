"""import: other people's sets become runs, no code in their files is run, and errors are one line."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from conftest import TINY
from helpers_images import make_image_folder
from probedistill import DistilledSet, UserError, load_encoder
from probedistill.ship.imported import read_set

IMAGES = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 0, 1, 1])


def saved(tmp_path, content):
    path = tmp_path / "data.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "content",
    [
        {"images": IMAGES, "labels": LABELS},
        {"syn_images": IMAGES.half(), "syn_labels": LABELS.int()},
        {"images": (IMAGES * 255).round().to(torch.uint8), "labels": LABELS},
        {"images": IMAGES.permute(0, 2, 3, 1), "labels": LABELS.float()},
        {"data": [[torch.zeros_like(IMAGES), LABELS], [IMAGES, LABELS]]},
        (IMAGES, LABELS),
        {"images": IMAGES.requires_grad_(), "labels": LABELS, "other": [1, "x"]},
        {"images": list(IMAGES.detach()), "labels": LABELS.tolist()},
    ],
    ids=["lgm", "half", "bytes", "channels last", "dc", "pair", "more", "lists"],
)
def test_tensors_of_usual_layouts(tmp_path, content):
    found = read_set(saved(tmp_path, content))
    assert torch.allclose(found.float_images, IMAGES.detach(), atol=2e-3)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.class_names == ("0", "1")


def test_safetensors(tmp_path):
    save_file({"images": IMAGES.detach(), "labels": LABELS}, tmp_path / "x.safetensors")
    assert torch.equal(read_set(tmp_path / "x.safetensors").float_images, IMAGES.detach())


def test_soft_labels_come_along(tmp_path):
    rows = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.0, 1.0]])
    found = read_set(saved(tmp_path, {"images": IMAGES, "labels": rows}))
    assert torch.equal(found.soft_labels, rows)
    assert found.labels.tolist() == [0, 0, 1, 1]


def test_images_without_labels_are_in_order(tmp_path):
    with pytest.warns(UserWarning, match="2 of each of 2 classes, class after class"):
        found = read_set(saved(tmp_path, IMAGES), classes=["cat", "dog"])
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.class_names == ("cat", "dog")


def test_an_image_folder(tmp_path):
    folder = make_image_folder(tmp_path / "set", per_class=2, size=20, splits=())
    Image.new("RGB", (30, 20)).save(folder / "cat" / "wide.png")
    found = read_set(folder)
    assert found.float_images.shape == (5, 3, 20, 20)
    assert found.class_names == ("cat", "dog")
    expected = np.asarray(Image.open(folder / "dog/0000.png"))
    assert np.array_equal((found.images[3] * 255).round().byte().permute(1, 2, 0).numpy(), expected)
    assert read_set(folder, image_size=10).float_images.shape[-1] == 10


def test_images_of_a_set_keep_the_names_of_their_classes(tmp_path):
    names = ("zebra", "train", "a/b")
    before = DistilledSet(IMAGES.detach(), torch.tensor([0, 1, 2, 2]), names)
    before.save(tmp_path / "run")
    (tmp_path / "run/images").rename(tmp_path / "sent")
    assert not set(names) & {path.name for path in (tmp_path / "sent").iterdir()}
    found = read_set(tmp_path / "sent")
    assert found.class_names == names
    assert torch.equal(found.images, before.images)
    assert found.labels.tolist() == [0, 1, 2, 2]
    assert read_set(tmp_path / "sent", classes=["a/b", "zebra"]).labels.tolist() == [1, 0, 0]
    (tmp_path / "sent/2-a%2Fb/000.png").rename(tmp_path / "sent/2-a%2Fb/other.png")
    assert read_set(tmp_path / "sent").class_names == ("0-zebra", "1-trai%6E", "2-a%2Fb"), (
        "not the set's table any more"
    )
    (tmp_path / "sent/metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        read_set(tmp_path / "sent")


def test_columns_are_for_parquet(tmp_path):
    for name in ("image_column", "label_column"):
        with pytest.raises(
            UserError, match=rf"{name} 'x' is for \.parquet files, and set '.*' is not one; leave it out"
        ):
            read_set(tmp_path, **{name: "x"})


def test_parquet_of_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)) for i in range(4)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["b", "a"])})
    data = datasets.Dataset.from_dict({"image": pictures, "label": [1, 0, 1, 0]}, features=features)
    data.to_parquet(tmp_path / "set.parquet")
    found = read_set(tmp_path / "set.parquet")
    assert found.class_names == ("b", "a")
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert [int(image.max() * 255) for image in found.images] == [0, 40, 80, 120]


def _parquet(path, labels):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="PNG")
    parquet.write_table(pa.table({"image": [{"bytes": file.getvalue()}] * len(labels), "label": labels}), path)
    return path


def test_names_in_the_file_are_reordered_but_never_replaced(tmp_path):
    """An image that the file calls a must not become c, only because c is first in the list."""
    path = _parquet(tmp_path / "set.parquet", ["b", "a", "c", "a"])
    found = read_set(path, classes=["c", "b", "a"])
    assert [found.class_names[label] for label in found.labels] == ["b", "a", "c", "a"]
    assert found.class_names == ("c", "b", "a")
    with pytest.raises(UserError, match="has the class 'a', which classes=… does not name"):
        read_set(path, classes=["x", "b", "c"])
    found = read_set(_parquet(tmp_path / "numbers.parquet", [1, 0, 1, 0]), classes=["cat", "dog"])
    assert [found.class_names[label] for label in found.labels] == ["dog", "cat", "dog", "cat"]


def test_names_that_are_numbers_keep_their_images(tmp_path):
    """The digits 10, 9 and 2 as text: neither their order as text nor that of a list may exchange them."""
    path = _parquet(tmp_path / "digits.parquet", ["10", "9", "2"])
    for classes, shown in (
        (None, ["10", "9", "2"]),
        (["2", "9", "10"], ["10", "9", "2"]),
        (["9", "10", "2"], ["10", "9", "2"]),
        (["two", "nine", "ten"], ["ten", "nine", "two"]),
    ):
        found = read_set(path, classes=classes)
        assert [found.class_names[label] for label in found.labels] == shown
    found = read_set(_parquet(tmp_path / "numbers.parquet", [0, 1, 2]), classes=["1", "2", "3"])
    assert [found.class_names[label] for label in found.labels] == ["1", "2", "3"]


def test_class_names_next_to_tensors_are_not_passed_over_in_silence(tmp_path):
    path = saved(
        tmp_path, {"images": torch.rand(2, 3, 8, 8), "labels": torch.tensor([1, 0]), "classes": ["owl", "cat"]}
    )
    with pytest.warns(UserWarning, match="has 'classes', which is not read, so its classes are called 0, 1 …; name"):
        assert read_set(path).class_names == ("0", "1")
    assert read_set(path, classes=["owl", "cat"]).class_names == ("owl", "cat")


def test_kinds_of_labels_in_parquet(tmp_path):
    found = read_set(_parquet(tmp_path / "gaps.parquet", [1.0, 0.0, 2.0]), classes=["cat", "dog", "owl"])
    assert [found.class_names[label] for label in found.labels] == ["dog", "cat", "owl"]
    with pytest.raises(UserError, match="'cat' and 'cat ' have the same name except for spaces"):
        read_set(_parquet(tmp_path / "spaces.parquet", ["cat", "dog", "cat "]))


def test_labels_that_count_from_1_are_reported(tmp_path):
    with pytest.warns(UserWarning, match=r"data.pth' has no image of class 0; if its labels count from 1, subtract 1"):
        assert len(read_set(saved(tmp_path, {"images": IMAGES.detach(), "labels": LABELS + 1})).class_names) == 3


@pytest.mark.parametrize("labels", [[0, None, 1], [[0], [1]], [0.0, float("nan")]], ids=["none", "lists", "nan"])
def test_rows_of_parquet_without_a_class_are_one_line(tmp_path, labels):
    with pytest.raises(UserError, match="rows without a class in column 'label'"):
        read_set(_parquet(tmp_path / "set.parquet", labels))


def test_arrays_in_a_pytorch_file_are_refused_without_pytorchs_advice(tmp_path):
    """PyTorch's own message suggests running code from the file."""
    with pytest.raises(UserError, match=r"cannot be read \(damaged, or not only tensors\)"):
        read_set(saved(tmp_path, {"images": IMAGES.detach().numpy(), "labels": LABELS}))


def test_the_first_bytes_decide_the_kind_of_file(tmp_path):
    save_file({"images": IMAGES.detach().contiguous(), "labels": LABELS}, tmp_path / "set.pt")
    assert torch.equal(read_set(tmp_path / "set.pt").labels, LABELS)


def test_paths_in_parquet_are_not_followed(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    rows = [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 2
    parquet.write_table(pa.table({"image": rows, "label": [0, 1]}), tmp_path / "set.parquet")
    with pytest.raises(UserError, match="no bytes of an image in row 0"):
        read_set(tmp_path / "set.parquet")


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"images": Evil()}, "data.pth")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("data.pth", "old.pt"):
        with pytest.raises(UserError, match="only tensors in lists and dictionaries are read"):
            read_set(name)
    assert not (tmp_path / "evil").exists()


BAD = {
    "normalised": ({"images": IMAGES * 4 - 2, "labels": LABELS}, r"from -\d.*outside \[0, 1\]; undo"),
    "bytes as floats": ({"images": IMAGES * 255, "labels": LABELS}, "divide them first"),
    "not a number": ({"images": IMAGES / 0, "labels": LABELS}, "not finite"),
    "grey": ({"images": IMAGES[:, :1], "labels": LABELS}, r"shape \(4, 1, 12, 12\)"),
    "few labels": ({"images": IMAGES, "labels": LABELS[:3]}, "4 images and 3 labels"),
    "half labels": ({"images": IMAGES, "labels": LABELS / 2}, "not whole numbers"),
    "below zero": ({"images": IMAGES, "labels": LABELS - 1}, "numbered from 0"),
    "far": ({"images": IMAGES, "labels": LABELS + 2**40}, "more classes than a set can have"),
    "other names": ({"weights": IMAGES}, "call them 'images' and 'labels'"),
    "text": ("hello", "holds a str"),
    "empty": ({"images": IMAGES[:0], "labels": LABELS[:0]}, "shape"),
    "large": ({"images": torch.zeros(1, 3, 1, 1).expand(300_000, 3, 1, 1), "labels": LABELS}, "more than a distilled"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_one_line(tmp_path, name):
    content, says = BAD[name]
    with pytest.raises(UserError, match=says) as caught:
        read_set(saved(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("empty", [lambda one: one.to_sparse(), lambda one: one.to("meta")], ids=["sparse", "meta"])
def test_tensors_without_plain_numbers_are_refused(tmp_path, empty):
    for content in ({"images": empty(IMAGES.detach()), "labels": LABELS}, {"images": IMAGES, "labels": empty(LABELS)}):
        with pytest.raises(UserError, match=r"has a sparse tensor or one without values; give plain tensors"):
            read_set(saved(tmp_path, content))


def test_archive_bombs_are_refused_before_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr("probedistill.ship.imported._MOST_BYTES", 2**20)
    plain = saved(tmp_path, {"images": torch.zeros(100, 3, 64, 64), "labels": torch.arange(100) % 2})
    with zipfile.ZipFile(plain) as file, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in file.namelist():
            bomb.writestr(name, file.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 2**15
    with pytest.raises(UserError, match="is larger than"):
        read_set(tmp_path / "bomb.pth")


def test_files_of_unknown_kinds(tmp_path, run_cli):
    (tmp_path / "x.zip").write_bytes(b"PK")
    (tmp_path / "x.pth").write_bytes(b"PK")
    (tmp_path / "x.parquet").write_bytes(b"PK")
    for name in ("x.zip", "x.pth", "x.parquet", "absent.pth"):
        run_cli("import", tmp_path / name, "--out", tmp_path / "run").error()
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_imported_run_is_like_any_other(tmp_path, photos, run_cli):
    file, run = saved(tmp_path, {"images": IMAGES[::2], "labels": LABELS[::2]}), tmp_path / "theirs"
    made = run_cli("import", file, "--classes", "cat", "dog", "--out", run)
    assert made.code == 0, made.err
    assert DistilledSet.load(run).class_names == ("cat", "dog")
    images = ["--images", f"folder:{photos}"]
    few = ["--views", 2, "--seeds", 1]
    for command in (
        ["evaluate", run, *images, "--encoder", TINY, *few],
        ["transfer", run, *images, "--encoders", TINY, "--out", tmp_path / "transfer", *few],
        ["export", run, "--out", tmp_path / "small"],
        ["report", run, "--out", tmp_path / "report.html"],
        ["info", run],
        ["geometry", run, *images, "--encoder", TINY],
    ):
        done = run_cli(*command)
        assert done.code == 0, (command, done.err)
    assert str(tmp_path) not in (run / "README.md").read_text()
    assert "already exists" in run_cli("import", file, "--out", run).error()


@pytest.mark.slow
def test_commands_that_need_the_sets_encoder_say_what_to_do_without_it(tmp_path, photos, run_cli):
    file, run = saved(tmp_path, {"images": IMAGES[::2], "labels": LABELS[::2]}), tmp_path / "theirs"
    assert run_cli("import", file, "--classes", "cat", "dog", "--out", run).code == 0
    images, few = ["--images", f"folder:{photos}"], ["--views", 1, "--seeds", 1]
    matrix = ["transfer", run, *images, "--encoders", TINY, "--out", tmp_path / "transfer", *few]
    (warning,) = [line for line in run_cli(*matrix).err.splitlines() if "centroids" in line]
    assert (
        "does not say which encoder it was made with; leave its centroids out with --baselines random full" in warning
    )
    assert "probedistill baseline --save centroids" in warning
    assert "centroids" not in run_cli(*matrix, "--baselines", "random", "full").err
    assert "leave out --probes inherited or the run" in run_cli(*matrix, "--probes", "inherited").error()
    score = ["evaluate", run, *few]
    error = run_cli(*score, *images, "--encoder", TINY, "--probes", "inherited").error()
    assert "leave --probes inherited out" in error
    assert "give --images and --encoder instead of --config" in run_cli(*score, "--config", run).error()
    error = run_cli("label", run, *images, "--encoder", TINY, "--keep-head").error()
    assert "does not say which encoder it was made with, and labels and head belong to that encoder" in error


@pytest.fixture
def known(tmp_path, run_cli):
    """A set with the photos' classes, imported with its encoder."""
    file, run = saved(tmp_path, {"images": IMAGES[::2], "labels": LABELS[::2]}), tmp_path / "theirs"
    encoder = ["--encoder", TINY, "--input-size", 24, "--device", "cpu"]
    assert run_cli("import", file, "--classes", "cat", "dog", *encoder, "--out", run).code == 0
    return run


def test_a_set_remembers_the_encoder_that_it_is_imported_with(known, run_cli):
    run = DistilledSet.load(known).run
    (encoder,) = run.encoders
    assert (encoder.name, encoder.input_size) == ("helpers_encoders:tiny", 24)
    assert encoder.fingerprint == load_encoder(TINY, input_size=24, device="cpu").fingerprint
    assert (run.method, run.made_elsewhere) == ("unknown", True)
    told = " ".join(run_cli("info", known).out.replace("│", " ").split())
    assert "unknown: another program made the images" in told
    assert "helpers_encoders:tiny at 24 px" in told
    assert "as stated when the set was imported" in told
    card = (known / "README.md").read_text()
    assert "tiny at 24 px (fingerprint" in card
    assert "synthetic" not in card, "nobody has said so"
    assert "To make it again" not in card


@pytest.mark.slow
def test_commands_that_need_the_sets_encoder_know_an_imported_sets(known, photos, run_cli, tmp_path):
    images, few = ["--images", f"folder:{photos}"], ["--views", 1, "--seeds", 1]
    matrix = ["transfer", known, *images, "--encoders", TINY, "--out", tmp_path / "transfer", *few, "--trust"]
    done = run_cli(*matrix)
    assert done.code == 0, done.err
    assert "does not say" not in done.err
    for command in (
        ["evaluate", known, *images, "--config", known, *few],
        ["label", known, *images, "--config", known, "--keep-head", "--soft-labels", "source"],
        ["evaluate", known, *images, "--config", known, "--probes", "inherited", *few],
        ["report", known, "--out", tmp_path / "report.html"],
    ):
        done = run_cli(*command)
        assert done.code == 0, (command, done.err)
        assert "made from other images" not in done.err
    error = run_cli("label", known, *images, "--encoder", TINY, "--keep-head").error()
    assert "was made with encoder helpers_encoders:tiny at 24 px, not with 'helpers_encoders:tiny' at 32 px" in error
    error = run_cli("audit", known, *images, "--config", known, "--shadows", 6, "--out", tmp_path / "a").error()
    assert "shadow sets repeat a distillation from photos" in error


def test_an_invalid_encoder_imports_nothing(tmp_path, run_cli):
    file, run = saved(tmp_path, {"images": IMAGES, "labels": LABELS}), tmp_path / "theirs"
    assert "did you mean" in run_cli("import", file, "--encoder", "efficientnet_lite9", "--out", run).error()
    assert "is too small" in run_cli("import", file, "--encoder", f"{TINY}@2", "--out", run).error()
    assert not run.exists()


def test_images_are_read_whole_or_not_at_all(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="PNG")
    rows = [{"bytes": file.getvalue(), "path": None}, {"bytes": b"torn", "path": None}]
    parquet.write_table(pa.table({"image": rows, "label": [0, 1]}), tmp_path / "set.parquet")
    with pytest.raises(UserError, match="row 1"):
        read_set(tmp_path / "set.parquet")


def test_a_run_is_not_imported(tmp_path):
    read = read_set(make_image_folder(tmp_path / "photos", per_class=1))
    read.save(tmp_path / "run")
    with pytest.raises(UserError, match="is already a run of probedistill"):
        read_set(tmp_path / "run")


def test_a_merged_set_has_no_steps_for_imported_parts(tmp_path, run_cli):
    for name in ("a", "b"):
        file = tmp_path / f"{name}.pth"
        torch.save({"images": torch.rand(2, 3, 32, 32), "labels": torch.arange(2)}, file)
        classes = [f"{name}0", f"{name}1"]
        assert run_cli("import", file, "--classes", *classes, "--out", tmp_path / "runs" / name).code == 0
    out = tmp_path / "runs" / "both"
    assert run_cli("merge", tmp_path / "runs" / "a", tmp_path / "runs" / "b", "--out", out).code == 0
    shown = run_cli("info", out).out
    assert "of folder:a.pth, not distilled here" in shown
    assert "step" not in shown


def test_a_damaged_import_is_made_again_and_not_resumed(tmp_path, run_cli):
    file, out = tmp_path / "a.pth", tmp_path / "run"
    torch.save({"images": torch.rand(2, 3, 32, 32), "labels": torch.arange(2)}, file)
    assert run_cli("import", file, "--out", out).code == 0
    (out / "images" / "0" / "000.png").unlink()
    error = run_cli("info", out).error()
    assert "make it again or restore it" in error
    assert "--resume" not in error


def _peak(code):
    """Peak of the memory in bytes of a process that runs the code, above what its imports take."""
    code = f"""
import resource
from probedistill.ship.imported import read_set
import pyarrow.parquet, scipy.stats, torch
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
{code}
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
def test_rows_that_share_one_stored_image_are_read_one_by_one(tmp_path):
    """A few kilobytes may stand for any number of copies of a large image, of its name and of its label."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="PNG")
    rows = 200

    def shared(value, kind):
        return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value], kind))

    large = {
        "image": shared(file.getvalue() + bytes(10_000_000), pa.binary()),
        "file_name": shared("x" * 10_000_000, pa.string()),
        "label": pa.array([0, 1] * (rows // 2)),
    }
    path = tmp_path / "set.parquet"
    parquet.write_table(pa.table(large), path, compression="zstd", dictionary_pagesize_limit=2**30)
    assert path.stat().st_size < 2**15
    assert _peak(f"assert len(read_set({str(path)!r})) == {rows}") < 4e8
    before = DistilledSet(IMAGES.detach(), LABELS, ("a", "b"))
    before.save(tmp_path / "run")
    path.rename(tmp_path / "run/images/metadata.parquet")
    assert _peak(f"assert len(read_set({str(tmp_path / 'run/images')!r})) == 4") < 4e8


@pytest.mark.slow
def test_large_images_are_decoded_one_by_one(tmp_path):
    for number in range(12):
        folder = tmp_path / "set" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4000, 4000), (20 * number, 0, 0)).save(folder / f"{number}.png")
    assert _peak(f"assert read_set({str(tmp_path / 'set')!r}, image_size=8).images.shape[-1] == 8") < 4.5e8


def test_repeated_values_are_refused_before_they_are_unpacked(tmp_path):
    few = torch.rand(1, 1, 1, 1)
    for content in (
        {"images": few.expand(2000, 3, 64, 64), "labels": torch.arange(2000) % 2},
        {"images": IMAGES.detach(), "labels": few[0, 0].expand(4, 10**9)},
    ):
        with pytest.raises(UserError, match=r"stores far fewer values and repeats them; save copies"):
            read_set(saved(tmp_path, content))
    grey = torch.rand(100, 1, 64, 64).expand(-1, 3, -1, -1)  # three channels, stored once
    assert len(read_set(saved(tmp_path, {"images": grey, "labels": torch.arange(2).repeat_interleave(50)}))) == 100
