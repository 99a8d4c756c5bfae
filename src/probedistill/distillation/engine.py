"""The loop's heart: views → features → objective → backward → update, in bounded memory.

Pass 1 computes the features of all views in micro-batches without a graph; the objective gives its
gradient with respect to those features, once, for all views together; pass 2 recomputes each micro-batch
with a graph and back-propagates its slice. When all views fit into one micro-batch there is one pass and
no recomputation. With several encoders the loss is the weighted sum of each one's own objective; they go
through the two passes one after the other and their gradients add up. With several processes each owns a slice
of the images: features are gathered, every process evaluates the objective on all of them and back-propagates
its own slice. Only here do micro-batches and processes exist: objectives, canvas and encoder know nothing of them.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..config import AugmentConfig
from ..errors import NonFiniteLossError
from ..features.views import Views, apply_views, draw_views
from ..machine.memory import available_memory
from ..machine.processes import ALONE, Processes
from ..objectives.real import Objective
from ..seeds import Stream, seed_of
from .canvas import Canvas

_MEMORY_SHARE = 0.5  # of free memory for saved activations; the rest is for temporaries and surprises

FeatureFunction = Callable[[Tensor], Tensor]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Tower:
    """An encoder with its objective: one term of the loss.

    Attributes:
        encoder: Images (n, 3, S, S) → features (n, d); frozen.
        objective: (features, labels, step) → scalar.
        weight: The term's factor in the loss.
        input_size: S, the side in pixels of the views that the encoder sees; ``None`` for the canvas's.
    """

    encoder: FeatureFunction
    objective: Objective
    weight: float = 1.0
    input_size: int | None = None


class _Batch(NamedTuple):
    """Features of some views, the canvas leaves they depend on, and the canvas rows of those leaves."""

    features: Tensor
    leaves: list[Tensor]
    rows: slice


class Distiller:
    """Synthetic images under optimisation: everything that a step reads and writes.

    Args:
        encoder: Images (n, 3, S, S) → features (n, d); frozen.
        objective: (features, labels, step) → scalar.
        canvas: The synthetic images' parameters: all m of them, or this process's share.
        labels: (m,) int64, of all images.
        steps: Length of the run (for the learning-rate schedule).
        views: Augmented views v of each image in a step.
        lr: Adam's learning rate.
        schedule: ``"cosine"`` to zero, or ``"constant"``.
        level_every: Open a pyramid level every so many steps (0: never).
        augment: How views are drawn.
        micro_batch: Views per forward and backward pass; ``None`` for as many as fit in the memory that is
            free at the first step, for each encoder. Halved whenever memory runs out all the same.
        seed: Seeds the views.
        processes: The processes that share the run.
        weight: Factor of this encoder's objective in the loss.
        input_size: Side in pixels of the views that this encoder sees; ``None`` for the canvas's.
        also: Further encoders, each with its objective and weight; each sees views of its own.

    Attributes:
        towers: All encoders with their objectives; the loss is Σ weight · objective.
        losses: (number of towers,) the objectives' values at the last step, unweighted.
        step_count: Steps done.
    """

    def __init__(
        self,
        encoder: FeatureFunction,
        objective: Objective,
        canvas: Canvas,
        labels: Tensor,
        *,
        steps: int,
        views: int,
        lr: float,
        schedule: str = "cosine",
        level_every: int = 0,
        augment: AugmentConfig | None = None,
        micro_batch: int | None = None,
        seed: int = 0,
        processes: Processes = ALONE,
        weight: float = 1.0,
        input_size: int | None = None,
        also: Sequence[Tower] = (),
    ) -> None:
        own = processes.share(len(labels))
        if own.stop - own.start != canvas.count:
            raise ValueError(f"a share of {own.stop - own.start} labels for a canvas of {canvas.count} images")
        self.processes, self._own_views = processes, slice(own.start * views, own.stop * views)
        self._images_of_ranks = [s.stop - s.start for s in processes.shares(len(labels))]
        self._views_of_ranks = [count * views for count in self._images_of_ranks]
        self.towers, self.canvas = (Tower(encoder, objective, weight, input_size), *also), canvas
        self.device = canvas.levels[0].device
        self.labels = labels.to(self.device)
        self.view_labels = self.labels.repeat_interleave(views)
        self.steps, self.views, self.lr, self.schedule = steps, views, lr, schedule
        self.level_every, self.augment, self.seed = level_every, augment or AugmentConfig(), seed
        self._wanted, self._micro_batches = micro_batch, [micro_batch] * len(self.towers)
        self.losses = torch.full((len(self.towers),), math.nan)
        self.step_count = 0
        self._optimizer = torch.optim.Adam([{"params": [level]} for level in canvas.levels], lr=lr, fused=True)

    def step(self) -> Tensor:
        """Do one step and return its loss, a scalar on the device (reading it waits for the device).

        Raises:
            NonFiniteLossError: The loss or the gradient is not finite; nothing has been changed.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr * self._decay()
        loss = self.gradient()
        gradients = [level.grad for level in self.canvas.levels if level.grad is not None]
        finite = bool(torch.stack([loss.isfinite(), *(g.isfinite().all() for g in gradients)]).all())
        if self.processes.largest(int(not finite)):
            raise NonFiniteLossError(f"loss or gradient not finite at step {self.step_count} (loss {float(loss)})")
        self._optimizer.step()
        self.step_count += 1
        self._open_level_if_due()
        return loss

    def gradient(self) -> Tensor:
        """Set the gradient of this step's loss on ``canvas.levels``, tower by tower, and return the loss."""
        for level in self.canvas.levels:
            level.grad = None
        losses = []
        for number in range(len(self.towers)):
            loss, gradients = self._gradient_of(number)
            losses.append(loss)
            for level, gradient in zip(self.canvas.levels, gradients, strict=True):
                level.grad = gradient if level.grad is None else level.grad.add_(gradient)
        self.losses = torch.stack(losses)
        return torch.stack([tower.weight * loss for tower, loss in zip(self.towers, losses, strict=True)]).sum()

    def _gradient_of(self, number: int) -> tuple[Tensor, list[Tensor]]:
        """A tower's objective and, times its weight, the gradient with respect to each level."""
        tower = self.towers[number]
        seed = seed_of(self.seed, Stream.STEP_VIEWS, self.step_count, number)
        views = draw_views(self.augment, len(self.view_labels), seed=seed)[self._own_views]
        if self._micro_batches[number] is None:
            self._micro_batches[number] = self._views_that_fit(tower, views)
        kept: list[_Batch] = []

        def pass_1(size: int) -> Tensor:
            if size >= len(views):
                kept.append(self._forward(tower, views, 0, len(views)))
                return kept[0].features.detach()
            with torch.no_grad():
                return torch.cat([self._forward(tower, views, a, b).features for a, b in _slices(len(views), size)])

        def pass_2(size: int) -> list[Tensor]:
            if kept:
                return _backward(kept.pop(), feature_gradient)
            gradients = [torch.zeros_like(level) for level in self.canvas.levels]
            for start, stop in _slices(len(views), size):
                batch = self._forward(tower, views, start, stop)
                for gradient, part in zip(gradients, _backward(batch, feature_gradient[start:stop]), strict=True):
                    gradient[batch.rows] += part
            return gradients

        features = self._in_memory(number, pass_1)
        loss, all_gradients = self._loss(tower, self.processes.gather(features, self._views_of_ranks))
        feature_gradient = tower.weight * all_gradients[self._own_views]
        return loss, self._in_memory(number, pass_2)

    def _forward(self, tower: Tower, views: Views, start: int, stop: int) -> _Batch:
        """A tower's features of this process's views start … stop."""
        rows = slice(start // self.views, (stop - 1) // self.views + 1)
        leaves = [level[rows].detach().requires_grad_(torch.is_grad_enabled()) for level in self.canvas.levels]
        images = self.canvas.render(leaves)
        first = start - rows.start * self.views
        of_view = images.repeat_interleave(self.views, dim=0)[first : first + stop - start]
        inputs = apply_views(of_view, views[start:stop], tower.input_size or self.canvas.size)
        return _Batch(tower.encoder(inputs), leaves, rows)

    def _views_that_fit(self, tower: Tower, views: Views) -> int:
        """How many views' graphs fit in free memory, by what autograd saves for one view more."""

        def saved_bytes(count: int) -> int:
            sizes: dict[int, int] = {}

            def note(tensor: Tensor) -> Tensor:
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                self._forward(tower, views, 0, count)
            return sum(sizes.values())

        if len(views) < 2:
            return len(views)
        try:
            per_view = max(1, saved_bytes(2) - saved_bytes(1))
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            return 1
        return max(1, min(len(views), int(_MEMORY_SHARE * _free_memory(self.device) / per_view)))

    def _in_memory(self, number: int, attempt: Callable[[int], Result]) -> Result:
        """Call ``attempt(micro-batch size)`` for a tower, with half the size whenever memory runs out."""
        own = self._own_views.stop - self._own_views.start
        while True:
            size = min(self._micro_batches[number] or own, own)
            try:
                return attempt(size)
            except RuntimeError as error:
                if not _is_out_of_memory(error) or size == 1:
                    raise
                self._micro_batches[number] = size // 2
            # Outside the except block: the error's traceback holds on to the tensors that did not fit.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            print(f"out of memory: going on with micro-batches of {size // 2} views", file=sys.stderr)

    def _loss(self, tower: Tower, features: Tensor) -> tuple[Tensor, Tensor]:
        """The objective's value and its gradient with respect to the features, both detached."""
        leaf = features.detach().requires_grad_()
        loss = tower.objective(leaf, self.view_labels, self.step_count)
        (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), gradient

    @property
    def micro_batch(self) -> int | list[int | None] | None:
        """Views per pass: one number, or one for each encoder where there are several."""
        return self._micro_batches[0] if len(self.towers) == 1 else list(self._micro_batches)

    def _decay(self) -> float:
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * self.step_count / self.steps))

    def _open_level_if_due(self) -> None:
        due = self.level_every > 0 and self.step_count % self.level_every == 0
        if due and not self.canvas.all_open:
            self._optimizer.add_param_group({"params": [self.canvas.open_level()]})

    def images(self) -> Tensor:
        """All synthetic images (m, 3, S, S) in (0, 1), of every process, on every process."""
        return self.processes.gather(self.canvas.images(), self._images_of_ranks)

    def images_on_first(self) -> Tensor:
        """The same on the first process alone; the others get none."""
        return self.processes.gather_to_first(self.canvas.images(), self._images_of_ranks)

    # -------------------------------------------------------------------------------------------------
    # State: everything else follows from the seed and the step

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors of all images and plain values from which `load_state` continues bit for bit.

        The first process gets the whole, to store; the others' tensors are empty. A checkpoint of n processes
        loads on any other number, which may round otherwise. The tensors may be the live ones: store or clone them
        before the next step.
        """
        tensors: dict[str, Tensor] = {}
        for i, level in enumerate(self.canvas.levels):
            tensors[f"level.{i}"] = self.processes.gather_to_first(level, self._images_of_ranks)
            for name, value in self._optimizer.state.get(level, {}).items():
                whole = value if value.ndim == 0 else self.processes.gather_to_first(value, self._images_of_ranks)
                tensors[f"adam.{i}.{name}"] = whole
        return tensors, {
            "step": self.step_count,
            "micro_batches": self.processes.gather(self._sizes(), [1] * self.processes.count).tolist(),
            "wanted_micro_batch": self._wanted,
            "levels": len(self.canvas.levels),
        }

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Continue from what the first process's `state` returned; another micro-batch is taken where one is wanted."""
        while len(self.canvas.levels) < values["levels"]:
            self._optimizer.add_param_group({"params": [self.canvas.open_level()]})
        own = self.processes.share(len(self.labels))
        for i, level in enumerate(self.canvas.levels):
            level.copy_(tensors[f"level.{i}"][own])
            prefix = f"adam.{i}."
            moments = {
                k.removeprefix(prefix): v if v.ndim == 0 else v[own] for k, v in tensors.items() if k.startswith(prefix)
            }
            self._optimizer.state[level] = {
                k: v.to(level.device if k == "step" else level, copy=True) for k, v in moments.items()
            }
        self.step_count, of_ranks = values["step"], values["micro_batches"]
        if self._wanted is None or self._wanted == values["wanted_micro_batch"]:
            same = len(of_ranks) == self.processes.count
            self._micro_batches = [size or None for size in of_ranks[self.processes.rank if same else 0]]

    def _sizes(self) -> Tensor:
        """(1, number of towers) this process's micro-batches, 0 where it has none yet."""
        return torch.tensor([[size or 0 for size in self._micro_batches]])


def _backward(batch: _Batch, feature_gradient: Tensor) -> list[Tensor]:
    """Back-propagate a batch's features; the gradients of its leaves."""
    batch.features.backward(feature_gradient)
    return [leaf.grad for leaf in batch.leaves if leaf.grad is not None]


def _free_memory(device: torch.device) -> int:
    """Bytes that this process may take: free memory, shared with the other processes of this machine."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # of the tower before, say
        return torch.cuda.mem_get_info(device)[0] + cached
    return available_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _slices(total: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, size):
        yield start, min(start + size, total)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the allocator of CUDA, MPS ("... out of memory") or the CPU gave up."""
    words = ("out of memory", "DefaultCPUAllocator")
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(word in str(error) for word in words)
