"""Images that a program already has, and errors for anything else."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from conftest import TINY
from helpers_encoders import Tiny
from probedistill import (
    Encoder,
    EncoderConfig,
    UserError,
    align,
    class_statistics,
    distill,
    evaluate,
    export,
    extract_features,
    geometry,
    labelled_images,
    load_encoder,
    load_images,
    load_splits,
    migrate,
    transfer,
    write_report,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)
LABELS = ["dog", "cat"] * 3


def as_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255,
        list(PIXELS),
        list(torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255),
        [one.astype(np.float64) / 255 for one in PIXELS],
        pd.Series(list(PIXELS), index=range(7, 13)),
        [Image.fromarray(one) for one in PIXELS],
        [as_png(one) for one in PIXELS],
    ],
    ids=[
        "array",
        "tensor",
        "channels first",
        "floats",
        "list",
        "tensors",
        "float arrays",
        "column",
        "pictures",
        "bytes",
    ],
)
def test_pixels_do_not_depend_on_the_form_of_the_images(images):
    found = labelled_images(images, LABELS)
    assert found.class_names == ("cat", "dog")
    assert found.labels.tolist() == [1, 0] * 3
    assert all(np.array_equal(np.asarray(found.load(i)), one) for i, one in enumerate(PIXELS))


@pytest.mark.parametrize("channel", [1, 3])
def test_grey_tensors_of_any_precision(channel):
    images = torch.rand(6, 1, 12, 16).movedim(1, channel).to(torch.bfloat16)
    found = labelled_images(images, pd.Series(LABELS, dtype="string"))
    assert found.load(0).size == (16, 12)
    assert np.asarray(found.load(0))[..., 0] == pytest.approx(255 * images[0].float().squeeze().numpy(), abs=0.6)
    assert labelled_images(list(images), LABELS).load(3).size == (16, 12)


def test_palette_colours_are_part_of_the_content():
    """Features are cached by content, and equal palette indices with other palettes are different pictures."""
    numbers = Image.fromarray(PIXELS[0, ..., 0], "L")
    red, blue = numbers.convert("P"), numbers.convert("P")
    red.putpalette([v for i in range(256) for v in (i, 0, 0)])
    blue.putpalette([v for i in range(256) for v in (0, 0, i)])
    assert labelled_images([red] * 6, LABELS).fingerprint != labelled_images([blue] * 6, LABELS).fingerprint


def test_paths(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, one in zip(paths, PIXELS, strict=True):
        path.write_bytes(as_png(one))
    found = labelled_images(paths, np.array([0, 1] * 3))
    assert found.class_names == ("0", "1")
    assert found.names[0] == str(paths[0])
    assert np.array_equal(np.asarray(found.load(5)), PIXELS[5])


@pytest.mark.parametrize("whole", [True, False])
def test_a_little_overshoot_is_clipped(whole):
    """A bicubic resize leaves values just beyond black and white; that does not mean that they were normalised."""
    images = PIXELS / 255
    images[:, 0], images[:, 1] = -0.01, 1.01
    found = np.asarray(labelled_images(images if whole else list(images), LABELS).load(0))
    assert (found[0] == 0).all()
    assert (found[1] == 255).all()
    assert np.array_equal(found[2:], PIXELS[0, 2:])


def test_names_may_be_an_iterator():
    images = labelled_images(PIXELS, [0, 1] * 3, iter("ab"), names=(str(number) for number in range(6)))
    assert images.class_names == ("a", "b")
    assert list(images.names) == ["0", "1", "2", "3", "4", "5"]


def test_the_fingerprint_depends_on_the_contents():
    one = labelled_images(PIXELS, LABELS)
    assert labelled_images(PIXELS.copy(), LABELS).fingerprint == one.fingerprint
    assert labelled_images(PIXELS ^ 1, LABELS).fingerprint != one.fingerprint
    assert labelled_images(PIXELS, LABELS[::-1]).fingerprint != one.fingerprint


@pytest.mark.parametrize(
    ("images", "labels", "options", "says"),
    [
        (PIXELS, LABELS[:3], {}, "6 images and 3 labels"),
        (PIXELS, LABELS, {"class_names": ["cat"]}, "label 'dog', which class_names does not name"),
        (PIXELS, [0, 1] * 3, {"class_names": ["cat"]}, "labels outside 0"),
        (PIXELS, [-1, 1] * 3, {}, "labels outside 0"),
        (PIXELS, [1, 500] * 3, {}, "number the classes from 0, or name them"),
        (PIXELS, [0.5, 1.0] * 3, {}, "labels of float64"),
        (PIXELS, ["", "cat"] * 3, {}, "is empty"),
        (PIXELS / 100, LABELS, {}, r"outside \[0, 1\]"),
        (PIXELS.astype(np.int64), LABELS, {}, "pixels of int64"),
        (PIXELS[..., :2], LABELS, {}, r"of the shape \(6, 20, 20, 2\)"),
        ([(one, 0) for one in PIXELS], LABELS, {}, "image 0 of 'mine' is a tuple; give a path, bytes"),
        ([io.BytesIO(b"x")] * 6, LABELS, {}, "image 0 of 'mine' is a BytesIO"),
        ([*PIXELS[:5], PIXELS[5] / 5], LABELS, {}, r"image 5 of 'mine' has values from .* outside \[0, 1\]; divide"),
        ([np.zeros((5, 8, 8), np.uint8)] * 6, LABELS, {}, r"image 0 of 'mine' has the shape \(5, 8, 8\)"),
        (PIXELS, LABELS, {"class_names": ["cat", "dog", "cat"]}, "class_names name 'cat' twice"),
        (PIXELS, ["cat", "dog", "cat ", "dog", "cat", "cat "], {}, "'cat' and 'cat ' have the same name except"),
        (PIXELS, LABELS, {"names": ["one"]}, "6 images and 1 name"),
        ("folder:photos", LABELS, {}, "are str; give a list of images"),
        (iter(PIXELS), LABELS, {}, "give a list of images"),
        (PIXELS, [0, 1] * 3, {"class_names": "ab"}, "class_names 'ab' must be a list of names"),
        (PIXELS, [0, 1] * 3, {"class_names": {0: "a", 1: "b"}}, "class_names .* must be a list of names"),
        (PIXELS, [0, 1] * 3, {"class_names": [3, 4]}, "class_names .* must be a list of names"),
    ],
)
def test_what_is_wrong_is_one_line(images, labels, options, says):
    with pytest.raises(UserError, match=says) as caught:
        labelled_images(images, labels, name="mine", **options)
    assert "'mine'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_they_are_distilled_and_scored(tmp_path):
    encoder = Encoder(Tiny(), name="own", input_size=24)
    train, test = (labelled_images(PIXELS, LABELS, name="mine", split=split) for split in ("train", "test"))
    options = {"steps": 2, "out": tmp_path / "run", "cache": tmp_path / "cache", "progress": False}
    made = distill(train, encoder, test=test, **options)
    assert made.run.images.spec == "mine"
    assert evaluate(made, encoder, train, test, seeds=1, views=1, cache=tmp_path / "cache", progress=False).rows
    assert distill(train, encoder, test=test, resume=True, **options).class_names == ("cat", "dog")


# ---- something else


class Endless(Dataset):
    """A data set without an end when it is iterated over, like many PyTorch data sets."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.zeros(3, 8, 8), index % 2


