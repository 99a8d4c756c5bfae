"""Statistics of classes: additive, exact, checked, and without any image."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import TINY
from helpers_images import make_image_folder
from helpers_runs import encoder_record
from helpers_statistics import NAMES, bank, same, statistics_of
from probedistill import (
    AugmentConfig,
    ClassStatistics,
    FeatureBank,
    UserError,
    class_statistics,
    load_encoder,
    load_images,
    load_statistics,
    merge_statistics,
)
from probedistill.features.overlap import rows_of_sum
from probedistill.store.run_record import PrivacyRecord
from probedistill.store.tensors import load_tensors, save_tensors

parties = st.lists(st.integers(0, 2), min_size=1, max_size=8)


def party(name: str, labels: list[int], **options) -> ClassStatistics:
    return statistics_of(bank(labels, seed=ord(name), **options), name)


@given(parties, parties)
def test_merging_is_commutative(a, b):
    one, other = party("a", a) + party("b", b), party("b", b) + party("a", a)
    assert same(one, other, rounding=0)
    assert set(one.about.parts) == set(other.about.parts)


@given(parties, parties, parties)
def test_merging_is_associative(a, b, c):
    a, b, c = party("a", a), party("b", b), party("c", c)
    assert same((a + b) + c, a + (b + c))
    assert ((a + b) + c).about == (a + (b + c)).about


@given(parties, parties)
def test_removing_undoes_adding(a, b):
    a, b = party("a", a), party("b", b)
    assert same((a + b) - b, a)
    assert ((a + b) - b).about == a.about


@given(st.lists(st.integers(0, 2), min_size=4, max_size=20), st.integers(0, 2), st.data())
def test_parts_merged_are_the_whole(labels, views, data):
    whole = bank(labels, views=views)
    cut = data.draw(st.integers(1, len(labels) - 1))
    rows = torch.arange(len(labels))
    parts = [statistics_of(whole.select(part), str(i)) for i, part in enumerate((rows[:cut], rows[cut:]))]
    assert same(merge_statistics(parts), statistics_of(whole))


@settings(max_examples=20)
@given(parties, parties)
def test_different_classes_are_merged_by_union(a, b):
    one, other = party("a", a, names=("cat", "dog", "owl")), party("b", b, names=("owl", "fox", "cat"))
    merged = merge_statistics([one, other], union=True)
    assert merged.class_names == ("cat", "dog", "owl", "fox")
    assert merged.counts[0] == one.counts[0] + other.counts[2]
    assert torch.equal(merged.sums[3], other.sums[1])
    back = merge_statistics([other, one], union=True).with_classes(merged.class_names)
    assert same(merged, back, rounding=0)


def test_moments_match_the_features():
    features = bank([0, 0, 0, 1, 1, 2, 2, 2, 2])
    found = statistics_of(features)
    of = [features.centre[features.labels == c] for c in range(3)]
    torch.testing.assert_close(found.means(), torch.stack([x.mean(0) for x in of]))
    torch.testing.assert_close(found.variances(), torch.stack([x.var(0, unbiased=False) for x in of]))
    deviations = torch.cat([x - x.mean(0) for x in of])
    torch.testing.assert_close(found.covariance(), deviations.T @ deviations / 9)
    centre = torch.stack([x.mean(0) for x in of]).mean(0)
    torch.testing.assert_close(found.centre, centre)
    expected = np.mean([float((x - centre).square().sum(1).mean()) for x in of])
    assert found.spread() == pytest.approx(expected)


def test_an_image_with_several_views_counts_once():
    features = bank([0, 0, 1, 2], views=3)
    found = statistics_of(features)
    assert found.counts.tolist() == [2, 1, 1]
    torch.testing.assert_close(found.sums[1], features.augmented[:, 2].mean(0))
    torch.testing.assert_close(found.squares[1], features.augmented[:, 2].square().mean(0))
    products = torch.stack([view.T @ view for view in features.augmented]).mean(0)
    torch.testing.assert_close(found.products, products)


def test_a_dropped_class_removes_its_sums_and_variances():
    features = bank([0] * 9 + [1] * 7 + [2] * 8)
    left = statistics_of(features).with_classes(["owl", "cat"])
    alone = statistics_of(features.select((features.labels != 1).nonzero().squeeze(1))).with_classes(["owl", "cat"])
    assert torch.equal(left.counts, alone.counts)
    assert torch.equal(left.sums, alone.sums)
    torch.testing.assert_close(left.products.diagonal(), alone.products.diagonal())
    assert left.about.dropped == ("dog",), "its correlations are still in the products"
    assert torch.linalg.eigvalsh(left.covariance()).min() > -1e-9
    assert same(statistics_of(features).with_classes(NAMES[::-1]).with_classes(NAMES), statistics_of(features), 0)


def test_what_was_dropped_from_one_is_dropped_from_the_sum():
    one = party("a", [0, 1, 2])
    other = party("b", [0, 1, 1, 2, 2]).with_classes(["cat", "owl"]).with_classes(NAMES)
    assert (one + other).about.dropped == (other + one).about.dropped == ("dog",)


def test_dropping_is_exact_if_classes_have_equal_correlations():
    """Classes that differ in their mean, and by a common factor of all deviations."""
    generator = torch.Generator().manual_seed(2)
    deviations = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    deviations -= deviations.mean(dim=0)
    labels = torch.arange(3).repeat_interleave(9)
    means, sizes = torch.randn(3, 5, generator=generator, dtype=torch.float64), torch.tensor([1.0, 2.0, 0.5]).double()
    x = means[labels] + sizes[labels][:, None] * deviations.repeat(3, 1)
    features = FeatureBank(x, x[None][:0], labels, torch.arange(27), NAMES)
    left = statistics_of(features).with_classes(["owl", "cat"])
    alone = statistics_of(features.select((labels != 1).nonzero().squeeze(1))).with_classes(["owl", "cat"])
    torch.testing.assert_close(left.products, alone.products)
    torch.testing.assert_close(left.covariance(), alone.covariance())


def test_dropping_a_class_without_images_changes_nothing():
    found = statistics_of(bank([0, 0, 1, 1, 0]))
    assert torch.equal(found.with_classes(["cat", "dog"]).products, found.products)


def test_a_file_gives_back_what_was_saved(tmp_path):
    for name, found in {
        "all": statistics_of(bank([0, 1, 2, 2], views=2)),
        "means": statistics_of(bank([0, 1, 2, 2]), second_moments=False),
    }.items():
        found.save(tmp_path / name)
        back = ClassStatistics.load(tmp_path / name)
        assert same(back, found, rounding=0)
        assert back.about == found.about


def test_statistics_of_means_have_no_variances():
    with pytest.raises(UserError, match="have only counts and sums; make them again with second moments"):
        statistics_of(bank([0, 1, 2]), second_moments=False).variances()


# ---------------------------------------------------------------------------------------------------
# What does not fit together


def changed(found: ClassStatistics, **changes) -> ClassStatistics:
    return replace(found, about=replace(found.about, **changes))


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (changed(party("b", [0]), encoder=encoder_record("other", "cd" * 32, dim=5)), "are of different encoders"),
        (changed(party("b", [0]), encoder=encoder_record(dim=5, precision="bf16")), "are of different encoders"),
        (changed(party("b", [0]), views=2, augment=AugmentConfig(flip=0.0)), r"\(centre crops and 2 views, flip 0.0\)"),
        (changed(party("b", [0]), class_names=("cat", "dog", "fox")), "'owl' is only in one.*union=True"),
        (changed(party("b", [0]), class_names=("dog", "cat", "owl")), "in a different order.*union=True"),
        (statistics_of(bank([0]), "b", second_moments=False), "'b' has no second moments"),
        (party("a", [0]), "the images of 'a' are in both"),
    ],
)
def test_statistics_that_do_not_fit_together_are_one_line(other, line):
    with pytest.raises(UserError, match=line) as error:
        party("a", [0, 1, 2]) + other
    assert "\n" not in str(error.value)


def test_only_contained_statistics_can_be_removed():
    whole = party("a", [0, 1, 1, 2])
    with pytest.raises(UserError, match="not part of 'a': class 'cat' has 2 images there but 1 here"):
        whole - party("b", [0, 0])
    far = party("b", [1])
    with pytest.raises(UserError, match="not part of 'a'; give some that were added"):
        whole - replace(far, squares=far.squares + 1e6, products=far.products + 1e6 * torch.eye(5))


def test_removing_other_photos_is_detected_by_negative_variance():
    whole, other = bank([0, 1, 2] * 4, dim=12), bank([0, 1, 2], dim=12, seed=7)
    less = replace(statistics_of(other, "b"), counts=torch.ones(3, dtype=torch.float64))
    with pytest.raises(UserError, match="'b' are not part of 'a'; give some that were added"):
        statistics_of(whole) - less


def test_the_same_photos_are_recognised_among_others():
    features = bank([0, 0, 1, 1, 2, 2])
    a, b = (
        statistics_of(features.select(torch.tensor(rows)), name) for rows, name in (([0, 1, 2], "a"), ([1, 0, 4], "b"))
    )
    with pytest.raises(UserError, match="'a' and 'b' have the same photos of class 'cat', which would count twice"):
        a + b
    with pytest.raises(UserError, match="the same photos of class 'cat'"):
        a + replace(b, sums=b.sums * (1 + 1e-6))  # as if another processor had rounded
    assert (a + (b - statistics_of(features.select(torch.tensor([0, 1])), "cats"))).counts.tolist() == [2, 1, 1]


@given(st.integers(1, 8), st.integers(0, 8), st.integers(0, 99))
def test_rows_that_add_up_to_a_sum_are_found(count, others, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(count + others, 16, generator=generator, dtype=torch.float64)
    chosen = torch.randperm(count + others, generator=generator)[:count]
    total = features[chosen].sum(0) * (1 + 1e-7)
    found = rows_of_sum(features, total, count)
    assert sorted(chosen.tolist()) == found.nonzero().squeeze(1).tolist()
    assert rows_of_sum(features, total + 0.1, count) is None


def test_too_many_rows_are_not_searched():
    features = torch.rand(20, 16, dtype=torch.float64)
    assert rows_of_sum(features, features[:5].sum(0), 5) is None
    assert rows_of_sum(features, features.sum(0), 20).all()


def test_a_share_that_was_not_named_is_named_as_removed():
    features = bank([0, 0, 1, 1, 2])
    left = statistics_of(features) - statistics_of(features.select(torch.tensor([1, 2])), "gone")
    assert same(left, statistics_of(features.select(torch.tensor([0, 3, 4]))))
    assert [(part.name, part.removed) for part in left.about.parts] == [("a", False), ("gone", True)]
    with pytest.raises(UserError, match="'gone' have already been removed"):
        left - statistics_of(features.select(torch.tensor([1])), "gone")


# ---------------------------------------------------------------------------------------------------
# Damage


@pytest.fixture
def file(tmp_path):
    statistics_of(bank([0, 1, 2, 2])).save(tmp_path / "a.stats")
    return tmp_path / "a.stats"


def test_a_file_cut_at_any_byte_is_refused(file):
    data = file.read_bytes()
    for length in {0, 1, 8, 100, len(data) // 2, len(data) - 1}:
        file.write_bytes(data[:length])
        with pytest.raises(UserError, match="is damaged"):
            ClassStatistics.load(file)


@pytest.mark.parametrize(
    "change",
    [
        {"counts": torch.tensor([1.0, -1, 2], dtype=torch.float64)},
        {"counts": torch.tensor([1.0, 0, 3], dtype=torch.float64)},
        {"sums": torch.full((3, 5), torch.nan, dtype=torch.float64)},
        {"sums": torch.full((3, 5), 1e9, dtype=torch.float64)},
        {"sums": torch.zeros(3, 4, dtype=torch.float64)},
        {"squares": -torch.ones(3, 5, dtype=torch.float64)},
        {"products": torch.ones(15, dtype=torch.float64)},
        {"products": torch.ones(15)},
    ],
)
def test_sums_of_no_possible_features_are_refused(file, change):
    tensors, metadata = load_tensors(file)
    save_tensors(file, {**tensors, **change}, metadata)
    with pytest.raises(UserError, match="is damaged"):
        ClassStatistics.load(file)


def places(value, at=()):
    """The path to every value of a record."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way for key, entry in inside for way in [(*at, key), *places(entry, (*at, key))]]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_change_of_the_record_is_one_line_or_harmless(file, data):
    whole = statistics_of(bank([0, 1, 2, 2]))
    promise = PrivacyRecord(epsilon=1.0, delta=0.1, deviation=1.0, count_deviation=1.0, adjacency="", clipping="",
                            library="")  # fmt: skip
    changed(whole, augment=AugmentConfig(), privacy=data.draw(st.sampled_from([None, promise]))).save(file)
    tensors, metadata = load_tensors(file)
    way = data.draw(st.sampled_from(places(metadata)))
    holder = metadata
    for key in way[:-1]:
        holder = holder[key]
    others = [None, True, [], {}, "", "x", -1, 3, 0.5, 1e300, "\x1b[2J", [[1]], 10**30]
    holder[way[-1]] = data.draw(st.sampled_from(others))
    save_tensors(file, tensors, metadata)
    with suppress(UserError):  # anything else would be a traceback
        found = ClassStatistics.load(file)
        repr(found)
        found.means()


