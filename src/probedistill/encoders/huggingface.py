"""``hf:REPO``: models of transformers."""

from __future__ import annotations

import inspect
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import EncoderConfig
from ..errors import UserError, by_caller, explained, option
from ..machine.network import asking_the_hub
from ..machine.places import at_home
from ..text import counted
from .encoder import RESAMPLING
from .known import IMAGENET
from .source import EncoderSource, Loaded, Output, optional
from .weights import other_kind, prefixes

_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
"""Models' names for the token that stands for the whole image, which is the first one."""
_TOWERS = ("vision_config", "image_config", "encoder")
"""Where the settings of the part for images are in those of a larger model: CLIP, FLAVA, and TrOCR."""
_NOT_SETTINGS = ("revision", "subfolder", "trust_remote_code", "dtype", "torch_dtype")
"""Arguments for loading that a model's settings may also contain; the first three locate the settings themselves."""


def load_hf(repo: str, config: EncoderConfig) -> Loaded:
    """Load a vision model from a repository or a local folder.

    Its features are the model's pooled output. If the model or its checkpoint has no pooler, they are the class token,
    or the mean over the image if there is no class token. Encoder arguments that are settings of the model
    (``mask_ratio``) change its configuration; others go to the loader. A checkpoint without weights that the features
    depend on is refused.
    """
    optional("transformers", "hf", f"hf:{repo}")
    repo = str(at_home(Path(repo))) if repo.startswith("~") else repo
    way_out = "give hf:FOLDER with a local copy, or use efficientnet_lite0, which needs no network"
    with asking_the_hub(f"encoder 'hf:{repo}'", way_out, needed=not Path(repo).exists()):
        return _loaded(repo, config)


def _loaded(repo: str, config: EncoderConfig) -> Loaded:
    spec = f"encoder 'hf:{repo}'"
    settings, model, missing = _made(repo, config, spec)
    preparation, is_bgr = _preparation(repo, config)
    own_size = getattr(settings, "image_size", 224)
    own_size = own_size if isinstance(own_size, int) else own_size[-1]
    view = {"input_size": own_size, **preparation}
    if config.input_size is not None:
        view["input_size"] = config.input_size
    interpolates = view["input_size"] != own_size and _can_interpolate(model)
    pools = not any("pooler" in key.split(".") for key in missing)
    has_token = any(name.rpartition(".")[2] in _CLASS_TOKENS for name in model.state_dict())
    _check_takes_images(model, spec)

    def pooled(module: nn.Module, images: Tensor) -> Tensor:
        extra = {"interpolate_pos_encoding": True} if interpolates else {}
        output = module(images.flip(1) if is_bgr else images, **extra)
        return _image_features(output, pools=pools, has_token=has_token, spec=spec)

    encoder = Output(model, pooled)
    _check_nothing_is_new(encoder, missing, spec, view["input_size"])
    if not pools:
        instead = "class token" if has_token else "mean over the image"
        warnings.warn(f"the checkpoint of hf:{repo} has no pooler; using the {instead} as features", stacklevel=2)
    if getattr(settings, "num_queries", None) and hasattr(model, "decoder"):
        warnings.warn(
            f"{spec} finds objects: its features are the mean of {settings.num_queries} queries, each about a part of "
            "the image; for features of the whole image, use the model inside it (its config.json names it), such as "
            "timm:resnet50",
            stacklevel=2,
        )
    identity = f"{'' if pools else 'class token' if has_token else 'mean'}|{getattr(settings, 'mask_ratio', '')}"
    return Loaded(encoder, identity=identity + "|bgr" * is_bgr, **view)


