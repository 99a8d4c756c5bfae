"""Geometry: where points lie among the real images of their class, and the command."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import TINY
from helpers_images import make_image_folder
from helpers_report import geometry as made_geometry
from probedistill import DistilledSet, LabelledImages, UserError, geometry, load_encoder, load_images
from probedistill.analysis.geometry import Geometry, describe_classes
from probedistill.analysis.places import Place, RealReference
from probedistill.analysis.statistics import class_test
from probedistill.store.records import as_plain

MEASURES = tuple(field.name for field in fields(Place))
PLACED = [name for name in MEASURES if name != "own_neighbours"]


def real_features(per_class=(9, 14, 11), d: int = 4, seed: int = 0, apart: float = 1.5):
    """Real features (N, d) float64 of classes that overlap, mixed up, with labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(per_class)), torch.tensor(per_class))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = apart * torch.randn(len(per_class), d, generator=generator, dtype=torch.float64)
    return torch.randn(len(labels), d, generator=generator, dtype=torch.float64) + centres[labels] + 1, labels


def some_points(m: int = 7, d: int = 4, classes: int = 3, seed: int = 5):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(m, d, generator=generator, dtype=torch.float64) + 1, torch.arange(m) % classes


def by_hand(real, labels, point, label, self_row=None):
    """The measures of one point, from their definitions."""
    real, labels, point = real.numpy(), labels.numpy(), point.numpy()
    centre = real.mean(axis=0)
    means = [real[labels == c].mean(axis=0) for c in range(labels.max() + 1)]

    def raw(x, without=None):
        kept = (labels == label) & (np.arange(len(real)) != (-1 if without is None else without))
        own = real[kept].mean(axis=0)
        distance = np.linalg.norm(x - own)
        cosine = (x - centre) @ (own - centre) / np.linalg.norm(x - centre) / np.linalg.norm(own - centre)
        other = min(np.linalg.norm(x - mean) for c, mean in enumerate(means) if c != label)
        return distance, 1 - cosine, other - distance

    of_class = np.flatnonzero(labels == label)
    others = np.array([raw(real[i], i) for i in of_class])
    typical = sorted(others[:, 0])[(len(others) - 1) // 2]
    mine = np.array(raw(point, self_row))
    compared = others[of_class != self_row] if self_row is not None else others
    quantiles = (compared < mine).mean(axis=0)
    return {
        "distance_quantile": quantiles[0],
        "angle_quantile": quantiles[1],
        "margin_quantile": quantiles[2],
        "margin": mine[2],
        "relative_margin": mine[2] / typical,
        "distance_ratio": mine[0] / typical,
        "norm_ratio": np.linalg.norm(point) / np.linalg.norm(real[of_class], axis=1).mean(),
    }


# ---------------------------------------------------------------- where points lie


def test_measures_match_their_definitions():
    real, labels = real_features()
    points, y = some_points()
    placed = RealReference(real, labels, 3).place(points, y)
    assert set(placed) == set(PLACED)
    for i in range(len(points)):
        for name, value in by_hand(real, labels, points[i], int(y[i])).items():
            assert placed[name][i] == pytest.approx(value, abs=1e-10), name


def test_a_real_image_is_compared_without_itself():
    real, labels = real_features()
    rows = torch.tensor([0, 5, 17, 30])
    placed = RealReference(real, labels, 3).place(real[rows], labels[rows], rows=rows)
    for i, row in enumerate(rows.tolist()):
        for name, value in by_hand(real, labels, real[row], int(labels[row]), row).items():
            assert placed[name][i] == pytest.approx(value, abs=1e-10), name


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), repeats=st.integers(1, 3))
def test_real_images_are_half_way_out_by_construction(seed, repeats):
    real, labels = real_features(seed=seed)
    real, labels = real.repeat(repeats, 1), labels.repeat(repeats)  # equal images, because ties count half
    placed = RealReference(real, labels, 3).place(real, labels, rows=torch.arange(len(real)))
    for name in ("distance_quantile", "angle_quantile", "margin_quantile"):
        for c in range(3):
            assert placed[name][labels == c].mean() == pytest.approx(0.5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_rotation_scale_and_order_change_nothing(seed):
    real, labels = real_features(seed=seed)
    points, y = some_points(seed=seed % 1000)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    order = torch.randperm(len(real), generator=generator)
    before, after = RealReference(real, labels, 3), RealReference(3 * real[order] @ turn, labels[order], 3)
    turned = after.place(3 * points @ turn, y)
    for name, values in before.place(points, y).items():
        np.testing.assert_allclose(turned[name] / (3 if name == "margin" else 1), values, atol=1e-8)
    np.testing.assert_array_equal(before.own_neighbours(points, y, 5), after.own_neighbours(3 * points @ turn, y, 5))


def test_the_centre_the_edge_and_an_exaggeration():
    real, labels = real_features((30, 30), d=6)
    reference = RealReference(real, labels, 2)
    mean, centre = real[labels == 0].mean(dim=0), real.mean(dim=0)
    other = real[labels == 1].mean(dim=0)
    points = torch.stack([mean, mean + 100, centre + 40 * (mean - centre), other])
    placed = reference.place(points, torch.zeros(4, dtype=torch.int64))
    assert placed["distance_quantile"][:3].tolist() == [0, 1, 1]
    assert placed["angle_quantile"][[0, 2]].tolist() == [0, 0]  # an exaggeration is far out, but in the same direction
    assert placed["margin_quantile"][[2, 3]].tolist() == [1, 0]
    assert placed["margin"][0] == pytest.approx(float((mean - other).norm()))
    assert placed["margin"][3] == pytest.approx(-float((mean - other).norm()))


def test_own_neighbours_match_brute_force():
    real, labels = real_features()
    points, y = some_points()
    reference = RealReference(real, labels, 3)
    rows = torch.arange(len(real))
    for who, mine, self_rows in ((points, y, None), (real, labels, rows)):
        found = reference.own_neighbours(who, mine, 6, rows=self_rows)
        for i, point in enumerate(who):
            distance = (real - point).norm(dim=1)
            if self_rows is not None:
                distance[i] = torch.inf
            near = labels[distance.argsort()[:6]]
            assert found[i] == pytest.approx(float((near == mine[i]).double().mean()))
    assert 0.2 < found.mean() < 1


def test_blocks_change_nothing(monkeypatch):
    real, labels = real_features()
    points, y = some_points()
    whole = RealReference(real, labels, 3)
    expected, near = whole.place(points, y), whole.own_neighbours(points, y, 4)
    monkeypatch.setattr(sys.modules[RealReference.__module__], "_BLOCK", 3)
    parts = RealReference(real, labels, 3)
    for name, values in parts.place(points, y).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-12)
    np.testing.assert_array_equal(parts.own_neighbours(points, y, 4), near)


