"""The step: two passes give the gradient of one pass, memory is bounded, and a state continues bit for bit."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from probedistill.config import AugmentConfig
from probedistill.distillation import micro_batches
from probedistill.distillation.canvas import Canvas
from probedistill.distillation.engine import Distiller, Loop, Tower
from probedistill.errors import NonFiniteLossError, UserError
from probedistill.features.views import apply_views, draw_views
from probedistill.machine.processes import Processes
from probedistill.objectives.clp import clp_objective
from probedistill.objectives.lgm import lgm_objective
from probedistill.objectives.real import RealFeatures
from probedistill.objectives.sfm import sfm_objective
from probedistill.seeds import Stream, seed_of
from probedistill.store.tensors import load_tensors, save_tensors

SIZE, CLASSES, IPC, VIEWS, DIM = 8, 3, 2, 3, 6
ALL_VIEWS = CLASSES * IPC * VIEWS  # 18
AUGMENT = AugmentConfig(scale=(0.3, 1.0), noise_prob=0.5)


class ConvEncoder(nn.Module):
    """A small float64 encoder that notes every batch: (size, with a graph?)."""

    def __init__(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GELU(), nn.Conv2d(5, DIM, 3, 2), nn.Tanh())
        for parameter in self.body.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
        self.to(dtype).requires_grad_(False)
        self.batches: list[tuple[int, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append((len(images), images.requires_grad))
        return self.body(images).mean(dim=(2, 3))


class RunsOut(ConvEncoder):
    """Has memory for ``largest`` images: in any pass, or only in passes with (or without) a graph."""

    def __init__(self, largest: int, only_graph: bool | None = None, error: Exception | None = None) -> None:
        super().__init__()
        self.largest, self.only_graph = largest, only_graph
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        if len(images) > self.largest and self.only_graph in (None, images.requires_grad):
            raise self.error
        return features


def make_real(dtype: torch.dtype = torch.float64) -> RealFeatures:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(30, DIM, generator=generator).to(dtype)
    labels = torch.arange(30) % CLASSES
    return RealFeatures(features + labels[:, None], labels, CLASSES, "center")


def make_objective(name: str, dtype: torch.dtype = torch.float64):
    real = make_real(dtype)
    if name == "lgm":
        return lgm_objective(real, sigma=0.3, balanced=False, real_batch=20)
    if name == "clp":
        return clp_objective(real, ridge=0.1, temperature=0.3, real_per_class=4)
    return sfm_objective(real)


def make_distiller(
    objective="sfm",
    *,
    kind: str = "pyramid",
    encoder: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    level_every: int = 0,
    **options,
) -> Distiller:
    canvas = Canvas(CLASSES * IPC, SIZE, kind, dtype=dtype, open_levels=1 if level_every else None)
    canvas.fill_with_noise(0.5, seed=0)
    objective = make_objective(objective, dtype) if isinstance(objective, str) else objective
    labels = torch.arange(CLASSES).repeat_interleave(IPC)
    loop = make_loop(level_every=level_every, **options)
    return Distiller([Tower(encoder or ConvEncoder(dtype), objective)], canvas, labels, loop)


def make_loop(**options) -> Loop:
    return Loop(**{"steps": 10, "views": VIEWS, "lr": 0.05, "augment": AUGMENT, "micro_batch": ALL_VIEWS, **options})


def gradients(distiller: Distiller) -> list[Tensor]:
    loss = distiller.gradient()
    assert loss.isfinite()
    assert not loss.requires_grad
    return [level.grad.clone() for level in distiller.canvas.levels]


@cache
def whole(name: str, kind: str = "pyramid") -> list[Tensor]:
    """The gradients of a step with all views in one batch."""
    return gradients(make_distiller(name, kind=kind))


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected)
    for one, two in zip(actual, expected, strict=True):
        assert two.abs().max() > 1e-8
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-13)


def snapshot(distiller: Distiller):
    return copy.deepcopy(distiller.state())


def assert_same_state(one, two) -> None:
    assert one[1] == two[1]
    assert one[0].keys() == two[0].keys()
    for name in one[0]:
        assert torch.equal(one[0][name], two[0][name]), name


# ---- the gradient


@pytest.mark.parametrize("name", ["lgm", "clp", "sfm"])
@pytest.mark.parametrize("kind", ["pyramid", "pixels"])
def test_one_pass_is_plain_autograd(name, kind):
    distiller = make_distiller(name, kind=kind)
    encoder, objective = ConvEncoder(), make_objective(name)
    leaves = [level.clone().requires_grad_() for level in distiller.canvas.levels]
    views = draw_views(AUGMENT, ALL_VIEWS, seed=seed_of(0, Stream.STEP_VIEWS, 0, 0))
    images = distiller.canvas.render(leaves).repeat_interleave(VIEWS, dim=0)
    labels = torch.arange(CLASSES).repeat_interleave(IPC * VIEWS)
    loss = objective(encoder(apply_views(images, views, SIZE)), labels, 0)
    loss.backward()
    assert_same(gradients(distiller), [leaf.grad for leaf in leaves])
    torch.testing.assert_close(distiller.gradient(), loss.detach())
    assert distiller.towers[0].encoder.batches == [(ALL_VIEWS, True)] * 2


@pytest.mark.parametrize("name", ["lgm", "clp", "sfm"])
@pytest.mark.parametrize("kind", ["pyramid", "pixels"])
@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5, 7, 17])
def test_two_passes_give_the_gradient_of_one(name, kind, micro_batch):
    distiller = make_distiller(name, kind=kind, micro_batch=micro_batch)
    assert_same(gradients(distiller), whole(name, kind))
    rest = ALL_VIEWS % micro_batch
    others = [rest] * (rest > 0) + [micro_batch] * ((ALL_VIEWS - rest) // micro_batch - 1)
    first, second = [(n, False) for n in others], [(n, True) for n in others]
    # A whole micro-batch keeps its graph between the passes.
    assert distiller.towers[0].encoder.batches == [*first, (micro_batch, True), *second]


@pytest.mark.parametrize("micro_batch", [18, 19, 1000])
def test_views_that_fit_are_computed_once(micro_batch):
    distiller = make_distiller(micro_batch=micro_batch)
    distiller.step()
    assert distiller.towers[0].encoder.batches == [(ALL_VIEWS, True)]


def test_memory_does_not_grow_with_images_and_views():
    for images_per_class, views in [(1, 1), (2, 3), (4, 8)]:
        count, encoder = CLASSES * images_per_class, ConvEncoder()
        canvas = Canvas(count, SIZE, dtype=torch.float64)
        labels = torch.arange(CLASSES).repeat_interleave(images_per_class)
        alive = LargestGraph()
        loop = make_loop(steps=3, views=views, micro_batch=3)
        distiller = Distiller([Tower(encoder, make_objective("sfm"))], canvas, labels, loop)
        with torch.autograd.graph.saved_tensors_hooks(alive.pack, alive.unpack):
            distiller.step()
        assert max(n for n, _ in encoder.batches) == 3
        assert sum(n for n, graph in encoder.batches if graph) == count * views
        # A graph saves activations of one micro-batch, never of all views.
        assert alive.largest_batch == 3


@pytest.mark.slow
@pytest.mark.parametrize(("views", "micro_batch"), [(20, 1), (20, 3), (7, 3)])
def test_no_more_views_are_made_than_a_micro_batch_holds(views, micro_batch):
    """If three of an image's 20 views fit in memory, a batch with two images has three views in all."""
    distiller = make_distiller(views=views, micro_batch=micro_batch)
    with LargestBatch() as made:
        distiller.step()
    assert made.images <= max(micro_batch, CLASSES * IPC)


