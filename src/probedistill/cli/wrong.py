"""Command-line errors, in one line and in the user's words."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import cyclopts

from ..images.entries import is_run
from ..text import value_in_words
from .app import SHARED, app, is_of_a_config


def in_words(error: cyclopts.CycloptsError, tokens: Sequence[str]) -> str:
    """Return the line for an error of the parser.

    Args:
        error: The parser's error.
        tokens: The words of the command line.
    """
    command = (error.command_chain or ("",))[-1]
    if isinstance(error, cyclopts.UnknownOptionError) and error.token.source == "cli":
        return _unknown(error.token.keyword or error.token.value, command)
    if isinstance(error, cyclopts.MissingArgumentError):
        # If an option is misspelt, the intended one is missing: report the spelling instead.
        return next((_unknown(word, command) for word in _unknown_options(tokens, command)), _missing(error, tokens))
    if isinstance(error, cyclopts.UnknownCommandError) and error.unused_tokens:
        return _unknown_command(error.unused_tokens[0])
    if isinstance(error, cyclopts.UnusedCliTokensError) and error.unused_tokens:
        left = error.unused_tokens
        belong = "belongs" if len(left) == 1 else "belong"
        words = " ".join(map(repr, left))
        hint = _as_images(left, tokens, command) or f"see probedistill {command} --help"
        return f"{words} {belong} to no option; {hint}"
    if isinstance(error, cyclopts.RepeatArgumentError):
        return f"{error.token.keyword} is given more than once; give it once"
    return _named(error)


def _options_of(command: str) -> cyclopts.ArgumentCollection:
    """A command's arguments as the parser takes them; the command alone does not know the defaults of the app."""
    return app[command].assemble_argument_collection(default_parameter=app.default_parameter)


def _unknown_options(tokens: Sequence[str], command: str) -> list[str]:
    if command not in app:
        return []
    known = _options_of(command)

    def is_known(word: str) -> bool:
        try:
            known.match(word)
        except ValueError:
            return word in SHARED
        return True

    words = [word.partition("=")[0] for word in tokens if word.startswith("--") and len(word) > 2]
    return [word for word in words if not is_known(word)]


def _unknown(word: str, command: str) -> str:
    """Return the line for an unknown option, with the nearest known one."""
    word = word.partition("=")[0]
    own = _options_of(command) if command in app else ()
    # Leave out names that only group others, such as --augment.
    names = {*SHARED, *(name for argument in own if not argument.children for name in argument.names)} - {word}
    if near := _nearest(word, names):
        return f"unknown option {word!r}; did you mean {near}?"
    return f"unknown option {word!r}; probedistill {command} --help lists all options"


def _as_images(left: Sequence[str], tokens: Sequence[str], command: str) -> str:
    """Return the hint for a folder of images that has no ``--images`` before it; empty for anything else."""
    folder = left[0].removeprefix("folder:")
    is_images = len(left) == 1 and (folder != left[0] or (os.path.isdir(folder) and not is_run(Path(folder))))
    takes_images = command in app and any("--images" in argument.names for argument in _options_of(command))
    if not is_images or not takes_images or any(word.partition("=")[0] == "--images" for word in tokens):
        return ""
    return f"did you mean --images folder:{folder}?"


def _unknown_command(word: str) -> str:
    near = _nearest(word, [name for name in app if not name.startswith("-")])
    meant = f"did you mean {near}? " if near else ""
    return f"unknown command {word!r}; {meant}probedistill --help lists the commands"


def _nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the known name nearest to a misspelt word; leading dashes are not compared."""
    bare = {name.lstrip("-"): name for name in sorted(names)}
    near = difflib.get_close_matches(word.lstrip("-"), bare, n=1, cutoff=0.65)
    return bare[near[0]] if near else None


def _missing(error: cyclopts.MissingArgumentError, tokens: Sequence[str]) -> str:
    """Return the line for a missing argument."""
    argument, command = error.argument, " ".join(error.command_chain or ())
    if argument is None:
        return " ".join(str(error).split())
    if error.keyword is not None:  # an option without a value
        wanted, got = argument.token_count()[0], len(error.tokens_so_far)
        lacks = "no value" if wanted < 2 else f"{got % wanted} of {wanted} values"
        return f"{error.keyword} has {lacks}; probedistill {command} --help says what it takes"
    name = argument.name.removeprefix("--")
    if argument.field_info.is_positional:
        own = _options_of(command)
        words = [one.name.removeprefix("--").upper() for one in own if one.field_info.is_positional and one.required]
        usage = " ".join(word for word in words if word != "*")  # "*" is a config, whose fields are options
        return f"{name} is missing; give it after the command: probedistill {command} {usage}"
    if not is_of_a_config(command, name.replace("-", "_")):  # a run's config.yaml never has it
        return f"{name} is missing; give --{name}"
    if "--config" in tokens:
        return f"{name} is missing, and the --config file does not have it; give --{name}"
    return f"{name} is missing; give --{name}, or --config FILE that has it (a run's is RUN/config.yaml)"


def _named(error: cyclopts.CycloptsError) -> str:
    """Return the parser's message about an option, with its name, value and file added if they are missing."""
    text, argument = " ".join(str(error).split()), error.argument
    if isinstance(error, cyclopts.CoercionError) and error.token is not None:
        is_not = f"{error.token.value!r} is not {value_in_words(error.target_type)}"
        text = re.sub(r'unable to convert ".*" into \S.*', lambda _: is_not, text)
    if argument is None or argument.name in text or not argument.tokens:
        return text
    given = " ".join(token.value for token in argument.tokens)
    source = argument.tokens[0].source
    return f"{argument.name} {given!r}{'' if source == 'cli' else f' in {source}'}: {text}"