def test_too_few_real_images_and_too_many_neighbours_are_refused():
    real, labels = real_features((3, 1))
    with pytest.raises(ValueError, match="at least 2 real images"):
        RealReference(real, labels, 2)
    real, labels = real_features((3, 4))
    for k in (0, 7):
        with pytest.raises(UserError, match=rf"k {k} must be at least 1 and less than the number of real images \(7\)"):
            RealReference(real, labels, 2).own_neighbours(real, labels, k)


# ---------------------------------------------------------------- over classes


def test_classes_are_described_by_the_means_of_their_images():
    real, labels = real_features()
    points, y = some_points(m=6)
    medoid_rows = torch.tensor([int((labels == c).nonzero()[0]) for c in range(3)])
    found = describe_classes(real, labels, points, y, medoid_rows, "abc", k=5)
    placed = RealReference(real, labels, 3).place(points, y)
    assert [c.name for c in found] == ["a", "b", "c"]
    assert [c.images for c in found] == [9, 14, 11]
    for c in range(3):
        for name in PLACED:
            assert getattr(found[c].synthetic, name) == pytest.approx(placed[name][y == c].mean())
        of_medoid = by_hand(real, labels, real[medoid_rows[c]], c, int(medoid_rows[c]))
        assert found[c].medoid.distance_quantile == pytest.approx(of_medoid["distance_quantile"])
        assert found[c].real.distance_quantile == pytest.approx(0.5)


def test_real_images_used_as_synthetic_ones_are_not_at_the_periphery():
    real, labels = real_features((40,) * 12, d=20)
    quantiles = []
    for draw in range(8):
        rows = torch.tensor([int((labels == c).nonzero()[draw]) for c in range(12)])
        rest = torch.ones(len(real), dtype=torch.bool)
        rest[rows] = False
        placed = RealReference(real[rest], labels[rest], 12).place(real[rows], labels[rows])
        quantiles.append(placed["distance_quantile"])
    assert np.mean(quantiles) == pytest.approx(0.5, abs=0.1)
    assert class_test(np.concatenate(quantiles)).p > 0.05


