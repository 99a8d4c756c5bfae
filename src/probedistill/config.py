"""One typed config for Python, flags and YAML, and the presets that fill what the user left open."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any, Literal

from .augment import AugmentConfig
from .canvas import CanvasConfig
from .errors import UserError, unknown_name
from .objectives import CLPConfig, LGMConfig, SFMConfig

METHODS = ("lgm", "clp", "sfm")
NO_EXTRAS = {"also": [], "encoder_weights": [], "soft_labels": "none", "keep_head": False}
"""Fields that a run's record leaves out where they ask for nothing."""
_AUTHORS_CANVAS = {"kind": "pyramid", "init": "noise", "init_noise": 1.0, "level_every": 200}
_OUR_CANVAS = {"kind": "pyramid", "init": "noise", "init_noise": 1.0, "level_every": 0}
_AUTHORS_AUGMENT = {"noise_prob": 0.5}
_OUR_AUGMENT = {"noise_prob": 0.0}
_OUR_LOOP = {
    "augment": _OUR_AUGMENT,
    "steps": 300,
    "lr": 0.02,
    "views": 3,
    "schedule": "cosine",
    "canvas": _OUR_CANVAS,
}
_AUTHORS_LOOP = {
    "augment": _AUTHORS_AUGMENT,
    "steps": 5000,
    "lr": 2e-3,
    "schedule": "constant",
    "canvas": _AUTHORS_CANVAS,
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # "default" is what docs/recipes.md has the evidence for; "paper" keeps the authors' settings.
    "lgm": {
        "default": {
            **_OUR_LOOP,
            "real_views": 2,
            "lgm": {"sigma": 0.1, "normalize": "center_l2", "balanced": True, "real_batch": 0},
        },
        "paper": {
            **_AUTHORS_LOOP,
            "views": 10,
            "real_views": 10,
            "lgm": {"sigma": 0.01, "normalize": "none", "balanced": False, "real_batch": -1},
        },
    },
    "clp": {
        "default": {
            **_OUR_LOOP,
            "real_views": 0,
            "clp": {
                "ridge": 10.0,
                "temperature": 0.1,
                "outer": "ce",
                "normalize": "center_l2",
                "normalize_head": True,
                "real_per_class": 60,
            },
        },
        "paper": {
            **_AUTHORS_LOOP,
            "views": 1,
            "real_views": 0,
            "clp": {
                "ridge": 0.1,
                "temperature": 0.1,
                "outer": "ce",
                "normalize": "center_l2",
                "normalize_head": False,
                "real_per_class": 60,
            },
        },
    },
    "sfm": {
        "default": {**_OUR_LOOP, "real_views": 2, "sfm": {"normalize": "none"}},
        "paper": {**_AUTHORS_LOOP, "views": 1, "real_views": 0, "sfm": {"normalize": "none"}},
    },
}


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
    """Optimisation steps."""
    lr: float | None = None
    """Adam's learning rate."""
    schedule: Literal["cosine", "constant"] | None = None
    """Learning-rate schedule."""
    views: int | None = None
    """Augmented views of each synthetic image in a step."""
    real_views: int | None = None
    """Augmented views of each real image behind the real statistics; 0 uses the centre crop."""
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
            if getattr(config, name) < 1:
                raise UserError(f"{name} {getattr(config, name)} must be at least 1")
        if not 0 < config.lr < math.inf:
            raise UserError(f"lr {config.lr} must be more than 0, and finite")
        if config.seed < 0:
            raise UserError(f"seed {config.seed} must be 0 or more")
        if config.real_views < 0:
            raise UserError(f"real_views {config.real_views} must be 0 or more")
        if config.micro_batch != "auto" and int(config.micro_batch) < 1:
            raise UserError(f"micro_batch {config.micro_batch} must be auto or at least 1")
        for weight in config.encoder_weights:
            if not 0 < weight < math.inf:
                raise UserError(f"encoder_weights {weight} must be more than 0, and finite")
        if config.canvas.level_every < 0:
            raise UserError(f"canvas.level_every {config.canvas.level_every} must be 0 or more")
        _known("schedule", config.schedule, ["cosine", "constant"])
        _known("soft_labels", config.soft_labels, ["none", "source", "learned"])
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


def _known(argument: str, value: Any, known: list[str]) -> None:
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
