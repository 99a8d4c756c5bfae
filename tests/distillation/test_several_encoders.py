"""Several encoders in one run: gradients are weighted sums, the largest encoder sets the memory, and runs resume."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import (
    ALL_VIEWS,
    AUGMENT,
    CLASSES,
    IPC,
    VIEWS,
    ConvEncoder,
    RunsOut,
    assert_same,
    assert_same_state,
    gradients,
    make_loop,
    make_objective,
    snapshot,
)
from torch import Tensor, nn

from conftest import TINY
from probedistill import (
    AugmentConfig,
    Callback,
    CanvasConfig,
    DistilledSet,
    Encoder,
    EncoderConfig,
    NonFiniteLossError,
    Tower,
    UserError,
    distill,
    load_encoder,
    load_splits,
)
from probedistill.distillation import micro_batches
from probedistill.distillation.canvas import Canvas
from probedistill.distillation.engine import Distiller
from probedistill.encoders.trust import trusting
from probedistill.features.views import apply_views, draw_views
from probedistill.seeds import Stream, seed_of
from probedistill.store.tensors import load_tensors, save_tensors

SIZES = (12, 8, 10)  # the towers' input sizes; the canvas has the largest
WEIGHTS = (1.0, 0.25, 3.0)
NAMES = ("sfm", "clp", "lgm")
SMALL = f"{TINY}@24"


def make_towers(count: int, dtype: torch.dtype = torch.float64) -> list[Tower]:
    return [
        Tower(ConvEncoder(dtype, seed=k), make_objective(NAMES[k], dtype), WEIGHTS[k], SIZES[k]) for k in range(count)
    ]


def make_distiller(towers: list[Tower], kind: str = "pyramid", dtype: torch.dtype = torch.float64, **options):
    canvas = Canvas(CLASSES * IPC, max(SIZES), kind, dtype=dtype, open_levels=1 if options.get("level_every") else None)
    canvas.fill_with_noise(0.5, seed=0)
    return Distiller(towers, canvas, torch.arange(CLASSES).repeat_interleave(IPC), make_loop(**options))


def plain_gradients(kind: str, towers: list[Tower]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Each tower's objective and unweighted gradient, by autograd in one pass."""
    labels = torch.arange(CLASSES).repeat_interleave(IPC * VIEWS)
    losses, results = [], []
    for number, tower in enumerate(towers):
        canvas = make_distiller(towers, kind).canvas
        leaves = [level.clone().requires_grad_() for level in canvas.levels]
        views = draw_views(AUGMENT, ALL_VIEWS, seed=seed_of(0, Stream.STEP_VIEWS, 0, number))
        images = canvas.render(leaves).repeat_interleave(VIEWS, dim=0)
        loss = tower.objective(tower.encoder(apply_views(images, views, tower.input_size)), labels, 0)
        loss.backward()
        losses.append(loss.detach())
        results.append([leaf.grad for leaf in leaves])
    return losses, results


@cache
def plain_gradients_of_three(kind: str) -> tuple[list[Tensor], list[list[Tensor]]]:
    return plain_gradients(kind, make_towers(3))


# ---- the gradient


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pyramid", "pixels"])
@pytest.mark.parametrize("micro_batch", [1, 5, 7, 17, 18])
def test_the_gradient_is_the_weighted_sum(kind, micro_batch):
    losses, single = plain_gradients_of_three(kind)
    distiller = make_distiller(make_towers(3), kind, micro_batch=micro_batch)
    expected = [sum(w * g[i] for w, g in zip(WEIGHTS, single, strict=True)) for i in range(len(single[0]))]
    assert_same(gradients(distiller), expected)
    torch.testing.assert_close(distiller.losses, torch.stack(losses))
    total = sum(w * loss for w, loss in zip(WEIGHTS, losses, strict=True))
    torch.testing.assert_close(distiller.gradient(), total)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(weights=st.tuples(*[st.floats(0.01, 100)] * 2), sizes=st.tuples(*[st.integers(1, 20)] * 2))
def test_the_gradient_is_linear_in_the_weights_for_any_micro_batches(weights, sizes):
    _, single = plain_gradients("pyramid", make_towers(2))
    towers = [Tower(t.encoder, t.objective, w, t.input_size) for t, w in zip(make_towers(2), weights, strict=True)]
    distiller = make_distiller(towers)
    distiller.load_state(*[distiller.state()[0], {**distiller.state()[1], "micro_batches": [list(sizes)]}])
    expected = [sum(w * g[i] for w, g in zip(weights, single, strict=True)) for i in range(len(single[0]))]
    for one, two in zip(gradients(distiller), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12 * max(weights))