class LargestBatch(TorchDispatchMode):
    """The largest batch of images among the results of all operations."""

    images = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.shape[1:] == (3, SIZE, SIZE):
            self.images = max(self.images, len(result))
        return result


class LargestGraph:
    """The largest batch among the 4-dimensional activations that autograd keeps."""

    largest_batch = 0

    def pack(self, tensor: Tensor) -> Tensor:
        if tensor.ndim == 4 and tensor.shape[-1] > 3:  # images and activations, not the convolutions' weights
            self.largest_batch = max(self.largest_batch, len(tensor))
        return tensor

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor


def test_gradients_do_not_add_up_over_steps():
    distiller = make_distiller(micro_batch=4)
    assert_same(gradients(distiller), gradients(distiller))


def test_views_depend_only_on_seed_and_step():
    seen: list[Tensor] = []

    class Watches(ConvEncoder):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach().clone())
            return super().forward(images)

    def inputs(*, step: int = 0, **options) -> Tensor:
        seen.clear()
        distiller = make_distiller(encoder=Watches(), **options)
        distiller.step_count = step
        distiller.gradient()
        return torch.cat(seen)

    first = inputs()
    torch.manual_seed(123)
    assert torch.equal(inputs(), first)
    assert torch.equal(inputs(objective="lgm", lr=3.0), first)
    assert not torch.allclose(inputs(step=1), first)
    assert not torch.allclose(inputs(seed=1), first)
    passes = inputs(micro_batch=5)
    torch.testing.assert_close(passes[:ALL_VIEWS], first)
    assert torch.equal(passes[ALL_VIEWS:], passes[: ALL_VIEWS - 5])  # pass 2 replays pass 1, noise included
    labels = make_distiller().view_labels
    assert labels.tolist() == [c for c in range(CLASSES) for _ in range(IPC * VIEWS)]


