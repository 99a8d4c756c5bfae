"""What one could ship instead of distilled images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from conftest import TINY
from helpers_images import make_image_folder
from probedistill import (
    DistilledSet,
    FeatureBank,
    LinearProbe,
    UserError,
    distill,
    evaluate,
    labelled_images,
    load_encoder,
    load_splits,
)
from probedistill.evaluation.by_bytes import ByBytes, Shipment, _features, _shipment, by_bytes, quantised
from probedistill.images.labelled import of_classes
from probedistill.machine import progress


@settings(max_examples=30, deadline=None)
@given(bits=st.sampled_from([4, 8]), seed=st.integers(0, 2**16))
def test_a_rounded_weight_is_off_by_at_most_half_a_step(bits, seed):
    coef = np.random.default_rng(seed).normal(size=(3, 10))
    rounded, size = quantised(coef, bits)
    step = np.abs(coef).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(rounded - coef) <= step / 2 + 1e-12).all()
    steps = rounded / step
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)  # whole numbers …
    assert np.abs(steps).max() <= 2 ** (bits - 1) - 1 + 1e-9  # … that fit into the bits
    assert size == 30 * bits // 8 + 3 * 4


@pytest.mark.parametrize("classes", [2, 3])
def test_shipments_made_from_features_match_their_names(classes):
    """Heads and discriminants of two classes have a row for each class, as with more classes."""
    rng = np.random.default_rng(classes)
    y = np.tile(np.arange(classes), 5)
    centres = rng.normal(size=(classes, 6))
    x, test = (centres[y] + rng.normal(size=(len(y), 6)) * 1.5 for _ in range(2))
    labels = torch.from_numpy(y)
    features = FeatureBank(torch.from_numpy(x), torch.empty(0, len(y), 6), labels, labels, tuple("abc"[:classes]))
    said = {name: scores(test).argmax(1) for name, _, _, scores in _features(features)}
    assert [name for name in said if "centres" in name] == [f"{n} feature centres per class" for n in (2, 5)]
    assert np.array_equal(said["head in fp32"], LinearProbe("ridge").fit(x, y).predict(test))
    assert np.array_equal(said["5 feature centres per class"], said["head in fp32"])  # every image is a centre
    means = np.stack([x[y == c].mean(axis=0) for c in range(classes)])
    away = ((test[:, None] - means) ** 2).sum(axis=2)
    assert np.array_equal(said["class means"], away.argmin(axis=1))
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)
    assert np.array_equal(said["LDA in fp32"], lda.predict(test))
    assert len(np.unique(said["LDA in fp32"])) == classes


def test_the_smallest_within_a_point_of_the_best_is_what_to_ship():
    shipments = [Shipment(f"{size}", "head", size, (top1,)) for size, top1 in ((1, 0.88), (2, 0.895), (3, 0.9))]
    assert ByBytes(("one",), 10, tuple(shipments)).findings() == ["On one alone, ship the 2: 89.5% in 2 bytes."]


def test_classes_of_a_set_may_be_in_another_order(photos, tmp_path):
    train, test = load_splits(f"folder:{photos}")
    encoder = load_encoder(TINY, device="cpu")
    other_order = of_classes(train, tuple(reversed(train.class_names)))
    distill(other_order, encoder, steps=2, canvas={"init": "real"}, progress=False).save(tmp_path / "run")
    (images,) = (one for one in by_bytes(encoder, train, test, runs=[tmp_path / "run"]).shipments if one.seeds)
    assert images.top1[0] > 0.8


def test_the_deviation_over_seeds_is_that_of_a_sample(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    row = _shipment(folders, [[0.5, 0.7], [0.6, 0.7], [0.7, 0.7]])
    assert row.top1 == pytest.approx((0.6, 0.7))
    assert row.std == pytest.approx((0.1, 0.0))


def test_features_are_of_no_use_on_a_new_encoder_and_images_are(photos, tmp_path):
    train, test = load_splits(f"folder:{photos}")
    encoder = load_encoder(TINY, device="cpu")
    other = load_encoder(TINY, input_size=48, encoder_args={"seed": 3, "width": 16}, device="cpu")
    distill(train, encoder, steps=2, progress=False).save(tmp_path / "run")
    found = by_bytes(encoder, train, test, runs=[tmp_path / "run"], new_encoder=other)
    by_name = {one.name: one for one in found.shipments}
    images = by_name.pop(f"images of {tmp_path / 'run'}")
    assert None not in images.top1
    assert all(one.top1[1] is None and one.top1[0] > 0.8 for one in by_name.values())
    heads = [by_name[f"head in {precision}"].bytes for precision in ("int4", "int8", "fp32")]
    assert heads == [2 * 24 // 2 + 16, 2 * 24 + 16, 2 * 24 * 4 + 8]
    assert by_name["class means"].bytes == 2 * 24 * 2
    assert [one.bytes for one in found.shipments] == sorted(one.bytes for one in found.shipments)
    (figure,) = found.figures()
    names = [line.name for line in figure.drawing.lines]  # lines name the encoder only if there are lines for both
    images = [f"images, {name}" for name in found.encoders]
    assert sorted(names) == sorted(["head", "class means", "LDA", "feature centres", *images])
    assert figure.drawing.log_x
    (table,) = found.tables()
    assert {row[-1] for row in table.rows if not row[0].startswith("images")} == {"–"}
    assert any("do not work on" in sentence for sentence in found.findings())


@pytest.mark.slow
def test_seeds_of_one_setting_are_one_row(run_cli, photos, tmp_path):
    words = ["--images", f"folder:{photos}", "--encoder", TINY, "--no-progress"]
    assert run_cli("distill", *words, "--steps", 1, "--seeds", 0, 1, "--out", tmp_path / "several").code == 0
    found = by_bytes(load_encoder(TINY), *load_splits(f"folder:{photos}"), runs=[tmp_path / "several"])
    (images,) = [one for one in found.shipments if one.kind == "images"]
    assert (images.seeds, len(images.std)) == (2, 1)
    each = [by_bytes(load_encoder(TINY), *load_splits(f"folder:{photos}"), runs=[tmp_path / "several" / f"seed-{n}"])
            for n in (0, 1)]  # fmt: skip
    alone = [one for result in each for one in result.shipments if one.kind == "images"]
    assert images.top1[0] == pytest.approx(np.mean([one.top1[0] for one in alone]))
    assert images.bytes == round(np.mean([one.bytes for one in alone]))
    for seed in (0, 1):  # the exports of two seeds differ in bytes, but are one row
        made = run_cli("export", tmp_path / "several" / f"seed-{seed}", "--out", tmp_path / "small" / f"{seed}")
        assert made.code == 0, made.err
    small = by_bytes(load_encoder(TINY), *load_splits(f"folder:{photos}"), runs=[tmp_path / "small"])
    assert [one.seeds for one in small.shipments if one.kind == "images"] == [2]


def test_progress_counts_what_is_compared(photos, tmp_path, monkeypatch, capsys):
    """With a thousand classes each item takes many seconds."""
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    train, test = load_splits(f"folder:{photos}")
    distill(train, load_encoder(TINY), steps=1, progress=False).save(tmp_path / "run")
    found = by_bytes(load_encoder(TINY), train, test, runs=[tmp_path / "run"]).shipments
    lines = [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("scores: ")]
    assert lines == [f"scores: {done}/{len(found)}" for done in range(1, len(found) + 1)]


@pytest.mark.slow
def test_the_command(run_cli, photos, tmp_path):
    command = ["baseline", "--images", f"folder:{photos}", "--encoder", TINY, "--no-progress"]
    outcome = run_cli(*command, "--by-bytes", "--out", tmp_path / "bytes.json")
    assert outcome.code == 0, outcome.err
    assert "head in int4" in outcome.out
    assert json.loads((tmp_path / "bytes.json").read_text())["kind"] == "by-bytes"
    assert (tmp_path / "bytes.png").exists()
    assert (tmp_path / "bytes.svg").read_text().startswith("<?xml")
    assert "are for --by-bytes" in run_cli(*command, "--runs", tmp_path).error()
    set_of_photos = [*command, "--save", "random", "--out", tmp_path / "random"]
    assert "are for --by-bytes" in run_cli(*set_of_photos, "--runs", tmp_path).error()
    assert "--save and --by-bytes are two jobs" in run_cli(*set_of_photos, "--by-bytes").error()
    # Figures get the name of the numbers, and so would replace them; scores are not numbers of this kind.
    assert "is for the numbers" in run_cli(*command, "--by-bytes", "--out", tmp_path / "bytes2.png").error()
    assert "a file of another kind" in run_cli(*command, "--out", tmp_path / "bytes.json").error()


@pytest.mark.parametrize("bits", [32])
def test_a_head_in_full_is_itself(bits):
    coef = np.ones((2, 3)) / 3
    np.testing.assert_allclose(quantised(coef, bits)[0], coef, rtol=1e-6)


def test_a_class_without_images_is_one_line_and_one_image_of_each_has_no_discriminant(encoder):
    pictures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    train = labelled_images(pictures, [0, 2, 2, 0], ["a", "b", "c"])
    with pytest.raises(UserError, match="class 'b' of 'own' has no images; add some"):
        by_bytes(encoder, train, train)
    ones = labelled_images(pictures[:3], [0, 1, 2], ["a", "b", "c"])
    compared = by_bytes(encoder, ones, ones)
    assert {one.kind for one in compared.shipments} == {"head", "class means"}
    assert [one.top1 for one in compared.shipments if one.name != "head in int4"] == [(1.0,)] * 3


def test_a_set_without_an_image_of_a_class_fails_only_on_that_class(photos, encoder, tmp_path):
    train, test = load_splits(f"folder:{make_image_folder(tmp_path / 'three', classes=('a', 'b', 'c'), per_class=5)}")
    pictures = torch.stack([encoder.centre_view(train.load(i)) for i in np.flatnonzero(train.labels > 0)])
    some = DistilledSet(pictures, torch.from_numpy(train.labels[train.labels > 0]), ("a", "b", "c"))
    some.save(tmp_path / "run")
    (row,) = (one for one in by_bytes(encoder, train, test, runs=[tmp_path / "run"]).shipments if one.kind == "images")
    scored = evaluate(some, encoder, None, test, seeds=1, views=20, progress=False)["distilled"]
    assert row.top1 == (scored.top1,)
    assert 1 / 3 < scored.top1 <= 2 / 3