@pytest.mark.slow
def test_a_class_whose_images_are_the_same(tmp_path):
    folder = make_image_folder(tmp_path / "photos", classes=("cat", "dog", "hen"), per_class=5, splits=())
    for path in sorted((folder / "dog").iterdir())[1:]:
        shutil.copy(folder / "dog" / "0000.png", path)
    images, encoder = load_images(f"folder:{folder}"), load_encoder(TINY, device="cpu")
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = geometry(DistilledSet(pixels, torch.arange(3), images.class_names), encoder, images, k=2, progress=False)
    (tmp_path / "geometry.png").mkdir()  # prevents writing, like a full disk
    with pytest.raises(UserError, match=r"geometry\.png'.*the numbers are saved, so repeat the same command to draw"):
        found.save(tmp_path)
    assert as_plain(Geometry.read(tmp_path)) == as_plain(found)
    (tmp_path / "geometry.png").rmdir()
    found.save(tmp_path)

    def refuse(constant: str):
        raise AssertionError(constant)

    kept = json.loads((tmp_path / "geometry.json").read_text(), parse_constant=refuse)
    ratios = [entry["synthetic"]["distance_ratio"] for entry in kept["classes"]]
    assert [ratio is None for ratio in ratios] == [False, True, False]
    read = Geometry.read(tmp_path)
    assert read.mean("synthetic", "distance_ratio") == pytest.approx((ratios[0] + ratios[2]) / 2)
    assert as_plain(read) == as_plain(found)
    assert "nan" not in str(found)
    assert "–" in str(found)


# ---------------------------------------------------------------- a run


def test_a_run_is_measured_in_the_features_of_its_encoder(photos):
    train = load_images(f"folder:{photos}")
    encoder = load_encoder(TINY, device="cpu")
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    distilled = DistilledSet(pixels, torch.tensor([0, 1, 0, 1]), ("dog", "cat"))
    found = geometry(distilled, encoder, train, k=3, progress=False)
    assert found.class_names == ["dog", "cat"], "the run's order, not the folder's"
    real = torch.cat([encoder(encoder.centre_view(train.load(i))[None]) for i in range(12)])
    labels = 1 - torch.from_numpy(train.labels)
    order = [i for i in range(12) if labels[i] == 0] + [i for i in range(12) if labels[i] == 1]
    placed = RealReference(real[order], labels[order], 2).place(encoder(distilled.images), distilled.labels)
    for c in range(2):
        for name in PLACED:
            expected = placed[name][distilled.labels == c].mean()
            assert getattr(found.classes[c].synthetic, name) == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert found.classes[c].medoid.distance_quantile == 0
    assert found.tests["periphery"].score == pytest.approx(found.mean("synthetic", "distance_quantile"))


