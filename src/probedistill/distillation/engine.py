"""The heart of the loop: draw views → features → objective → back to the canvas → update.

Only the engine knows of steps, towers and processes. Objectives are functions of features, a canvas is parameters with
a rendering, an encoder is a function of images, and how much of a step fits in memory is the business of
`micro_batches`. With several processes each owns a slice of the images: the features are gathered, every process
evaluates the objective on all of them, and each back-propagates to its own images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypedDict

import torch
from torch import Tensor

from ..config import AugmentConfig
from ..errors import NonFiniteLossError
from ..features.encode import features_of
from ..features.views import Views, apply_views, draw_views
from ..machine.processes import ALONE, Processes
from ..objectives.real import Objective
from ..seeds import Stream, seed_of
from ..store.records import Count
from .canvas import AnyCanvas, Canvas, rendered
from .micro_batches import MicroBatches, Part


class EngineState(TypedDict):
    """Plain values of `Distiller.state`: steps done, micro-batch sizes of each process, and open levels."""

    step: Count
    micro_batches: list[list[Count]]
    wanted_micro_batch: int | None
    levels: Count


FeatureFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tower:
    """An encoder with its objective: one term of the loss.

    Attributes:
        encoder: Images (n, 3, S, S) → features (n, d); frozen.
        objective: (features, labels, step) → scalar.
        weight: Factor of the term in the loss.
        input_size: Side S, in pixels, of the views that the encoder sees; ``None`` for the canvas's side.
    """

    encoder: FeatureFunction
    objective: Objective
    weight: float = 1.0
    input_size: int | None = None

    def loss_and_gradient(self, features: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The objective's value and its gradient with respect to the features (n, d), both without a graph."""
        leaf = features.detach().requires_grad_()
        loss = self.objective(leaf, labels, step)
        (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), gradient


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Settings of the optimisation loop.

    Attributes:
        steps: Length of the run, for the learning-rate schedule.
        lr: Adam's learning rate.
        schedule: ``"cosine"`` to zero, or ``"constant"``.
        views: Augmented views v of each image in a step.
        augment: How views are drawn.
        level_every: Open a level of the pyramid after every this many steps; 0: never.
        new_level: What a new level starts from: ``"zero"``, or ``"noise"`` with Adam reset.
        micro_batch: Views per forward and backward pass; ``None`` for as many as fit in memory, for each encoder.
        seed: Seed of the views.
    """

    steps: int
    lr: float
    schedule: Literal["cosine", "constant"] = "cosine"
    views: int = 1
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    level_every: int = 0
    new_level: Literal["zero", "noise"] = "zero"
    micro_batch: int | None = None
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * (0.5 * (1 + math.cos(math.pi * step / self.steps)))


class Distiller:
    """Synthetic images under optimisation: everything that a step reads and writes.

    Args:
        towers: Encoders with their objectives; the loss is Σ weight · objective. Each has its own views.
        canvas: The parameters of the synthetic images: of all m images, or of this process's share.
        labels: (m,) int64, of all images.
        loop: How a run steps.
        team: The processes that share the run.

    Attributes:
        step_count: Steps done.
        losses: (number of towers,) the objectives' values at the last step, unweighted.
    """

    def __init__(
        self, towers: Sequence[Tower], canvas: AnyCanvas, labels: Tensor, loop: Loop, team: Processes = ALONE
    ) -> None:
        own = team.share(len(labels))
        if own.stop - own.start != canvas.count:
            raise ValueError(f"a share of {own.stop - own.start} labels for a canvas of {canvas.count} images")
        self.towers, self.canvas, self.loop, self.team = tuple(towers), canvas, loop, team
        self.device = canvas.levels[0].device
        self.labels = labels.to(self.device)
        self.view_labels = self.labels.repeat_interleave(loop.views)
        self._own_views = slice(own.start * loop.views, own.stop * loop.views)
        self._images_of_ranks = [share.stop - share.start for share in team.shares(len(labels))]
        self._views_of_ranks = [count * loop.views for count in self._images_of_ranks]
        views = canvas.count * loop.views
        self.memory = [MicroBatches(views, loop.micro_batch, self.device) for _ in self.towers]
        self.losses = torch.full((len(self.towers),), math.nan)
        self.step_count = 0
        self._first_image = own.start
        self._optimizer = self._new_optimizer()

    def step(self) -> Tensor:
        """Do one step and return its loss, a scalar on the device (reading it waits for the device).

        Raises:
            NonFiniteLossError: The loss or the gradient is not finite; nothing has been changed.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self.loop.lr_at(self.step_count)
        loss = self.gradient()
        self._check_finite(loss)
        self._optimizer.step()
        self.step_count += 1
        self._open_level_if_due()
        return loss

    def gradient(self) -> Tensor:
        """Set the gradient of this step's loss on ``canvas.levels`` and return the loss."""
        for level in self.canvas.levels:
            level.grad = None
        losses = []
        # One tower after the other: gradients add up, and only the largest tower determines the memory.
        for number, (tower, memory) in enumerate(zip(self.towers, self.memory, strict=True)):
            forward = partial(self._forward, tower, self._draw(number))
            features = memory.features(forward)
            # An objective compares classes with each other, so it needs the features of all processes. Features and
            # their gradients are small; images and graphs stay where they are.
            everyone = self.team.gather(features, self._views_of_ranks)
            loss, slope = tower.loss_and_gradient(everyone, self.view_labels, self.step_count)
            slope = tower.weight * slope[self._own_views]
            self._add(memory.gradients(forward, slope, self.canvas.levels))
            losses.append(loss)
        self.losses = torch.stack(losses)
        return torch.stack([tower.weight * loss for tower, loss in zip(self.towers, losses, strict=True)]).sum()

    def _draw(self, number: int) -> Views:
        """A tower's views of this process's images."""
        # Drawn for all images from only (seed, step, tower), then sliced. So views do not depend on the number of
        # processes or the micro-batch, and are the same in both passes and after a resumption.
        seed = seed_of(self.loop.seed, Stream.STEP_VIEWS, self.step_count, number)
        return draw_views(self.loop.augment, len(self.view_labels), seed=seed)[self._own_views]

    def _forward(self, tower: Tower, views: Views, start: int, stop: int) -> Part:
        """Compute a tower's features of this process's views ``start`` to ``stop``, beginning at the canvas."""
        of_each = self.loop.views
        rows = slice(start // of_each, (stop - 1) // of_each + 1)  # only the images that these views show
        leaves = [level[rows].detach().requires_grad_(torch.is_grad_enabled()) for level in self.canvas.levels]
        images = _repeated(self.canvas.render(leaves), of_each, start - rows.start * of_each, stop - start)
        inputs = apply_views(images, views[start:stop], tower.input_size or self.canvas.size)
        return Part(features_of(tower.encoder, inputs), leaves, rows)

    def _add(self, gradients: list[Tensor]) -> None:
        for level, gradient in zip(self.canvas.levels, gradients, strict=True):
            level.grad = gradient if level.grad is None else level.grad.add_(gradient)

    def _check_finite(self, loss: Tensor) -> None:
        gradients = [level.grad for level in self.canvas.levels if level.grad is not None]
        finite = torch.stack([loss.isfinite(), *(gradient.isfinite().all() for gradient in gradients)]).all()
        # All processes must stop together; otherwise the others would wait for the one that stopped.
        if self.team.largest(int(not finite)):
            raise NonFiniteLossError(f"loss or gradient not finite at step {self.step_count} (loss {float(loss)})")

    def _open_level_if_due(self) -> None:
        due = self.loop.level_every > 0 and self.step_count % self.loop.level_every == 0
        if not due or not isinstance(self.canvas, Canvas) or self.canvas.all_open:
            return
        if self.loop.new_level == "noise":
            self.canvas.open_noisy_level(seed=self.loop.seed, first=self._first_image)
            # The old levels have just been scaled, so Adam's moments no longer fit them.
            self._optimizer = self._new_optimizer()
        else:
            self._optimizer.add_param_group({"params": [self.canvas.open_level()]})

    def _new_optimizer(self) -> torch.optim.Adam:
        # A group for each level, so that levels can be added during the run.
        groups = [{"params": [level]} for level in self.canvas.levels]
        return torch.optim.Adam(groups, lr=self.loop.lr, fused=True)

    @property
    def steps(self) -> int:
        """Length of the run."""
        return self.loop.steps

    @property
    def micro_batch(self) -> int | list[int | None] | None:
        """Views per pass: one number, or one for each encoder if there are several."""
        return self.memory[0].size if len(self.towers) == 1 else [memory.size for memory in self.memory]

    def images(self) -> Tensor:
        """All synthetic images (m, 3, S, S) in (0, 1), of every process, on every process."""
        return self.team.gather(rendered(self.canvas), self._images_of_ranks)

    def images_on_first(self) -> Tensor:
        """All synthetic images on the first process; none on the others."""
        return self.team.gather_to_first(rendered(self.canvas), self._images_of_ranks)

    # -------------------------------------------------------------------------------------------------
    # State: everything else follows from the seed and the step

    def state(self) -> tuple[dict[str, Tensor], EngineState]:
        """Tensors of all images and plain values from which `load_state` continues bit for bit.

        The first process gets the tensors of all images, to store; the others' are empty. A checkpoint of n processes
        loads on any other number of processes, which may round differently. The tensors may be the live ones: store or
        clone them before the next step.
        """
        tensors: dict[str, Tensor] = {}
        for i, level in enumerate(self.canvas.levels):
            tensors[f"level.{i}"] = self.team.gather_to_first(level, self._images_of_ranks)
            for name, value in self._optimizer.state.get(level, {}).items():
                whole = value if value.ndim == 0 else self.team.gather_to_first(value, self._images_of_ranks)
                tensors[f"adam.{i}.{name}"] = whole
        sizes = torch.tensor([[memory.size or 0 for memory in self.memory]])  # 0: not measured yet
        return tensors, {
            "step": self.step_count,
            "micro_batches": self.team.gather(sizes, [1] * self.team.count).tolist(),
            "wanted_micro_batch": self.loop.micro_batch,
            "levels": len(self.canvas.levels),
        }

    def load_state(self, tensors: dict[str, Tensor], values: EngineState) -> None:
        """Continue from what the first process's `state` returned.

        This restores the micro-batch sizes, too, because they change the last digits, unless the user has set another.

        Raises:
            ValueError: It is the state of other images.
        """
        while isinstance(self.canvas, Canvas) and len(self.canvas.levels) < values["levels"]:
            self._optimizer.add_param_group({"params": [self.canvas.open_level()]})
        own = self.team.share(len(self.labels))
        for i, level in enumerate(self.canvas.levels):
            prefix = f"adam.{i}."
            whole = {k: v for k, v in tensors.items() if k == f"level.{i}" or (k.startswith(prefix) and v.ndim)}
            odd = next((k for k, v in whole.items() if v.shape != (len(self.labels), *level.shape[1:])), None)
            if odd is not None or f"level.{i}" not in whole:
                raise ValueError(f"{odd or f'level.{i}'} is not a tensor of these images")
            level.copy_(whole[f"level.{i}"][own])
            moments = {
                k.removeprefix(prefix): v if v.ndim == 0 else v[own] for k, v in tensors.items() if k.startswith(prefix)
            }
            self._optimizer.state[level] = {
                k: v.to(level.device if k == "step" else level, copy=True) for k, v in moments.items()
            }
        self.step_count, of_ranks = values["step"], values["micro_batches"]
        if self.loop.micro_batch is None or self.loop.micro_batch == values["wanted_micro_batch"]:
            same = len(of_ranks) == self.team.count
            for memory, size in zip(self.memory, of_ranks[self.team.rank if same else 0], strict=True):
                memory.size = size or None


def _repeated(images: Tensor, times: int, first: int, count: int) -> Tensor:
    """Repeat each image (n, …) ``times`` in a row; return ``count`` rows from ``first`` on, at least one per image.

    The first and the last image are repeated only as often as needed: with 2,000 views per image, all repeats of an
    image might not fit in memory.
    """
    if count == len(images) * times:
        return images.repeat_interleave(times, dim=0)
    if len(images) == 1:
        return images.expand(count, -1, -1, -1)
    of_first, of_last = times - first, first + count - (len(images) - 1) * times
    whole = images[1:-1].repeat_interleave(times, dim=0)
    return torch.cat([images[:1].expand(of_first, -1, -1, -1), whole, images[-1:].expand(of_last, -1, -1, -1)])
