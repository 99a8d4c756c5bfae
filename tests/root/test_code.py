"""What other code computed is not taken for what this code computes: in a notebook, and when a file is edited."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from copy import deepcopy
from functools import cache, partial, wraps
from types import SimpleNamespace

import pytest
from sklearn.base import BaseEstimator
from torch.nn import functional

from probedistill import load_encoder
from probedistill.code import digest_of_code, is_own_function

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


@pytest.mark.slow
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


def _scaled(by):
    def decorate(function):
        @wraps(function)
        def scaled(x):
            return by * function(x)

        return scaled

    return decorate


SIZES, SETTINGS, NAMES = (8, 16), {"k": 1}, ["a"]


class _Base:
    width = 3

    @property
    def area(self):
        return self.width**2


class _Wide(_Base):
    width = 4


_other.__qualname__, _Wide.__qualname__ = _one.__qualname__, _Base.__qualname__  # the digest has names, too


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_one, _other),
        (_outer(_one), _outer(_other)),
        (partial(_outer, _one), partial(_outer, _other)),
        (lambda x: x in {"a", "b"}, lambda x: x in {"a", "c"}),
        (_Base, _Wide),
        (cache(_one), cache(_other)),
        (_scaled(2)(_one), _scaled(3)(_one)),
        (_outer({_one, _scaled}), _outer({_other, _scaled})),
        (_outer([1, [2]]), _outer([[1], 2])),
    ],
)
def test_code_has_a_digest(one, other):
    assert digest_of_code(one) != digest_of_code(other)
    assert digest_of_code(one) == digest_of_code(one)


@pytest.mark.parametrize(
    ("name", "value"), [("SIZES", (8, 32)), ("SETTINGS", {"k": 2}), ("NAMES", ["b"]), ("_one", _other)]
)
def test_globals_that_a_function_uses_are_part_of_its_code(monkeypatch, name, value):
    def uses(x):
        return SIZES[0] * SETTINGS["k"] * _one(x), list(NAMES)

    before = digest_of_code(uses)
    monkeypatch.setitem(globals(), name, value)
    assert digest_of_code(uses) != before


calls, memory, log, counts = 0, {}, [], {"x": {"n": 0}}


def _notes(x):
    global calls
    calls += 1
    memory[x] = x
    counts["x"]["n"] += 1

    def later():
        log.append(x)

    later()
    return SETTINGS["k"] * len(log)


kept = {}


def _fills():
    kept["w"] = 1


def _reads():
    if not kept:
        _fills()
    return kept["w"]


def test_a_memory_that_a_helper_fills_is_not_code():
    before = digest_of_code(_reads)
    assert _reads() == 1
    assert digest_of_code(_reads) == before


def test_what_a_function_notes_for_itself_is_not_its_code():
    before = digest_of_code(_notes)
    _notes(1)
    assert (calls, memory, log, counts) == (1, {1: 1}, [1], {"x": {"n": 1}})
    assert digest_of_code(_notes) == before


class _Unhashable(type):
    def __eq__(cls, other):
        return True


class _Refuses(metaclass=_Unhashable):
    def __getattr__(self, name):
        raise RuntimeError(name)

    def get_params(self, deep):
        raise RuntimeError("no parameters")

    def __call__(self):
        return None


def _of_itself():
    return None


_of_itself.__wrapped__ = _of_itself
_endless: list = []
_endless.append(_endless)
_nested: list = []
for _ in range(2000):
    _nested = [_nested]


@pytest.mark.parametrize(
    "value",
    [_endless, _nested, _of_itself, _Refuses(), 10**5000, {"": _endless}.items()],
    ids=["endless", "nested", "wrapper", "refuses", "number", "view"],
)
def test_a_digest_of_any_object_can_be_made(value):
    assert len(digest_of_code(_outer(value))) == len(digest_of_code(value)) == 64
    assert is_own_function(_outer(value))
    assert is_own_function(value) == (value is _of_itself)


def test_the_digest_of_a_class_does_not_change_when_an_instance_is_copied():
    """Python then notes the names of its slots in the class, and a run was said to be resumed with other code."""

    class Probe(BaseEstimator):
        pass

    before = digest_of_code(Probe)
    deepcopy(Probe())
    assert digest_of_code(Probe) == before


def test_other_versions_of_a_library_are_no_other_code(monkeypatch):
    before = digest_of_code(_outer(functional.interpolate))
    monkeypatch.setattr(functional.interpolate, "__code__", functional.upsample.__code__)
    assert digest_of_code(_outer(functional.interpolate)) == before


def test_functions_with_bound_arguments_are_ones_own():
    held = SimpleNamespace(forward=partial(partial(_one), x=1), theirs=partial(functional.relu, inplace=True))
    assert is_own_function(held.forward)
    assert is_own_function(_scaled(2)(functional.relu))
    assert not is_own_function(held.theirs)


PROGRAM = """
from functools import partial
from probedistill.code import digest_of_code

def outer(known):
    def inner(x):
        return x in known or x in {"a", "b", ("c", 1)}
    return inner

class Base:
    names = {"one", "two", "three"}
    def __init__(self):
        self.calls = [lambda x: x + 1 for _ in range(3)]

class Net(Base):
    @property
    def size(self):
        return outer(self.names), self.names

seen = {outer({"x", "y"}), outer, Net, (1, 2), frozenset("abc")}
DIGEST = digest_of_code([Net, outer(seen), partial(outer, Net()), lambda: {i for i in seen}])
"""


def test_digests_are_the_same_in_every_process(tmp_path):
    """As a script, an import, a command and standard input; with other orders of sets, and in other folders."""
    (tmp_path / "mine.py").write_text(PROGRAM)
    (tmp_path / "script.py").write_text(PROGRAM + "print(DIGEST)")
    (tmp_path / "elsewhere").mkdir()
    ways = [["-c", PROGRAM + "print(DIGEST)"], ["-"], ["-c", "from mine import *; print(DIGEST)"], ["../script.py"]]
    found = set()
    for number, way in enumerate(ways):
        env = {**os.environ, "PYTHONHASHSEED": str(number)}
        cwd = tmp_path / "elsewhere" if "../script.py" in way else tmp_path
        command = [sys.executable, *way]
        found.add(subprocess.run(command, input=PROGRAM + "print(DIGEST)", capture_output=True, text=True, timeout=100,
                                 env=env, cwd=cwd, check=True).stdout)  # fmt: skip
    assert len(found) == 1