def test_a_tower_does_not_depend_on_the_others():
    """The first encoder's views do not depend on later encoders; these have their own views, at their own size."""
    seen: dict[int, list[Tensor]] = {}

    class Watches(ConvEncoder):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def forward(self, images: Tensor) -> Tensor:
            seen.setdefault(self.number, []).append(images.detach().clone())
            return super().forward(images)

    objective = make_objective("sfm")
    make_distiller([Tower(Watches(0), objective)]).gradient()
    make_distiller([Tower(Watches(number), objective) for number in (1, 2)]).gradient()
    make_distiller([Tower(Watches(3), objective), Tower(Watches(4), objective, 2.0, 8)]).gradient()
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][0], seen[3][0])
    assert seen[2][0].shape == seen[1][0].shape
    assert not torch.allclose(seen[2][0], seen[1][0], atol=0.05)
    assert seen[4][0].shape[-1] == 8


# ---- memory


class Alive:
    """Bytes of activations that autograd keeps at the same time; `most` is the largest sum."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Kept:
        kept = Kept(tensor)
        if tensor.ndim == 4 and len(tensor) > 3:  # images and activations, not weights
            size = tensor.numel() * tensor.element_size()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(kept, self.freed, size)
        return kept

    def freed(self, size: int) -> None:
        self.now -= size

    @staticmethod
    def unpack(kept: Kept) -> Tensor:
        return kept.tensor


class Kept:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def most_alive(towers: list[Tower], micro_batch: int) -> int:
    distiller, alive = make_distiller(towers, micro_batch=micro_batch), Alive()
    with torch.autograd.graph.saved_tensors_hooks(alive.pack, alive.unpack):
        distiller.step()
    assert alive.now == 0
    return alive.most


@pytest.mark.parametrize("micro_batch", [ALL_VIEWS, 6])
def test_the_largest_tower_determines_the_memory(micro_batch):
    towers = make_towers(3)
    single = [most_alive([tower], micro_batch) for tower in towers]
    assert min(single) > 0
    assert most_alive(towers, micro_batch) == max(single)
    assert most_alive(towers[::-1], micro_batch) == max(single)


def test_each_tower_finds_its_own_micro_batch(monkeypatch):
    class Wide(ConvEncoder):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.repeat_interleave(8, dim=-1)).clone()

    objective = make_objective("sfm")
    narrow, wide = Tower(ConvEncoder(), objective, 1.0, 8), Tower(Wide(), objective, 1.0, 12)
    monkeypatch.setattr(micro_batches, "free_memory", lambda device: 2**18)
    one, two = make_distiller([narrow, wide], micro_batch=None), make_distiller([wide, narrow], micro_batch=None)
    one.gradient()
    two.gradient()
    assert 1 <= one.micro_batch[1] < one.micro_batch[0] <= ALL_VIEWS
    assert two.micro_batch == one.micro_batch[::-1]


@pytest.mark.parametrize("only_graph", [None, False, True], ids=["any pass", "pass 1", "pass 2"])
def test_out_of_memory_halves_only_that_towers_micro_batch(only_graph, caplog):
    first, second = make_towers(2)
    expected = gradients(make_distiller([first, Tower(ConvEncoder(), second.objective, 2.0, 8)]))
    distiller = make_distiller([first, Tower(RunsOut(2, only_graph), second.objective, 2.0, 8)], micro_batch=9)
    assert_same(gradients(distiller), expected)  # nothing of the first tower is lost or counts twice
    assert distiller.micro_batch == [9, 2]
    assert caplog.messages == [f"out of memory: continuing with micro-batches of {n} views" for n in (4, 2)]


# ---- state


@cache
def five_steps(how: Callable[[], Distiller]) -> tuple[Distiller, list[Tensor]]:
    whole = how()
    return whole, [whole.step() for _ in range(5)]


def with_levels() -> Distiller:
    return make_distiller(make_towers(2, torch.float32), dtype=torch.float32, level_every=2, micro_batch=None)


def in_micro_batches() -> Distiller:
    return make_distiller(make_towers(2, torch.float32), dtype=torch.float32, level_every=0, micro_batch=7)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [0, 1, 3])
@pytest.mark.parametrize("fresh", [with_levels, in_micro_batches])
def test_a_loaded_state_continues_bit_for_bit(tmp_path, stop, fresh):
    (whole, losses), first, second = five_steps(fresh), fresh(), fresh()
    parts = [first.step() for _ in range(stop)]
    save_tensors(tmp_path / "state", *first.state())
    second.load_state(*load_tensors(tmp_path / "state"))
    parts += [second.step() for _ in range(5 - stop)]
    assert torch.equal(torch.stack(parts), torch.stack(losses))
    assert_same_state(snapshot(second), snapshot(whole))
    assert torch.equal(second.losses, whole.losses)


def test_a_loss_of_one_tower_that_is_not_finite_changes_nothing():
    first, second = make_towers(2)
    bad = Tower(second.encoder, lambda z, t, step: second.objective(z, t, step) * float("nan"), 1.0, 8)
    distiller = make_distiller([first, bad])
    before = snapshot(distiller)
    with pytest.raises(NonFiniteLossError, match="step 0"):
        distiller.step()
    assert_same_state(snapshot(distiller), before)


# ---- runs


@pytest.fixture
def spec(photos) -> str:
    return f"folder:{photos}"


def quick(spec, encoder, **options) -> DistilledSet:
    return distill(spec, encoder, **{"steps": 3, "progress": False, "evaluate_every": 0, **options})


@pytest.mark.slow
def test_what_a_run_of_two_encoders_records(distil_cli, run_cli, tmp_path):
    out = tmp_path / "run"
    weights = ["--encoder-weights", 1, "--encoder-weights", 0.25]
    result = distil_cli("--out", out, "--also", f"{TINY}@48", *weights, "--input-size", 24)
    assert result.code == 0, result.err
    run = json.loads((out / "run.json").read_text())
    first, second = run["encoders"]
    assert (first["input_size"], second["input_size"]) == (24, 48)
    assert (first["weight"], second["weight"]) == (1, 0.25)
    assert second["fingerprint"] == load_encoder(TINY, input_size=48, device="cpu").fingerprint
    assert run["config"]["also"] == [f"{TINY}@48"]
    assert run["config"]["encoder_weights"] == [1, 0.25]
    assert len(run["micro_batch"]) == 2
    one, two = run["tower_losses"]
    assert [a + 0.25 * b for a, b in zip(one, two, strict=True)] == pytest.approx(run["losses"])
    distilled = DistilledSet.load(out)
    assert distilled.float_images.shape[-1] == 48, "as large as the largest input"
    info = run_cli("info", out).out
    assert "helpers_encoders:tiny at 24 px" in info
    assert "helpers_encoders:tiny at 48 px" in info
    assert "weight 0.25" in info
    scores = ["--seeds", 1, "--views", 1, "--full-views", 0, "--baselines", "random"]
    assert run_cli("evaluate", out, "--config", out / "config.yaml", *scores).code == 0
    assert run_cli("evaluate", out, "--images", run["images"]["spec"], "--encoder", TINY, *scores).code == 0


def test_one_encoder_is_a_list_of_one(spec):
    run = quick(spec, TINY).run
    assert [encoder.weight for encoder in run.encoders] == [1]
    assert run.tower_losses == [run.losses]
    assert len(run.micro_batch) == 1


@pytest.mark.slow
def test_each_encoder_has_an_influence(spec):
    """Two encoders together give other images than either alone, and the loss of each falls."""
    options = {"method": "clp", "steps": 30, "canvas": CanvasConfig(kind="pixels"), "views": 2}
    both = quick(spec, [TINY, SMALL], **options)
    assert not torch.allclose(both.float_images, quick(spec, TINY, **options).float_images, atol=0.02)
    for losses in both.run.tower_losses:
        assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.slow
def test_python_and_command_line_and_config_file_agree(distil_cli, run_cli, spec, tmp_path):
    file = tmp_path / "narrow.yaml"
    file.write_text(yaml.safe_dump({"encoder": TINY, "encoder_args": {"width": 16}}))
    assert distil_cli("--out", tmp_path / "cli", "--also", SMALL, "--also", file, "--trust").code == 0
    expected = DistilledSet.load(tmp_path / "cli").float_images

    small = EncoderConfig(encoder=TINY, input_size=24)
    with pytest.raises(UserError, match="needs trust"):
        quick(spec, TINY, also=[SMALL, str(file)])
    with trusting():
        assert torch.equal(quick(spec, TINY, also=[SMALL, str(file)]).float_images, expected)
    narrow = EncoderConfig(encoder=TINY, encoder_args={"width": 16})
    quick(spec, [EncoderConfig(encoder=TINY), small, narrow], out=tmp_path / "configs")
    quick(spec, [TINY, load_encoder(small), load_encoder(narrow)], out=tmp_path / "loaded")
    file.unlink()
    for first in ("cli", "configs", "loaded"):
        assert torch.equal(DistilledSet.load(tmp_path / first).float_images, expected)
        config = tmp_path / first / "config.yaml"
        assert yaml.safe_load(config.read_text())["also"] == [SMALL, {"encoder": TINY, "encoder_args": {"width": 16}}]
        again = run_cli("distill", "--config", config, "--out", tmp_path / f"again-{first}")
        assert again.code == 0, again.err
        assert torch.equal(DistilledSet.load(tmp_path / f"again-{first}").float_images, expected)


def test_further_encoders_take_device_and_precision_of_the_first(spec):
    run = quick(spec, [EncoderConfig(encoder=TINY, device="cpu", precision="bf16"), SMALL]).run
    assert run.encoders[1].precision == "bf16"


def test_an_encoder_without_a_config_is_a_note_in_the_config_file(spec, tmp_path):
    from helpers_encoders import Tiny

    own = Encoder(Tiny(), name="mine", input_size=24, mean=(0.5,) * 3, std=(0.25,) * 3, identity="mine")
    quick(spec, [TINY, own], out=tmp_path / "run")
    text = (tmp_path / "run/config.yaml").read_text()
    assert text.startswith("# encoder: created in Python")
    assert "encoder" not in yaml.safe_load(text)
    assert DistilledSet.load(tmp_path / "run").run.encoders[1].name == "mine"


@pytest.mark.slow
def test_a_run_resumes_without_the_file_that_also_named(spec, run_cli, tmp_path):
    class Stops(Callback):
        def on_step(self, step):
            if step.step == 2:
                raise KeyboardInterrupt

    file, out = tmp_path / "small.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump({"encoder": TINY, "input_size": 24, "precision": "bf16"}))
    options = {"also": [str(file)], "checkpoint_seconds": 0}
    with trusting():
        whole = quick(spec, TINY, **options)
        with pytest.raises(KeyboardInterrupt):
            quick(spec, TINY, **options, out=out, callbacks=[Stops()])
    file.unlink()
    done = run_cli("distill", "--config", out / "config.yaml", "--evaluate-every", 0, "--out", out, "--resume")
    assert done.code == 0, done.err
    assert torch.equal(DistilledSet.load(out).float_images, whole.float_images)
    assert DistilledSet.load(out).run.encoders[1].precision == "bf16"


def test_starting_from_real_images_at_the_largest_size(spec):
    distilled = quick(spec, [SMALL, f"{TINY}@40"], steps=1, lr=1e-9, canvas=CanvasConfig(init="real"))
    train, _ = load_splits(spec)
    large = load_encoder(TINY, input_size=40, device="cpu")
    views = torch.stack([large.centre_view(train.load(i)) for i in range(len(train))]).clamp(0.01, 0.99)
    for image, label in zip(distilled.float_images, distilled.labels, strict=True):
        distance = (views - image).abs().amax((1, 2, 3))
        assert float(distance.min()) < 1e-3
        assert int(train.labels[distance.argmin()]) == int(label)


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_for_bit(spec, tmp_path):
    from helpers_encoders import Tiny, TurnsNaN

    def second(model: nn.Module) -> Encoder:
        return Encoder(model, name="second", input_size=24, mean=(0.5,) * 3, std=(0.25,) * 3, identity="same")

    first = load_encoder(TINY, device="cpu")
    options = {"steps": 9, "method": "lgm", "augment": AugmentConfig(noise_prob=0.5), "encoder_weights": [1, 3]}
    with pytest.raises(NonFiniteLossError):
        quick(spec, [first, second(TurnsNaN())], out=tmp_path / "run", checkpoint_seconds=0, **options)
    resumed = quick(spec, [first, second(Tiny())], out=tmp_path / "run", resume=True, **options)
    whole = quick(spec, [first, second(Tiny())], **options)
    assert torch.equal(resumed.float_images, whole.float_images)
    assert resumed.run.losses == whole.run.losses
    assert resumed.run.tower_losses == whole.run.tower_losses
    assert all(len(losses) == 9 for losses in whole.run.tower_losses)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--also", f"{TINY}@20"], "a run of other encoders (helpers_encoders:tiny "),
        ([], "); choose another folder or add --overwrite instead of --resume"),
        (["--also", SMALL, "--also", f"{TINY}@20"], "other encoders"),
        (["--also", SMALL, "--encoder-weights", 1, "--encoder-weights", 2], "encoder_weights [1.0, 1.0], now [1.0, 2"),
        (["--also", SMALL, "--keep-head"], "keep_head False, now True"),
        (["--also", SMALL, "--soft-labels", "source"], "soft_labels 'none', now 'source'"),
    ],
)
def test_resuming_with_other_encoders_is_refused(distil_cli, two_encoders, change, says):
    before = {p: p.stat().st_mtime_ns for p in two_encoders.rglob("*")}
    assert says in distil_cli("--out", two_encoders, "--resume", *change).error()
    assert {p: p.stat().st_mtime_ns for p in two_encoders.rglob("*")} == before


@pytest.fixture(scope="module")
def two_encoders(photos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("two") / "run"
    quick(f"folder:{photos}", [TINY, SMALL], out=out)
    return out


def test_equal_weights_written_out_are_the_same_run(distil_cli, two_encoders, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({"encoder": TINY, "input_size": 24}))
    weights = ["--encoder-weights", 1, "--encoder-weights", 1]
    result = distil_cli("--out", two_encoders, "--resume", "--evaluate-every", 0, "--also", file, "--trust", *weights)
    assert "is already finished" in result.err


def test_default_folder_names_every_encoder(distil_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distil_cli("--method", "sfm", "--also", SMALL).code == 0
    (folder,) = Path("runs").iterdir()
    assert "-module_helpers_encoders_tiny-module_helpers_encoders_tiny_24-sfm" in folder.name


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--encoder-weights", 1, "--encoder-weights", 2], "encoder_weights [1.0, 2.0] for 1 encoder; give one"),
        (["--also", SMALL, "--encoder-weights", 2], "encoder_weights [2.0] for 2 encoders; give one for each"),
        (["--also", SMALL, "--encoder-weights", 1, "--encoder-weights", 0], "encoder_weights 0.0 must be more than 0"),
        (["--also", SMALL, "--encoder-weights", 1, "--encoder-weights=-1"], "encoder_weights -1.0 must be more than 0"),
        (["--also", SMALL, "--encoder-weights", 1, "--encoder-weights", "inf"], "encoder_weights inf must be"),
        (["--also", SMALL, "--encoder-weights", 1, "--encoder-weights", "nan"], "encoder_weights nan must be"),
        (["--also", TINY], f"encoder '{TINY}' and '{TINY}' are the same encoder; name it once"),
        (["--also", SMALL, "--also", SMALL], f"encoder '{SMALL}' and '{SMALL}' are the same encoder; name it once"),
        (["--also", "efficientnet_lite9"], "unknown encoder 'efficientnet_lite9'; did you mean"),
        (["--also", "missing.yaml"], "encoder 'missing.yaml' is not a file"),
        (["--also", f"{TINY}@2"], "input_size 2 is too small"),
        (["--soft-labels", "soft"], "soft"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(distil_cli, tmp_path, arguments, says):
    assert says in distil_cli("--out", tmp_path / "run", *arguments).error()
    assert not (tmp_path / "run").exists()


def test_bad_sequences(spec):
    with pytest.raises(UserError, match="is empty; give at least one"):
        quick(spec, [])
    with pytest.raises(UserError, match="unknown soft_labels 'sorce'; did you mean 'source'"):
        quick(spec, TINY, soft_labels="sorce")
    elsewhere = load_encoder(SMALL[:-3], input_size=24, device="cpu")
    elsewhere.mean = elsewhere.mean.to("meta")
    with pytest.raises(UserError, match=r"is on device 'meta', .* on 'cpu'; load them on the same device"):
        quick(spec, [load_encoder(TINY, device="cpu"), elsewhere])
