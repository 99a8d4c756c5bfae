"""Settings of torch and Pillow that this package needs, whatever the caller has set."""

from __future__ import annotations

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
    """
    dtype, device = torch.get_default_dtype(), torch.empty(0).device  # get_default_device sometimes fails in torch 2.6
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
            stack.enter_context(torch.device("cpu"))  # overrides ``with torch.device("cuda"):``
        _compute_in_float32(stack)
        if torch.are_deterministic_algorithms_enabled():
            warns = torch.is_deterministic_algorithms_warn_only_enabled()
            stack.callback(torch.use_deterministic_algorithms, True, warn_only=warns)
            torch.use_deterministic_algorithms(True, warn_only=True)
        stack.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        stack.callback(setattr, torch.backends.cudnn, "deterministic", torch.backends.cudnn.deterministic)
        torch.backends.cudnn.deterministic = True
        yield


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
