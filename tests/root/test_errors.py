"""Errors speak to whoever reads them: arguments in Python, flags on the command line."""

from __future__ import annotations

import pytest

from conftest import TINY
from probedistill import UserError, distill, load_images, load_splits
from probedistill.errors import by_caller, option, speaking_flags


@pytest.mark.parametrize(
    ("asked", "python", "flag"),
    [
        (("overwrite", True), "overwrite=True", "--overwrite"),
        (("pretrained", False), "pretrained=False", "--no-pretrained"),
        (("test_split",), "test_split=…", "--test-split"),
        (("precision", "fp32"), "precision='fp32'", "--precision fp32"),
        (("encoder_args.mask_ratio", 0), "encoder_args={'mask_ratio': 0}", "--encoder-args.mask_ratio 0"),
        (("source_args.challenge",), "source_args={'challenge': …}", "--source-args.challenge"),
    ],
)
def test_an_option_is_an_argument_or_a_flag(asked, python, flag):
    assert option(*asked) == python
    with speaking_flags():
        assert option(*asked) == flag
        assert by_caller(command="a", python="b") == "a"
    assert option(*asked) == python
    assert by_caller(command="a", python="b") == "b"


def test_flags_are_spoken_no_longer_than_the_command_runs(run_cli, photos, tmp_path):
    run = {"steps": 2, "out": tmp_path / "run", "progress": False}
    distill(f"folder:{photos}", TINY, **run)
    command = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 2, "--out", tmp_path / "run"]
    assert run_cli(*command).error().endswith("choose another folder or add --overwrite")
    with pytest.raises(UserError, match=r"choose another folder or add overwrite=True$"):
        distill(f"folder:{photos}", TINY, **run)
    with pytest.raises(UserError, match=r"^resume=True and overwrite=True exclude each other"):
        distill(f"folder:{photos}", TINY, resume=True, overwrite=True, **run)


def test_python_hears_of_no_flag(tmp_path, photos):
    (tmp_path / "none/cat").mkdir(parents=True)
    for call in (
        lambda: load_images(f"folder:{tmp_path / 'none'}"),
        lambda: load_images(f"folder:{photos}", classes=["cat"]),
        lambda: load_images(f"folder:{photos}", split="tset"),
        lambda: load_splits("torchvision:CIFAR10"),
        lambda: distill(f"folder:{photos}", "timm:nonsense"),
        lambda: distill(f"folder:{photos}", TINY, preset="paper"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert "--" not in str(caught.value)
