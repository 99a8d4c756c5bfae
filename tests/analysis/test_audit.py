"""Audit: copies are found and noise is not; members are told from others only if a set remembers them."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import norm

from conftest import TINY
from helpers_images import make_image_folder
from helpers_report import audited
from probedistill import DistilledSet, UserError, audit, distill, load_encoder, load_images, merge
from probedistill.analysis.audit import PAIRS, Audit
from probedistill.analysis.copies import (
    chance_of_suspects,
    feature_distances,
    nearest,
    pixel_distances,
    share_below,
    structure_distances,
    thumbnails,
)
from probedistill.analysis.membership import Membership, attack, lira, shadow_halves
from probedistill.evaluation.real_sets import real_set


def scenes(count: int, seed: int = 0, side: int = 64) -> torch.Tensor:
    """Pictures (count, 3, side, side) that are smooth and all different, like photos."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


# ---------------------------------------------------------------- copies

CHANGES = {
    "as it is": lambda image: image,
    "mirrored": lambda image: image.flip(-1),
    "darker, with less contrast": lambda image: 0.5 * image + 0.05,
    "moved by a sixteenth": lambda image: image.roll((4, -4), (-2, -1)),
    "with noise": lambda image: (image + 0.05 * torch.randn(image.shape, generator=torch.Generator())).clamp(0, 1),
}


@cache
def photos_and_neighbours(distances):
    """Sixty photos, and the nearest other photo of each."""
    photos = thumbnails(scenes(60))
    return photos, nearest(distances, photos, photos, own=torch.arange(60))


@pytest.mark.parametrize(
    ("distances", "change"),
    [(pixel_distances, change) for change in CHANGES]
    # SSIM compares windows at fixed places, so it does not follow a move.
    + [(structure_distances, change) for change in CHANGES if change != "moved by a sixteenth"],
)
def test_a_copy_is_found_whatever_was_done_to_it(change, distances):
    copies = thumbnails(CHANGES[change](scenes(60)[:5]))
    photos, among = photos_and_neighbours(distances)
    near = nearest(distances, copies, photos)
    assert near.photo.tolist() == [0, 1, 2, 3, 4]
    assert share_below(near.distance, among.distance).max() < 0.05
    assert share_below(near.relative, among.relative).max() < 0.05


@pytest.mark.parametrize("distances", [pixel_distances, structure_distances])
def test_other_pictures_are_no_copies(distances):
    photos, among = photos_and_neighbours(distances)
    near = nearest(distances, thumbnails(scenes(20, seed=1)), photos)
    assert 0.2 < share_below(near.relative, among.relative).mean() < 0.8


def test_correlation_sees_neither_brightness_nor_contrast():
    photos = thumbnails(scenes(10))
    dim = thumbnails(0.4 * scenes(10) + 0.3)
    assert torch.allclose(pixel_distances(photos, photos), pixel_distances(dim, photos), atol=0.02)


def test_an_image_without_contrast_is_like_nothing():
    grey = thumbnails(torch.full((1, 3, 64, 64), 0.5))
    assert pixel_distances(grey, thumbnails(scenes(5))).eq(1).all()
    assert structure_distances(grey, thumbnails(scenes(5))).isfinite().all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), few=st.integers(3, 9))
