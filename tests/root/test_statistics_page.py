"""docs/statistics.md: its commands and its Python work unchanged, here on tiny photos with a tiny encoder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from conftest import TINY
from helpers_images import make_image_folder

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"


@pytest.mark.slow
def test_the_page_works(run_cli, tmp_path, monkeypatch):
    pytest.importorskip("opendp", reason="it comes with probedistill[privacy]")
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("hospital-a", "hospital-b")):
        make_image_folder(tmp_path / name, per_class=4, size=24, splits=(), seed=seed)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert {kind for kind, _ in blocks} == {"sh", "python"}
    for kind, text in blocks:
        text = text.replace("efficientnet_lite0@112", TINY).replace(" --steps 100", "")
        if kind == "python":
            exec(text, {})
            continue
        for command in text.splitlines():
            words = shlex.split(command)[1:]
            result = run_cli(*words, *(["--steps", 2] if words[0] == "distill" else []))
            assert result.code == 0, (command, result.err)
