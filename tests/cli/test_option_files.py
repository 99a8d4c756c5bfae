"""Options from a file, or from a run's own file: flags win, and wrong values are named."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml

from conftest import TINY
from helpers_images import make_image_folder
from probedistill import DistilledSet, EvaluateConfig, encoder_config, load_encoder


def test_yaml_gives_options_and_flags_win(run_cli, photos, out, tmp_path):
    file = tmp_path / "c.yaml"
    content = {"images": f"folder:{photos}", "encoder": TINY, "steps": 2, "seed": 7, "augment": {"flip": 0.25}}
    file.write_text(yaml.safe_dump(content))
    result = run_cli("distill", "--config", file, "--steps", 3, "--out", out)
    assert result.code == 0, result.err
    run = json.loads((out / "run.json").read_text())
    assert (run["config"]["steps"], run["config"]["seed"], run["config"]["augment"]["flip"]) == (3, 7, 0.25)
    assert len(run["losses"]) == 3
    # The file is forgotten after the command: the next command in this process must name its images.
    assert "--images" in run_cli("distill", "--encoder", TINY, "--out", tmp_path / "other").error()


@pytest.mark.parametrize("joined", [False, True])
def test_an_encoder_in_a_separate_file(run_cli, photos, out, tmp_path, joined):
    """It replaces all encoder options: options in --config do not mix with it, but flags win."""
    file, run = tmp_path / "tiny.yaml", tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"encoder": TINY, "precision": "bf16", "fold_batchnorm": False}))
    run.write_text(yaml.safe_dump({"images": f"folder:{photos}", "encoder": "timm:resnet18@48", "compile": True}))
    named = [f"--encoder={file}"] if joined else ["--encoder", file]
    arguments = ["distill", *named, "--config", run, "--precision", "fp32", "--steps", 1, "--out", out]
    assert "--trust" in run_cli(*arguments, trust=False).error()  # the file asks for code
    result = run_cli(*arguments)
    assert result.code == 0, result.err
    kept = yaml.safe_load((out / "config.yaml").read_text())
    assert (kept["encoder"], kept["precision"], kept["compile"], kept["fold_batchnorm"]) == (TINY, "fp32", False, False)
    assert "input_size" not in kept


def test_an_encoder_in_a_missing_file(run_cli, photos, out):
    assert "none.yaml" in run_cli("distill", "--images", f"folder:{photos}", "--encoder", "none.yaml").error()


def test_yaml_option_that_is_also_a_command(distil_cli, out, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("features: outputt")
    assert "features" in distil_cli("--config", file, "--out", out).error()


@pytest.mark.slow
def test_yaml_flags_win_for_lists(run_cli, tmp_path, out):
    photos = make_image_folder(tmp_path / "photos", classes=["cat", "dog", "hen"])
    file = tmp_path / "c.yaml"
    content = {"images": f"folder:{photos}", "encoder": TINY, "steps": 2, "classes": ["cat", "dog"]}
    file.write_text(yaml.safe_dump(content))
    assert run_cli("distill", "--config", file, "--out", out).code == 0
    assert DistilledSet.load(out).class_names == ("cat", "dog")
    other = tmp_path / "other"
    assert run_cli("distill", "--config", file, "--out", other, "--classes", "hen", "--classes", "cat").code == 0
    assert DistilledSet.load(other).class_names == ("hen", "cat")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stepss: 3", "did you mean 'steps'"),
        ("steps: [", "cannot be read as YAML"),
        ("- steps", "must map option names to values"),
        ("views: many", "many"),
        ("augment: {flipp: 0.5}", "flip"),
        ("canvas.init: noise", "option in c.yaml 'canvas.init': write it as canvas: {init: VALUE}"),
        ("method: sfn", "sfm"),
    ],
)
def test_yaml_that_is_wrong(refused, tmp_path, text, says):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert says in refused("--config", file)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_yaml_as_editors_and_shells_of_windows_write_it(run_cli, photos, out, tmp_path, encoding):
    content = f"images: folder:{photos}\r\nencoder: {TINY}\r\nsteps: 2\r\n"
    (tmp_path / "c.yaml").write_bytes(content.encode(encoding))
    assert run_cli("distill", "--config", tmp_path / "c.yaml", "--out", out).code == 0
    assert DistilledSet.load(out).run.config.steps == 2


def test_a_missing_yaml_file(refused, tmp_path):
    assert "none.yaml" in refused("--config", tmp_path / "none.yaml")


def test_yaml_that_is_not_text(refused, tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00\x01steps")
    assert "c.yaml" in refused("--config", tmp_path / "c.yaml")


@pytest.mark.slow
def test_config_of_a_run_repeats_it(run_cli, distil_cli, photos, tmp_path, out):
    given = ["--method", "lgm", "--seed", 3, "--views", 2, "--lr", 0.05, "--augment.scale", 0.5, 0.9, "--real-views", 1]
    given += ["--encoder-args.seed", 4, "--classes", "dog", "--classes", "cat", "--canvas.kind", "pixels"]
    assert distil_cli(*given, "--out", out).code == 0
    again = tmp_path / "again"
    result = run_cli("distill", "--config", out / "config.yaml", "--out", again)
    assert result.code == 0, result.err
    one, two = DistilledSet.load(out), DistilledSet.load(again)
    assert one.class_names == two.class_names == ("dog", "cat")
    assert torch.equal(one.float_images, two.float_images)
    assert one.run.config == two.run.config
    assert (out / "config.yaml").read_text() == (again / "config.yaml").read_text()


@pytest.mark.slow
def test_the_config_of_a_run_does_not_need_its_list_of_classes_again(run_cli, distil_cli, photos, tmp_path, out):
    """The list may change, or vanish with the shell that made it: ``--classes @<(ls photos)``."""
    names = tmp_path / "names.txt"
    names.write_text("dog\ncat\n")
    assert distil_cli("--classes", f"@{names}", "--out", out).code == 0
    names.unlink()
    again = run_cli("distill", "--config", out / "config.yaml", "--steps", 1, "--out", tmp_path / "again")
    assert again.code == 0, again.err
    assert DistilledSet.load(tmp_path / "again").class_names == ("dog", "cat")


def test_evaluate_does_not_take_the_views_of_a_step_from_a_runs_config(run_cli, distil_cli, photos, tmp_path):
    run, mine = tmp_path / "run", tmp_path / "mine.yaml"
    distil_cli("--out", run, "--views", 2)
    mine.write_text(f"images: folder:{photos}\nencoder: {TINY}\nviews: 7\n")
    for config, views in ((run / "config.yaml", EvaluateConfig().for_images(2).views), (mine, 7)):
        outcome = run_cli("evaluate", run, "--config", config, "--seeds", 1, "--baselines", "centroids")
        assert outcome.code == 0, outcome.err
        scores = json.loads(next(run.glob("evaluation-*.json")).read_text())
        assert scores["context"]["protocol"]["views"] == views


def test_ranges_of_the_wrong_length_in_a_file(refused, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("augment: {scale: [0.5]}\n")
    assert refused("--config", file)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["flag", "file"])
def test_numbers_keep_their_decimals(run_cli, photos, tmp_path, given):
    """The library behind the command line rounds if a whole number is also allowed: 0.001 became 0."""
    out, file = tmp_path / "run", tmp_path / "encoder.yaml"
    arguments = ["distill", "--images", f"folder:{photos}", "--views", 1, "--out", out, "--no-pretrained", "--steps", 1]
    if given == "file":
        file.write_text("encoder: timm:test_resnet@32\nencoder_args: {drop_rate: 0.25, num_classes: 7, pad: 1.0}\n")
        result = run_cli(*arguments, "--config", file, "--encoder-args.pad", "x")
        assert "pad" in result.error()
        file.write_text("encoder: timm:test_resnet@32\nencoder_args: {drop_rate: 0.25, num_classes: 7}\n")
        arguments += ["--config", file]
    else:
        arguments += [
            "--encoder",
            "timm:test_resnet@32",
            "--encoder-args.drop_rate",
            0.25,
            "--encoder-args.num-classes",
            7,
        ]
    assert run_cli(*arguments).code == 0
    kept = yaml.safe_load((out / "config.yaml").read_text())["encoder_args"]
    assert kept == {"drop_rate": 0.25, "num_classes": 7}
    assert run_cli("evaluate", out, "--config", out / "config.yaml", "--seeds", 1, "--views", 1).code == 0
    known = load_encoder(encoder_config(str(out / "config.yaml")))
    assert DistilledSet.load(out).run.encoders[0].fingerprint == known.fingerprint
    assert "2.5" in run_cli("features", "--images", f"folder:{photos}", "--encoder", TINY, "--views", 2.5).error()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("augment: {scale: 3}", r"--augment.scale '3' in .*x.yaml: .*'3' is not two numbers or auto"),
        ("lr: fast", r"--lr.* 'fast' is not a number or auto"),
        ("seed: 2.5", r"--seed.* '2.5' is not a whole number"),
        ("keep_head: maybe", r"--keep-head.* 'maybe' is not true or false"),
        ("augment: 3", r"--augment '3' in .*x.yaml"),
        ("views: 2.7", r"--views.*2.7|2.7.*--views"),
        ("encoder_args: {bn_eps: hello}", r"encoder_args .*bn_eps"),
    ],
)
def test_an_option_in_a_file_that_does_not_fit_is_named(refused, tmp_path, content, says):
    file = tmp_path / "x.yaml"
    file.write_text(content)
    assert re.search(says, refused("--config", file))


@pytest.mark.slow
def test_every_option_of_a_command_may_be_in_a_file(run_cli, distil_cli, photos, tmp_path):
    out, file, spec = tmp_path / "run", tmp_path / "options.yaml", f"folder:{photos}"
    assert distil_cli("--out", out).code == 0
    file.write_text("seeds: 1\nviews: 2\nprobes: [logistic]\nbaselines: [random]\n")
    arguments = ["transfer", out, "--images", spec, "--encoders", TINY, "--out", tmp_path / "t", "--config", file]
    assert run_cli(*arguments).code == 0
    protocol = json.loads((tmp_path / "t" / "transfer.json").read_text())["protocol"]
    assert [protocol[name] for name in ("seeds", "views", "probes", "baselines")] == [1, 2, ["logistic"], ["random"]]
    file.write_text("images_per_class: 2\nseeds: 1\nbaselines: [random]\n")
    result = run_cli("baseline", "--images", spec, "--encoder", TINY, "--out", tmp_path / "b.json", "--config", file)
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "b.json").read_text())["rows"][0]["images"] == 4
    file.write_text("k: 3\nseeed: 1\n")
    assert "unknown option in options.yaml 'seeed'; did you mean 'seed'" in run_cli(*arguments).error()
