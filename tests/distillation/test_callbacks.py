"""Callbacks listen to a run: a user's own, TensorBoard, Weights & Biases."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import TESTS, TINY
from helpers_runs import run_record
from probedistill import Callback, DistillConfig, DistilledSet, LabelledImages, UserError, distill
from probedistill.distillation.callbacks import Bar, Forecast, Start, Step
from probedistill.errors import speaking_flags
from probedistill.store.run_record import History


class Heard(Callback):
    """Records what it is told."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.accuracy: list[float | None] = []

    def on_start(self, start):
        self.words.append(f"start {start.step} of {start.steps}")

    def on_step(self, step):
        assert step.loss == step.history.losses[step.step - 1]
        self.words.append(f"step {step.step}")

    def on_preview(self, preview):
        assert preview.images.shape[:2] == (2, 3)
        assert preview.titles == ("cat", "dog")
        self.accuracy.append(preview.accuracy)
        self.words.append(f"preview {preview.step}")

    def on_end(self, end):
        self.words.append(f"end {end.step} {end.finished}")


class Stops(Callback):
    """Stops a run in its third step."""

    def on_step(self, step):
        if step.step == 3:
            raise KeyboardInterrupt


def quick(photos: Path, encoder: object = TINY, **options):
    return distill(f"folder:{photos}", encoder, **{"steps": 4, "progress": False, "evaluate_every": 2, **options})


@pytest.mark.slow
def test_a_callback_is_told_of_everything_in_order(photos):
    heard = Heard()
    run = quick(photos, callbacks=[heard]).run
    assert heard.words == [
        "start 0 of 4", "preview 0", "step 1", "step 2", "preview 2", "step 3", "step 4", "preview 4", "end 4 True",
    ]  # fmt: skip
    assert heard.accuracy == [None, *(value for _, value in run.accuracy)]


def test_callbacks_may_come_from_an_iterator(photos):
    heard = Heard()
    quick(photos, callbacks=iter([heard]))
    assert heard.words[0] == "start 0 of 4"


def test_a_stopped_run_ends_unfinished_and_resumes(photos, tmp_path):
    heard = Heard()
    with pytest.raises(KeyboardInterrupt):
        quick(photos, out=tmp_path / "run", callbacks=[Stops(), heard])
    assert heard.words[-1] == "end 3 False"
    again = Heard()
    quick(photos, out=tmp_path / "run", resume=True, callbacks=[again])
    assert again.words[-1] == "end 4 True"


def test_a_resumed_run_reads_no_photo_to_start_from(photos, tmp_path, monkeypatch):
    kept = {"out": tmp_path / "run", "cache": tmp_path / "features", "evaluate_every": 0, "checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        quick(photos, callbacks=[Stops()], **kept)
    read, load = [], LabelledImages.load
    monkeypatch.setattr(LabelledImages, "load", lambda self, index: (read.append(index), load(self, index))[1])
    resumed = quick(photos, resume=True, **kept)
    assert read == []
    whole = quick(photos, cache=tmp_path / "features", evaluate_every=0)
    assert len(read) > 0
    assert torch.equal(resumed.float_images, whole.float_images)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from probedistill import Callback\n\n\n"
        "class Shout(Callback):\n"
        "    def on_step(self, step):\n"
        "        print('shout', step.step)\n\n\n"
        "def nothing():\n    return 3\n\n\n"
        "def needy(width):\n    return Shout()\n"
    )
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("mine", None)


def test_a_users_own_callback_from_the_command_line(distil_cli, tmp_path, mine):
    result = distil_cli("--out", tmp_path / "run", "--callback", "module:mine:Shout")
    assert result.code == 0, result.err
    assert [line for line in result.out.splitlines() if line.startswith("shout")] == ["shout 1", "shout 2", "shout 3"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--callback", "module:mine:nothing"], "returns int; it must return a probedistill.Callback"),
        (
            ["--callback", "module:mine:needy"],
            "callback 'module:mine:needy' cannot be made (needy() missing 1",
        ),
        (["--callback", "shout"], "must be module:FILE:NAME"),
        (["--callback", "module:nowhere:x"], "'nowhere' cannot be imported"),
        (["--log", "tensorbord"], "unknown logger 'tensorbord'; did you mean 'tensorboard'?"),
    ],
)
def test_objects_that_are_not_callbacks(distil_cli, tmp_path, mine, options, says):
    assert says in distil_cli("--out", tmp_path / "run", *options).error()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_tensorboard(photos, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = quick(photos, [TINY, f"{TINY}@24"], out=tmp_path / "run", log=["tensorboard"]).run
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "lr", "accuracy", "loss/encoder-0", "loss/encoder-1"}
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(run.losses)
    assert [event.step for event in events.Scalars("accuracy")] == [2, 4]
    assert events.Tags()["images"]
    assert len(DistilledSet.load(tmp_path / "run")) == 2


