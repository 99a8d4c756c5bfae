"""Alignment: facts about the metrics, comparison with transfer results, and the command."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import spearmanr

from conftest import TINY
from helpers_images import make_image_folder
from helpers_report import align as made_alignment
from probedistill import AugmentConfig, TransferConfig, UserError, align, encoder_config, load_encoder, load_images
from probedistill.analysis.alignment import Alignment, TransferCorrelation, transfer_accuracy
from probedistill.analysis.base import EncoderAbout
from probedistill.analysis.matrix import RealImages, Source, TransferMatrix
from probedistill.analysis.similarity import RIDGES, cka_chance, linear_cka, linear_map, mutual_knn
from probedistill.analysis.statistics import Correlation
from probedistill.features.classes import balanced_rows
from probedistill.store.run_record import ImagesRecord

METRICS = [lambda a, b: mutual_knn(a, b, 4), linear_cka, linear_map]
IDS = ["mutual_knn", "linear_cka", "linear_map"]


def two_spaces(seed: int = 0, n: int = 40, d_a: int = 7, d_b: int = 5):
    """Spaces that share some of their structure."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, d_a)) + 2
    return a, a @ rng.normal(size=(d_a, d_b)) + rng.normal(size=(n, d_b))


def rotation(d: int, rng: np.random.Generator):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize("metric", METRICS, ids=IDS)
@pytest.mark.parametrize("shape", [(40, 7, 5), (12, 30, 20)], ids=["more images", "more features"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
@example(seed=10339)  # a penalty so weak that rounding once decided the result
def test_metrics_do_not_depend_on_rotation_scale_or_order(metric, shape, seed):
    n, d_a, d_b = shape
    rng, (a, b) = np.random.default_rng(seed), two_spaces(seed, n, d_a, d_b)
    value = metric(a, b)
    assert metric(3.7 * a @ rotation(d_a, rng), 0.02 * b @ rotation(d_b, rng)) == pytest.approx(value, abs=1e-8)
    order = rng.permutation(n)
    assert metric(a[order], b[order]) == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("metric", METRICS, ids=IDS)
def test_a_space_is_aligned_with_itself_and_its_copies(metric):
    a, _ = two_spaces()
    assert metric(a, a) == pytest.approx(1, abs=1e-8)
    assert metric(a, 5 * a[:, ::-1]) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("metric", METRICS[:2], ids=IDS[:2])
def test_neighbours_and_cka_are_symmetric_and_the_map_is_not(metric):
    a, b = two_spaces()
    assert metric(a, b) == pytest.approx(metric(b, a), abs=1e-12)
    narrow = a[:, :2]
    assert linear_map(a, narrow) > 0.99
    assert linear_map(narrow, a) < 0.5


def test_mutual_neighbours_match_brute_force():
    a, b = two_spaces(n=25)
    near = []
    for x in (a, b):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        angles = unit @ unit.T - 2 * np.eye(25)
        near.append([sorted(range(25), key=lambda j, row=row: -row[j])[:6] for row in angles])
    shares = [len(set(p) & set(q)) / 6 for p, q in zip(*near, strict=True)]
    assert mutual_knn(a, b, 6) == pytest.approx(np.mean(shares))
    assert 0.1 < np.mean(shares) < 0.9
    assert mutual_knn(a, b, 24) == 1  # everything is a neighbour


def test_independent_spaces_share_as_many_neighbours_as_by_chance():
    rng = np.random.default_rng(0)
    shares = [mutual_knn(rng.normal(size=(60, 8)), rng.normal(size=(60, 8)), 10) for _ in range(40)]
    assert np.mean(shares) == pytest.approx(10 / 59, abs=4 * np.std(shares) / math.sqrt(40))


@pytest.mark.parametrize("shape", [(20, 6, 9), (8, 6, 30), (8, 15, 30)])
def test_cka_is_the_alignment_of_centred_kernels_in_either_space(shape):
    a, b = two_spaces(1, *shape)
    centring = np.eye(len(a)) - 1 / len(a)
    k, m = (centring @ x @ x.T @ centring for x in (a, b))
    assert linear_cka(a, b) == pytest.approx(np.sum(k * m) / np.linalg.norm(k) / np.linalg.norm(m), abs=1e-12)


def test_chance_of_cka_is_its_mean_over_all_orders():
    a, b = two_spaces(n=5, d_a=3, d_b=9)
    values = [linear_cka(a, b[list(order)]) for order in itertools.permutations(range(5))]
    assert cka_chance(a, b) == pytest.approx(np.mean(values), abs=1e-12)
    assert cka_chance(a, b) > 0.3, "d is large beside n: CKA alone would look like alignment"


@pytest.mark.parametrize("shape", [(24, 6, 5), (14, 20, 5)])
def test_linear_map_equals_refitting_without_each_image(shape):
    a, b = two_spaces(2, *shape)
    n = len(a)
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)

    def hat(ridge):
        return x @ np.linalg.solve(x.T @ x + ridge * np.sum(x**2) / n * np.eye(x.shape[1]), x.T)

    scores = [np.sum((y - hat(r) @ y) ** 2) / (n - 1 - np.trace(hat(r))) ** 2 for r in RIDGES]
    penalty = RIDGES[int(np.argmin(scores))] * np.sum(x**2) / n
    lost = spread = 0.0
    for i in range(n):
        rest = np.arange(n) != i
        mean_a, mean_b = a[rest].mean(axis=0), b[rest].mean(axis=0)
        left = a[rest] - mean_a
        weight = np.linalg.solve(left.T @ left + penalty * np.eye(a.shape[1]), left.T @ (b[rest] - mean_b))
        lost += np.sum((b[i] - mean_b - (a[i] - mean_a) @ weight) ** 2)
        spread += np.sum((b[i] - mean_b) ** 2)
    assert linear_map(a, b) == pytest.approx(1 - lost / spread, abs=1e-9)


def test_linear_map_finds_maps_and_nothing_else():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(80, 10))
    assert linear_map(a, a @ rng.normal(size=(10, 30)) + 4) > 0.9999
    assert abs(linear_map(a, rng.normal(size=(80, 30)))) < 0.05
    wide = rng.normal(size=(30, 90))
    assert linear_map(wide, wide) < 0.6, "an image has parts that no other image shows"


