"""What the command line prints: for people, as JSON, on any stream."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import time
import warnings
import zlib

import pytest

from conftest import TESTS, TINY
from helpers_images import make_image_folder
from probedistill.cli import app, main
from probedistill.cli.app import show
from probedistill.images.decode import decode_image
from probedistill.machine import progress
from probedistill.show.tables import Table


def run(*arguments: object, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "probedistill", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)


class Stream(io.TextIOWrapper):
    """A strict stream of an encoding, as a terminal or as a file."""

    def __init__(self, encoding: str, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def written(self) -> bytes:
        return self.buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "cp437", "utf-16"])
@pytest.mark.parametrize("command", [["--help"], ["distill", "--help"], ["encoders"]])
def test_a_stream_that_cannot_represent_every_character(encoding, command, monkeypatch):
    out, err = Stream(encoding, terminal=False), Stream(encoding, terminal=False)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(command) == 0, err.written()
    assert "probedistill" in out.written().decode(encoding) or command == ["encoders"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_stay_different_on_a_stream_without_their_letters(encoding, tmp_path, monkeypatch):
    out, err = Stream(encoding, terminal=False), Stream(encoding, terminal=False)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    make_image_folder(tmp_path / "photos", ("熊", "鴎"), splits=())
    assert (
        main(["features", "--images", f"folder:{tmp_path / 'photos'}", "--encoder", TINY, "--classes", "熊", "猫"]) == 2
    )
    assert r"unknown class in --classes '\u732b'; known: \u718a, \u9d0e" in err.written().decode(encoding)
    text = str(Table("", ("class", "top-1 %"), (("熊", "75.6 ± 1.1"), ("鴎", "–"))).encodable(encoding))
    assert r"\u718a" in text
    assert r"\u9d0e" in text
    assert ("75.6 +- 1.1" in text) == (encoding == "ascii")


@pytest.mark.slow
@pytest.mark.parametrize("command", [["--help"], ["encoders"]])
def test_a_process_whose_streams_cannot_represent_every_character(command):
    done = run(*command, encoding="cp1252")
    assert done.returncode == 0, done.stderr
    assert "probedistill" in done.stdout.decode("cp1252") or command == ["encoders"]


@pytest.mark.parametrize("started_as", ["module", "script"])
def test_ctrl_c_while_it_starts(tmp_path, started_as):
    (tmp_path / "cyclopts.py").write_text("raise KeyboardInterrupt")  # during its first import
    command = [sys.executable, "-m", "probedistill"]
    if started_as == "script":
        command = [sys.executable, "-c", "import sys; from probedistill.__main__ import main; sys.exit(main())"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (130, "probedistill: stopped\n")


NAMES = ("Möwe → 鴎", "dog")
EVERY_COMMAND = """
encoders
datasets
datasets food
features --config CONFIG --views 1
distill --config CONFIG --out RUN --steps 3 --overwrite
distill --config CONFIG --out OTHER --steps 3 --seed 1 --overwrite
evaluate RUN --config CONFIG --views 2 --seeds 1 --full-views 0
baseline --config CONFIG --views 2 --seeds 1 --full-views 0 --baselines random full
baseline --config CONFIG --by-bytes --runs RUN
transfer RUN OTHER --config CONFIG --encoders TINY --views 2 --seeds 1 --out WHERE/transfer
label RUN --config CONFIG --keep-head
export RUN --config CONFIG --out WHERE/small --bytes 9000 --overwrite
align --config CONFIG --encoders TINY TINY@40 --k 2 --out WHERE/align
geometry RUN --config CONFIG --k 2
audit RUN --config CONFIG
bias RUN --images folder:PHOTOS --groups GROUPS --encoders TINY --views 2 --seeds 1
compose --out COMPOSED --foregrounds folder:PHOTOS --train-per-class 2 --test-per-group 2
report RUN OTHER --out WHERE/report.html
watch RUN
runs WHERE
info RUN
accept RUN
demo --images folder:PHOTOS --encoder TINY --input-size 32 --steps 2 --out DEMO
evaluate OTHER --config CONFIG --probes rigde
"""


@pytest.fixture(scope="module")
def where(tmp_path_factory) -> dict[str, str]:
    """What replaces the words in capitals above."""
    folder = tmp_path_factory.mktemp("where")
    photos = make_image_folder(folder / "photos", NAMES, per_class=6, size=40)
    (folder / "config.yaml").write_text(f"images: folder:{photos}\nencoder: {TINY}\nsteps: 3\n")
    rows = [f"{path.relative_to(photos)},{path.parent.name},{int(path.stem) % 2}" for path in photos.rglob("*.png")]
    (folder / "groups.csv").write_text("\n".join(["file,class,background", *rows]), encoding="utf-8")
    return {
        "CONFIG": f"{folder / 'config.yaml'} --trust", "RUN": f"{folder / 'ü'}", "OTHER": f"{folder / 'other'}",
        "DEMO": f"{folder / 'demo'}", "WHERE": f"{folder}", "PHOTOS": f"{photos}", "TINY": TINY,
        "GROUPS": f"{folder / 'groups.csv'}",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("encoding", "terminal"), [("ascii", False), ("cp1252", True)], ids=["file", "terminal"])
def test_every_command_on_a_stream_that_cannot_represent_every_character(
    where, encoding, terminal, monkeypatch, tmp_path_factory
):
    """No traceback, whatever the tables, bars and names are; and no control sequences go to a file."""
    monkeypatch.setattr(progress, "DELAY", 0.0)
    where = {**where, "COMPOSED": str(tmp_path_factory.mktemp("composed") / "new")}
    commands = [line for line in EVERY_COMMAND.splitlines() if line]
    others = {name for name in app if not name.startswith("-")} - {line.split()[0] for line in commands}
    for command in [*commands, *(f"{name} --nonsense" for name in others)]:
        for word, meaning in where.items():
            command = command.replace(word, meaning)
        out, err = Stream(encoding, terminal=terminal), Stream(encoding, terminal=terminal)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = main(command.split())
        said = out.written() + err.written()
        assert code == (2 if "rigde" in command or "--nonsense" in command else 0), (command, said.decode(encoding))
        assert said.strip(), command
        assert terminal or b"\x1b" not in said, command


# ---------------------------------------------------------------- messages


def test_messages_come_from_a_logger(run_cli, distil_cli, tmp_path, caplog):
    assert distil_cli("--out", tmp_path / "run").code == 0
    with caplog.at_level(logging.INFO, "probedistill"):
        result = distil_cli("--out", tmp_path / "run", "--resume")
    assert f"{tmp_path / 'run'} is already finished\n" in result.err
    assert [(r.name, r.levelname) for r in caplog.records] == [("probedistill.distillation.folder", "INFO")]
    again = distil_cli("--out", tmp_path / "run", "--resume", "-q", "--no-progress")  # both say so
    assert again.code == 0, again.err
    assert "already finished" not in again.err


def test_warnings_are_lines_of_the_same_logger(run_cli, photos, caplog):
    result = run_cli("baseline", "--images", f"folder:{photos}", "--encoder", TINY, "--label-column", "y", "--views",
                     2, "--seeds", 1, "--full-views", 0, "-q")  # fmt: skip
    assert result.err.startswith("warning: label_column 'y' has no effect on images")
    assert [(r.name, r.levelname) for r in caplog.records] == [("probedistill", "WARNING")]


def test_what_a_decoder_remarks_is_not_shown(run_cli, tmp_path):
    """Pillow's warnings do not name the image, whose pixels are whole."""
    photos = make_image_folder(tmp_path / "photos", splits=())
    content = (photos / "cat" / "0000.png").read_bytes()
    chunk = b"acTL" + bytes(8)  # an animation of no frames
    size, check = (8).to_bytes(4, "big"), zlib.crc32(chunk).to_bytes(4, "big")
    (photos / "cat" / "0000.png").write_bytes(content[:33] + size + chunk + check + content[33:])
    with pytest.warns(UserWarning, match="APNG"):
        decode_image(photos / "cat" / "0000.png")
    done = run_cli("features", "--images", f"folder:{photos}", "--encoder", TINY)
    assert (done.code, "APNG" in done.err) == (0, False)


