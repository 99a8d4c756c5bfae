"""When modules are imported: nothing heavy before it is needed, and public names in any order."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import probedistill

HEAVY = ("torch", "timm", "numpy", "scipy", "sklearn", "PIL", "matplotlib")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_public_names_match_the_stub():
    stub = ast.parse(Path(probedistill.__file__).with_suffix(".pyi").read_text())
    written = next(ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(probedistill.__all__) == sorted(written)
    for name in written:
        assert not isinstance(getattr(probedistill, name), ModuleType)


def test_functions_are_not_hidden_by_modules_that_were_imported_first():
    modules = [path.stem for path in Path(probedistill.__file__).parent.iterdir() if path.stem != "__init__"]
    assert not set(modules) & set(probedistill.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["distill", "--help"], ["encoders"], ["distill", "--images", "x"]])
def test_the_command_line_answers_before_heavy_imports(arguments):
    code = (
        f"import sys; from probedistill.cli import main; code = main({arguments}); print(*sys.modules); sys.exit(code)"
    )
    done = run_python(code)
    assert done.returncode == (2 if "--images" in arguments else 0), done.stderr
    assert not set(HEAVY) & set(done.stdout.splitlines()[-1].split())


def test_an_interruption_during_imports_says_stopped():
    code = """
import sys
from probedistill.cli import main

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
sys.exit(main(["info", "anything"]))
"""
    done = run_python(code)
    assert (done.returncode, done.stderr) == (130, "probedistill: stopped\n")
