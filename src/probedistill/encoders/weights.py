"""Weights from checkpoints as trainers write them. No code in a file is run."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError, first_line, option


def read_weights(path: Path, names: Iterable[str], key: str | None = None) -> dict[str, Tensor]:
    """Read a state dict: a ``.safetensors`` file, or a PyTorch file.

    Besides tensors, it may contain what trainers store with them: options, NumPy numbers, objects of any class. These
    are left out; none of their code is imported or run.

    Wrappers add prefixes to the names: ``module.``, ``_orig_mod.``, Lightning's ``model.`` … The prefix is found by
    comparison with the model: all the model's weights are under it. Everything else, such as the loss of a trainer, is
    left out.

    Args:
        path: The file.
        names: Names of the model's weights, without those that may be missing in a file.
        key: Which of several models is meant: the entry with its weights, or what their names start with. ``None``
            takes averaged weights, if that is clear.

    Raises:
        UserError: The file does not exist, is damaged, has no weights (under ``key``), or has several models.
    """
    called = f"checkpoint {str(path)!r}"
    if not path.is_file():
        raise UserError(f"{called} is not a file; give a .safetensors or .pth file of weights")
    hint = "give a .safetensors file, or a PyTorch file with nothing but tensors"
    content = _tree(load_tensor_file(path, f"{called} cannot be read as weights", hint, leave_out=True))
    ours = list(names)
    if key is None and (unnamed := next(_unnamed_averages(content), None)):
        warnings.warn(
            f"{called} has averaged weights without names ({unnamed!r}), which are not used; to use them, copy them "
            "into the model (ema.copy_to(model.parameters())) and save its state dict",
            stacklevel=2,
        )
    content = content if key is None else _under(key, content, called)
    weights = _without_inner_wrappers(dict(_tensors_in(content)), ours)
    _check_no_adapter(weights, called)
    whole = _meant(prefixes(weights.keys(), ours))
    if len(whole) != 1:  # equal copies, or the authors' names, which timm converts: go by the entries' names
        weights = _without_inner_wrappers(_of_a_holder(content, called), ours)
        whole = _meant(prefixes(weights.keys(), ours) or _of_half(weights, ours))
    if len(whole) > 1:
        raise _several(called, "under ", whole)
    if not whole:  # the model's loader reports what is missing; make the names as similar as possible
        while weights and all(name.startswith(("module.", "model.")) for name in weights):
            weights = {name.partition(".")[2]: value for name, value in weights.items()}
        return weights
    (prefix,) = whole
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


# ---------------------------------------------------------------------------------------------------
# Files


class _LeftOut:
    """Stands in for an object of any class that is stored with the weights."""

    attributes: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _LeftOutDict:
    """The same for a subclass of dict, whose entries may be weights."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class _LeftOutList:
    """The same for a subclass of list."""

    def __new__(cls, *_: Any) -> Any:
        return []


_MOST_CLASSES = 100
"""Limit on classes of objects in a file, which is read once more for each; trainers store a few dozen."""


def load_tensor_file(path: Path, failed: str, hint: str, *, leave_out: bool = False) -> Any:
    """Load the content of a ``.safetensors`` or a PyTorch file; no code in it is run.

    The kind of file is recognised by its first bytes, not by its name.

    Args:
        path: The file.
        failed: Start of the error if it cannot be loaded.
        hint: What the user can do then.
        leave_out: Accept a PyTorch file with objects other than tensors, and lists and dictionaries of tensors, and
            leave these objects out.

    Raises:
        UserError: It is damaged, or contains other objects.
    """
    try:
        if _is_safetensors(path):
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            others = _other_classes(path) if leave_out else {}
            with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in others.items()]):
                return _read(path, "cpu")
    except Exception as error:  # torch raises many types
        # Not torch's own message, which suggests loading the file without weights_only: that would run its code.
        not_tensors = isinstance(error, (pickle.UnpicklingError, EOFError)) or "weights_only" in str(error)
        reason = "damaged, or not only tensors" if not_tensors else first_line(error)
        reason = "damaged, or a download that was cut off" if "PytorchStreamReader" in reason else reason
        reason = "a whole model of TorchScript" if "TorchScript" in str(error) else reason
        reason = other_kind(path) or reason
        raise UserError(f"{failed} ({reason}); {hint}") from error


def objects_beside(path: Path) -> dict[str, Any]:
    """What a PyTorch file contains besides weights, by name: plain values as they are, objects as their attributes.

    No code of the objects is run. Empty if the file is of another kind or damaged.
    """
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not _is_safetensors(path):
            others = _other_classes(path)
            with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in others.items()]):
                content = _read(path, "meta")  # reads no tensors
            return {
                str(name): value.attributes if isinstance(value, _LeftOut) else value
                for name, value in (content.items() if isinstance(content, Mapping) else ())
            }
    return {}


_BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer",
    b"<": "a web page",
    b"{": "JSON, such as an index of shards",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
}


def other_kind(path: Path) -> str | None:
    """What a file contains instead of weights; ``None`` if that is unknown."""
    if _is_safetensors(path):  # its first byte may be any character
        return None
    with open(path, "rb") as file:
        head = file.read(64).lstrip()
    with suppress(zipfile.BadZipFile, OSError, ValueError), zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/data.pkl") for name in archive.namelist()):
            return "a zip archive of something else, such as NumPy arrays"
    return next((what for start, what in _BEGINNINGS.items() if head.startswith(start)), None)


def _read(path: Path, device: str) -> Any:
    """Load a PyTorch file; opened first, because torch 2.15 treats file names that end in .safetensors differently."""
    _check_not_packed(path)
    with open(path, "rb") as file:
        return torch.load(file, map_location=device, weights_only=True)


_MOST_PACKED, _TIMES = 2**28, 10
"""Bytes up to which an archive may unpack to any multiple of its size; and that multiple for larger ones. PyTorch does
not compress its archives."""


def _check_not_packed(path: Path) -> None:
    """Raise `ValueError` for an archive that would fill the memory: a megabyte of zeros may stand for gigabytes."""
    with suppress(zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(path) as archive:
        unpacked, packed = sum(member.file_size for member in archive.infolist()), path.stat().st_size
        if unpacked > max(_MOST_PACKED, _TIMES * packed):
            raise ValueError(f"its {packed:,} bytes unpack to {unpacked:,}")


def _other_classes(path: Path) -> dict[str, type]:
    """Placeholders, by name, for the classes in a PyTorch file that torch does not load without running code."""
    stand_ins: dict[str, type] = {}
    while len(stand_ins) < _MOST_CLASSES:
        try:
            with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()]):
                _read(path, "meta")  # reads no tensors
        except Exception as error:  # reading the tensors will report any other fault
            unknown = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
            filled = re.search(r"Can only (SET|app|ext).* but got <class 'left_out\.(\S+)'>", str(error))
            filled = filled or re.search(r"()'(\S+)' object does not support item assignment", str(error))  # torch 2.6
            if unknown:
                for name in (unknown[1], f"builtins.{unknown[1]}"):  # torch's message omits "builtins"
                    stand_ins[name] = type(name, (_LeftOut,), {"__module__": "left_out"})
                continue
            if filled and issubclass(stand_ins.get(filled[2], type), _LeftOut):
                stand_ins[filled[2]] = _LeftOutList if filled[1] in ("app", "ext") else _LeftOutDict
                continue
        break
    return stand_ins


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins like safetensors: with the length of a header, then the header, which is JSON."""
    with open(path, "rb") as file:
        return file.read(9)[4:] == b"\0\0\0\0{"  # the length, of eight bytes, is far below 2**32


# ---------------------------------------------------------------------------------------------------
# Where the weights are in a file


_DEEPEST = 6  # levels of nested dictionaries
_MOST_ENTRIES = 10**6


def _tree(content: Any, numbers: Iterator[int] | None = None, depth: int = 0) -> Any:
    """Copy the dictionaries of a file, up to a limit: they may contain themselves, or each other many times."""
    if not isinstance(content, Mapping):
        return content
    numbers = iter(range(_MOST_ENTRIES)) if numbers is None else numbers
    found = {}
    for (name, value), _ in zip(content.items(), numbers):
        if depth < _DEEPEST or not isinstance(value, Mapping):
            found[name] = _tree(value, numbers, depth + 1)
    return found


def _tensors_in(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of a file with dotted names: the keys that lead to them."""
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(name, str) and isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(name, str):
            yield from _tensors_in(value, f"{prefix}{name}.")


def _unnamed_averages(content: Any, prefix: str = "") -> Iterator[str]:
    """Yield the places of lists of averaged weights, as diffusers and torch_ema save them."""
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if name == "shadow_params" and isinstance(value, Sequence) and len(value):
            yield f"{prefix}{name}"
        yield from _unnamed_averages(value, f"{prefix}{name}.")


def _under(key: str, content: Any, called: str) -> dict[str, Tensor]:
    """The tensors of a file that have ``key`` in their names, by what comes after it."""
    tensors, found = dict(_tensors_in(content)), dict[str, dict[str, Tensor]]()
    for name, value in tensors.items():
        before, there, after = f".{name}".partition(f".{key.strip('.')}.")
        if there:
            found.setdefault(before, {})[after] = value
    if not found:
        first = f"; it has {next(iter(tensors))!r}, for example" if tensors else ""
        raise UserError(f"checkpoint_key {key!r}: {called} has no weights under this name{first}")
    return found[min(found, key=len)]


def _several(called: str, where: str, names: Sequence[str]) -> UserError:
    return UserError(
        f"{called} has several models, {where}{', '.join(map(repr, names))}; save the state dict of one, or name one: "
        f"{option('checkpoint_key', names[0].strip('.'))}"
    )


