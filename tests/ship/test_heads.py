"""A ready head: its file, its predictions, and errors on wrong use."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TINY
from helpers_runs import encoder_record
from helpers_statistics import NAMES, bank, statistics_of
from probedistill import LinearProbe, ReadyHead, UserError, load_encoder, load_head, load_splits
from probedistill.features.encode import encode
from probedistill.images.decode import decode_image
from probedistill.ship.heads import HeadAbout, Preparation, head_of_statistics
from probedistill.store.run_record import EncoderRecord


def a_head(of, names=("hen", "cat", "dog"), seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(len(names), of.dim, generator=generator)
    about = HeadAbout(
        class_names=names, encoder=EncoderRecord.of(of), preparation=Preparation.of(of), candidate="ridge",
        forecast=0.5,
    )  # fmt: skip
    return ReadyHead(weight, torch.randn(len(names), generator=generator), about, **options)


def test_file_gives_back_what_was_written(encoder, tmp_path):
    head = a_head(encoder)
    head.save(tmp_path)
    found = load_head(tmp_path)
    assert torch.equal(found.weight, head.weight)
    assert torch.equal(found.bias, head.bias)
    assert found.about == head.about
    assert found.about.preparation.mean == (0.5, 0.5, 0.5)


def test_predictions_are_names_for_every_form_of_images(encoder, photos):
    head = a_head(encoder, encoder=encoder)
    _, test = load_splits(f"folder:{photos}")
    views = torch.stack([encoder.centre_view(test.load(i)) for i in range(len(test))])
    names = head.predict(views)
    assert set(names) <= set(head.about.class_names)
    assert head.predict(test) == names
    assert head.predict([test.load(i) for i in range(len(test))]) == names
    assert head.predict([photos / name for name in test.names]) == names


@pytest.mark.parametrize("names", [("hen", "cat", "dog"), ("cat", "dog"), ("dog", "cat")])
def test_scikit_learn_object_says_the_same(encoder, names):
    head = a_head(encoder, names)
    features = np.random.default_rng(0).normal(size=(50, encoder.dim))
    found = head.as_sklearn()
    wanted = head.logits(features)
    assert found.predict(features).tolist() == [names[i] for i in wanted.argmax(axis=1)]
    shares = np.exp(wanted - wanted.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    columns = [names.index(name) for name in found.classes_]
    np.testing.assert_allclose(found.predict_proba(features), shares[:, columns], atol=1e-6)


def test_plain_pytorch_of_the_docs_says_the_same(encoder, tmp_path, monkeypatch, capsys):
    timm = pytest.importorskip("timm")
    page = (Path(__file__).parents[2] / "docs" / "over-time.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "safe_open" in block)
    head = a_head(encoder, encoder=encoder)
    head.save(tmp_path / "heads" / "resnet18")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # as a phone writes a portrait
    Image.fromarray(pixels).resize((70, 70)).save(tmp_path / "photo.jpg", exif=turned)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: encoder.model)
    found = {}
    exec(block, found)
    assert capsys.readouterr().out.split() == head.predict(["photo.jpg"])
    features = found["features"].double().numpy()
    np.testing.assert_allclose(
        features, encode(encoder, encoder.centre_view(decode_image("photo.jpg"))[None]), atol=1e-5
    )


def test_the_weights_are_not_printed(encoder):
    head = a_head(encoder)
    assert "tensor" not in repr(head)
    assert "tensor" not in repr(head_of_statistics(statistics_of(bank([0, 1, 2]))))


def test_another_encoder_is_refused(encoder):
    head = a_head(encoder)
    with pytest.raises(UserError, match="the head needs its encoder"):
        head.predict(torch.rand(1, 3, 32, 32))
    with pytest.raises(UserError, match="the head is for encoder"):
        head.predict(torch.rand(1, 3, 32, 32), load_encoder(TINY, encoder_args={"seed": 1}, device="cpu"))


def test_objects_that_are_not_images_are_one_line(encoder, tmp_path):
    head = a_head(encoder, encoder=encoder)
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"x\.jpg"):
        head.predict([tmp_path / "x.jpg"])
    with pytest.raises(UserError, match="images must be"):
        head.predict(torch.zeros(3, 32, 32))
    with pytest.raises(UserError, match=r"from -1\.00 to 1\.00, outside \[0, 1\]; undo their normalisation"):
        head.predict(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))
    with pytest.raises(UserError, match=r"not a file; name the photos in that folder$"):
        head.predict([tmp_path])


def test_an_unreadable_photo_does_not_affect_the_others(encoder, photos, tmp_path, run_cli):
    head = a_head(encoder, encoder=encoder)
    whole = sorted(photos.rglob("*.png"))[:20]
    folder = tmp_path / "new"
    folder.mkdir()
    for number, path in enumerate(whole):
        shutil.copy(path, folder / f"{number:02}.png")
    for name in ("03x.jpg", "zz.jpg"):
        (folder / name).write_bytes(b"no picture")
    files = sorted(folder.iterdir())
    with pytest.warns(
        UserWarning, match=r"left unreadable images without a class, 2 of 22 images: .*03x\.jpg.* and 1 more"
    ):
        names = head.predict(files, strict=False)
    assert [names[4], names[-1]] == ["", ""]
    assert names[:4] + names[5:-1] == head.predict(whole)
    (tmp_path / "head").mkdir()
    head.save(tmp_path / "head")
    into_a_folder = ["predict", tmp_path / "head", folder, "--encoder", TINY, "--csv", tmp_path]
    assert "it is a folder; give the name of a file" in run_cli(*into_a_folder).error()
    command = ["predict", tmp_path / "head", folder, "--encoder", TINY, "--csv", tmp_path / "found.csv"]
    shown = run_cli(*command)
    assert shown.code == 0, shown.err
    assert "03x.jpg" in shown.err
    lines = (tmp_path / "found.csv").read_text().splitlines()
    assert (len(lines), lines[5].endswith("03x.jpg,,")) == (23, True)
    # A photo given by name is an error.
    assert "zz.jpg" in run_cli("predict", tmp_path / "head", folder / "zz.jpg", "--encoder", TINY).error()


@pytest.mark.parametrize("names", [("hen", "cat", "dog"), ("dog", "cat")])
def test_probabilities_equal_scikit_learns_at_the_heads_temperature(encoder, photos, tmp_path, names):
    head = a_head(encoder, names, encoder=encoder)
    files = sorted(photos.rglob("*.png"))[:6]
    found = head.predict_proba(files)
    assert [names[i] for i in found.argmax(axis=1)] == head.predict(files)
    features = encode(encoder, torch.stack([encoder.centre_view(decode_image(file)) for file in files]))
    for temperature in (1.0, 0.05):
        warm = replace(head, about=replace(head.about, temperature=temperature))
        warm.save(tmp_path)
        found, known = load_head(tmp_path).predict_proba(files, encoder), warm.as_sklearn()
        columns = [names.index(name) for name in known.classes_]
        np.testing.assert_allclose(found[:, columns], known.predict_proba(features), atol=1e-6)
    assert found.max() > head.predict_proba(files).max()
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="left unreadable images without a class"):
        found = head.predict_proba([tmp_path / "x.jpg", *files], strict=False)
    np.testing.assert_array_equal(found, [[np.nan] * len(names), *head.predict_proba(files)])
    assert head.predict_proba([]).shape == (0, len(names))
    replace(head, about=replace(head.about, temperature=0.0)).save(tmp_path)
    with pytest.raises(UserError, match=r"is damaged .*temperature is 0\.0"):
        load_head(tmp_path)


def test_command_names_the_likeliest_classes_of_each_photo(encoder, photos, tmp_path, run_cli):
    head = a_head(encoder, ("hen", "=cat", "dog [b]"), encoder=encoder)
    head.save(tmp_path)
    files = sorted(photos.rglob("*.png"))[:3]
    command = ["predict", tmp_path, *files, "--encoder", TINY]
    shown = run_cli("--json", *command, "--top", 5)
    assert shown.code == 0, shown.err
    rows = json.loads(shown.out)["rows"]
    for row, shares in zip(rows, head.predict_proba(files), strict=True):
        order = [head.about.class_names[i] for i in np.argsort(-shares)]
        assert [row["class"], row["class 2"], row["class 3"]] == order
        assert [row["percent"], row["percent 2"]] == [f"{100 * share:.1f}" for share in sorted(shares)[:0:-1]]
        assert "class 4" not in row
    assert list(json.loads(run_cli("--json", *command).out)["rows"][0]) == ["photo", "class", "percent"]
    shown = run_cli(*command, "--top", 3).out
    assert "dog [b]" in shown
    assert not re.search(r"│ +\d[\d.]* │  +[a-z=]", shown), "class 2 is text, aligned as such"
    assert "top 0 must be at least 1" in run_cli(*command, "--top", 0).error()


def test_damaged_files_are_one_line(encoder, tmp_path):
    with pytest.raises(UserError, match="is not there"):
        load_head(tmp_path)
    path = a_head(encoder).save(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(UserError, match="is damaged"):
        load_head(path)
    statistics_of(bank([0, 1, 2])).save(path)
    with pytest.raises(UserError, match="has no head"):
        load_head(path)


def test_weights_that_contradict_the_record_are_damage(encoder, tmp_path):
    head = a_head(encoder)
    ReadyHead(head.weight[:2], head.bias, head.about).save(tmp_path)
    with pytest.raises(UserError, match="is damaged"):
        load_head(tmp_path)


def test_head_from_statistics_is_the_ridge_probe_on_all_features():
    features = bank([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    found = head_of_statistics(statistics_of(features))
    probe = LinearProbe("ridge").fit(features.centre, features.labels)
    np.testing.assert_allclose(found.weight.numpy(), probe.coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bias.numpy(), probe.intercept_, rtol=1e-5, atol=1e-6)
    assert found.fingerprint == encoder_record().fingerprint


def test_head_from_statistics_needs_every_class_and_second_moments():
    with pytest.raises(UserError, match="'owl' has no images"):
        head_of_statistics(statistics_of(bank([0, 1], names=NAMES)))
    with pytest.raises(UserError, match="only counts and sums"):
        head_of_statistics(statistics_of(bank([0, 1, 2]), second_moments=False))
