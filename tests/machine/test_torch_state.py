"""Results do not depend on what the caller has set in torch, and the caller's settings come back."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from PIL import ImageFile

from conftest import TINY
from probedistill import (
    LinearProbe,
    class_statistics,
    distill,
    evaluate,
    extract_features,
    geometry,
    load_encoder,
    load_splits,
    transfer,
)  # fmt: skip
from probedistill.machine.torch_state import own_torch_state


@contextmanager
def called(change: Callable[[Any], None], value: object, usual: object) -> Iterator[None]:
    """Run a block within ``change(value)``; ``change(usual)`` undoes it."""
    change(value)
    try:
        yield
    finally:
        change(usual)


@contextmanager
def tf32_by_its_newer_name() -> Iterator[None]:
    with ExitStack() as stack:
        for part in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):
            change = partial(setattr, part, "fp32_precision")
            stack.enter_context(called(change, "tf32", part.fp32_precision))
        yield


SETTINGS = {
    "gradients off": torch.no_grad,
    "inference mode": torch.inference_mode,
    "float64": lambda: called(torch.set_default_dtype, torch.float64, torch.float32),
    "half": lambda: called(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "another device": lambda: called(torch.set_default_device, "meta", None),
    "on a device": lambda: torch.device("meta"),
    # Matrices in bfloat16, even on some CPUs.
    "fast matrices": lambda: called(torch.set_float32_matmul_precision, "medium", "highest"),
}
if hasattr(torch.backends, "fp32_precision"):  # torch 2.9
    SETTINGS["tf32"] = tf32_by_its_newer_name


def settings() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"), torch.empty(0).device,
    )  # fmt: skip


def precisions() -> tuple[object, ...]:
    """How float32 is computed: the settings of torch 2.9, which can always be read, or the older ones."""
    if not hasattr(torch.backends, "fp32_precision"):
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    cuda, cudnn, onednn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    parts = cuda.matmul, cudnn.conv, cudnn.rnn, onednn.matmul, onednn.conv
    return tuple(part.fp32_precision for part in parts)


FULL = {"highest", False, "ieee", "none"}


@pytest.mark.parametrize("name", SETTINGS)
def test_state_is_set_and_restored(name):
    usual, fast_usually = settings(), precisions()
    with SETTINGS[name]():
        theirs, fast = settings(), precisions()
        assert (theirs, fast) != (usual, fast_usually)
        with own_torch_state():
            assert settings() == usual
            assert set(precisions()) <= FULL
            (torch.ones(2, requires_grad=True) @ torch.ones(2)).backward()
        assert (settings(), precisions()) == (theirs, fast)
        with pytest.raises(RuntimeError, match="mine"), own_torch_state():
            raise RuntimeError("mine")
        assert (settings(), precisions()) == (theirs, fast)


def test_threads_do_not_end_each_others_settings():
    """The first thread to end would give its settings back while another one computes."""
    seen: list[torch.dtype] = []
    inside, may_end = threading.Event(), threading.Event()

    def second() -> None:
        with own_torch_state():
            inside.set()
            may_end.wait(60)
            seen.append(torch.get_default_dtype())

    before = torch.backends.cudnn.deterministic
    thread = threading.Thread(target=second)
    with called(torch.set_default_dtype, torch.float64, torch.float32):
        with own_torch_state():
            thread.start()
            assert inside.wait(60)
        may_end.set()
        thread.join()
        assert seen == [torch.float32]
        assert torch.get_default_dtype() == torch.float64
        assert torch.backends.cudnn.deterministic == before


def test_an_operation_without_a_deterministic_algorithm_is_a_warning():
    """Resizing with antialiasing has none on a GPU; the indexing here has none anywhere."""

    def compute() -> torch.Tensor:
        return torch.zeros(3).put_(torch.tensor([1]), torch.ones(1), accumulate=False)

    with called(torch.use_deterministic_algorithms, True, False):
        with pytest.raises(RuntimeError, match="deterministic"):
            compute()
        with own_torch_state(), pytest.warns(UserWarning, match="deterministic"):
            assert compute()[1] == 1
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()


def _everything(photos, cache) -> list[object]:
    train, test = load_splits(f"folder:{photos}")
    encoder = load_encoder(TINY, device="cpu")
    keep = {"cache": cache, "progress": False}
    distilled = distill(train, encoder, test=test, steps=2, method="clp", **keep)
    scores = evaluate(distilled, encoder, train, test, seeds=1, views=2, baselines=["full"], **keep)
    matrix = transfer([distilled], [encoder], train, test, seeds=1, views=2, baselines=[], **keep)
    space = geometry(distilled, encoder, train, k=2, progress=False, cache=cache)
    bank = extract_features(encoder, train, **keep)
    probe = LinearProbe("sgd", epochs=3).fit(bank.centre.numpy(), bank.labels.numpy())
    return [
        probe.coef_.tolist(), class_statistics(encoder, train, cache=cache).sums.tolist(),
        encoder.fingerprint, distilled.images, [row.top1 for row in scores.rows], matrix.accuracy.tolist(),
        [row.density for row in space.rows] if hasattr(space, "rows") else str(space),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_callers_settings_change_no_result(name, photos, tmp_path):
    expected = _everything(photos, tmp_path / "one")
    with SETTINGS[name]():
        found = _everything(photos, tmp_path / "other")
    for ours, theirs in zip(expected, found, strict=True):
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


def test_truncated_images_are_refused_whatever_pillows_setting_is(photos, tmp_path, monkeypatch):
    """Many notebooks begin with ``LOAD_TRUNCATED_IMAGES``; the missing half would be grey."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    broken = min((photos / "train").rglob("*.png"))
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / broken.relative_to(photos)).write_bytes(broken.read_bytes()[:-200])
    train, _ = load_splits(f"folder:{folder}")
    bank = extract_features(load_encoder(TINY, device="cpu"), train, cache=tmp_path / "cache", progress=False)
    assert len(bank) == len(train) - 1
    assert ImageFile.LOAD_TRUNCATED_IMAGES
