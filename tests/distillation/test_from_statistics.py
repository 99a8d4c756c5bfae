"""Distilling from statistics, and runs that keep them."""

from __future__ import annotations

import pytest

from conftest import TINY
from helpers_statistics import same
from probedistill import UserError, class_statistics, load_encoder, load_images
from probedistill.features.statistics import statistics_of_run

# ---------------------------------------------------------------------------------------------------
# Runs that keep their statistics


def test_a_run_keeps_the_statistics_of_its_real_features(distil_cli, photos, tmp_path):
    run = tmp_path / "run"
    assert distil_cli("--method", "sfm", "--keep-stats", "--also", f"{TINY}@40", "--out", run).code == 0
    first, second = statistics_of_run(run)
    images = load_images(f"folder:{photos}", split="train")
    of_images = class_statistics(
        load_encoder(TINY, device="cpu"), images, views=2, cache=tmp_path / "cache", progress=False
    )
    assert same(first, of_images)
    assert (first.about.encoder.input_size, second.about.encoder.input_size) == (32, 40)
    assert first.about.parts[0].name == "run"


def test_a_run_without_statistics_says_how_to_have_them(distil_cli, tmp_path):
    run = tmp_path / "run"
    assert distil_cli("--keep-stats", "--out", run).code == 0
    assert distil_cli("--overwrite", "--out", run).code == 0
    with pytest.raises(UserError, match="keeps no statistics; distil it again with --keep-stats"):
        statistics_of_run(run)
