"""Arguments of the wrong kind in Python: one line that names the argument, before any work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from helpers_encoders import Tiny
from probedistill import (
    AugmentConfig,
    DistillConfig,
    Encoder,
    EncoderConfig,
    ImagesConfig,
    LinearProbe,
    StatisticsConfig,
    UserError,
    bias,
    by_bytes,
    distill,
    evaluate,
    extend,
    extract_features,
    labelled_images,
    load_statistics,
    merge,
    rename,
    transfer,
    with_extras,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def images():
    return labelled_images(PIXELS, [0, 1] * 4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"config": {"steps": 2}}, r"config {'steps': 2} must be a DistillConfig, such as DistillConfig\(method=…\)"),
        ({"run": {"out": "x"}}, "run .* must be a RunConfig"),
        ({"test": "folder:x"}, "test 'folder:x' is an image spec; open it first"),
        ({"test": 5}, "test is a int; give images"),
        ({"also": "efficientnet_lite1"}, r"also 'efficientnet_lite1' must be a list; write \['efficientnet_lite1'\]"),
        ({"encoder_weights": 1.0}, r"encoder_weights 1.0 must be a list"),
        ({"augment": AugmentConfig(scale=0.5)}, "augment.scale 0.5 must be two numbers"),
        ({"evaluate_every": "often"}, "evaluate_every 'often' must be a whole number"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds nan must be a number, 0 or more"),
    ],
)
def test_of_distill(images, encoder, wrong, says):
    with pytest.raises(UserError, match=says):
        distill(images, encoder, **{"progress": False, **wrong})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"config": DistillConfig()}, "config .* must be a EvaluateConfig"),
        ({"augment": "none"}, r"augment 'none' must be a AugmentConfig, such as AugmentConfig\(kind=…\)"),
        ({"source": "efficientnet_lite0"}, "source 'efficientnet_lite0' is the name of an encoder; load it first"),
        ({"chosen_by": Tiny()}, "chosen_by is the module Tiny; wrap it"),
        ({"distilled": torch.zeros(2, 3, 8, 8)}, r"distilled is a Tensor; give DistilledSet\(images, labels, class_na"),
    ],
)
def test_of_evaluate(images, encoder, wrong, says):
    with pytest.raises(UserError, match=says):
        evaluate(**{"distilled": None, "encoder": encoder, "train": images, "test": images, **wrong})


def test_of_functions_that_draw_views(images, encoder):
    bank = extract_features(encoder, images, progress=False)
    made = distill(images, encoder, steps=1, progress=False)
    for call in (
        lambda: extract_features(encoder, images, augment="none"),
        lambda: transfer([made], [encoder], images, images, augment={"kind": "none"}),
        lambda: with_extras(made, encoder, bank, soft_labels="source", augment="none"),
    ):
        with pytest.raises(UserError, match=r"augment .* must be a AugmentConfig"):
            call()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"shard_size": 0}, "shard_size 0 must be at least 1"),
        ({"batch_size": -1}, "batch_size -1 must be at least 1"),
        ({"max_memory": "1 GB"}, "max_memory '1 GB' must be a number"),
    ],
)
def test_of_extract_features(images, encoder, wrong, says):
    with pytest.raises(UserError, match=says):
        extract_features(encoder, images, **wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": Tiny}, "encoder 'mine' is the class Tiny; give a torch.nn.Module"),
        ({"model": torch.relu}, "encoder 'mine' is a builtin_function_or_method; give a torch.nn.Module"),
        ({"name": None}, "name None must be a short name"),
        ({"input_size": (32, 32)}, r"input_size \(32, 32\) must be a whole number"),
        ({"input_size": -3}, "input_size -3 must be at least 1"),
        ({"precision": "float32"}, "unknown precision 'float32'; did you mean 'fp32'"),
        ({"device": "tpu"}, "device 'tpu' cannot be used"),
    ],
)
def test_of_an_encoder(wrong, says):
    with pytest.raises(UserError, match=says):
        Encoder(**{"model": Tiny(), "name": "mine", "input_size": 32, **wrong})
    assert isinstance(Encoder(Tiny(), name="mine", input_size=np.int64(32), device="auto"), nn.Module)


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0, 1] * 4),
        (number % 2 for number in range(8)),
        np.arange(8)[:, None] % 2,
        [torch.tensor(number % 2) for number in range(8)],
    ],
    ids=["tensor", "iterator", "column", "scalars"],
)
def test_labels_in_other_forms(labels):
    assert labelled_images(PIXELS, labels).labels.tolist() == [0, 1] * 4


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (PIXELS, np.eye(2, dtype=int)[[0, 1] * 4], r"labels of the shape \(8, 2\); give one for each image"),
        (PIXELS, torch.rand(8, requires_grad=True), "labels of float32; give class names, or whole numbers"),
        (PIXELS, [b"cat"] * 8, r"labels of \|S3; give class names"),
        (PIXELS * float("nan"), [0, 1] * 4, r"values that are not numbers \(NaN\)"),
    ],
)
def test_labels_and_pixels_that_are_none(images, labels, says):
    with pytest.raises(UserError, match=says):
        labelled_images(images, labels)


def test_no_images_at_all():
    assert len(labelled_images([], [])) == 0


def test_of_labelled_images(images):
    for wrong in ([0.5, 1.7], slice(0, 3)):
        with pytest.raises(TypeError, match="give whole numbers"):
            images.select(wrong)
    assert len(images.select([])) == 0
    with pytest.raises(UserError, match=r"class '0' must be a list of names; write \['0'\]"):
        images.with_classes("0")


def test_names_of_arguments_may_have_hyphens():
    """As the options of the command line do: ``--encoder-args.pad-type same``."""
    assert EncoderConfig(encoder="x", encoder_args={"pad-type": "same"}).encoder_args == {"pad_type": "same"}
    assert ImagesConfig(images="x", source_args={"first-year": 2020}).source_args == {"first_year": 2020}
    assert DistillConfig(method="module:a.py:b", method_args={"inner-steps": 3}).method_args == {"inner_steps": 3}


def test_one_file_of_statistics_needs_no_list(tmp_path):
    for path in (tmp_path / "a.stats", str(tmp_path / "a.stats")):
        with pytest.raises(UserError, match=r"a\.stats' is not there"):
            load_statistics(path)


def test_one_run_needs_no_list(images, encoder, tmp_path):
    folder = str(tmp_path / "none")
    for call in (
        lambda: bias(folder, "folder:x", "groups.csv"),
        lambda: by_bytes(encoder, images, images, runs=folder),
    ):
        with pytest.raises(UserError, match=f"no such folder '{folder}'"):
            call()
    with pytest.raises(UserError, match="1 run to merge; name two or more"):
        merge(folder)
    with pytest.raises(UserError, match=r"a\.stats' is not there"):
        distill(StatisticsConfig(stats=f"{folder}/a.stats"), encoder)


def test_of_functions_of_runs(images, encoder, tmp_path):
    run = tmp_path / "run"
    made = distill(images, encoder, steps=1, keep_stats=True, out=run, progress=False)
    with pytest.raises(UserError, match="classes is a list; give a dictionary"):
        rename(run, list(made.class_names))
    with pytest.raises(UserError, match="encoder 'efficientnet_lite0' is the name of an encoder; load it first"):
        extend(run, images, "efficientnet_lite0")
    with pytest.raises(UserError, match="new_encoder 'efficientnet_lite0' is the name of an encoder; load it first"):
        by_bytes(encoder, images, images, new_encoder="efficientnet_lite0")


def test_of_a_probe():
    for wrong in ("0", np.random.default_rng(0)):
        with pytest.raises(UserError, match=r"random_state .* cannot be used"):
            LinearProbe("sgd", epochs=1, random_state=wrong).fit(np.eye(2), [0, 1])
