"""Settings of torch and Pillow that this package needs, whatever the caller has set."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from PIL import ImageFile


@contextmanager
def own_torch_state() -> Iterator[None]:
    """Compute as documented, whatever the caller has set; restore the caller's settings afterwards.

    Gradients are on, inference mode and autocast are off, new tensors are float32 on the CPU, float32 is computed in
    full precision, and convolutions on a GPU give the same results at every call. If the caller allows only
    deterministic algorithms, an operation without one is a warning, not an error. Pillow refuses truncated images.
    Notebooks often begin with ``torch.set_grad_enabled(False)`` or another default dtype. Also works as a decorator.

    Some of these settings belong to the whole process. If several threads compute at the same time, the caller's come
    back after the last of them.
    """
    device = torch.empty(0).device  # get_default_device sometimes fails in torch 2.6
    with ExitStack() as stack:
        stack.enter_context(_of_the_process())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if device != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))  # overrides ``with torch.device("cuda"):``
        yield


_lock = threading.Lock()
_blocks = 0  # entered and not left yet, in all threads
_callers = ExitStack()  # what restores the caller's settings


@contextmanager
def _of_the_process() -> Iterator[None]:
    global _blocks, _callers
    with _lock:
        stack = ExitStack()
        _set_for_the_process(stack)
        _callers = _callers if _blocks else stack
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                _callers.close()


def _set_for_the_process(stack: ExitStack) -> None:
    """Change the settings that all threads share until the stack is closed."""
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float32)
    _compute_in_float32(stack)
    if torch.are_deterministic_algorithms_enabled():
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        stack.callback(torch.use_deterministic_algorithms, True, warn_only=warns)
        torch.use_deterministic_algorithms(True, warn_only=True)
    for owner, name, value in (
        (ImageFile, "LOAD_TRUNCATED_IMAGES", False),
        (torch.backends.cudnn, "deterministic", True),
    ):
        stack.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


def _compute_in_float32(stack: ExitStack) -> None:
    """Switch off reduced precision for float32 until the stack is closed.

    By default, GPUs convolve in TF32, which keeps only ten bits of the fraction.
    """
    backends: Any = torch.backends  # torch does not annotate all of them
    cuda, cudnn, onednn = backends.cuda, backends.cudnn, backends.mkldnn
    if hasattr(torch.backends, "fp32_precision"):  # from torch 2.9 on
        for part in (cuda.matmul, cudnn.conv, cudnn.rnn, onednn.matmul, onednn.conv):
            stack.callback(setattr, part, "fp32_precision", part.fp32_precision)
    with suppress(RuntimeError):  # the old settings cannot be read if the caller has used the new ones
        stack.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
