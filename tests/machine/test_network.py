"""Without a network: a hub name is read from this machine, or fails soon in one line that says what to do."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from conftest import TINY
from probedistill import UserError
from probedistill.machine.network import asking_the_hub, check_waits, hub_address


@pytest.fixture(scope="module")
def closed_port():
    """A port on which nothing listens."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        yield one.getsockname()[1]


@pytest.fixture
def no_network(monkeypatch, closed_port):
    """A hub that cannot be reached, and a client that would ask it."""
    monkeypatch.setenv("HF_ENDPOINT", f"http://localhost:{closed_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


NAMES = [
    ("encoder", "timm:resnet18", "give --checkpoint FILE, or use efficientnet_lite0"),
    ("encoder", "dinov2_vitb14", "give --checkpoint FILE, or use efficientnet_lite0"),
    ("encoder", "hf:nobody/nothing", "give hf:FOLDER with a local copy"),
    ("encoder", "openclip:RN50/openai", "or use efficientnet_lite0, which needs no network"),
    ("images", "hf:nobody/nothing", "check the name, or give a folder with the data set"),
    ("run", "hub:nobody/nothing", "use a set that comes with the package: probedistill sets"),
]


def words_for(kind, name, photos):
    if kind == "run":
        return ["info", name]
    images = name if kind == "images" else f"folder:{photos}"
    return ["features", "--images", images, "--encoder", name if kind == "encoder" else TINY]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "way_out"), NAMES)
def test_a_hub_name_without_a_network(run_cli, photos, no_network, kind, name, way_out):
    error = run_cli(*words_for(kind, name, photos)).error()  # one line, because the client has not tried six times
    assert f"{kind} {name!r}: not found on this machine, and localhost cannot be reached (Connection refused)" in error
    assert way_out in error
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "way_out"), NAMES)
def test_a_hub_name_if_downloads_are_forbidden(run_cli, photos, monkeypatch, kind, name, way_out):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = run_cli(*words_for(kind, name, photos)).error()
    assert f"{kind} {name!r}: not found on this machine, and HF_HUB_OFFLINE forbids downloads" in error
    assert way_out in error


@pytest.mark.slow
def test_cached_files_are_used(no_network, caplog):
    caplog.set_level(logging.INFO, logger="probedistill")
    with asking_the_hub("encoder 'x'", "go home"):
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    assert "encoder 'x': localhost cannot be reached" in caplog.text
    assert "using the cached copy" in caplog.text


def test_other_errors_are_not_blamed_on_the_network(no_network):
    with pytest.raises(UserError, match="wrong name"), asking_the_hub("encoder 'x'", "go home"):
        raise UserError("wrong name")


def test_a_long_wait_is_announced_and_limited(no_network, monkeypatch, caplog):
    def slow(*_: object, timeout: float) -> None:
        time.sleep(1)
        raise TimeoutError

    monkeypatch.setenv("HF_ENDPOINT", "https://slow.example")
    monkeypatch.setattr("socket.create_connection", slow)
    monkeypatch.setattr("probedistill.machine.network._PATIENCE", 0.1)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    caplog.set_level(logging.INFO, logger="probedistill")
    with pytest.raises(UserError, match=r"slow\.example cannot be reached \(no answer in"), asking_the_hub("it", "go"):
        raise ConnectionError
    assert "waiting for slow.example" in caplog.text


def test_proxies_are_left_to_the_client(no_network, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "elsewhere.example")
    with asking_the_hub("it", "go"):
        assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("address", ["", "huggingface.co", "http://", "http://[", "ftp://x", "http://x:port"])
def test_an_invalid_address(run_cli, monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    error = run_cli("info", "hub:nobody/nothing").error()
    assert f"HF_ENDPOINT {address.rstrip('/')!r} is not the address of a hub" in error


def test_the_address_of_the_hub(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert hub_address() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "http://localhost:8080/hub/")
    assert hub_address() == "http://localhost:8080/hub"


@pytest.mark.parametrize(
    "words",
    [
        *(words_for(kind, name, "photos") for kind, name, _ in NAMES),
        ["features", "--images", "textures:procedural", "--encoder", "efficientnet_lite0"],
        ["features", "--images", "textures:procedural", "--encoder", "no-such-encoder"],
        ["push", "set:clothing-lite0", "someone/set"],
    ],
    ids=" ".join,
)
def test_an_invalid_timeout_is_reported_if_the_client_is_needed(run_cli, photos, monkeypatch, words):
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "abc")
    error = run_cli(*[word.replace("folder:photos", f"folder:{photos}") for word in words]).error()
    way_out = "set it to a whole number such as 10, or unset it"
    assert error.endswith(f"HF_HUB_ETAG_TIMEOUT 'abc' is not a number of seconds; {way_out}")


@pytest.mark.parametrize("value", ["", "2.5", "-1"])
def test_a_timeout_is_a_whole_number(monkeypatch, value):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", value)
    with pytest.raises(UserError, match=f"HF_HUB_DOWNLOAD_TIMEOUT '{value}' is not a number"):
        check_waits()
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "20")
    check_waits()


@pytest.mark.slow
def test_an_invalid_timeout_does_not_matter_without_the_client(photos, tmp_path):
    """In separate processes, because the client reads the variables when it is imported."""
    environment = {**os.environ, "HF_HUB_DOWNLOAD_TIMEOUT": "abc", "HF_HUB_ETAG_TIMEOUT": "abc"}
    distil = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", "1", "--out", tmp_path / "run"]
    for words in (distil, ["info", tmp_path / "run"]):
        command = [sys.executable, "-m", "probedistill", *map(str, words), "--quiet"]
        tests = Path(__file__).parents[1]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tests, check=False)
        assert done.returncode == 0, done.stderr
