"""Several runs in one call: one for each seed and each point of a grid, distilled, scored and compared.

Every run is an ordinary run, in a folder named after its settings: ``OUT/lr-0.01_views-3/seed-0``. The first run that
needs features of real images caches them, so the others do not encode them again.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Unpack, get_type_hints

import msgspec

from ..config import DistillConfig, EncoderConfig, EvaluateConfig, ImagesConfig, RunConfig
from ..distillation.folder import RunFolder, check_settings
from ..distillation.from_statistics import check_without_images
from ..distillation.objective import load_method
from ..distillation.options import DistillOptions, with_options
from ..distillation.prepare import Data
from ..distillation.run import distill
from ..encoders.encoder import Encoder
from ..encoders.load import load_encoder
from ..encoders.named import encoder_config
from ..errors import NonFiniteLossError, UserError, by_caller, explained, unknown_name
from ..evaluation.protocol import evaluate
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages, digest_of
from ..images.splits import load_images, load_splits
from ..machine.launch import launch
from ..machine.signals import Interrupted, number_of
from ..methods import check_number, merged, plain
from ..probes.kinds import check_probes
from ..store.layout import RUN, scores_file
from ..store.run_record import read_run
from ..text import duration, value_in_words
from .runs import Runs, collect_runs

_log = logging.getLogger(__name__)
_LONGEST_NAME = 100
_NOT_IN_A_GRID = {
    "seed": "give seeds instead",
    "preset": "make one sweep for each preset",
    "also": "make one sweep for each",
}


def sweep(
    images: Data,
    encoder: str | EncoderConfig | Encoder,
    config: DistillConfig | None = None,
    *,
    seeds: Sequence[int] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    test: LabelledImages | ImagesConfig | None = None,
    probes: Sequence[str] = ("ridge",),
    run: RunConfig | None = None,
    strict: bool = False,
    **options: Unpack[DistillOptions],
) -> Runs:
    """Distil and score a run for each seed and each point of a grid; repeat the same call to continue if stopped.

    >>> sweep("folder:photos", "efficientnet_lite0@112", seeds=[0, 1, 2], grid={"lr": [0.01, 0.02]},
    ...       out="runs/several")  # doctest: +SKIP

    Finished runs are kept, and unfinished ones continue from their last checkpoint. A run whose loss is not finite is
    left out with a warning.

    Args:
        images: As for `distill`.
        encoder: As for `distill`; the runs are scored on it.
        config: As for `distill`.
        seeds: Distillation seeds. Default: the one of ``config``.
        grid: Option → its values; all combinations are run. Nested options have a dot: ``"canvas.init"``.
        test: Test images, if ``images`` are loaded images or statistics. Without them, nothing is scored.
        probes: Probes to score the runs with; there are no real-image baselines.
        run: As for `distill`; ``out`` is the folder of all runs. With ``overwrite``, every run starts again.
        strict: As for `distill`.
        **options: Fields of ``config`` or ``run``, as for `distill`.

    Returns:
        All runs in ``out``, including those of earlier calls; runs that differ only in their seed are one row.

    Raises:
        UserError: Bad input anywhere in the grid; nothing has been written.
        Interrupted: SIGINT, SIGTERM or SIGHUP was received; finished work is kept.
    """
    run, config = with_options(run or RunConfig(), config, dict(options))
    if run.out is None:
        raise UserError("out is missing; give the folder of all runs, such as out='runs/several'")
    team = launch()
    if team is not None and team.count > 1:
        raise UserError("seeds and grid need a single process; with torchrun, make one run at a time")
    out, protocol = Path(run.out), EvaluateConfig(probes=list(probes), baselines=[])
    protocol.check()
    check_probes(protocol.probes)
    plan = list(_planned(config, seeds, grid or {}, out))
    has_images = isinstance(images, (str, ImagesConfig, LabelledImages))
    for one in plan:
        _check(one, run, without_images=not has_images)
    try:
        store = FeatureStore(run.cache, strict, run.progress)
        data, held_out = _loaded(images, test, run.progress)
        bench = _Bench(data, held_out, _encoder(encoder, config), protocol, store, run, strict, is_grid=bool(grid))
        _log.info("%d runs in %s, one after another; finished runs are kept", len(plan), out)
        started, made = time.monotonic(), 0
        for number, one in enumerate(plan):
            _log.info("run %d of %d: %s%s", number + 1, len(plan), one.name, _left(started, made, len(plan) - number))
            made += bench.make(one)
    except KeyboardInterrupt as error:
        again = by_caller(command="repeat the command to continue", python="repeat the call to continue")
        raise Interrupted(number_of(error), out, again) from None
    return collect_runs(out)


def read_grid(words: Sequence[tuple[str, str]]) -> dict[str, list[Any]]:
    """The grid of some pairs of an option and its values with commas between them.

    >>> read_grid([("lr", "0.01,0.02"), ("augment.scale", "[0.08, 1], [0.3, 1]")])
    {'lr': ['0.01', '0.02'], 'augment.scale': [[0.08, 1], [0.3, 1]]}

    Raises:
        UserError: No values, or an option that is named twice.
    """
    grid: dict[str, list[Any]] = {}
    for name, text in words:
        name = name.removeprefix("--").replace("-", "_")
        if name in grid:
            raise UserError(f"grid {name!r} is named twice; give all its values at once, such as {name} 1,2,3")
        hint = "put commas between the values, and brackets around each that is a list"
        with explained(f"grid {name} {text!r} cannot be read", ValueError, RecursionError, hint=hint):
            grid[name] = json.loads(f"[{text}]") if "[" in text else [word.strip() for word in text.split(",")]
    return grid


# ---------------------------------------------------------------------------------------------------
# The plan: everything is checked before the first run


@dataclass(frozen=True)
class _Planned:
    """A run to make."""

    name: str
    folder: Path
    config: DistillConfig


def _planned(
    config: DistillConfig, seeds: Sequence[int] | None, grid: Mapping[str, Sequence[Any]], out: Path
) -> Iterator[_Planned]:
    """Yield a run for each point of the grid and each seed, in this order."""
    seeds = [config.seed] if seeds is None else list(plain(seeds))
    if not seeds:
        raise UserError("seeds is empty; give at least one")
    for seed in seeds:
        check_number("seeds", seed, whole=True)
        if seeds.count(seed) > 1:
            raise UserError(f"seeds {seed} is named twice; name each once")
    if config.seed not in (0, *seeds):
        raise UserError(f"seed {config.seed} is not among the seeds {' '.join(map(str, seeds))}; give only seeds")
    values = {name: _values(name, given) for name, given in grid.items()}
    points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    for point in points:
        changed = _with(config, point)
        for seed in seeds:
            name = "/".join([*([_point_name(point)] if point else []), f"seed-{seed}"])
            yield _Planned(name, out / name, replace(changed, seed=seed))


def _values(name: str, given: Sequence[Any]) -> list[Any]:
    """The values of an option, converted to its type."""
    kind, given = _type_of(name), plain(given)
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise UserError(f"grid {name!r} needs values, not {given!r}; give some, such as [1, 2]")
    found: list[Any] = []
    hint = f"it takes {value_in_words(kind)}"
    for value in given:
        with explained(f"grid {name} {value!r} does not fit", msgspec.ValidationError, hint=hint):
            typed = msgspec.convert(value, kind, strict=False)
        if typed in found:
            raise UserError(f"grid {name} {value!r} is named twice; name each value once")
        found.append(typed)
    return found


def _type_of(name: str) -> Any:
    """The type of an option, which may be nested."""
    first, _, inner = name.partition(".")
    if first in _NOT_IN_A_GRID:
        raise UserError(f"grid {first!r} cannot be varied; {_NOT_IN_A_GRID[first]}")
    if first == "method_args" and inner:
        return int | float | bool | str
    kinds: dict[str, Any] = {}
    for option, kind in get_type_hints(DistillConfig).items():
        inside = get_type_hints(kind) if is_dataclass(kind) else None
        kinds |= {option: kind} if inside is None else {f"{option}.{one}": of_one for one, of_one in inside.items()}
    if name not in kinds:
        raise unknown_name("option of grid", name, [option for option in kinds if option not in _NOT_IN_A_GRID])
    return kinds[name]


def _with(config: DistillConfig, point: Mapping[str, Any]) -> DistillConfig:
    """The config with some options changed; options that it does not set follow the preset of its new method."""
    changes: dict[str, Any] = {}
    for name, value in point.items():
        first, _, inner = name.partition(".")
        changes = merged(changes, {first: {inner: value} if inner else value})
    preset = DistillConfig.of(method=config.method, preset=config.preset, aim=config.aim)
    own = _differing(asdict(config), asdict(preset))
    named = {"method": config.method, "preset": config.preset, "aim": config.aim}
    return DistillConfig.of(**{**named, **merged(own, changes)})


def _differing(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of nested options that differ."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        other = others.get(name)
        if value == other:
            continue
        if isinstance(value, Mapping) and isinstance(other, Mapping) and name != "method_args":
            value = _differing(value, other)
        found[name] = value
    return found


def _point_name(point: Mapping[str, Any]) -> str:
    """The folder name of a point of the grid: ``lr-0.01_canvas.init-real``."""
    written = {name: value if isinstance(value, str) else str(value).strip("()[]") for name, value in point.items()}
    plain = {name: "".join(c if c.isalnum() or c in "._+" else "-" for c in text) for name, text in written.items()}
    name = "_".join(f"{option}-{text}" for option, text in plain.items())
    is_readable = all(plain[option] == text.replace(", ", "--") for option, text in written.items())
    if is_readable and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{digest_of(repr(written).encode())[:8]}"  # unique for each point


def _check(one: _Planned, run: RunConfig, *, without_images: bool) -> None:
    """Refuse wrong settings, and a folder with another run."""
    settled = one.config.resolve(without_images=without_images)
    load_method(settled)
    if without_images:
        check_without_images(settled)
    RunFolder(one.folder, resume=not run.overwrite, overwrite=run.overwrite).check()
    if (one.folder / RUN).exists() and not run.overwrite:
        before = read_run(one.folder).config  # always with encoder weights; distill compares them
        check_settings(one.folder, replace(before, encoder_weights=settled.encoder_weights), settled)


# ---------------------------------------------------------------------------------------------------
# One run


@dataclass(frozen=True)
class _Bench:
    """What all runs share, loaded once.

    Attributes:
        data: What they are distilled from.
        test: Test images, if there are any.
        encoder: The encoder.
        protocol: How they are scored.
        features: Where features of the test images come from.
        run: When they save and make previews.
        strict: Whether an unreadable image is an error.
        is_grid: Whether the runs differ in more than their seeds; an option may then apply to only some of them.
    """

    data: Data
    test: LabelledImages | None
    encoder: Encoder
    protocol: EvaluateConfig
    features: FeatureStore
    run: RunConfig
    strict: bool
    is_grid: bool

    def make(self, one: _Planned) -> bool:
        """Distil and score a run; return whether there was anything to distil."""
        run = replace(self.run, out=one.folder, resume=not self.run.overwrite)
        was_there = run.resume and (one.folder / RUN).exists() and read_run(one.folder).finished
        try:
            with warnings.catch_warnings():
                if self.is_grid:
                    warnings.filterwarnings("ignore", message="without effect")
                made = distill(self.data, self.encoder, one.config, test=self.test, run=run, strict=self.strict)
        except NonFiniteLossError as error:
            warnings.warn(f"{one.folder}: {error}; it is left out", stacklevel=3)
            return True
        if self.test is not None:
            path = one.folder / scores_file(self.encoder)
            evaluate(made, self.encoder, None, self.test, self.protocol, out=path, features=self.features)
        return not was_there


def _loaded(
    images: Data, test: LabelledImages | ImagesConfig | None, progress: bool
) -> tuple[Data, LabelledImages | None]:
    """The images, or their statistics, and the test images, as `distill` reads them."""
    if isinstance(images, (str, ImagesConfig)):
        named = ImagesConfig(images=images) if isinstance(images, str) else images
        if test is None:
            return load_splits(named, progress=progress)
        images = load_images(named, min_per_class=2, progress=progress)
    return images, load_splits(test, progress=progress)[1] if isinstance(test, ImagesConfig) else test


def _encoder(given: str | EncoderConfig | Encoder, config: DistillConfig) -> Encoder:
    if isinstance(given, str):
        given = encoder_config(given, **config.encoder_values)
    return given if isinstance(given, Encoder) else load_encoder(given)


def _left(started: float, made: int, to_do: int) -> str:
    """How long the rest will take, judging by the runs of this call, if that is over a minute."""
    seconds = (time.monotonic() - started) / max(made, 1) * to_do
    return f", about {duration(seconds)} left" if made and seconds >= 60 else ""
