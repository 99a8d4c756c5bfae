"""The example of docs/privacy.md does what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from conftest import TINY
from helpers_images import make_image_folder
from probedistill.analysis.audit import PAIRS, Audit

PAGE = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_example(run_cli, tmp_path, monkeypatch):
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    make_image_folder(tmp_path / "photos", per_class=10, size=40)
    for line in block.strip().splitlines():
        words = [TINY if word == "efficientnet_lite0@64" else word for word in shlex.split(line)[1:]]
        outcome = run_cli(*("2" if word in ("10", "30") else word for word in words))
        assert outcome.code == 0, (line, outcome.err)
    found = Audit.read("runs/photos")
    assert found.same_photos
    assert found.membership is not None
    assert Path("runs/photos", PAIRS).exists()
