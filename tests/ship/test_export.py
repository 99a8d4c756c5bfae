"""An export is a distilled set in small files: within its budget, nearest to the original, and scored as shipped."""

from __future__ import annotations

import functools
import json
import math
import shutil
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder

from conftest import TINY
from helpers_images import class_image
from helpers_runs import run_record
from probedistill import DistilledSet, RunConfig, UserError, distill, evaluate, load_splits
from probedistill.config import ImagesConfig
from probedistill.ship.export import _search, encode_image, export, feature_distance, pixel_error
from probedistill.store.distilled import Head
from probedistill.store.pixels import decode_files, to_8_bits
from probedistill.store.table import table_bytes

SIDE = 24


def make_set(names=("cat", "dog"), per_class: int = 2, size: int = SIDE, **extras) -> DistilledSet:
    rng = np.random.default_rng(0)
    labels = torch.arange(len(names)).repeat_interleave(per_class)
    pixels = np.stack([np.asarray(class_image(c, len(names), size, rng)) for c in labels.tolist()])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 + 1e-3  # as after optimisation: not on the 8-bit grid
    return DistilledSet(images, labels, tuple(names), run_record(device="x"), **extras)


def write(distilled: DistilledSet, folder, **options):
    return export(distilled, folder, progress=False, **options)


@pytest.fixture
def saved(tmp_path):
    write(make_set(), tmp_path / "small")
    return tmp_path / "small"


# ---------------------------------------------------------------- what is written


def test_layout(saved):
    files = sorted(str(p.relative_to(saved)) for p in saved.rglob("*") if p.is_file())
    assert files == [
        "README.md", "SHA256SUMS", "images/cat/000.webp", "images/cat/001.webp", "images/dog/000.webp",
        "images/dog/001.webp", "images/metadata.parquet", "run.json", "tensors.safetensors",
    ]  # fmt: skip
    lines = parquet.read_table(saved / "images/metadata.parquet").to_pylist()
    assert lines[3] == {"file_name": "dog/001.webp", "label": 1, "class_name": "dog"}


@pytest.mark.parametrize(("name", "suffix"), [("png", "png"), ("webp", "webp"), ("jpeg", "jpg")])
@pytest.mark.parametrize("size", [None, 10])
def test_loaded_images_equal_the_files(tmp_path, name, suffix, size):
    before = make_set()
    report = write(before, tmp_path / "small", format=name, image_size=size)
    after = DistilledSet.load(tmp_path / "small")
    files = sorted((tmp_path / "small/images").glob(f"*/*.{suffix}"))
    assert len(files) == len(after) == report.images == 4
    for i, path in enumerate(files):
        image = Image.open(path)
        assert image.format == name.upper()
        assert np.array_equal(np.asarray(image), to_8_bits(after.images)[i].permute(1, 2, 0).numpy())
    assert after.images.shape[-1] == report.image_size == (size or SIDE)
    assert torch.equal(after.images, after.float_images)
    assert torch.equal(after.labels, before.labels)
    assert after.class_names == before.class_names
    assert report.pixel_error == pytest.approx(pixel_error(before.images, after.images))


def test_png_is_lossless(tmp_path):
    report = write(make_set(), tmp_path, format="png")
    assert torch.equal(DistilledSet.load(tmp_path).images, make_set().images)
    assert (report.pixel_error, report.quality) == (0, None)


def test_run_json_keeps_the_run_and_adds_the_export(saved):
    run = json.loads((saved / "run.json").read_text())
    assert run["device"] == "x"
    assert run["finished"]
    images = sum(p.stat().st_size for p in saved.rglob("*.webp"))
    beside = sum((saved / name).stat().st_size for name in ("images/metadata.parquet", "tensors.safetensors"))
    assert run["export"] == {
        "format": "webp", "quality": 90, "image_size": SIDE, "bytes": images, "total_bytes": images + beside
    }  # fmt: skip


