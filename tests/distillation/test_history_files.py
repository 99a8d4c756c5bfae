"""Files that show a run: progress.json while it is running, and sprites of the evolution of its images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from conftest import TINY
from probedistill import Encoder, NonFiniteLossError, distill
from probedistill.distillation.callbacks import ProgressFile
from probedistill.report.watch import read_progress
from probedistill.show.previews import CELLS_PER_ROW, LIMIT, cell_size, read_evolution, save_sprite, sprite_cells


def quick(photos: Path, encoder: str | Encoder = TINY, **options):
    return distill(f"folder:{photos}", encoder, **{"steps": 12, "progress": False, "evaluate_every": 5, **options})


def encoder(broken: bool = False) -> Encoder:
    """The tiny encoder; broken, it turns to NaN after a few steps."""
    from helpers_encoders import Tiny, TurnsNaN

    model = TurnsNaN() if broken else Tiny()
    return Encoder(model, name="tiny", input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3, identity="same")


def stop_midway(photos: Path, out: Path, **options) -> Path:
    with pytest.raises(NonFiniteLossError):
        quick(photos, encoder(broken=True), out=out, checkpoint_seconds=0, **{"evaluate_every": 2, **options})
    return out


def steps(folder: Path) -> list[int]:
    return [step for step, _ in read_evolution(folder)]


def sprites(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "evolution").iterdir()}


# ---- sprites


@given(count=st.integers(1, 300), size=st.integers(1, 400))
def test_cells_are_apart_and_in_order(count: int, size: int) -> None:
    cells, side = sprite_cells(count, size), cell_size(size)
    assert len(cells) == min(count, LIMIT)
    assert len(set(cells)) == len(cells)
    assert all(x % side == y % side == 0 and x < CELLS_PER_ROW * side for x, y in cells)
    assert cells == sorted(cells, key=lambda corner: (corner[1], corner[0]))


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(1, 32, (32, 32)), (3, 8, (24, 8)), (10, 16, (160, 16)), (11, 16, (160, 32)), (130, 8, (80, 80)),
     (2, 150, (224, 112))],
)  # fmt: skip
def test_a_sprite_holds_the_first_images_without_gaps(tmp_path, count, size, expected):
    colours = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    path = save_sprite(tmp_path, 30, colours.expand(-1, -1, size, size))
    assert path == tmp_path / "evolution" / "step-0000030.webp"
    with Image.open(path) as image:
        assert (image.format, image.size) == ("WEBP", expected)
        sheet = pil_to_tensor(image.convert("RGB")).float() / 255
    side = cell_size(size)
    for (x, y), colour in zip(sprite_cells(count, size), colours, strict=False):
        centre = sheet[:, y + side // 2, x + side // 2]
        assert float((centre - colour.flatten()).abs().max()) < 0.1  # WebP is lossy


def test_reading_takes_only_sprites(tmp_path):
    assert read_evolution(tmp_path) == []
    for step in (200, 0, 12345678):
        save_sprite(tmp_path, step, torch.rand(2, 3, 8, 8))
    for name in ("step-1.png", "step-x.webp", "step-1.webp.webp", ".step-0000001.webp.abc.part", "preview.webp"):
        (tmp_path / "evolution" / name).write_bytes(b"")
    assert steps(tmp_path) == [0, 200, 12345678]


# ---- of a run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 5, 10, 12]),
        ({"evaluate_every": 0}, [0, 12]),
        ({"evaluate_every": 6}, [0, 6, 12]),
        ({"evaluate_every": None, "steps": 20}, list(range(0, 21, 2))),
        ({"evaluate_every": 100}, [0, 12]),
    ],
)
def test_a_run_keeps_the_first_each_preview_and_the_last(photos, tmp_path, options, expected):
    distilled = quick(photos, out=tmp_path / "run", **options)
    assert steps(tmp_path / "run") == expected
    assert not (tmp_path / "run" / "progress.json").exists()
    with Image.open(read_evolution(tmp_path / "run")[-1][1]) as image:
        last = pil_to_tensor(image.convert("RGB")).float() / 255
    shipped = torch.cat(list(distilled.images), dim=-1)
    assert last.shape == shipped.shape
    assert float((last - shipped).abs().mean()) < 0.06
    previews = [] if options.get("evaluate_every") == 0 else expected[1:]
    assert [step for step, _ in distilled.run.accuracy] == previews


@pytest.mark.slow
def test_progress_says_how_far_it_is(photos, tmp_path, monkeypatch):
    written: list[dict] = []

    class Watched(ProgressFile):
        def write(self, history):
            super().write(history)
            progress = json.loads((self.folder / "progress.json").read_text())
            if not written or progress != written[-1]:
                written.append(progress)

    monkeypatch.setattr("probedistill.distillation.run.ProgressFile", Watched)
    run = quick(photos, out=tmp_path / "run").run
    assert [p["step"] for p in written] == [0, 5, 10, 12], "too quick for more than the previews"
    for progress in written:
        assert progress.keys() == {"kind", "sha256", "step", "steps", "losses", "tower_losses", "accuracy", "seconds"}
        assert progress["steps"] == 12
        assert progress["losses"] == run.losses[: progress["step"]]
        assert progress["accuracy"] == [list(a) for a in run.accuracy if a[0] <= progress["step"]]
    assert written[-1]["seconds"] == pytest.approx(run.seconds, rel=0.5)

    written.clear()
    monkeypatch.setattr(ProgressFile, "LEAST_PAUSE", 0.0)
    monkeypatch.setattr(ProgressFile, "SHARE", 1e9)
    quick(photos, out=tmp_path / "often", evaluate_every=0)
    assert [p["step"] for p in written] == list(range(13))

    written.clear()
    monkeypatch.setattr(ProgressFile, "SHARE", 1e-9)  # a disk so slow that nothing else is written
    quick(photos, out=tmp_path / "seldom", evaluate_every=0)
    assert [p["step"] for p in written] == [0, 12]


def test_a_stopped_run_shows_where_it_stopped(photos, tmp_path):
    out = stop_midway(photos, tmp_path / "run")
    progress = json.loads((out / "progress.json").read_text())
    assert progress["step"] == steps(out)[-1] == 2
    assert len(progress["losses"]) == 2


def test_a_run_that_stops_between_two_writes_shows_its_last_step(photos, tmp_path):
    out = stop_midway(photos, tmp_path / "run", evaluate_every=0)
    shown = read_progress(out)
    assert (shown.step, len(shown.losses)) == (2, 2)


@pytest.mark.slow
def test_resuming_gives_the_sprites_of_an_unbroken_run(photos, tmp_path):
    quick(photos, encoder(), out=tmp_path / "whole", evaluate_every=2)
    out = stop_midway(photos, tmp_path / "run")
    for checkpoint in sorted((out / "checkpoints").iterdir())[1:]:
        checkpoint.unlink()
    for later in (3, 7, 500):  # from attempts that were killed before they had saved, or from an earlier run
        save_sprite(out, later, torch.rand(2, 3, 8, 8))
    (out / "evolution" / ".step-0000006.webp.abc.part").write_bytes(b"RIFF")
    quick(photos, encoder(), out=out, evaluate_every=2, resume=True)
    assert sprites(out) == sprites(tmp_path / "whole")
    assert not (out / "progress.json").exists()


@pytest.mark.slow
def test_resuming_from_the_beginning_makes_all_sprites_again(photos, tmp_path):
    out = stop_midway(photos, tmp_path / "run")
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    for step, path in read_evolution(out):
        save_sprite(out, step, torch.rand(2, 3, 8, 8))
        assert path.exists()
    quick(photos, encoder(), out=out, evaluate_every=6, resume=True)
    quick(photos, encoder(), out=tmp_path / "whole", evaluate_every=6)
    assert sprites(out) == sprites(tmp_path / "whole")


def test_overwriting_removes_what_there_was_to_look_at(photos, tmp_path):
    out = stop_midway(photos, tmp_path / "run")
    assert steps(out) == [0, 2]
    quick(photos, encoder(), out=out, evaluate_every=0, overwrite=True)
    assert steps(out) == [0, 12]


def test_a_finished_run_is_tidied_when_it_is_resumed(photos, tmp_path):
    out = tmp_path / "run"
    quick(photos, encoder(), out=out)
    before = sprites(out)
    (out / "progress.json").write_text("{}")  # killed after writing run.json, before the rest was removed
    (out / "evolution" / ".step-0000006.webp.abc.part").write_bytes(b"RIFF")
    quick(photos, encoder(), out=out, resume=True)
    assert not (out / "progress.json").exists()
    assert sprites(out) == before


def test_a_folder_with_sprites_and_no_run_is_somebody_elses(distil_cli, tmp_path):
    out = tmp_path / "run"
    save_sprite(out, 0, torch.rand(2, 3, 8, 8))
    assert "is not empty and is not a run" in distil_cli("--out", out, "--resume").error()
    assert steps(out) == [0]
