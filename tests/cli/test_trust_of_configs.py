"""A stranger's config.yaml runs no code, whichever option asks for it; what we print can be pasted."""

from __future__ import annotations

import html
import re
import shlex

import pytest
import yaml

from probedistill.store.run_record import read_run

CODE = "module:os:system"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        *(("distill", {name: CODE}) for name in ("images", "encoder", "method")),
        *(("distill", {name: [CODE]}) for name in ("also", "log", "callback")),
        ("distill", {"also": [{"encoder": CODE}]}),
        ("distill", {"canvas": {"kind": CODE}}),
        *(("evaluate", {name: CODE}) for name in ("images", "encoder", "source", "choose_by")),
        ("evaluate", {"probes": ["ridge", CODE]}),
    ],
)
def test_code_in_any_option_of_a_file_needs_trust(run_cli, tmp_path, command, options):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"images": "textures:procedural", "encoder": "efficientnet_lite0"} | options))
    words = [tmp_path / "run"] if command == "evaluate" else ["--out", tmp_path / "run"]
    error = run_cli(command, *words, "--config", path, trust=False).error()
    assert CODE in error
    assert "--trust" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["encoder", "source", "choose_by"])
def test_a_local_path_in_any_option_that_names_an_encoder_needs_trust(run_cli, tmp_path, option):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"images": "textures:procedural", "encoder": "efficientnet_lite0"}
                                   | {option: "timm:local-dir:/tmp/x"}))  # fmt: skip
    error = run_cli("evaluate", tmp_path / "run", "--config", path, trust=False).error()
    assert f"sets {option} 'timm:local-dir:/tmp/x', which needs trust" in error


@pytest.mark.parametrize("classes", [["cat", "@secret.txt"], "@secret.txt"])
def test_a_file_reads_no_classes_from_another_file_without_trust(run_cli, photos, tmp_path, monkeypatch, classes):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("my password\n", encoding="utf-8")
    content = {"images": f"folder:{photos}", "encoder": "efficientnet_lite0@32", "classes": classes}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    words = ("distill", "--config", tmp_path / "config.yaml", "--out", tmp_path / "run")
    error = run_cli(*words, trust=False).error()
    assert "sets classes '@secret.txt', which needs trust" in error
    assert "my password" not in error
    assert "my password" in run_cli(*words, "--classes", "@secret.txt", "cat").error()  # typed by the user


def test_a_file_replaces_no_table_without_trust(run_cli, tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary", encoding="utf-8")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"csv": str(tmp_path / "diary.txt")}))
    error = run_cli("runs", tmp_path, "--config", tmp_path / "config.yaml", trust=False).error()
    assert "which needs trust" in error
    assert (tmp_path / "diary.txt").read_text("utf-8") == "dear diary"


def test_the_printed_command_runs_unchanged(distil_cli, run_cli, tmp_path):
    done = distil_cli("--out", tmp_path / "a run")
    (line,) = [line for line in done.out.splitlines() if line.startswith("score:")]
    words = shlex.split(line.removeprefix("score:"))
    assert words[-1] == "--trust"  # the tests' encoder is a module: encoder
    again = run_cli(*words[1:], "--no-progress", "--seeds", 1, "--views", 1, trust=False)
    assert again.code == 0, again.err


@pytest.mark.slow
def test_the_command_of_a_card_and_of_a_report_runs_unchanged(distil_cli, run_cli, tmp_path):
    """It makes the set again; a file that names code or local weights is followed with --trust alone."""
    made = distil_cli("--out", tmp_path / "run", steps=1)
    assert made.code == 0, made.err
    assert run_cli("report", tmp_path / "run", "--out", tmp_path / "report.html").code == 0
    page = html.unescape((tmp_path / "report.html").read_text("utf-8"))
    (command,) = set(re.findall(r"probedistill distill --config [^<\n]*-again", page))
    assert run_cli(*shlex.split(command)[1:], trust=False).code == 0
    assert read_run(tmp_path / "run-again").config.steps == 1
    assert "probedistill distill --config config.yaml --trust --out again" in (tmp_path / "run/README.md").read_text()
