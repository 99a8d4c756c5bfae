"""What the caller has set in torch, and what this package needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def own_torch_state() -> Iterator[None]:
    """Compute as documented, whatever the caller has set; everything is set back afterwards.

    Gradients are on, inference mode and autocast are off, and new tensors are float32 on the CPU. Notebooks often
    begin with ``torch.set_grad_enabled(False)`` or another default dtype. Also a decorator of functions.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        if device != torch.device("cpu"):
            torch.set_default_device(None)
            stack.callback(torch.set_default_device, device)
        yield