def test_other_files_and_newer_ones_are_refused(file, tmp_path):
    tensors, metadata = load_tensors(file)
    save_tensors(file, tensors, {**metadata, "format": 99})
    with pytest.raises(UserError, match="has format 99, this version reads 1; update probedistill"):
        ClassStatistics.load(file)
    save_tensors(file, tensors, {"run": "x"})
    with pytest.raises(UserError, match="has no statistics"):
        ClassStatistics.load(file)
    save_tensors(file, tensors, {**metadata, "about": {**metadata["about"], "views": "many"}})
    with pytest.raises(UserError, match=r"is damaged \(Expected `int`, got `str` - at `\$.views`\)"):
        ClassStatistics.load(file)
    with pytest.raises(UserError, match="is not there"):
        load_statistics([tmp_path / "none.stats"])


# ---------------------------------------------------------------------------------------------------
# From images, and on the command line


def test_statistics_of_images_are_those_of_their_features(photos, tmp_path):
    encoder, images = load_encoder(TINY, device="cpu"), load_images(f"folder:{photos}", split="train")
    found = class_statistics(encoder, images, views=2, cache=tmp_path, progress=False)
    halves = [images.select(range(0, len(images), 2)), images.select(range(1, len(images), 2))]
    plain = [class_statistics(encoder, half, cache=tmp_path, progress=False) for half in halves]
    assert same(merge_statistics(plain), class_statistics(encoder, images, cache=tmp_path, progress=False))
    assert (found.about.views, found.about.encoder.fingerprint) == (2, encoder.fingerprint)
    found.check_encoder(encoder)
    with pytest.raises(UserError, match="not of 'helpers_encoders:tiny'"):
        found.check_encoder(load_encoder(TINY, device="cpu", encoder_args={"seed": 1}))


