"""Distilling from statistics, and runs that keep them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from conftest import TINY
from helpers_statistics import NAMES, bank, same, statistics_of
from probedistill import (
    ClassStatistics,
    DistilledSet,
    FeatureBank,
    LinearProbe,
    UserError,
    class_statistics,
    distill,
    extract_features,
    load_encoder,
    load_images,
    merge_statistics,
)
from probedistill.cli import main
from probedistill.features.classes import class_means
from probedistill.features.gaussians import class_deviations, gaussian_features
from probedistill.features.privacy import unit_sums
from probedistill.features.statistics import statistics_of_run
from probedistill.objectives.clp import clp_objective
from probedistill.objectives.lgm import lgm_objective
from probedistill.objectives.moments import Draws, RealMoments
from probedistill.objectives.real import RealFeatures
from probedistill.objectives.sfm import sfm_objective
from probedistill.probes.of_statistics import ridge_head
from probedistill.store.run_record import EncoderRecord, PartRecord, PrivacyRecord

# ---------------------------------------------------------------------------------------------------
# Runs that keep their statistics


def test_a_run_keeps_the_statistics_of_its_real_features(distil_cli, photos, tmp_path):
    run = tmp_path / "run"
    assert (
        distil_cli("--method", "sfm", "--keep-stats", "--also", f"{TINY}@40", "--device", "cpu", "--out", run).code == 0
    )
    first, second = statistics_of_run(run)
    images = load_images(f"folder:{photos}", split="train")
    of_images = class_statistics(
        load_encoder(TINY, device="cpu"), images, views=2, cache=tmp_path / "cache", progress=False
    )
    assert same(first, of_images)
    assert (first.about.encoder.input_size, second.about.encoder.input_size) == (32, 40)
    assert first.about.parts[0].name == "run"


@pytest.mark.slow
def test_a_run_without_statistics_says_how_to_have_them(distil_cli, tmp_path):
    run = tmp_path / "run"
    assert distil_cli("--keep-stats", "--out", run).code == 0
    assert distil_cli("--overwrite", "--out", run).code == 0
    with pytest.raises(UserError, match="has no statistics; distil it again with keep_stats=True"):
        statistics_of_run(run)


# ---------------------------------------------------------------------------------------------------
# Objectives of statistics


@pytest.fixture
def features():
    return bank([0] * 30 + [1] * 20 + [2] * 40, dim=6)


def pooled(features, normalize="none"):
    return RealFeatures(features.centre, features.labels, 3, normalize)


def moments(features, normalize="none"):
    rows = torch.arange(len(features))
    parts = [statistics_of(features.select(rows[i::3]), str(i)) for i in range(3)]
    return RealMoments(Draws(merge_statistics(parts), dtype=torch.float64), normalize)


def loss_and_gradient(objective, features, labels, step=0):
    leaf = features.clone().requires_grad_()
    loss = objective(leaf, labels, step)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


SYNTHETIC = bank([0, 1, 2, 0, 1, 2], seed=7, dim=6)


@pytest.mark.parametrize("normalize", ["none", "center"])
@pytest.mark.parametrize("others", ["samples", "centres"])
@pytest.mark.parametrize("cosine", ["classes", "all"])
def test_sfm_of_merged_statistics_is_that_of_the_pooled_features(features, normalize, others, cosine):
    found, expected = (
        loss_and_gradient(
            sfm_objective(real(features, normalize), others=others, cosine=cosine), SYNTHETIC.centre, SYNTHETIC.labels
        )
        for real in (moments, pooled)
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_means_and_the_centre_are_exact(features):
    for normalize in ("none", "center"):
        torch.testing.assert_close(moments(features, normalize).mean, pooled(features, normalize).mean)
        torch.testing.assert_close(moments(features, normalize).spread, pooled(features, normalize).spread)
        torch.testing.assert_close(
            moments(features, normalize).class_means(), pooled(features, normalize).class_means()
        )
        torch.testing.assert_close(
            moments(features, normalize).class_sums(), pooled(features, normalize).class_sums(), rtol=1e-9, atol=1e-9
        )


def test_draws_have_the_means_and_about_the_variances_of_their_class(features):
    statistics = moments(features).statistics
    drawn, labels = gaussian_features(statistics, 20_000, seed=1)
    for label in range(3):
        of_class = drawn[labels == label]
        torch.testing.assert_close(of_class.mean(0), statistics.means()[label])
        torch.testing.assert_close(of_class.std(0), class_deviations(statistics)[label], rtol=0.05, atol=0)
    scaled = (drawn - statistics.means()[labels]) / class_deviations(statistics)[labels]
    of_images = (
        statistics.covariance() / statistics.covariance().diagonal().outer(statistics.covariance().diagonal()).sqrt()
    )
    torch.testing.assert_close(torch.corrcoef(scaled.T), of_images, rtol=0, atol=0.03)


def test_means_of_unit_length_are_those_of_the_draws_at_the_weight_of_the_images(features):
    real = moments(features, "center_l2")
    torch.testing.assert_close(real.class_means(), class_means(real.features, real.labels, 3))
    assert real.class_sums()[1][:, 0].tolist() == [30, 20, 40]


def test_draws_depend_on_the_seed_alone(features):
    statistics = statistics_of(features)
    one, again, other = (Draws(statistics, seed=seed, dtype=torch.float64).features for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("classes", [2, 300, 3_000])
def test_there_are_enough_draws_per_class_and_few_in_all(classes):
    names = tuple(str(label) for label in range(classes))
    draws = Draws(statistics_of(bank(list(range(classes)), dim=2, names=names)))
    assert 64 <= draws.per_class <= 256
    assert draws.per_class == 64 or len(draws.labels) <= 2**16
    assert torch.bincount(draws.labels).tolist() == [draws.per_class] * classes


@pytest.mark.parametrize("normalize", ["none", "center"])
def test_private_sums_are_compared_with_unit_length_synthetic_features(features, normalize):
    """A private sum is of features of length 1, so synthetic features are scaled to that length, too."""
    promise = PrivacyRecord(
        epsilon=None, delta=1e-5, deviation=1.0, count_deviation=2.0, adjacency="", clipping="", library=""
    )
    counts, sums = unit_sums(features)
    about = replace(statistics_of(features).about, privacy=promise)
    private = RealMoments(Draws(ClassStatistics(about, counts, sums), dtype=torch.float64), normalize)
    unit = F.normalize(features.centre, dim=1)
    pooled_units = RealFeatures(unit, features.labels, 3, normalize)
    z = SYNTHETIC.centre
    expected = sfm_objective(pooled_units)(F.normalize(z, dim=1), SYNTHETIC.labels, 0)
    lengths = torch.linspace(0.1, 10, len(z), dtype=torch.float64)[:, None]
    for synthetic in (z, lengths * z):
        torch.testing.assert_close(sfm_objective(private)(synthetic, SYNTHETIC.labels, 0), expected)
    assert float(sfm_objective(private)(features.centre, features.labels, 0)) == pytest.approx(0, abs=1e-12)


def test_a_shared_deviation_is_the_deviation_of_each_class():
    """For classes that differ only in size and mean: Σ(n_c − 1) v / (N − C) = v, and so is every mixture."""
    generator = torch.Generator().manual_seed(2)
    parts = [torch.randn(count, 4, generator=generator, dtype=torch.float64) for count in (3, 12, 40)]
    x = torch.cat([(part - part.mean(0)) / part.std(0) * 3 + number for number, part in enumerate(parts)])
    labels = torch.arange(3).repeat_interleave(torch.tensor([3, 12, 40]))
    found = class_deviations(statistics_of(FeatureBank(x, x[None][:0], labels, torch.arange(55), NAMES)))
    torch.testing.assert_close(found, torch.full((3, 4), 3.0, dtype=torch.float64))


def test_deviations_of_small_classes_are_shrunk_more():
    features = bank([0] + [1] * 11 + [2] * 400, dim=4)
    statistics = statistics_of(features)
    shared = statistics.covariance().diagonal() * 412 / (412 - 3)
    one, eleven, many = class_deviations(statistics).square()
    torch.testing.assert_close(one, shared)
    own = [features.centre[features.labels == label].var(dim=0) for label in (1, 2)]
    torch.testing.assert_close(eleven, (own[0] + shared) / 2)  # ten images more than one, so half and half
    torch.testing.assert_close(many, own[1], rtol=0.03, atol=0)


def test_every_class_has_its_own_draws(features):
    statistics = statistics_of(features)
    drawn, labels = gaussian_features(statistics, 200)
    scaled = (drawn - statistics.means()[labels]) / class_deviations(statistics)[labels]
    one, two, three = (scaled[labels == label].flatten() for label in range(3))
    for pair in ((one, two), (one, three), (two, three)):
        assert abs(float(torch.corrcoef(torch.stack(pair))[0, 1])) < 0.2


def gaussians(per_class: int):
    """Gaussian features, as the method assumes: all classes share their correlations."""
    generator = torch.Generator().manual_seed(3)
    means, mix = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 6), (6, 6)))
    labels = torch.arange(3).repeat_interleave(per_class)
    noise = torch.randn(3 * per_class, 6, generator=generator, dtype=torch.float64)
    x = means[labels] + noise @ mix.T
    return FeatureBank(x, x[None][:0], labels, torch.arange(len(x)), NAMES)


@pytest.mark.parametrize("normalize", ["none", "center", "center_l2"])
def test_clp_of_statistics_is_within_three_percent_of_the_pooled_features(normalize):
    real = gaussians(5_000)
    statistics = statistics_of(real)
    draws = Draws(statistics, dtype=torch.float64)
    draws.per_class, draws.labels = 5_000, real.labels
    options = {"ridge": 10.0, "temperature": 0.1 if normalize == "center_l2" else 1.0, "real_per_class": 0}
    found, expected = (
        loss_and_gradient(clp_objective(side, **options), SYNTHETIC.centre, SYNTHETIC.labels)
        for side in (RealMoments(draws, normalize), RealFeatures(real.centre, real.labels, 3, normalize))
    )
    assert found[0] == pytest.approx(float(expected[0]), rel=0.03)
    assert F.cosine_similarity(found[1].flatten(), expected[1].flatten(), 0) > 0.995


def test_lgm_of_statistics_has_nearly_the_gradient_of_the_pooled_features():
    real = gaussians(5_000)
    sides = (
        RealMoments(Draws(statistics_of(real), dtype=torch.float64), "center_l2"),
        RealFeatures(real.centre, real.labels, 3, "center_l2"),
    )
    found, expected = (
        loss_and_gradient(lgm_objective(side, sigma=0.1, balanced=True), SYNTHETIC.centre, SYNTHETIC.labels)
        for side in sides
    )
    assert F.cosine_similarity(found[1].flatten(), expected[1].flatten(), 0) > 0.99


# ---------------------------------------------------------------------------------------------------
# Runs from statistics


@pytest.fixture(scope="module")
def parties(photos, tmp_path_factory):
    """Files of two parties, each with one class."""
    files = [tmp_path_factory.mktemp("parties") / name for name in ("cat", "dog")]
    for file in files:
        arguments = ["--images", f"folder:{photos}", "--classes", file.name, "--encoder", TINY, "--out", str(file)]
        assert main(["stats", *arguments, "--real-views", "2", "--all-images"]) == 0
    return tuple(files)


@pytest.fixture
def from_statistics(run_cli):
    def run(files, *arguments):
        return run_cli("distill", "--stats", *files, "--union", "--encoder", TINY, "--steps", 3, *arguments)

    return run


def test_a_whole_sfm_run_is_that_of_the_pooled_images(photos, tmp_path):
    encoder, images = load_encoder(TINY, device="cpu"), load_images(f"folder:{photos}", split="train")
    bank = extract_features(encoder, images, views=2, progress=False)
    rows = torch.arange(len(bank))
    about = EncoderRecord.of(encoder)
    parts = [
        ClassStatistics.of_bank(bank.select(rows[i::3]), about, PartRecord(str(i), str(i), 4, "tests"))
        for i in range(3)
    ]
    how = {"method": "sfm", "steps": 5, "canvas": {"size": 32, "init": "noise"}, "progress": False, "evaluate_every": 0}
    pooled = distill(images, encoder, **how)
    merged = distill(parts, encoder, **how)
    torch.testing.assert_close(merged.float_images, pooled.float_images, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.tensor(merged.run.losses), torch.tensor(pooled.run.losses), rtol=1e-5, atol=1e-6)
    assert [part.name for part in merged.run.statistics[0].parts] == ["0", "1", "2"]


@pytest.mark.parametrize("method", ["auto", "clp", "sfm", "lgm"])
def test_every_method_distils_from_files(from_statistics, run_cli, parties, tmp_path, method):
    out = tmp_path / "run"
    made = from_statistics(parties, "--method", method, "--out", out)
    assert made.code == 0, made.err
    run = DistilledSet.load(out).run
    assert run.begun_from == "noise"
    assert run.images.spec == "statistics:cat + dog"
    assert "parts: cat, dog" in run_cli("info", out).out


@pytest.mark.slow
def test_the_config_of_a_run_repeats_it_and_scores_it(from_statistics, run_cli, parties, photos, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert from_statistics(parties, "--images", f"folder:{photos}", "--method", "sfm", "--out", one).code == 0
    assert len(DistilledSet.load(one).run.accuracy) == 3, "the test images give the accuracy along the way"
    again = run_cli("distill", "--config", one / "config.yaml", "--out", two)
    assert again.code == 0, again.err
    assert torch.equal(DistilledSet.load(one).float_images, DistilledSet.load(two).float_images)
    scored = run_cli("evaluate", one, "--config", one / "config.yaml", "--seeds", 1, "--views", 2)
    assert scored.code == 0, scored.err


def test_a_run_from_statistics_is_resumed_and_another_one_is_refused(from_statistics, run_cli, parties, tmp_path):
    out = tmp_path / "run"
    assert from_statistics(parties, "--method", "sfm", "--out", out).code == 0
    assert from_statistics(parties, "--method", "sfm", "--out", out, "--resume").code == 0
    other = from_statistics(parties[::-1], "--method", "sfm", "--out", out, "--resume").error()
    assert "holds a run of other images (statistics:cat + dog" in other


def test_a_run_of_two_encoders_takes_statistics_of_both(from_statistics, run_cli, parties, photos, tmp_path):
    small = tmp_path / "small"
    arguments = ["--images", f"folder:{photos}", "--encoder", f"{TINY}@40", "--real-views", 2, "--out", small]
    assert run_cli("stats", *arguments).code == 0
    made = from_statistics((*parties, small), "--also", f"{TINY}@40", "--keep-stats", "--out", tmp_path / "run")
    assert made.code == 0, made.err
    kept = statistics_of_run(tmp_path / "run")
    assert [one.about.encoder.input_size for one in kept] == [32, 40]
    lacks = from_statistics(parties, "--also", f"{TINY}@40", "--out", tmp_path / "lacks").error()
    assert "are of encoder 'helpers_encoders:tiny'" in lacks


def test_the_head_of_all_features_needs_no_images(from_statistics, parties, tmp_path):
    """W* from statistics is the ridge probe of the pooled features."""
    features = bank([0] * 30 + [1] * 20 + [2] * 40, dim=6)
    weight, bias = ridge_head(moments(features).statistics)
    probe = LinearProbe("ridge").fit(features.centre, features.labels)
    torch.testing.assert_close(weight, torch.from_numpy(probe.coef_), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(bias, torch.from_numpy(probe.intercept_), rtol=1e-8, atol=1e-10)
    assert from_statistics(parties, "--keep-head", "--out", tmp_path / "run").code == 0
    head = DistilledSet.load(tmp_path / "run").head
    assert head.weight.shape == (2, 24)


REFUSED = {
    "real": (["--canvas.init", "real"], "canvas.init 'real' needs the real images"),
    "blend": (["--canvas.init", "blend"], "canvas.init 'blend' needs the real images"),
    "soft": (["--soft-labels", "learned"], "soft_labels 'learned' needs the real images"),
    "fresh": (["--method", "lgm", "--preset", "paper"], "lgm.fresh needs the real images"),
    "unbalanced": (["--method", "lgm", "--lgm.no-balanced"], "lgm.balanced False weights classes by their number"),
    "all": (["--clp.real-per-class", "0"], "clp.real_per_class 0 weights classes by their number"),
    "encoder": (["--encoder-args.seed", "1"], "are of encoder 'helpers_encoders:tiny'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_images_is_refused_before_anything_is_written(from_statistics, parties, tmp_path, name):
    arguments, line = REFUSED[name]
    assert line in from_statistics(parties, *arguments, "--out", tmp_path / "run").error()
    assert not (tmp_path / "run").exists()


def test_unsuitable_files_are_refused(from_statistics, run_cli, parties, photos, tmp_path):
    out = ["--encoder", TINY, "--out", tmp_path / "run"]
    assert "add --union" in run_cli("distill", "--stats", *parties, *out).error()
    assert "have only the class 'cat'" in run_cli("distill", "--stats", parties[0], *out).error()
    assert "is not there" in run_cli("distill", "--stats", tmp_path / "none", *out).error()
    assert "or --stats instead of images" in run_cli("distill", *out).error()
    means = tmp_path / "means"
    make = ["--images", f"folder:{photos}", "--encoder", TINY, "--no-second-moments", "--out", means]
    assert run_cli("stats", *make).code == 0
    assert "have only counts and sums" in run_cli("distill", "--stats", means, "--method", "clp", *out).error()
    assert not (tmp_path / "run").exists()
    assert run_cli("distill", "--stats", means, "--method", "sfm", "--steps", 2, *out).code == 0
