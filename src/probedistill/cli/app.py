"""What the commands share: the app, output, and options from a YAML file."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import cyclopts
import yaml
from cyclopts import App, Parameter
from cyclopts import _convert as cyclopts_convert

from .._version import __version__
from ..config import DistillConfig, without_none
from ..errors import UserError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console


app = App(
    name="probedistill",
    version=__version__,
    help="Distil a labelled image dataset into one synthetic image per class for linear probes on frozen encoders.\n\n"
    "Every command that takes many options also takes them from a YAML file: --config FILE; flags win. "
    "A run's folder holds the config.yaml that repeats it.",
    help_format="markdown",
    # Lists take several words (--probes ridge sgd); an --empty-LIST for each would only lengthen the help.
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    suppress_keyboard_interrupt=False,  # main says "stopped"
)
app.meta.suppress_keyboard_interrupt = False
app["--help"].group = "Help"
app["--version"].group = "Help"


def _whole_number(text: str) -> int:
    """What cyclopts makes of an int, but for its rounding: 2.5 steps are none, and 0.001 among
    ``int | float | bool | str`` is a float."""
    if "." in text:
        raise ValueError(text)
    return _int(text)


_int = cyclopts_convert._converters[int]
cyclopts_convert._converters[int] = _whole_number

Flat = Parameter(name="*")
Probes = Annotated[list[str], Parameter(alias="--probe")]
"""As one writes it for one probe."""


Command = TypeVar("Command", bound=Callable[..., None])
_taken: dict[str, tuple[type, ...]] = {}
_own: dict[str, set[str]] = {}  # options of a command that are in none of its configs


def command(*parts: type) -> Callable[[Command], Command]:
    """Register a function as a command; ``parts`` are the configs whose fields --config may set for it."""

    def register(function: Command) -> Command:
        name = function.__name__.replace("_", "-")
        _taken[name] = parts
        _own[name] = {p.name for p in inspect.signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY}
        app.command(function)
        return function

    return register


def show(*what: Any) -> None:
    """Print text as it is, or a rich table (which escapes the names in it); under torchrun one process speaks."""
    from rich.text import Text

    if os.environ.get("RANK", "0") != "0":
        return
    plain = (Text(one) if isinstance(one, str) else one for one in what)
    console().print(*plain, soft_wrap=True, highlight=False)


def console() -> Console:
    """Where output goes."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 110, emoji=False)


@app.meta.default
def _with_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None, Parameter(help="YAML file with any of the options; flags win.", group="Help")
    ] = None,
) -> Any:
    app.config = () if config is None else (_yaml_source(config, tokens),)
    return app(tokens, exit_on_error=False, print_error=False, result_action="return_value")


def _yaml_source(path: Path, tokens: Sequence[str]) -> Any:
    """A cyclopts config source; options in the file that this command does not have are passed over."""
    if not path.is_file():
        raise UserError(f"config {str(path)!r} is not a file; give a YAML file of options")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config {str(path)!r} cannot be read as YAML: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"config {str(path)!r} must map option names to values")
    known = set().union(*(_options_of(name) for name in _taken))
    for name in content:
        if str(name).replace("-", "_") not in known:
            raise unknown_name(f"option in {path.name}", str(name), known)
    command = tokens[0] if tokens else ""
    content = {str(k).replace("-", "_"): v for k, v in content.items() if v is not None}
    takes = _options_of(command)
    if "method" in content and DistillConfig not in _taken.get(command, ()):
        # A run's config.yaml: its views are those of a step, not of an evaluation, which has an option of that name.
        takes -= set(DistillConfig.__dataclass_fields__)
    # Below the command's name, because cyclopts drops top-level keys that are commands: features is both.
    options = {k: without_none(v) for k, v in content.items() if k in takes}
    return cyclopts.config.Dict({command: options}, source=str(path))


def _options_of(command: str) -> set[str]:
    parts: tuple[Any, ...] = _taken.get(command, ())
    return {name for part in parts for name in part.__dataclass_fields__} | _own.get(command, set())