def test_an_objective_is_told_the_step():
    told = []

    def objective(features: Tensor, labels: Tensor, step: int) -> Tensor:
        told.append(step)
        return features.square().mean()

    distiller = make_distiller(objective)
    for _ in range(3):
        distiller.step()
    assert told == [0, 1, 2]


def test_labels_must_fit_the_canvas():
    with pytest.raises(ValueError, match="2 labels for a canvas of 3 images"):
        Distiller([Tower(ConvEncoder(), make_objective("sfm"))], Canvas(3, SIZE), torch.tensor([0, 1]), make_loop())


# ---- as many views as fit


def test_all_views_fit_into_plenty_of_memory(monkeypatch):
    monkeypatch.setattr(micro_batches, "free_memory", lambda device: 2**40)
    distiller = make_distiller(micro_batch=None)
    assert_same(gradients(distiller), gradients(make_distiller()))
    assert distiller.micro_batch == ALL_VIEWS
    distiller.towers[0].encoder.batches.clear()
    distiller.step()
    assert distiller.towers[0].encoder.batches == [(ALL_VIEWS, True)]  # measured once, then one pass


@pytest.mark.slow
def test_the_micro_batch_follows_free_memory(monkeypatch):
    chosen = []
    for power in range(40):
        monkeypatch.setattr(micro_batches, "free_memory", lambda device, power=power: 2**power)
        distiller = make_distiller(micro_batch=None)
        distiller.gradient()
        chosen.append(distiller.micro_batch)
    assert chosen == sorted(chosen)
    assert chosen[0] == 1
    assert chosen[-1] == ALL_VIEWS
    between = [n for n in chosen if 1 < n < ALL_VIEWS]
    assert len(between) >= 3  # roughly doubles with the memory
    # What autograd keeps per view: images, crops and activations, a few kilobytes here.
    assert 2**11 < 2 ** chosen.index(between[0]) < 2**18
    monkeypatch.setattr(micro_batches, "free_memory", lambda device: 2 ** chosen.index(between[0]))
    assert_same(gradients(make_distiller(micro_batch=None)), gradients(make_distiller()))


