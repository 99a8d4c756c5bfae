"""What a file of options, or a file of weights, may ask for.

A run's folder may come from anyone, and it contains a ``config.yaml``. Following that file must not run code or read
files of its choice. A flag that the user types is different, because the user has seen it. Imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, by_caller, explained
from ..machine.places import check_plain_file
from ..text import text_of

SWITCHES_AND_NUMBERS = frozenset(
    {
        *("bn_eps", "bn_momentum", "class_token", "depth", "dim", "drop_path_rate", "drop_rate", "dynamic_img_pad"),
        *("dynamic_img_size", "embed_dim", "force_quick_gelu", "hidden_size", "image_size", "img_size", "in_chans"),
        *("init_values", "interpolate_pos_encoding", "mask_ratio", "mlp_ratio", "num_classes", "num_heads"),
        *("output_stride", "patch_size", "qkv_bias", "reg_tokens", "seed", "width"),
    }
)
"""Encoder arguments that a file of options may set to a number or a switch. Left out on purpose: ``trust_remote_code``,
``weights_only``, ``use_kernels``, ``checkpoint_path``."""
WORDS = frozenset(["act_layer", "global_pool", "norm_layer", "pad_type", "stem_type"])
"""Encoder arguments that a file of options may set to a word."""
_NOT_OF_THE_MODEL = frozenset(
    {
        *("checkpoint_path", "cache_dir", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
        *("pretrained_strict", "scriptable", "exportable", "no_jit", "num_classes", "device", "dtype"),
    }
)
"""Arguments of ``timm.create_model`` that a file of weights may not set. All others go to the model, which may not fit
its weights without them; those in a file of options may go to any encoder."""
_LARGEST = 2**13
"""Largest sum of the whole numbers among the arguments in a file of weights."""

MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_DIGITS = 2**20, 20, 200_000, 40
"""Limits on YAML files; a config.yaml of 10,000 classes has some 20,000 nodes."""

_OF_ENCODERS = ("encoder", "encoders", "also", "source", "others", "choose_by", "new_encoder")
"""Options that name encoders."""
_OF_CLASSES = ("classes", "class")
_HUB_NAME = re.compile(r"(\w+:)?(hf[-_]hub:)?\w[\w.-]*(/\w[\w.-]*)?(@\w[\w./-]*)?")
_WORD = re.compile(r"[\w.+-]{0,100}", re.ASCII)
_NUMBER = re.compile(r"[-+]?[.\d][\w.:+-]*")
_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Follow option files without restrictions within the block: the effect of ``--trust``."""
    before = _trusted.set(trust)
    try:
        yield
    finally:
        _trusted.reset(before)


def is_trusted() -> bool:
    """Whether the code runs inside `trusting`."""
    return _trusted.get()


def check_file_options(content: Mapping[str, Any], source: str) -> None:
    """Refuse options in a file that run code or name files; inside `trusting` nothing is refused.

    Args:
        content: The file's options, by name.
        source: Name of the file in errors, such as ``"config 'runs/x/config.yaml'"``.

    Raises:
        UserError: A value ``module:…`` anywhere; encoder arguments other than plain values of known names; a
            checkpoint; an encoder that is a local path; classes ``@FILE``, because errors show what the file says;
            ``overwrite``, which replaces a finished run; ``csv``, which replaces a file.
    """
    reason = None if is_trusted() else not_followed(content)
    if reason is not None:
        raise UserError(
            f"{source} sets {reason}, which needs trust; {trust_it('file')}, or give the option as "
            + by_caller(command="a flag", python="an argument")
        )


def trust_it(what: str) -> str:
    """How the reader of an error can follow a file or run anyway."""
    how = by_caller(command="add --trust", python="load it within probedistill.encoders.trust.trusting()")
    return f"{how} if you know where the {what} comes from"


def not_followed(content: Mapping[str, Any]) -> str | None:
    """The first option in a file that needs trust, with its value; ``None`` if there is none."""
    return next(_not_followed(content), None)


