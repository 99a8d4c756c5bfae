"""What a file of options may ask for, and what its YAML may cost."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from probedistill import UserError
from probedistill.encoders.known import RECIPES
from probedistill.encoders.trust import check_file_options, read_yaml, trusting


def test_reading_options_imports_nothing_heavy():
    code = "import sys, probedistill.encoders.trust; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---------------------------------------------------------------- trust


@pytest.mark.parametrize(
    "content",
    [
        {"encoder": "timm:resnet18.a1_in1k@64", "encoder_args": {"pad_type": "same", "bn_eps": 1e-3}, "steps": 3},
        {"encoder": "hf:facebook/dinov2-base", "images": "folder:/home/me/photos", "also": ["clip_vitb16", "x.yaml"]},
        {"encoder": "openclip:ViT-B-32/laion2b_s34b_b79k", "classes": ["module", "a: module"], "checkpoint": None},
        {"encoder": "timm:hf-hub:someone/model@main", "encoder-args": {"num-classes": 7, "dynamic_img_size": True}},
        {"clp": {"ridge": 0.1}, "probes": ["ridge", "sgd"], "out": "runs/x", "overwrite": False},
        *({"encoder": name} for name in RECIPES),
    ],
)
def test_plain_options_are_followed(content):
    check_file_options(content, "config 'x.yaml'")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"encoder": "module:os:system"}, "encoder 'module:os:system'"),
        ({"encoder": " module:os:system"}, "encoder ' module:os:system'"),
        ({"also": ["efficientnet_lite0", "module:os:getcwd"]}, "also 'module:os:getcwd'"),
        ({"method": "module:mine:objective"}, "method 'module:mine:objective'"),
        ({"canvas": {"kind": "module:mine:Canvas"}}, "canvas.kind 'module:mine:Canvas'"),
        ({"images": "module:mine:images"}, "images 'module:mine:images'"),
        ({"encoder": "hf:a/b", "encoder_args": {"trust_remote_code": True}}, "encoder_args.trust_remote_code True"),
        ({"encoder": "hf:a/b", "encoder-args": {"trust-remote-code": True}}, "encoder_args.trust_remote_code True"),
        ({"encoder": "hf:a/b", "encoder_args": {"weights_only": 0}}, "encoder_args.weights_only 0"),
        ({"encoder": "hf:a/b", "encoder_args": {"attn_implementation": "a/kernel"}}, "attn_implementation 'a/kernel'"),
        ({"encoder": "timm:resnet18", "encoder_args": {"checkpoint_path": "w.pth"}}, "checkpoint_path 'w.pth'"),
        ({"encoder": "timm:resnet18", "encoder_args": {"pad_type": ["same"]}}, "encoder_args.pad_type a list"),
        ({"encoder": "timm:resnet18", "encoder_args": {"pad_type": "a/b"}}, "encoder_args.pad_type 'a/b'"),
        ({"encoder": "timm:resnet18", "encoder_args": {"pretrained_cfg": {"file": "w"}}}, "pretrained_cfg a dict"),
        ({"encoder": "timm:resnet18", "checkpoint": "w.pth"}, "checkpoint 'w.pth'"),
        ({"encoder": "timm:local-dir:/tmp/x"}, "encoder 'timm:local-dir:/tmp/x'"),
        ({"encoder": "hf:../x"}, "encoder 'hf:../x'"),
        ({"out": "runs/mine", "overwrite": True}, "overwrite True"),
        ({"out": "runs/mine", "overwrite": "yes"}, "overwrite 'yes'"),
        ({"also": ["hf:/etc"]}, "also 'hf:/etc'"),
        ({"also": [{"encoder": "module:os:system"}]}, "also.encoder 'module:os:system'"),
        ({"also": [{"encoder": "timm:resnet18", "checkpoint": "w.pth"}]}, "also.checkpoint 'w.pth'"),
        ({"also": ["{encoder: module:os:system}"]}, "also '{encoder: module:os:system}'"),
        ({"also": [" {encoder: module:os:system} "]}, "also ' {encoder: module:os:system} '"),
    ],
)
def test_code_and_paths_are_followed_only_with_trust(content, names):
    with pytest.raises(
        UserError,
        match=r"^config 'x.yaml' sets .* needs trust; load it within .*trusting",
    ) as error:
        check_file_options(content, "config 'x.yaml'")
    assert names in str(error.value)
    assert "\n" not in str(error.value)
    with trusting():
        check_file_options(content, "config 'x.yaml'")
    with pytest.raises(UserError), trusting(False):
        check_file_options(content, "config 'x.yaml'")


@pytest.mark.slow
@given(
    st.recursive(
        st.just("module:os:system"),
        lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(st.text(), inner, min_size=1),
        max_leaves=4,
    )
)
def test_code_is_found_wherever_it_is(content):
    with pytest.raises(UserError, match="module:os:system"):
        check_file_options({"anything": content}, "config 'x.yaml'")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_an_error_about_a_file_stays_one_line(text):
    with pytest.raises(UserError) as error:
        check_file_options({"checkpoint": text}, "config 'x.yaml'")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


# ---------------------------------------------------------------- YAML


def _read(tmp_path: Path, text: str | bytes) -> dict:
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(path, "config 'x.yaml'")


def test_options_are_read(tmp_path):
    text = "input-size: 64\nencoder: a\ncheckpoint:\nbase: &b {lr: 1e-3}\nclp: {<<: *b, ridge: 2}\nclasses: ['1', 2]\n"
    expected = {"input_size": 64, "encoder": "a", "base": {"lr": "1e-3"}, "clp": {"lr": "1e-3", "ridge": 2}}
    assert _read(tmp_path, text) == expected | {"classes": ["1", 2]}
    assert _read(tmp_path, "") == {}


@pytest.mark.slow
def test_ten_thousand_classes_are_read(tmp_path):
    names = [f"class {i}" for i in range(10_000)]
    assert _read(tmp_path, yaml.safe_dump({"classes": names}))["classes"] == names


_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_BOMB, "values once its aliases are expanded"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {b: *a}", "contains itself"),
        ("a: *nowhere", "nowhere"),
        ("[" * 5000, "levels deep"),
        ("{a: " * 5000, "levels deep"),
        ("".join(" " * i + "a:\n" for i in range(200)), "levels deep"),
        ("steps: " + "9" * 5000, "a number of 5,000 digits"),
        ("steps: !!int " + "9" * 5000, "a number of 5,000 digits"),
        ("steps: 1" + ":59" * 5000, "digits"),
        ("steps: 0x" + "f1" * 5000, "digits"),
        ("steps: 0b" + "1" * 5000, "digits"),
        ("a: " + "x" * 2**21, "is larger than"),
        ("steps: !!python/object/apply:os.system [ls]", "cannot be read as YAML"),
        ("a: !!timestamp x", "cannot be read as YAML"),
        ("a: !!timestamp 2001-99-99", "cannot be read as YAML"),
        ("a: !!int ''", "cannot be read as YAML"),
        ("a: !!bool maybe", "cannot be read as YAML"),
        ("? [a]\n: b", "cannot be read as YAML"),
        ("a: [", "cannot be read as YAML"),
        ("a: \x00", "cannot be read as YAML"),
        (b"a: \xff\xfe", "cannot be read as YAML"),
        ("- a", "must map option names to values"),
    ],
)
def test_files_without_options_are_one_line(tmp_path, text, says):
    with pytest.raises(UserError, match=says) as error:
        _read(tmp_path, text)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("config 'x.yaml' ")


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(UserError, match=r"config 'x\.yaml'"):
            read_yaml(path, "config 'x.yaml'")
    if Path("/dev/zero").exists():
        with pytest.raises(UserError, match="is a pipe or a device; give a file"):
            read_yaml("/dev/zero", "config 'x.yaml'")


@given(st.binary(max_size=200) | st.text("{}[]&*a!:,- \n?|>'\"#%@0x.", max_size=80).map(str.encode))
def test_no_file_gives_a_traceback(tmp_path_factory, data):
    with contextlib.suppress(UserError):
        assert isinstance(_read(tmp_path_factory.getbasetemp(), data), dict)


def test_this_is_the_only_reader_of_yaml():
    package = Path(sys.modules["probedistill"].__file__).parent
    readers = {"load(", "safe_load", "full_load", "unsafe_load"}
    loading = [p.name for p in package.rglob("*.py") if any(f"yaml.{r}" in p.read_text("utf-8") for r in readers)]
    assert set(loading) == {"trust.py"}


@pytest.mark.parametrize(
    "text",
    [
        "steps: 3\nlr: 0.1\nsteps: 4\n",
        "canvas:\n  init: noise\n  init: real\n",
        "real-views: 1\nlr: 0.1\nreal_views: 2\n",
    ],
)
def test_a_repeated_option(tmp_path, text):
    (tmp_path / "twice.yaml").write_text(text)
    with pytest.raises(UserError, match=r"'(steps|init|real_views)' is set twice, again in line 3"):
        read_yaml(tmp_path / "twice.yaml", "config 'twice.yaml'")
    (tmp_path / "twice.yaml").write_text("a: &a {steps: 3}\nb:\n  <<: *a\n  steps: 4\n")
    assert read_yaml(tmp_path / "twice.yaml", "config 'twice.yaml'")["b"] == {"steps": 4}


def test_names_that_look_like_values_stay_names(tmp_path):
    names = ["yes", "off", "007", "1:30", "1.10", "2024-05-01", "1_000", "1e5", "0x1f", "true", "3", "null "]
    found = _read(tmp_path, f"classes: [{', '.join(names)}]")["classes"]
    assert [str(name) for name in found[:-1]] == names[:-1]
    assert _read(tmp_path, "classes: [null, ~, Null, <<, =, '']")["classes"] == ["null", "~", "Null", "<<", "=", ""]
    assert _read(tmp_path, "classes:\n-\n- ~")["classes"] == [None, "~"]  # a lone dash names nothing


@pytest.mark.parametrize("option", ["encoder_args", "encoder-args", "method_args"])
def test_lists_among_the_arguments_of_code_have_values(tmp_path, option):
    found = _read(tmp_path, f"{option}: {{sizes: [1, null, true, 1.0e-05], more: {{deep: [false]}}}}")
    found = found[option.replace("-", "_")]
    assert found == {"sizes": [1, None, True, 1e-5], "more": {"deep": [False]}}
    assert _read(tmp_path, "classes: &a [yes]\nnames: [*a, *a]")["names"] == [["yes"], ["yes"]]


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("-0", 0), ("0.10", 0.1), (".5", 0.5), ("1.5e-3", 0.0015), ("yes", True), ("Off", False), ("TRUE", True),
     ("[0.08, 1.0]", [0.08, 1.0]), ("[0, 1]", [0, 1]), ("010", "010"), ("1:30", "1:30"), (".inf", float("inf"))],
)  # fmt: skip
def test_values_are_read_as_on_the_command_line(tmp_path, text, value):
    assert repr(_read(tmp_path, f"a: {text}")["a"]) == repr(value)
