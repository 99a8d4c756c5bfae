"""Many views through an encoder in bounded memory: two passes in micro-batches (GradCache, arXiv 2101.06983).

An objective needs the features of all views at once, but a graph over all views may not fit in memory. So features are
first computed without a graph, the objective returns its gradient with respect to the features, and each micro-batch is
then computed again, with a graph, for its slice of that gradient. The sum over micro-batches is the gradient of a
single pass. The graph of one micro-batch fits, so the last one keeps its graph and is not computed again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import is_out_of_memory
from ..machine.launch import processes_here
from ..machine.memory import available_memory

_log = logging.getLogger(__name__)
_SHARE = 0.5  # share of free memory for what autograd saves; the rest is for temporaries and surprises

Result = TypeVar("Result")


class Part(NamedTuple):
    """Features of some views, and what they were computed from.

    Attributes:
        features: (n, d), with a graph if gradients are switched on.
        leaves: The graph's leaves: some rows of each tensor of parameters.
        rows: Which rows.
    """

    features: Tensor
    leaves: list[Tensor]
    rows: slice


Forward = Callable[[int, int], Part]
"""(start, stop) → the features of those views."""


class MicroBatches:
    """How many views go through one encoder at a time, in one process.

    Args:
        views: Number of views V.
        wanted: Views per pass; ``None`` for as many as fit in the memory that is free at the first pass.
        device: Where the encoder runs.

    Attributes:
        size: Views per pass; ``None`` before the first one. It is halved whenever memory runs out.
    """

    def __init__(self, views: int, wanted: int | None, device: torch.device) -> None:
        self.views, self.size, self.device = views, wanted, device
        self._kept: Part | None = None  # the last micro-batch and its graph, kept between the two passes

    def features(self, forward: Forward) -> Tensor:
        """First pass: the features (V, d) of all views, detached."""
        self._kept = None
        if self.size is None:
            self.size = self._views_that_fit(forward)

        def attempt(size: int) -> Tensor:
            *others, last = _slices(self.views, size)
            with torch.no_grad():
                features = [forward(start, stop).features for start, stop in others]
            self._kept = forward(*last)
            return torch.cat([*features, self._kept.features.detach()])

        return self._halving(attempt)

    def gradients(self, forward: Forward, slope: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Second pass: back-propagate the features' gradient.

        Args:
            forward: As for `features`.
            slope: (V, d), the loss's gradient with respect to the features.
            parameters: What ``forward`` takes its leaves from.

        Returns:
            The gradient with respect to each tensor of ``parameters``.
        """

        def attempt(size: int) -> list[Tensor]:
            kept, self._kept = self._kept, None
            *others, last = _slices(self.views, size)
            if not others:
                return _backward(kept or forward(*last), slope)
            # Sums of only this attempt: if memory runs out half-way, they are dropped, so nothing counts twice.
            sums = [torch.zeros_like(parameter) for parameter in parameters]
            for start, stop in (last, *others):  # the last one first, because it has a graph: memory never holds two
                part, kept = kept or forward(start, stop), None
                for total, gradient in zip(sums, _backward(part, slope[start:stop]), strict=True):
                    total[part.rows] += gradient
                del part
            return sums

        return self._halving(attempt)

    def _halving(self, attempt: Callable[[int], Result]) -> Result:
        """Call ``attempt(size)``, and again with half the size whenever memory runs out."""
        while True:
            size = min(self.size or self.views, self.views)
            try:
                return attempt(size)
            except RuntimeError as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
                self.size = size // 2
            # Outside the except block, because the error's traceback still refers to the tensors that did not fit.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            _log.warning("out of memory: continuing with micro-batches of %d views", size // 2)

    def _views_that_fit(self, forward: Forward) -> int:
        """How many views' graphs fit in free memory, estimated from what autograd saves for one more view."""
        if self.views < 2:
            return self.views
        try:
            per_view = max(1, _saved_bytes(forward, 2) - _saved_bytes(forward, 1))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return 1
        return max(1, min(self.views, int(_SHARE * free_memory(self.device) / per_view)))


def free_memory(device: torch.device) -> int:
    """Bytes that this process may use: free memory, shared with the other processes of the run on this machine."""
    if device.type == "cuda":
        # PyTorch's cached memory, for example from the previous tower, is also free.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return available_memory() // processes_here()


def _saved_bytes(forward: Forward, count: int) -> int:
    """What autograd keeps for the backward pass of ``count`` views."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()  # by address, because many saved tensors are views of one storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward(0, count)
    return sum(sizes.values())


def _backward(part: Part, slope: Tensor) -> list[Tensor]:
    part.features.backward(slope)
    return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in part.leaves]


def _slices(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Slices of ``size``, except a smaller first one, so that the last one, whose graph is kept, is large."""
    for stop in range((total - 1) % size + 1, total + 1, size):
        yield max(0, stop - size), stop
