"""A run from statistics instead of images: what it needs, and what it cannot do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..config import DistillConfig, StatisticsConfig
from ..encoders.encoder import Encoder
from ..errors import UserError, option
from ..features.statistics import ClassStatistics, load_statistics, merge_statistics
from ..images.labelled import check_labelled
from ..store.run_record import ImagesRecord


def read_statistics(
    given: StatisticsConfig | ClassStatistics | Sequence[ClassStatistics],
) -> tuple[ClassStatistics, ...]:
    """The merged statistics of each encoder, of the same classes, each with images.

    Raises:
        UserError: A file is missing or damaged, or they do not fit together.
    """
    union = isinstance(given, StatisticsConfig) and given.union
    if isinstance(given, StatisticsConfig):
        paths = [given.stats] if isinstance(given.stats, (str, Path)) else given.stats
        parts = [load_statistics(path) for path in paths]
    else:
        parts = list(given) if isinstance(given, (list, tuple)) else [given]  # type: ignore[list-item]
        if not all(isinstance(part, ClassStatistics) for part in parts):
            check_labelled(given)  # the error lists what is accepted
    of_encoder: dict[tuple[str, str], list[ClassStatistics]] = {}
    for part in parts:
        of_encoder.setdefault((part.about.encoder.fingerprint, part.about.encoder.precision), []).append(part)
    merged = tuple(merge_statistics(group, union=union) for group in of_encoder.values())
    if not merged:
        raise UserError("stats is empty; give at least one file")
    for one in merged:
        _check_classes(one, merged[0])
    return merged


def _check_classes(one: ClassStatistics, first: ClassStatistics) -> None:
    if one.class_names != first.class_names:
        raise UserError(
            f"the statistics of {one.about.encoder} and of {first.about.encoder} are of different classes; "
            "make both from the same images"
        )
    if one.num_classes < 2:
        raise UserError(
            f"the statistics have only the class {one.class_names[0]!r}; add those of another class with "
            f"{option('union', True)}"
        )
    if not (one.private or bool((one.counts > 0).all())):
        empty = one.class_names[int((one.counts <= 0).nonzero()[0])]
        raise UserError(f"the statistics have no images of class {empty!r}; add a file that has some")


def statistics_for(encoders: Sequence[Encoder], merged: Sequence[ClassStatistics]) -> list[ClassStatistics]:
    """The statistics of each encoder's features, in the order of the encoders.

    Raises:
        UserError: An encoder has none.
    """
    found = []
    for encoder in encoders:
        same = [one for one in merged if one.about.encoder.fingerprint == encoder.fingerprint]
        (same or list(merged))[0].check_encoder(encoder)
        found += same[:1]
    return found


def settled(config: DistillConfig, statistics: Sequence[ClassStatistics]) -> DistillConfig:
    """Return the resolved config of a run from statistics; ``"auto"`` is sfm if they have only means.

    Raises:
        UserError: A value is out of range, or the method needs more than the statistics have.
    """
    means_alone = [one for one in statistics if one.products is None]
    if config.method == "auto" and means_alone:
        config = replace(config, method="sfm")
    config = config.resolve(without_images=True)
    check_without_images(config)
    for one in means_alone:
        if needs_second_moments(config):
            one.second_moments()  # raises the error
        if config.keep_head:
            raise UserError("keep_head True needs second moments, which the statistics do not have; leave it out")
    return config


def check_without_images(config: DistillConfig) -> None:
    """Raise `UserError` if a resolved config needs images that are not there."""
    is_lgm, is_clp, canvas = config.method == "lgm", config.method == "clp", config.canvas
    needs = "needs the real images, but there are only statistics"
    weighs = (
        "weights classes by their number of images, but every class has equally many features drawn from statistics"
    )
    wishes = (
        (canvas.from_photos, f"canvas.init {canvas.init!r} {needs}", "leave it out: the images start from noise"),
        (config.layers != 0, f"layers {config.layers} {needs}", "leave it (or --aim transfer) out"),
        (config.soft_labels != "none", f"soft_labels {config.soft_labels!r} {needs}", "leave it out"),
        (is_lgm and config.lgm.fresh, f"lgm.fresh {needs}", "leave it out"),
        (is_lgm and not config.lgm.balanced, f"lgm.balanced False {weighs}", "leave it out"),
        (is_clp and config.clp.real_per_class == 0, f"clp.real_per_class 0 {weighs}", "give a number"),
    )
    for wanted, fault, way_out in wishes:
        if wanted:
            raise UserError(f"{fault}; {way_out}")


def needs_second_moments(config: DistillConfig) -> bool:
    """Whether a built-in method needs single features; for a user's own method this is not known."""
    if config.method == "sfm":
        return config.sfm.normalize == "center_l2"
    return config.method in ("clp", "lgm")


def images_record(statistics: Sequence[ClassStatistics]) -> ImagesRecord:
    """The record of the images behind statistics, of which only the sums are known."""
    first = statistics[0]
    digest = hashlib.sha256()
    for one in statistics:
        for tensor in (one.counts, one.sums, one.squares, one.products):
            if tensor is not None:
                digest.update(tensor.contiguous().numpy().tobytes())
    parts = " + ".join(part.name for part in first.about.parts if not part.removed)
    return ImagesRecord(f"statistics:{parts}", "statistics", max(0, round(first.total)), digest.hexdigest())
