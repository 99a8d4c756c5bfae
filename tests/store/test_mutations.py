"""Replace any value of any record by anything: exit code 0, or 2 with one line; never a traceback."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers_report import SCRIPT, make_run, results
from probedistill.cli import main
from probedistill.store.run_record import read_run, with_history, write_progress_file

NAMES = ["cat", "dog", SCRIPT]
KINDS = ["run", "evaluation-tiny", "transfer", "align", "geometry", "bias", "migrate", "audit", "progress"]
DEEP = "[" * 5000 + "]" * 5000
VALUES = ["null", "true", "[]", "{}", '""', '"x"', "-1", "3", "0.5", "1e999", "NaN", "-Infinity", '"\\ud800"', "[null]",
          '{"a": 1}', "[[1, 2]]", "9" * 400, DEEP, '"' + "x" * 3000 + '"', '"\\u001b[2J"']  # fmt: skip
count: Counter[tuple[str, int]] = Counter()


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("good") / "run", NAMES)
    for analysis in results(NAMES).values():
        analysis.write(folder)
    write_progress_file(folder, with_history(read_run(folder), read_run(folder)), 40)
    return folder


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value below a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way for key, entry in inside for way in [(*at, key), *places(entry, (*at, key))]]


def mutated(content: Any, way: tuple[Any, ...], text: str | None) -> str:
    """The JSON text with the value at a place replaced, or removed."""
    content = json.loads(json.dumps(content))
    if isinstance(content, dict):
        content.pop("sha256", None)  # tests the reader of the content, not the digest
    holder = content
    for key in way[:-1]:
        holder = holder[key]
    if text is None:
        del holder[way[-1]]
        return json.dumps(content)
    holder[way[-1]] = "HERE IT IS"
    return json.dumps(content).replace('"HERE IT IS"', text)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutations(good, tmp_path, capfd, data):
    kind = data.draw(st.sampled_from(KINDS))
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    run = Path(shutil.copytree(good, tmp_path / "run"))
    if kind == "progress":
        content = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**content, "finished": False, "sha256": None}))
    path = run / f"{kind}.json"
    content = json.loads(path.read_text())
    way = data.draw(st.sampled_from([way for way in places(content) if way[0] != "sha256"]))
    text = data.draw(st.none() | st.sampled_from(VALUES))
    path.write_text(mutated(content, way, text), encoding="utf-8", errors="surrogatepass")
    page, small = ["--out", tmp_path / "page.html", "--no-progress"], ["--out", tmp_path / "small", "--overwrite"]
    commands = [["info", run], ["report", run, *page], ["accept", path], ["watch", run]]
    commands += [["export", run, *small, "--no-progress"], ["runs", tmp_path / "run"]]
    if kind == "progress":
        commands = [["report", run, *page]]
    for command in commands:
        capfd.readouterr()
        code = main([str(word) for word in command])
        err = capfd.readouterr().err
        count[kind, code] += 1
        assert code in (0, 2), (command[0], way, text and text[:40], err)
        assert "Traceback" not in err
        if code == 2:
            (line,) = [line for line in err.strip().splitlines() if not line.startswith("warning: ")]
            assert line.startswith("probedistill: error: ")
            assert path.name in line or str(run) in line, line


def test_steps_that_no_float_holds(good, tmp_path, run_cli):
    run = Path(shutil.copytree(good, tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "finished": False, "sha256": None}))
    progress = json.loads((run / "progress.json").read_text())
    (run / "progress.json").write_text(json.dumps({**progress, "accuracy": [[10**400, 0.5]]}))
    assert "progress.json" in run_cli("report", run, "--out", tmp_path / "page.html", "--no-progress").error()
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
def test_the_count(capsys):
    with capsys.disabled():
        total = sum(count.values())
        print(f"\n{total} commands on mutated records: " + ", ".join(f"{k} {c}: {n}" for (k, c), n in count.items()))
