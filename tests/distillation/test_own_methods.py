"""A method and a canvas from outside the package, in every command that uses them."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from conftest import TINY
from probedistill import Callback, DistilledSet, UserError, distill
from probedistill.methods import METHODS
from probedistill.registry import Registry

METHOD = """
import torch

def objective(real, *, strength: float = 1.0, seed: int = 7):
    centres = real.class_means()
    noise = 1e-3 * torch.randn(centres.shape, generator=torch.Generator().manual_seed(seed)).to(centres)

    def loss(features, labels, step):
        return strength * (features - centres[labels] - noise[labels]).square().mean()

    return loss

def needy(real, *, width):
    return lambda features, labels, step: features.sum() * width

def confused(real):
    return 3

def nothing():
    pass

def of_two(real):
    return lambda features, labels: features.mean()

def of_each(real):
    return lambda features, labels, step: features.mean(1)

def number(real):
    return lambda features, labels, step: features.mean().item()

def cut(real):
    return lambda features, labels, step: features.detach().mean()

class Blocks:
    \"""Images of two by two blocks of one colour each.\"""

    def __init__(self, count, size, device="cpu"):
        self.count, self.size = count, size
        self.levels = [torch.zeros(count, 3, 2, 2, device=device)]

    def render(self, levels):
        return torch.nn.functional.interpolate(torch.sigmoid(levels[0]), self.size, mode="nearest")

    def fill_with_noise(self, std, *, seed, first=0):
        for i, image in enumerate(self.levels[0]):
            generator = torch.Generator().manual_seed(seed + first + i)
            image.copy_(std * torch.randn(image.shape, generator=generator))

    def fill_with_images(self, images):
        self.levels[0].copy_(torch.nn.functional.adaptive_avg_pool2d(images, 2).clamp(0.01, 0.99).logit())

class Bright(Blocks):
    def render(self, levels):
        return 2 + super().render(levels)

class Short(Blocks):
    def __init__(self, count, size, device="cpu"):
        super().__init__(count + 1, size, device)
        self.count = count

class Grey(Blocks):
    def render(self, levels):
        return super().render(levels)[:, :1]

class Rounded(Blocks):
    def render(self, levels):
        return (255 * super().render(levels)).round() / 255

class Cut(Blocks):
    def render(self, levels):
        return super().render([level.detach() for level in levels])

class Counts(Blocks):
    def __init__(self, count, size, device="cpu"):
        super().__init__(count, size, device)
        self.levels = [level.long() for level in self.levels]

class Empty(Blocks):
    fill_with_noise = None

class Spare(Blocks):
    def __init__(self, count, size, device="cpu"):
        super().__init__(count, size, device)
        self.levels.append(torch.zeros(count, 1, device=device))
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A current folder that contains the file above."""
    (tmp_path / "mine.py").write_text(METHOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


OWN = ["--method", "module:mine:objective", "--method-args.strength", 2]


# ---- a method


def test_a_users_own_method_works_in_every_command(mine, distil_cli, run_cli, photos):
    out = mine / "run"
    assert distil_cli(*OWN, "--out", out, steps=4).code == 0
    run = json.loads((out / "run.json").read_text())
    assert run["config"]["method"] == "module:mine:objective"
    assert run["config"]["method_args"] == {"strength": 2}
    kept = yaml.safe_load((out / "config.yaml").read_text())
    assert (kept["method"], kept["method_args"]) == ("module:mine:objective", {"strength": 2})
    assert not {"lgm", "clp", "sfm"} & kept.keys()
    assert (out / "preview.png").stat().st_size > 0
    info = run_cli("info", out).out
    assert "module:mine:objective" in info
    assert "method_args.strength 2" in info
    scores = ["--seeds", 1, "--views", 1, "--full-views", 0, "--baselines", "random"]
    assert run_cli("evaluate", out, "--images", f"folder:{photos}", "--encoder", TINY, *scores).code == 0
    report = run_cli("report", out, "--out", mine / "report.html")
    assert report.code == 0, report.err
    assert "module:mine:objective" in (mine / "report.html").read_text()


def test_a_run_with_a_users_own_method_resumes(mine, distil_cli):
    whole = mine / "whole"
    assert distil_cli(*OWN, "--out", whole, steps=4).code == 0
    again = distil_cli(*OWN, "--out", whole, "--resume", steps=4)
    assert again.code == 0
    assert "already finished" in again.err
    other = distil_cli(*OWN[:2], "--method-args.strength", 3, "--out", whole, "--resume", steps=4)
    assert "method_args" in other.error()


def test_a_file_of_options_may_name_code_only_with_trust(mine, distil_cli, run_cli):
    assert distil_cli(*OWN, "--out", mine / "run").code == 0
    repeat = ["distill", "--config", mine / "run" / "config.yaml", "--out", mine / "again", "--encoder", TINY]
    (mine / "options.yaml").write_text("method: module:mine:objective\n")
    unseen = [mine / "options.yaml" if word == repeat[2] else word for word in repeat]
    assert "module:mine:objective" in run_cli(*unseen, trust=False).error()
    assert not (mine / "again").exists()
    assert run_cli(*repeat).code == 0
    one, two = (DistilledSet.load(mine / name).float_images for name in ("run", "again"))
    assert torch.equal(one, two)


def test_options_come_from_the_functions_keywords(mine, photos):
    def run(**options) -> torch.Tensor:
        return distill(
            f"folder:{photos}",
            TINY,
            method=OWN[1],
            steps=2,
            progress=False,
            evaluate_every=0,
            **options,
        ).float_images

    first = run()
    assert torch.equal(run(method_args={"strength": 1.0}), first)
    assert torch.equal(run(seed=0, method_args={"seed": 0}), first), "a keyword seed is given the run's"
    assert not torch.equal(run(method_args={"seed": 1}), first)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["module:mine:objective", "--method-args.strenght", 2], "did you mean 'strength'"),
        (["module:mine:objectiv"], "did you mean 'objective'"),
        (["module:mine:needy"], "needs the option 'width'; add --method-args.width …"),
        (["module:mine:confused"], "returns int; it must return a function of (features, labels, step)"),
        (["module:mine:nothing"], "takes no argument"),
        (
            ["module:mine:of_two"],
            "returns a function of (features, labels); it must return a function of (features, lab",
        ),
        (
            ["module:mine:of_each", "--views", 2],
            "returns a function whose loss is a tensor (4,); it must be a scalar tensor",
        ),
        (["module:mine:number"], "returns a function whose loss is float"),
        (["module:mine:cut"], "returns a loss without a gradient"),
        (["module:elsewhere:objective"], "is there a elsewhere.py in"),
        (["sfn"], "did you mean 'sfm'"),
        (["sfm", "--method-args.strength", 2], "set the options of sfm in sfm"),
        (["module:mine:objective", "--preset", "paper"], "has no values for method 'module:mine:objective'"),
    ],
)
def test_bad_methods_are_one_line_and_leave_nothing(mine, distil_cli, arguments, words):
    assert words in distil_cli("--out", mine / "run", "--method", *arguments).error()
    assert not (mine / "run").exists()