def test_command_makes_merges_and_shows(run_cli, photos, tmp_path):
    make = ["stats", "--images", f"folder:{photos}", "--encoder", TINY, "--device", "cpu"]
    for name in ("cat", "dog"):
        made = run_cli(*make, "--classes", name, "--all-images", "--out", tmp_path / f"{name}.stats")
        assert made.code == 0, made.err
    files = [tmp_path / "cat.stats", tmp_path / "dog.stats"]
    assert "--union" in run_cli("stats", *files, "--out", tmp_path / "all.stats").error()
    merged = run_cli("stats", *files, "--union", "--out", tmp_path / "all.stats")
    assert "12 images of 2 parts, centre crops" in merged.out
    whole = run_cli(*make, "--out", tmp_path / "whole.stats", "--name", "us")
    assert "parts: us (12)" in whole.out
    assert same(ClassStatistics.load(tmp_path / "all.stats"), ClassStatistics.load(tmp_path / "whole.stats"))
    twice = run_cli("stats", files[0], tmp_path / "whole.stats", "--union", "--out", tmp_path / "no.stats").error()
    assert "have the same photos of class 'cat', which would count twice" in twice
    assert not (tmp_path / "no.stats").exists()
    shown = json.loads(run_cli("stats", tmp_path / "all.stats", "--json").out)
    assert shown["rows"] == [{"class": "cat", "images": "6"}, {"class": "dog", "images": "6"}]
    assert shown["caption"] == "parts: cat (6), dog (6)"


