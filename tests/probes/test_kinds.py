"""Probes by name: built-in ones, and ones that a user adds from outside."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
import torch

from probedistill import Callback, UserError, distill, evaluate, load_evaluation, load_splits
from probedistill.config import EvaluateConfig, EvaluateOptions
from probedistill.probes import kinds
from probedistill.probes.kinds import PROBES, Lesson, check_probes, kind_of, on_features

QUICK = {"seeds": 2, "views": 2, "full_views": 0, "progress": False}


@pytest.fixture(scope="module")
def data(photos):
    return load_splits(f"folder:{photos}")


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """The example from the documentation, as a file in the current folder."""
    example = kinds.__doc__.split("whole probe::\n")[1].split("\nA classifier")[0]
    assert len(example.strip().splitlines()) <= 15
    (tmp_path / "mine_probe.py").write_text(dedent(example))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", PROBES.names())
def test_every_probe_says_what_evaluation_must_know(name):
    kind = kind_of(name)
    assert kind.views(EvaluateConfig(views=7)) == 7
    assert on_features([name]) == [kind.on_features or name]


@pytest.mark.parametrize("name", [name for name in PROBES.names() if not kind_of(name).needs_head])
def test_every_probe_is_fitted_by_its_name(name):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    views = torch.eye(3, 5)[labels] + 0.1 * torch.randn(4, 6, 5, generator=generator)
    probe = kind_of(name).fit(Lesson(views, labels, seed=1, epochs=4000))
    assert probe.decision_function(views[0].numpy()).argmax(axis=1).tolist() == labels.tolist()


@pytest.mark.slow
def test_a_probe_from_outside_is_scored_like_any_other(mine, photos, distil_cli, run_cli):
    assert distil_cli("--out", "run", "--no-progress").code == 0
    outcome = run_cli(
        "evaluate", "run", "--config", "run/config.yaml", "--probes", "ridge", "module:mine_probe:Nearest",
        "--seeds", 2, "--views", 2, "--baselines", "random", "full", "--no-progress",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = json.loads(next(Path("run").glob("evaluation-*.json")).read_text())["rows"]
    scored = {row["name"]: row["top1"] for row in rows if row["probe"] == "module:mine_probe:Nearest"}
    assert set(scored) == {"distilled", "random real", "full real data"}
    assert scored["full real data"] > 0.8


def test_a_probe_of_another_package(monkeypatch, mine, data, encoder):
    monkeypatch.syspath_prepend(mine)
    monkeypatch.setitem(PROBES.plugins, "nearest-mean", "mine_probe:Nearest")
    result = evaluate(None, encoder, *data, probes=["nearest-mean"], baselines=["full"], **QUICK)
    assert result["full real data", "nearest-mean"].top1 > 0.8


def test_a_classifier_of_scikit_learn_is_a_probe(data, encoder):
    name = "module:sklearn.ensemble:ExtraTreesClassifier"  # has only probabilities, and a random state
    result = evaluate(None, encoder, *data, probes=[name], baselines=["full"], **QUICK)
    assert result["full real data"].top1 > 0.8
    assert not kind_of(name).deterministic


def test_a_users_own_kind_has_soft_labels_and_its_own_views(mine, data, encoder):
    (mine / "own_kind.py").write_text(
        dedent("""
        from probedistill.probes.kinds import Kind
        from probedistill.probes.linear import LinearProbe

        seen = []

        def fit(lesson):
            seen.append((len(lesson.views), lesson.seed, lesson.targets is not None))
            return LinearProbe("ridge").fit_views(lesson.views, lesson.labels, lesson.targets)

        KIND = Kind(fit, deterministic=False, views=lambda config: 2 * config.views)
        """)
    )
    distilled = distill(data[0], encoder, steps=1, progress=False)
    soft = replace(distilled, soft_labels=torch.full((2, 2), 0.5))
    evaluate(soft, encoder, None, data[1], probes=["module:own_kind:KIND"], **QUICK)
    from own_kind import seen

    assert sorted(seen) == [(4, 0, False), (4, 0, True), (4, 1, False), (4, 1, True)]


@pytest.mark.parametrize("plugin", [False, True])
def test_a_probe_that_was_edited_is_scored_again(mine, monkeypatch, tmp_path, data, encoder, plugin):
    name = "nearest-mean" if plugin else "module:mine_probe:Nearest"
    if plugin:
        monkeypatch.setitem(PROBES.plugins, name, "mine_probe:Nearest")
    options = {"probes": ["ridge", name], "baselines": ["full"], "out": tmp_path / "scores.json", **QUICK}

    def scored():
        sys.modules.pop("mine_probe", None)  # as in a new process
        return evaluate(None, encoder, *data, **options)

    first, again = scored(), scored()
    assert again.rows == first.rows  # including seconds, so nothing was fitted
    code = (mine / "mine_probe.py").read_text()
    (mine / "mine_probe.py").write_text(code.replace("return X @", "return -X @").replace(" - (self", " + (self"))
    edited = scored()
    assert edited["full real data", "ridge"] == first["full real data", "ridge"]
    assert edited["full real data", name].top1 == 1 - first["full real data", name].top1  # the two classes are swapped
    assert len(load_evaluation(tmp_path / "scores.json").rows) == 2


def test_a_classifier_with_its_settings(mine, tmp_path, data, encoder):
    """The object is copied for each fit, and its rows are scored again if its settings change."""
    code = """
        from sklearn.linear_model import Perceptron
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        scaled = make_pipeline(StandardScaler(), Perceptron(max_iter=1, tol=None))
        """
    (mine / "own_settings.py").write_text(dedent(code))
    name = "module:own_settings:scaled"
    options = {"probes": [name], "baselines": ["full"], "out": tmp_path / "scores.json", **QUICK}
    first = evaluate(None, encoder, *data, **options)
    from own_settings import scaled

    assert not hasattr(scaled, "n_features_in_")
    assert scaled.get_params()["perceptron__random_state"] == 0
    assert not kind_of(name).deterministic
    assert len(first.rows[0].scores) == 2
    assert evaluate(None, encoder, *data, **options).rows == first.rows


def test_a_classifier_with_other_settings_in_a_notebook(monkeypatch):
    """There is no file whose digest could tell them apart."""
    from sklearn.neighbors import KNeighborsClassifier

    notebook = ModuleType("own_notebook")
    monkeypatch.setitem(sys.modules, "own_notebook", notebook)
    codes = set()
    for count in (1, 3, 1):
        notebook.probe = KNeighborsClassifier(count)
        assert kind_of("module:own_notebook:probe").deterministic
        codes.add(PROBES.code_of("module:own_notebook:probe"))
    assert len(codes) == 2


def module_level(real):
    """An objective, which has a name."""


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"method": module_level}, "method <function module_level.*: 'module:test_kinds:module_level'"),
        ({"method": lambda real: None}, "method <function .* is an object; give its name.*'module:FILE:NAME'"),
        ({"canvas": {"kind": dict}}, "canvas.kind <class 'dict'> is an object.*: 'module:builtins:dict'"),
        ({"callback": [module_level]}, "callback <function module_level.*: 'module:test_kinds:module_level'"),
        ({"callbacks": [print]}, "callbacks has <built-in function print>; give objects of a subclass"),
        ({"callbacks": [Callback]}, "callbacks has the class Callback; give objects"),
        ({"callbacks": Callback()}, "callbacks is a Callback; give a list"),
    ],
)
def test_an_object_in_place_of_its_name(data, encoder, wrong, says):
    with pytest.raises(UserError, match=says):
        distill(data[0], encoder, steps=1, progress=False, **wrong)


def test_a_classifier_in_place_of_its_name(data, encoder):
    from sklearn.neighbors import KNeighborsClassifier

    for wrong in (KNeighborsClassifier(), KNeighborsClassifier):
        with pytest.raises(UserError, match=r"probes .*KNeighborsClassifier.* is an object; give its name"):
            evaluate(None, encoder, *data, probes=["ridge", wrong])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("1n", "unknown probe '1n'; did you mean '1nn'"),
        ("module:mine_probe:Nearst", "did you mean 'Nearest'"),
        ("module:nothing:Probe", "probe 'module:nothing:Probe': 'nothing' cannot be imported"),
        ("module:mine_probe", "must be module:PACKAGE"),
        ("module:os:getcwd", "must be a scikit-learn classifier, its class or a Kind"),
        ("module:os:environ", "must be a scikit-learn classifier, its class or a Kind"),
    ],
)
def test_objects_that_are_not_probes(mine, name, says):
    with pytest.raises(UserError, match=says):
        check_probes([name])


def test_a_probe_that_fails_is_one_line(mine, data, encoder):
    (mine / "failing.py").write_text("class Probe:\n    def fit(self, X, y):\n        raise RuntimeError('no luck')\n")
    with pytest.raises(UserError, match=r"probe 'module:failing:Probe' could not be fitted \(no luck\)"):
        evaluate(None, encoder, *data, probes=["module:failing:Probe"], baselines=["full"], **QUICK)


def test_a_probe_with_scores_for_other_classes_is_named(mine, data, encoder):
    probe = "class Probe:\n    def fit(self, X, y):\n        self.classes_ = [0, 1]\n        return self\n"
    (mine / "wide.py").write_text(f"{probe}    def decision_function(self, X):\n        return X[:, :5]\n")
    with pytest.raises(UserError, match=r"probe 'module:wide:Probe' cannot be scored: its scores have .* for 2 cl"):
        evaluate(None, encoder, *data, probes=["module:wide:Probe"], baselines=["full"], **QUICK)


def test_a_probe_that_fails_in_scoring_is_named_once(mine, data, encoder):
    probe = "class Probe:\n    def fit(self, X, y):\n        self.classes_ = [0, 1]\n        return self\n"
    (mine / "raising.py").write_text(
        f"{probe}    def decision_function(self, X):\n        raise RuntimeError('no luck')\n"
    )
    with pytest.raises(UserError, match=r"^probe 'module:raising:Probe' could not be scored \(no luck\)$"):
        evaluate(None, encoder, *data, probes=["module:raising:Probe"], baselines=["full"], **QUICK)


def test_keywords_of_evaluate_are_the_fields_of_its_config():
    assert EvaluateOptions.__annotations__.keys() == {field.name for field in fields(EvaluateConfig)}
    assert {name: kind.__forward_arg__ for name, kind in EvaluateOptions.__annotations__.items()} == {
        field.name: field.type for field in fields(EvaluateConfig)
    }
