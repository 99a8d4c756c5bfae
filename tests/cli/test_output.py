"""What the command line prints: for people, as JSON, on any stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from conftest import TESTS, TINY


def run(*arguments: object, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "probedistill", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "cp437", "utf-16"])
@pytest.mark.parametrize("command", [["--help"], ["distill", "--help"], ["encoders"]])
def test_a_stream_that_cannot_hold_every_character(encoding, command):
    done = run(*command, encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert "probedistill" in done.stdout.decode(encoding) or command == ["encoders"]


@pytest.mark.slow
def test_a_whole_run_on_an_ascii_stream(photos, tmp_path):
    done = run(
        "distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 2, "--out", tmp_path / "é",
        encoding="ascii",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


def test_a_file_gets_no_escape_codes():
    assert b"\x1b" not in run("encoders").stdout


def test_quiet_says_nothing(run_cli, photos, tmp_path):
    result = run_cli("distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 2, "--out",
                     tmp_path / "run", "-q")  # fmt: skip
    assert (result.code, result.out, result.err) == (0, "", "")


def test_quiet_still_says_what_is_wrong(run_cli):
    assert "image source 'nowhere'" in run_cli("distill", "--images", "nowhere:x", "--encoder", TINY, "-q").error()


def test_json_alone_goes_to_standard_output(run_cli, tmp_path):
    result = run_cli("encoders", "--json")
    assert result.code == 0
    tables = [json.loads(line) for line in result.out.splitlines()]
    assert any(row["name"] == "efficientnet_lite0" for table in tables for row in table["rows"])
    assert "Others" in result.err