def test_images_that_distill_holds_out_are_held_out_by_stats(run_cli, tmp_path):
    folder = make_image_folder(tmp_path / "flat", per_class=5, size=16, splits=())
    make = ["stats", "--images", f"folder:{folder}", "--encoder", TINY, "--out", tmp_path / "a.stats"]
    made = run_cli(*make)
    assert "8 images of 1 part" in made.out
    assert "2 of 10 images are held out for testing; --all-images uses all" in made.err
    assert "10 images of 1 part" in run_cli(*make, "--all-images").out


def test_a_class_of_one_image_is_named(run_cli, tmp_path):
    folder = make_image_folder(tmp_path / "flat", per_class=1, size=16, splits=())
    make = ["stats", "--images", f"folder:{folder}", "--encoder", TINY, "--out", tmp_path / "a.stats"]
    assert "at least 3 are needed to hold one out" in run_cli(*make).error()
    assert "its sum is that image's feature" in run_cli(*make, "--all-images").out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["none.stats"], "statistics file 'none.stats' is not there"),
        (["."], "statistics file '.' is a folder; give a file of probedistill stats"),
        (["a.stats", "b.stats"], "out is missing, and there are 2 files to merge"),
        (["a.stats", "--images", "folder:x"], "--images is for images, but files are merged and shown as they are"),
        (["a.stats", "--epsilon", "2", "--out", "b.stats"], "--epsilon is for images"),
        (["a.stats", "b.stats", "--name", "x", "--out", "c.stats"], "--name is for images"),
        (["--images", "folder:x", "--encoder", TINY, "--union", "--out", "a.stats"], "--union is for merging files"),
        (["--images", "folder:x", "--encoder", TINY, "--real-views", "-1", "--out", "a.stats"], "real_views -1 must"),
        (["--images", "folder:x", "--encoder", TINY], "out is missing"),
        (["--images", "folder:x", "--encoder", TINY, "--out", "."], "out '.' is a folder"),
        (["--out", "a.stats"], "images is missing"),
    ],
)
def test_bad_input_is_one_line(run_cli, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    assert line in run_cli("stats", *arguments).error()
    assert not list(tmp_path.iterdir())
