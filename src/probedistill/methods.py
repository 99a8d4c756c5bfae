"""The methods: options with our defaults and the papers' values, and the registries "method" and "canvas".

A method is an objective. Its code is in ``objectives/NAME.py`` and its options are here, as a dataclass whose defaults
are the recipe of docs/recipes.md. ``--preset paper`` replaces defaults by `PAPER`; what the user sets overrides both.

Your own method imports nothing from this package. It is a function of the fixed real features that returns the loss of
a step; its keywords are its options. In ``mine.py``::

    def objective(real, *, strength: float = 1.0):
        centres = real.class_means()                  # (C, d)

        def loss(features, labels, step):             # (n, d), (n,), a number → a scalar
            return strength * (features - centres[labels]).square().mean()

        return loss

and then ``probedistill distill … --method module:mine:objective --method-args.strength 2``. A function with a keyword
``seed`` receives the run's seed. A package adds a name with an entry point in the group ``probedistill.method``.

Imports nothing heavy, so that ``--help`` stays quick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from .errors import UserError, option, unknown_name
from .registry import OWN, Registry, name_wanted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

METHODS = Registry(
    "method",
    {
        "lgm": ".objectives.lgm:lgm_objective",
        "clp": ".objectives.clp:clp_objective",
        "sfm": ".objectives.sfm:sfm_objective",
    },
)
CANVASES = Registry("canvas", {"pyramid": ".distillation.canvas:Canvas", "pixels": ".distillation.canvas:Canvas"})
PRESETS = ("default", "paper")
AIMS = ("home", "transfer")
FROM_PHOTOS = ("average", "blend", "real")

Normalization = Literal["none", "center", "center_l2"]


@dataclass(kw_only=True)
class LGMConfig:
    """Linear Gradient Matching."""

    sigma: float = 0.1
    """Standard deviation of the random head drawn at each step (paper: 0.01)."""
    normalize: Normalization = "center_l2"
    """How features are normalised. none (paper); center: subtract the real mean; center_l2: also scale to unit
    length."""
    balanced: bool = True
    """Give every real class the same weight in the real gradient (paper: no)."""
    real_batch: int = 0
    """Number of real features drawn at each step for the real gradient. 0: all of them; -1 (paper): as many as there
    are synthetic views."""
    fresh: bool = False
    """Encode fresh crops of the real batch at every step instead of using stored features (paper: yes). Much slower."""

    def check(self) -> None:
        """Raise `UserError` if a value is out of range."""
        check_number("lgm.sigma", self.sigma)
        check_choices(self, "lgm.")
        if self.real_batch < -1:
            raise UserError(
                f"lgm.real_batch {self.real_batch} must be -1 (as many as synthetic views), 0 (all) or a larger number"
            )
        if self.fresh and self.real_batch == 0:
            raise UserError(
                "lgm.fresh needs a real batch; set lgm.real_batch to -1 (as many as synthetic views) or above 0"
            )


@dataclass(kw_only=True)
class CLPConfig:
    """Closed-Form Linear-Probe distillation."""

    ridge: float | Literal["auto"] = "auto"
    """Ridge parameter λ, as a multiple of the mean diagonal of the kernel Z Zᵀ (our reading of the paper: 0.1). auto: 3
    for vision transformers from photos, 1 for blends with --aim transfer, else 10."""
    temperature: float = 0.1
    """Temperature τ of the outer cross-entropy."""
    outer: Literal["ce", "mse"] = "ce"
    """Outer loss on real features: cross-entropy or mean squared error."""
    normalize: Normalization = "center_l2"
    """How features are normalised. none; center: subtract the real mean; center_l2: also scale to unit length."""
    normalize_head: bool = True
    """Scale each class's column of the head to unit length (our reading of the paper: no)."""
    real_per_class: int = 60
    """Real features per class drawn at each step for the outer loss; 0: all of them, without balancing classes."""
    mean: float = 2.0
    """Weight of a penalty on the distance between the mean synthetic and the mean real feature, which no probe can
    correct and the outer loss cannot see (our reading of the paper: 0)."""

    def check(self) -> None:
        """Raise `UserError` if a value is out of range."""
        check_number("clp.ridge", self.ridge, more_than=True, auto=True)
        check_number("clp.temperature", self.temperature, more_than=True)
        check_choices(self, "clp.")
        check_number("clp.real_per_class", self.real_per_class, whole=True)
        check_number("clp.mean", self.mean)


@dataclass(kw_only=True)
class SFMConfig:
    """Statistical Flow Matching."""

    normalize: Normalization = "none"
    """How features are normalised. none; center: subtract the real mean; center_l2: also scale to unit length."""
    cosine: Literal["classes", "all"] = "classes"
    """classes: average one cosine per class; all (paper): a single cosine over the flows of all classes together."""
    others: Literal["samples", "centres"] = "samples"
    """What a flow points to. samples: the mean of all samples of the other classes; centres (paper): the mean of the
    other classes' centres."""

    def check(self) -> None:
        """Raise `UserError` if a value is out of range."""
        check_choices(self, "sfm.")


# ---------------------------------------------------------------------------------------------------
# The papers' values


_LGM_LOOP: dict[str, Any] = {
    "steps": 5000,
    "lr": 0.002,
    "schedule": "constant",
    "views": 1,
    "real_views": 0,
    "preprocess": "papers",
    "augment": {
        "scale": (0.08, 1.0),
        "noise_prob": 0.5,
        "noise_mean": 0.5,
        "antialias": False,
        "pad": "zeros",
        "real_crop": 256,
    },
    "canvas": {"init": "noise", "size": 256, "level_every": 200, "new_level": "noise"},
}
"""Settings of the authors' public code for LGM, and for SFM, which builds on it."""

