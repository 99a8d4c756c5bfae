"""A saved baseline is a set like any other."""

from __future__ import annotations

import json

import pytest
import torch

from conftest import TINY
from probedistill import DistilledSet, UserError, evaluate, extract_features, load_splits
from probedistill.config import DEFAULT_BASELINES
from probedistill.evaluation.real_sets import CHOICES, real_set

QUICK = {"seeds": 1, "views": 0, "full_views": 0, "progress": False}
ROWS = {"random": "random real", "centroids": "centroids", "herding": "herding", "kmedoids": "k-means medoids"}


@pytest.fixture(scope="module")
def data(photos):
    return load_splits(f"folder:{photos}")


@pytest.mark.parametrize("choice", list(CHOICES))
def test_its_images_are_those_of_the_row(encoder, data, choice):
    """Without views a probe sees the centre crops, which the set contains with eight bits."""
    found = real_set(choice, encoder, data[0], images_per_class=2)
    assert found.labels.tolist() == [0, 0, 1, 1]
    bank = extract_features(encoder, data[0], progress=False)
    features = encoder(found.float_images)
    assert float(torch.cdist(features, bank.centre).min(dim=1).values.max()) < 1e-4
    row = evaluate(None, encoder, *data, baselines=[choice], images_per_class=2, **QUICK)[ROWS[choice]]
    own = evaluate(found, encoder, None, data[1], **QUICK)[f"{ROWS[choice]}, saved"]
    assert own.images == row.images == 4
    assert own.top1 == pytest.approx(row.top1, abs=0.1)


@pytest.mark.slow
def test_every_command_takes_it(run_cli, photos, tmp_path):
    images, out = f"folder:{photos}", tmp_path / "herding"
    command = ["baseline", "--images", images, "--encoder", TINY, "--images-per-class", 2, "--no-progress"]
    saved = run_cli(*command, "--save", "herding", "--out", out)
    assert saved.code == 0, saved.err
    found = DistilledSet.load(out)
    assert (len(found), found.run.method, found.run.begun_from) == (4, "herding", "real")
    assert (out / "preview.png").exists()
    for arguments in (
        ["evaluate", out, "--config", out / "config.yaml", "--seeds", 1, "--views", 0, "--no-progress"],
        ["transfer", out, "--images", images, "--encoders", TINY, "--out", tmp_path / "t", "--seeds", 1, "--trust",
         "--no-progress"],
        ["export", out, "--out", tmp_path / "e"],
        ["info", out],
    ):  # fmt: skip
        outcome = run_cli(*arguments)
        assert outcome.code == 0, outcome.err
        assert "distilled images" not in outcome.out
    scores = json.loads(next(out.glob("evaluation-*.json")).read_text())
    assert scores["rows"][0]["name"] == "herding, saved"
    sources = json.loads((tmp_path / "t" / "transfer.json").read_text())["sources"]
    assert sources[0]["name"].startswith("herding, real images")
    assert run_cli("runs", tmp_path).out.count("herding") >= 1
    page = tmp_path / "page.html"
    assert run_cli("report", out, "--out", page, "--no-progress").code == 0
    assert "4 real images (herding, saved) train a ridge probe" in page.read_text()
    assert run_cli(*command, "--save", "random", "--out", out).error().endswith("already exists; give another folder")


def test_scores_of_baselines_are_kept_row_by_row(run_cli, photos, tmp_path):
    command = [
        "baseline", "--images", f"folder:{photos}", "--encoder", TINY, "--seeds", 1, "--views", 0,
        "--images-per-class", 2, "--out", tmp_path / "scores.json", "--no-progress",
    ]  # fmt: skip
    assert run_cli(*command, "--baselines", "herding", "kmedoids").code == 0
    assert run_cli(*command, "--baselines", "random").code == 0
    rows = json.loads((tmp_path / "scores.json").read_text())["rows"]
    assert {row["name"] for row in rows} == {"herding", "k-means medoids", "random real"}
    assert {row["images"] for row in rows} == {4}


def test_baselines_that_cannot_be_saved(run_cli, photos, encoder, data):
    command = ["baseline", "--images", f"folder:{photos}", "--encoder", TINY]
    assert "add --out runs/random" in run_cli(*command, "--save", "random").error()
    assert 'Choose from: "random"' in run_cli(*command, "--save", "full").error()
    with pytest.raises(UserError, match="unknown baseline to save 'herdin'; did you mean 'herding'"):
        real_set("herdin", encoder, data[0])
    with pytest.raises(UserError, match="images_per_class 7 is more than class"):
        real_set("herding", encoder, data[0], images_per_class=7)


@pytest.mark.parametrize(("count", "rows"), [(1, {"random real", "centroids", "full real data"}), (2, {"herding"})])
def test_with_several_images_per_class_the_default_has_a_fair_row(encoder, data, count, rows):
    """The images nearest to the mean are near-duplicates. With one image, herding chooses the medoid."""
    found = evaluate(None, encoder, *data, baselines=DEFAULT_BASELINES[1], images_per_class=count, **QUICK)
    names = {row.name for row in found.rows}
    assert rows <= names
    assert ("herding" in names) == (count > 1)
    if count == 1:
        named = evaluate(None, encoder, *data, baselines=["centroids", "herding"], **QUICK)
        assert named["herding"].scores == named["centroids"].scores


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("choice", ["herding", "kmedoids"])
def test_the_fair_baselines_exist_for_every_number_of_images(encoder, data, choice, count):
    found = real_set(choice, encoder, data[0], images_per_class=count)
    assert found.labels.tolist() == [0] * count + [1] * count
    assert len(found.float_images.flatten(1).unique(dim=0)) == 2 * count  # no image twice