_INNER_WRAPPER = re.compile(r"\b_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
"""What `torch.compile`, FSDP and activation checkpointing add before the name of any part of a model."""


_CHUNK = re.compile(r"\bblocks\.\d+\.(?=\d+\.)")
"""What DINOv2's training adds before the number of a block: that of its chunk."""


def _without_inner_wrappers(weights: Mapping[str, Tensor], ours: Sequence[str]) -> dict[str, Tensor]:
    found = {_INNER_WRAPPER.sub("", name): value for name, value in weights.items()}
    if any(_CHUNK.search(name) for name in ours):  # a model with blocks in stages
        return found
    return {_CHUNK.sub("blocks.", name): value for name, value in found.items()}


_ADAPTER = re.compile(r"(^|[._])(lora|dora|loha|lokr)([._]|$)")


def _check_no_adapter(weights: Iterable[str], called: str) -> None:
    """Refuse an adapter that was not merged: without it, the features are those of another model."""
    name = next((name for name in weights if _ADAPTER.search(name.lower())), None)
    if name is not None:
        raise UserError(
            f"{called} has an adapter beside the weights ({name!r}); merge it into them, or choose the weights alone "
            f"with {option('checkpoint_key')}"
        )


_AVERAGE = re.compile(r"(\b|_)ema(\b|_)")
"""In the prefix of weights that were averaged during training: trainers report their scores."""
_OTHER_COPY = re.compile(r"\b(encoder_k|momentum_\w+|\w+_momentum|current_model_state)\.")
"""In the prefix of a copy that its trainer discards: in MoCo, solo-learn, lightly, and Lightning's averages."""
_ONLINE = re.compile(r"(\b|_)online(\b|_)")
"""In the prefix of the copy that BYOL's authors evaluate; the other copy is its target."""
_TARGET = re.compile(r"\btarget_encoder\.")
"""In the prefix of the copy that the authors of I-JEPA and V-JEPA evaluate."""


def prefixes(there: Collection[str], names: Sequence[str]) -> list[str]:
    """Prefixes with which all ``names`` occur in ``there``; none if there are no names."""
    if not names:
        return []
    before = [name.removesuffix(names[0]) for name in there if name == names[0] or name.endswith(f".{names[0]}")]
    return [prefix for prefix in before if all(prefix + name in there for name in names)]


def _of_half(weights: Iterable[str], names: Sequence[str]) -> list[str]:
    """Prefixes with which the most names occur, if that is more than half of them: timm may know the others."""
    ours, counts = set(names), Counter[str]()
    for name in weights:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        counts.update(name[:start] for start in starts if name[start:] in ours)
    return [prefix for prefix, count in counts.items() if count == max(counts.values()) > len(ours) / 2]


def _meant(whole: list[str]) -> list[str]:
    """Only one of several prefixes, if it is clear which."""
    for chosen in (
        [prefix for prefix in whole if _AVERAGE.search(prefix)],
        [prefix for prefix in whole if _ONLINE.search(prefix)],
        [prefix for prefix in whole if _TARGET.search(prefix)],
        [prefix for prefix in whole if not _OTHER_COPY.search(prefix)],
    ):
        if len(chosen) == 1:
            return chosen
    return whole


_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "shadow", "teacher")
HOLDERS = (*_AVERAGED, "state_dict", "model_state_dict", "model", "module", "network")
"""Entries of a checkpoint that contain weights. Averaged weights (EMA, DINO's teacher) come first, as in timm:
trainers report their scores."""


def _of_a_holder(content: Any, called: str) -> dict[str, Tensor]:
    """The weights in a checkpoint's entry with a usual name for weights, or else in its only possible entry."""
    entries = content if isinstance(content, Mapping) else {}
    models = {str(name): found for name, value in entries.items() if (found := _held(value)) is not None}
    weights = _held(content)
    # Other entries with the same names as the weights, such as the best weights so far.
    rivals = [name for name, found in models.items() if weights is None or _bare(found) == _bare(weights)]
    if len(rivals) > 1 and models.keys().isdisjoint(_AVERAGED):
        raise _several(called, "", rivals)
    found = weights or next(iter(models.values()), None)
    if found is None:
        raise UserError(f"{called} has no state dict; save model.state_dict() instead")
    return found


def _bare(names: Iterable[str]) -> set[str]:
    """Names without what weight averaging and parallel training add."""
    return {re.sub(r"^((module|_orig_mod)\.)+", "", name) for name in names if name != "n_averaged"}


def _held(content: Any) -> dict[str, Tensor] | None:
    """The weights in a checkpoint's content, however deeply they are nested."""
    if not isinstance(content, Mapping) or not content:
        return None
    for holder in HOLDERS:
        found = _held(content.get(holder))
        if found is not None:
            return found
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        return None
    return dict(content)
