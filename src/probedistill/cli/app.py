"""Shared by all commands: the app, output, and options from a YAML file."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import cyclopts
from cyclopts import App, Group, Parameter

from .._version import __version__
from ..config import AugmentConfig, CanvasConfig, DistillConfig, EncoderConfig, ImagesConfig, without_none
from ..encoders.named import YAML, encoder_fields, with_its_file
from ..encoders.trust import check_file_options, not_followed, read_yaml, trusting
from ..errors import UserError
from ..machine.launch import speaks
from ..machine.places import at_home
from ..machine.progress import is_terminal, say
from ..methods import CLPConfig, LGMConfig, SFMConfig, check_name, preset_values
from ..store.layout import CONFIG, RUN
from ..store.named import run_folder
from ..text import as_argument
from .helping import Help, as_typed
from .messages import only_warnings

if TYPE_CHECKING:
    from rich.console import Console


def _strictly(type_: Any, tokens: Any) -> Any:
    """Convert words as cyclopts does, but never round: 2.5 is not a whole number, and 0.001 is a float in
    ``int | float | bool | str``. Paths may begin with ``~``, which a shell does not expand in ``--out=~/x``."""

    def leaf(kind: Any, word: Any) -> Any:
        value = getattr(word, "value", word)
        if kind is Path and value:
            return at_home(Path(value))
        if kind is Path:  # Python would take "" for the current folder
            raise ValueError("the path is empty; give one, or leave the option out")
        return int(value) if kind is int else cyclopts.convert(kind, (word,))

    try:
        return cyclopts.convert(type_, tokens, converter=leaf)
    except NotImplementedError as error:  # a list in a file is longer than any type of the union
        words = " ".join(str(getattr(token, "value", token)) for token in tokens)
        raise ValueError(f"{words!r} has {len(tokens)} values, which is too many") from error


app = App(
    name="probedistill",
    version=__version__,
    help="Distil a labelled image dataset into one synthetic image per class for linear probes on frozen encoders.\n\n"
    "Commands also read their options from a YAML file: --config FILE. Flags override the file. "
    "Each run's folder has a config.yaml that repeats the run.",
    help_format="markdown",
    help_formatter=Help(),
    # Lists take several words (--probes ridge sgd); no --empty-LIST flags, which would only lengthen the help.
    default_parameter=Parameter(
        consume_multiple=True, negative_iterable=(), converter=_strictly, show_default=as_typed
    ),
    suppress_keyboard_interrupt=False,  # main reports "stopped"
)
app.meta.suppress_keyboard_interrupt = False
app["--help"].group = "Help"
app["--version"].group = "Help"
app.register_install_completion_command(group="Help")


_PARTS = {
    "Canvas": CanvasConfig,
    "Views": AugmentConfig,
    "Only for --method lgm": LGMConfig,
    "Only for --method clp and auto": CLPConfig,
    "Only for --method sfm": SFMConfig,
}
_GROUPS = ("Images", "Encoder", "Method", "Protocol", "Run", "Several runs", *_PARTS)


def panel(group: str) -> Group:
    """A panel of the help."""
    return Group(group, sort_key=_GROUPS.index(group))


for _title, _part in _PARTS.items():
    Parameter(group=panel(_title))(_part)  # options inside other options have panels of their own


def flat(group: str) -> Parameter:
    """A config whose fields are options of the command, in a panel of the help."""
    return Parameter(name="*", group=panel(group))


Images = Annotated[ImagesConfig, flat("Images")]
EncoderOptions = Annotated[EncoderConfig, flat("Encoder")]
Folder = Annotated[Path, Parameter(help="Folder of a finished run.")]
Cache = Annotated[
    Path | None, Parameter(help="Folder for cached features. Default: $PROBEDISTILL_CACHE or ~/.cache/probedistill.")
]
Progress = Annotated[bool, Parameter(help="Show progress bars.")]
Probes = Annotated[list[str], Parameter(alias="--probe")]
"""Also spelt ``--probe``."""

Command = TypeVar("Command", bound=Callable[..., None])
_taken: dict[str, tuple[type, ...]] = {}
_own: dict[str, set[str]] = {}  # options of a command that are not in its configs


def command(*parts: type) -> Callable[[Command], Command]:
    """Register a function as a command; ``parts`` are the configs whose fields --config may set for it."""

    def register(function: Command) -> Command:
        name = function.__name__.rstrip("_").replace("_", "-")
        _taken[name] = parts
        _own[name] = {p.name for p in inspect.signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY}
        app.command(function, name=name)
        return function

    return register


# ---------------------------------------------------------------------------------------------------
# Output


class _Output:
    """How results are printed: for people, as JSON, or not at all."""

    def __init__(self) -> None:
        self.json = self.quiet = False


_output = _Output()


def show(*what: Any) -> None:
    """Print sentences, tables and results; under torchrun one process speaks.

    With ``--json`` tables and results go to standard output as JSON, and sentences to standard error.

    Args:
        what: Text, whose control characters are shown as escapes; a `Table` or a `Result`; anything else that rich
            prints.
    """
    from rich.text import Text

    from ..show.tables import Table
    from ..text import printable

    if not speaks():
        return
    for one in what:
        is_result = hasattr(one, "tables")  # a `Result`, without importing its heavy module
        if _output.json and (is_result or isinstance(one, Table)):
            _print_json(one)
        elif _output.quiet:
            continue
        elif is_result:
            show(*one.fitting(console().width), *one.findings())
        elif isinstance(one, str) and _output.json:
            say(printable(one, lines=True))
        elif isinstance(one, str):
            console().print(Text(printable(one, lines=True)), soft_wrap=True, highlight=False)
        else:
            if isinstance(one, Table):  # in a file or a pipe, tables may have any width
                one = one.encodable(getattr(sys.stdout, "encoding", None))
                one = one.fitting(console().width, or_wider=not is_terminal(sys.stdout))
            console().print(one, soft_wrap=True, highlight=False)


def _print_json(one: Any) -> None:
    import json

    from ..show.tables import Table

    if isinstance(one, Table):
        content = {"title": one.title, "rows": one.records(), **({"caption": one.caption} if one.caption else {})}
    else:
        content = one.plain()
    print(json.dumps(content, ensure_ascii=True))


def console(*, text: bool = False) -> Console:
    """Where output goes.

    Args:
        text: Whether it is text for people alone: with ``--json`` it goes to standard error, with ``--quiet`` nowhere.
    """
    from rich.console import Console

    to_error = text and _output.json
    width = None if is_terminal(sys.stderr if to_error else sys.stdout) else 110
    return Console(width=width, emoji=False, stderr=to_error, quiet=text and _output.quiet)


# ---------------------------------------------------------------------------------------------------
# Options from a file


@app.meta.default
def _with_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None,
        Parameter(help="YAML file with options, or a run, to use its config.yaml. Flags override it.", group="Help"),
    ] = None,
    trust: Annotated[
        bool,
        Parameter(
            help="Follow option files and runs even if they run code (module: encoders do) or name local paths. "
            "Only for files that you trust.",
            negative="", group="Help",
        ),
    ] = False,
    json: Annotated[
        bool, Parameter(help="Print results as JSON, one per line; everything else goes to standard error.",
                        negative="", group="Help"),
    ] = False,
    quiet: Annotated[
        bool, Parameter(name=["--quiet", "-q"], help="Print only errors and warnings.", negative="",
                        group="Help"),
    ] = False,
) -> Any:  # fmt: skip
    _output.json, _output.quiet = json, quiet
    only_warnings(quiet)
    tokens = tuple("--augment.kind" if (a, b) == ("--augment", "none") else a for a, b in pairwise((*tokens, "")))
    if quiet and "--no-progress" not in tokens and "progress" in _options_of(tokens[0] if tokens else ""):
        tokens = (*tokens, "--no-progress")
    tokens, encoder = _without_encoder_file(tokens)
    with trusting(trust):
        # In order of precedence, after the flags themselves.
        files = [] if encoder is None else [_encoder_source(encoder, tokens)]
        if config is not None:
            files.append(_yaml_source(config, tokens, has_encoder=encoder is not None))
        app.config = (*files, _preset_source)
        try:
            return app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        finally:  # nothing of this command line is left for the next one in this process
            app.config = ()
            _output.json = _output.quiet = False


def _without_encoder_file(tokens: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Split ``--encoder FILE.yaml`` from a command line: the other words, and the file or ``None``."""
    if EncoderConfig in _taken.get(tokens[0] if tokens else "", ()):
        for index, (flag, value) in enumerate(pairwise((*tokens, ""))):
            name, _, joined = flag.partition("=")
            given, taken = (joined, 1) if joined else (value, 2)
            if name == "--encoder" and given.endswith(YAML):
                return (*tokens[:index], *tokens[index + taken :]), given
    return tuple(tokens), None


