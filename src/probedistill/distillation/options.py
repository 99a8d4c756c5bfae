"""The keywords of `distill`, typed: a keyword that does not exist is an error of the type checker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from ..config import (
    AugmentConfig,
    CanvasConfig,
    CLPConfig,
    DistillConfig,
    LGMConfig,
    RunConfig,
    SFMConfig,
    check_config,
)
from ..errors import unknown_name
from ..methods import plain


class RunOptions(TypedDict, total=False):
    """Fields of `RunConfig`."""

    out: Path | str | None
    resume: bool
    overwrite: bool
    checkpoint_seconds: float | None
    evaluate_every: int | None
    cache: Path | None
    progress: bool
    timeout_seconds: float
    log: list[str]
    callback: list[str]


class DistillOptions(RunOptions, total=False):
    """Fields of `DistillConfig` and `RunConfig`."""

    method: str
    method_args: dict[str, int | float | bool | str]
    preset: Literal["default", "paper"]
    aim: Literal["home", "transfer"]
    images_per_class: int
    steps: int
    lr: float | Literal["auto"]
    schedule: Literal["cosine", "constant"]
    views: int | Literal["auto"]
    real_views: int | Literal["auto"]
    seed: int
    micro_batch: int | Literal["auto"]
    also: list[str]
    encoder_weights: list[float]
    layers: int | Literal["auto"]
    layer_weight: float
    soft_labels: Literal["none", "source", "learned"]
    keep_head: bool
    keep_stats: bool
    canvas: CanvasConfig | dict[str, Any]
    augment: AugmentConfig | dict[str, Any] | Literal["none"]
    lgm: LGMConfig | dict[str, Any]
    clp: CLPConfig | dict[str, Any]
    sfm: SFMConfig | dict[str, Any]


def with_options(
    run: RunConfig, config: DistillConfig | None, options: dict[str, Any]
) -> tuple[RunConfig, DistillConfig]:
    """Both configs with their fields taken from ``options``; without a config, of the preset that they name.

    Raises:
        UserError: An option that neither has.
    """
    check_config("run", run, RunConfig)
    check_config("config", config, DistillConfig)
    run_names, config_names = RunConfig.__dataclass_fields__, DistillConfig.__dataclass_fields__
    for name in options:
        if name not in run_names and name not in config_names:
            raise unknown_name("option", name, [*config_names, *run_names])
    run = replace(run, **{k: plain(v) for k, v in options.items() if k in run_names})
    settings = {k: plain(v) for k, v in options.items() if k in config_names}
    return run, DistillConfig.of(**settings) if config is None else replace(config, **settings)