@pytest.mark.parametrize("images", [Endless(), PIXELS, None, 3, [PIXELS]], ids=lambda one: type(one).__name__)
def test_objects_that_are_not_images_are_refused_at_once(images):
    for take in (lambda: distill(images, TINY), lambda: load_images(images), lambda: load_splits(images)):
        with pytest.raises(UserError, match=r"images is a \w+; give .*labelled_images\("):
            take()


class Table(Sequence):
    """Like a table of Hugging Face datasets."""

    column_names = ("image", "label")

    @property
    def features(self):
        return {"label": SimpleNamespace(names=["cat", "dog"])}

    def __len__(self):
        return 6

    def __getitem__(self, which):
        columns = {"image": list(PIXELS), "label": [1, 0] * 3}
        return columns[which] if isinstance(which, str) else {name: column[which] for name, column in columns.items()}


@pytest.mark.parametrize(
    ("data", "classes"),
    [
        (Endless(), ("0", "1")),
        (DataLoader(Endless(), batch_size=2), ("0", "1")),
        (Table(), ("cat", "dog")),
        ({"train": Table()}, ("cat", "dog")),
        ([(one, label) for one, label in zip(PIXELS, LABELS, strict=True)], ("cat", "dog")),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_way_out_of_other_data_sets_leads_to_labelled_images(data, classes):
    """Run the line of Python that an error shows."""
    for take in (lambda: distill(data, TINY), lambda: load_splits(data), lambda: labelled_images(data, LABELS)):
        with pytest.raises(UserError, match=r"; give ") as caught:
            take()
        if isinstance(data, dict):
            assert "such as data['train']" in str(caught.value)
            with pytest.raises(UserError) as caught:
                labelled_images(data["train"], LABELS)
        line = re.search(r"labelled_images\(.*\)", str(caught.value))[0]
        ours = {dict: lambda: data["train"], DataLoader: lambda: data.dataset}.get(type(data), lambda: data)()
        found = eval(line, {"labelled_images": labelled_images, "data": ours})
        assert found.class_names == classes
        assert len(found) == len(ours)


class Pictures(Dataset):
    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, index):
        return PIXELS[index % len(PIXELS)]


def test_a_data_set_of_only_images_ends_at_its_length():
    assert labelled_images(Pictures(), LABELS).fingerprint == labelled_images(list(PIXELS), LABELS).fingerprint


def test_a_name_instead_of_loaded_images(encoder, photos):
    spec = f"folder:{photos}"
    train, test = load_splits(spec)
    made = distill(train, encoder, steps=1, progress=False, evaluate_every=0)
    for take in (
        lambda: evaluate(made, encoder, spec, test),
        lambda: evaluate(made, encoder, train, spec),
        lambda: extract_features(encoder, spec),
        lambda: class_statistics(encoder, spec, name="x"),
        lambda: geometry(made, encoder, spec),
        lambda: align([encoder, f"{TINY}@24"], spec),
        lambda: transfer([made], [encoder], spec, test),
    ):
        with pytest.raises(UserError, match=f"'{spec}' is an image spec; open it first with load_splits"):
            take()


@pytest.mark.parametrize("given", [Tiny(), nn.Sequential(Tiny())], ids=["module", "sequence"])
def test_a_torch_module_is_not_an_encoder(given, photos):
    says = rf"encoders? is the module {type(given).__name__}; wrap it: Encoder\(module, name="
    for take in (
        lambda: distill(f"folder:{photos}", given),
        lambda: distill(f"folder:{photos}", [TINY, given]),
        lambda: load_encoder(given),
        lambda: align([given, TINY], load_images(f"folder:{photos}")),
        lambda: extract_features(given, load_images(f"folder:{photos}")),
    ):
        with pytest.raises(UserError, match=says):
            take()


def test_objects_that_are_not_encoders(encoder, photos):
    images = load_images(f"folder:{photos}")
    for name in (TINY, EncoderConfig(encoder=TINY)):
        with pytest.raises(UserError, match=f"encoder '{TINY}' is the name of an encoder; load it first"):
            extract_features(name, images)
    for one in (None, 3):
        with pytest.raises(UserError, match=f"encoder is a {type(one).__name__}; give an encoder from load_encoder"):
            distill(images, one)
    with pytest.raises(UserError, match="is already loaded"):
        load_encoder(encoder)


# ---- a set, its folder, or something else


@pytest.mark.slow
def test_a_set_may_be_given_by_name(encoder, photos, tmp_path):
    train, test = load_splits(f"folder:{photos}")
    run = tmp_path / "run"
    made = distill(train, encoder, steps=1, out=run, cache=tmp_path / "cache", progress=False, evaluate_every=0)
    few = {"seeds": 1, "views": 1, "baselines": ["random"], "progress": False, "cache": tmp_path / "cache"}
    sets = (made, str(run), run)
    scores = [[row.scores for row in evaluate(one, encoder, train, test, **few).rows] for one in sets]
    assert scores[0] == scores[1] == scores[2]
    assert geometry(str(run), encoder, train, progress=False).run.method == "clp"
    _, report = migrate(str(run), load_encoder(TINY, input_size=24, device="cpu"))
    assert report.target.input_size == 24
    export(str(run), tmp_path / "small", progress=False)
    assert transfer(made, encoder, train, test, **few).sources[0].method == "clp", "one is a list of one"
    assert write_report(str(run), tmp_path / "report.html", progress=False).is_file()


def test_objects_that_are_not_sets(encoder, photos):
    train, test = load_splits(f"folder:{photos}")
    for take in (
        lambda: evaluate(encoder, encoder, train, test),
        lambda: migrate(encoder, encoder),
        lambda: transfer([3], [encoder], train, test),
        lambda: write_report([encoder], "report.html"),
    ):
        with pytest.raises(UserError, match=r"run is a (Encoder|int); give the folder of a run, or a name such as set"):
            take()


def test_a_name_in_capitals_is_suggested(photos):
    with pytest.raises(UserError, match="unknown method 'LGM'; did you mean 'lgm'"):
        distill(f"folder:{photos}", TINY, method="LGM")
