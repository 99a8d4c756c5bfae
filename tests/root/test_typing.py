"""Type hints for users' type checkers: a misspelt option is an error before anything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RIGHT = """
from torch import Tensor, rand
from probedistill import DistilledSet, Evaluation, distill, evaluate, load_encoder, load_splits

encoder = load_encoder("efficientnet_lite0", input_size=112)
features: Tensor = encoder(rand(1, 3, 112, 112))
train, test = load_splits("folder:photos")
distilled: DistilledSet = distill(train, encoder, steps=3, method="sfm", out="run")
scores: Evaluation = evaluate(distilled, encoder, train, test, probes=["ridge"], seeds=2)
"""
WRONG = {
    "an option that does not exist": "distill(train, encoder, stepz=3)",
    "a value of another type": 'distill(train, encoder, steps="three")',
    "a word for a list": 'evaluate(distilled, encoder, train, test, probes="ridge")',
    "an option of an encoder that does not exist": 'load_encoder("efficientnet_lite0", inputsize=112)',
    "a size that is no number": 'load_encoder("efficientnet_lite0", input_size="112")',
    "a picture's name for its pixels": 'encoder("a picture")',
    "another option that does not exist": "evaluate(distilled, encoder, train, test, prob=['ridge'])",
}


@pytest.mark.slow
def test_mypy_in_strict_mode(tmp_path: Path) -> None:
    lines = [*RIGHT.strip().splitlines(), *WRONG.values()]
    file = tmp_path / "user.py"
    file.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir", str(tmp_path), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=tmp_path)
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line and "user.py" in line}
    first = len(RIGHT.strip().splitlines()) + 1
    assert found == set(range(first, first + len(WRONG))), done.stdout