def _check_takes_images(model: nn.Module, spec: str) -> None:
    """Refuse a model that does not take images, or needs more than images: text, or patches of images of any shape."""
    taken = list(inspect.signature(model.forward).parameters.values())
    needed = [part.name for part in taken if part.default is part.empty and part.kind is part.POSITIONAL_OR_KEYWORD]
    if taken and (taken[0].name in ("input_ids", "inputs_embeds") or len(needed) > 1):
        named = ", ".join(needed or [taken[0].name])
        raise UserError(
            f"{spec} is a {type(model).__name__}, which takes {named}; use an encoder that takes images alone, or "
            "wrap it as module:FILE:NAME"
        )


def _can_interpolate(model: nn.Module) -> bool:
    """Whether a model accepts ``interpolate_pos_encoding``, by name or as a keyword passed on to its embeddings."""
    taken = inspect.signature(model.forward).parameters
    hands_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    return "interpolate_pos_encoding" in taken or (hands_on and hasattr(model, "embeddings"))


def _made(repo: str, config: EncoderConfig, spec: str) -> tuple[Any, Any, dict[str, str]]:
    """Return the settings, the model, and the faults of its checkpoint's weights: missing, or of another shape."""
    import transformers

    _check_folder(Path(repo) / str(config.encoder_args.get("subfolder", "")), spec)
    hint = "check its files" if Path(repo).is_dir() else "check the name or the network"
    with explained(f"{spec} could not be loaded", Exception, hint=hint), _quietly():
        try:
            every = transformers.AutoConfig.from_pretrained(repo, **_loading_arguments(config))
            towers = (getattr(every, name, None) for name in _TOWERS)
            settings = next((tower for tower in towers if isinstance(tower, transformers.PretrainedConfig)), every)
            settings.dtype = torch.float32  # not the one in config.json, to which weights would be rounded
            if isinstance(of_timm := getattr(settings, "model_args", None), dict):
                of_timm.pop("num_classes", None)  # transformers gives its own, 0, beside timm's
            arguments = _with_settings(settings, config.encoder_args)
            if config.pretrained:
                model, wrong = _filled(repo, every, settings, arguments, spec)
                return settings, model, wrong
            return settings, (_class_of(settings) or transformers.AutoModel.from_config)(settings, **arguments), {}
        except TypeError as error:
            if not config.encoder_args:
                raise
            reason = " ".join(str(error).split())
            raise UserError(f"encoder_args {dict(config.encoder_args)} do not suit 'hf:{repo}': {reason}") from error
        except (pickle.UnpicklingError, EOFError, OSError) as error:
            # torch's own message suggests running code from the file; transformers 4 blames TensorFlow.
            if isinstance(error, OSError) and "pytorch checkpoint file" not in str(error):
                raise
            raise UserError(
                f"{spec} could not be loaded (its weights are damaged, or not only tensors); use a copy with "
                ".safetensors files"
            ) from error
        except RuntimeError as error:  # of transformers 4, which puts no whole numbers into a model
            if "Only Tensors of floating point" not in str(error):
                raise
            raise _quantised(spec, str(error).partition('parameter named "')[2].partition('"')[0]) from error
        except ValueError as error:
            if "Unrecognized configuration class" in str(error):
                raise UserError(
                    f"{spec} is a model of kind {every.model_type!r}, which transformers cannot load as an encoder of "
                    "images alone; use the encoder inside it, or wrap it as module:FILE:NAME"
                ) from error
            if "trust_remote_code" not in str(error):
                raise
            given = by_caller(
                command="--encoder-args.trust_remote_code true", python="encoder_args={'trust_remote_code': True}"
            )
            raise UserError(
                f"{spec} needs code from its repository; give {given} to run it, if you trust it"
            ) from error


def _check_folder(folder: Path, spec: str) -> None:
    """Refuse a folder with an adapter, or with something else in the place of weights."""
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{spec} is an adapter (it has adapter_config.json); merge it into its model (merge_and_unload in peft), "
            "and save that to another folder"
        )
    for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("pytorch_model*.bin")):
        if file.is_file() and (what := other_kind(file)) is not None:
            raise UserError(f"{spec} could not be loaded ({file.name!r} is {what}); download the file itself")


