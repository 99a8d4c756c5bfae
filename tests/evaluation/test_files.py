"""Files of scores: rows are saved as soon as they are done, and read by one reader."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from conftest import TINY
from helpers_images import make_image_folder
from probedistill import (
    AugmentConfig,
    DistilledSet,
    UserError,
    distill,
    evaluate,
    extract_features,
    load_encoder,
    load_splits,
    with_extras,
)
from probedistill.evaluation import scorer
from probedistill.evaluation.cost import seconds_per_pass
from probedistill.evaluation.measures import augmentation_robust_score, label_robust_score
from probedistill.evaluation.result import load_evaluation

NAMES = ("cat", "dog", "hen")
QUICK = {"seeds": 2, "views": 2, "full_views": 0, "progress": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = make_image_folder(tmp_path_factory.mktemp("files") / "photos", classes=NAMES, per_class=5, size=36)
    return load_splits(f"folder:{folder}")


@pytest.fixture(scope="module")
def distilled(data, encoder):
    return distill(data[0], encoder, steps=10, progress=False)


@pytest.fixture
def rows_made(monkeypatch):
    """The rows that have been fitted."""
    made, row = [], scorer.Scorer.row

    def recording(self, training_set, trial, **tell):
        made.append((trial.name, trial.probe))
        return row(self, training_set, trial, **tell)

    monkeypatch.setattr(scorer.Scorer, "row", recording)
    return made


@pytest.mark.slow
def test_what_is_saved_is_read_back(distilled, encoder, data, tmp_path):
    result = evaluate(distilled, encoder, *data, without_augmentation=True, **QUICK)
    result.save(tmp_path / "scores.json")
    again = load_evaluation(tmp_path / "scores.json")
    assert again == result
    assert str(again) == str(result)


def test_a_second_call_scores_only_what_is_new(distilled, encoder, data, tmp_path, rows_made):
    out = tmp_path / "scores.json"
    first = evaluate(distilled, encoder, *data, baselines=["random"], out=out, **QUICK)
    assert rows_made == [("distilled", "ridge"), ("random real", "ridge")]
    rows_made.clear()
    second = evaluate(distilled, encoder, *data, baselines=["random", "full"], out=out, **QUICK)
    assert rows_made == [("full real data", "ridge")]
    assert second.rows[:2] == first.rows
    assert {row.key for row in load_evaluation(out).rows} == {row.key for row in second.rows}


def test_a_stop_loses_only_the_current_row(distilled, encoder, data, tmp_path, rows_made, monkeypatch):
    out, score = tmp_path / "scores.json", scorer.score_probe
    calls = iter(range(100))

    def stopping(*arguments, **options):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return score(*arguments, **options)

    monkeypatch.setattr(scorer, "score_probe", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(distilled, encoder, *data, out=out, **QUICK)
    kept = [row.name for row in load_evaluation(out).rows]
    assert sorted(kept) == ["distilled", "random real"]
    monkeypatch.setattr(scorer, "score_probe", score)
    rows_made.clear()
    result = evaluate(distilled, encoder, *data, out=out, **QUICK)
    assert rows_made == [(name, "ridge") for name in ("centroids", "neighbours", "full real data")]
    in_one_go = evaluate(distilled, encoder, *data, **QUICK)
    assert [row.scores for row in result.rows] == [row.scores for row in in_one_go.rows]


@pytest.mark.parametrize("change", ["images", "seeds", "views", "augment"])
def test_rows_of_something_else_are_scored_again(distilled, encoder, data, tmp_path, rows_made, change):
    out = tmp_path / "scores.json"
    evaluate(distilled, encoder, *data, baselines=["random"], out=out, **QUICK)
    rows_made.clear()
    other, options = distilled, {}
    if change == "images":
        other = replace(distilled, float_images=1 - distilled.float_images)
    else:
        options = {"seeds": {"seeds": 3}, "views": {"views": 1}, "augment": {"augment": AugmentConfig(flip=0)}}[change]
    with pytest.warns(UserWarning, match=f"replacing the scores in .* for different {change}"):
        evaluate(other, encoder, *data, baselines=["random"], out=out, **{**QUICK, **options})
    assert len(rows_made) == 2
    assert len(load_evaluation(out).rows) == 2


def test_rows_of_two_probes_with_epochs_are_of_the_same_epochs(distilled, encoder, data, tmp_path):
    result = evaluate(distilled, encoder, *data, probes=["ridge"], baselines=[], seeds=1, views=1, progress=False)

    def scores_of(probe, epochs):
        protocol = replace(result.context.protocol, probes=[probe], epochs=epochs)
        rows = tuple(replace(row, probe=probe) for row in result.rows)
        return replace(result, rows=rows, context=replace(result.context, protocol=protocol))

    file = tmp_path / "scores.json"
    for one in (scores_of("ridge", 5), scores_of("mine", 7)):
        one.save(file)
    with pytest.warns(UserWarning, match="replacing the scores of mine in .*for different epochs"):
        scores_of("sgd", 8).save(file)
    assert {row.probe for row in load_evaluation(file).rows} == {"ridge", "sgd"}


def test_a_damaged_file_is_replaced_with_a_warning(distilled, encoder, data, tmp_path):
    out = tmp_path / "scores.json"
    for damaged in ('{"kind": "evaluation"}', '{"kind": "eval'):
        out.write_text(damaged)
        with pytest.warns(UserWarning, match=r"evaluation file .*replacing it"):
            evaluate(distilled, encoder, *data, baselines=[], out=out, **QUICK)
        assert len(load_evaluation(out).rows) == 1


def test_json_of_another_kind_is_not_replaced(distilled, encoder, data, tmp_path):
    out = tmp_path / "scores.json"
    evaluate(distilled, encoder, *data, baselines=[], out=out, **QUICK)
    sorted_keys = json.dumps(json.loads(out.read_text()), sort_keys=True)  # as jq -S writes it
    out.write_text(sorted_keys)
    evaluate(distilled, encoder, *data, baselines=["means"], out=out, **QUICK)
    assert len(load_evaluation(out).rows) == 2
    for other in ("{}", '{"name": "a package"}', '{"kind": 1}', '{"kind": "run"}'):
        out.write_text(other)
        with pytest.raises(UserError, match="is a file of another kind"):
            evaluate(distilled, encoder, *data, baselines=[], out=out, **QUICK)
        assert out.read_text() == other


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        (lambda content: content["rows"][0]["scores"][0].update(top1=2.0), r"\$.rows\[\d\].scores\[\d\].top1"),
        (lambda content: content["rows"][0].update(scores=[]), r"\$.rows\[\d\].scores"),
        (lambda content: content["rows"].append(None), r"\$.rows\[\d\]"),
        (
            lambda content: content["rows"][0]["scores"][0].update(confusion=[]),
            "confusion matrix is not of the classes",
        ),
        (
            lambda content: content["rows"][0]["scores"][0]["confusion"][0].pop(),
            "confusion matrix is not of the classes",
        ),
        (lambda content: content["context"]["encoder"].pop("name"), r"name.*\$.context.encoder"),
        (lambda content: content.update(kind="transfer"), "not a probedistill evaluation file"),
    ],
)
def test_damage_is_one_line_with_the_place(distilled, encoder, data, tmp_path, damage, place):
    out = tmp_path / "scores.json"
    evaluate(distilled, encoder, *data, baselines=[], out=out, **QUICK)
    content = json.loads(out.read_text())
    damage(content)
    out.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"evaluation file .*{place}.*make it again"):
        load_evaluation(out)


def test_a_folder_instead_of_a_file_of_scores_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"is a folder; give a file of scores, which probedistill evaluate writes"):
        load_evaluation(tmp_path)
    (tmp_path / "evaluation-tiny-32px.json").touch()
    with pytest.raises(UserError, match=r"give a file of scores, such as '.*evaluation-tiny-32px\.json'"):
        load_evaluation(str(tmp_path))


# ---- what it says


def test_scores_of_dd_ranking(distilled, encoder, data):
    """Written down from the paper: LRS = (e^a − e^−1) / (e − e^−1), a = IOR / 2 − HLR / 2; ARS from two IOR."""
    result = evaluate(distilled, encoder, *data, without_augmentation=True, **QUICK)
    ours, bare = result["distilled"], result["distilled", "ridge, no augmentation"]
    full, random, plain = result["full real data"], result["random real"], result["random real", bare.probe]

    def scaled(value):
        return (math.exp(value) - math.exp(-1)) / (math.exp(1) - math.exp(-1))

    alpha = 0.5 * (ours.top1 - random.top1) - 0.5 * (full.top1 - ours.top1)
    beta = 0.5 * (ours.top1 - random.top1) + 0.5 * (bare.top1 - plain.top1)
    assert result.label_robust_score(ours) == pytest.approx(scaled(alpha))
    assert result.augmentation_robust_score(ours) == pytest.approx(scaled(beta))
    assert result.label_robust_score(full) is None
    assert result.augmentation_robust_score(bare) is None
    assert (label_robust_score(1, -1), label_robust_score(-1, 1)) == (0, 1)
    assert augmentation_robust_score(0, 0) == pytest.approx(0.2689, abs=1e-4)
    assert (augmentation_robust_score(1, 1), augmentation_robust_score(-1, -1)) == (1, 0)
    assert augmentation_robust_score(0.2, 0.6) == augmentation_robust_score(0.6, 0.2) == pytest.approx(scaled(0.4))


def test_findings_and_figures(distilled, encoder, data, tmp_path):
    result = evaluate(distilled, encoder, *data, probes=["ridge", "1nn"], floats=True, **QUICK)
    said = " ".join(result.findings())
    assert "3 distilled images with ridge:" in said
    assert "8-bit images with 1nn: " in said
    figure, confusion = result.figures()
    assert confusion.title == "Confusion matrix"
    assert set(figure.drawing.series) == {"ridge", "1nn"}
    assert "full real data (15)" in figure.drawing.categories
    assert list(result.to_pandas()["trained on"]) == [row.name for row in result.rows]


@pytest.mark.parametrize(
    ("rounded", "random", "said"),
    [
        (0.9, 0.95, "30.0 points above all real data and 5.0 points below as many random real images"),
        (0.93, 0.93, "level with as many random real images"),
    ],
)
def test_a_difference_has_no_sign(distilled, encoder, data, rounded, random, said):
    """It used to say "-26.7 points below" and "-1.67 points less"."""
    result = evaluate(distilled, encoder, *data, probes=["ridge"], floats=True, **QUICK)
    top1 = {"distilled": rounded, "distilled, float": 0.9, "random real": random, "full real data": 0.6}
    rows = (result[name] for name in top1)
    known = [replace(row, scores=(replace(row.scores[0], top1=top1[row.name]),)) for row in rows]
    real, float_ones = replace(result, rows=tuple(known)).findings()
    assert said in real
    against = "level with" if rounded == 0.9 else "3.0 points above"
    assert float_ones == f"8-bit images with ridge: {against} the float ones."


def test_the_cost_is_announced_before_it_starts(distilled, encoder, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("probedistill.evaluation.cost.seconds_per_pass", lambda encoder: 0.2)
    options = {**QUICK, "views": 100, "progress": True, "cache": tmp_path}
    evaluate(distilled, encoder, *data, **options)
    said = capsys.readouterr().err
    # three images, a hundred views, two seeds; distilled, random and neighbours, and centroids that may be neighbours
    assert "images with helpers_encoders:tiny at 32 px; fewer views=… or seeds=… are faster" in said
    evaluate(distilled, encoder, *data, **options)
    assert "go through" not in capsys.readouterr().err, "all of it is in the cache"


def test_neighbours_are_chosen_by_another_encoder(encoder, data):
    other = load_encoder(TINY, encoder_args={"seed": 5}, device="cpu")
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    noise = DistilledSet(images, torch.arange(3), NAMES)
    options = {**QUICK, "baselines": ["neighbours", "centroids", "full"], "views": 0, "seeds": 1}
    own = evaluate(noise, encoder, *data, **options)
    chosen = evaluate(noise, encoder, *data, chosen_by=other, **options)
    theirs = evaluate(noise, other, *data, **options)
    assert chosen.context.chosen_by.fingerprint == other.fingerprint
    assert own.context.chosen_by is None
    assert chosen["full real data"].scores == own["full real data"].scores
    assert chosen["distilled"].scores == own["distilled"].scores
    assert theirs.context.encoder != chosen.context.encoder


@pytest.mark.slow
def test_scores_of_a_replaced_run_are_not_saved_with_the_new_one(encoder, data, tmp_path, monkeypatch):
    """If a run is distilled again while its images are scored, the rows belong to images that are gone."""
    out = tmp_path / "run"
    first = distill(data[0], encoder, steps=2, out=out, progress=False)
    scores = evaluate(first, encoder, None, data[1], seeds=1, views=0, out=out / "evaluation-x.json", progress=False)
    assert scores.rows[0].name == "distilled"
    labelled = with_extras(DistilledSet.load(out), encoder, extract_features(encoder, data[0]), keep_head=True)
    labelled.save_extras(out)  # adding a head does not make another set
    scores.save(out / "evaluation-y.json", of=first)
    distill(data[0], encoder, steps=2, seed=1, out=out, overwrite=True, progress=False)
    with pytest.raises(UserError, match="was replaced while this command was using it"):
        evaluate(first, encoder, None, data[1], seeds=2, views=0, out=out / "evaluation-x.json", progress=False)
    assert not (out / "evaluation-x.json").exists()


def test_a_busy_moment_does_not_affect_the_estimate(monkeypatch, encoder):
    clock = iter([0.0, 16.0, 20.0, 20.16])
    monkeypatch.setattr("probedistill.evaluation.cost.time.perf_counter", lambda: next(clock))
    assert seconds_per_pass(encoder) == pytest.approx(0.01)


def test_one_seed_has_no_deviation(distilled, encoder, data):
    options = {**QUICK, "baselines": []}
    (two,), (one,) = (evaluate(distilled, encoder, *data, **{**options, "seeds": n}).tables() for n in (2, 1))
    assert ["±" in table.records()[0]["top-1 %"] for table in (two, one)] == [True, False]


def test_rows_without_groups_are_scored_again_for_groups(distilled, encoder, data, tmp_path, rows_made):
    out, groups = tmp_path / "scores.json", ["day", "night"] * 7 + ["day"]
    options = {"baselines": ["full"], "out": out, **QUICK}
    evaluate(distilled, encoder, *data, **options)
    rows_made.clear()
    result = evaluate(distilled, encoder, *data, groups=groups[: len(data[1])], probes=["1nn"], **options)
    assert {*result["distilled"].scores[0].groups} == {"day", "night"}
    rows_made.clear()
    result = evaluate(distilled, encoder, *data, groups=groups[: len(data[1])], **options)
    assert rows_made == [("distilled", "ridge"), ("full real data", "ridge")]
    assert {*result["distilled"].scores[0].groups} == {"day", "night"}
    rows_made.clear()
    evaluate(distilled, encoder, *data, **options)  # rows with groups also serve calls without groups
    assert not rows_made
    other = ["left"] * 4 + ["right"] * (len(data[1]) - 4)
    with pytest.warns(UserWarning, match="replacing the scores in .* for different groups"):
        result = evaluate(distilled, encoder, *data, groups=other, **options)
    assert {*result["full real data"].scores[0].groups} == {"left", "right"}


def test_hard_labels_do_not_take_the_row_of_soft_ones(distilled, encoder, data, tmp_path):
    soft = replace(distilled, soft_labels=torch.full((3, 3), 0.1) + 0.7 * torch.eye(3).roll(1, 0))
    options = {"out": tmp_path / "scores.json", **QUICK}
    learned = evaluate(soft, encoder, None, data[1], **options)["distilled"]
    ignored = evaluate(soft, encoder, None, data[1], hard_labels=True, **options)["distilled"]
    again = evaluate(soft, encoder, None, data[1], **options)["distilled"]
    hard = evaluate(distilled, encoder, None, data[1], **QUICK)["distilled"]
    assert (learned.soft_labels, ignored.soft_labels, again.soft_labels) == (True, False, True)
    assert ignored.scores == hard.scores
    assert again.scores == learned.scores
    assert learned.top1 < hard.top1  # these labels are wrong on purpose