def _not_followed(content: Any, at: str = "") -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            name = str(key).replace("-", "_")
            place = f"{at}.{name}" if at else name
            if name == "encoder_args":
                yield from _not_plain(value)
            elif (name in ("checkpoint", "csv") and value is not None) or (name == "overwrite" and value is not False):
                yield f"{place} {_short(value)}"
            yield from _not_followed(value, place)
    elif isinstance(content, (list, tuple, set)):
        for value in content:
            yield from _not_followed(value, at)
    elif isinstance(content, str):
        names_encoder = at.rpartition(".")[2] in _OF_ENCODERS
        is_code = content.strip().startswith("module:") or (at == "grid" and "module:" in content)
        reads_file = at in _OF_CLASSES and content.startswith("@")
        if is_code or reads_file or (names_encoder and _is_path(content)):
            yield f"{at} {_short(content)}"


def _not_plain(arguments: Any) -> Iterator[str]:
    if not isinstance(arguments, Mapping):
        return  # refused when encoder arguments are read
    for key, value in arguments.items():
        name = str(key).replace("-", "_")  # as `EncoderConfig` reads it
        number = isinstance(value, (bool, int, float)) and name in SWITCHES_AND_NUMBERS
        word = isinstance(value, str) and name in WORDS and re.fullmatch(r"[\w-]{0,40}", value)
        if not (number or word):
            yield f"encoder_args.{name} {_short(value)}"


def plain_arguments(arguments: Any) -> dict[str, Any]:
    """The arguments of a timm model in a file of weights that are words, numbers and the like, or lists and
    dictionaries of them.

    Other objects, such as functions, cannot be stored with weights. Large numbers are not followed, because a model of
    billions of layers would fill the memory; see also `timm`.
    """
    given = arguments if isinstance(arguments, Mapping) else {}
    found, total = {}, 0
    for name, value in given.items():
        if is_word(name) and name not in _NOT_OF_THE_MODEL:
            with suppress(ValueError):
                total += _sum_of_plain(value)
                found[name] = value
    return found if total <= _LARGEST else {}


def is_word(value: Any) -> bool:
    """Whether a value is a word, such as the name of a model, a tag or a layer."""
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _sum_of_plain(value: Any, depth: int = 3) -> int:
    """Sum of the whole numbers in a value; raises ValueError if it is not plain."""
    if value is None or isinstance(value, bool | float) or is_word(value):
        return 0
    if isinstance(value, int):
        return abs(value)
    if depth and isinstance(value, list | tuple | dict) and len(value) <= 100:
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        return sum(_sum_of_plain(one, depth - 1) for one in inner)
    raise ValueError("not plain")


def _is_path(spec: str) -> bool:
    is_options = spec.endswith((".yaml", ".yml"))  # a file of options is checked when it is read
    return bool(spec) and not is_options and _HUB_NAME.fullmatch(spec) is None


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, bool, int, float)) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…" + text[-1]


# ---------------------------------------------------------------------------------------------------
# YAML


