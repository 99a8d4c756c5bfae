"""The CPU's results hold on a GPU. ``make gpu`` runs these tests; all other tests see no GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from conftest import TESTS, TINY
from helpers_encoders import close, pictures
from probedistill import (
    Callback,
    DistilledSet,
    distill,
    evaluate,
    extract_features,
    load_encoder,
    load_splits,
    transfer,
)
from probedistill.distillation.micro_batches import free_memory

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and make gpu")

ENCODERS = {"convolutions": "timm:test_efficientnet", "transformer": "timm:test_vit"}
QUIET = {"progress": False, "evaluate_every": 0}


def loaded(kind: str, device: str = "cuda", **options):
    return load_encoder(ENCODERS[kind], pretrained=False, input_size=64, device=device, **options)


@pytest.fixture
def splits(photos):
    return load_splits(f"folder:{photos}")


@pytest.mark.parametrize("kind", ENCODERS)
def test_features_equal_the_cpus(kind, splits):
    """fp32 really is fp32: TF32, torch's default for convolutions, would be off by a thousandth."""
    here, there = (extract_features(loaded(kind, device), splits[0], progress=False) for device in ("cpu", "cuda"))
    assert close(there.centre.cpu(), here.centre, 1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_lower_precision_is_close(kind, precision):
    images = pictures(4, 64)
    exact = loaded(kind, "cpu")(images)
    assert close(loaded(kind, precision=precision)(images.cuda()).cpu(), exact, 5e-2)


@pytest.mark.parametrize("method", ["auto", "clp", "sfm", "lgm"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_images_equal_the_cpus(kind, method, splits):
    """Views, heads and batches are the same on every device."""
    made = [
        distill(splits[0], loaded(kind, device), method=method, steps=3, views=2, **QUIET).images
        for device in ("cpu", "cuda")
    ]
    start = distill(splits[0], loaded(kind, "cpu"), method=method, steps=1, views=2, lr=1e-9, **QUIET).images
    assert made[1].device.type == "cpu"
    assert close(made[1] - start, made[0] - start, 0.1), "how far the images have gone"


def test_the_same_run_gives_the_same_images(splits):
    one, other = (distill(splits[0], loaded("convolutions"), steps=5, **QUIET).images for _ in range(2))
    assert torch.equal(one, other)


def test_run_resumes_where_it_was_stopped(photos, tmp_path):
    class Stops(Callback):
        def on_step(self, step) -> None:
            if step.step == 3:
                raise KeyboardInterrupt

    def run(**options):
        return distill(
            f"folder:{photos}", load_encoder(TINY, device="cuda"), method="clp", steps=6, **QUIET, **options
        ).images

    whole = run(out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "parts", callbacks=[Stops()])
    assert torch.equal(run(out=tmp_path / "parts", resume=True), whole)


def test_micro_batches_give_the_gradient_of_one_pass(splits):
    one, parts = (
        distill(splits[0], loaded("convolutions"), steps=3, views=4, micro_batch=size, **QUIET).images
        for size in (8, 3)
    )
    assert close(parts, one, 1e-3)


def test_running_out_of_memory_gives_a_smaller_micro_batch(splits):
    """``auto`` chooses what fits; a size that does not fit is halved."""
    encoder = loaded("convolutions")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**27) / total)
    try:
        made = distill(splits[0], encoder, steps=2, views=2000, micro_batch=4000, **QUIET)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert made.images.isfinite().all()
    assert 0 < free_memory(torch.device("cuda")) <= total


def test_scores_equal_the_cpus(splits, tmp_path):
    made = distill(splits[0], loaded("convolutions", "cpu"), steps=3, **QUIET)
    scores = []
    for device in ("cpu", "cuda"):
        encoder = loaded("convolutions", device)
        found = evaluate(
            made, encoder, *splits, probes=["ridge", "logistic", "sgd"], seeds=1, views=4, progress=False, cache=None
        )
        matrix = transfer([made], [encoder], *splits, seeds=1, views=4, baselines=[], progress=False, cache=None)
        scores.append([row.top1 for row in found.rows] + matrix.accuracy.flatten().tolist())
    assert scores[1] == pytest.approx(scores[0], abs=0.1), "of twelve images one may change sides"


def test_compiled_encoder_gives_the_same_features():
    """Up to TF32, which the caller must switch off if the encoder is called on its own."""
    images = pictures(2, 64).cuda()
    assert close(loaded("convolutions", compile=True)(images), loaded("convolutions")(images), 1e-2)


def test_process_of_torchrun_has_its_gpu(photos, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    command = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", "3", "--out", tmp_path / "run"]
    done = subprocess.run(
        [*launcher, "-m", "probedistill", *command],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    alone = distill(f"folder:{photos}", load_encoder(TINY, device="cuda"), steps=3, progress=False)
    assert close(DistilledSet.load(tmp_path / "run").images, alone.images, 1e-4)
