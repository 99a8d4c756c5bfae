"""The example of docs/over-time.md does what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from conftest import TINY
from helpers_images import make_image_folder
from probedistill import DistilledSet

PAGE = (Path(__file__).parents[2] / "docs" / "over-time.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_example_from_two_classes_to_three_to_two(run_cli, tmp_path, monkeypatch):
    block = next(block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "probedistill extend" in block)
    monkeypatch.chdir(tmp_path)
    make_image_folder(tmp_path / "photos", classes=("cat", "dog", "hen"), per_class=6, size=40)
    for line in block.strip().splitlines():
        words = shlex.split(line, comments=True)[1:]
        words = [TINY if word == "efficientnet_lite0@64" else "3" if word == "30" else word for word in words]
        named = ["--encoder", TINY] if words[0] in ("extend",) else []
        outcome = run_cli(*words, *named)
        assert outcome.code == 0, (line, outcome.err)
    two, three, left = (DistilledSet.load(Path("runs", name)) for name in ("two", "three", "left"))
    assert (two.class_names, three.class_names, left.class_names) == (
        ("cat", "dog"), ("cat", "dog", "hen"), ("dog", "hen"),
    )  # fmt: skip
    assert torch.equal(three.float_images[:2], two.float_images)
    assert torch.equal(left.float_images, three.float_images[1:])
    assert "forgotten" in outcome.out
