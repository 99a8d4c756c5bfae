"""The keywords of `distill` are typed, and they are the fields of its configs."""

from __future__ import annotations

import subprocess
import sys
from typing import get_type_hints

import pytest

from probedistill import DistillConfig, EncoderConfig, RunConfig, UserError, encoder_config, load_encoder
from probedistill.config import EncoderOptions
from probedistill.distillation.options import DistillOptions


def test_the_keywords_are_the_fields_of_the_configs():
    fields = DistillConfig.__dataclass_fields__.keys() | RunConfig.__dataclass_fields__.keys()
    assert get_type_hints(DistillOptions).keys() == fields


def test_the_keywords_of_an_encoder_are_the_fields_of_its_config():
    assert get_type_hints(EncoderOptions).keys() == EncoderConfig.__dataclass_fields__.keys() - {"encoder"}


def test_a_misspelt_option_of_an_encoder():
    for function in (load_encoder, encoder_config):
        with pytest.raises(
            UserError, match=f"unknown option of {function.__name__} 'inputsize'; did you mean 'input_s"
        ):
            function("efficientnet_lite0", inputsize=112)
    with pytest.raises(UserError, match="differ"):
        load_encoder("efficientnet_lite0@112", input_size=64)


@pytest.mark.slow
def test_a_users_type_checker_finds_a_wrong_keyword(tmp_path):
    (tmp_path / "mine.py").write_text(
        'from probedistill import distill\n\ndistill("folder:x", "y", steps=3, out="runs/x")\n'
        'distill("folder:x", "y", stepz=3)\ndistill("folder:x", "y", steps="many")\n'
    )
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "mine.py"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert 'mine.py:4: error: Unexpected keyword argument "stepz"' in result.stdout
    assert 'mine.py:5: error: Argument "steps"' in result.stdout
    assert "mine.py:3" not in result.stdout