@pytest.mark.slow
def test_weights_and_biases_offline(photos, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    quick(photos, out=tmp_path / "run", log=["wandb"])
    assert list((tmp_path / "run").rglob("run-*.wandb"))


def test_a_logger_that_is_not_installed_is_one_line(distil_cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    line = distil_cli("--out", tmp_path / "run", "--log", "wandb").error()
    assert "log 'wandb' needs the package wandb, which is not installed; run: pip install 'probedistill[wandb]'" in line


def test_unknown_options_are_one_line(photos):
    with pytest.raises(UserError, match="unknown option 'stepz'; did you mean 'steps'"):
        quick(photos, stepz=3)


NOTEBOOK = """
from probedistill import distill
distill({photos!r}, "module:helpers_encoders:tiny", steps=4, progress={progress}, log=[], evaluate_every=2);
"""


@pytest.mark.slow
def test_in_a_notebook_the_images_are_updated_in_place(photos, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="pip install 'probedistill[dev]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'probedistill[dev]'")
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    cells = [
        nbformat.v4.new_code_cell(NOTEBOOK.format(photos=f"folder:{photos}", progress=progress))
        for progress in (True, False)
    ]
    book = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    first, second = ([o for o in cell.outputs if "image/png" in o.get("data", {})] for cell in book.cells)
    assert len(first) == 1, "one picture, which is replaced"
    assert not second, "progress=False shows none"


def test_outside_a_notebook_nothing_is_shown(photos, monkeypatch):
    shown = []
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=lambda *a, **k: shown.append(a)))
    distill(f"folder:{photos}", TINY, steps=2, progress=True)
    assert not shown


def test_a_notebook_that_cannot_show_images_does_not_stop_the_run(photos, monkeypatch):
    monkeypatch.setattr("probedistill.distillation.callbacks.in_notebook", lambda: True)
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    assert len(distill(f"folder:{photos}", TINY, steps=2, progress=True)) == 2


# ---- a word about runs that take long


def timed(seconds, *, steps=300, at=0, folder=Path("run"), **config):
    """A forecast after steps that ended at these seconds after the start."""
    forecast, run = Forecast(), run_record(config=DistillConfig(steps=steps, **config).resolve(), finished=False)
    forecast.on_start(Start(run, folder, at, steps, History()))
    for number, end in enumerate(seconds, at + 1):
        forecast.on_step(Step(number, 1.0, (1.0,), 0.1, History(seconds=end)))
    return forecast


def test_a_long_run_says_once_how_long_it_takes_and_how_to_shorten_it(capfd):
    # The first step takes longer than the others, and does not count.
    timed([100, 130, 160, 190, 220, 250], views=12)
    with speaking_flags():
        timed([100, 130, 160, 190, 220, 250], views=12)
    in_python, line = capfd.readouterr().err.splitlines()
    assert line == (
        "about 2.5 h left: 300 steps, 12 views of each image. To shorten it: stop the run and add --overwrite; "
        "--steps 100 takes a third of the time, --views 6 half, --precision bf16 perhaps half, on hardware that "
        "supports it. Fewer steps or views give weaker images: reduce steps before views. To stop and continue later, "
        "use --resume."
    )
    assert "stop the run and add overwrite=True; steps=100 takes a third of the time, views=6 half" in in_python


def test_a_run_without_a_folder_cannot_be_resumed(capfd):
    timed([100, 130, 160, 190], views=2, steps=300, folder=None)
    (line,) = capfd.readouterr().err.splitlines()
    assert "resume" not in line
    assert "overwrite" not in line
    assert "views=" not in line, "there are few"


@pytest.mark.parametrize(
    ("seconds", "options", "says"),
    [
        ([1, 2, 3, 4], {}, False),
        ([100, 101, 102, 103], {}, False),
        ([1, 3, 5, 7], {}, False),
        ([1, 4, 7, 10], {}, True),
        ([1, 40], {}, True),  # one step is enough if it is long
        ([1, 4, 7], {}, False),  # not yet
        ([1, 4, 7, 10], {"steps": 100}, False),
        ([1, 4, 7, 10], {"at": 10}, False),  # resumed: the forecast was given before
        ([1, 4, 7, 10], {"at": 250}, False),
    ],
)
def test_a_run_of_minutes_has_no_forecast(capfd, seconds, options, says):
    timed(seconds, **options)
    assert bool(capfd.readouterr().err) == says


def test_a_run_prints_its_forecast(photos, capfd, monkeypatch):
    monkeypatch.setattr(Forecast, "FROM", 0.0)
    quick(photos, steps=8, progress=True)
    assert [line for line in capfd.readouterr().err.splitlines() if "left: 8 steps, 3 views of each image" in line]
    quick(photos, steps=8)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(("begun_from", "words"), [("average", " from averages of photos"), ("noise", "")])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_start_of_the_images_is_announced(capsys, monkeypatch, begun_from, words, is_terminal):
    """In a terminal, in a line above the bar, which has no room; in a log file, in the bar's own lines."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    bar = Bar()
    bar.on_start(Start(run_record(begun_from=begun_from), None, 0, 9, History()))
    assert bar.bar is not None
    line = bar.bar.line()
    bar.bar.__exit__(None, None, None)
    assert line.startswith(f"distil clp{'' if is_terminal else words}: 0/9")
    said = "the images start from averages of photos; canvas={'init': 'noise'} starts without photos"
    assert (said in capsys.readouterr().err) == (is_terminal and words != "")