def test_nearest_is_the_smallest_distance_and_never_the_photo_itself(seed, few):
    points = torch.randn(few, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    near = nearest(feature_distances, points, points, own=torch.arange(few))
    cosine = torch.nn.functional.cosine_similarity(points[:, None], points[None], dim=2)
    cosine.fill_diagonal_(-2)
    assert near.photo.tolist() == cosine.argmax(dim=1).tolist()
    assert torch.allclose(near.distance, 1 - cosine.amax(dim=1))


@pytest.mark.parametrize("distances", [pixel_distances, structure_distances, feature_distances])
def test_the_nearest_photo_does_not_depend_on_the_other_queries(distances):
    pictures = thumbnails(scenes(330))
    pictures = pictures.flatten(1).double() - 128 if distances is feature_distances else pictures
    queries, photos = pictures[:67], pictures[67:]  # more than are looked up at a time, and than a block holds
    together = nearest(distances, queries, photos)
    for i in (0, 7, 8, 63, 64, 66):
        alone = nearest(distances, queries[i : i + 1], photos)
        assert alone.photo[0] == together.photo[i]
        assert torch.allclose(alone.distance[0], together.distance[i], atol=1e-6)


def test_shares_count_ties_half():
    values = torch.tensor([0.0, 1.0, 2.0, 9.0])
    assert share_below(values, torch.tensor([1.0, 1.0, 3.0, 2.0])).tolist() == [0.0, 0.25, 0.625, 1.0]


@pytest.mark.parametrize(("photos", "images"), [(200, 1000), (200, 10), (30, 50)])
def test_images_that_resemble_photos_rarely_count_as_too_many(photos, images):
    """With many images, chance in the reference photos counted against them: p was below 0.05 every fifth time."""
    generator = torch.Generator().manual_seed(0)
    p = []
    for _ in range(500):
        reference, values = (torch.rand(count, generator=generator).double() for count in (photos, images))
        count = int((share_below(values, reference) < 0.05).sum())
        p.append(chance_of_suspects(count, images, 0.05, photos))
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.08


def test_the_most_suspect_images_are_shown():
    """The picture used to show the first 25 images, whichever stood out."""
    usual = audited([f"class {i}" for i in range(40)])
    plain = replace(usual.audited[0].matches["pixels"], relative_share=0.5)
    images = [one if i == 37 else replace(one, matches={"pixels": plain}) for i, one in enumerate(usual.audited)]
    found = replace(usual, audited=tuple(images))
    (table, *_), (figure, *_) = found.tables(), found.figures()
    assert "the 25 most suspect of 40" in table.title
    assert ("class 37", "0.20", "4", "3") in table.rows
    assert "38 · class 37" in figure.drawing.categories
    assert "Only the 25 most suspect are shown." in figure.summary


# ---------------------------------------------------------------- members


@pytest.mark.slow
def test_the_stated_share_of_members_is_found():
    """With few photos no false alarm is allowed, and the members above the first other photo are more than 1%."""
    members = shadow_halves(np.repeat([0, 1], 30), 80, seed=0)
    (online, offline) = attack({"probe": np.random.default_rng(0).normal(size=members.shape)}, members)
    guess = Membership(80, 80, 60, 1, (online, offline)).guess
    assert guess == 1 / 31
    assert online.tpr_interval[0] < guess < online.tpr_interval[1]
    assert Membership(80, 80, 3068, 1, (online,)).guess == pytest.approx(0.01, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), pairs=st.integers(1, 6), counts=st.lists(st.integers(2, 9), min_size=2, max_size=4))