def _encoder_source(file: str, tokens: Sequence[str]) -> Any:
    """Return a cyclopts config source: the options of an encoder from a separate file."""
    return cyclopts.config.Dict({tokens[0]: without_none(encoder_fields(file))}, source=file)


def _yaml_source(path: Path, tokens: Sequence[str], *, has_encoder: bool = False) -> Any:
    """Return a cyclopts config source. Options in the file that this command does not have are ignored.

    Args:
        path: The file, or a run.
        tokens: The command line.
        has_encoder: Whether a separate file describes the encoder; encoder options in this file are then ignored.
    """
    path = run_folder(path)
    if path.is_dir():  # a run
        if (path / RUN).is_file() and not (path / CONFIG).is_file():
            raise UserError(
                f"config {str(path)!r} is a run without a config.yaml (imported runs have none); give --images and "
                "--encoder instead of --config"
            )
        path /= CONFIG
    content = read_yaml(path, f"config {str(path)!r}")
    known = set().union(*(_options_of(name) for name in _taken))
    for name in content:
        outer, dot, inner = str(name).partition(".")
        if dot and outer in known:
            raise UserError(f"option in {path.name} {name!r}: write it as {outer}: {{{inner}: VALUE}}")
        check_name(f"option in {path.name}", name, known)
    command = tokens[0] if tokens else ""
    if has_encoder:
        content = {name: value for name, value in content.items() if name not in EncoderConfig.__dataclass_fields__}
    options = _options_for(command, content)
    check_file_options(options, f"config {str(path)!r}")
    if EncoderConfig in _taken.get(command, ()):
        if any(token.partition("=")[0] == "--encoder" for token in tokens):  # flags win
            options.pop("encoder", None)
        options = without_none(with_its_file(options, f"config {str(path)!r}"))
    # Below the command's name, because cyclopts drops top-level keys that are commands: features is both.
    return cyclopts.config.Dict({command: options}, source=str(path))


