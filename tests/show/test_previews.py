"""Previews: each image is at its place, with its whole name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from probedistill.show.previews import grid, save_grid


@given(st.integers(1, 25), st.sampled_from([8, 40, 120]), st.booleans())
@settings(max_examples=15, deadline=None)
def test_every_image_is_there(tmp_path_factory, count, side, titled):
    path = tmp_path_factory.mktemp("grid") / "preview.png"
    values = torch.arange(count) / 50  # dark greys, all different
    images = values.view(-1, 1, 1, 1).expand(count, 3, side, side)
    save_grid(path, images, [f"class {i}" for i in range(count)] if titled else None)
    sheet = np.asarray(Image.open(path).convert("L"))
    for grey in (values * 255).round().int().tolist():
        assert (sheet == grey).sum() >= min(side, 112) ** 2


def test_long_names_are_whole(tmp_path):
    images = torch.rand(2, 3, 32, 32)
    long = "a_class_name_without_a_space_that_is_longer_than_its_picture and more"
    save_grid(tmp_path / "short.png", images, ["cat", "dog"])
    save_grid(tmp_path / "long.png", images, [long, "dog"])
    short, tall = (Image.open(tmp_path / name) for name in ("short.png", "long.png"))
    assert tall.width == short.width
    assert tall.height > short.height + 30
    # Nothing is written outside the picture's own column.
    half = np.asarray(tall.convert("L"))[150:, tall.width // 2 + 60 :]
    assert (half == 255).all()


@pytest.mark.parametrize(("classes", "each", "columns"), [(2, 3, 3), (10, 2, 6), (2, 10, 10), (4, 1, 3), (1, 50, 10)])
def test_images_of_a_class_are_in_one_row(classes, each, columns):
    titles = [f"class {i}" for i in range(classes) for _ in range(each)]
    sheet = grid(torch.rand(classes * each, 3, 8, 8), titles)
    assert sheet.width == columns * (112 + 4) + 4


def test_limit(tmp_path):
    save_grid(tmp_path / "p.png", torch.rand(30, 3, 8, 8), [str(i) for i in range(30)], limit=4)
    assert Image.open(tmp_path / "p.png").height < 300


def test_every_class_is_shown_if_there_are_too_many_images():
    titles = [f"class {i}" for i in range(6) for _ in range(5)]
    values = torch.arange(6).repeat_interleave(5) / 50
    sheet = np.asarray(grid(values.view(-1, 1, 1, 1).expand(-1, 3, 112, 112), titles, limit=13).convert("L"))
    shown = [(sheet == grey).sum() // 112**2 for grey in (torch.arange(6) / 50 * 255).round().int().tolist()]
    assert shown == [2] * 6