def test_the_command_line_leaves_the_processs_logging_and_warnings_as_they_were(run_cli):
    logger = logging.getLogger("probedistill")
    before = (logger.level, list(logger.handlers), warnings.showwarning)
    run_cli("encoders")
    assert (logger.level, list(logger.handlers), warnings.showwarning) == before


PYTHON = """
import logging, sys
from probedistill import distill

def again(word):
    print(word, file=sys.stderr)
    distill("folder:" + sys.argv[1], "module:helpers_encoders:tiny", steps=2, out="run", resume=True, progress=False)

again("first")
again("second")
logging.basicConfig(level="INFO", format="%(name)s: %(message)s")
again("third")
"""


@pytest.mark.slow
def test_from_python_only_warnings_are_shown_until_logging_is_set_up(tmp_path):
    photos = make_image_folder(tmp_path / "photos", per_class=6)
    (photos / "train/cat/broken.png").write_bytes(b"no image")
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PROBEDISTILL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", PYTHON, photos], cwd=tmp_path, env=environment, capture_output=True,
                          text=True, timeout=120, check=True)  # fmt: skip
    first, _, rest = done.stderr.partition("second\n")
    second, _, third = rest.partition("third\n")
    assert "skipped 1 unreadable of 13 images" in first
    assert "already finished" not in second
    assert "probedistill.distillation.folder: run is already finished" in third