def test_soft_labels_and_head_come_along(tmp_path):
    generator = torch.Generator().manual_seed(0)
    soft = torch.rand(4, 2, generator=generator).softmax(1)
    head = Head(torch.rand(2, 5, generator=generator), torch.rand(2, generator=generator), "tiny", "f" * 64)
    write(make_set(soft_labels=soft, head=head), tmp_path)
    after = DistilledSet.load(tmp_path)
    assert torch.equal(after.soft_labels, soft)
    assert torch.equal(after.head.weight, head.weight)
    assert (after.head.encoder, after.head.fingerprint) == (head.encoder, head.fingerprint)


def test_extras_that_are_added_later_are_counted(saved):
    before = json.loads((saved / "run.json").read_text())["export"]
    soft = torch.full((4, 2), 0.5)
    replace(DistilledSet.load(saved), soft_labels=soft).save_extras(saved)
    after = json.loads((saved / "run.json").read_text())["export"]
    files = [p for p in saved.rglob("*") if p.is_file() and p.name not in ("run.json", "SHA256SUMS", "README.md")]
    assert after == {**before, "total_bytes": sum(p.stat().st_size for p in files)}
    assert after["total_bytes"] > before["total_bytes"]
    assert torch.equal(DistilledSet.load(saved).soft_labels, soft)


def test_torchvision_and_hugging_face_read_it(tmp_path):
    names = ["a/b", "..", "smörgås 日本", "Cat", "cat"]
    for name in ("jpeg", "webp"):
        write(make_set(names), tmp_path / name, format=name)
        assert len(ImageFolder(str(tmp_path / name / "images"))) == 10
        assert DistilledSet.load(tmp_path / name).class_names == tuple(names)
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "jpeg/images"), cache_dir=str(tmp_path / "hf"))
    assert sorted(data["train"]["label"]) == sorted(2 * list(range(5)))
    assert data["train"].features["label"].names == names


@pytest.mark.slow
def test_same_command_gives_the_same_bytes(tmp_path, encoder):
    for name in ("one", "two"):
        write(make_set(), tmp_path / name, max_bytes=1500, encoder=encoder)
    for path in (p for p in (tmp_path / "one").rglob("*.*") if p.suffix != ".safetensors"):  # has a random order
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_an_export_can_be_exported_and_saved(tmp_path, saved):
    loaded = DistilledSet.load(saved)
    write(loaded, tmp_path / "again", format="png")
    assert torch.equal(DistilledSet.load(tmp_path / "again").images, loaded.images)
    loaded.save(tmp_path / "full")
    assert DistilledSet.load(tmp_path / "full").run.export is None
    assert torch.equal(DistilledSet.load(tmp_path / "full").float_images, loaded.float_images)


# ---------------------------------------------------------------- the search within a budget


@pytest.mark.slow
@given(budget=st.integers(300, 12_000))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_budget_is_kept(tmp_path, budget):
    report = write(make_set(), tmp_path / "small", max_bytes=budget, overwrite=True)
    files = [p for p in (tmp_path / "small/images").rglob("*") if p.suffix != ".parquet" and p.is_file()]
    assert report.bytes == sum(p.stat().st_size for p in files) <= budget
    assert len(files) == 4


@pytest.mark.slow
def test_more_bytes_are_nearer(tmp_path, encoder):
    reports = [write(make_set(), tmp_path / str(b), max_bytes=b, encoder=encoder) for b in (300, 1000, 3000, 12_000)]
    distances = [r.feature_distance for r in reports]
    assert all(b < a for a, b in pairwise(distances)), distances
    assert reports[-1].format == "png"  # if everything fits, the lossless file is nearest
    assert reports[-1].pixel_error == 0
    assert distances[-1] == pytest.approx(0, abs=1e-6)


