"""docs/extending.md: every example is short and works unchanged, from a file in the current folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import TINY

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
LINES = 15
SMALL = {"efficientnet_lite0": TINY, "--out": "--steps 2 --out"}
EVALUATION = "--views 2 --seeds 1 --full-views 0"


@dataclass(frozen=True)
class Example:
    title: str
    files: dict[str, str]
    commands: list[str]


def examples() -> list[Example]:
    found = []
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
        files = {
            re.match(r"# (\S+\.py)\n", text)[1]: text.partition("\n")[2]  # type: ignore[index]
            for kind, text in blocks
            if kind == "python"
        }
        commands = [line for kind, text in blocks if kind == "sh" for line in text.splitlines() if line]
        found.append(Example(section.partition("\n")[0], files, commands))
    return found


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.title)
def test_an_example_is_short(example):
    for text in example.files.values():
        assert len([line for line in text.splitlines() if line.strip()]) <= LINES


@pytest.mark.slow
@pytest.mark.parametrize("example", examples(), ids=lambda example: example.title)
def test_an_example_works(example, run_cli, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in example.files.items():
        Path(name).write_text(text)
    made = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 2, "--out", "runs/photos"]
    assert run_cli(*made).code == 0
    assert example.commands
    for command in example.commands:
        words = command.replace("folder:photos", f"folder:{photos}")
        for real, small in SMALL.items():
            if real != "--out" or "distill " in command:
                words = words.replace(real, small)
        if words.startswith("python "):
            subprocess.run([sys.executable, *shlex.split(words)[1:]], check=True)
            continue
        if "evaluate " in words:
            words += f" {EVALUATION}"
        result = run_cli(*shlex.split(words)[1:])
        assert result.code == 0, (command, result.err)
