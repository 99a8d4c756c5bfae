"""Soft labels and the head of a finished set."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import TINY
from helpers_images import make_image_folder
from probedistill import (
    DistilledSet,
    FeatureBank,
    LinearProbe,
    UserError,
    distill,
    evaluate,
    extract_features,
    load_encoder,
    load_splits,
    with_extras,
)
from probedistill.machine import progress
from probedistill.probes.logistic import soft_cross_entropy
from probedistill.ship.labels import best_temperature, learned_labels, softmax

NAMES = ("cat", "dog", "hen")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = make_image_folder(tmp_path_factory.mktemp("labels") / "photos", classes=NAMES, per_class=6, size=36)
    return load_splits(f"folder:{folder}")


@pytest.fixture(scope="module")
def bank(encoder, data):
    return extract_features(encoder, data[0], views=1, progress=False)


@pytest.fixture(scope="module")
def distilled(encoder, data):
    return distill(data[0], encoder, steps=3, images_per_class=2, progress=False)


def cross_entropy(logits, y, temperature):
    rows = np.eye(logits.shape[1])[y]
    weights = 1 / (np.bincount(y)[y] * len(np.unique(y)))
    return soft_cross_entropy(logits / temperature, rows, weights)[0]


def test_head_is_the_ridge_probe_on_all_views(distilled, encoder, bank):
    kept = with_extras(distilled, encoder, bank, keep_head=True)
    views = torch.cat([bank.centre[None], bank.augmented])
    probe = LinearProbe("ridge").fit_views(views, bank.labels)
    np.testing.assert_allclose(kept.head.weight, probe.coef_, rtol=1e-6)
    np.testing.assert_allclose(kept.head.bias, probe.intercept_, rtol=1e-6)
    assert kept.head.weight.dtype == kept.head.bias.dtype == torch.float32
    assert (kept.head.encoder, kept.head.fingerprint) == (encoder.name, encoder.fingerprint)
    assert kept.head.num_bytes == 3 * 25 * 4
    assert kept.soft_labels is None
    assert torch.equal(kept.float_images, distilled.float_images)


@pytest.mark.parametrize("kind", ["source", "learned"])
def test_soft_labels_are_rows_of_weights_and_repeatable(distilled, encoder, bank, kind):
    one, two = (with_extras(distilled, encoder, bank, soft_labels=kind) for _ in range(2))
    assert one.soft_labels.shape == (6, 3)
    assert one.soft_labels.dtype == torch.float32
    assert float(one.soft_labels.min()) >= 0
    torch.testing.assert_close(one.soft_labels.sum(1), torch.ones(6))
    assert torch.equal(one.soft_labels, two.soft_labels)
    assert one.run.soft_labels.kind == kind
    assert one.run.soft_labels.temperature > 0
    if kind == "source":  # learned labels stay at their start here, because these classes are separable
        other = with_extras(distilled, encoder, bank, soft_labels=kind, seed=1)
        assert not torch.equal(one.soft_labels, other.soft_labels)
    assert one.head is None
    both = with_extras(one, encoder, bank, keep_head=True)
    assert torch.equal(both.soft_labels, one.soft_labels)  # existing soft labels stay


def test_learned_labels_lower_the_loss_of_evaluation():
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(4, 30))
    y = rng.integers(0, 4, 200)
    y[:4] = range(4)
    real = centres[y] + rng.normal(size=(200, 30))
    labels = np.array([0, 1, 2, 3, 0])
    views = centres[np.array([1, 1, 2, 3, 0])] + rng.normal(size=(3, 5, 30))  # the first image looks like class 1
    rows, temperature = learned_labels(
        torch.from_numpy(views), torch.from_numpy(labels), torch.from_numpy(real), torch.from_numpy(y), 4
    )
    np.testing.assert_allclose(rows.sum(1), 1)
    soft, hard = LinearProbe().fit_views(views, labels, rows), LinearProbe().fit_views(views, labels)
    learned = cross_entropy(soft.logits(real), y, temperature)
    assert learned < cross_entropy(hard.logits(real), y, best_temperature(hard.logits(real), y)) - 0.01
    assert soft.score(real, y) > hard.score(real, y)
    assert rows[0, 1] > 0.3  # although its hard label is class 0
    # No step along any row lowers it: the minimum over the simplex was found, within the search's budget.
    for image in range(5):
        for target in range(4):
            moved = rows.copy()
            moved[image] = 0.99 * moved[image] + 0.01 * np.eye(4)[target]
            logits = LinearProbe().fit_views(views, labels, moved).logits(real)
            assert cross_entropy(logits, y, temperature) > learned - 1e-3


def test_views_and_learned_labels_show_how_far_they_are(distilled, encoder, bank, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    with_extras(distilled, encoder, bank, soft_labels="learned")
    assert "views of the images: 120/120, about 0 s left" in capsys.readouterr().err
    real = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 8)))
    learned_labels(real[None, :6], torch.arange(6) % 3, real, torch.arange(60) % 3, 3, progress=True)
    assert "soft labels: 1/300, about " in capsys.readouterr().err
    with_extras(distilled, encoder, bank, soft_labels="learned", progress=False)
    assert capsys.readouterr().err == ""


def test_learned_labels_for_separable_classes():
    """The temperature stays within its bounds, and the labels are finite."""
    real = torch.eye(2, 6, dtype=torch.float64).repeat(5, 1) * 100
    rows, temperature = learned_labels(real[None, :2], torch.arange(2), real, torch.arange(10) % 2, 2)
    assert np.isfinite(rows).all()
    assert temperature * 1.001 >= 1e-3
    assert rows.argmax(1).tolist() == [0, 1]


def test_source_labels_are_the_heads_softmax():
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(60, 8)))
    y = np.arange(60) % 3
    logits = LinearProbe().fit(features, y).logits(features)
    best = best_temperature(logits, y)
    losses = [cross_entropy(logits, y, best * factor) for factor in (0.9, 1.0, 1.1)]
    assert losses[1] == min(losses)
    rows = softmax(np.array([[1000.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows, [[1, 0], [0.5, 0.5]])


def test_bad_extras(distilled, encoder, bank):
    with pytest.raises(UserError, match="unknown soft_labels 'learnt'; did you mean 'learned'"):
        with_extras(distilled, encoder, bank, soft_labels="learnt")
    other = load_encoder(TINY, encoder_args={"seed": 3}, device="cpu")
    with pytest.raises(UserError, match="extract them with this encoder"):
        with_extras(distilled, other, bank, keep_head=True)
    fewer = FeatureBank(bank.centre, bank.augmented, bank.labels, bank.indices, ("a", "b", "c"), bank.manifest)
    with pytest.raises(UserError, match="features are of the classes a, b, c, the set is of cat, dog, hen"):
        with_extras(distilled, encoder, fewer, keep_head=True)


# ---------------------------------------------------------------- the command


@pytest.mark.slow
def test_label_then_evaluate(run_cli, photos, finished):
    out = finished
    before = {path: path.read_bytes() for path in (out / "images").rglob("*.png")}
    images = DistilledSet.load(out).float_images
    config = ["--config", out / "config.yaml"]
    scored = [*config, "--seeds", 1, "--views", 2, "--full-views", 0, "--baselines", "random", "--baselines", "full"]
    assert "--keep-head" in run_cli("evaluate", out, *scored, "--probes", "inherited").error()
    result = run_cli("label", out, *config, "--soft-labels", "learned")
    assert (result.code, result.err) == (0, "")
    assert "soft labels" in result.out
    assert run_cli("label", out, *config, "--keep-head").code == 0
    labelled = DistilledSet.load(out)
    assert labelled.soft_labels is not None  # of the first call
    assert labelled.head is not None
    assert torch.equal(labelled.float_images, images)
    assert {path: path.read_bytes() for path in (out / "images").rglob("*.png")} == before
    assert not list(out.glob(".*"))

    result = run_cli("evaluate", out, *scored, "--probes", "ridge", "--probes", "inherited")
    assert result.code == 0
    assert "projector of" in result.out
    content = json.loads(next(out.glob("evaluation-*.json")).read_text())
    names = [(row["name"], row["probe"]) for row in content["rows"]]
    assert names[:3] == [("distilled", "ridge"), ("distilled", "inherited"), ("distilled, hard labels", "ridge")]
    assert content["context"]["inherited"]["source_features"] is True  # the same encoder

    other = ["--encoder", TINY, "--encoder-args.seed", 5, "--probes", "inherited"]
    result = run_cli("evaluate", out, "--images", f"folder:{photos}", *scored[2:], *other)
    assert f"without the source's features: run '{out}' is not trusted" in result.out  # a module: encoder needs trust
    assert "name the encoder with --source" in result.out
    result = run_cli("evaluate", out, *scored, *other, "--source", out / "config.yaml")
    assert "with the source's features" in result.out
    assert "head is of encoder" in run_cli("evaluate", out, *scored, *other, "--source", f"{TINY}@48").error()
    error = run_cli("evaluate", out, *scored, "--encoder", TINY, "--source", TINY).error()
    assert error == f"probedistill: error: source {TINY!r} is for --probes inherited; add that, or leave --source out"


@pytest.mark.slow
def test_bad_label_commands(run_cli, photos, tmp_path, finished):
    out = finished
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    common = ["--images", f"folder:{photos}", "--encoder", TINY]
    assert "nothing to add" in run_cli("label", out, *common).error()
    assert "no such folder" in run_cli("label", tmp_path / "none", *common, "--keep-head").error()
    error = run_cli("label", out, *common, "--input-size", 48, "--keep-head").error()
    assert "at 32 px, not with" in error
    assert "config.yaml" in error
    assert "learnt" in run_cli("label", out, *common, "--soft-labels", "learnt").error()
    birds = make_image_folder(tmp_path / "birds", classes=["owl", "hen"])
    error = run_cli("label", out, "--images", f"folder:{birds}", "--encoder", TINY, "--keep-head").error()
    assert f"run '{out}' was made for different classes: unknown class" in error
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


def test_a_damaged_record_of_the_augmentation(run_cli, distilled, data, tmp_path):
    out = distilled.save(tmp_path / "run")
    content = json.loads((out / "run.json").read_text())
    content["config"]["augment"]["flip"] = 2
    (out / "run.json").write_text(json.dumps(content))
    error = run_cli("label", out, "--images", data[0].spec, "--encoder", TINY, "--keep-head").error()
    assert f"run file '{out / 'run.json'}' is damaged: augment.flip 2" in error


def test_an_evaluation_prefers_the_soft_labels_of_the_set(distilled, encoder, data):
    """Reversed soft labels make the probe wrong."""
    turned = torch.eye(3)[(distilled.labels + 1) % 3]
    options = {"seeds": 1, "views": 0, "baselines": [], "progress": False}
    result = evaluate(replace(distilled, soft_labels=turned), encoder, *data, **options)
    plain = evaluate(distilled, encoder, *data, **options)
    assert result["distilled"].top1 < plain["distilled"].top1
    assert result["distilled"].soft_labels
    assert result["distilled, hard labels"].top1 == plain["distilled"].top1


def test_features_without_a_class_are_refused(distilled, encoder, bank):
    """A head without that class would have its rows in the wrong places."""
    some = bank.select((bank.labels != 1).nonzero().squeeze(1))
    for extras in ({"keep_head": True}, {"soft_labels": "source"}, {"soft_labels": "learned"}):
        with pytest.raises(UserError, match="the features have no image of class 'dog'; give images of every class"):
            with_extras(distilled, encoder, some, **extras)
