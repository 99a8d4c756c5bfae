"""Several runs in one call: seeds and grids, resumed, scored, in one table."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest

from conftest import TINY, wait_for
from probedistill import DistilledSet, UserError, sweep
from probedistill.analysis.sweep import read_grid

QUICK = {"steps": 2, "evaluate_every": 0, "progress": False}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "several"


def folders(out: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(out)) for path in out.rglob("run.json"))


@pytest.mark.slow
def test_seeds_are_one_row_with_a_spread(distil_cli, run_cli, out, tmp_path):
    made = distil_cli("--seeds", 0, 1, 2, "--out", out, steps=2)
    assert made.code == 0, made.err
    assert folders(out) == ["seed-0", "seed-1", "seed-2"]
    assert "0 1 2" in made.out
    assert "±" in made.out
    sets = [DistilledSet.load(out / name) for name in folders(out)]
    assert [one.run.config.seed for one in sets] == [0, 1, 2]
    assert not (sets[0].float_images == sets[1].float_images).all()
    assert run_cli("runs", out, "--csv", tmp_path / "runs.csv").code == 0
    lines = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert [(line["run"], line["probe"]) for line in lines] == [(f"seed-{n}", "ridge") for n in range(3)]


@pytest.mark.slow
def test_each_run_is_what_distill_alone_makes(distil_cli, out, tmp_path):
    assert distil_cli("--seeds", 3, "--out", out).code == 0
    assert distil_cli("--seed", 3, "--out", tmp_path / "alone").code == 0
    several, alone = DistilledSet.load(out / "seed-3"), DistilledSet.load(tmp_path / "alone")
    assert (several.float_images == alone.float_images).all()
    assert (out / "seed-3" / "config.yaml").read_text() == (tmp_path / "alone" / "config.yaml").read_text()


@pytest.mark.slow
def test_a_grid_is_the_cross_product_with_readable_names(distil_cli, out):
    grid = ["--grid", "lr", "0.01,0.02", "--grid", "canvas.init", "real,noise"]
    made = distil_cli(*grid, "--seeds", 0, 1, "--out", out, "--probes", "ridge", "1nn", steps=1)
    assert made.code == 0, made.err
    points = [f"lr-{lr}_canvas.init-{init}" for lr in ("0.01", "0.02") for init in ("noise", "real")]
    assert folders(out) == [f"{point}/seed-{seed}" for point in points for seed in (0, 1)]
    config = DistilledSet.load(out / "lr-0.02_canvas.init-real" / "seed-1").run.config
    assert (config.lr, config.canvas.init, config.seed) == (0.02, "real", 1)
    scores = json.loads(next((out / "lr-0.01_canvas.init-noise/seed-0").glob("evaluation-*")).read_text())
    assert [row["probe"] for row in scores["rows"]] == ["ridge", "1nn"]


@pytest.mark.slow
def test_a_second_call_keeps_what_is_done_and_adds_seeds(distil_cli, out):
    assert distil_cli("--seeds", 0, "--out", out).code == 0
    before = {path: path.stat().st_mtime_ns for path in (out / "seed-0").rglob("*") if path.suffix != ".lock"}
    assert distil_cli("--seeds", 0, 1, "--out", out).code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert folders(out) == ["seed-0", "seed-1"]
    assert "holds a run with steps 3, now 4" in distil_cli("--seeds", 0, 1, "--out", out, steps=4).error()


@pytest.mark.slow
def test_it_resumes_after_an_interruption(fork, run_cli, photos, out):
    words = ["distill", "--images", f"folder:{photos}", "--encoder", "module:helpers_encoders:slow"]
    words += ["--steps", 25, "--seeds", 0, 1, "--out", out, "--no-progress"]
    process = fork(*words)
    wait_for((out / "seed-1" / "run.json").exists)
    process.kill(signal.SIGINT)
    assert process.end() == 130
    assert process.log.read_text().strip().endswith("probedistill: stopped; repeat the command to continue")
    done = (out / "seed-0" / "tensors.safetensors").stat().st_mtime_ns
    assert run_cli(*words).code == 0
    assert (out / "seed-0" / "tensors.safetensors").stat().st_mtime_ns == done
    assert DistilledSet.load(out / "seed-1").run.finished


@pytest.mark.slow
def test_a_run_that_diverges_does_not_stop_the_others(run_cli, photos, out):
    words = ["distill", "--images", f"folder:{photos}", "--encoder", "module:helpers_encoders:turns_nan"]
    made = run_cli(*words, "--grid", "steps", "1,9", "--views", 1, "--evaluate-every", 0, "--out", out)
    assert made.code == 0, made.err
    assert "left out" in made.err
    assert "unfinished" in made.out
    assert DistilledSet.load(out / "steps-1" / "seed-0").run.finished


@pytest.mark.slow
def test_from_python(photos, tmp_path):
    found = sweep(f"folder:{photos}", TINY, seeds=[0, 1], grid={"views": [1, 2]}, out=tmp_path / "x", **QUICK)
    assert [(group.settings, group.seeds) for group in found.groups] == [
        ({"views": "1"}, (0, 1)),
        ({"views": "2"}, (0, 1)),
    ]
    assert all(len(group.accuracies[0].top1) == 2 for group in found.groups)


@pytest.mark.slow
def test_seeds_and_values_may_be_arrays(photos, tmp_path):
    grid = {"views": np.arange(1, 3)}
    found = sweep(f"folder:{photos}", TINY, seeds=np.arange(2), grid=grid, out=tmp_path / "x", **QUICK)
    assert [(group.settings, group.seeds) for group in found.groups] == [({"views": n}, (0, 1)) for n in ("1", "2")]


def test_values_of_a_grid_have_the_type_of_their_option():
    assert read_grid([("lr", "1e-3, 0.02"), ("canvas.init", "real,noise")]) == {
        "lr": ["1e-3", "0.02"],
        "canvas.init": ["real", "noise"],
    }
    assert read_grid([("--augment.scale", "[0.08, 1], [0.3, 1]")]) == {"augment.scale": [[0.08, 1], [0.3, 1]]}
    assert read_grid([("images-per-class", "1,10")]) == {"images_per_class": ["1", "10"]}


def test_a_grid_of_methods_takes_the_values_of_each_ones_preset(tmp_path, photos):
    made = sweep(
        f"folder:{photos}", TINY, grid={"method": ["clp", "sfm"]}, preset="paper", method="clp", canvas={"size": 32},
        out=tmp_path / "x", **QUICK,
    )  # fmt: skip
    assert len(made.groups) == 2
    config = DistilledSet.load(tmp_path / "x" / "method-sfm" / "seed-0").run.config
    assert (config.sfm.cosine, config.canvas.size, config.steps) == ("all", 32, 2)


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ({"lrr": [1]}, "unknown option of grid 'lrr'; did you mean 'lr'"),
        ({"canvas": ["real"]}, "unknown option of grid 'canvas'"),
        ({"canvas.inti": ["real"]}, "did you mean 'canvas.init'"),
        ({"lr": ["fast"]}, "it takes a number or auto"),
        ({"layers": ["x"]}, "it takes a whole number or auto"),
        ({"keep_head": ["maybe"]}, "it takes true or false"),
        ({"lr": [0.1, -1]}, "lr -1.0 must be more than 0"),
        ({"canvas.init": ["real", "photo"]}, "grid canvas.init 'photo' does not fit"),
        ({"canvas.init": ["photo"]}, "it takes auto, noise, average, blend, real"),
        ({"views": [1, 1]}, "grid views 1 is named twice"),
        ({"views": []}, "grid 'views' needs values"),
        ({"seed": [1]}, "give seeds instead"),
        ({"also": [["x"]]}, "one sweep for each"),
        ({"preset": ["paper"]}, "one sweep for each preset"),
        ({"method": ["clp", "module:nothing_here:f"]}, "nothing_here"),
    ],
)
def test_a_grid_that_is_wrong_is_refused_before_the_first_run(photos, tmp_path, grid, says):
    with pytest.raises(UserError) as error:
        sweep(f"folder:{photos}", TINY, grid=grid, out=tmp_path / "x", **QUICK)
    assert says in str(error.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seeds", 0, 0], "seeds 0 is named twice"),
        (["--seeds", -1], "seeds -1 must be 0 or more"),
        (["--seeds", 0, 1, "--seed", 5], "seed 5 is not among the seeds 0 1"),
        (["--grid", "lr", "[0.1"], "cannot be read"),
        (["--grid", "lr", "0.1", "--grid", "lr", "0.2"], "named twice; give all its values at once"),
        (["--seeds", 0, "--probes", "rigde"], "did you mean 'ridge'"),
        (["--probes", "ridge"], "probes are for --seeds and --grid"),
    ],
)
def test_words_that_are_wrong(distil_cli, out, arguments, says):
    assert says in distil_cli(*arguments, "--out", out).error()
    assert not out.exists()


@pytest.mark.slow
def test_a_number_of_evaluation_seeds_in_a_file_is_not_a_list_of_seeds(distil_cli, tmp_path, out):
    file = tmp_path / "both.yaml"
    file.write_text("seeds: 5\n")
    assert distil_cli("--config", file, "--out", out).code == 0
    assert (out / "run.json").exists()
    file.write_text("seeds: [0, 1]\ngrid: [views, '1,2']\n")
    assert distil_cli("--config", file, "--out", tmp_path / "more", steps=1).code == 0
    assert len(folders(tmp_path / "more")) == 4


def test_a_grid_in_a_file_may_not_name_code(run_cli, photos, tmp_path, out):
    """Not even in its second value."""
    file = tmp_path / "sent.yaml"
    file.write_text("grid: [method, 'clp, module:mine:objective']\n")
    words = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--out", out]
    message = run_cli(*words, "--config", file, trust=False).error()
    assert "needs trust" in message
    assert not out.exists()


@pytest.mark.slow
def test_from_statistics_instead_of_images(run_cli, photos, tmp_path, out):
    stats = tmp_path / "a.stats"
    made = run_cli("stats", "--images", f"folder:{photos}", "--encoder", TINY, "--out", stats)
    assert made.code == 0, made.err
    words = ["distill", "--stats", stats, "--encoder", TINY, "--steps", 1, "--seeds", 0, 1, "--out", out]
    assert run_cli(*words, "--images", f"folder:{photos}").code == 0
    assert folders(out) == ["seed-0", "seed-1"]
    assert "needs the real images" in run_cli(*words, "--grid", "canvas.init", "noise,real").error()