def test_a_package_adds_a_method_by_an_entry_point(mine, distil_cli, monkeypatch):
    point = importlib.metadata.EntryPoint("pull", "mine:objective", "probedistill.method")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point] if group == point.group else [])
    fresh = Registry(METHODS.kind, METHODS.built_in)
    assert "pull" in fresh
    monkeypatch.setitem(METHODS.__dict__, "plugins", fresh.plugins)
    assert distil_cli("--method", "pull", "--method-args.strength", 2, "--out", mine / "named").code == 0
    assert distil_cli(*OWN, "--out", mine / "run").code == 0
    one, two = (DistilledSet.load(mine / name).float_images for name in ("named", "run"))
    assert torch.equal(one, two)


# ---- a canvas


@pytest.mark.parametrize("init", ["noise", "real"])
def test_a_users_own_canvas(mine, distil_cli, run_cli, init):
    arguments = ["--canvas.kind", "module:mine:Blocks", "--canvas.init", init, "--out", mine / "run"]
    result = distil_cli(*arguments, steps=4)
    assert result.code == 0, result.err
    images = DistilledSet.load(mine / "run").float_images
    assert all(len(image.flatten(1).unique(dim=1).T) <= 4 for image in images), "four blocks"
    assert yaml.safe_load((mine / "run" / "config.yaml").read_text())["canvas"]["kind"] == "module:mine:Blocks"
    assert "already finished" in distil_cli(*arguments, "--resume", steps=4).err


