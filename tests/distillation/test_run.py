"""Runs: reproducible, resumable bit for bit after any interruption, and configurable."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import TINY, wait_for
from helpers_encoders import Tiny, TurnsNaN
from helpers_images import make_image_folder
from probedistill import (
    AugmentConfig,
    Callback,
    CanvasConfig,
    DistillConfig,
    DistilledSet,
    Encoder,
    LinearProbe,
    NonFiniteLossError,
    RunConfig,
    UserError,
    by_bytes,
    distill,
    evaluate,
    extract_features,
    load_encoder,
    load_images,
    load_splits,
)
from probedistill.distillation.beginnings import average_of
from probedistill.evaluation.real_sets import real_set
from probedistill.methods import flattened
from probedistill.store.accept import accept_edits
from probedistill.store.records import sealed
from probedistill.store.tensors import load_tensors, save_tensors

SLOW = "module:helpers_encoders:slow"


@pytest.fixture
def spec(photos) -> str:
    return f"folder:{photos}"


def quick(spec, encoder, **options):
    return distill(spec, encoder, **{"steps": 3, "progress": False, "evaluate_every": 0, **options})


# ---------------------------------------------------------------- the Python API


@pytest.mark.slow
def test_readme_in_ten_lines(spec, tmp_path):
    encoder = load_encoder(TINY, device="cpu")
    train, test = load_splits(spec)
    distilled = distill(train, encoder, test=test, method="sfm", steps=30, progress=False)
    assert isinstance(distilled, DistilledSet)
    scores = evaluate(distilled, encoder, train, test, seeds=2, views=4, full_views=0, progress=False)
    assert 0 <= scores["distilled"].top1 <= 1
    distilled.save(tmp_path / "set")
    again = DistilledSet.load(tmp_path / "set")
    assert torch.equal(again.images, distilled.images)
    with torch.no_grad():
        probe = LinearProbe("ridge").fit(encoder(again.images), again.labels)
    bank = extract_features(encoder, test, progress=False)
    assert probe.score(bank.centre.numpy(), bank.labels.numpy()) > 0.6


def test_without_a_folder_nothing_is_written(spec, encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    distilled = quick(spec, encoder)
    assert list(tmp_path.iterdir()) == []
    assert distilled.float_images.shape == (2, 3, 32, 32)
    assert len(distilled.run.losses) == 3


@pytest.mark.slow
def test_the_loss_falls(spec, encoder):
    for method in ("sfm", "lgm", "clp"):
        losses = quick(spec, encoder, method=method, steps=40).run.losses
        assert np.isfinite(losses).all()
        assert np.mean(losses[-5:]) < np.mean(losses[:5]), method


@pytest.mark.slow
def test_what_a_run_records(spec, encoder, tmp_path):
    distilled = distill(spec, encoder, steps=20, out=tmp_path / "run", progress=False)
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["finished"] is True
    assert run["encoders"][0]["fingerprint"] == encoder.fingerprint
    assert run["images"]["fingerprint"] == load_splits(spec)[0].fingerprint
    assert [step for step, _ in run["accuracy"]] == list(range(2, 21, 2))
    assert all(0 <= value <= 1 for _, value in run["accuracy"])
    assert run["versions"]["torch"] == torch.__version__
    assert run["seconds"] > 0
    assert DistilledSet.load(tmp_path / "run").run.losses == distilled.run.losses
    assert distilled.run.finished
    assert str(distilled.run.losses[0]) not in repr(distilled.run)  # of thousands of steps


def test_unknown_option(spec, encoder):
    with pytest.raises(UserError, match="unknown option 'stepps'; did you mean 'steps'"):
        quick(spec, encoder, stepps=3)


def test_class_with_one_image_among_loaded_images(encoder, photos):
    images = load_images(f"folder:{photos}")
    with pytest.raises(UserError, match=r"class 'dog' .* has 1 image; each class needs at least 2"):
        quick(images.select([0, 1, 2, 6]), encoder)


def test_images_of_one_class(encoder, photos):
    images = load_images(f"folder:{photos}")
    with pytest.raises(UserError, match="has only the class 'cat'; give images of at least 2 classes"):
        quick(images.with_classes(["cat"]), encoder)


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ({"images_per_class": 1.5}, "a whole number$"),
        ({"steps": "3"}, "a whole number$"),
        ({"micro_batch": "abc"}, "a whole number or auto$"),
        ({"lr": "fast"}, "a number or auto$"),
        ({"augment": {"flip": "0.5"}}, "a number$"),
        ({"method": "clp", "clp": {"real_per_class": "all"}}, "a whole number$"),
    ],
)
def test_values_that_are_not_numbers(spec, encoder, option, kind):
    *_, name = flattened(option)
    with pytest.raises(UserError, match=f"^{name} .* must be {kind}"):
        quick(spec, encoder, **option)


@pytest.mark.parametrize("option", [{"canvas": "pyramid"}, {"clp": 3.0}, {"augment": True}])
def test_parts_that_are_not_options(spec, encoder, option):
    (name,) = option
    with pytest.raises(UserError, match=f"{name} {option[name]!r} must be a dict of options, such as {{"):
        quick(spec, encoder, **option)


# ---------------------------------------------------------------- reproducible


@pytest.mark.parametrize("method", ["sfm", "lgm", "clp"])
def test_seeds(spec, encoder, method):
    options = {"method": method, "augment": AugmentConfig(noise_prob=0.5), "real_views": 1}
    one, same, other = (quick(spec, encoder, seed=s, **options).float_images for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=1e-3)


def test_global_random_state_has_no_effect(spec, encoder):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    one = quick(spec, encoder).float_images
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert torch.equal(one, quick(spec, encoder).float_images)


# ---------------------------------------------------------------- interrupted and resumed


@pytest.fixture(scope="module")
def unbroken(photos) -> torch.Tensor:
    """The images of a slow run that nothing interrupted."""
    return quick(f"folder:{photos}", SLOW, steps=40, evaluate_every=10).float_images


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_killed_process_resumes_bit_for_bit(fork, run_cli, photos, tmp_path, unbroken, number, code):
    out = tmp_path / "run"
    command = ["distill", "--images", f"folder:{photos}", "--encoder", SLOW, "--steps", 40, "--evaluate-every", 10,
               "--checkpoint-seconds", 0.05, "--out", out]  # fmt: skip
    process = fork(*command)
    wait_for(lambda: list(out.glob("checkpoints/step-*")) or not process.running)
    process.kill(number)
    found, err = process.end(), process.log.read_text()
    assert found == code, err
    if number != signal.SIGKILL:
        assert "--resume" in err.splitlines()[-1]
        assert "Traceback" not in err
    state = json.loads((out / "run.json").read_text())
    assert state["finished"] is False
    saved = [int(p.stem.split("-")[1]) for p in out.glob("checkpoints/step-*.safetensors")]
    assert 0 < max(saved) < 40, "it was not stopped midway"

    result = run_cli(*command, "--resume")
    assert result.code == 0, result.err
    resumed = DistilledSet.load(out)
    assert torch.equal(resumed.float_images, unbroken)
    assert len(resumed.run.losses) == 40
    assert [step for step, _ in resumed.run.accuracy] == [10, 20, 30, 40]
    assert not (out / "checkpoints").exists()
    assert not list(out.rglob("*.part"))


def _stopped(spec: str, out: Path, after: float = 0.5, **options) -> Path:
    """Leave an unfinished run with two checkpoints in ``out``: it ends because its encoder turns to NaN."""
    model = TurnsNaN()
    broken = Encoder(model, name="tiny", input_size=32, mean=model.mean, std=model.std, identity="same")
    with pytest.raises(NonFiniteLossError):
        quick(spec, broken, out=out, checkpoint_seconds=0, **options)
    return out


class _AtMost(Tiny):
    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, images):
        assert len(images) <= self.most, "too many"
        return super().forward(images)


def test_an_encoder_that_takes_few_images_at_a_time_is_told_micro_batch(spec):
    """Its checks have seen a handful of images, and features are extracted 64 at a time."""

    def at_most(number):
        return Encoder(_AtMost(number), name="few", input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)

    with pytest.raises(UserError, match=r"'few' fails with \d+ images at a time \(too many\); try micro_batch=64$"):
        quick(spec, at_most(64), views=40)
    assert quick(spec, at_most(64), views=40, micro_batch=64).images.isfinite().all()
    with pytest.raises(UserError, match=r"fails with \d+ images at a time \(too many\); let it take 64 at a time$"):
        quick(spec, at_most(10))


def test_a_loss_that_is_not_finite_at_once_is_not_blamed_on_the_rate(spec):
    class AtOnce(Tiny):
        def forward(self, images):  # the check of the gradient has fewer
            return super().forward(images) * (float("nan") if images.requires_grad and len(images) > 8 else 1.0)

    encoder = Encoder(AtOnce(), name="tiny", input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(NonFiniteLossError, match=r"at step 0 .*; look at the images and the encoder") as caught:
        quick(spec, encoder, views=9)
    assert "lr" not in str(caught.value)


def test_photos_that_are_all_the_same_picture_are_refused(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (32, 32)).save(tmp_path / "photos" / name / f"{number}.png")
    images, tiny = load_images(f"folder:{tmp_path / 'photos'}"), load_encoder(TINY)
    for use in (
        lambda: distill(images, TINY, out=tmp_path / "run"),
        lambda: evaluate(None, tiny, None, images, out=tmp_path / "scores.json"),
        lambda: evaluate(None, tiny, images, images, out=tmp_path / "scores.json"),
        lambda: by_bytes(tiny, images, images),
        lambda: real_set("herding", tiny, images),
    ):
        with pytest.raises(
            UserError, match=r"all 8 are the same picture, byte for byte, such as 'cat/0\.png'; look at"
        ):
            use()
    assert os.listdir(tmp_path) == ["photos"]


def _healthy():
    return Encoder(Tiny(), name="tiny", input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3, identity="same")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_torn_checkpoint_is_skipped(spec, tmp_path, damage):
    options = {"steps": 12, "method": "lgm"}
    out = _stopped(spec, tmp_path / "run", **options)
    older, newest = sorted((out / "checkpoints").iterdir())
    content = bytearray(newest.read_bytes())
    if damage == "altered":
        content[-1] ^= 1
    newest.write_bytes({"cut": content[: len(content) // 2], "altered": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=f"{newest.name}.*using the previous checkpoint"):
        resumed = quick(spec, _healthy(), out=out, resume=True, **options)
    assert torch.equal(resumed.float_images, quick(spec, _healthy(), **options).float_images)
    assert older.name < newest.name
    assert len(resumed.run.losses) == 12


def test_a_checkpoint_of_other_images_is_refused(spec, tmp_path):
    out = _stopped(spec, tmp_path / "run", steps=12)
    newest = max((out / "checkpoints").iterdir())
    tensors, about = load_tensors(newest)
    save_tensors(newest, {**tensors, "level.0": tensors["level.0"][:1]}, about)
    with pytest.raises(UserError, match=r"checkpoint of step \d+ in .*run' is damaged \(level\.0 .*overwrite=True"):
        quick(spec, _healthy(), out=out, resume=True, steps=12)


@pytest.mark.parametrize(
    "change",
    [{"engine": {}}, {"engine": {"step": -1, "micro_batches": [[0]], "wanted_micro_batch": None, "levels": 1}},
     {"history": {"losses": []}}],
    ids=["empty", "negative", "history"],
)  # fmt: skip
def test_a_checkpoint_whose_record_does_not_fit_is_skipped(spec, tmp_path, change):
    out = _stopped(spec, tmp_path / "run", steps=12)
    newest = max((out / "checkpoints").iterdir())
    tensors, about = load_tensors(newest)
    save_tensors(newest, tensors, about | {name: about[name] | part if part else part for name, part in change.items()})
    with pytest.warns(UserWarning, match="using the previous checkpoint"):
        resumed = quick(spec, _healthy(), out=out, resume=True, steps=12)
    assert torch.equal(resumed.float_images, quick(spec, _healthy(), steps=12).float_images)


@pytest.mark.slow
def test_resume_when_every_checkpoint_is_torn_starts_from_the_beginning(spec, tmp_path):
    out = _stopped(spec, tmp_path / "run", steps=12)
    for path in (out / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="truncated"):
        resumed = quick(spec, _healthy(), out=out, resume=True, steps=12)
    assert torch.equal(resumed.float_images, quick(spec, _healthy(), steps=12).float_images)


def test_resume_with_levels_that_open_one_by_one(spec, tmp_path):
    """The newly opened levels and their Adam state are part of the checkpoint."""
    options = {"steps": 14, "canvas": CanvasConfig(level_every=2), "schedule": "constant"}
    out = _stopped(spec, tmp_path / "run", **options)
    resumed = quick(spec, _healthy(), out=out, resume=True, **options)
    assert torch.equal(resumed.float_images, quick(spec, _healthy(), **options).float_images)


def test_resume_in_another_precision_is_refused(spec, tmp_path):
    out = _stopped(spec, tmp_path / "run", steps=12)
    other = load_encoder(TINY, device="cpu", precision="bf16")
    healthy = _healthy()
    healthy.precision = other.precision
    with pytest.raises(UserError, match="holds a run with precision 'fp32', now 'bf16'; repeat its settings"):
        quick(spec, healthy, out=out, resume=True, steps=12)


@pytest.mark.parametrize("content", [None, "{", '{"format": 1}', '{"config": []}', '{"config": {}, "encoder": "x"}'])
def test_checkpoints_whose_run_is_unknown(run_cli, spec, tmp_path, content):
    """If run.json is gone, cut short or altered, nobody knows to which run the checkpoints belong."""
    out = _stopped(spec, tmp_path / "run", steps=12)
    (out / "run.json").unlink() if content is None else (out / "run.json").write_text(content)
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for arguments in (["info", out], ["distill", "--images", spec, "--encoder", TINY, "--out", out, "--resume"]):
        assert str(out) in run_cli(*arguments).error()
    with pytest.raises(
        UserError,
        match=r"holds checkpoints without their run\.json; add overwrite=True|no run",
    ):
        quick(spec, _healthy(), out=out, resume=True, steps=12)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == kept


def test_a_signal_in_the_last_step_comes_too_late(spec, tmp_path):
    class StopsAtTheEnd(Tiny):
        calls = 0

        def forward(self, images):
            self.calls += images.requires_grad
            if self.calls == 1 + 3 and images.requires_grad:  # the first call is the check of its gradient
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(images)

    stopping = Encoder(StopsAtTheEnd(), name="stops", input_size=32)
    distilled = quick(spec, stopping, out=tmp_path / "run", steps=3, micro_batch=64)
    assert distilled.run.losses[2] == DistilledSet.load(tmp_path / "run").run.losses[2]


def test_resume_without_a_run_starts_one(spec, encoder, tmp_path):
    distilled = quick(spec, encoder, out=tmp_path / "run", resume=True)
    assert torch.equal(distilled.float_images, quick(spec, encoder).float_images)


def test_resume_of_a_finished_run_says_so(distil_cli, finished):
    out = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    result = distil_cli("--out", out, "--resume")
    assert result.code == 0
    assert "is already finished" in result.err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before


def test_run_of_a_version_that_knew_fewer_options_is_the_same_run(distil_cli, finished):
    out = finished
    record = json.loads((out / "run.json").read_text())
    del record["config"]["keep_stats"]
    (out / "run.json").write_text(json.dumps(sealed(record)))
    accept_edits(out)
    result = distil_cli("--out", out, "--resume")
    assert result.code == 0, result.err
    assert "is already finished" in result.err


def test_ctrl_c_in_python_is_a_keyboard_interrupt_that_says_how_to_continue(spec, encoder, tmp_path):
    class Pressed(Callback):
        def on_step(self, step):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="repeat the call with resume=True to continue"):
        quick(spec, encoder, out=tmp_path / "run", callbacks=[Pressed()])
    with pytest.raises(KeyboardInterrupt, match=r"^stopped by signal 2$"):  # nothing is kept
        quick(spec, encoder, callbacks=[Pressed()])
    assert quick(spec, encoder, out=tmp_path / "run", resume=True).run.finished


def test_ctrl_c_while_soft_labels_are_made_keeps_the_images(spec, encoder, tmp_path):
    """With many classes the labels take minutes."""
    reached = []

    class Pressed(Callback):
        def on_end(self, end):
            hook = encoder.model.register_forward_pre_hook(lambda *_: press(hook))

    def press(hook):
        hook.remove()
        reached.append("before")
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("after")

    options = {"out": tmp_path / "run", "soft_labels": "learned"}
    with pytest.raises(KeyboardInterrupt, match="repeat the call with resume=True to continue"):
        quick(spec, encoder, callbacks=[Pressed()], **options)
    assert reached == ["before"]
    resumed, whole = quick(spec, encoder, resume=True, **options), quick(spec, encoder, soft_labels="learned")
    assert torch.equal(resumed.float_images, whole.float_images)
    assert torch.equal(resumed.soft_labels, whole.soft_labels)
    # Without a folder the images would be lost, so the labels are waited for.
    assert torch.equal(
        quick(spec, encoder, callbacks=[Pressed()], soft_labels="learned").soft_labels, whole.soft_labels
    )


@pytest.mark.slow
def test_interrupted_while_features_are_computed(fork, tmp_path):
    """Before the first step there is nothing to save, but the same command with --resume still works."""
    photos = make_image_folder(tmp_path / "many", per_class=1500, size=24, splits=())
    out = tmp_path / "run"
    command = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 2, "--out", out, "--cache",
               tmp_path / "cache", "--real-views", 20]  # fmt: skip
    process = fork(*command)
    wait_for(lambda: (tmp_path / "cache").exists() or not process.running)
    process.kill(signal.SIGINT)
    found, err = process.end(), process.log.read_text()
    assert found == 130, err
    assert "Traceback" not in err
    assert "--resume" in err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "steps"), [(None, [1, 52, 60]), (30, [*range(1, 60), 60])])
def test_checkpoints_that_take_long_are_made_less_often(spec, encoder, tmp_path, monkeypatch, seconds, steps):
    """If a step takes 40 seconds and a checkpoint 100, the next is made after 2,000, unless the user sets a time."""
    now, saved = [0.0], []

    class Slow(Callback):
        def on_step(self, step):
            now[0] += 40

    def save(folder, record, distiller, history):
        now[0] += 100
        saved.append(distiller.step_count)

    monkeypatch.setattr("probedistill.distillation.run.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("probedistill.distillation.folder.RunFolder.save", save)
    out = tmp_path / "run"
    quick(spec, encoder, steps=60, out=out, evaluate_every=0, checkpoint_seconds=seconds, callbacks=[Slow()])
    assert saved == steps


# ---------------------------------------------------------------- settings


def test_two_images_per_class(spec, encoder, tmp_path):
    distilled = quick(spec, encoder, images_per_class=2, out=tmp_path / "run")
    assert distilled.labels.tolist() == [0, 0, 1, 1]
    assert not torch.allclose(distilled.float_images[0], distilled.float_images[1], atol=1e-2)
    names = sorted(str(p.relative_to(tmp_path / "run/images")) for p in (tmp_path / "run/images").rglob("*.png"))
    assert names == ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png"]


@pytest.mark.slow
def test_soft_labels_and_head_are_stored_on_request(distil_cli, encoder, tmp_path):
    second = ["--also", f"{TINY}@24", "--evaluate-every", 0]
    for name, options in {"both": ["--soft-labels", "learned", "--keep-head"], "head": ["--keep-head"]}.items():
        result = distil_cli("--out", tmp_path / name, *second, *options)
        assert result.code == 0, result.err
    both, head = DistilledSet.load(tmp_path / "both"), DistilledSet.load(tmp_path / "head")
    assert both.soft_labels is not None
    assert both.soft_labels.shape == (2, 2)
    assert head.soft_labels is None
    assert both.head.fingerprint == head.head.fingerprint == encoder.fingerprint, "the head is the first encoder's"
    assert torch.equal(both.head.weight, head.head.weight)
    assert torch.equal(both.float_images, head.float_images)
    assert both.run.config.soft_labels == "learned"
    assert head.run.config.soft_labels == "none"


@pytest.mark.parametrize("kind", ["pyramid", "pixels"])
def test_starting_from_real_images(spec, encoder, kind):
    canvas = CanvasConfig(kind=kind, init="real")
    distilled = quick(spec, encoder, steps=1, lr=1e-9, canvas=canvas, images_per_class=2)
    train, _ = load_splits(spec)
    views = torch.stack([encoder.centre_view(train.load(i)) for i in range(len(train))]).clamp(0.01, 0.99)
    for image, label in zip(distilled.float_images, distilled.labels, strict=True):
        distance = (views - image).abs().amax((1, 2, 3))
        assert float(distance.min()) < 1e-3
        assert int(train.labels[distance.argmin()]) == int(label)


def test_starting_from_more_real_images_than_there_are(spec, encoder):
    with pytest.raises(UserError, match="has 6 images; each class needs at least 7"):
        quick(spec, encoder, canvas=CanvasConfig(init="real"), images_per_class=7)


@pytest.mark.slow
def test_plain_pixels_are_another_canvas(spec, encoder):
    pixels = quick(spec, encoder, method="clp", canvas=CanvasConfig(kind="pixels"), steps=60)
    pyramid = quick(spec, encoder, method="clp", steps=60)
    assert pixels.run.config.canvas.kind == "pixels"
    assert not torch.allclose(pixels.float_images, pyramid.float_images, atol=0.05)
    assert np.mean(pixels.run.losses[-10:]) < 0.9 * np.mean(pixels.run.losses[:10])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sfm", "lgm", "clp"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_micro_batches_change_almost_nothing(spec, encoder, method, size):
    whole = quick(spec, encoder, method=method, views=3).float_images
    parts = quick(spec, encoder, method=method, views=3, micro_batch=size).float_images
    assert float((whole - parts).abs().max()) < 2e-3


@pytest.mark.parametrize("method", ["sfm", "lgm", "clp"])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_presets_fill_every_option(method, preset):
    config = DistillConfig.of(method=method, preset=preset).resolve()
    plain = config.to_dict()
    for name in ("steps", "lr", "schedule", "views", "real_views"):
        assert plain[name] is not None, name
    assert None not in plain[method].values()
    assert None not in plain["canvas"].values()
    assert {"lgm", "clp", "sfm"} & set(plain) == {method}
    assert config.resolve() == config


def test_the_papers_settings():
    for method in ("sfm", "lgm", "clp"):
        config = DistillConfig.of(method=method, preset="paper").resolve()
        assert (config.lr, config.schedule, config.canvas.level_every) == (2e-3, "constant", 200)
    assert DistillConfig.of(method="lgm", preset="paper").resolve().views == 10


def test_users_options_win_over_the_preset():
    options = {"steps": 7, "canvas": {"level_every": 0}, "augment": "none"}
    config = DistillConfig.of(method="sfm", preset="paper", **options).resolve()
    assert (config.steps, config.canvas.level_every, config.canvas.size) == (7, 0, 256)
    assert (config.augment.kind, config.augment.noise_mean) == ("none", 0.5)
    whole = DistillConfig.of(method="sfm", preset="paper", canvas=CanvasConfig(level_every=0))
    assert whole.canvas == CanvasConfig(level_every=0)


def test_a_preset_that_was_not_applied_is_an_error():
    """A config object alone does not know which of its values the user set."""
    for method in ("sfm", "lgm", "clp"):
        with pytest.raises(UserError, match=r"preset 'paper' has not been applied; use DistillConfig.of\("):
            DistillConfig(method=method, preset="paper", seed=3).resolve()


def test_paper_preset_runs(spec, encoder):
    for method in ("sfm", "lgm", "clp"):
        assert len(quick(spec, encoder, method=method, preset="paper", steps=2)) == 2


def test_config_objects_and_options_together(spec, encoder):
    config, run = DistillConfig(steps=2, seed=5), RunConfig(evaluate_every=0, progress=False)
    assert torch.equal(
        distill(spec, encoder, config, run=run).float_images,
        distill(spec, encoder, config, run=run, steps=2).float_images,
    )


def test_auto_is_clp_from_averages(spec, encoder):
    auto = quick(spec, encoder)
    assert (auto.run.config.method, auto.run.config.canvas.init, auto.run.begun_from) == ("clp", "average", "average")
    named = quick(spec, encoder, method="clp", canvas=CanvasConfig(init="average"))
    assert torch.equal(auto.float_images, named.float_images)
    assert quick(spec, encoder, canvas=CanvasConfig(init="noise")).run.config.canvas.init == "noise"


def test_a_blend_is_the_mean_of_photos_with_its_contrast_doubled(spec, encoder):
    train, _ = load_splits(spec)
    canvas = CanvasConfig(init="blend", blend=1000)  # all photos if a class has fewer
    start = quick(spec, encoder, steps=1, lr=1e-9, canvas=canvas).float_images
    for label, image in enumerate(start):
        photos = torch.stack([encoder.centre_view(train.load(int(i))) for i in (train.labels == label).nonzero()[0]])
        mean = photos.mean(dim=0)
        middle = mean.mean(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(image, (2 * mean - middle).clamp(0.01, 0.99), atol=1e-3, rtol=0)


def test_an_average_shows_nothing_finer_than_its_few_pixels():
    photos = [torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    smooth = [F.adaptive_avg_pool2d(photo, 32).repeat_interleave(3, 1).repeat_interleave(3, 2) for photo in photos]
    torch.testing.assert_close(average_of(photos), average_of(smooth))
    assert float(average_of(photos).std()) < 0.5 * float(photos[0].std())
    flat = torch.full((3, 96, 96), 0.3)
    torch.testing.assert_close(average_of([flat, flat]), flat)


@given(st.integers(1, 40), st.integers(1, 5))
def test_an_average_has_the_size_and_the_range_of_its_images(side, count):
    photos = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(side))
    found = average_of(photos)
    assert found.shape == photos[0].shape
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    torch.testing.assert_close(average_of(photos.flip(0)), found)


def test_a_run_from_averages_starts_from_all_images_of_a_class(spec, encoder):
    train, _ = load_splits(spec)
    found = quick(spec, encoder, steps=1, lr=1e-9, canvas=CanvasConfig(init="average"))
    assert (found.run.begun_from, found.run.config.layers, found.run.config.lr) == ("average", 3, 1e-9)
    for label, image in enumerate(found.float_images):
        photos = [encoder.centre_view(train.load(int(i))) for i in (train.labels == label).nonzero()[0]]
        torch.testing.assert_close(image, average_of(photos).clamp(0.01, 0.99), atol=1e-3, rtol=0)


def test_the_default_rate_depends_on_the_start():
    rates = {
        ("clp", "noise"): 0.05, ("clp", "real"): 0.02, ("clp", "average"): 0.02, ("auto", "auto"): 0.02,
        ("auto", "noise"): 0.05, ("sfm", "noise"): 0.02,
    }  # fmt: skip
    for (method, init), rate in rates.items():
        config = DistillConfig(method=method, canvas=CanvasConfig(init=init))
        assert config.resolve().lr == rate
        assert replace(config, lr=0.3).resolve().lr == 0.3


def test_the_aim_changes_what_the_user_does_not_set():
    away = DistillConfig.of(aim="transfer")
    assert away.aim == "transfer"
    assert away != DistillConfig(aim="transfer")
    own = DistillConfig.of(aim="transfer", layers=5)
    assert (own.layers, own.layer_weight) == (5, away.layer_weight)
    with pytest.raises(UserError, match="aim 'transfer' has not been applied"):
        DistillConfig(aim="transfer").resolve()
    with pytest.raises(
        UserError, match="aim 'transfer' changes options that preset 'paper' sets; leave one of them out"
    ):
        DistillConfig.of(method="sfm", preset="paper", aim="transfer")
    with pytest.raises(UserError, match="aim 'away'"):
        DistillConfig.of(aim="away")


def test_the_aim_sets_the_default_start_and_ridge():
    def chosen(**options) -> tuple[str, float]:
        config = DistillConfig.of(aim="transfer", **options).resolve()
        return config.canvas.init, config.clp.ridge

    assert chosen() == ("blend", 1.0)
    assert chosen(clp={"ridge": 7.0}) == ("blend", 7.0)
    assert chosen(canvas={"init": "average"}) == ("average", 10.0)
    assert chosen(method="clp") == ("noise", 10.0)
    at_home = DistillConfig(canvas=CanvasConfig(init="blend")).resolve()
    assert at_home.clp.ridge == 10.0


def test_the_authors_settings_belong_to_a_method():
    with pytest.raises(UserError, match="preset 'paper' needs a method; add method='lgm', clp or sfm"):
        DistillConfig.of(preset="paper")


# ---------------------------------------------------------------- from Python


@pytest.mark.slow
def test_a_run_from_python_leaves_the_config_that_repeats_it(run_cli, photos, tmp_path):
    train, test = load_splits(f"folder:{photos}")
    encoder = load_encoder(TINY, input_size=24)
    made = distill(train, encoder, test=test, steps=2, seed=3, out=tmp_path / "run", progress=False)
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (config["images"], config["encoder"], config["input_size"]) == (f"folder:{photos}", TINY, 24)
    result = run_cli("distill", "--config", tmp_path / "run/config.yaml", "--out", tmp_path / "again")
    assert result.code == 0, result.err
    assert torch.equal(DistilledSet.load(tmp_path / "again").float_images, made.float_images)


def test_objects_made_in_python_are_a_note_in_the_config(run_cli, photos, tmp_path):
    train = load_images(f"folder:{photos}").select(range(8))
    distill(train, load_encoder(TINY), steps=2, out=tmp_path / "run", progress=False)
    path = tmp_path / "run/config.yaml"
    assert path.read_text().startswith("# images: created in Python; give --images\n")
    assert "images" not in yaml.safe_load(path.read_text())
    error = run_cli("distill", "--config", path, "--out", tmp_path / "again").error()
    assert "images is missing; give --images" in error
    assert run_cli("report", tmp_path / "run", "--out", tmp_path / "r.html").code == 0
    assert "-again" not in (tmp_path / "r.html").read_text()


def test_images_that_the_options_would_split_have_no_options(tmp_path):
    folder = make_image_folder(tmp_path / "photos", per_class=6, splits=())
    assert load_images(f"folder:{folder}").config is None, "distill would hold a part out"
    assert load_splits(f"folder:{folder}")[0].config.images == f"folder:{folder}"