def _options_for(command: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return the options in a file that a command accepts."""
    takes = _options_of(command)
    if "method" in content and DistillConfig not in _taken.get(command, ()):
        # A run's config.yaml: its `views` are for a step, and must not become the option `views` of evaluate.
        takes -= set(DistillConfig.__dataclass_fields__)
    if command == "distill" and isinstance(content.get("seeds"), int):  # for evaluate it is a number of seeds
        takes.discard("seeds")
    return {name: without_none(value) for name, value in content.items() if name in takes}


SHARED = ("--config", "--trust", "--json", "--quiet", "-q", "--help", "--version")
"""Options that every command has."""


def show_score(folder: Path, *options: str | Path) -> None:
    """Show the command that scores the set in ``folder``; a path among the options is that of a config.yaml."""
    with suppress(UserError):  # of a damaged config.yaml: the set is there, and evaluate will say what is wrong
        words = [one if isinstance(one, str) else _config_of_evaluate(one) for one in options]
        show(" ".join(("score:  probedistill evaluate", as_argument(folder), *words)))


def _config_of_evaluate(path: Path) -> str:
    """Return ``--config FILE``, with ``--trust`` if evaluate needs it for this file."""
    options = _options_for("evaluate", read_yaml(path, f"config {str(path)!r}"))
    return f"--config {as_argument(path)}" + (" --trust" if not_followed(options) else "")


def _preset_source(app: Any, commands: tuple[str, ...], arguments: Any) -> None:
    """A cyclopts config source after flags and files: the values of --preset, which depend on --method."""
    if not commands or DistillConfig not in _taken.get(commands[-1], ()):
        return
    given = {argument.name: argument.tokens[-1].value for argument in arguments if argument.tokens}
    values = preset_values(given.get("--method", "auto"), given.get("--preset", "default"), given.get("--aim", "home"))
    for command in reversed(commands):
        values = {command: values}
    cyclopts.config.Dict(values, source="preset")(app, commands, arguments)


def keeps_features(tokens: Sequence[str]) -> bool:
    """Whether a command line's command keeps features in the cache."""
    return bool(tokens) and "cache" in _options_of(tokens[0])


def is_of_a_config(command: str, option: str) -> bool:
    """Whether an option of a command is a field of one of its configs, which a run's config.yaml may contain."""
    return option in _options_of(command) - _own.get(command, set())


def _options_of(command: str) -> set[str]:
    parts: tuple[Any, ...] = _taken.get(command, ())
    return {name for part in parts for name in part.__dataclass_fields__} | _own.get(command, set())
