"""How encoders are named: in a word, in a file of options, by a run's own config.yaml, and in tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from probedistill import DistilledSet, EncoderConfig, UserError, encoder_config, load_encoder
from probedistill.encoders.named import display_names, in_one_word, own_encoder, own_others
from probedistill.encoders.trust import trusting


@pytest.mark.parametrize(
    ("spec", "name", "size"),
    [("efficientnet_lite0", "efficientnet_lite0", None), ("timm:resnet18@96", "timm:resnet18", 96)],
)
def test_encoder_config_takes_a_size_after_the_name(spec, name, size):
    config = encoder_config(spec, device="cpu")
    assert (config.encoder, config.input_size, config.device) == (name, size, "cpu")


def test_display_names_tell_encoders_apart():
    entries = [("a", "1" * 9, 32), ("a", "2" * 9, 32), ("a", "3" * 9, 40), ("b", "4" * 9, 32), ("b", "4" * 9, 32)]
    names = display_names([dict(zip(("name", "fingerprint", "input_size"), e, strict=True)) for e in entries])
    assert names == {"1" * 9: "a@32 111111", "2" * 9: "a@32 222222", "3" * 9: "a@40", "4" * 9: "b"}


def test_encoder_config_reads_a_file_and_its_own_values_win(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("encoder: timm:mobilenetv1_100\ninput-size: 64\ncheckpoint: w.safetensors\nmethod: sfm\n")
    with pytest.raises(UserError, match=r"sets checkpoint 'w\.safetensors', which needs trust"):
        encoder_config(str(file))
    config = encoder_config(str(file), trust=True, input_size=32, precision="bf16")
    assert (config.input_size, config.checkpoint, config.precision) == (64, Path("w.safetensors"), "bf16")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is not a file; give a YAML file"),
        ("a: [", "cannot be read"),
        ("- 1", "must map option names to values"),
        ("method: clp", "names no encoder"),
        ("{encoder: a, input_size: many}", "has input_size 'many'; give a whole number, or leave it out"),
        ("{encoder: a, encoder-args: [1]}", r"has encoder_args \[1\]; give a mapping"),
        ("{encoder: a, device: 0}", "has device 0; give a word"),
    ],
)
def test_encoder_config_says_what_is_wrong_with_a_file(tmp_path, text, words):
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=words):
        encoder_config(str(file))


def test_a_run_loads_known_encoders_without_trust(tmp_path):
    with pytest.raises(UserError, match=r"run '.*' has no config.yaml .*; name the encoder with --source"):
        own_encoder(tmp_path, called="--source")
    file = tmp_path / "config.yaml"
    file.write_text("encoder: timm:resnet18.a1_in1k@64\nencoder_args: {pad_type: same, drop_rate: 0.5}\ndevice: cuda\n")
    config = own_encoder(tmp_path, called="--source")
    assert (config.encoder, config.input_size, config.device) == ("timm:resnet18.a1_in1k", 64, "cuda")
    assert own_encoder(tmp_path, called="--source", device="cpu") == replace(config, device="cpu")
    file.write_text("encoder: efficientnet_lite0\nmethod: clp\n")
    assert own_encoder(tmp_path, called="--source") == EncoderConfig(encoder="efficientnet_lite0")


@pytest.mark.parametrize(
    "content",
    [
        "encoder: module:os:getcwd",
        "encoder: hf:someone/model",
        "encoder: openclip:ViT-B-32/x",
        "encoder: timm:hf-hub:someone/model",
        "encoder: timm:local-dir:/tmp/x",
        'encoder: "timm:resnet18\\n"',
        "{encoder: efficientnet_lite0, checkpoint: w.safetensors}",
        "{encoder: timm:resnet18, encoder_args: {checkpoint_path: w.pth}}",
        "{encoder: timm:resnet18, encoder_args: {pad_type: [same]}}",
        "{encoder: timm:resnet18, encoder_args: {pretrained_cfg: {file: w.pth}}}",
    ],
)
def test_a_run_is_not_trusted_with_more(tmp_path, content):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(
        UserError, match=r"run '.*' is not trusted to load its encoder .*, because its config.yaml sets "
    ) as e:
        own_encoder(tmp_path, called="--encoders")
    assert str(e.value).endswith(" if you know where the run comes from, or name the encoder with --encoders")
    assert "\n" not in str(e.value)
    with trusting():
        assert own_encoder(tmp_path, called="--encoders") == encoder_config(str(file))


@pytest.mark.parametrize(
    "word",
    [
        "module:os:getcwd",
        "hf:someone/model",
        "small.yaml",
        '{"encoder": "module:os:getcwd"}',
        '{"encoder": "timm:resnet18", "checkpoint": "w.safetensors"}',
        '{"encoder": "small.yaml"}',
    ],
)
def test_a_run_is_trusted_with_no_more_for_its_other_encoders(tmp_path, monkeypatch, word):
    """They are named in its record, even if the first encoder is harmless."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text("encoder: efficientnet_lite0\n")
    first = EncoderConfig(encoder="efficientnet_lite0", device="cpu")
    with pytest.raises(
        UserError, match=r"run 'run' is not trusted .* its run.json sets .* you know where the run comes"
    ):
        own_others(Path("run"), [word], first)
    with trusting():
        (config,) = own_others(Path("run"), [word], first)
    assert config.device == "cpu"


