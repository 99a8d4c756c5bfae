"""How encoders are named: in a word, in a file of options, by a run's own config.yaml, and in tables."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..config import EncoderConfig, EncoderOptions
from ..errors import UserError, explained
from ..machine.places import at_home
from ..methods import merged
from ..text import value_in_words
from .known import RECIPES
from .trust import check_file_options, is_trusted, not_followed, read_yaml, trust_it, trusting

if TYPE_CHECKING:
    from .encoder import Encoder

YAML = (".yaml", ".yml")
"""Endings of the names of option files."""
_KINDS: dict[str, type] = {
    "input_size": int, "encoder_args": dict, "precision": str, "device": str, "features": str, "checkpoint_key": str,
}  # fmt: skip


def encoder_config(spec: str, *, trust: bool | None = None, **options: Unpack[EncoderOptions]) -> EncoderConfig:
    """Return the config of an encoder that is given by name or file.

    Args:
        spec: An encoder as in `EncoderConfig.encoder`, NAME@PIXELS for another input size, or a YAML file with fields
            of `EncoderConfig`, such as a run's config.yaml, whose other entries are ignored. A file may name another
            file as its encoder and override some of its fields. Or the content of such a file as JSON in braces, as
            `in_one_word` writes it.
        trust: Follow a file that runs code (``module:``) or names other files (a checkpoint). Default: no, except
            inside `trust.trusting`, as with ``--trust``.
        options: Fields for an encoder given by name, e.g. ``device``. A file's own values override them.

    Raises:
        UserError: No such file, not a YAML mapping with an encoder, a value of the wrong type, or an entry that needs
            trust.
    """
    if is_in_braces(spec):
        return _from_file(fields_in_braces(spec), dict(options))
    if not spec.endswith(YAML):
        return EncoderConfig.of(spec, options, "encoder_config")
    with trusting(is_trusted() if trust is None else trust):
        return _from_file(encoder_fields(spec), dict(options))


def is_in_braces(spec: str) -> bool:
    """Whether the options of an encoder are given as JSON instead of its name."""
    return spec.startswith("{") and spec.endswith("}")


def fields_in_braces(spec: str) -> dict[str, Any]:
    """Return the fields of `EncoderConfig` that are given as JSON instead of a name, with checked types.

    Raises:
        UserError: They are not JSON with an encoder, or a value has the wrong type.
    """
    called = f"encoder {spec!r}"
    with explained(f"{called} cannot be read", ValueError, RecursionError, hint="give JSON, or the name of an encoder"):
        content = json.loads(spec)
    return _checked_fields(content, called)


def fields_in_word(word: str) -> dict[str, Any]:
    """Return the fields in a word from `in_one_word`; for a name, with or without pixels, only ``encoder``."""
    return fields_in_braces(word) if is_in_braces(word) else {"encoder": word}


def in_one_word(fields: Mapping[str, Any]) -> str:
    """Return one word that `encoder_config` accepts for some fields of `EncoderConfig`, and that needs no file.

    >>> in_one_word({"encoder": "timm:resnet18", "input_size": 64})
    'timm:resnet18@64'
    >>> in_one_word({"encoder": "timm:resnet18", "precision": "bf16"})
    '{"encoder": "timm:resnet18", "precision": "bf16"}'
    """
    if fields.keys() == {"encoder"}:
        return str(fields["encoder"])
    if fields.keys() == {"encoder", "input_size"} and fields["input_size"] is not None:
        return f"{fields['encoder']}@{fields['input_size']}"
    return json.dumps(dict(fields), default=str, ensure_ascii=False)


def encoder_fields(file: str, named_by: str = "", above: Sequence[Path] = ()) -> dict[str, Any]:
    """Return the checked fields of `EncoderConfig` in a YAML file that a user names as an encoder.

    Args:
        file: The file.
        named_by: Name in errors of the file that names this one, if there is one.
        above: The files that led to this one.

    Raises:
        UserError: As `encoder_config`.
    """
    called = f"encoder {file!r}" + (f", which {named_by} names," if named_by else "")
    path = at_home(Path(file))
    if named_by and not path.exists():
        raise UserError(f"{called} does not exist; give its path relative to the current folder")
    if path.resolve() in above:
        raise UserError(f"{called} leads back to itself; give a name such as efficientnet_lite0 in one of the files")
    fields = _read_fields(path, called)
    check_file_options(fields, called)
    return with_its_file(fields, f"encoder {file!r}", (*above, path.resolve()))


def with_its_file(fields: Mapping[str, Any], called: str, above: Sequence[Path] = ()) -> dict[str, Any]:
    """Add the options of a YAML file that ``encoder`` may name; the given options override them.

    Args:
        fields: Options by name.
        called: Name in errors of the file that the options come from.
        above: The files that led to this one, if it is an encoder's file.

    Raises:
        UserError: As `encoder_config`.
    """
    spec = fields.get("encoder")
    if not (isinstance(spec, str) and spec.endswith(YAML)):
        return dict(fields)
    beside = {name: value for name, value in fields.items() if name != "encoder"}
    return merged(encoder_fields(spec, called, above), beside)


def own_encoder(folder: Path, *, called: str, device: str | None = None) -> EncoderConfig:
    """Return the encoder that a run's own ``config.yaml`` describes, if it is safe to load.

    The user has not named this encoder. It must be a recipe or ``timm:NAME`` with plain arguments; nothing is
    downloaded from a repository that the file chooses.

    Args:
        folder: The run's folder.
        called: Name of the option that names an encoder instead, for the error.
        device: Where to run it; ``None``: as the file says.

    Raises:
        UserError: There is no such file, or it describes an encoder that is not safe to load.
    """
    if not Path(folder).is_dir():
        raise UserError(f"no such folder {str(folder)!r}; give the folder of a finished run")
    path = Path(folder) / "config.yaml"
    file = f"encoder {str(path)!r}"
    if not path.is_file() or "encoder" not in read_yaml(path, file):
        raise UserError(
            f"run {str(folder)!r} has no config.yaml that describes its encoder; name the encoder with {called}, "
            "such as efficientnet_lite0@112"
        )
    config = _own(folder, _read_fields(path, file), {}, path.name, f", or name the encoder with {called}")
    return config if device is None else replace(config, device=device)


def loads_by_itself(folder: Path) -> bool:
    """Whether `own_encoder` finds an encoder that is safe to load without ``--trust``."""
    try:
        with trusting(False):
            own_encoder(folder, called="--encoder")
    except UserError:
        return False
    return True


def own_others(folder: Path, words: Sequence[str], first: EncoderConfig) -> list[EncoderConfig]:
    """Return the further encoders in a run's record, if they are safe to load.

    Args:
        folder: The run's folder.
        words: Their names, as in ``also`` of the record.
        first: The first encoder, whose device, precision and preparation the others share by default.

    Raises:
        UserError: One of them is not safe to load; see `own_encoder`.
    """
    shared = {"device": first.device, "precision": first.precision, "preprocess": first.preprocess}
    return [_own(folder, fields_in_word(word), shared, "run.json", "") for word in words]


def _own(folder: Path, fields: Mapping[str, Any], options: Mapping[str, Any], file: str, or_else: str) -> EncoderConfig:
    """The encoder that a run's file describes; unless the run is trusted, only a recipe or a plain timm model."""
    if is_trusted():
        return _from_file(with_its_file(fields, f"encoder {str(folder / file)!r}"), options)
    config = _from_file(fields, options)
    known = config.encoder in RECIPES or re.fullmatch(r"timm:[\w.]+", config.encoder)
    reason = not_followed(fields) or (None if known else f"encoder {config.encoder!r}")
    if reason is not None:
        raise UserError(
            f"run {str(folder)!r} is not trusted to load its encoder {config.encoder!r}, because its {file} sets "
            f"{reason}; {trust_it('run')}{or_else}"
        )
    return config


