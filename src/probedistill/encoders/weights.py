"""Weights out of checkpoints as trainers write them. Nothing that a file contains is run."""

from __future__ import annotations

import argparse
import math
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UserError, first_line

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "shadow", "teacher")
HOLDERS = (*_AVERAGED, "state_dict", "model_state_dict", "model", "module", "network")
"""Entries of a checkpoint that hold weights. Averaged weights (EMA, the teacher of DINO) come first, as in timm: they
are what a trainer reports."""


class _LeftOut:
    """Stands for a value beside the weights that is not needed, whatever it is made of."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_PLAIN_VALUES: list[Any] = [
    argparse.Namespace, dict, list, set, int, float, str,
    (lambda *_: {}, "collections.defaultdict"), (lambda *_: [], "collections.deque"),
    np.dtype, *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((_LeftOut, f"pathlib{local}.{kind}") for local in ("", "._local") for kind in ("WindowsPath", "PureWindowsPath")),
    *((_LeftOut, f"datetime.{kind}") for kind in ("datetime", "date", "time", "timedelta", "timezone")),
    *((_LeftOut, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")), (_LeftOut, "numpy.ndarray"),
]  # fmt: skip
"""What trainers store beside the weights: their options, a best accuracy, a folder, a time, the state of NumPy's
generator. None of these runs anything."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict: a ``.safetensors`` file, or a PyTorch file of tensors and plain values.

    Beside tensors it may hold what trainers store with them: command-line options (an `argparse.Namespace`), numbers
    of NumPy, paths.

    Raises:
        UserError: No such file, a damaged one, one with other objects, or one without weights.
    """
    called = f"checkpoint {str(path)!r}"
    if not path.is_file():
        raise UserError(f"{called} is not a file; give a .safetensors or .pth file of weights")
    hint = "give a .safetensors file or a PyTorch file that holds tensors only"
    content = load_tensor_file(path, f"{called} cannot be read as weights", hint, _PLAIN_VALUES)
    entries = content if isinstance(content, Mapping) else {}
    models = {str(name): found for name, value in entries.items() if (found := _held(value)) is not None}
    weights = next((models[holder] for holder in HOLDERS if holder in models), None) if models else _held(content)
    if weights is None:
        weights, rivals = next(iter(models.values()), None), models
    elif any(name in models for name in _AVERAGED):
        rivals = {}
    else:  # another of the same kind, such as the best so far
        rivals = {name: found for name, found in models.items() if _bare(found) == _bare(weights)}
    if len(rivals) > 1:
        raise UserError(f"{called} holds several models, {', '.join(map(repr, rivals))}; save the state dict of one")
    if weights is None:
        raise UserError(f"{called} holds no state dict; save model.state_dict() instead")
    return weights


def _bare(names: Iterable[str]) -> set[str]:
    """Names without what averaging and parallel training put before and beside them."""
    return {re.sub(r"^((module|_orig_mod)\.)+", "", name) for name in names if name != "n_averaged"}


def load_tensor_file(path: Path, failed: str, hint: str, also: Sequence[Any] = ()) -> Any:
    """Load what a ``.safetensors`` or a PyTorch file holds; nothing in it is run.

    What a file is shows in its first bytes, not in its name.

    Args:
        path: The file.
        failed: Start of the error if it cannot be loaded.
        hint: What the user can do then.
        also: Types that a PyTorch file may hold beside tensors, lists and dictionaries of them.

    Raises:
        UserError: It is damaged, or holds other objects.
    """
    try:
        if _is_safetensors(path):
            return load_file(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(also)):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        # Not torch's own text: it advises to load the file without weights_only, which runs its code.
        not_tensors = isinstance(error, (pickle.UnpicklingError, EOFError))
        reason = "damaged, or more than tensors" if not_tensors else first_line(error)
        reason = "a whole model of TorchScript" if "TorchScript" in reason else reason
        raise UserError(f"{failed} ({reason}); {hint}") from error


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: with the length of a header, then the header, which is JSON."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _held(content: Any) -> dict[str, Tensor] | None:
    """The weights in a checkpoint's content, however deep the holders go into each other."""
    if not isinstance(content, Mapping) or not content:
        return None
    for holder in HOLDERS:
        found = _held(content.get(holder))
        if found is not None:
            return found
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        return None
    return dict(content)


_INNER_WRAPPER = re.compile(r"\b_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
"""What `torch.compile`, FSDP and activation checkpointing put before the names of any part of a model."""


def without_wrappers(weights: Mapping[str, Tensor], names: Iterable[str], path: Path) -> dict[str, Tensor]:
    """Take off what wrappers have put into the names: ``module.``, ``_orig_mod.``, Lightning's ``model.`` …

    The prefix is found by comparison with the model: it is the one below which all of its weights lie. What lies
    elsewhere, such as the loss of a trainer, is left out.

    Args:
        weights: From a file.
        names: The model's own; weights that may be missing in a file are not among them.
        path: The file, for errors.

    Raises:
        UserError: All weights are there more than once, below several prefixes.
    """
    weights = {_INNER_WRAPPER.sub("", name): value for name, value in weights.items()}
    ours = list(names)
    if not ours:
        return weights
    prefixes = [name.removesuffix(ours[0]) for name in weights if name == ours[0] or name.endswith(f".{ours[0]}")]
    whole = [prefix for prefix in prefixes if all(prefix + name in weights for name in ours)]
    averaged = [prefix for prefix in whole if "ema" in prefix.replace("_", ".").split(".")]
    whole = averaged if len(averaged) == 1 else whole
    if len(whole) > 1:
        raise UserError(
            f"checkpoint {str(path)!r} holds several models, below {', '.join(map(repr, whole))}; "
            "save the state dict of one"
        )
    if not whole:  # the model's loader says what is missing, by names that are as near as can be
        while weights and all(name.startswith(("module.", "model.")) for name in weights):
            weights = {name.partition(".")[2]: value for name, value in weights.items()}
        return weights
    (prefix,) = whole
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def take_size_of(weights: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Give a model the input size that the position embeddings of ``weights`` are for, if that is another one.

    From there timm's ``set_input_size`` resamples them once; by way of the model's own size it would be twice.
    """
    ours, theirs = getattr(model, "pos_embed", None), weights.get("pos_embed")
    if not isinstance(ours, Tensor) or theirs is None or theirs.ndim != 3 or ours.shape == theirs.shape:
        return False
    extra = 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 1))
    places = max(theirs.shape[1] - extra, 0)
    side = math.isqrt(places)
    if ours.shape[2] != theirs.shape[2] or not side**2 == places > 0 or not hasattr(model, "set_input_size"):
        return False  # of another model: refused when the weights are loaded
    patch = model.patch_embed.patch_size  # type: ignore[union-attr]
    model.set_input_size(img_size=(side * patch[0], side * patch[1]))  # type: ignore[operator, index]
    return True