def test_free_memory_is_shared_with_other_processes_on_the_machine(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    alone = micro_batches.free_memory(torch.device("cpu"))
    assert alone > 2**20
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert micro_batches.free_memory(torch.device("cpu")) == pytest.approx(alone / 8, rel=0.3)


def test_without_memory_for_two_views_it_continues_with_one():
    distiller = make_distiller(encoder=RunsOut(1), micro_batch=None)
    assert_same(gradients(distiller), gradients(make_distiller()))
    assert distiller.micro_batch == 1


# ---- out of memory


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lgm", "clp", "sfm"])
@pytest.mark.parametrize("only_graph", [None, False, True], ids=["any pass", "pass 1", "pass 2"])
@pytest.mark.parametrize("micro_batch", [18, 7])
def test_out_of_memory_halves_the_micro_batch(name, only_graph, micro_batch, caplog):
    encoder = RunsOut(5, only_graph)
    distiller = make_distiller(name, encoder=encoder, micro_batch=micro_batch)
    assert_same(gradients(distiller), whole(name))
    tried = {18: [18, 9, 4], 7: [7, 3]}[micro_batch]
    if micro_batch == 18 and only_graph is False:  # only one pass, with a graph: passes without one never run out
        tried = [18]
    assert caplog.messages == [f"out of memory: continuing with micro-batches of {n} views" for n in tried[1:]]
    assert distiller.micro_batch == tried[-1]
    encoder.batches.clear()
    caplog.clear()
    assert_same(gradients(distiller), whole(name))  # and it keeps that size, without another message
    assert max(n for n, _ in encoder.batches) == tried[-1]
    assert not caplog.messages


def test_out_of_memory_in_the_backward_pass_halves_too(caplog):
    class Runs(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            if len(gradient) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return gradient

    class RunsOutBackwards(ConvEncoder):
        def forward(self, images: Tensor) -> Tensor:
            return Runs.apply(super().forward(images))

    expected = gradients(make_distiller())
    for micro_batch in (18, 9):
        assert_same(gradients(make_distiller(encoder=RunsOutBackwards(), micro_batch=micro_batch)), expected)
    assert caplog.text.count("of 4 views") == 2


def test_out_of_memory_half_way_leaves_no_partial_gradient():
    # The second micro-batch of pass 2 runs out of memory, after the first has left its gradient.
    class RunsOutOnce(ConvEncoder):
        def forward(self, images: Tensor) -> Tensor:
            features = super().forward(images)
            if self.batches == [(9, False)] + [(9, True)] * 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return features

    distiller = make_distiller(encoder=RunsOutOnce(), micro_batch=9)
    assert_same(gradients(distiller), gradients(make_distiller()))
    assert distiller.micro_batch == 4


def test_a_micro_batch_of_more_than_all_views_is_halved_from_all_views(caplog):
    distiller = make_distiller(encoder=RunsOut(9), micro_batch=1000)
    distiller.step()
    assert distiller.micro_batch == 9
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(("sizes", "expected"), [([[9]], 9), ([[9], [4]], 4), ([[9], [4], [2]], 9), ([[0], [0]], None)])
def test_each_process_resumes_with_its_own_micro_batch(sizes, expected):
    """With as many processes as before; with another number, all take the first one's."""
    alone = make_distiller(micro_batch=None)
    tensors, values = snapshot(alone)
    second = Processes(1, 2)
    own = second.share(len(alone.labels))
    canvas = Canvas(own.stop - own.start, SIZE, dtype=torch.float64)
    towers = [Tower(ConvEncoder(), make_objective("sfm"))]
    distiller = Distiller(towers, canvas, alone.labels, make_loop(micro_batch=None), second)
    if len(sizes) == 1:
        distiller = make_distiller(micro_batch=None)
    distiller.load_state(tensors, {**values, "micro_batches": sizes})
    assert distiller.micro_batch == expected


def test_no_memory_for_one_view_is_an_error():
    distiller = make_distiller(encoder=RunsOut(0))
    before = snapshot(distiller)
    with pytest.raises(torch.OutOfMemoryError):
        distiller.step()
    assert distiller.micro_batch == 1
    after = snapshot(distiller)
    after[1]["micro_batches"] = [[ALL_VIEWS]]
    assert_same_state(after, before)


def real_cpu_error() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize("error", [real_cpu_error, lambda: RuntimeError("MPS backend out of memory (MPS allocated …)")])
def test_other_devices_run_out_of_memory_too(error):
    distiller = make_distiller(encoder=RunsOut(5, error=error()))
    assert_same(gradients(distiller), gradients(make_distiller()))
    assert distiller.micro_batch == 4


def test_other_errors_are_raised():
    distiller = make_distiller(encoder=RunsOut(5, error=RuntimeError("shapes do not match")))
    with pytest.raises(UserError, match=r"fails with \d+ images at a time \(shapes do not match\)"):
        distiller.step()
    assert len(distiller.towers[0].encoder.batches) == 1


# ---- not finite


class TurnsBad:
    """SFM until ``step``; then a loss that is not finite, or only such a gradient."""

    def __init__(self, step: int, what: str) -> None:
        self.plain, self.step, self.what = make_objective("sfm"), step, what

    def __call__(self, features: Tensor, labels: Tensor, step: int) -> Tensor:
        loss = self.plain(features, labels, step)
        if step != self.step:
            return loss
        if self.what == "gradient":
            return loss + (features - features.detach()).abs().sum().sqrt()  # 0, with slope ∞ · 0
        return loss * float(self.what)


@cache
def undisturbed(level_every: int, micro_batch: int):
    """The result of four steps."""
    distiller = make_distiller("sfm", level_every=level_every, micro_batch=micro_batch)
    for _ in range(4):
        distiller.step()
    return snapshot(distiller)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["nan", "inf", "-inf", "gradient"])
@pytest.mark.parametrize("level_every", [0, 2])
@pytest.mark.parametrize("micro_batch", [18, 5])
def test_a_loss_that_is_not_finite_changes_nothing(what, level_every, micro_batch):
    distiller = make_distiller(TurnsBad(2, what), level_every=level_every, micro_batch=micro_batch)
    distiller.step()
    distiller.step()
    before, images = snapshot(distiller), distiller.canvas.images()
    for _ in range(2):  # also at a step that opens a level
        with pytest.raises(NonFiniteLossError, match="not finite at step 2"):
            distiller.step()
        assert_same_state(snapshot(distiller), before)
        assert torch.equal(distiller.canvas.images(), images)
    assert distiller.step_count == 2
    distiller.towers[0].objective.step = -1  # finite again: the run continues as if nothing had happened
    distiller.step()
    distiller.step()
    assert_same_state(snapshot(distiller), undisturbed(level_every, micro_batch))


# ---- state


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lgm", "clp", "sfm"])
@pytest.mark.parametrize(
    ("level_every", "micro_batch", "dtype"), [(2, None, torch.float32), (2, 5, torch.float64), (0, None, torch.float32)]
)
def test_a_loaded_state_continues_bit_for_bit(tmp_path, name, level_every, micro_batch, dtype):
    options = {"level_every": level_every, "micro_batch": micro_batch, "dtype": dtype}
    whole, first = make_distiller(name, **options), make_distiller(name, **options)
    losses = torch.stack([whole.step() for _ in range(7)])
    assert len(whole.canvas.levels) == 4 if level_every else whole.canvas.all_open
    parts = []
    for stop in range(6):  # a level opens every two steps
        save_tensors(tmp_path / "state", *first.state())
        second = make_distiller(name, **options)
        second.load_state(*load_tensors(tmp_path / "state"))
        assert second.step_count == stop
        assert torch.equal(second.canvas.images(), first.canvas.images())
        rest = [second.step() for _ in range(7 - stop)]
        assert torch.equal(torch.stack([*parts, *rest]), losses), stop
        assert_same_state(snapshot(second), snapshot(whole))
        parts.append(first.step())


def test_loading_does_not_tie_two_distillers_together():
    one, two = make_distiller(), make_distiller()
    one.step()
    two.load_state(*one.state())
    before = snapshot(two)
    one.step()
    assert_same_state(snapshot(two), before)
    two.step()
    assert_same_state(snapshot(two), snapshot(one))


def test_a_micro_batch_found_by_running_out_is_kept():
    one = make_distiller(encoder=RunsOut(5))
    one.step()
    two = make_distiller(encoder=RunsOut(5))
    two.load_state(*one.state())
    two.step()
    assert max(n for n, _ in two.towers[0].encoder.batches) == 4


def test_a_state_can_be_loaded_with_another_micro_batch():
    one = make_distiller(micro_batch=5)
    for wanted, used in ((3, 3), (5, 5), (None, 5)):
        two = make_distiller(micro_batch=wanted)
        two.load_state(*one.state())
        assert two.micro_batch == used


def test_a_state_has_everything_by_name():
    distiller = make_distiller(level_every=2)
    assert set(distiller.state()[0]) == {"level.0"}
    for _ in range(3):
        distiller.step()
    tensors, values = distiller.state()
    moments = ("step", "exp_avg", "exp_avg_sq")
    assert set(tensors) == {f"level.{i}" for i in range(2)} | {f"adam.{i}.{m}" for i in range(2) for m in moments}
    assert values["step"] == 3
    assert values["levels"] == 2


# ---- optimisation


@pytest.mark.parametrize("name", ["lgm", "clp", "sfm"])
@pytest.mark.parametrize("kind", ["pyramid", "pixels"])
def test_the_loss_goes_down(name, kind):
    distiller = make_distiller(name, kind=kind, steps=30, lr=0.1, dtype=torch.float32)
    losses = [float(distiller.step()) for _ in range(30)]
    assert distiller.step_count == 30
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def learning_rates(distiller: Distiller) -> list[float]:
    rates = []
    for _ in range(distiller.steps):
        distiller.step()
        rates.append({group["lr"] for group in distiller._optimizer.param_groups})
    assert all(len(rate) == 1 for rate in rates[:-1])
    return [min(rate) for rate in rates]


def test_the_cosine_schedule_reaches_zero():
    rates = learning_rates(make_distiller(steps=40, lr=0.2))
    assert rates[0] == pytest.approx(0.2)
    assert rates[20] == pytest.approx(0.1)
    assert 0 < rates[-1] < 0.002 * 0.2
    assert rates == sorted(rates, reverse=True)


def test_the_last_steps_hardly_move_the_images():
    distiller = make_distiller(steps=40, lr=0.2)
    moved = []
    for _ in range(40):
        before = distiller.canvas.images()
        distiller.step()
        moved.append(float((distiller.canvas.images() - before).abs().max()))
    assert moved[-1] < 0.02 * moved[0]


def test_the_constant_schedule_stays():
    assert learning_rates(make_distiller(steps=8, lr=0.2, schedule="constant")) == [pytest.approx(0.2)] * 8


def test_levels_open_on_schedule():
    distiller = make_distiller(level_every=3, steps=20)
    taking_part = []
    for _ in range(14):
        distiller.step()
        taking_part.append(sum(bool((level != 0).any()) for level in distiller.canvas.levels))
    assert taking_part == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 5  # 1, 2, 4 and 8 pixels: four levels


def test_a_step_moves_each_level_by_adam():
    distiller = make_distiller(lr=0.05)
    before = [level.clone() for level in distiller.canvas.levels]
    distiller.step()
    for level, old in zip(distiller.canvas.levels, before, strict=True):
        expected = old - 0.05 * level.grad / (level.grad.abs() + 1e-8)  # Adam's first step
        torch.testing.assert_close(level, expected, rtol=1e-6, atol=1e-9)


def test_messages_are_one_line():
    distiller = make_distiller(TurnsBad(0, "nan"))
    with pytest.raises(NonFiniteLossError) as caught:
        distiller.step()
    assert re.fullmatch(r"loss or gradient not finite at step 0 \(loss nan\)", str(caught.value))