def test_it_is_the_best_that_fits(tmp_path):
    """Within the budget, no quality of any format and size in the search is nearer."""
    distilled, budget = make_set(), 900
    report = write(distilled, tmp_path, max_bytes=budget)
    pixels = to_8_bits(distilled.images).permute(0, 2, 3, 1).numpy()
    within = 0
    for name, qualities in {"webp": range(1, 101, 9), "jpeg": range(1, 101, 9), "png": [None]}.items():
        for size in (24, 19, 15, 12, 9, 7):
            for quality in qualities:
                files = [encode_image(p, name, quality, size) for p in pixels]
                if sum(map(len, files)) <= budget:
                    within += 1
                    assert report.pixel_error <= pixel_error(distilled.images, decode_files(files, size))
    assert within > 10


def test_format_and_size_narrow_the_search(tmp_path):
    report = write(make_set(), tmp_path / "one", max_bytes=3000, format="jpeg")
    assert (report.format, report.bytes <= 3000) == ("jpeg", True)
    report = write(make_set(), tmp_path / "two", max_bytes=900, image_size=9)
    assert (report.image_size, report.bytes <= 900) == (9, True)


@pytest.mark.slow
def test_the_smallest_budget_is_named_and_works(tmp_path):
    with pytest.raises(UserError, match="too small for 4 images, whose smallest files take") as caught:
        write(make_set(), tmp_path / "small", max_bytes=3)
    assert not (tmp_path / "small").exists()
    smallest = int(str(caught.value).split("take ")[1].split(";")[0])
    assert write(make_set(), tmp_path / "small", max_bytes=smallest).bytes == smallest
    with pytest.raises(UserError, match="too small"):
        write(make_set(), tmp_path / "smaller", max_bytes=smallest - 1)


@pytest.mark.slow
def test_many_images_are_compared_by_some(tmp_path):
    report = write(make_set(per_class=60, size=6), tmp_path, max_bytes=120 * 60)
    assert (report.images, report.bytes <= 120 * 60) == (120, True)


# ---------------------------------------------------------------- how far from the original


def test_distances_are_zero_for_equal_images_and_grow():
    images = make_set().images
    assert pixel_error(images, images) == 0
    assert pixel_error(images, images.clamp(0.1, 0.9) + 0.1) > 0
    assert pixel_error(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 10 / 255)) == pytest.approx(10)
    flat = torch.full((2, 3, 8, 8), 0.25)
    assert pixel_error(flat, flat[..., :2, :2]) == pytest.approx(0, abs=1e-4)  # resized back


def test_feature_distance():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2000, 16, generator=generator, dtype=torch.float64)
    others = torch.randn(2000, 16, generator=generator, dtype=torch.float64)

    def close(value: float, other: Tensor, tolerance: float = 1e-9) -> None:
        assert feature_distance(features, other) == pytest.approx(value, abs=tolerance)

    close(0, features)
    close(1, others, 0.05)
    mean = features.mean(0)
    close(0, mean + 3 * (features - mean))  # in the same directions
    close(2, mean - (features - mean))
    far = features + 100  # what all features share does not hide their differences
    assert feature_distance(far, others + 100) == pytest.approx(feature_distance(features, others), abs=1e-9)


# ---------------------------------------------------------------- damage, and what is not trusted


def _edit(path, **changes):
    run = json.loads(path.read_text())
    run["export"].update(changes)
    path.write_text(json.dumps(run))