def test_every_photo_is_in_exactly_half_of_the_shadow_sets(seed, pairs, counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    members = shadow_halves(labels, 2 * pairs, seed=seed)
    assert (members.sum(axis=0) == pairs).all()
    for label, count in enumerate(counts):
        assert np.isin(members[:, labels == label].sum(axis=1), [count // 2, count - count // 2]).all()
    assert (shadow_halves(labels, 2, seed=seed) == members[:2]).all()  # more sets do not change the first ones


def test_lira_is_the_likelihood_ratio_with_the_pair_left_out():
    rng = np.random.default_rng(0)
    members = shadow_halves(np.repeat([0, 1], 10), 8, seed=0)
    scores = rng.normal(size=(8, 20)) + members
    online, offline = lira(scores, members)
    rest, inside = scores[2:], members[2:]
    mean_in = np.array([rest[inside[:, i], i].mean() for i in range(20)])
    mean_out = np.array([rest[~inside[:, i], i].mean() for i in range(20)])
    spread_in = np.sqrt(sum(((rest[inside[:, i], i] - mean_in[i]) ** 2).sum() for i in range(20)) / (20 * 2))
    spread_out = np.sqrt(sum(((rest[~inside[:, i], i] - mean_out[i]) ** 2).sum() for i in range(20)) / (20 * 2))
    expected = norm.logpdf(scores[0], mean_in, spread_in) - norm.logpdf(scores[0], mean_out, spread_out)
    assert online[0] == pytest.approx(expected)
    assert offline[0] == pytest.approx(norm.logcdf(scores[0], mean_out, spread_out))


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.47, 0.53), (4.0, 0.98, 1.0)])
def test_random_scores_find_no_member_and_scores_that_remember_find_all(shift, low, high):
    rng = np.random.default_rng(0)
    members = shadow_halves(np.repeat([0, 1], 100), 12, seed=3)
    hard = rng.normal(size=200)  # what is typical of a photo says nothing about its membership
    (online, offline) = attack({"probe": hard + shift * members + rng.normal(size=members.shape)}, members)
    for found in (online, offline):
        assert low <= found.auc <= high
        assert found.auc_interval[0] <= found.auc <= found.auc_interval[1]
    assert (online.tpr > 0.8) == (shift > 0)
    assert online.tpr_interval[0] <= 0.01 <= online.tpr_interval[1] or shift


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of twelve photos that are all different."""
    folder = make_image_folder(tmp_path_factory.mktemp("audit") / "photos", per_class=12, size=48, splits=())
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        pixels = (scenes(1, seed=number, side=48)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """A run that started from photos and kept them, one that started from noise, their encoder and their photos."""
    from probedistill import EncoderConfig

    place = tmp_path_factory.mktemp("runs")
    encoder, train = load_encoder(EncoderConfig(encoder=TINY)), load_images(f"folder:{data}")
    options = {"method": "clp", "steps": 2, "progress": False, "evaluate_every": 0}
    for name, init in (("copies", "real"), ("noise", "noise")):
        distill(train, encoder, out=place / name, images_per_class=6, canvas={"init": init}, lr=1e-4, **options)
    return place, encoder, train


@pytest.mark.slow
def test_images_that_started_from_photos_are_copies_and_noise_is_not(made, tmp_path):
    place, encoder, train = made
    found = {}
    for name in ("copies", "noise"):
        distilled = DistilledSet.load(place / name)
        found[name] = audit(distilled, encoder, train, folder=place / name, out=tmp_path / name, progress=False)
    copies, noise = found["copies"], found["noise"]
    assert copies.same_photos
    assert noise.same_photos
    assert len(copies.suspects) == 12
    assert {one.matches["pixels"].photo for one in copies.audited} == {
        one.matches["structure"].photo for one in copies.audited
    }
    assert len(noise.suspects) <= 3
    assert any("began as photos" in line for line in copies.findings())
    assert not any("began as photos" in line for line in noise.findings())
    assert "evolution/" in {one.what for one in copies.stored}
    assert "evolution/" not in {one.what for one in noise.stored}
    for result in (copies, noise):
        assert result.findings()[-1].startswith("This does not show that no photo can be recovered")
    assert Image.open(tmp_path / "copies" / PAIRS).size[0] > 4 * 112
    assert Audit.read(tmp_path / "copies").audited == copies.audited


@pytest.mark.slow
@pytest.mark.parametrize("init", ["real", "average"])
def test_half_of_a_class_must_suffice_for_the_start(made, init):
    _, encoder, train = made
    run = distill(
        train, encoder, method="clp", steps=1, images_per_class=7, canvas={"init": init}, progress=False,
        evaluate_every=0,
    )  # fmt: skip
    with pytest.raises(UserError, match="a shadow set, made from half of them, needs at least 7"):
        audit(run, encoder, train, shadows=6, progress=False)


@pytest.mark.slow
def test_shadow_sets_of_copies_reveal_their_members_and_resume(made, tmp_path, monkeypatch):
    place, encoder, train = made
    distilled = DistilledSet.load(place / "copies")
    from probedistill.analysis.membership import Shadows

    scored, real = [], Shadows.scores

    def counted(self, number, members):
        if len(scored) == 4 and scored[-1] != "stopped":
            scored.append("stopped")
            raise KeyboardInterrupt
        scored.append(number)
        return real(self, number, members)

    monkeypatch.setattr(Shadows, "scores", counted)
    again = {"shadows": 6, "shadow_steps": 1, "out": tmp_path, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        audit(distilled, encoder, train, **again)
    result = audit(distilled, encoder, train, **again)
    assert scored == [0, 1, 2, 3, "stopped", 4, 5]
    whole = audit(distilled, encoder, train, shadows=6, shadow_steps=1, progress=False)
    assert result.membership == whole.membership
    by = {(one.score, one.how): one for one in result.membership.attacks}
    assert by["pixels", "online"].auc > 0.9  # every member is one of the images
    assert by["pixels", "online"].tpr > 0.5
    assert audit(distilled, encoder, train, shadows=6, shadow_steps=2, out=tmp_path, progress=False).membership
    assert len(scored) > 13  # scores made with other settings are not used


@pytest.mark.slow
def test_a_set_that_ignores_the_photos_reveals_no_member(made, data, tmp_path, monkeypatch):
    _, encoder, train = made
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blind.py").write_text(
        "def objective(real):\n    return lambda features, labels, step: 0 * features.sum()\n"
    )
    run = distill(train, encoder, method="module:blind:objective", steps=1, progress=False)
    result = audit(run, encoder, train, shadows=12, progress=False)
    for one in result.membership.attacks:
        assert one.auc_interval[0] <= 0.5 <= one.auc_interval[1] or abs(one.auc - 0.5) < 0.1
    sys.modules.pop("blind", None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shadows": 7}, "even number from 6"),
        ({"shadows": 2}, "even number from 6"),
        ({"shadows": 2**31}, "even number from 6 to 10,000"),
        ({"minutes": -1.0}, "minutes -1.0 must be more than 0"),
        ({"shadows": 6, "shadow_steps": 0}, "shadow_steps 0 must be at least 1"),
        ({"shadow_steps": 5}, "shadow_steps 5 is for shadow sets, but none are made"),
    ],
)
def test_budgets_out_of_range(made, options, says):
    place, encoder, train = made
    with pytest.raises(UserError, match=says):
        audit(DistilledSet.load(place / "noise"), encoder, train, progress=False, **options)


def test_shadow_sets_need_the_encoder_of_the_run(made):
    from probedistill import EncoderConfig

    place, _, train = made
    other = load_encoder(EncoderConfig(encoder=TINY, encoder_args={"seed": 1}))
    with pytest.raises(UserError, match="need the encoder of the set"):
        audit(DistilledSet.load(place / "noise"), other, train, shadows=6, progress=False)


def test_chosen_photos_have_no_shadow_sets(made):
    _, encoder, train = made
    chosen = real_set("herding", encoder, train)
    with pytest.raises(UserError, match="this set was made differently; leave the shadow sets out"):
        audit(chosen, encoder, train, shadows=6, shadow_steps=1, progress=False)


def test_a_merged_set_has_no_shadow_sets(made):
    place, encoder, train = made
    merged, _ = merge([place / "copies", place / "noise"], same_classes=True)
    with pytest.raises(UserError, match=r"merged from several \('copies', 'noise'\); audit each of them, or leave"):
        audit(merged, encoder, train, shadows=6, shadow_steps=1, progress=False)


@pytest.mark.slow
def test_command(made, data, run_cli, tmp_path):
    place, _, _ = made
    run = shutil.copytree(place / "noise", tmp_path / "run")
    config = ["--images", f"folder:{data}", "--encoder", TINY]
    done = run_cli("audit", run, *config, "--shadows", 6, "--shadow-steps", 1, "--others", f"{TINY}@40")
    assert done.code == 0, done.err
    assert "resemble one particular photo" in done.out
    assert "does not show that no photo can be recovered" in done.out
    assert (run / "audit.png").exists()
    assert (run / PAIRS).exists()
    record = json.loads((run / "audit.json").read_text())
    assert record["membership"]["shadows"] == 6
    assert len(record["measures"]) == 4
    page = tmp_path / "report.html"
    assert run_cli("report", run, "--out", page).code == 0
    assert "do not guarantee" in page.read_text()
    (one,) = run.rglob("0002.safetensors")
    one.unlink()
    again = run_cli("audit", run, *config, "--shadows", 6, "--shadow-steps", 1)
    assert "1 shadow set, about" in again.err  # what one takes is said, whichever it is
    assert "not exactly the photos" in done.out  # the command holds out some photos, but the run used all of them
    assert "even number" in run_cli("audit", run, *config, "--shadows", 5).error()
    few = run_cli("audit", place / "copies", *config, "--shadows", 6, "--out", tmp_path / "few").error()
    assert "needs at least 6" in few
    assert run_cli("--json", "audit", run, *config, "-q").code == 0