def _filled(repo: str, every: Any, settings: Any, arguments: dict[str, Any], spec: str) -> tuple[Any, dict[str, str]]:
    """Return a model with the weights of its checkpoint, and what is wrong with them.

    Args:
        repo: Repository or folder.
        every: The checkpoint's settings.
        settings: Those of its part for images. CLIP-like checkpoints contain two towers; the class of the vision tower
            selects its weights.
        arguments: For transformers' loader.
        spec: The encoder, for errors.
    """
    import transformers

    arguments = {"ignore_mismatched_sizes": True, "output_loading_info": True, **arguments}
    kind = _class_of(settings) or transformers.AutoModel
    model, info = kind.from_pretrained(repo, config=settings, **arguments)
    if prefix := _prefix(info):
        arguments["key_mapping"] = {f"^{re.escape(prefix)}": ""}
        model, info = kind.from_pretrained(repo, config=settings, **arguments)
    if getattr(model, "pooler", model) is None and any("pooler" in name.split(".") for name in info["unexpected_keys"]):
        arguments["add_pooling_layer"] = True  # AutoModel makes Data2Vec's classifiers without one
        model, info = kind.from_pretrained(repo, config=settings, **arguments)
    # transformers renames some weights only in the whole model.
    if _missing(info) and every is not settings and type(every) in transformers.MODEL_MAPPING:
        whole, of_all = transformers.AutoModel.from_pretrained(
            repo, config=every, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
        name = next((name for name, part in whole.named_modules() if type(part) is type(model)), None)
        if name is not None and not any(key.startswith(f"{name}.") for key in of_all["missing_keys"]):
            model, info = whole.get_submodule(name), {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    _check_not_quantised(model, spec)
    unused = _unused(model, info["unexpected_keys"])
    if unused and getattr(every, "quantization_config", None) is not None:
        raise _quantised(spec, unused[0])
    if unused:
        warnings.warn(
            f"the checkpoint of {spec} has {counted(len(unused), 'weight')} that the model does not use, such as "
            f"{unused[0]!r}; if it is an adapter, merge it, else check the number of layers in config.json",
            stacklevel=2,
        )
    return model, _wrong_weights(info)


def _check_not_quantised(model: nn.Module, spec: str) -> None:
    """Refuse weights that were stored as whole numbers: transformers loads them without their scale."""
    for name, value in model.named_parameters():
        if value.ndim > 1 and float(value.detach().abs().max()) > 1 and torch.equal(value, value.round()):
            raise _quantised(spec, name)


def _quantised(spec: str, name: str) -> UserError:
    return UserError(f"the checkpoint of {spec} is quantised, as {name!r} shows; use one in float32 or half precision")


def _class_of(settings: Any) -> Any:
    """The class of a vision tower that AutoModel does not know (BLIP, CLIPSeg, ALIGN); ``None`` for all others."""
    import transformers

    if type(settings) in transformers.MODEL_MAPPING:
        return None
    return getattr(transformers, type(settings).__name__.removesuffix("Config") + "Model", None)


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress transformers' report of weights and its progress bar; this package reports what matters."""
    from huggingface_hub import utils
    from transformers.utils import logging

    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(max(level, logging.ERROR))
    if has_bars:
        logging.disable_progress_bar()
        utils.enable_progress_bars()  # a download may take long
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


def _prefix(info: Mapping[str, Any]) -> str | None:
    """The prefix that a wrapper's checkpoint adds to all weight names (``backbone.``), if nothing else differs."""
    whole = prefixes(set(info["unexpected_keys"]), _missing(info))
    return whole[0] if len(whole) == 1 else None


def _missing(info: Mapping[str, Any]) -> list[str]:
    """The weights that a checkpoint lacks, without those of a pooler, which features do not need."""
    return sorted(name for name in info["missing_keys"] if "pooler" not in name.split("."))


def _wrong_weights(info: Mapping[str, Any]) -> dict[str, str]:
    """Weight name → what is wrong with it, according to transformers' report about a checkpoint."""
    wrong = {}
    for name in info["missing_keys"]:
        nearly = next((other for other in sorted(info["unexpected_keys"]) if other.endswith(f".{name}")), None)
        wrong[name] = "is missing" + (f" (it has {nearly!r})" if nearly else "")
    for found in info["mismatched_keys"]:
        if isinstance(found, str):  # transformers 4
            wrong[found] = "has another shape"
        else:
            name, there, here = found
            wrong[name] = f"has shape {tuple(there)} instead of {tuple(here)}"
    return wrong


_OF_NO_WEIGHT = ("num_batches_tracked", "position_ids", "relative_position_index", "inv_freq")


def _unused(model: nn.Module, unused: Iterable[str]) -> list[str]:
    """Return a checkpoint's weights for parts of the model that it does not use: the features lack a part of it.

    Such weights belong to an adapter that was not merged, or to more layers than the settings have. Heads, decoders and
    other towers are outside the model, so their weights do not count.
    """
    parts = dict(model.named_modules())

    def is_inside(name: str) -> bool:
        path = name.split(".")
        part = next(parts[above] for n in range(len(path) - 1, -1, -1) if (above := ".".join(path[:n])) in parts)
        if part is model or isinstance(part, nn.Identity):  # in place of a head
            return False
        return isinstance(part, nn.ModuleList | nn.Sequential) or not any(part.children())

    return sorted(name for name in unused if not name.endswith(_OF_NO_WEIGHT) and is_inside(name))


def _preparation(repo: str, config: EncoderConfig) -> tuple[dict[str, Any], bool]:
    """How the repository's own processor prepares images, if there is one.

    Returns:
        Fields of `Loaded`, and whether the model expects blue before red.
    """
    import transformers

    try:
        with _quietly():
            processor = transformers.AutoImageProcessor.from_pretrained(repo, **_loading_arguments(config))
        if (data := getattr(processor, "data_config", None)) is not None:  # timm's processor
            names = ("mean", "std", "crop_pct", "interpolation")
            return {"input_size": data["input_size"][-1], **{name: data[name] for name in names}}, False
        found = _normalisation(processor) | _processor_view(processor)
        return found, bool(getattr(processor, "do_flip_channel_order", False))
    except (OSError, ValueError, AttributeError, ImportError):
        warnings.warn(f"hf:{repo} has no mean and std; using ImageNet's", stacklevel=2)
        return {"mean": IMAGENET[0], "std": IMAGENET[1]}, False


def _normalisation(processor: Any) -> dict[str, Any]:
    """Mean and deviation for images in [0, 1]; the processor may lack them, or expect values from 0 to 255."""
    mean: Any = 0.0
    std: Any = 1.0
    if getattr(processor, "do_normalize", False):
        mean, std = processor.image_mean or IMAGENET[0], processor.image_std or IMAGENET[1]
    if getattr(processor, "include_top", False):  # EfficientNet's processor, which divides twice
        std = np.square(std)
    scale = 255 * (processor.rescale_factor if getattr(processor, "do_rescale", True) else 1)
    shift = float(bool(getattr(processor, "rescale_offset", False)))  # EfficientNet's shift, after scaling
    if (scale, shift) != (1, 0):
        mean, std = (np.asarray(mean) + shift) / scale, np.asarray(std) / scale
    return {"mean": mean, "std": std}


def _image_features(output: Any, *, pools: bool, has_token: bool, spec: str) -> Tensor:
    """Features (n, d) from a model's output.

    They are what the model pools itself; else the class token, which is the first one, or the mean over the image.
    """
    names = ("pooler_output", "summary") if pools else ()  # RADIO has a summary
    features = next((found for name in names if (found := getattr(output, name, None)) is not None), None)
    if features is not None:
        return features.flatten(1)
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None and getattr(output, "feature_maps", None):  # some models exist only as a backbone
        hidden = output.feature_maps[-1]
    hidden = output if isinstance(output, Tensor) else hidden
    if not isinstance(hidden, Tensor):
        raise UserError(
            f"{spec} returns {type(output).__name__} without a pooler_output or last_hidden_state; wrap it as "
            "module:FILE:NAME"
        )
    if hidden.ndim == 4:
        is_channels_last = hidden.shape[1] == hidden.shape[2] != hidden.shape[3]
        return hidden.mean(dim=(1, 2) if is_channels_last else (2, 3))
    if hidden.ndim == 3:
        return hidden[:, 0] if has_token else hidden.mean(dim=1)
    return hidden


def _loading_arguments(config: EncoderConfig) -> dict[str, Any]:
    """Arguments for finding the configuration itself. ``False`` prevents a prompt about trusting code."""
    found = ("revision", "subfolder", "trust_remote_code")
    given = {name: config.encoder_args[name] for name in found if name in config.encoder_args}
    return {"trust_remote_code": False, **given}


def _with_settings(settings: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Apply arguments that are settings of the model, such as ``mask_ratio``; return the others."""
    if hasattr(settings, "mask_ratio"):
        settings.mask_ratio = 0.0  # a masked autoencoder must see the whole image, as when its authors probe it
    others = {}
    for name, value in arguments.items():
        if hasattr(settings, name) and name not in _NOT_SETTINGS:
            # transformers 5 refuses a whole number for a float
            is_share = isinstance(getattr(settings, name), float) and isinstance(value, int)
            setattr(settings, name, float(value) if is_share else value)
        else:
            others[name] = value
    return others


@torch.no_grad()
def _check_nothing_is_new(encoder: Output, missing: Mapping[str, str], spec: str, size: int) -> None:
    """Refuse a checkpoint that lacks weights on which the features depend: they would be random."""
    new = {name: value for name, value in encoder.model.state_dict(keep_vars=True).items() if name in missing}
    if not new:
        return
    encoder.eval().float()
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    hint = f"choose another {option('input_size')} or extra {option('encoder_args')}"
    with explained(f"{spec} cannot take images of {size} pixels", Exception, hint=hint):
        before = encoder(images)
    for name, value in new.items():
        drawn = value.detach().clone()
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=torch.Generator().manual_seed(1)))
        if not torch.equal(encoder(images), before):
            raise UserError(
                f"the checkpoint of {spec} is incomplete: {name!r} {missing[name]} and would be random; "
                "use a checkpoint of the whole encoder"
            )
        value.copy_(drawn)


def _processor_view(processor: Any) -> dict[str, Any]:
    """input_size, crop_pct and interpolation of a transformers image processor."""

    def side(name: str) -> int | None:
        sides = getattr(processor, name, None)
        sides = {"height": sides} if isinstance(sides, int) else dict(sides or {})
        found = sides.get("shortest_edge") or sides.get("height")
        return int(found) if found else None

    resized = side("size")
    cropped = side("crop_size") if getattr(processor, "do_center_crop", False) else None
    view: dict[str, Any] = {}
    if cropped or resized:
        view["input_size"] = cropped or resized
    own = 224 / 256 if "levit" in type(processor).__name__.lower() else getattr(processor, "crop_pct", None)
    if cropped and resized:
        view["crop_pct"] = min(1.0, (own or 1) * cropped / resized)  # PoolFormer and LeViT first resize to more
    elif resized and resized < 384 and own:  # ConvNeXt's own rule
        view["crop_pct"] = float(own)
    names = {int(filter_): name for name, filter_ in RESAMPLING.items()}
    if getattr(processor, "resample", None) in names:
        view["interpolation"] = names[processor.resample]
    return view


SOURCE = EncoderSource(load_hf)