def _other_image(path, size=SIDE):
    Image.new("RGB", (size, size)).save(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "images/cat/001.webp").unlink(),
        lambda f: shutil.rmtree(f / "images"),
        lambda f: (f / "images/cat/000.webp").write_bytes(b""),
        lambda f: (f / "images/cat/000.webp").write_bytes(b"noise"),
        lambda f: (f / "images/cat/000.webp").write_bytes((f / "images/cat/000.webp").read_bytes()[:-9]),
        lambda f: (f / "images/cat/000.webp").write_bytes((f / "images/dog/000.webp").read_bytes()),
        lambda f: _other_image(f / "images/cat/000.webp"),
        lambda f: ((f / "images/cat/000.webp").unlink(), (f / "images/cat/000.webp").mkdir()),
        lambda f: _edit(f / "run.json", image_size=SIDE - 1),
        lambda f: _edit(f / "run.json", image_size="big"),
        lambda f: _edit(f / "run.json", image_size=None),
        lambda f: _edit(f / "run.json", format="../../x"),
        lambda f: _edit(f / "run.json", format="png"),
        lambda f: _edit(f / "run.json", format=["webp"]),
        lambda f: (f / "run.json").write_text(
            (f / "run.json").read_text().replace('"cat"', '"../cat"')
        ),
        lambda f: (f / "run.json").write_text(
            (f / "run.json").read_text().replace('"export"', '"exported"')
        ),
        lambda f: (f / "tensors.safetensors").unlink(),
    ],
)  # fmt: skip
def test_damage_is_one_line(saved, damage):
    damage(saved)
    with pytest.raises(UserError, match="is damaged") as caught:
        DistilledSet.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions")
def test_file_names_in_metadata_are_not_followed(saved, tmp_path):
    before = DistilledSet.load(saved)
    _other_image(tmp_path / "secret.webp")
    _other_image(saved / "images/cat/002.webp")  # a file that the set does not have
    assert torch.equal(DistilledSet.load(saved).images, before.images)
    (saved / "images/metadata.parquet").write_bytes(table_bytes(["../../secret.webp"] * 4, [1] * 4, ["cat", "dog"]))
    with pytest.raises(UserError, match=r"images/metadata\.parquet has changed since it was written"):
        DistilledSet.load(saved)


