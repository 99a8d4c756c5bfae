"""Transfer: cells equal the scores of evaluate, banks and cells are reused, and bad input gives one line."""

from __future__ import annotations

import gc
import json
import re
import shutil
import sys
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from conftest import TINY
from helpers_encoders import tiny
from helpers_images import make_image_folder
from helpers_runs import encoder_record
from probedistill import (
    AugmentConfig,
    DistilledSet,
    Encoder,
    EncoderConfig,
    LinearProbe,
    UserError,
    distill,
    evaluate,
    extract_features,
    load_encoder,
    load_splits,
)  # fmt: skip
from probedistill.analysis.base import EncoderAbout
from probedistill.analysis.matrix import RealImages, Source, TransferMatrix, load_transfer
from probedistill.analysis.transfer import transfer
from probedistill.config import TransferConfig
from probedistill.evaluation.scorer import Scorer
from probedistill.features.classes import medoids
from probedistill.ship.labels import with_extras
from probedistill.store.records import as_plain
from probedistill.store.run_record import ImagesRecord

NAMES = ("cat", "dog", "hen")
QUICK = {"seeds": 2, "views": 3, "progress": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("transfer")


@pytest.fixture(scope="module")
def folder(place):
    return make_image_folder(place / "photos", classes=NAMES, per_class=5, size=36)


@pytest.fixture(scope="module")
def data(folder):
    return load_splits(f"folder:{folder}")


@pytest.fixture(scope="module")
def other(place):
    return EncoderConfig(encoder=TINY, input_size=48, encoder_args={"seed": 3, "width": 16})


@pytest.fixture(scope="module")
def other_file(place, other):
    """The other encoder, as a YAML file."""
    path = place / "other.yaml"
    options = {"encoder": TINY, "input_size": other.input_size, "encoder_args": other.encoder_args}
    path.write_text(yaml.safe_dump(options))
    return str(path)


@pytest.fixture(scope="module")
def runs(place, folder, other):
    """A set for each encoder."""
    found = []
    for name, encoder, method in (("a", TINY, "clp"), ("b", other, "sfm")):
        out = place / "runs" / name
        distill(
            f"folder:{folder}", encoder, method=method, steps=15, out=out, progress=False,
            evaluate_every=0,
        )  # fmt: skip
        found.append(out)
    return found


@pytest.fixture(scope="module")
def matrix(runs, data, other):
    return transfer(runs, [TINY, other], *data, **QUICK)


@pytest.mark.slow
def test_cells_equal_evaluate(matrix, runs, data, other):
    assert matrix.accuracy.shape == matrix.std.shape == (1, 2, 2)
    for t, word in enumerate((TINY, other)):
        encoder = load_encoder(word)
        for s, run in enumerate(runs):
            row = evaluate(DistilledSet.load(run), encoder, None, data[1], baselines=[], **QUICK)["distilled"]
            assert (matrix.accuracy[0, s, t], matrix.std[0, s, t]) == (row.top1, row.std)
        real = evaluate(None, encoder, *data, full_views=0, baselines=["random", "full"], **QUICK)
        for name, title in (("random", "random real"), ("full", "full real data")):
            assert matrix.baselines[name][0, t] == real[title].top1
            assert matrix.baselines_std[name][0, t] == real[title].std


@pytest.mark.slow
def test_centroids_are_chosen_by_the_source_and_scored_on_the_target(runs, data, other):
    options = {**QUICK, "views": 0}  # only centre crops, so nothing is drawn
    matrix = transfer(runs, [TINY, other], *data, **options)
    encoders = [load_encoder(word) for word in (TINY, other)]
    test = extract_features(encoders[1], data[1], progress=False)
    bank = extract_features(encoders[0], data[0], progress=False)
    chosen = bank.indices[medoids(bank, 1)]
    features = extract_features(encoders[1], data[0], progress=False).centre[chosen]
    probe = LinearProbe("ridge").fit(features, torch.arange(3))
    assert matrix.baselines["centroids"][0, 0, 1] == pytest.approx(probe.score(test.centre, test.labels))
    for t, target in enumerate(encoders):
        own = evaluate(None, target, *data, baselines=["centroids"], **options)["centroids"]
        assert matrix.baselines["centroids"][0, t, t] == own.top1


@pytest.mark.parametrize("per_class", [1, 2])
def test_centroids_are_seen_in_the_views_that_evaluate_draws(data, tmp_path, monkeypatch, per_class):
    """With the same protocol, seed and photos, both functions give the same number."""
    seen = []
    row = Scorer.row

    def watched(scorer, images, trial, **options):
        seen.append([images.features(scorer.encoder, seed, 3).double() for seed in range(2)])
        return row(scorer, images, trial, **options)

    monkeypatch.setattr(Scorer, "row", watched)
    encoder = load_encoder(TINY)
    held = distill(data[0], encoder, steps=1, images_per_class=per_class, progress=False)
    options = {"probes": ["sgd"], "epochs": 3, "baselines": ["centroids"], **QUICK}
    matrix = transfer([held], [encoder], *data, **options)
    (ours,) = [found for found in seen if found[0].shape[1] == 3 * per_class][1:]
    seen.clear()
    alone = evaluate(held, encoder, *data, **options)["centroids"]
    for one, other in zip(ours, seen[-1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert matrix.baselines["centroids"][0, 0, 0] == pytest.approx(alone.top1)


@pytest.mark.slow
def test_own_encoders_are_marked(matrix):
    assert matrix.same.tolist() == [[True, False], [False, True]]
    text = str(matrix)
    assert len(re.findall(r"│ += \d", text)) == 2
    for name in ("clp · helpers_encoders:tiny@32", "sfm · helpers_encoders:tiny@48", "random real", "full real data"):
        assert name in text


@pytest.mark.slow
def test_files(matrix, runs, data, other, tmp_path):
    out = tmp_path / "new" / "out"
    saved = transfer([str(run) for run in runs], [TINY, other], *data, out=out, **QUICK)
    assert np.array_equal(saved.accuracy, matrix.accuracy)
    assert sorted(path.name for path in out.iterdir()) == ["transfer.json", "transfer.png"]
    assert len(Image.open(out / "transfer.png").getcolors(10**6)) > 10
    read = load_transfer(out)
    assert as_plain(read) == as_plain(load_transfer(out / "transfer.json")) == as_plain(saved)
    assert json.loads((out / "transfer.json").read_text())["kind"] == "transfer"
    assert [(s.name, s.run, s.method) for s in read.sources] == [
        ("clp · helpers_encoders:tiny@32", "a", "clp"),
        ("sfm · helpers_encoders:tiny@48", "b", "sfm"),
    ]
    assert [t.input_size for t in read.targets] == [32, 48]
    assert [source.encoders for source in read.sources] == [(target,) for target in read.targets]
    assert read.baselines["centroids"].shape == (1, 2, 2)
    assert read.class_names == NAMES
    assert read.protocol.views == 3
    assert str(tmp_path) not in (out / "transfer.json").read_text().replace(data[0].spec, "")


def altered(out):
    """Give every cell in the file an accuracy that no probe can reach here: it shows which cells were reused."""
    content = json.loads((out / "transfer.json").read_text())
    for cell in content["cells"].values():
        for scores in cell.values():
            scores[:] = [0.015625] * len(scores)
    (out / "transfer.json").write_text(json.dumps({**content, "sha256": None}))


@pytest.mark.slow
def test_cells_are_reused_if_everything_agrees(runs, data, other, tmp_path):
    def again(sets=runs, encoders=(TINY,), **options):
        options = {**QUICK, "baselines": ["random", "full"], **options}
        return transfer(sets, encoders, *data, out=tmp_path / "out", **options)

    again()
    altered(tmp_path / "out")
    used = again()
    assert (used.accuracy == 0.015625).all()
    assert all((values == 0.015625).all() for values in used.baselines.values())
    wider = again(encoders=(other, TINY), probes=["logistic", "ridge"])
    assert (wider.accuracy[1, :, 1] == 0.015625).all()  # reused for the old target and the old probe
    assert (wider.accuracy[1, :, 0] > 0.1).all()
    assert (wider.accuracy[0] > 0.1).all()
    assert wider.baselines["random"][1, 1] == 0.015625
    one = again(seeds=1)
    assert (one.accuracy > 0.1).all()
    assert (one.std == 0).all()
    assert again(augment=AugmentConfig(flip=0.0)).accuracy.min() > 0.1
    pixel = DistilledSet.load(runs[0])
    pixel.float_images[0, 0, 0, 0] = 1 - pixel.float_images[0, 0, 0, 0]
    changed = again(sets=[pixel, runs[1]])
    assert changed.accuracy[0, 0, 0] > 0.1
    assert changed.accuracy[0, 1, 0] == 0.015625


def test_other_cells_stay_if_settings_of_full_real_data_change(runs, data, tmp_path):
    options = {**QUICK, "seeds": 1, "out": tmp_path / "out"}
    transfer(runs[:1], [TINY], *data, baselines=["random"], **options)
    altered(tmp_path / "out")
    found = transfer(runs[:1], [TINY], *data, baselines=["random", "full"], full_views=1, full_epochs=3, **options)
    assert found.accuracy[0, 0, 0] == found.baselines["random"][0, 0] == 0.015625
    assert found.baselines["full"][0, 0] != 0.015625


@pytest.mark.slow
def test_probes_without_epochs_keep_their_cells_with_other_epochs(runs, data, tmp_path):
    def again(epochs, *probes):
        options = {**QUICK, "seeds": 1, "baselines": ["full"], "full_views": 0}
        return transfer(runs[:1], [TINY], *data, out=tmp_path / "out", probes=list(probes), epochs=epochs, **options)

    again(1, "ridge", "sgd")
    altered(tmp_path / "out")
    found = again(2, "ridge", "sgd")
    assert found.accuracy[0, 0, 0] == found.baselines["full"][0, 0] == 0.015625
    assert 0.015625 not in (found.accuracy[1, 0, 0], found.baselines["full"][1, 0])


def test_cells_of_a_probe_that_was_edited_are_scored_again(runs, data, tmp_path, monkeypatch):
    code = "from probedistill import LinearProbe as Mine\n"
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)

    def again():
        sys.modules.pop("mine", None)  # as in a new process
        options = {**QUICK, "baselines": [], "probes": ["module:mine:Mine"]}
        return transfer(runs[:1], [TINY], *data, out=tmp_path / "out", **options).accuracy.item()

    again()
    altered(tmp_path / "out")
    assert again() == 0.015625
    (tmp_path / "mine.py").write_text(code + "# another probe\n")
    assert again() > 0.1


class Stops(nn.Module):
    """Tiny until it is told to stop; then it raises Ctrl-C."""

    stop = False

    def __init__(self):
        super().__init__()
        self.body = tiny(seed=5)

    def forward(self, images):
        if self.stop:
            raise KeyboardInterrupt
        return self.body(images)


@pytest.mark.slow
def test_an_interrupted_matrix_resumes(runs, data, tmp_path):
    stops = Stops()
    encoder = Encoder(stops, name="stops", input_size=32)
    stops.stop = True
    with pytest.raises(KeyboardInterrupt):
        transfer(runs[:1], [TINY, encoder], *data, out=tmp_path, **QUICK)
    content = json.loads((tmp_path / "transfer.json").read_text())
    assert content["finished"] is False
    assert content["accuracy"][0][0][0] > 0.1
    assert content["accuracy"][0][0][1] is None
    with pytest.raises(UserError, match="is not finished; repeat its command"):
        load_transfer(tmp_path)
    altered(tmp_path)
    stops.stop = False
    matrix = transfer(runs[:1], [TINY, encoder], *data, out=tmp_path, **QUICK)
    assert matrix.accuracy[0, 0, 0] == 0.015625
    assert matrix.accuracy[0, 0, 1] > 0.1
    assert load_transfer(tmp_path).finished


class Meanwhile(nn.Module):
    """Tiny, but the first time that it encodes, something else happens, too."""

    def __init__(self, seed):
        super().__init__()
        self.body, self.happens = tiny(seed=seed), None

    def forward(self, images):
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        return self.body(images)


@pytest.mark.slow
def test_calls_that_share_a_folder_keep_each_others_cells(runs, data, tmp_path):
    slow = Meanwhile(seed=6)
    encoder = Encoder(slow, name="slow", input_size=32)
    options = {"baselines": ["random"], "out": tmp_path, **QUICK}
    slow.happens = lambda: transfer(runs[1:], [TINY], *data, **options)
    transfer(runs[:1], [encoder], *data, **options)
    altered(tmp_path)
    for sets, target in ((runs[:1], encoder), (runs[1:], TINY)):
        assert (transfer(sets, [target], *data, **options).accuracy == 0.015625).all()


def test_every_bank_is_looked_up_once(runs, data, monkeypatch):
    looked_up = []

    def counted(encoder, images, *, views=0, **options):
        looked_up.append((encoder.fingerprint, images.fingerprint, views))
        return extract_features(encoder, images, views=views, **options)

    monkeypatch.setattr("probedistill.features.store.extract_features", counted)
    transfer(runs[:1], [TINY], *data, **QUICK)
    assert len(looked_up) == len(set(looked_up)) == 2, "test images and training images; the medoids are among these"


@pytest.mark.slow
def test_memory_holds_the_features_of_one_target_at_a_time(runs, data, monkeypatch):
    from probedistill.features import store

    made, still_there, extract = [], [], store.extract_features

    def watched(encoder, *args, **options):
        gc.collect()
        still_there.append({name for name, bank in made if bank() is not None and name != encoder.fingerprint})
        bank = extract(encoder, *args, **options)
        made.append((encoder.fingerprint, weakref.ref(bank)))
        return bank

    monkeypatch.setattr(store, "extract_features", watched)
    transfer(runs, [TINY, f"{TINY}@40", f"{TINY}@24"], *data, **{**QUICK, "seeds": 1, "baselines": ["random"]})
    assert len({name for name, _ in made}) >= 3
    assert not any(still_there)


def test_the_nearest_neighbour_as_a_probe(runs, data):
    matrix = transfer(runs[:1], [TINY], *data, probes=["1nn"], **QUICK)
    assert matrix.probes == ("1nn",)
    assert not np.isnan(matrix.accuracy).any()
    assert not np.isnan(matrix.baselines["full"]).any()
    for options, says in (
        ({"probe": ["1nn"]}, "unknown option of transfer 'probe'; did you mean 'probes'"),
        ({"probes": "1nn"}, "must be a list of names"),
        ({"probes": ["2nn"]}, "unknown probe"),
    ):
        with pytest.raises(UserError, match=says):
            transfer(runs[:1], [TINY], *data, **options)


def test_names_tell_targets_and_sources_apart(runs, data, place):
    first = DistilledSet.load(runs[0])
    encoders = [
        load_encoder(TINY),
        load_encoder(TINY, encoder_args={"seed": 1}),
        load_encoder(TINY, input_size=40),
        Encoder(tiny(seed=7), name="alone", input_size=32),
    ]
    shutil.copytree(runs[0], place / "runs" / "copy", dirs_exist_ok=True)
    matrix = transfer([runs[0], place / "runs" / "copy", first, first], encoders, *data, baselines=[], **QUICK)
    names = [target.name for target in matrix.targets]
    assert names[2:] == ["helpers_encoders:tiny@40", "alone"]
    assert names[:2] == [f"helpers_encoders:tiny@32 {encoder.fingerprint[:6]}" for encoder in encoders[:2]]
    sources = [source.name for source in matrix.sources]
    assert [name.partition(names[0])[2] for name in sources] == [" · a", " · copy", " (1)", " (2)"]
    assert (matrix.accuracy == matrix.accuracy[:, :1]).all()


def test_a_run_with_several_encoders_is_marked_on_each(runs, data):
    held = DistilledSet.load(runs[0])
    second = load_encoder(TINY, input_size=40)
    both = (*held.run.encoders, encoder_record(second.name, second.fingerprint, input_size=40))
    held = replace(held, run=replace(held.run, encoders=both))
    matrix = transfer([held], [TINY, second], *data, baselines=[], **QUICK)
    assert matrix.same.tolist() == [[True, True]]
    assert [encoder.fingerprint for encoder in matrix.sources[0].encoders][1:] == [second.fingerprint]


def test_order_of_classes_does_not_matter(runs, data):
    held = DistilledSet.load(runs[0])
    order = [2, 0, 1]
    turned = DistilledSet(
        held.float_images, torch.tensor([order.index(y) for y in held.labels.tolist()]),
        tuple(NAMES[c] for c in order), held.run,
    )  # fmt: skip
    matrix = transfer([held, turned], [TINY], *data, baselines=[], **QUICK)
    assert matrix.accuracy[0, 0, 0] == pytest.approx(matrix.accuracy[0, 1, 0])


def test_a_source_that_cannot_be_loaded_has_no_centroids(runs, data, other, tmp_path):
    """Its config.yaml names a module, and no code from a run's folder is run."""
    with pytest.warns(
        UserWarning, match=r"leaving out a row of centroids.*not trusted.*helpers_encoders:tiny.*encoders=…"
    ):
        matrix = transfer(runs, [other], *data, out=tmp_path, **QUICK)
    assert np.isnan(matrix.baselines["centroids"][0, 0, 0])
    assert matrix.baselines["centroids"][0, 1, 0] > 0.1
    assert np.isnan(load_transfer(tmp_path).baselines["centroids"][0, 0, 0])
    assert str(matrix).count("centroids of") == 1


@pytest.mark.slow
def test_a_source_is_loaded_as_its_run_describes_it(folder, data, tmp_path):
    config = EncoderConfig(encoder="timm:test_efficientnet", pretrained=False, input_size=32)
    run = tmp_path / "run"
    distill(f"folder:{folder}", config, steps=1, out=run, progress=False, evaluate_every=0)
    matrix = transfer([run], [TINY], *data, **QUICK)
    assert matrix.baselines["centroids"][0, 0, 0] > 0.1
    described = yaml.safe_load((run / "config.yaml").read_text())
    for change, says in [
        ({"input_size": 48}, r"run '.*' was not made with the encoder in its config.yaml; add"),
        ({"encoder": "timm:test_nothing"}, r"the encoder of run '.*' cannot be loaded \(unknown timm model"),
        ({"encoder": "hf:someone/model"}, "is not trusted to load its encoder"),
        ({"input_size": "many"}, "has input_size 'many'"),
    ]:
        (run / "config.yaml").write_text(yaml.safe_dump({**described, **change}))
        with pytest.warns(UserWarning, match=says):
            transfer([run], [TINY], *data, **QUICK)


def test_inherited_probe(runs, data, other):
    source, target = load_encoder(TINY), load_encoder(other)
    bank = extract_features(source, data[0], progress=False)
    held = with_extras(DistilledSet.load(runs[0]), source, bank, keep_head=True)
    matrix = transfer([held], [other, TINY], *data, probes=["ridge", "inherited"], **QUICK)
    expected = evaluate(held, target, None, data[1], probes=["inherited"], baselines=[], source=source, **QUICK)
    assert matrix.probes == ("ridge", "inherited")
    assert matrix.accuracy[1, 0, 0] == expected.rows[0].top1
    assert np.isnan(matrix.baselines["random"][1]).all()
    assert not np.isnan(matrix.accuracy).any()
    with pytest.raises(UserError, match=r"probes 'inherited' needs .*: DistilledSet.* has no folder .* add '.*tiny'"):
        transfer([held], [other], *data, probes=["inherited"], **QUICK)
    with pytest.raises(UserError, match=r"needs a head, but run .* has none; add it: probedistill.with_extras"):
        transfer(runs, [TINY, other], *data, probes=["inherited"], **QUICK)


@pytest.fixture(scope="module")
def with_heads(runs, data, other):
    """The sets with the heads of their own encoders; the second set has its classes in another order."""
    found = []
    for run, word, order in zip(runs, (TINY, other), ([0, 1, 2], [2, 0, 1]), strict=True):
        held, source = DistilledSet.load(run), load_encoder(word)
        labels = torch.tensor([order.index(y) for y in held.labels.tolist()])
        held = replace(held, labels=labels, class_names=tuple(NAMES[c] for c in order))
        bank = extract_features(source, data[0].with_classes(held.class_names), progress=False)
        found.append(with_extras(held, source, bank, keep_head=True))
    return found


@pytest.mark.slow
def test_baselines_of_the_inherited_probe_are_those_of_evaluate(with_heads, data, other, tmp_path):
    encoders = [load_encoder(word) for word in (TINY, other)]
    matrix = transfer(with_heads, encoders, *data, probes=["inherited"], out=tmp_path, **QUICK)
    assert matrix.probes == ("inherited",)
    for s, (held, source) in enumerate(zip(with_heads, encoders, strict=True)):
        for t, target in enumerate(encoders):
            options = {"probes": ["inherited"], "full_views": 0, "baselines": ["random", "centroids", "full"], **QUICK}
            expected = evaluate(held, target, *data, source=source, **options)
            assert matrix.accuracy[0, s, t] == expected["distilled"].top1
            random = expected["random real"]
            assert matrix.baselines["random_inherited"][0, s, t] == random.top1
            assert matrix.baselines_std["random_inherited"][0, s, t] == random.std
            assert matrix.baselines["full"][0, t] == expected["full real data", "ridge"].top1
            if s == t:  # evaluate chooses medoids by the target
                assert matrix.baselines["centroids"][0, s, t] == expected["centroids"].top1
    assert not any(np.isnan(matrix.baselines[name]).any() for name in ("random_inherited", "centroids"))
    names = [name for name, *_ in matrix.baseline_rows(0)]
    assert names == [
        *(f"{what}, head of {source.name}" for what in ("centroids", "random real") for source in matrix.sources),
        "full real data, ridge",
    ]
    assert not np.isnan(load_transfer(tmp_path).baselines["random_inherited"]).any()
    altered(tmp_path)
    again = transfer(with_heads, encoders, *data, probes=["inherited", "ridge"], out=tmp_path, **QUICK)
    for name in ("random_inherited", "centroids", "full"):
        assert (again.baselines[name][0] == 0.015625).all()
    assert np.isnan(again.baselines["random_inherited"][1]).all()
    assert (again.baselines["random"][1] > 0.1).all()
    weight = with_heads[0].head.weight
    strange = replace(with_heads[0], head=replace(with_heads[0].head, weight=weight.flip(0)))
    turned = transfer([strange], encoders, *data, probes=["inherited"], out=tmp_path, **QUICK)
    assert (turned.baselines["random_inherited"] != 0.015625).all()  # not reused: it has another head


def test_inherited_cells_do_not_load_encoders_again_and_again(with_heads, data, other, monkeypatch):
    loaded = []

    def counted(config):
        loaded.append(config.encoder)
        return load_encoder(config)

    monkeypatch.setattr("probedistill.encoders.pool.load_encoder", counted)
    matrix = transfer(with_heads, [TINY, other], *data, probes=["inherited"], **QUICK)
    assert not np.isnan(matrix.accuracy).any()
    assert len(loaded) <= 3, "each is looked at once, and one came back beside the other"


def test_rows_of_soft_labels_are_marked(runs, with_heads, data, tmp_path):
    soft = replace(with_heads[0], soft_labels=torch.softmax(3 * torch.eye(3), 1))
    plain = DistilledSet.load(runs[0])
    options = {"baselines": ["random"], **QUICK}
    matrix = transfer([soft, plain], [TINY], *data, out=tmp_path, **options)
    assert [matrix.row_name(0, s).endswith(", soft labels") for s in range(2)] == [True, False]
    assert str(matrix).count("soft labels") == 1
    assert [source.soft_labels for source in load_transfer(tmp_path).sources] == [True, False]
    assert "soft labels" not in str(transfer([soft], [TINY], *data, hard_labels=True, **options))
    assert "soft labels" not in str(transfer([soft], [TINY], *data, probes=["inherited"], **options))


def test_a_set_of_real_images_is_labelled_as_such(runs, data):
    held = DistilledSet.load(runs[0])
    config = replace(held.run.config, canvas=replace(held.run.config.canvas, init="real"))
    matrix = transfer(
        [held, replace(held, run=replace(held.run, config=config, begun_from="real"))],
        [TINY],
        *data,
        baselines=[],
        **QUICK,
    )
    names = [source.name.partition(" · ")[0] for source in matrix.sources]
    assert names == ["clp", "clp from real"]
    assert [source.method for source in matrix.sources] == ["clp", "clp"]


def test_probes_without_augmentation_are_separate_rows(runs, data):
    matrix = transfer(runs[:1], [TINY], *data, without_augmentation=True, **QUICK)
    assert matrix.probes == ("ridge", "ridge, no augmentation")
    assert not np.isnan(matrix.accuracy).any()


def test_sets_of_different_augmentations_are_scored_with_the_first(runs, data):
    held = [DistilledSet.load(run) for run in runs]
    config = held[1].run.config
    noisy = replace(config, augment=replace(config.augment, noise_prob=0.7))
    flat = replace(config, augment=AugmentConfig(flip=0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # noise is not part of evaluation
        alike = [held[0], replace(held[1], run=replace(held[1].run, config=noisy))]
        transfer(alike, [TINY], *data, baselines=[], **QUICK)
    other = replace(held[1], run=replace(held[1].run, config=flat))
    with pytest.warns(UserWarning, match="was distilled with a different augmentation"):
        transfer([held[0], other], [TINY], *data, baselines=[], **QUICK)


# ---------------------------------------------------------------- the numbers and their file

finite_or_nan = st.one_of(st.floats(0, 1), st.just(float("nan")))


@st.composite
def matrices(draw):
    p, s, t = (draw(st.integers(1, 3)) for _ in range(3))

    def array(*shape):
        values = draw(st.lists(finite_or_nan, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        return np.array(values).reshape(shape)

    shapes = {"random": (p, t), "full": (p, t), "centroids": (p, s, t), "random_inherited": (p, s, t)}
    names = draw(st.sets(st.sampled_from(sorted(shapes))))
    about = ImagesRecord("x", "y", 3, "z")
    encoders = tuple(EncoderAbout(f"e{i}", f"{i}", 32) for i in range(3))
    return TransferMatrix(
        tuple(Source(f"s{i}", f"r{i}", "clp", (encoders[i],)) for i in range(s)), encoders[:t],
        (*(f"p{i}" for i in range(p - 1)), draw(st.sampled_from(["ridge", "inherited"]))),
        array(p, s, t), array(p, s, t),
        {name: array(*shapes[name]) for name in names}, {name: array(*shapes[name]) for name in names},
        ("a",), 1, TransferConfig(seeds=2), AugmentConfig(), RealImages(about, about), {}, True, {"inherited": "ridge"},
    )  # fmt: skip


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(matrices())
def test_every_matrix_survives_its_file(tmp_path_factory, matrix):
    folder = tmp_path_factory.mktemp("json")
    matrix.write(folder)
    read = load_transfer(folder)
    assert np.array_equal(read.accuracy, matrix.accuracy, equal_nan=True)
    assert set(read.baselines) == set(matrix.baselines)
    for name, values in matrix.baselines.items():
        assert np.array_equal(read.baselines[name], values, equal_nan=True)
    assert as_plain(read) == as_plain(matrix)
    assert str(read).count("–") >= np.isnan(matrix.accuracy).sum()
    assert len(read.figures()) == len(matrix.probes)
    for figure in read.figures():
        assert figure.svg()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "align"}, "is not a probedistill transfer file; give a file that probedistill transfer wrote"),
        ({"finished": False}, "is not finished"),
        ({"finished": None}, r"Expected `bool`, got `null` - at `\$.finished`"),
        ({"accuracy": [[[0.5]]]}, r"accuracy has the shape \(1, 1, 1\), not \(1, 2, 2\)"),
        ({"accuracy": [[[0.5, 1.5], [0.1, 0.2]]]}, "accuracy has values outside 0 to 1"),
        ({"accuracy": [[["x", 1], [0.1, 0.2]]]}, r"expected an array of numbers - at `\$.accuracy`"),
        ({"accuracy": []}, "accuracy has the shape"),
        ({"baselines": {}}, "baselines and baselines_std have different names"),
        ({"baselines": {"best": [[0.1, 0.2]]}}, "baselines has an unknown 'best'"),
        ({"sources": [1, 2]}, r"Expected `object`, got `int` - at `\$.sources\[0\]`"),
        ({"sources": []}, "at least one source"),
        ({"targets": [{"name": 3, "fingerprint": "x"}] * 2}, r"at `\$.targets\[0\].name`"),
        ({"cells": {"a": {"ridge": [2.0]}}}, r"Expected `float` <= 1.0 - at `\$.cells"),
    ],
)
def test_files_without_a_complete_matrix(matrix, tmp_path, change, says):
    matrix.write(tmp_path)
    path = tmp_path / "transfer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": None, **change}))
    with pytest.raises(UserError, match=says):
        load_transfer(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        load_transfer(tmp_path)
    for content in ("{", "[]", "\xff"):
        (tmp_path / "transfer.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(UserError, match=r"is not complete JSON|has no JSON object"):
            load_transfer(tmp_path)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def run(run_cli, folder, tmp_path):
    def call(*arguments, images=f"folder:{folder}"):
        return run_cli(
            "transfer", *arguments, "--images", images, "--out", tmp_path / "out", "--views", 2, "--seeds", 1,
            "--no-progress",
        )  # fmt: skip

    return call


@pytest.mark.slow
def test_command(run, runs, other_file, tmp_path):
    assert "needs trust; add --trust" in run(*runs, "--encoders", TINY, other_file).error()
    result = run(*runs, "--encoders", TINY, other_file, "--trust", "--probes", "ridge", "--probes", "logistic")
    assert result.code == 0, result.err
    assert result.err == ""
    for text in ("sfm · helpers", "centroids of helpers", "random real", "full real data", "logistic", "transfer.png"):
        assert text in result.out
    assert load_transfer(tmp_path / "out").probes == ("ridge", "logistic")
    altered(tmp_path / "out")
    again = run(*runs, "--encoders", TINY, "--encoders", other_file, "--trust")
    assert again.out.count(" 1.6 ") == 2 * 6


def test_command_with_the_users_own_crops(run, runs, folder, tmp_path):
    crops = ["--augment.scale", 0.35, 1.0, "--augment.flip", 0]
    result = run(runs[0], "--encoders", TINY, *crops, "--probe", "logistic", "--baselines", "random")
    assert (result.code, result.err) == (0, "")
    found = load_transfer(tmp_path / "out")
    assert (found.augment.scale, found.augment.flip) == ((0.35, 1.0), 0)
    expected = transfer(
        runs[:1], [TINY], *load_splits(f"folder:{folder}"), probes=["logistic"], views=2, seeds=1, baselines=[],
        augment=AugmentConfig(scale=(0.35, 1.0), flip=0.0), progress=False,
    )  # fmt: skip
    assert np.array_equal(found.accuracy, expected.accuracy)
    error = run(runs[0], "--encoders", TINY, "--augment.scale", 0.5, 0.2).error()
    assert "augment.scale (0.5, 0.2) must satisfy" in error


def test_command_says_in_one_line_that_centroids_are_left_out(run, runs):
    result = run(runs[0], "--encoders", f"{TINY}@40")
    assert result.code == 0, result.err
    (line,) = result.err.splitlines()
    assert line.startswith("warning: leaving out a row of centroids")


@pytest.fixture(scope="module")
def odd(place, runs, folder):
    """Runs and files that a matrix must refuse, by name."""
    base = place / "odd"
    base.mkdir(exist_ok=True)
    two = make_image_folder(base / "two", classes=NAMES[:2], per_class=4)
    options = {"steps": 1, "progress": False, "evaluate_every": 0}
    distill(f"folder:{two}", TINY, out=base / "fewer", **options)
    distill(f"folder:{folder}", TINY, out=base / "double", images_per_class=2, **options)
    shutil.copytree(runs[0], base / "unfinished")
    content = json.loads((base / "unfinished" / "run.json").read_text())
    (base / "unfinished" / "run.json").write_text(json.dumps({**content, "sha256": None, "finished": False}))
    shutil.copytree(runs[0], base / "strange")
    content["config"]["augment"]["flip"] = 2
    (base / "strange" / "run.json").write_text(json.dumps({**content, "sha256": None}))
    (base / "weights.yaml").write_text(f"checkpoint: {base / 'w.safetensors'}\n")
    (base / "missing.yaml").write_text(f"encoder: timm:mobilenetv1_100\ncheckpoint: {base / 'w.safetensors'}\n")
    return base


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["A"], "encoders is empty; name at least one"),
        (["--encoders", TINY], "RUNS is missing; give it after the command"),
        (["A", "A", "--encoders", TINY], "is named twice"),
        (["none", "--encoders", TINY], "no such folder 'none'"),
        (["ODD/unfinished", "--encoders", TINY], "holds an unfinished run; repeat its command with --resume"),
        (["ODD/strange", "--encoders", TINY], "ODD/strange/run.json' is damaged: "),
        (["A", "ODD/fewer", "--encoders", TINY], "have different classes: 'hen' is in run"),
        (["A", "ODD/double", "--encoders", TINY], "give runs with the same number"),
        (["A", "--encoders", "efficientnet_lite"], "unknown encoder 'efficientnet_lite'"),
        (["A", "--encoders", TINY, TINY], "are the same encoder; name each once"),
        (["A", "--encoders", "ODD/weights.yaml"], "names no encoder"),
        (["A", "--encoders", "ODD/missing.yaml"], "which needs trust; add --trust"),
        (["A", "--encoders", "ODD/missing.yaml", "--trust"], "w.safetensors' is not a file"),
        (["A", "--encoders", f"{TINY}@4"], "input_size 4 is too small"),
        (["A", "--encoders", TINY, "--floats"], "floats is for evaluate"),
        (["A", "--encoders", TINY, "--baselines", "neighbours"], "unknown baselines 'neighbours'"),
        (["A", "--encoders", TINY, "--probes", "ridg"], "did you mean 'ridge'"),
        (["A", "--encoders", TINY, "--probes", "inherited"], "needs a head"),
    ],
)
def test_bad_input(run, runs, odd, tmp_path, arguments, says):
    named = [str(runs[0]) if a == "A" else a.replace("ODD", str(odd)) for a in arguments]
    assert says.replace("ODD", str(odd)) in run(*named).error()
    assert not (tmp_path / "out").exists()


def test_bad_images_and_folders(run, runs, odd, tmp_path):
    error = run(runs[0], "--encoders", TINY, images=f"folder:{odd / 'two'}").error()
    assert "was made for different classes: 'hen' is not among those of" in error
    out = tmp_path / "out"
    out.mkdir()
    (out / "transfer.json").write_text('{"kind": "align"}')
    assert "is not a probedistill transfer file" in run(runs[0], "--encoders", TINY).error()
    assert (out / "transfer.json").read_text() == '{"kind": "align"}'
    shutil.rmtree(out)
    out.write_text("a file")
    assert "is not a folder" in run(runs[0], "--encoders", TINY).error()


def test_config_checks_every_value():
    with pytest.raises(UserError, match="seeds 0"):
        TransferConfig(seeds=0).check()


def test_a_set_from_elsewhere_is_called_by_its_folder(place, data):
    """Two imported sets were both called "unknown · unknown"."""
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in ("theirs", "others"):
        DistilledSet(images, torch.arange(3), NAMES).save(place / name)
    found = transfer([place / "theirs", place / "others"], [TINY], *data, baselines=["random"], **QUICK)
    assert [source.name for source in found.sources] == ["theirs · from elsewhere", "others · from elsewhere"]
