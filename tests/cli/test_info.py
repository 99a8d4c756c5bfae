"""What info says about a finished run, an unfinished one, and something else."""

from __future__ import annotations

import json
import re


def shown_by_info(run_cli, folder):
    result = run_cli("--json", "info", folder)
    assert result.code == 0, result.err
    return {row["what"]: row["of this run"] for row in json.loads(result.out)["rows"]}


def test_info_names_every_option_that_is_not_the_default(run_cli, distil_cli, out):
    flags = ("--canvas.init", "real", "--augment.scale", 0.2, 0.9, "--keep-stats", "--aim", "transfer")
    of_images_and_encoder = ("--holdout", 0.3, "--precision", "bf16", "--input-size", 24, "--no-fold-batchnorm")
    assert distil_cli("--out", out, *flags, *of_images_and_encoder, "--lr", 0.5).code == 0
    info = shown_by_info(run_cli, out)
    assert info["method"] == "clp, preset default, aim transfer, 3 steps, seed 0"
    assert set(info["options"].split(", ")) == {
        "canvas.init real", "augment.scale 0.2 0.9", "keep_stats true", "lr 0.5",
    }  # fmt: skip
    assert info["began as"] == "photos"
    assert info["encoder"].endswith("24 features, bf16, fold_batchnorm false")
    assert info["images"].endswith("12 images, holdout 0.3")
    assert info["held out"].endswith("(test), 12 images")
    assert "for 1 encoder" in info["statistics"]


def test_info_of_defaults_names_no_options(run_cli, distil_cli, out):
    assert distil_cli("--out", out, "--method", "sfm").code == 0
    assert "options" not in shown_by_info(run_cli, out)


def test_info_of_imported_images_invents_nothing(run_cli, photos, out):
    assert run_cli("import", photos / "train", "--out", out).code == 0
    info = shown_by_info(run_cli, out)
    assert (info["method"], info["state"]) == ("unknown: another program made the images", "whole")
    assert not {"options", "began as", "encoder"} & info.keys()


def test_info_of_an_unfinished_run(run_cli, distil_cli, out):
    assert distil_cli("--out", out, encoder="module:helpers_encoders:turns_nan", steps=9).code == 1
    result = run_cli("info", out)
    assert result.code == 0, result.err
    assert re.search(r"not finished: [1-8] of 9 steps saved", result.out)
    assert "--resume" in result.out


def test_info_of_something_else(run_cli, tmp_path):
    assert "no such folder" in run_cli("info", tmp_path / "none").error()
    assert "holds no run" in run_cli("info", tmp_path).error()
    (tmp_path / "run.json").write_text('{"config": {}}')
    assert str(tmp_path) in run_cli("info", tmp_path).error()