def test_the_other_encoders_of_a_run_inherit_unset_options(tmp_path):
    first = EncoderConfig(encoder="efficientnet_lite0", device="cpu", precision="bf16")
    words = ["timm:resnet18@64", '{"encoder": "timm:resnet18", "precision": "fp32"}']
    one, two = own_others(tmp_path, words, first)
    assert one == EncoderConfig(encoder="timm:resnet18@64", device="cpu", precision="bf16")
    assert two == EncoderConfig(encoder="timm:resnet18", device="cpu", precision="fp32")


# ---------------------------------------------------------------------------------------------------
# Options in braces


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder": "timm:resnet18"},
        {"encoder": "timm:resnet18", "input_size": 64},
        {"encoder": "hf:a/b", "encoder_args": {"mask_ratio": 1e-5, "a": "yes", "b": True}, "pretrained": False},
        {"encoder": "timm:resnet18", "checkpoint": Path("gewichte/größe \\ 1.safetensors"), "input_size": 64},
    ],
)
def test_fields_round_trip_through_a_word(fields):
    assert encoder_config(in_one_word(fields)) == EncoderConfig(**fields)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ('{"input_size": 64}', "names no encoder"),
        ('{"encoder": "a", "input_size": "many"}', "has input_size 'many'; give a whole number"),
        ("{encoder: a}", "cannot be read .*; give JSON, or the name of an encoder"),
        ('{"a": ' * 100_000 + "}" * 100_000, "cannot be read"),
    ],
)
def test_errors_in_options_in_braces(word, says):
    with pytest.raises(UserError, match=f"encoder {re.escape(repr(word))} {says}"):
        encoder_config(word)


# ---------------------------------------------------------------------------------------------------
# A file of options that names the encoder's file


@pytest.fixture
def files(tmp_path, monkeypatch, photos):
    """A config that names an encoder's file, and the file; both in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text("encoder: module:helpers_encoders:tiny\ninput_size: 24\nprecision: fp32\n")
    Path("run.yaml").write_text(f"images: folder:{photos}\nencoder: tiny.yaml\nsteps: 1\n")
    return tmp_path


def input_size(run):
    return DistilledSet.load(run).run.encoders[0].input_size


@pytest.mark.slow
def test_a_config_may_name_the_encoders_file(run_cli, files):
    assert run_cli("distill", "--config", "run.yaml", "--out", "a", "-q").code == 0
    assert input_size("a") == 24
    with Path("run.yaml").open("a") as file:  # options next to it win, and flags win over both
        file.write("input_size: 32\n")
    assert run_cli("distill", "--config", "run.yaml", "--out", "b", "-q").code == 0
    assert input_size("b") == 32
    assert run_cli("distill", "--config", "run.yaml", "--input-size", 40, "--out", "c", "-q").code == 0
    assert input_size("c") == 40
    Path("tiny.yaml").unlink()  # not needed with a flag
    words = ("--encoder", "module:helpers_encoders:tiny", "--out", "d", "-q")
    assert run_cli("distill", "--config", "run.yaml", *words).code == 0


@pytest.mark.slow
def test_lists_of_a_config_may_name_encoders_files(run_cli, files):
    Path("larger.yaml").write_text("{encoder: tiny.yaml, input_size: 40}")
    with Path("run.yaml").open("a") as file:
        file.write("also: [larger.yaml]\nencoders: [tiny.yaml, larger.yaml]\nseeds: 1\nviews: 1\nbaselines: [random]\n")
    assert run_cli("distill", "--config", "run.yaml", "--out", "a", "-q").code == 0
    assert [one.input_size for one in DistilledSet.load("a").run.encoders] == [24, 40]
    done = run_cli("transfer", "a", "--config", "run.yaml", "--out", "matrix", "--json")
    assert done.code == 0, done.err
    assert [one["input_size"] for one in json.loads(done.out.splitlines()[0])["targets"]] == [24, 40]


def test_errors_in_a_file_that_a_config_names(run_cli, files):
    error = run_cli("distill", "--config", "run.yaml", "--out", "a", trust=False).error()
    assert "encoder 'tiny.yaml', which config 'run.yaml' names, sets encoder 'module:helpers_encoders:tiny'" in error
    assert "--trust" in error
    Path("tiny.yaml").write_text("encoder: ./tiny.yaml")
    assert "leads back to itself" in run_cli("distill", "--config", "run.yaml", "--out", "a").error()
    Path("tiny.yaml").unlink()
    error = run_cli("distill", "--config", "run.yaml", "--out", "a").error()
    assert "does not exist; give its path relative to the current folder" in error
    assert not Path("a").exists()


def test_load_encoder_takes_a_file_and_keywords_win(files):
    with trusting():
        assert load_encoder("tiny.yaml").input_size == 24
        assert load_encoder("tiny.yaml", input_size=40).input_size == 40
    with pytest.raises(UserError, match=r"is a file of options; encoder_config\('tiny.yaml'\) reads it"):
        load_encoder(EncoderConfig(encoder="tiny.yaml"))


def test_a_run_follows_no_file_unless_it_is_trusted(files):
    Path("config.yaml").write_text("encoder: tiny.yaml\ninput_size: 40")
    with pytest.raises(UserError, match=r"is not trusted .* because its config.yaml sets encoder 'tiny.yaml'"):
        own_encoder(Path(), called="--source")
    with trusting():
        assert own_encoder(Path(), called="--source").encoder == "module:helpers_encoders:tiny"