def _entries(node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


class _PlainLoader(yaml.SafeLoader):
    """Loads plain values. An option may not occur twice, because its first value would silently be lost.

    Numbers are decimal, as on the command line. Items of a list are often names, so classes called yes, 007, 1.10 or
    null are not converted. Values below ``encoder_args`` and ``method_args`` are for code and keep YAML's types.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        """Construct the options; items of lists stay words if YAML would convert them to something else."""
        left = [value for key, value in _entries(node) if str(key.value).replace("-", "_") not in _ARGUMENTS]
        seen: set[yaml.Node] = set()  # a node may be visited through several aliases
        while left:
            one = left.pop()
            if one in seen:
                continue
            seen.add(one)
            items = one.value if isinstance(one, yaml.SequenceNode) else []
            for item in items:
                if self._is_word(item):
                    item.tag = _TAG + "str"
            left += [*items, *(value for _, value in _entries(one))]
        return super().construct_document(node)

    def _is_word(self, item: yaml.Node) -> bool:
        if not isinstance(item, yaml.ScalarNode):
            return False
        if item.tag in (_TAG + "merge", _TAG + "null"):
            return bool(item.value)  # a lone dash is an empty item
        construct = _CONSTRUCT.get(item.tag)
        return construct is not None and str(construct(self, item)) != item.value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The dictionary of a node; a repeated key is an error."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _TAG + "merge":
                name = key.value.replace("-", "_")
                if name in seen:
                    raise yaml.YAMLError(f"{key.value!r} is set twice, again in line {key.start_mark.line + 1}")
                seen.add(name)
        return super().construct_mapping(node, deep)


_PlainLoader.yaml_implicit_resolvers = {}  # YAML 1.1 would read 010 as 8 and 1:30 as 90
_TAG = "tag:yaml.org,2002:"
_ARGUMENTS = ("encoder_args", "method_args")
_CONSTRUCT = {
    f"{_TAG}bool": _PlainLoader.construct_yaml_bool,
    f"{_TAG}int": _PlainLoader.construct_yaml_int,
    f"{_TAG}float": _PlainLoader.construct_yaml_float,
}
for _kind, _form, _first in (
    ("merge", "<<", "<"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "(?i:true|false|yes|no|on|off)", "tTfFyYnNoO"),
    ("int", "[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(?i:inf)|\.(?i:nan)", "-+.0123456789"),
):
    _PlainLoader.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_form})\\Z"), list(_first))


def read_yaml(path: Path | str, called: str) -> dict[str, Any]:
    """Read a YAML file of options. The only reader of YAML in this package.

    Args:
        path: The file; an empty one has no options.
        called: Its name in errors, such as ``"config 'x.yaml'"``.

    Returns:
        Option → value; names have underscores instead of hyphens, and entries without a value are left out.

    Raises:
        UserError: The file cannot be read, is not YAML, contains something other than options, or could exhaust
            memory: it is too large or too deep, or has numbers with too many digits or aliases that multiply.
    """
    if not Path(path).exists():
        raise UserError(f"{called} is not a file; give a YAML file of options")
    check_plain_file(Path(path), called)
    with explained(f"{called} cannot be read", OSError), Path(path).open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{called} is larger than {MAX_BYTES:,} bytes; give a YAML file of options")
    try:
        text = text_of(data)
        _check_size(text, called)
        content = yaml.load(text, Loader=_PlainLoader)
    except UserError:
        raise
    except Exception as error:  # PyYAML lets errors of int(), datetime() and dict look-ups through
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{called} cannot be read as YAML: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{called} must map option names to values")
    return {str(name).replace("-", "_"): value for name, value in content.items() if value is not None}


def _check_size(text: str, called: str) -> None:
    """Refuse YAML that is large once its aliases are followed. Reads events only: nothing is built yet."""
    depth = nodes = 0
    sizes: dict[str, int] = {}  # anchor → nodes below it
    opened: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise UserError(f"{called} contains itself, at the alias *{event.anchor}")
            nodes += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            nodes += 1
            opened.append((event.anchor, nodes))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = nodes - before + 1
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
            if event.implicit[0] or event.tag is not None:
                _check_digits(event.value, called)
        if depth > MAX_DEPTH:
            raise UserError(f"{called} is nested more than {MAX_DEPTH} levels deep; options are not")
        if nodes > MAX_NODES:
            raise UserError(f"{called} has more than {MAX_NODES:,} values once its aliases are expanded")


def _check_digits(value: str, called: str) -> None:
    digits = sum(character.isdigit() for character in value)
    if digits > MAX_DIGITS and _NUMBER.fullmatch(value):
        raise UserError(f"{called} has a number of {digits:,} digits; at most {MAX_DIGITS} are allowed")