PAPER: dict[str, dict[str, Any]] = {
    "lgm": {
        **_LGM_LOOP,
        "views": 10,
        "lgm": {"sigma": 0.01, "normalize": "none", "balanced": False, "real_batch": -1, "fresh": True},
    },
    "sfm": {**_LGM_LOOP, "sfm": {"cosine": "all", "others": "centres"}},
    # The authors' code is not public. This is our reading of the paper, within LGM's loop.
    "clp": {**_LGM_LOOP, "clp": {"ridge": 0.1, "normalize_head": False, "mean": 0.0}},
}
"""Method → options whose values in the paper differ from our defaults; docs/fidelity.md gives the reasons."""

AIM: dict[str, dict[str, Any]] = {"home": {}, "transfer": {"layers": 3, "layer_weight": 3.0}}
"""Aim → the options that it changes, in addition to the start and the ridge of --method auto
(`DistillConfig.resolve`). docs/recipes.md gives its cost on the named encoders and its gain on others."""


def preset_values(method: str, preset: str, aim: str = "home") -> dict[str, Any]:
    """Return the options that a preset and an aim set, nested as in a YAML file. The user's own options override them.

    >>> preset_values("sfm", "paper")["sfm"]
    {'cosine': 'all', 'others': 'centres'}

    Raises:
        UserError: Unknown preset or aim, a method that the preset has no values for, or a preset and an aim together.
    """
    check_name("preset", preset, PRESETS)
    check_name("aim", aim, AIMS)
    if preset == "default":
        return merged({}, AIM[aim])
    if aim != "home":
        raise UserError(f"aim {aim!r} changes options that preset {preset!r} sets; leave one of them out")
    if method not in PAPER:
        if method == "auto":
            raise UserError(f"preset {preset!r} needs a method; add {option('method', 'lgm')}, clp or sfm")
        raise UserError(f"preset {preset!r} has no values for method {method!r}; use lgm, clp or sfm")
    return {name: dict(value) if isinstance(value, dict) else value for name, value in PAPER[method].items()}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested options; those of ``above`` override those of ``below``.

    >>> merged({"canvas": {"size": 256, "init": "noise"}}, {"canvas": {"init": "real"}, "steps": 9})
    {'canvas': {'size': 256, 'init': 'real'}, 'steps': 9}
    """
    result = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else value
    return result


def flattened(options: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Flatten nested options to the names that they have on the command line.

    >>> flattened({"canvas": {"size": 256, "init": "noise"}, "steps": 9})
    {'canvas.size': 256, 'canvas.init': 'noise', 'steps': 9}
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        found |= flattened(value, f"{at}{name}.") if isinstance(value, Mapping) else {at + name: value}
    return found


def plain(value: Any) -> Any:
    """Replace numbers and arrays of NumPy, PyTorch and pandas by Python's own numbers and lists, at any depth."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value.tolist() if hasattr(value, "shape") and hasattr(value, "tolist") else value


# ---------------------------------------------------------------------------------------------------
# Checks


MOST_VIEWS = 1_000_000
"""Largest number of views per image, or of seeds, that is accepted."""
MOST_PIXELS = 16_384
"""Longest side of an image that is accepted; sizes far beyond overflow."""


def check_number(
    argument: str,
    value: Any,
    *,
    least: float = 0,
    most: float = math.inf,
    more_than: bool = False,
    whole: bool = False,
    auto: bool = False,
) -> None:
    """Raise `UserError` unless ``value`` is a finite number from ``least`` to ``most``, or more than ``least``.

    With ``auto`` it may also be ``"auto"``.
    """
    if auto and value == "auto":
        return
    is_number = isinstance(value, Integral if whole else Real)  # covers NumPy numbers
    if isinstance(value, bool) or not is_number:
        raise UserError(f"{argument} {value!r} must be a {'whole ' * whole}number{' or auto' * auto}")
    if not (least < value if more_than else least <= value) or not value < math.inf:
        bound = f"more than {least}" if more_than else "0 or more" if least == 0 else f"at least {least}"
        raise UserError(f"{argument} {value} must be {bound}{'' if whole else ', and finite'}")
    if value > most:
        raise UserError(f"{argument} {value} must be at most {most:,}")


def check_name(argument: str, value: Any, known: Any, hint: str = "") -> None:
    """Raise `UserError` unless ``value`` is one of the known names."""
    if value not in known:
        raise unknown_name(argument, value, known, hint)


def check_choices(config: DataclassInstance, at: str = "") -> None:
    """Raise `UserError` unless every field that takes one of some words, by its annotation, has one of them.

    Args:
        config: A dataclass instance.
        at: What comes before the fields' names in errors, such as ``"canvas."``.
    """
    for name, words in _choices(type(config)).items():
        check_name(at + name, getattr(config, name), words)


@cache
def _choices(config: type) -> dict[str, tuple[str, ...]]:
    return {name: get_args(kind) for name, kind in get_type_hints(config).items() if get_origin(kind) is Literal}


def check_known(registry: Registry, argument: str, name: Any, more: tuple[str, ...] = ()) -> None:
    """Raise `UserError` unless a registry has the name, or it is one of ``more`` or ``module:FILE:NAME``."""
    if (error := name_wanted(argument, name)) is not None:
        raise error
    if not isinstance(name, str) or not (name in registry or name in more or name.startswith(OWN)):
        raise unknown_name(argument, str(name), [*more, *registry.names(), "module:FILE:NAME"])
