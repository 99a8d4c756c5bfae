"""Evaluation: every row under one protocol, on test images whose labels are matched by class name."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import TINY
from helpers_images import make_image_folder
from probedistill import (
    AugmentConfig,
    DistilledSet,
    EvaluateConfig,
    Head,
    InheritedProbe,
    LinearProbe,
    UserError,
    distill,
    evaluate,
    export,
    load_encoder,
    load_images,
    load_splits,
    transfer,
)
from probedistill import extract_features as extract
from probedistill.evaluation.real_sets import CHOICES
from probedistill.evaluation.scorer import Scorer
from probedistill.features import store
from probedistill.features.encode import view_features
from probedistill.machine import progress

NAMES = ("cat", "dog", "hen")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = make_image_folder(tmp_path_factory.mktemp("evaluate") / "photos", classes=NAMES, per_class=5, size=36)
    return load_splits(f"folder:{folder}")


@pytest.fixture(scope="module")
def distilled(data, encoder):
    return distill(data[0], encoder, steps=40, progress=False)


def score(distilled, encoder, data, **options):
    options = {"seeds": 2, "views": 3, "full_views": 0, "progress": False, **options}
    return evaluate(distilled, encoder, *data, **options)


@pytest.mark.slow
def test_rows(distilled, encoder, data):
    result = score(distilled, encoder, data, probes=["ridge", "logistic"], epochs=5)
    assert [(row.name, row.probe) for row in result.rows] == [
        (name, probe)
        for name in ("distilled", "random real", "centroids", "neighbours", "full real data")
        for probe in ("ridge", "logistic")
    ]
    assert [row.images for row in result.rows] == [3] * 8 + [15] * 2
    assert all(len(row.scores) == 2 for row in result.rows)
    assert result["full real data"].top1 > 0.9
    assert result["distilled"].top1 > 0.6
    with pytest.raises(KeyError, match="there are "):
        result["nothing"]


def test_progress_counts_each_fit(distilled, encoder, data, monkeypatch, capsys):
    """With many classes one fit takes minutes, and a row has one for every seed."""
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    score(distilled, encoder, data, probes=["ridge"], baselines=["random", "full"], progress=True)
    lines = [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("probes: ")]
    assert lines == [f"probes: {done}/5" for done in range(1, 6)]


@pytest.mark.slow
def test_sgd_probe(distilled, encoder, data):
    result = score(distilled, encoder, data, probes=["sgd"], epochs=20, full_epochs=3000, baselines=["full"])
    assert [row.probe for row in result.rows] == ["sgd", "sgd"]
    assert result["full real data", "sgd"].top1 > 0.8


def test_seeds_draw_views_and_random_images(distilled, encoder, data, monkeypatch):
    one = score(distilled, encoder, data, seeds=4, probes=["ridge"], baselines=["random"])
    two = score(distilled, encoder, data, seeds=4, probes=["ridge"], baselines=["random"])
    assert [r.scores for r in one.rows] == [r.scores for r in two.rows]
    assert [s.top1 for s in score(distilled, encoder, data, seeds=2).rows[0].scores] == [
        s.top1 for s in one["distilled"].scores[:2]
    ]
    noise = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise_set = DistilledSet(noise, torch.arange(3), NAMES)
    viewed = score(noise_set, encoder, data, seeds=6, views=1, baselines=[])["distilled"]
    assert len({str(s) for s in viewed.scores}) > 1, "another seed, other views"
    drawn = set()
    draw = CHOICES["random"]
    monkeypatch.setitem(CHOICES, "random", lambda *a: drawn.add(tuple((rows := draw(*a)).tolist())) or rows)
    score(None, encoder, data, seeds=6, views=0, baselines=["random"])
    assert len(drawn) > 1, "other images"
    values = [s.top1 for s in one["random real"].scores]
    assert one["random real"].top1 == pytest.approx(np.mean(values))
    assert one["random real"].std == pytest.approx(np.std(values, ddof=1))


def test_full_data_are_refitted_if_the_seed_matters(encoder, data):
    probes = ["ridge", "logistic", "sgd"]
    result = score(None, encoder, data, seeds=3, probes=probes, full_views=1, full_epochs=4, baselines=["full"])
    train = extract(encoder, data[0], views=1, augment=replace(AugmentConfig(), noise_prob=0.0), progress=False)
    test = extract(encoder, data[1], progress=False)
    features = torch.cat([train.centre[None], train.augmented])
    for solver in probes:
        for seed, scores in enumerate(result["full real data", solver].scores):
            probe = LinearProbe(solver, epochs=4, random_state=seed).fit_views(features, train.labels)
            assert scores.top1 == pytest.approx(probe.score(test.centre.numpy(), test.labels.numpy()))


def test_sgd_views_is_the_number_of_different_views(distilled, encoder, data, monkeypatch, tmp_path):
    seen = []
    draw = store.view_features
    monkeypatch.setattr(
        store, "view_features", lambda e, i, a, views, **k: seen.append(views) or draw(e, i, a, views, **k)
    )
    for sgd_views, expected in ((4, 4), (None, 3)):  # by default the views of the other probes
        score(distilled, encoder, data, probes=["sgd"], epochs=7, sgd_views=sgd_views, seeds=1, baselines=[],
              cache=tmp_path)  # fmt: skip
        assert seen.pop() == expected
    assert not seen


@pytest.mark.parametrize(("names", "shown"), [("abcdef", True), ("abcde", False)])
def test_top_5_is_shown_if_there_are_more_classes(encoder, tmp_path, names, shown):
    names = tuple(names)
    data = load_splits(f"folder:{make_image_folder(tmp_path / 'seven', classes=names, per_class=2)}")
    result = score(None, encoder, data, baselines=["centroids", "means"], views=0, seeds=1)
    for row in result.rows:
        assert row.scores[0].top1 <= row.scores[0].top5 <= 1
    assert ("top-5 %" in str(result)) == shown
    assert "top-5 %" in result.to_pandas() or not shown


def test_strict_refuses_what_evaluation_would_leave_out(distilled, encoder, tmp_path):
    folder = make_image_folder(tmp_path / "photos", classes=NAMES, per_class=3)
    (folder / "test" / "cat" / "0001.png").write_text("no image")
    data = load_splits(f"folder:{folder}")
    assert score(distilled, encoder, data, seeds=1, baselines=[])["distilled"].scores[0].n == 8
    with pytest.raises(UserError, match=r"test/cat/0001\.png"):
        score(distilled, encoder, data, seeds=1, baselines=[], strict=True)


def test_means_row_is_the_nearest_to_class_means(encoder, data):
    result = score(None, encoder, data, baselines=["means"], views=0, seeds=1)
    row = result["class-mean features"]
    assert row.images == 3
    train, test = (extract(encoder, part, progress=False) for part in data)
    means = torch.stack([train.centre[train.labels == c].mean(0) for c in range(3)])
    probe = LinearProbe("ridge", random_state=0).fit(means, torch.arange(3))
    assert row.top1 == pytest.approx(probe.score(test.centre.numpy(), test.labels.numpy()))


def test_means_of_the_classes_that_have_images(encoder, data):
    some = data[0].select(np.flatnonzero(data[0].labels != 1))  # as of the first photos of a folder
    options = {"seeds": 1, "views": 2, "progress": False, "baselines": ["means", "full"]}
    means, full = evaluate(None, encoder, some, data[1], **options).rows
    assert (means.images, full.images) == (2, 10)
    assert means.scores[0].per_class["dog"] == full.scores[0].per_class["dog"] == 0


def test_a_class_with_fewer_images_than_the_set_says_which_rows_to_leave_out(encoder, data):
    distilled = distill(data[0], encoder, steps=1, images_per_class=3, canvas={"init": "noise"}, progress=False)
    dogs = np.flatnonzero(data[0].labels == 1)
    few = data[0].select(np.setdiff1d(np.arange(len(data[0])), dogs[2:]))
    line = r"^baselines random, herding need 3 .* 'dog' has 2 real images; leave them out with baselines=\['full'\]$"
    with pytest.raises(UserError, match=line):
        evaluate(distilled, encoder, few, data[1], baselines=["random", "herding", "means"], progress=False)
    with pytest.raises(UserError, match=r"^baselines random, centroids need 3"):
        transfer([distilled], [encoder], few, data[1], progress=False)
    options = {"baselines": ["full", "means"], "seeds": 1, "progress": False}
    assert [row.images for row in evaluate(distilled, encoder, few, data[1], **options).rows] == [9, 12, 3]


def test_only_baselines(encoder, data):
    result = score(None, encoder, data, images_per_class=2)
    names = {"random real": 6, "centroids": 6, "herding": 6, "full real data": 15}
    assert {row.name: row.images for row in result.rows} == names


def test_without_training_images_only_the_set_is_scored(distilled, encoder, data):
    result = score(distilled, encoder, (None, data[1]))
    assert [row.name for row in result.rows] == ["distilled"]


def test_the_8_bit_images_are_scored_and_the_floats_on_request(encoder, data, distilled):
    """Images that rounding turns into the same grey: only the float row can tell the classes apart."""
    faint = (distilled.float_images - 0.5) * 1e-3
    faint = 100 / 255 + (faint - faint.mean()).clamp(-0.4 / 255, 0.4 / 255)
    grey = DistilledSet(faint, distilled.labels, distilled.class_names)
    assert len(grey.images.unique()) == 1
    result = score(grey, encoder, data, floats=True, views=0, baselines=[])
    assert [row.name for row in result.rows] == ["distilled", "distilled, float"]
    assert result["distilled"].top1 == pytest.approx(1 / 3)
    assert result["distilled, float"].top1 != result["distilled"].top1


def test_a_set_of_8_bit_images_has_no_floats_to_compare_with(distilled, encoder, data, tmp_path):
    export(distilled, tmp_path / "small", progress=False)
    with pytest.raises(UserError, match=r"has no float images, only 8-bit ones, .* leave out floats"):
        score(DistilledSet.load(tmp_path / "small"), encoder, data, floats=True)


def test_test_images_with_another_class_order(distilled, encoder, data):
    expected = score(distilled, encoder, data, seeds=1)
    turned = tuple(part.with_classes(["hen", "cat", "dog"]) for part in data)
    result = score(distilled, encoder, turned, seeds=1)
    for name in ("distilled", "centroids", "full real data"):
        assert result[name].top1 == expected[name].top1
    assert result.context.class_names == NAMES


def test_test_images_of_other_classes(distilled, encoder, tmp_path):
    other = load_images(f"folder:{make_image_folder(tmp_path / 'x', classes=['cat', 'owl'], splits=())}")
    with pytest.raises(UserError, match=r"unknown class 'dog'.*cat, owl"):
        score(distilled, encoder, (None, other))


def test_groups(distilled, encoder, data):
    groups = ["easy" if i % 2 else "hard" for i in range(len(data[1]))]
    result = score(distilled, encoder, data, groups=groups, baselines=["full"])
    for row in result.rows:
        for s in row.scores:
            assert 0 <= s.worst_group <= s.top1
    assert "worst group" in str(result)
    for turned in (data[1], data[1].with_classes(["hen", "cat", "dog"])):  # in the order of the images, not of the set
        groups = [f"group {turned.class_names[label]}" for label in turned.labels]
        for s in score(distilled, encoder, (data[0], turned), groups=groups, baselines=[])["distilled"].scores:
            assert s.groups == {f"group {name}": value for name, value in s.per_class.items()}
    assert "worst group" not in str(score(distilled, encoder, data, baselines=["full"]))


def test_groups_of_images_that_the_set_has_no_class_for(distilled, encoder, data):
    two = DistilledSet(distilled.float_images[[2, 0]], torch.tensor([0, 1]), ("hen", "cat"), distilled.run)
    groups = [f"group {data[1].class_names[label]}" for label in data[1].labels]
    scores = score(two, encoder, data, groups=groups, baselines=[])["distilled"].scores[0]
    assert scores.groups == {f"group {name}": value for name, value in scores.per_class.items()}
    with pytest.raises(UserError, match="groups has 3 names for 15 test images; give one for each"):
        score(two, encoder, data, groups=groups[:3])


def test_groups_of_an_unreadable_image_are_left_out_with_it(distilled, encoder, tmp_path):
    folder = make_image_folder(tmp_path / "photos", classes=NAMES, per_class=3)
    (folder / "test" / "cat" / "0001.png").write_text("no image")
    data = load_splits(f"folder:{folder}")
    groups = [f"image {number}" for number in range(9)]
    scores = score(distilled, encoder, data, groups=groups, seeds=1, baselines=[])["distilled"].scores[0]
    assert sorted(scores.groups) == groups[:1] + groups[2:]
    whole = [scores.groups[group] for group in groups if group != "image 1"]
    assert sum(whole[:2]) / 2 == scores.per_class["cat"]
    assert sum(whole[2:5]) / 3 == pytest.approx(scores.per_class["dog"])


def test_an_augmentation_out_of_range(distilled, encoder, data):
    with pytest.raises(UserError, match=r"augment\.scale"):
        score(distilled, encoder, data, augment=AugmentConfig(scale=(3.0, 9.0)))


def test_probes_see_no_noise_even_if_the_set_was_made_with_it(distilled, encoder, data):
    options = {"baselines": ["random"], "seeds": 1}
    noisy = score(distilled, encoder, data, augment=AugmentConfig(noise_prob=1.0, noise_mean=0.5), **options)
    without = score(distilled, encoder, data, augment=AugmentConfig(), **options)
    assert [row.scores for row in noisy.rows] == [row.scores for row in without.rows]
    assert noisy.context.augment.noise_prob == 0


@pytest.mark.parametrize(("name", "values"), [("probes", ["ridge", "ridge"]), ("baselines", ["full", "means", "full"])])
def test_a_name_that_comes_twice(distilled, encoder, data, name, values):
    with pytest.raises(UserError, match=f"{name} '{values[0]}' is named twice; name each once"):
        score(distilled, encoder, data, **{name: values})


def test_rows_of_another_precision_do_not_share_a_file(distilled, encoder, data, tmp_path):
    file = tmp_path / "scores.json"
    other = load_encoder(TINY, device="cpu", precision="bf16")
    score(distilled, other, data, probes=["ridge"], baselines=[]).save(file)
    result = score(distilled, encoder, data, probes=["logistic"], baselines=[])
    with pytest.warns(UserWarning, match="replacing the scores in .* for different encoder"):
        result.save(file)
    kept = json.loads(file.read_text())
    assert kept["context"]["encoder"]["precision"] == "fp32"
    assert [row["probe"] for row in kept["rows"]] == ["logistic"]


def test_transfer_to_an_encoder_of_another_size(distilled, data):
    other = load_encoder(TINY, input_size=48, encoder_args={"seed": 3, "width": 16}, device="cpu")
    result = score(distilled, other, data)
    assert result.context.encoder.input_size == 48
    assert result["full real data"].top1 > 0.5
    assert result["neighbours"].images == 3


def test_two_images_per_class_set_the_baselines_size(encoder, data):
    double = distill(data[0], encoder, steps=2, images_per_class=2, progress=False)
    result = score(double, encoder, data)
    assert [row.images for row in result.rows] == [6, 6, 6, 6, 6, 15]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"probes": ["ridg"]}, "unknown probe 'ridg'; did you mean 'ridge'"),
        ({"probes": []}, "probes is empty"),
        ({"baselines": ["neighbour"]}, "did you mean 'neighbours'"),
        ({"seeds": 0}, "seeds 0 must be at least 1"),
        ({"views": -1}, "views -1 must be 0 or more"),
        ({"epochs": 0}, "epochs 0 must be at least 1"),
        ({"probes": ["sgd"], "sgd_views": -1}, "sgd_views -1 must be at least 1"),
        ({"probes": ["sgd"], "sgd_views": 0}, "sgd_views 0 must be at least 1"),
        ({"full_views": -1}, "full_views -1 must be 0 or more"),
        ({"full_epochs": 0}, "full_epochs 0 must be at least 1"),
        ({"prob": ["ridge"]}, "unknown option of evaluate 'prob'; did you mean 'probes'"),
        ({"probes": "ridge"}, r"probes 'ridge' must be a list of names; write \['ridge'\]"),
        ({"baselines": [1]}, r"baselines \[1\] must be a list of names"),
        ({"seeds": 1.5}, "seeds 1.5 must be a whole number"),
        ({"images_per_class": "two"}, "images_per_class 'two' must be a whole number"),
        ({"images_per_class": 0}, "images_per_class 0 must be at least 1"),
        ({"images_per_class": 6}, "images_per_class 6 is more than class 'cat' has"),
    ],
)
def test_bad_options(encoder, data, options, says):
    with pytest.raises(UserError, match=says):
        score(None, encoder, data, **options)


def test_table_and_json(distilled, encoder, data, tmp_path):
    result = score(distilled, encoder, data)
    text = str(result)
    for row in result.rows:
        assert row.name in text
        assert f"{100 * row.top1:.1f}" in text
    result.save(tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text())
    assert [row["name"] for row in content["rows"]] == [row.name for row in result.rows]
    assert content["rows"][0]["top1"] == result["distilled"].top1
    assert len(content["rows"][0]["scores"]) == 2
    assert content["context"]["encoder"]["fingerprint"] == encoder.fingerprint
    assert content["context"]["test"]["images"] == 15
    assert content["context"]["protocol"]["seeds"] == 2


# ---------------------------------------------------------------- fair scores, soft labels, inheritance


def test_gap_to_full_data_and_gain_over_random(distilled, encoder, data):
    result = score(distilled, encoder, data, probes=["ridge", "logistic"])
    for row in result.rows:
        full, random = result["full real data", row.probe], result["random real", row.probe]
        gap, gain = result.gap_to_full(row), result.gain_over_random(row)
        assert gap == (None if row is full else full.top1 - row.top1)
        assert gain == (None if row in (full, random) else row.top1 - random.top1)
    rows = result.plain_rows()
    assert rows[0]["gap_to_full"] == result.gap_to_full(result["distilled"])
    assert rows[0]["gain_over_random"] == result.gain_over_random(result["distilled"])
    assert "gap to full" in str(result)
    assert "over random" in str(result)
    alone = score(distilled, encoder, (None, data[1]))
    assert alone.plain_rows()[0]["gap_to_full"] is None
    assert "gap to full" not in str(alone)


def test_soft_labels_are_scored_next_to_hard_ones(distilled, encoder, data):
    wrong = torch.eye(3).roll(1, 1)  # labels of other classes, so that rows cannot be confused
    soft = replace(distilled, soft_labels=torch.softmax(3 * wrong, 1))
    result = score(soft, encoder, data, probes=["ridge", "sgd"], epochs=5, floats=True, baselines=["random", "full"])
    plain = score(
        distilled, encoder, data, probes=["ridge", "sgd"], epochs=5, floats=True, baselines=["random", "full"]
    )
    assert [row.name for row in result.rows[:8:2]] == [
        "distilled", "distilled, hard labels", "distilled, float", "distilled, float, hard labels"
    ]  # fmt: skip
    for probe in ("ridge", "sgd"):
        hard = result["distilled, hard labels", probe]
        assert hard.scores == plain["distilled", probe].without_confusion().scores
        assert probe == "sgd" or hard.top1 > 0.6 > 0.4 > result["distilled", probe].top1  # 5 epochs are few for sgd
        assert result.gap_to_full(result["distilled", probe]) is None  # hard-label recovery is only for hard labels
        assert result.gap_to_full(hard) is not None
        assert result.gain_over_random(hard) == hard.top1 - result["random real", probe].top1
        for name in ("distilled", "distilled, float"):  # random images have hard labels: unfair to compare
            assert result.gain_over_random(result[name, probe]) is None
    shown = {row["trained on"]: list(row.values()) for row in result.tables()[0].records() if row["probe"] == "ridge"}
    assert shown["distilled"].count("–") == 3  # gap, gain and the score made from them
    assert "–" not in shown["distilled, hard labels"]
    assert [row["gain_over_random"] is None for row in result.plain_rows()[:4]] == [True, True, False, False]
    without = score(soft, encoder, data, probes=["ridge", "sgd"], epochs=5, floats=True, baselines=["random", "full"],
                    hard_labels=True)  # fmt: skip
    assert [row.scores for row in without.rows] == [row.scores for row in plain.rows]


def test_without_augmentation_adds_rows_on_centre_views(distilled, encoder, data):
    both = score(
        distilled, encoder, data, without_augmentation=True, full_views=1, baselines=["random", "full", "means"]
    )
    centre = score(distilled, encoder, data, views=0, full_views=0, baselines=["random", "full", "means"])
    augmented = score(distilled, encoder, data, full_views=1, baselines=["random", "full", "means"])
    for row in centre.rows:
        assert both[row.name, "ridge, no augmentation"].scores == row.scores
        assert both[row.name, "ridge"].scores == augmented[row.name].scores
    assert len(both.rows) == 8
    bare = both["distilled", "ridge, no augmentation"]
    assert both.gap_to_full(bare) == both["full real data", "ridge, no augmentation"].top1 - bare.top1


@pytest.fixture(scope="module")
def with_head(distilled, encoder, data):
    from probedistill import with_extras

    bank = extract(encoder, data[0], progress=False)
    return with_extras(distilled, encoder, bank, keep_head=True)


def test_inherited_probe_on_the_source_encoder_itself(with_head, encoder, data):
    result = score(with_head, encoder, data, probes=["ridge", "inherited"], without_augmentation=True)
    inherited = [row.name for row in result.rows if row.probe == "inherited"]
    assert inherited == ["distilled", "random real", "centroids", "neighbours"]
    assert [row.name for row in result.rows if row.probe == "inherited, no augmentation"] == inherited
    cost = result.context.inherited
    assert cost.projector_parameters == 24 * 25
    assert cost.head_bytes == 3 * 25 * 4
    assert cost.source_features is True
    assert "projector of 600 parameters and head W* of 300 bytes" in " ".join(str(result).split())
    assert result["distilled", "inherited"].top1 > 0.6


def test_inherited_probe_on_another_encoder_with_and_without_the_source(with_head, encoder, data):
    other = load_encoder(TINY, input_size=48, encoder_args={"seed": 3, "width": 16}, device="cpu")
    options = {"probes": ["ridge", "inherited"], "baselines": ["random"]}
    without = score(with_head, other, data, **options)
    assert without.context.inherited.source_features is False
    with_source = score(with_head, other, data, source=encoder, **options)
    assert with_source.context.inherited.source_features is True
    assert with_source.context.inherited.projector_parameters == 24 * 17
    assert with_source["distilled", "inherited"].top1 > 0.5
    assert with_source["distilled", "ridge"].scores == without["distilled", "ridge"].scores


def test_a_row_of_the_inherited_probe_is_compared_with_ridge_on_full_data(with_head, encoder, data):
    result = score(with_head, encoder, data, probes=["inherited"], without_augmentation=True)
    other = score(with_head, encoder, data, probes=["ridge"], without_augmentation=True)
    for end in ("", ", no augmentation"):
        full, row = result["full real data", f"ridge{end}"], result["distilled", f"inherited{end}"]
        random = result["random real", f"inherited{end}"]
        assert full.scores == other["full real data", f"ridge{end}"].scores
        assert result.gap_to_full(row) == full.top1 - row.top1
        assert result.gain_over_random(row) == row.top1 - random.top1
    assert "its gap to full is to ridge" in " ".join(str(result).split())
    without = score(with_head, encoder, data, probes=["ridge", "inherited"], baselines=["full"])
    assert without.gain_over_random(without["distilled", "inherited"]) is None


def test_real_images_on_their_own_take_a_head(with_head, encoder, data):
    options = {"probes": ["inherited"], "baselines": ["random", "centroids"]}
    alone = score(None, encoder, data, head=with_head.head, **options)
    assert [row.scores for row in alone.rows] == [
        row.scores for row in score(with_head, encoder, data, **options).rows[1:]
    ]


@pytest.fixture
def fitted(monkeypatch):
    """What every inherited probe is fitted on: target and source features (V, n, d) of the views."""
    seen, fit_views = [], InheritedProbe.fit_views

    def recording(self, X_views, y, source_views=None):
        seen.append((X_views, source_views))
        return fit_views(self, X_views, y, source_views)

    monkeypatch.setattr(InheritedProbe, "fit_views", recording)
    return seen


def test_views_of_source_and_target_are_the_same(with_head, encoder, data, fitted):
    """If the target is the source under another name, features are equal, for synthetic and for real images."""
    twin = load_encoder(TINY, device="cpu")
    twin.fingerprint = "0" * 64
    one = score(with_head, twin, data, probes=["inherited"], baselines=["random", "centroids"], source=encoder)
    assert len(fitted) == 3 * 2
    for target, source in fitted:
        assert torch.equal(target, source)
    assert len({float(target.sum()) for target, _ in fitted}) == 6  # each seed has its own views
    two = score(with_head, encoder, data, probes=["inherited"], baselines=["random", "centroids"])
    assert [row.scores for row in one.rows] == [row.scores for row in two.rows]


def test_an_inherited_row_is_the_probe_fitted_by_hand(with_head, encoder, data, fitted):
    other = load_encoder(TINY, input_size=48, encoder_args={"seed": 3, "width": 16}, device="cpu")
    result = score(with_head, other, data, probes=["inherited"], baselines=[], source=encoder)
    test = extract(other, data[1], progress=False)
    augment = replace(with_head.run.config.augment, noise_prob=0.0)
    assert len(fitted) == 2
    for seed, held in enumerate(fitted[:]):
        views = [view_features(e, with_head.images, augment, 3, seed=seed) for e in (other, encoder)]
        for found, expected in zip(held, views, strict=True):
            torch.testing.assert_close(found, expected)  # not exact: with other batches, it is another matrix product
        probe = InheritedProbe(with_head.head.weight, with_head.head.bias).fit_views(
            views[0], with_head.labels, views[1]
        )
        accuracy = probe.score(test.centre.numpy(), test.labels.numpy())
        assert result.rows[0].scores[seed].top1 == pytest.approx(accuracy)


def test_inherited_probe_without_a_head_or_with_another(distilled, with_head, encoder, data):
    with pytest.raises(UserError, match=r"does not have; add it: probedistill.with_extras\(.*keep_head=True\)"):
        score(distilled, encoder, data, probes=["inherited"])
    with pytest.raises(UserError, match="which real images do not have"):
        score(None, encoder, data, probes=["inherited"])
    strange = replace(with_head, head=Head(with_head.head.weight, with_head.head.bias, "resnet", "1" * 64))
    with pytest.raises(UserError, match=r"head is of encoder 'resnet' \(111111111111\), not of the source"):
        score(strange, encoder, data, probes=["inherited"], source=encoder)


@pytest.mark.parametrize("augment", [[1], {"scale": 3}, {"scale": [1]}, {"flip": 2}, {"flip": "often"}])
def test_a_damaged_record_of_the_augmentation(distilled, augment, tmp_path):
    path = distilled.save(tmp_path / "set") / "run.json"
    content = json.loads(path.read_text())
    content["config"]["augment"] = augment
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"run file .*run\.json' is damaged: .*(\$\.config|augment).*; make it again"):
        DistilledSet.load(path.parent)


# ---------------------------------------------------------------- the command


@pytest.fixture
def run(distilled, tmp_path):
    distilled.save(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def evaluate_cli(run_cli, run, data):
    def call(*arguments, images=data[0].spec):
        return run_cli(
            "evaluate", run, "--images", images, "--seeds", 1, "--views", 0, "--baselines", "centroids", *arguments,
            "--no-progress",
        )  # fmt: skip

    return call


def test_scores_at_two_input_sizes_are_kept_in_two_files(evaluate_cli, run):
    for size in (32, 48):
        assert evaluate_cli("--encoder", f"{TINY}@{size}").code == 0
    files = sorted(path.name for path in run.glob("evaluation-*.json"))
    assert [name.rpartition("-")[2] for name in files] == ["32px.json", "48px.json"]
    sizes = [json.loads((run / name).read_text())["context"]["encoder"]["input_size"] for name in files]
    assert sizes == [32, 48]


def test_probe_is_probes(evaluate_cli, run):
    assert evaluate_cli("--encoder", TINY, "--probe", "logistic", "--probes", "ridge").code == 0
    rows = json.loads(next(run.glob("evaluation-*.json")).read_text())["rows"]
    assert [row["probe"] for row in rows] == ["logistic", "ridge"] * 2


def test_errors_name_the_run(evaluate_cli, run, tmp_path):
    other = make_image_folder(tmp_path / "x", classes=["cat", "owl"])
    error = evaluate_cli("--encoder", TINY, images=f"folder:{other}").error()
    assert f"run '{run}' was made for different classes: unknown class 'dog'" in error
    content = json.loads((run / "run.json").read_text())
    content["config"]["augment"] = {"flip": 2}
    (run / "run.json").write_text(json.dumps(content))
    assert f"run file '{run / 'run.json'}' is damaged: augment.flip 2" in evaluate_cli("--encoder", TINY).error()


def test_rows_of_an_earlier_evaluation_are_kept(evaluate_cli, run):
    def rows():
        return [
            (row["name"], row["probe"]) for row in json.loads(next(run.glob("evaluation-*.json")).read_text())["rows"]
        ]

    def call(probe, *more):
        return evaluate_cli("--encoder", TINY, "--probes", probe, *more)

    assert call("ridge").code == 0
    first = rows()
    assert call("logistic").code == 0
    assert [name for name in rows() if name[1] == "ridge"] == first
    assert {probe for _, probe in rows()} == {"ridge", "logistic"}
    assert call("ridge").code == 0
    assert len(rows()) == len(set(rows())), "rows are replaced, not repeated"
    assert call("ridge", "--choose-by", f"{TINY}@48").code == 0
    assert rows() == first, "another protocol has no place in the same table"


def test_the_number_of_epochs_matters_to_probes_that_have_epochs(evaluate_cli, run):
    def probes(*arguments, warning=""):
        done = evaluate_cli("--encoder", TINY, *arguments)
        assert done.code == 0
        assert warning in done.err if warning else done.err == ""
        found = json.loads(next(run.glob("evaluation-*.json")).read_text())
        return {row["probe"] for row in found["rows"]}, found["context"]["protocol"]["epochs"]

    assert probes("--probes", "ridge")[0] == {"ridge"}
    assert probes("--probes", "sgd", "--epochs", 7) == ({"ridge", "sgd"}, 7)
    unused = "without effect: --full-epochs; it is for the probe sgd"
    assert probes("--probes", "logistic", "--full-epochs", 9, warning=unused) == ({"ridge", "sgd", "logistic"}, 7)
    said = "replacing the scores of sgd in "
    assert probes("--probes", "sgd", "--epochs", 8, warning=said) == ({"ridge", "sgd", "logistic"}, 8)


def test_options_of_a_baseline_matter_to_that_baseline_alone(run_cli, run, data):
    def scores(*arguments, warning=""):
        options = ("--images", data[0].spec, "--encoder", TINY, "--seeds", 1, "--views", 0, "--no-progress")
        done = run_cli("evaluate", run, *options, *arguments)
        assert done.code == 0
        assert warning in done.err if warning else done.err == ""
        assert "replacing" not in done.err
        found = json.loads(next(run.glob("evaluation-*.json")).read_text())
        context = found["context"]
        return {row["name"] for row in found["rows"]}, context["protocol"]["full_views"], context["chosen_by"]

    rows, views, by = scores("--baselines", "full", "centroids", "--full-views", 2, "--choose-by", f"{TINY}@48")
    assert (rows, views, by["input_size"]) == ({"distilled", "centroids", "full real data"}, 2, 48)
    rows |= {"random real"}
    assert scores("--baselines", "random") == (rows, 2, by)
    unused = "without effect: --full-views; it is for the baseline full"
    assert scores("--baselines", "random", "--full-views", 1, warning=unused) == (rows, 2, by)
    unused = "without effect: --choose-by; none of the baselines chooses by features"
    assert scores("--baselines", "full", "--full-views", 2, "--choose-by", TINY, warning=unused) == (rows, 2, by)


def test_rows_without_epochs_are_not_scored_again_for_more_epochs(evaluate_cli, run, monkeypatch):
    def fitted(*arguments):
        seen = []
        fit = Scorer.row
        with monkeypatch.context() as patch:
            patch.setattr(
                Scorer, "row", lambda self, one, trial, **_: seen.append(trial.solver) or fit(self, one, trial)
            )
            assert evaluate_cli("--encoder", TINY, "--probes", "ridge", "sgd", *arguments).code == 0
        return set(seen)

    assert fitted("--epochs", 7) == {"ridge", "sgd"}
    assert fitted("--epochs", 7) == set()
    assert fitted("--epochs", 8) == {"sgd"}


def test_gap_and_gain_use_all_rows_in_the_table(evaluate_cli, run):
    def scores(*arguments):
        assert evaluate_cli("--encoder", TINY, *arguments).code == 0
        rows = json.loads(next(run.glob("evaluation-*.json")).read_text())["rows"]
        return {row["name"]: row for row in rows}

    first = scores("--baselines", "random")
    assert first["distilled"]["gap_to_full"] is None
    both = scores("--baselines", "full")
    full, random, ours = (both[name]["top1"] for name in ("full real data", "random real", "distilled"))
    assert both["distilled"]["gain_over_random"] == ours - random == first["distilled"]["gain_over_random"]
    assert both["distilled"]["gap_to_full"] == full - ours
    assert both["random real"]["gap_to_full"] == full - random


def test_gain_is_over_the_same_number_of_random_images(encoder, data, tmp_path):
    path = tmp_path / "scores.json"
    score(None, encoder, data, baselines=["random", "centroids"], images_per_class=2).save(path)
    before = json.loads(path.read_text())["rows"]
    score(None, encoder, data, baselines=["random", "centroids"], images_per_class=1).save(path)
    after = json.loads(path.read_text())["rows"]
    assert after[-2:] == before
    assert [row["images"] for row in after] == [3, 3, 6, 6]
    for random, centroids in (after[:2], after[2:]):
        assert centroids["gain_over_random"] == centroids["top1"] - random["top1"]


def test_inherited_rows_of_another_head_are_not_kept(with_head, encoder, data, tmp_path):
    other = replace(with_head, head=replace(with_head.head, bias=with_head.head.bias + 1))
    path = tmp_path / "scores.json"
    score(other, encoder, data, probes=["inherited"], baselines=["random"]).save(path)
    score(with_head, encoder, data, probes=["inherited", "ridge"], baselines=[]).save(path)
    rows = json.loads(path.read_text())["rows"]
    assert [(row["name"], row["probe"]) for row in rows] == [("distilled", "inherited"), ("distilled", "ridge")]
    assert rows[0]["gain_over_random"] is None


# ---------------------------------------------------------------- the number of views


@pytest.mark.parametrize(("images", "views"), [(1, 20), (200, 20), (400, 10), (1200, 5), (10**6, 5)])
def test_many_images_need_fewer_views(images, views):
    assert EvaluateConfig().for_images(images).views == views
    assert EvaluateConfig(views=3).for_images(images).views == 3


def test_the_number_of_views_depends_on_the_images_of_all_classes(distilled, encoder, data):
    many = replace(
        distilled,
        float_images=distilled.float_images.repeat_interleave(134, 0),
        labels=distilled.labels.repeat_interleave(134),
    )
    result = score(many, encoder, data, views="auto", seeds=1, baselines=[])
    assert (result.rows[0].images, result.context.protocol.views) == (402, 4000 // 402)


def test_the_file_records_the_number_of_views(distilled, encoder, data):
    result = score(distilled, encoder, data, views="auto", seeds=1, baselines=[])
    assert result.context.protocol.views == 20
    with pytest.raises(UserError, match="views 'many' must be a whole number or auto"):
        score(distilled, encoder, data, views="many")