def test_the_plane_is_fitted_to_the_real_images(photos):
    train = load_images(f"folder:{photos}")
    encoder = load_encoder(TINY, device="cpu")
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    distilled = DistilledSet(pixels, torch.arange(2), train.class_names)
    points = geometry(distilled, encoder, train, k=3, progress=False).points
    real = torch.cat([encoder(encoder.centre_view(train.load(i))[None]) for i in range(12)]).double()
    centred = real - real.mean(dim=0)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    assert points.explained == pytest.approx((singular**2 / (singular**2).sum())[:2].tolist(), rel=1e-3)
    assert points.kinds == ("real",) * 12 + ("medoid",) * 2 + ("synthetic",) * 2
    features = torch.cat([real, encoder(distilled.images).double()])
    expected = ((features - real.mean(dim=0)) @ axes[:2].T).numpy()
    drawn = np.concatenate([points.xy[:12], points.xy[14:]])
    for axis in range(2):
        sign = np.sign(expected[0, axis] * drawn[0, axis])
        np.testing.assert_allclose(sign * drawn[:, axis], expected[:, axis], atol=1e-3 * float(singular[0]))
    for i in (12, 13):
        row = points.names.index(points.names[i])
        np.testing.assert_allclose(points.xy[i], points.xy[row], atol=1e-6)
    assert points.names[:12] == tuple(train.names)
    assert points.names[14:] == (None, None)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Twelve classes of four photos, and a run on them."""
    from probedistill.cli import main

    folder = tmp_path_factory.mktemp("many")
    names = ["a$b$^", *(f"class {c}" for c in range(11))]
    make_image_folder(folder / "photos", names, per_class=4)
    run = folder / "run"
    code = main(["distill", "--images", f"folder:{folder / 'photos'}", "--encoder", TINY, "--steps", "2",
                 "--out", str(run), "--no-progress"])  # fmt: skip
    assert code == 0
    return run


@pytest.mark.slow
def test_geometry_command(run_cli, many):
    before = {path.name for path in many.iterdir()}
    result = run_cli("geometry", many, "--config", many / "config.yaml", "--k", 5)
    assert result.code == 0, result.err
    for text in ("48 real ones", "mean of all", "medoids", "periphery: a synthetic image is farther", "p = "):
        assert text in result.out
    assert {path.name for path in many.iterdir()} - before == {"geometry.json", "geometry.png"}
    assert Image.open(many / "geometry.png").width > 500
    content = json.loads((many / "geometry.json").read_text())
    assert content["kind"] == "geometry"
    assert content["encoder"]["name"] == "helpers_encoders:tiny"
    assert len(content["classes"]) == 12
    found = Geometry.read(many)
    assert found.drawn == list(range(12)), "all classes are drawn"
    assert found.points.kinds.count("synthetic") == 12
    assert found.points.kinds.count("real") == 48
    for c in content["classes"]:
        assert c["medoid"]["distance_quantile"] == 0
        assert c["real"]["distance_quantile"] == pytest.approx(0.5)
        assert set(c["synthetic"]) == set(MEASURES)
    scores = [c["synthetic"]["distance_quantile"] for c in content["classes"]]
    assert content["tests"]["periphery"]["score"] == pytest.approx(np.mean(scores))
    assert found.mean("synthetic", "distance_quantile") == pytest.approx(np.mean(scores))
    assert "class 9" in result.out


@pytest.mark.slow
def test_the_choice_of_classes_affects_only_the_picture(run_cli, many, tmp_path):
    whole = tmp_path / "whole"
    base = ["geometry", many, "--config", many / "config.yaml", "--k", 5]
    assert run_cli(*base, "--out", whole).code == 0
    result = run_cli(*base, "--classes", "class 10", "--classes", "class 3", "--out", tmp_path / "two")
    assert result.code == 0, result.err
    assert "class 10" in result.out
    assert "class 4" not in result.out
    one, two = (Geometry.read(tmp_path / name) for name in ("whole", "two"))
    assert two.classes == one.classes
    assert {two.class_names[c] for c in two.drawn} == {"class 3", "class 10"}


@pytest.mark.slow
def test_a_run_of_some_classes_keeps_to_them(run_cli, distil_cli, many, tmp_path):
    photos, run = many.parent / "photos", tmp_path / "run"
    names = tmp_path / "names.txt"
    names.write_text("class 7\nclass 2\nclass 5\n")
    assert distil_cli("--classes", f"@{names}", "--out", run, images=f"folder:{photos}").code == 0
    result = run_cli("geometry", run, "--config", run / "config.yaml", "--k", 3)
    assert result.code == 0, result.err
    assert "12 real ones" in result.out
    assert Geometry.read(run).class_names == ["class 7", "class 2", "class 5"]
    assert distil_cli("--out", run, "--overwrite").code == 0
    assert not list(run.glob("geometry*")), "the geometry of the run that was overwritten is still there"


def test_another_encoder_measures_the_same_images(run_cli, many, tmp_path):
    result = run_cli(
        "geometry", many, "--config", many / "config.yaml", "--k", 5, "--encoder-args.seed", 3, "--out", tmp_path
    )
    assert result.code == 0, result.err
    content = json.loads((tmp_path / "geometry.json").read_text())
    own = json.loads((many / "run.json").read_text())["encoders"][0]
    assert content["encoder"]["fingerprint"] != own["fingerprint"]
    assert content["run"]["encoder"] == own["name"]


def test_many_real_images_are_thinned(photos, monkeypatch):
    monkeypatch.setattr(sys.modules[Geometry.__module__], "DRAWN_IMAGES", 5)
    train = load_images(f"folder:{photos}")
    distilled = DistilledSet(torch.rand(2, 3, 32, 32), torch.arange(2), train.class_names)
    found = geometry(distilled, load_encoder(TINY), train, k=3, progress=False)
    assert found.points.kinds.count("real") == 5
    assert found.points.kinds.count("medoid") == 2
    assert found.images.count == 12


@pytest.mark.slow
def test_names_that_mean_something_to_rich(run_cli, many, photos, monkeypatch, tmp_path):
    train = load_images(f"folder:{photos}")
    names = ("n/a [/b]", "[red]dog")
    train = LabelledImages(
        class_names=names, labels=train.labels, names=train.names, load=train.load, spec=train.spec, split=train.split,
        fingerprint="other",
    )  # fmt: skip
    distilled = DistilledSet(torch.rand(2, 3, 32, 32), torch.arange(2), names)
    found = geometry(distilled, load_encoder(TINY), train, k=3, progress=False)
    text = str(replace(found, encoder=replace(found.encoder, name="e[/i]")))
    for name in (*names, "e[/i] at 32 px"):
        assert name in text
    found.save(tmp_path / "saved")

    monkeypatch.chdir(tmp_path)
    result = run_cli("geometry", many, "--config", many / "config.yaml", "--k", 5, "--out", "al[red]x")
    assert result.code == 0, result.err
    assert "figure: al[red]x/geometry.png   numbers: al[red]x/geometry.json" in result.out


@pytest.mark.slow
def test_bad_input_gives_one_line_and_writes_nothing(run_cli, distil_cli, many, photos, tmp_path):
    out = tmp_path / "out"

    def refused(*arguments, run=many):
        error = run_cli("geometry", run, "--config", many / "config.yaml", "--out", out, *arguments).error()
        assert not out.exists()
        return error

    error = refused("--classes", "class 1", "--classes", "clas 3")
    assert "unknown class in --classes 'clas 3'; did you mean" in error
    assert "(the run's classes)" in error
    assert "the run has a class 'a$b$^' that" in refused("--images", f"folder:{photos}")
    assert "(12 of 12 classes); give the images that it was made from" in refused("--images", f"folder:{photos}")
    assert "less than the number of real images (48); give another --k" in refused("--k", 48)
    assert "k 0 must be at least 1" in refused("--k", 0)
    assert "no such folder" in refused(run=tmp_path / "none")
    unfinished = tmp_path / "unfinished"
    assert distil_cli("--out", unfinished, encoder="module:helpers_encoders:turns_nan", steps=9).code == 1
    assert "holds an unfinished run" in refused(run=unfinished)
    (tmp_path / "file").write_text("")
    assert (
        "cannot write"
        in run_cli("geometry", many, "--config", many / "config.yaml", "--out", tmp_path / "file").error()
    )


def test_a_class_with_one_readable_image_is_named(run_cli, distil_cli, tmp_path):
    folder = make_image_folder(tmp_path / "photos", per_class=2)
    assert distil_cli("--out", tmp_path / "run", images=f"folder:{folder}").code == 0
    (folder / "train" / "dog" / "0000.png").write_bytes(b"no image")
    result = run_cli("geometry", tmp_path / "run", "--config", tmp_path / "run" / "config.yaml", "--k", 2)
    assert result.code == 2
    assert "class 'dog' has 1 readable real image; at least 2 are needed" in result.err
    assert not (tmp_path / "run" / "geometry.json").exists()


def test_tests_over_few_classes_come_with_a_caveat():
    """Two classes always gave p = 0.5, next to a 95% interval that looked narrow."""
    few, enough = (made_geometry([f"class {i}" for i in range(count)]) for count in (2, 6))
    says = "With 2 classes, p cannot be below 0.5, and the intervals are too narrow."
    assert few.findings()[-1] == says
    assert says in few.figures()[1].summary
    assert len(enough.findings()) == 3
    assert "too narrow" not in enough.figures()[1].summary


def test_the_caption_of_the_bars_has_the_unit_of_the_bars():
    places = made_geometry([f"class {i}" for i in range(6)]).figures()[1]
    assert re.match(r"The mean over 6 classes is \d+% \(95% interval \d+ to \d+\), p", places.summary)
    assert "Random real images have 50% on average, medoids 0%." in places.summary


def test_a_set_without_an_image_of_a_class_is_one_line(encoder, photos):
    some = DistilledSet(torch.rand(1, 3, 32, 32), torch.tensor([1]), ("cat", "dog"))
    with pytest.raises(UserError, match="no image of class 'cat', but geometry needs one of each"):
        geometry(some, encoder, load_images(f"folder:{photos}"))


def test_shares_are_rounded_alike_in_tables_and_in_sentences():
    made = made_geometry(["cat", "dog"])
    synthetic = replace(made.classes[0].synthetic, distance_quantile=0.075)
    classes = tuple(replace(one, synthetic=synthetic) for one in made.classes)
    test = replace(made.tests["periphery"], score=0.075, interval=(0.065, 0.125))
    made = replace(made, classes=classes, tests={**made.tests, "periphery": test})
    assert made.tables()[0].rows[0][1] == "0.07"
    assert "than 7% of the real images of its class (95% interval 7 to 12;" in made.findings()[0]
    plane, places = made.figures()
    assert "than 7% of the real images" in plane.summary
    assert places.table.rows[0] == ("cat", "7")
