"""Statistics with differential privacy: bounds on an image's contribution, amount of noise, and promises."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from conftest import TINY
from helpers_images import make_image_folder
from helpers_runs import encoder_record
from helpers_statistics import bank, same, statistics_of
from probedistill import ClassStatistics, DistilledSet, UserError, class_statistics, load_encoder, load_images
from probedistill.features.privacy import check_promise, unit_sums, with_noise
from probedistill.features.summed import private_statistics

dp = pytest.importorskip("opendp.prelude", reason="it comes with probedistill[privacy]")
SENSITIVITY = math.hypot(1, 0.5)  # a feature of length 1, and half an image in a count


def private(name: str, labels: list[int], *, epsilon: float = 1.0, delta: float = 1e-5, seed: int | None = 0):
    features = bank(labels, seed=ord(name))
    return private_statistics(
        features, encoder_record(dim=5), name, epsilon=epsilon, delta=delta, insecure_noise_seed=seed
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.integers(0, 3), st.data())
def test_an_image_changes_the_sums_by_at_most_the_sensitivity(labels, views, data):
    features = bank(labels, views=views, seed=data.draw(st.integers(0, 9)))
    gone = data.draw(st.integers(0, len(labels) - 1))
    without = features.select(torch.arange(len(labels)) != gone)
    (counts, sums), (fewer, less) = unit_sums(features), unit_sums(without)
    change = torch.cat([(sums - less).flatten(), 0.5 * (counts - fewer)])
    assert change.norm() <= SENSITIVITY * (1 + 1e-9)
    assert (sums.norm(dim=1) <= counts * (1 + 1e-9)).all()


def test_an_image_changes_the_sums_by_its_vector_to_the_bit():
    """Whatever is summed before and after it: in rounded sums it would change more, or less."""
    features = bank([0, 1] * 150, seed=3)
    _, sums = unit_sums(features)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unit_sums(features.select(order))[1], sums)
    for gone in (0, 7, 298):
        alone, less = (unit_sums(features.select(rows))[1] for rows in (order == order[gone], order != order[gone]))
        assert torch.equal(less + alone, sums)
        assert torch.equal(sums - less, alone)
        assert alone.norm() <= 1 + 1e-15


def test_views_of_an_image_are_averaged_before_scaling():
    features = bank([0, 1], views=3)
    _, sums = unit_sums(features)
    mean = features.augmented[:, 1].mean(0)
    torch.testing.assert_close(sums[1], mean / mean.norm())


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-6), (1.0, 1e-5), (4.0, 1e-5), (8.0, 1e-3)])
def test_the_noise_is_enough_for_the_promise(epsilon, delta):
    """By the exact δ of a Gaussian mechanism (Balle and Wang, arXiv 1805.06530)."""
    deviation, _, library = check_promise(epsilon, delta)
    ratio = SENSITIVITY / deviation
    exact = norm.cdf(ratio / 2 - epsilon / ratio) - math.exp(epsilon) * norm.cdf(-ratio / 2 - epsilon / ratio)
    assert exact <= delta
    smaller = 0.8 * deviation
    ratio = SENSITIVITY / smaller
    assert norm.cdf(ratio / 2 - epsilon / ratio) - math.exp(epsilon) * norm.cdf(-ratio / 2 - epsilon / ratio) > delta
    space = dp.vector_domain(dp.atom_domain(T=float, nan=False)), dp.l2_distance(T=float)
    noisy = dp.c.make_zCDP_to_approxDP(space >> dp.m.then_gaussian(scale=deviation))
    promise = dp.c.make_fix_delta(noisy, delta)
    assert promise.check(SENSITIVITY * (1 + 1e-9), (epsilon, delta)), "rounded sums may differ by a little more"
    assert library.startswith("opendp ")


@pytest.mark.slow
def test_the_noise_is_new_each_time_and_as_large_as_recorded():
    sums, counts = torch.zeros(4, 1000, dtype=torch.float64), torch.full((4,), 50.0, dtype=torch.float64)
    found = [with_noise(counts, sums, epsilon=2.0, delta=1e-5) for _ in range(2)]
    (_, noise, record), (_, other, _) = found
    assert not torch.equal(noise, other)
    assert float(noise.std()) == pytest.approx(record.deviation, rel=0.1)
    assert abs(float(noise.mean())) < 0.1 * record.deviation
    assert record.count_deviation == pytest.approx(2 * record.deviation)
    many = with_noise(torch.full((400,), 50.0), torch.zeros(400, 1), epsilon=2.0, delta=1e-5)[0]
    assert float(many.std()) == pytest.approx(record.count_deviation, rel=0.2)
    assert float(many.mean()) == pytest.approx(50, abs=0.3 * record.count_deviation)


def test_noise_is_added_to_exact_counts_and_sums():
    counts, sums = unit_sums(bank([0, 0, 1, 2], views=2))
    options = {"epsilon": 1.0, "delta": 1e-5, "insecure_seed": 3}
    noisy, alone = with_noise(counts, sums, **options), with_noise(0 * counts, 0 * sums, **options)
    torch.testing.assert_close(noisy[0] - alone[0], counts, rtol=0, atol=1e-9)
    torch.testing.assert_close(noisy[1] - alone[1], sums, rtol=0, atol=1e-9)
    assert len(torch.cat([alone[0], alone[1].flatten()]).unique()) == 3 * 6  # each number has its own noise


def test_only_the_noisy_sums_depend_on_the_images(photos, tmp_path):
    encoder, images = load_encoder(TINY, device="cpu"), load_images(f"folder:{photos}", split="train")
    how = {"name": "us", "epsilon": 1.0, "cache": tmp_path, "progress": False}
    one, other = class_statistics(encoder, images, **how), class_statistics(encoder, images, **how)
    assert one.squares is None
    assert one.products is None
    assert one.about.parts[0].images != other.about.parts[0].images, "a fingerprint would give a guess away"
    assert one.about.parts[0].count == max(0, round(float(one.counts.sum())))
    assert str(one.about.privacy) == "(1, 1e-05)-differentially private (add or remove one image)"


def test_noise_from_a_seed_promises_nothing():
    one = private("a", [0, 1, 2])
    assert one.about.privacy.epsilon is None
    assert "no privacy: none: insecure noise of seed 0" in str(one.about.privacy)
    assert torch.equal(one.sums, private("a", [0, 1, 2]).sums)


def test_a_private_file_is_read_back(tmp_path):
    found = private("a", [0], seed=None)
    found.save(tmp_path / "a.stats")
    back = ClassStatistics.load(tmp_path / "a.stats")
    assert same(back, found, rounding=0)
    assert back.about == found.about
    assert bool(back.means().isfinite().all()), "also of classes whose noisy count is below 0"


def test_a_noisy_count_weighs_at_least_one_image():
    one = private("a", [0, 1, 2])
    low = replace(one, counts=torch.tensor([-3.0, 0.5, 40.0], dtype=torch.float64))
    assert low.weights().tolist() == [1, 1, 40]
    assert torch.equal(low.means(), low.sums / torch.tensor([[1.0], [1.0], [40.0]], dtype=torch.float64))


def test_disjoint_parties_get_the_weaker_promise():
    one, other = private("a", [0, 1], epsilon=1.0, seed=None), private("b", [2], epsilon=4.0, delta=1e-4, seed=None)
    both = (one + other).about.privacy
    assert (both.epsilon, both.delta) == (4.0, 1e-4)
    assert both.deviation == pytest.approx(math.hypot(one.about.privacy.deviation, other.about.privacy.deviation))
    assert torch.equal((one + other).sums, one.sums + other.sums)


def test_private_and_other_statistics_are_not_merged():
    with pytest.raises(UserError, match="'b' is not private, so nothing could be promised for both"):
        private("a", [0, 1, 2]) + statistics_of(bank([0]), "b")


@pytest.mark.slow
def test_distilling_keeps_the_promise_and_refuses_options_that_break_it(run_cli, photos, tmp_path):
    file, run = tmp_path / "a.stats", tmp_path / "run"
    images = ["--images", f"folder:{photos}", "--encoder", TINY]
    made = run_cli("stats", *images, "--epsilon", 2, "--real-views", 2, "--out", file)
    assert "(2, 1e-05)-differentially private" in made.out
    distil = ["distill", "--stats", file, "--encoder", TINY, "--steps", 3, "--out", run]
    assert "are differentially private, so they have no second moments" in run_cli(*distil, "--method", "clp").error()
    assert "needs the real images" in run_cli(*distil, "--method", "sfm", "--canvas.init", "real").error()
    assert "keep_head True needs second moments" in run_cli(*distil, "--keep-head").error()
    assert not run.exists()
    assert run_cli(*distil).code == 0
    assert DistilledSet.load(run).run.config.method == "sfm", "what needs means alone"
    assert DistilledSet.load(run).run.privacy == ClassStatistics.load(file).about.privacy
    assert "(2, 1e-05)-differentially private" in run_cli("info", run).out
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "only from sums of features, from: a." in card
    assert "are (2, 1e-05)-differentially private" in card
    assert (
        "labels or a head from the photos would break that promise"
        in run_cli("label", run, *images, "--keep-head").error()
    )
    assert run_cli("distill", *images, "--steps", 1, "--out", tmp_path / "open").code == 0
    merged = run_cli("merge", run, tmp_path / "open", "--same-classes", "--out", tmp_path / "both")
    assert "The privacy promise of 'run' was left out" in merged.out
    assert DistilledSet.load(tmp_path / "both").run.privacy is None


def test_two_releases_of_the_same_images_cost_twice(run_cli, photos, tmp_path):
    files = []
    for size in (32, 40):
        files.append(tmp_path / f"{size}.stats")
        images = ["--images", f"folder:{photos}", "--encoder", f"{TINY}@{size}", "--epsilon", 1, "--out", files[-1]]
        assert run_cli("stats", *images).code == 0
    made = run_cli("distill", "--stats", *files, "--encoder", TINY, "--also", f"{TINY}@40", "--method", "sfm",
                   "--steps", 2, "--out", tmp_path / "run")  # fmt: skip
    assert made.code == 0, made.err
    assert DistilledSet.load(tmp_path / "run").run.privacy.epsilon == 2


def test_held_out_images_must_not_depend_on_other_images(run_cli, tmp_path):
    folder = make_image_folder(tmp_path / "flat", per_class=5, size=16, splits=())
    make = ["stats", "--images", f"folder:{folder}", "--encoder", TINY, "--epsilon", 1, "--out", tmp_path / "a.stats"]
    said = run_cli(*make).error()
    assert "the promise of --epsilon: one image can change which others are held out; add --all-images" in said
    assert run_cli(*make, "--all-images").code == 0


@pytest.mark.slow
def test_small_classes_and_a_large_delta_are_warned_of(run_cli, photos, tmp_path, monkeypatch):
    def silent(epsilon, delta):  # one time in seventy real noise makes a class large
        deviation, _, library = check_promise(epsilon, delta)
        return deviation, lambda values, _: values, library

    monkeypatch.setattr("probedistill.features.privacy.check_promise", silent)
    make = ["stats", "--images", f"folder:{photos}", "--encoder", TINY, "--out", tmp_path / "a.stats", "--epsilon"]
    assert "mostly noise: 2 of 2 classes" in run_cli(*make, 0.1).out
    (tmp_path / "a.stats").unlink()
    careless = run_cli(*make, 1000, "--delta", 0.5).out
    assert "mostly noise" not in careless
    assert "delta 0.5 promises almost nothing for" in careless


def test_a_second_release_does_not_replace_the_first(photos, run_cli, tmp_path):
    make = ["stats", "--images", f"folder:{photos}", "--encoder", TINY, "--all-images", "--out", tmp_path / "a.stats"]
    assert run_cli(*make, "--epsilon", 1).code == 0
    first = (tmp_path / "a.stats").read_bytes()
    assert "is a release already" in run_cli(*make, "--epsilon", 1).error()
    assert (tmp_path / "a.stats").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--epsilon", "0"], "epsilon 0.0 must be more than 0"),
        (["--epsilon", "nan"], "epsilon nan must be more than 0"),
        (["--epsilon", "1", "--delta", "0"], "delta 0.0 must be more than 0"),
        (["--epsilon", "1", "--delta", "1"], "delta 1.0 must be less than 1"),
    ],
)
def test_bad_promises_are_one_line(run_cli, photos, tmp_path, arguments, line):
    out = tmp_path / "a.stats"
    assert line in run_cli("stats", "--images", f"folder:{photos}", "--encoder", TINY, *arguments, "--out", out).error()
    assert not out.exists()


def test_without_opendp_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opendp.prelude", None)
    with pytest.raises(
        UserError, match=r"epsilon needs the package opendp, which is not .*pip install 'probedistill\[privacy\]'"
    ):
        check_promise(1.0, 1e-5)