def test_labels_without_a_class_are_damage(tmp_path):
    distilled = make_set()
    write(DistilledSet(distilled.images, distilled.labels, ("cat", "dog", "owl")), tmp_path)
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace('"cat",\n    "dog",\n    "owl"', '"cat"'))
    with pytest.raises(UserError, match="damaged"):
        DistilledSet.load(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    distilled = make_set()
    distilled.save(tmp_path / "run")
    (tmp_path / "else").mkdir()
    (tmp_path / "else/notes.txt").write_text("mine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds a run; choose another folder"):
            write(distilled, tmp_path / "run", overwrite=overwrite)
        with pytest.raises(UserError, match="holds something else; choose another folder"):
            write(distilled, tmp_path / "else", overwrite=overwrite)
    with pytest.raises(UserError, match="is a file; choose another folder"):
        write(distilled, tmp_path / "else/notes.txt")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_an_export_is_replaced_only_on_request(saved):
    with pytest.raises(UserError, match="holds an export; choose another folder or add overwrite=True"):
        write(make_set(), saved)
    (saved / "evaluation-tiny.json").write_text("{}")
    write(make_set(["owl"], per_class=1), saved, format="png", overwrite=True)
    files = sorted(str(p.relative_to(saved)) for p in saved.rglob("*") if p.is_file())
    assert files == [
        "README.md",
        "SHA256SUMS",
        "images/metadata.parquet",
        "images/owl/000.png",
        "run.json",
        "tensors.safetensors",
    ]


def test_an_interrupted_export_says_so_and_is_replaced(saved, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    before = DistilledSet.load(saved)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(UserError, match="No space left on device"):
            write(make_set(["owl"]), saved, overwrite=True)
    assert torch.equal(DistilledSet.load(saved).images, before.images)
    with monkeypatch.context() as patch:
        patch.setattr("probedistill.store.distilled.save_tensors", full)
        with pytest.raises(OSError, match="No space"):
            write(make_set(["owl"]), saved, overwrite=True)
    with pytest.raises(UserError, match="holds an unfinished export; repeat its command with overwrite=True"):
        DistilledSet.load(saved)
    write(make_set(["owl"]), saved, overwrite=True)
    assert DistilledSet.load(saved).class_names == ("owl",)


def test_a_killed_export_is_completed_by_the_same_command(saved, tmp_path, run_cli, monkeypatch):
    out = tmp_path / "out"

    def killed(folder, _):
        shutil.copytree(folder, out)  # the state if a process ends at this point
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("probedistill.store.distilled.write_sums", killed)
        with pytest.raises(OSError, match="No space"):
            write(DistilledSet.load(saved), tmp_path / "other")
    assert "an export that was stopped before it was complete" in " ".join(run_cli("info", out).out.split())
    assert run_cli("export", saved, "--out", out).code == 0
    assert DistilledSet.load(out).run.finished
    assert "holds an export" in run_cli("export", saved, "--out", out).error()


def test_a_first_export_that_fails_leaves_nothing_but_what_was_there(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    (tmp_path / "README.md").write_text("mine")
    monkeypatch.setattr("probedistill.store.distilled.write_sums", full)
    with pytest.raises(OSError, match="No space"):
        make_set(["owl"]).save(tmp_path / "new")
    with pytest.raises(OSError, match="No space"):
        make_set(["owl"]).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_an_encoder_that_returns_nan_leads_to_the_first_that_fits():
    pixels = to_8_bits(make_set(size=40).images)
    search = functools.partial(_search, pixels, 10**6, ("webp", "jpeg"), [40, 20], progress=False)
    assert search(error=lambda made: math.nan).about.format == "webp"
    assert search(error=lambda made: 1.0 if made.about.format == "jpeg" else math.nan).about.format == "jpeg"


# ---------------------------------------------------------------- evaluation and the command line


def test_an_export_is_scored_as_shipped(tmp_path, photos, encoder):
    train, test = load_splits(ImagesConfig(images=f"folder:{photos}"))
    write(make_set(size=40), tmp_path / "same", format="png")
    write(make_set(size=40), tmp_path / "tiny", image_size=1)
    options = {"seeds": 1, "views": 8, "baselines": [], "progress": False}
    dots = DistilledSet.load(tmp_path / "tiny")
    assert dots.images.shape[-2:] == (1, 1)
    flat = replace(dots, float_images=dots.images.expand(-1, -1, 40, 40).clone())
    full, same, tiny, coloured = (
        evaluate(s, encoder, train, test, **options).rows[0]
        for s in (make_set(size=40), DistilledSet.load(tmp_path / "same"), dots, flat)
    )
    assert same.scores == full.scores
    assert tiny.scores == coloured.scores  # a single pixel is an image of one colour


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    distill(f"folder:{photos}", TINY, steps=3, run=RunConfig(out=folder, progress=False))
    return folder


@pytest.mark.slow
def test_command(run_cli, run, tmp_path):
    out = tmp_path / "small"
    done = run_cli("export", run, "--out", out, "--bytes", 900, "--config", run / "config.yaml")
    assert done.code == 0, done.err
    report = DistilledSet.load(out).run.export
    assert report.bytes <= 900
    assert f"{report.bytes:,} bytes ({report.total_bytes:,} with metadata, labels and any head)" in done.out
    assert "feature distance" in done.out
    scored = run_cli("evaluate", out, "--config", run / "config.yaml", "--seeds", 1, "--views", 2, "--no-progress")
    assert scored.code == 0, scored.err
    assert "distilled" in scored.out
    assert f"{report.bytes / 1024:.0f} KiB as {report.format.upper()}" in run_cli("info", out).out
    done = run_cli("export", run, "--out", out, "--bytes", 2000, "--overwrite", "--no-progress")
    assert "chosen by pixels" in done.out
    assert not list(out.glob("evaluation-*.json"))


@pytest.mark.slow
def test_an_export_records_its_encoder_unless_that_is_code(run_cli, run, photos, tmp_path):
    known = ["--encoder", "timm:test_efficientnet@64", "--no-pretrained"]
    made = run_cli("distill", "--images", f"folder:{photos}", *known, "--steps", 1, "--out", tmp_path / "run")
    assert made.code == 0, made.err
    assert run_cli("export", tmp_path / "run", "--out", tmp_path / "small").code == 0
    content = yaml.safe_load((tmp_path / "small" / "config.yaml").read_text())
    assert content.items() >= {"encoder": "timm:test_efficientnet", "input_size": 64, "pretrained": False}.items()
    assert content.keys().isdisjoint({"images", "data_dir", "method"})
    moved = run_cli("migrate", tmp_path / "small", "--encoder", TINY, "--trust", "--out", tmp_path / "head")
    assert "Old encoders" in moved.out
    assert "test_efficientnet" in moved.out
    assert run_cli("export", run, "--out", tmp_path / "small", "--overwrite").code == 0
    assert not (tmp_path / "small" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "webb"], "unknown format 'webb'; did you mean 'webp'? known: jpeg, png, webp"),
        (["--quality", 101], "quality 101 must be from 1 to 100"),
        (["--quality", 0], "quality 0 must be from 1 to 100"),
        (["--quality", 50, "--format", "png"], "quality 50 is for webp and jpeg; png is lossless: leave it out"),
        (["--quality", 50, "--bytes", 900], "quality 50 cannot be combined with bytes 900, which sets the quality"),
        (["--image-size", 0], "image_size 0 must be from 1 to the images' own 32 pixels"),
        (["--image-size", 33], "image_size 33 must be from 1 to the images' own 32 pixels"),
        (["--bytes", 20], "bytes 20 is too small for 2 images, whose smallest files take"),
        (["--bytes", -5], "bytes -5 is too small for 2 images, whose smallest files take"),
        (["--bytes", 900, "--encoder", "efficientnet"], "unknown encoder 'efficientnet'; did you mean"),
        (["--bytes", "many"], "--bytes"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(run_cli, run, tmp_path, arguments, message):
    outcome = run_cli("export", run, "--out", tmp_path / "small", "--no-progress", *arguments)
    assert message in outcome.error()
    assert not list(tmp_path.iterdir())


def test_a_damaged_record_of_the_augmentation(run_cli, saved, tmp_path):
    content = json.loads((saved / "run.json").read_text())
    content["config"]["augment"]["flip"] = 2
    (saved / "run.json").write_text(json.dumps(content))
    error = run_cli("export", saved, "--out", tmp_path / "out", "--bytes", 900, "--no-progress").error()
    assert f"run file '{saved / 'run.json'}' is damaged: augment.flip 2" in error
    assert not (tmp_path / "out").exists()


def test_bad_folders_are_one_line(run_cli, run, tmp_path):
    assert "no such folder" in run_cli("export", tmp_path / "none", "--out", tmp_path / "small").error()
    assert "has no run.json" in run_cli("export", tmp_path, "--out", tmp_path / "small").error()
    assert "holds a run; choose another folder" in run_cli("export", run, "--out", run, "--overwrite").error()
    error = run_cli("export", run, "--out", run / "images" / "small").error()
    assert f"is inside the run '{run.name}'; choose a folder outside it" in error, "it would be a class of the run"
    assert "--out" in run_cli("export", run).error()


def test_oblong_images_are_refused(tmp_path):
    oblong = DistilledSet(torch.rand(1, 3, 8, 9), torch.zeros(1, dtype=torch.int64), ("cat",))
    with pytest.raises(UserError, match="9 × 8 pixels; only square images can be exported"):
        write(oblong, tmp_path / "small")


def test_an_export_of_a_run_with_a_damaged_config_is_whole(finished, run_cli, tmp_path):
    (finished / "config.yaml").write_text("encoder: [")
    done = run_cli("export", finished, "--out", tmp_path / "small", "--no-progress")
    assert done.code == 0, done.err
    assert len(DistilledSet.load(tmp_path / "small")) == 2