def test_a_message_stands_above_the_live_bars(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    stream = Stream("utf-8", terminal=True)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.ProgressBar("counting", 10) as bar:
        time.sleep(0.21)
        bar.advance()
        progress.say("a word in between")
    lines = stream.written().decode().replace("\r", "\n").splitlines()
    assert "a word in between" in [line.strip() for line in lines]


def test_a_wide_table_in_a_file_keeps_its_words_whole(capsys):
    columns = ("run", *(f"encoder_weights_{i}" for i in range(8)))
    show(Table("", columns, (("a", *["efficientnet_lite0"] * 8),), left=9))
    said = capsys.readouterr().out
    for word in ("encoder_weights_", "efficientnet_lite0"):
        assert said.count(word) == 8


def test_a_file_gets_no_escape_codes():
    assert b"\x1b" not in run("encoders").stdout


def test_quiet_prints_nothing(run_cli, photos, tmp_path):
    result = run_cli("distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 2, "--out",
                     tmp_path / "run", "-q")  # fmt: skip
    assert (result.code, result.out, result.err) == (0, "", "")


def test_quiet_still_prints_errors(run_cli):
    assert "image source 'nowhere'" in run_cli("distill", "--images", "nowhere:x", "--encoder", TINY, "-q").error()


def test_only_json_goes_to_standard_output(run_cli, tmp_path):
    result = run_cli("encoders", "--json")
    assert result.code == 0
    tables = [json.loads(line) for line in result.out.splitlines()]
    assert any(row["name"] == "efficientnet_lite0" for table in tables for row in table["rows"])
    assert "Others" in result.err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_to_a_closed_stream_is_dropped(monkeypatch, stream):
    monkeypatch.setattr(sys, stream, None)
    assert main(["encoders"]) == 0
    assert main(["info", "no such run"]) == 2
    getattr(sys, stream).close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
def test_an_unwritable_log_does_not_stop_the_work(distil_cli, tmp_path, monkeypatch):
    photos = make_image_folder(tmp_path / "photos")
    (photos / "train/cat/broken.png").write_bytes(b"no image")  # causes a warning
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert distil_cli("--out", tmp_path / "run", images=f"folder:{photos}").code == 0
        assert distil_cli("--out", tmp_path / "run", images=f"folder:{photos}").code == 2
    assert (tmp_path / "run/preview.png").exists()


@pytest.mark.parametrize("command", [["encoders"], ["encoders", "--json"]])
def test_a_closed_pipe_ends_the_command_quietly(command, monkeypatch, capfd):
    """The exit code is that of a process ended by SIGPIPE."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert main(command) == 141
    assert capfd.readouterr().err.count("\n") <= 1  # sentences, which go to standard error with --json


@pytest.mark.slow
def test_a_closed_pipe_ends_the_help_quietly(start_process):
    process = start_process("distill", "--help")
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (141, "")


def test_sentences_to_a_closed_stream_do_not_affect_the_json(monkeypatch, capfd):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        assert main(["encoders", "--json"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[0])["rows"]


@pytest.mark.parametrize("command", [["encoders"], ["encoders", "--json"]])
def test_an_unwritable_output_is_one_line(command, monkeypatch, capfd):
    with open(os.dup(os.open(os.devnull, os.O_RDONLY)), "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(command) == 1
    assert "the output cannot be written: Bad file descriptor" in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_an_earlier_command_line_has_no_effect(option, capsys):
    assert main(["encoders", option]) == 0
    capsys.readouterr()
    show("a sentence")
    assert capsys.readouterr().out == "a sentence\n"
