"""A head for an encoder that the data never saw."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import TINY
from helpers_images import make_image_folder
from helpers_statistics import bank, statistics_of
from probedistill import (
    DistilledSet,
    InheritedProbe,
    LinearProbe,
    Migration,
    UserError,
    class_statistics,
    distill,
    load_encoder,
    load_head,
    load_splits,
    migrate,
)
from probedistill.analysis.candidates import CANDIDATES, Lesson, temperature
from probedistill.analysis.migrate import simulated_accuracy
from probedistill.features.store import FeatureStore
from probedistill.machine import progress

NAMES = ("cat", "dog", "hen")


@pytest.fixture(scope="module")
def old():
    return load_encoder(TINY, device="cpu")


@pytest.fixture(scope="module")
def new():
    return load_encoder(TINY, encoder_args={"seed": 1, "width": 20}, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = make_image_folder(tmp_path_factory.mktemp("migrate") / "photos", classes=NAMES, per_class=6, size=36)
    return load_splits(f"folder:{folder}")


@pytest.fixture(scope="module")
def distilled(old, data):
    return distill(data[0], old, test=data[1], steps=3, keep_head=True, evaluate_every=3, progress=False)


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "cache", progress=False)


def views_of(distilled, encoder, store):
    augment = distilled.run.config.augment
    return store.synthetic_views(encoder, distilled.images, views=20, augment=augment, seed=0)


@pytest.mark.slow
def test_candidates_are_what_their_names_say(distilled, old, new, store):
    target, source = (views_of(distilled, one, store) for one in (new, old))
    heads = {
        name: migrate(distilled, new, old=[old], candidate=name, features=store)[0].weight.numpy()
        for name in ("ridge", "inherited", "average")
    }
    ridge = LinearProbe("ridge").fit_views(target, distilled.labels)
    inherited = InheritedProbe(distilled.head.weight, distilled.head.bias)
    inherited.fit_views(target, distilled.labels, source)
    np.testing.assert_allclose(heads["ridge"], ridge.coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(heads["inherited"], inherited.coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(heads["average"], (ridge.coef_ + inherited.coef_) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_every_head_is_as_confident_as_the_logistic_probe(distilled, old, new, store):
    target = views_of(distilled, new, store)
    logistic = LinearProbe("logistic").fit_views(target, distilled.labels)
    wanted = logistic.predict_proba(target.flatten(0, 1)).max(axis=1).mean()
    for name in CANDIDATES:
        head = migrate(distilled, new, old=[old], candidate=name, features=store)[0]
        assert (head.about.temperature == 1) == (name == "logistic")
        sure = head.as_sklearn().predict_proba(target.flatten(0, 1).numpy()).max(axis=1).mean()
        assert sure == pytest.approx(wanted, rel=1e-4), name


def test_a_head_of_constant_logits_has_no_temperature():
    lesson = Lesson(np.random.default_rng(0).normal(size=(2, 3, 4)), np.arange(3), [])
    assert temperature((np.zeros((3, 4)), np.zeros(3)), lesson.fit("logistic"), lesson) == 1


def test_forecast_needs_no_test_images_and_is_shown_next_to_the_truth(distilled, old, new, data, store):
    before = migrate(distilled, new, old=[old], features=store)[1]
    head, after = migrate(distilled, new, old=[old], test=data[1], features=store)
    assert [one.name for one in before.candidates] == list(CANDIDATES)
    assert [one.forecast for one in before.candidates] == [one.forecast for one in after.candidates]
    assert all(0 < one.forecast < 1 for one in before.candidates)
    assert before.chosen == max(before.candidates, key=lambda one: one.forecast).name
    right = sum(a == data[1].class_names[b] for a, b in zip(head.predict(data[1]), data[1].labels))
    assert after.taken.accuracy == pytest.approx(right / len(data[1]))
    assert "forecast" in str(after)
    assert "Measured afterwards" in " ".join(after.findings())


def test_progress_counts_each_fold(distilled, new, tmp_path, monkeypatch, capsys):
    """The logistic candidate of a thousand classes takes minutes, a fold some seconds."""
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    migrate(distilled, new, features=FeatureStore(tmp_path / "cache"))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("candidates: ")]
    done = list(dict.fromkeys(int(line.split()[1].split("/")[0]) for line in said))
    assert done == [1, 2, 3, 4, 5, 25, 26, 27, 28, 29, 30, 50]


def test_a_candidate_that_takes_minutes_is_announced(distilled, new, tmp_path, monkeypatch, capsys):
    store = FeatureStore(tmp_path / "cache")
    migrate(distilled, new, features=store)
    assert "candidate logistic" not in capsys.readouterr().err
    monkeypatch.setattr(sys.modules[migrate.__module__], "SAID_FROM", 0.0)
    migrate(distilled, new, features=store)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("candidate logistic")]
    assert len(said) == 1
    assert said[0].endswith("because there are 3 classes")


def test_without_an_old_encoder_only_probes_from_scratch_remain_without_a_forecast(distilled, new, store):
    report = migrate(distilled, new, features=store)[1]
    assert [one.name for one in report.candidates] == ["ridge", "logistic"]
    assert report.taken.forecast is None
    assert "No forecast" in report.findings()[0]
    with pytest.raises(UserError, match="'inherited' needs an old encoder and its head"):
        migrate(distilled, new, candidate="inherited", features=store)


def test_statistics_stand_in_for_a_head_and_for_a_measured_accuracy(old, new, data, store):
    plain = distill(data[0], old, steps=2, progress=False)  # no head, no test images
    statistics = class_statistics(old, data[0], name="a", features=store)
    report = migrate(plain, new, old=[old], statistics=[statistics], features=store)[1]
    assert report.old[0].head == "statistics"
    assert report.anchor.known_from == "statistics"
    assert len(report.candidates) == len(CANDIDATES)


def test_several_old_encoders_average_their_logits(distilled, old, new, data, store):
    other = load_encoder(TINY, encoder_args={"seed": 2, "width": 18}, device="cpu")
    statistics = [class_statistics(other, data[0], name="a", features=store)]

    def inherited(*teachers):
        return migrate(distilled, new, old=teachers, statistics=statistics, candidate="inherited", features=store)[
            0
        ].weight.numpy()

    both, one, two = inherited(old, other), inherited(old), inherited(other)
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-4, atol=1e-6)


def test_probes_from_scratch_learn_soft_labels(distilled, new, store):
    soft = torch.full((len(distilled), 3), 0.1) + 0.7 * torch.eye(3)[distilled.labels]
    head = migrate(replace(distilled, soft_labels=soft), new, candidate="ridge", features=store)[0]
    target = views_of(distilled, new, store)
    probe = LinearProbe("ridge").fit_views(target, distilled.labels, soft)
    np.testing.assert_allclose(head.weight.numpy(), probe.coef_, rtol=1e-5, atol=1e-6)


def test_forecast_starts_from_an_accuracy_of_the_same_protocol(distilled, old, new, store):
    low, high = (migrate(distilled, new, old=[old], measured=m, features=store)[1] for m in (0.4, 0.9))
    assert low.anchor.known_from == high.anchor.known_from == "evaluate"
    assert all(a.forecast < b.forecast for a, b in zip(low.candidates, high.candidates))
    assert migrate(distilled, new, old=[old], features=store)[1].anchor.known_from == "run"
    with pytest.raises(UserError, match="measured 70 must be an accuracy"):
        migrate(distilled, new, old=[old], measured=70, features=store)


def test_simulated_accuracy_matches_normal_features():
    features = bank([0] * 400 + [1] * 400 + [2] * 400, dim=4)
    statistics = statistics_of(features)
    probe = LinearProbe("ridge").fit(features.centre, features.labels)
    generator = torch.Generator().manual_seed(5)
    root = torch.linalg.cholesky(statistics.covariance())
    labels = torch.arange(3).repeat_interleave(4000)
    drawn = statistics.means()[labels] + torch.randn(12_000, 4, generator=generator, dtype=torch.float64) @ root.T
    wanted = float((torch.from_numpy(probe.predict(drawn)) == labels).double().mean())
    assert simulated_accuracy((probe.coef_, probe.intercept_), statistics) == pytest.approx(wanted, abs=0.02)


def test_wrong_use_is_one_line(distilled, old, new, store):
    with pytest.raises(UserError, match="unknown candidate 'averag'; did you mean 'average'"):
        migrate(distilled, new, candidate="averag", features=store)
    with pytest.raises(UserError, match="is the one that the set was made with"):
        migrate(distilled, old, old=[old], features=store)
    with pytest.raises(UserError, match="unknown class of the set 'hen'"):
        migrate(distilled, new, statistics=[statistics_of(bank([0, 1, 2]))], features=store)


@pytest.mark.slow
def test_a_head_for_the_set_s_own_encoder(distil_cli, run_cli, photos, tmp_path):
    run, out = tmp_path / "run", tmp_path / "head"
    assert distil_cli("--out", run, "--keep-head", "--no-progress").code == 0
    made = run_cli("migrate", run, "--config", run, "--out", out)
    assert made.code == 0, made.err
    assert "the set was made with this encoder" in made.out
    assert "inherited" not in made.out
    distilled, encoder = DistilledSet.load(run), load_encoder(TINY, device="cpu")
    assert load_head(out).about.encoder.fingerprint == encoder.fingerprint
    photo = next(photos.rglob("*.png"))
    names = load_head(out).predict([photo], encoder)
    assert names[0] in distilled.class_names
    assert names[0] in run_cli("predict", out, photo, "--trust").out
    refused = run_cli("migrate", run, "--encoder", TINY, "--source", TINY, "--out", tmp_path / "other").error()
    assert "give the new encoder, or leave it out of --source" in refused


@pytest.mark.slow
def test_command_line_from_run_to_prediction(distil_cli, run_cli, photos, tmp_path):
    run, out = tmp_path / "run", tmp_path / "head"
    assert distil_cli("--out", run, "--keep-head", "--no-progress").code == 0
    protocol = ["--probes", "ridge", "--seeds", 1, "--baselines", "random"]
    scored = run_cli("evaluate", run, "--images", f"folder:{photos}", "--encoder", TINY, *protocol)
    assert scored.code == 0, scored.err
    wide = [TINY, "--encoder-args.seed", 1]
    made = run_cli("migrate", run, "--encoder", *wide, "--source", TINY, "--out", out, "--images", f"folder:{photos}")
    assert made.code == 0, made.err
    assert "average" in made.out
    assert f"probedistill predict {out} PHOTO.jpg --trust" in made.out, "its encoder is a file of the user's own"
    report = Migration.read(out)
    assert report.anchor.known_from == "evaluate"
    assert load_head(out).about.candidate == report.chosen
    assert {p.name for p in out.iterdir()} >= {"head.safetensors", "config.yaml", "migrate.json", "migrate.png"}
    photo = next((photos / "test" / "cat").iterdir())
    said = run_cli("predict", out, photo, "--encoder", *wide)
    assert said.code == 0, said.err
    assert "cat" in said.out
    assert run_cli("predict", out, photo, "--trust").out == said.out
    listed = tmp_path / "classes.csv"
    said = run_cli("predict", out, photos / "test", photo, "--csv", listed, "--encoder", *wide)
    assert said.code == 0, said.err
    lines = list(csv.reader(listed.open(newline="")))
    files = sorted(photos.glob("test/*/*"))
    assert f"classes of {len(files) + 1} photos" in said.out
    assert lines[0] == ["photo", "class", "percent"]
    assert [line[0] for line in lines[1:]] == [str(file) for file in [*files, photo]]
    head, encoder = load_head(out), load_encoder(TINY, encoder_args={"seed": 1}, device="cpu")
    assert [line[1] for line in lines[1:]] == head.predict([*files, photo], encoder)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in run_cli("predict", out, tmp_path / "empty", "--encoder", *wide).error()
    # The same command again replaces the head.
    assert run_cli("migrate", run, "--encoder", *wide, "--out", out).code == 0
    assert [one.name for one in Migration.read(out).candidates] == ["ridge", "logistic"]
    content = json.loads((out / "migrate.json").read_text())
    assert content["anchor"] is None


def test_command_line_says_what_is_wrong(distil_cli, run_cli, tmp_path):
    run = tmp_path / "run"
    assert distil_cli("--out", run, "--no-progress").code == 0
    assert "is the folder of a run" in run_cli("migrate", run, "--encoder", TINY, "--out", run).error()
    assert "no such folder" in run_cli("migrate", tmp_path / "x", "--encoder", TINY, "--out", tmp_path / "y").error()
    assert not (tmp_path / "y").exists()
    assert "is not there" in run_cli("predict", tmp_path, "a.jpg").error()
    made = run_cli("migrate", run, "--encoder", TINY, "--encoder-args.seed", 1, "--out", tmp_path / "head")
    assert made.code == 0, made.err
    assert run_cli("predict", tmp_path / "head", "a.jpg").error().endswith("or name the encoder with --encoder")
    other = ["migrate", run, "--encoder", TINY, "--encoder-args.seed", 1, "--out", tmp_path / "y", "--source"]
    assert "at 40 px is not among the set's encoders (" in run_cli(*other, f"{TINY}@40").error()
    statistics_of(bank([0, 1])).save(tmp_path / "a.stats")
    of_none = run_cli(*other, TINY, "--stats", tmp_path / "a.stats").error()
    assert "which is not among the old encoders; add it to --source" in of_none
    assert not (tmp_path / "y").exists()


def test_a_class_without_an_image_does_not_get_another_classs_head(distilled, new):
    """As in an imported set whose labels count from 1."""
    some = replace(distilled, float_images=distilled.float_images[1:], labels=distilled.labels[1:], head=None)
    with pytest.raises(
        UserError, match=r"the set has no image of class 'cat', but a head needs one of each; .* forget$"
    ):
        migrate(some, new)
    soft = replace(some, soft_labels=torch.full((len(some.labels), 3), 1 / 3))
    assert migrate(soft, new)[0].weight.shape == (3, new.dim)