@pytest.mark.slow
def test_a_level_that_the_images_do_not_depend_on_stays(mine, distil_cli):
    common = ["--canvas.init", "noise", "--micro-batch", 1]
    for name in ("Blocks", "Spare"):
        result = distil_cli("--canvas.kind", f"module:mine:{name}", "--out", mine / name, *common, steps=4)
        assert result.code == 0, result.err
    one, two = (DistilledSet.load(mine / name).float_images for name in ("Blocks", "Spare"))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["module:mine:Bright"], "renders values outside [0, 1]"),
        (["module:mine:Short"], "each needs one row per image"),
        (["module:mine:Grey"], "renders an image of shape (1, 1, 32, 32); it must be (1, 3, 32, 32)"),
        (["module:mine:Rounded"], "lets no gradient through (it is zero)"),
        (["module:mine:Cut"], "lets no gradient through ("),
        (["module:mine:Counts"], "has levels of torch.int64"),
        (["module:mine:Empty", "--canvas.init", "noise"], "cannot be given its starting values ("),
        (["module:mine:Blocks", "--canvas.level-every", 2], "canvas.level_every 2 is for pyramids"),
        (["pyramids"], "did you mean 'pyramid'"),
    ],
)
def test_bad_canvases_are_one_line_and_leave_nothing(mine, distil_cli, arguments, words):
    assert words in distil_cli("--out", mine / "run", "--canvas.kind", *arguments).error()
    assert not (mine / "run").exists()


def test_the_size_of_the_images_is_an_option(photos):
    options = {"steps": 2, "progress": False, "evaluate_every": 0, "canvas": {"size": 40, "init": "real"}}
    assert distill(f"folder:{photos}", f"{TINY}@32", **options).float_images.shape[-2:] == (40, 40)
    with pytest.raises(UserError, match=r"canvas.size 0 must be at least 1"):
        distill(f"folder:{photos}", TINY, canvas={"size": 0})


def test_an_error_in_ones_own_code_is_shown_without_frames_of_ours(distil_cli, tmp_path, monkeypatch):
    (tmp_path / "shaky.py").write_text(
        "from probedistill import Callback\n\n\n"
        "class Shaky(Callback):\n"
        "    def on_step(self, step):\n"
        "        return helper(step)\n\n\n"
        "def helper(step):\n"
        "    return step.step + 'one'\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    done = distil_cli("--callback", "module:shaky:Shaky", "--out", tmp_path / "run", steps=1)
    assert done.code == 1
    lines = done.err.splitlines()
    assert "TypeError: unsupported operand type(s) for +: 'int' and 'str'" in lines
    assert f"your own code failed, in '{tmp_path / 'shaky.py'}', line 6: see above" in lines[-1]
    assert sum(line.lstrip().startswith("File ") for line in lines) == 2


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_whose_code_was_edited_says_so(mine, photos, steps):
    """The images of a finished run are those of the earlier code, and an unfinished one goes on with the new code."""

    class Stops(Callback):
        def on_step(self, step):
            if step.step < 3:
                raise KeyboardInterrupt

    options = {"method": "module:mine:objective", "method_args": {"strength": 2}, "out": "run", "steps": steps}
    options |= {"progress": False, "canvas": {"kind": "module:mine:Blocks", "init": "noise"}}
    stops = [Stops()] if steps == 3 else []
    with suppress(KeyboardInterrupt):
        distill(f"folder:{photos}", TINY, callbacks=stops, **options)
    with suppress(KeyboardInterrupt), warnings.catch_warnings():
        warnings.simplefilter("error")
        distill(f"folder:{photos}", TINY, resume=True, callbacks=stops, **options)
    (mine / "mine.py").write_text(METHOD + "# edited\n")
    importlib.reload(sys.modules["mine"])
    with pytest.warns(UserWarning, match="has changed since") as told:
        assert len(distill(f"folder:{photos}", TINY, resume=True, **options).run.losses) == steps
    when = "began" if steps == 3 else "was finished"
    for name, value in {"method": "module:mine:objective", "canvas.kind": "module:mine:Blocks"}.items():
        line = f"out 'run': the code of {name} {value!r} has changed since this run {when}; overwrite=True instead of"
        assert sum(line in str(one.message) for one in told) == 1
