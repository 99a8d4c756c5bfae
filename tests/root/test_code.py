"""What other code computed is not taken for what this code computes: in a notebook, and when a file is edited."""

from __future__ import annotations

import importlib
import subprocess
import sys
from functools import partial

import pytest

from probedistill import load_encoder
from probedistill.code import digest_of_code

NOTEBOOK = """
import numpy as np, torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from probedistill import DistilledSet, Encoder, evaluate, labelled_images

CELL = '''
def pool(maps):
    return maps.POOL((2, 3))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 5, stride=4)

    def forward(self, images):
        return pool(self.conv(images))

class Probe(KNeighborsClassifier):
    def __init__(self):
        super().__init__(1)

    def predict_proba(self, X):
        return SIGN * super().predict_proba(X)
'''
images = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), dtype=np.uint8)
images = labelled_images(images, [0, 1] * 4)
views = torch.rand(2, 3, 20, 20)
for pool, sign in (("mean", "1"), ("amax", "-1"), ("mean", "1")):
    exec(CELL.replace("POOL", pool).replace("SIGN", sign))
    net = Encoder(Net(), name="net", input_size=20)
    done = evaluate(None, net, images, images, probes=["module:__main__:Probe"], baselines=["full"], seeds=1,
                    out="scores.json", progress=False)
    print(net.fingerprint, done.rows[0].top1)
"""


def test_cells_of_a_notebook_that_are_run_again(tmp_path):
    """The program comes from standard input, so that its classes have no file, as those of a notebook."""
    command = [sys.executable, "-W", "ignore", "-"]
    done = subprocess.run(command, input=NOTEBOOK, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, third = (line.split() for line in done.stdout.splitlines())
    assert first == third
    assert first[0] != second[0]
    assert (first[1], second[1]) == ("1.0", "0.0")


def test_a_file_that_is_edited_while_its_code_runs(tmp_path, monkeypatch):
    """Features of the code that runs must not be stored under the fingerprint of the edited code."""
    code = "from torch import nn\nclass Pool(nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3))\n"
    (tmp_path / "edited_pool.py").write_text(code)
    monkeypatch.chdir(tmp_path)

    def fingerprint():
        return load_encoder("module:edited_pool:Pool", device="cpu", input_size=32).fingerprint

    before = fingerprint()
    (tmp_path / "edited_pool.py").write_text(code.replace("mean", "amax") + "# edited\n")
    assert fingerprint() == before
    importlib.reload(sys.modules["edited_pool"])
    assert fingerprint() != before


def _outer(step):
    def inner(x, scale=2):
        return step(x) * scale

    return inner


def _one(x):
    return x + 1


def _other(x):
    return x + 2


class _Base:
    width = 3

    @property
    def area(self):
        return self.width**2


class _Wide(_Base):
    width = 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_one, _other),
        (_outer(_one), _outer(_other)),
        (partial(_outer, _one), partial(_outer, _other)),
        (lambda x: x in {"a", "b"}, lambda x: x in {"a", "c"}),
        (_Base, _Wide),
        (lambda: _one(1), lambda: _other(1)),
    ],
)
def test_code_has_a_digest(one, other):
    assert digest_of_code(one) != digest_of_code(other)
    assert digest_of_code(one) == digest_of_code(one)
