"""A stranger's config.yaml runs no code, whichever option asks for it; what we print can be pasted."""

from __future__ import annotations

import shlex

import pytest
import yaml

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


def test_the_printed_command_runs_unchanged(distil_cli, run_cli, tmp_path):
    done = distil_cli("--out", tmp_path / "a run")
    (line,) = [line for line in done.out.splitlines() if line.startswith("score:")]
    words = shlex.split(line.removeprefix("score:"))
    assert words[-1] == "--trust"  # the tests' encoder is a module: encoder
    again = run_cli(*words[1:], "--no-progress", "--seeds", 1, "--views", 1, trust=False)
    assert again.code == 0, again.err