def check_made_with(encoder: Encoder, fingerprint: str | None, *, called: str, way_out: str) -> None:
    """Check that a set was made with the encoder in its run's config.yaml, because the file may have been edited.

    Args:
        encoder: The encoder as the file describes it.
        fingerprint: Fingerprint in the set's record; ``None``: there is none.
        called: Name of the set in errors.
        way_out: What the user can do about it.

    Raises:
        UserError: It was made with another encoder, or with none.
    """
    if encoder.fingerprint != fingerprint:
        raise UserError(f"{called} was not made with the encoder in its config.yaml; {way_out}")


def _read_fields(path: Path | str, called: str) -> dict[str, Any]:
    """Read the fields of `EncoderConfig` from a file of options; `UserError` if it names no encoder."""
    return _checked_fields(read_yaml(path, called), called)


def _checked_fields(content: Mapping[str, Any], called: str) -> dict[str, Any]:
    if not isinstance(content.get("encoder"), str):
        raise UserError(f"{called} names no encoder; give a YAML file with an entry 'encoder'")
    known = {name: value for name, value in content.items() if name in EncoderConfig.__dataclass_fields__}
    for name, kind in _KINDS.items():
        if not isinstance(known.get(name, kind()), kind):
            raise UserError(f"{called} has {name} {known[name]!r}; give {value_in_words(kind)}, or leave it out")
    return known


def _from_file(fields: Mapping[str, Any], options: Mapping[str, Any]) -> EncoderConfig:
    values = {**options, **fields}
    if "checkpoint" in values:
        values["checkpoint"] = at_home(Path(str(values["checkpoint"])))
    return EncoderConfig(**values)


def display_names(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Fingerprint → a unique name: NAME, else NAME@PIXELS, else with the start of the fingerprint.

    Args:
        entries: Encoders as name, fingerprint and input_size; one that occurs twice counts once.
    """
    known = {entry["fingerprint"]: entry for entry in reversed(entries)}
    sized = {fingerprint: f"{entry['name']}@{entry['input_size']}" for fingerprint, entry in known.items()}
    names, sizes = Counter(entry["name"] for entry in known.values()), Counter(sized.values())
    found = {}
    for fingerprint, entry in known.items():
        name = entry["name"] if names[entry["name"]] == 1 else sized[fingerprint]
        found[fingerprint] = f"{name} {fingerprint[:6]}" if sizes[name] > 1 else name
    return found