def test_constant_features_align_with_nothing():
    a, b = two_spaces()
    constant = np.ones_like(a)
    for metric in (linear_cka, cka_chance, linear_map):
        assert metric(constant, b) == pytest.approx(0, abs=1e-12)
        assert metric(b, constant) == pytest.approx(0, abs=1e-12)


def test_arrays_that_do_not_fit_are_refused():
    a, b = two_spaces()
    for wrong in (b[:-1], b[0], np.where(b == b[3, 2], np.nan, b)):
        with pytest.raises(ValueError, match="features"):
            linear_cka(a, wrong)
    for k in (0, 40):
        with pytest.raises(UserError, match=rf"k {k} must be at least 1 and less than the number of images \(40\)"):
            mutual_knn(a, b, k)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=2, max_size=6), limit=st.integers(1, 60), seed=st.integers(0, 99))
def test_a_limit_is_shared_by_the_classes(counts, limit, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = balanced_rows(labels, limit, seed=seed)
    assert len(rows) == min(limit, len(labels))
    assert np.all(np.diff(rows) > 0)
    taken = np.bincount(labels[rows], minlength=len(counts))
    for of_class, count in zip(taken, counts, strict=True):
        assert of_class == count or of_class >= taken.max() - 1
    assert np.array_equal(rows, balanced_rows(labels, limit, seed=seed))


def test_other_seeds_choose_other_images():
    labels = np.repeat([0, 1], 50)
    chosen = {tuple(balanced_rows(labels, 10, seed=seed)) for seed in range(20)}
    assert len(chosen) == 20


# ---------------------------------------------------------------- transfer


def results(fingerprints, accuracy, full=None, names=None) -> TransferMatrix:
    """Transfer between one set of each encoder."""
    names = names or [f"e{i}" for i in range(len(fingerprints))]
    encoders = tuple(EncoderAbout(n, f, 32) for n, f in zip(names, fingerprints, strict=True))
    accuracy = np.array([accuracy], dtype=float)
    baselines = {} if full is None else {"full": np.array([full], dtype=float)}
    about = ImagesRecord("folder:x", "train", 3, "ab")
    return TransferMatrix(
        tuple(Source(encoder.name, "r", "clp", (encoder,)) for encoder in encoders),
        encoders, ("ridge",), accuracy, np.zeros_like(accuracy), baselines, baselines,
        ("cat", "dog"), 1, TransferConfig(), AugmentConfig(), RealImages(about, about), {}, True,
    )  # fmt: skip


def test_transfer_results_are_matched_by_fingerprint():
    found = results("abc", [[0.5, 0.6, 0.7], [0.4, 0.8, 0.3], [0.2, 0.1, 0.9]], full=[0.8, 0.9, 1.0])
    first = found.sources[0]
    both = replace(first, encoders=(*first.encoders, EncoderAbout("e1", "b", 32)))
    more = np.concatenate([found.accuracy, [[[0.7, np.nan, 0.9], [0.0, 0.0, 0.0]]]], axis=1)
    found = replace(
        found, sources=(*found.sources, replace(first, run="another"), both), accuracy=more, std=np.zeros_like(more)
    )
    accuracy, relative = transfer_accuracy(found, ["c", "x", "a"])
    expected = np.full((3, 3), np.nan)
    expected[0, 0], expected[0, 2], expected[2, 0], expected[2, 2] = 0.9, 0.2, 0.8, 0.6  # two sets of a: their mean
    np.testing.assert_allclose(accuracy, expected)
    np.testing.assert_allclose(relative, expected / [1.0, np.nan, 0.8])
    _, relative = transfer_accuracy(results("ab", [[0.5, 0.6], [0.7, 0.8]]), ["a", "b"])
    assert np.isnan(relative).all()


# ---------------------------------------------------------------- encoders


@pytest.fixture
def tiny_yaml(tmp_path):
    """Write the YAML file of a tiny encoder with another seed or width."""

    def write(**arguments):
        path = tmp_path / f"tiny-{'-'.join(map(str, arguments.values()))}.yaml"
        path.write_text(yaml.safe_dump({"encoder": TINY, "encoder_args": arguments}))
        return str(path)

    return write


def test_figures_say_what_chance_would_give():
    """Linear CKA of unrelated spaces is far above 0 with fewer images than features; only the table used to say so."""
    found = made_alignment()
    found = replace(found, chance=replace(found.chance, cka=np.array([[1, 0.2], [0.2, 1]])))
    neighbours, cka, linear = (figure.summary for figure in found.figures())
    assert "unrelated spaces have 0.10." in neighbours
    assert "unrelated spaces have 0.20." in cka
    assert "unrelated spaces have 0. On these images, a space predicts itself with 1.00." in linear


def test_the_table_of_transfer_has_its_numbers_and_the_smallest_p_of_few_encoders():
    """Two columns were both called p, so one was lost in JSON and data frames."""
    table = made_alignment().tables()[1]
    assert list(table.records()[0].values()) == list(table.rows[0])
    assert (table.records()[0]["p"], table.records()[0]["p of share"]) == ("0.040", "0.040")
    assert table.caption == "p is exact, over all 2 orders of the encoders; its smallest possible value is 0.5."


@pytest.mark.slow
def test_align_compares_the_features_of_the_same_images(photos, tiny_yaml):
    images = load_images(f"folder:{photos}")
    loaded = [load_encoder(TINY), load_encoder(TINY, encoder_args={"seed": 1})]
    found = align([*loaded, encoder_config(tiny_yaml(seed=2, width=10), trust=True)], images, k=3, progress=False)
    centre = [
        np.stack([e(e.centre_view(images.load(i))[None])[0].numpy() for i in range(12)]).astype(float) for e in loaded
    ]
    assert found.metrics["mutual_knn"][0, 1] == pytest.approx(mutual_knn(*centre, 3))
    assert found.metrics["cka"][1, 0] == pytest.approx(linear_cka(*centre), abs=1e-5)
    assert found.metrics["linear_map"][1, 0] == pytest.approx(linear_map(centre[1], centre[0]), abs=1e-3)
    assert found.chance.mutual_knn == 3 / 11
    assert found.chance.cka[0, 1] == pytest.approx(cka_chance(*centre), abs=1e-5)
    assert [e.dim for e in found.encoders] == [24, 24, 10]
    assert len(set(found.names)) == 3, "one model, three sets of weights: the names must differ"
    assert found.images.count == 12
    assert found.transfer is None
    assert "mutual 3-NN" in str(found)


def test_a_limit_takes_fewer_images(photos, tiny_yaml):
    images = load_images(f"folder:{photos}")
    found = align([TINY, encoder_config(tiny_yaml(seed=1), trust=True)], images, k=2, limit=6, progress=False)
    assert found.images.count == 6
    assert found.chance.mutual_knn == 2 / 5


@pytest.mark.slow
def test_align_command(run_cli, photos, tiny_yaml, tmp_path):
    out = tmp_path / "out"
    specs = [TINY, tiny_yaml(seed=1), tiny_yaml(seed=2)]
    fingerprints = [load_encoder(TINY, encoder_args={"seed": s} if s else {}).fingerprint for s in range(3)]
    transfer = tmp_path
    accuracy = [[0.9, 0.2, 0.3], [0.4, 0.9, 0.5], [0.6, 0.7, 0.9]]
    results(fingerprints, accuracy, full=[1.0, 0.9, 0.8]).save(transfer)
    command = ["align", "--trust", "--encoders", *specs, "--images", f"folder:{photos}", "--k", 4]
    result = run_cli(*command, "--transfer", transfer, "--out", out)
    assert result.code == 0, result.err
    for text in ("mutual 4-NN", "linear CKA", "by chance", "12 images", "Rank correlation", "6 pairs of 3 encoders"):
        assert text in result.out
    assert Image.open(out / "align.png").width > 500
    content = json.loads((out / "align.json").read_text())
    assert content["kind"] == "align"
    assert [e["fingerprint"] for e in content["encoders"]] == fingerprints
    assert {name: np.shape(values) for name, values in content["metrics"].items()} == {
        "mutual_knn": (3, 3), "cka": (3, 3), "linear_map": (3, 3),
    }  # fmt: skip
    assert content["images"]["split"] == "train"
    assert content["options"] == {"k": 4, "limit": 5000, "seed": 0}
    found = Alignment.read(out)
    assert found.transfer.pairs == 6
    for name, values in found.metrics.items():
        off = ~np.eye(3, dtype=bool)
        relative = np.array(accuracy) / [1.0, 0.9, 0.8]
        for said, target in ((found.transfer.metrics, accuracy), (found.transfer.relative_to_full, relative)):
            assert said[name].spearman == pytest.approx(spearmanr(values[off], np.array(target)[off]).statistic)
            assert said[name].p * 6 == pytest.approx(round(said[name].p * 6))
            assert said[name].n == 6
    first = (out / "align.json").read_bytes()
    again = run_cli(*command, "--transfer", transfer, "--out", out)
    assert again.code == 0
    assert (out / "align.json").read_bytes() == first


@pytest.mark.slow
def test_too_few_encoders_in_the_transfer_results_are_reported(run_cli, photos, tiny_yaml, tmp_path):
    fingerprints = [load_encoder(TINY).fingerprint, load_encoder(TINY, encoder_args={"seed": 1}).fingerprint]
    results(fingerprints, [[0.9, 0.2], [0.3, 0.8]]).save(tmp_path)
    transfer = tmp_path / "transfer.json"
    specs = [TINY, tiny_yaml(seed=1), tiny_yaml(seed=2)]
    command = ["align", "--trust", "--encoders", *specs, "--images", f"folder:{photos}", "--k", 4]
    result = run_cli(*command, "--transfer", transfer, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert "transfer is known between 2 of these encoders; a rank correlation needs at least 3" in result.out
    content = json.loads((tmp_path / "out" / "align.json").read_text())
    assert content["transfer"] is None
    assert "at least 3" in content["note"]


def test_too_few_pairs_in_the_transfer_results_are_reported(photos, tiny_yaml):
    images = load_images(f"folder:{photos}")
    encoders = [load_encoder(TINY, encoder_args={"seed": s} if s else {}) for s in range(3)]

    def found(accuracy, full=None):
        transfer = results([e.fingerprint for e in encoders], accuracy, full=full)
        return align(encoders, images, k=3, transfer=transfer, progress=False)

    two = found([[0.9, 0.4, None], [None, 0.9, 0.7], [None, None, 0.9]])
    assert two.transfer is None
    assert two.note == "transfer is known for 2 pairs of different encoders; a rank correlation needs at least 3"
    assert two.note in str(two)

    three = found([[0.9, 0.4, None], [None, 0.9, 0.7], [0.6, None, 0.9]], full=[None, 0.9, 0.8])
    assert three.transfer.pairs == three.transfer.metrics["cka"].n == 3
    assert three.transfer.metrics["linear_map"].spearman is not None
    for said in three.transfer.relative_to_full.values():
        assert said == Correlation(None, None, 2)
    assert three.note.startswith("the share of full data is known for 2 pairs of different encoders; ")
    for part in three.note.split("; "):
        assert part in " ".join(str(three).split())
    cells = [line.split("│")[1:-1] for line in str(three).splitlines() if "R²" in line and line.startswith("│")]
    assert [c.strip() for c in cells[-1][3:]] == ["3", "–", "–", "2"]


@pytest.mark.slow
def test_names_that_mean_something_to_rich(run_cli, tiny_yaml, monkeypatch, tmp_path):
    folder = make_image_folder(tmp_path / "x [" / "b]", per_class=3)  # …/x [/b]
    monkeypatch.chdir(tmp_path)
    arguments = ["--images", f"folder:{folder}", "--k", 2, "--out", "al[red]x", "--no-progress"]
    result = run_cli("align", "--trust", "--encoders", TINY, tiny_yaml(seed=1), *arguments)
    assert result.code == 0, result.err
    assert "figure: al[red]x/align.png   numbers: al[red]x/align.json" in result.out
    assert f"6 images of folder:{folder} (train)" in result.out
    encoders = [load_encoder(TINY, encoder_args={"seed": s} if s else {}) for s in range(3)]
    found = align(encoders, load_images(f"folder:{folder}"), k=2, progress=False)
    names = ("a[red]", "n/a [/b]", "c")
    named = tuple(replace(e, name=name) for e, name in zip(found.encoders, names, strict=True))
    nothing = dict.fromkeys(found.metrics, Correlation(None, None, 6))
    transfer = TransferCorrelation("p[/b]", 3, True, nothing, nothing)
    text = str(replace(found, encoders=named, transfer=transfer, note="why [/b]"))
    for name in ("a[red]", "n/a [/b]", "x [/b]", "p[/b] probe", "why [/b]"):
        assert name in text

    long = tuple(replace(e, name=f"{'vit_' * 12}{i}") for i, e in enumerate(found.encoders))
    assert "…" not in str(replace(found, encoders=long)), "two encoders whose names are cut look alike"


@pytest.mark.slow
def test_bad_input_gives_one_line_and_writes_nothing(run_cli, photos, tiny_yaml, tmp_path):
    out, other = tmp_path / "out", tiny_yaml(seed=1)

    def refused(*arguments, encoders=(TINY, other)):
        error = run_cli(
            "align", "--trust", "--encoders", *encoders, "--images", f"folder:{photos}", "--out", out, *arguments
        ).error()
        assert not out.exists()
        return error

    assert "encoders names 1 encoder; alignment compares at least 2" in refused(encoders=[TINY])
    assert f"encoders '{TINY}' and '{TINY}' are the same encoder" in refused(encoders=[TINY, other, TINY])
    assert "k 12 must be at least 1 and less than the number of images (12)" in refused("--k", 12)
    assert "k 0 must be at least 1" in refused("--k", 0)
    assert "k 5 must be at least 1 and less than the number of images (5)" in refused("--k", 5, "--limit", 5)
    assert "limit 2 must be at least 3 images" in refused("--limit", 2)
    assert "unknown encoder 'efficientnet_lite9'" in refused(encoders=[TINY, "efficientnet_lite9"])
    assert "is not there" in refused("--transfer", tmp_path / "none.json")
    strangers = tmp_path / "transfer.json"
    results("xyz", np.full((3, 3), 0.5), names=["vit", "resnet", "clip"]).save(tmp_path)
    assert "transfer results are of different encoders (clip, resnet, vit)" in refused("--transfer", strangers)
    strangers.write_text(json.dumps(json.loads(strangers.read_text()) | {"probes": []}))
    assert "at least one source, one target and one probe" in refused("--transfer", strangers)
    strangers.write_text('{"kind": "align"}')
    assert "is not a probedistill transfer file" in refused("--transfer", strangers)


@pytest.mark.slow
def test_trained_encoders_agree_more_than_an_untrained_one(shared_data, shared_encoders):
    from probedistill import EncoderConfig

    weights = shared_encoders / "mobilenetv1_100.in1k.safetensors"
    arguments = {"pad_type": "same", "bn_eps": 1e-3, "num_classes": 1001}
    trained = EncoderConfig(encoder="timm:mobilenetv1_100", checkpoint=weights, encoder_args=arguments, input_size=64)
    lite = EncoderConfig(encoder="efficientnet_lite0", input_size=64)
    images = load_images(f"folder:{shared_data / 'clothing'}", classes=["hat", "shoes", "pants", "dress"])
    found = align([lite, trained, TINY], images, k=5, limit=60, progress=False)
    for metric in ("mutual_knn", "cka"):
        assert found.metrics[metric][0, 1] > found.metrics[metric][0, 2] + 0.05
    to_lite = found.metrics["linear_map"][:, 0]
    assert to_lite[1] > to_lite[2] + 0.02
    assert found.metrics["mutual_knn"][0, 1] > 2 * found.chance.mutual_knn
