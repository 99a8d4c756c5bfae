"""Evaluation: the same probes and views for synthetic images and for real-image baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Unpack

import numpy as np
import torch

from .._version import __version__
from ..config import AugmentConfig, EvaluateConfig, EvaluateOptions, check_config, with_options
from ..encoders.encoder import Encoder, check_encoder
from ..errors import UserError, by_caller, option
from ..features.notes import ImagesNote
from ..features.store import FeatureStore
from ..images.duplicates import check_not_one_picture
from ..images.labelled import LabelledImages, check_labelled, digest_of, of_classes
from ..machine.progress import ProgressBar
from ..machine.torch_state import own_torch_state
from ..methods import check_number
from ..probes.kinds import PROBES, check_probes, need_head
from ..store.card import warn_of_seen
from ..store.distilled import DistilledSet, Head, as_set
from ..store.named import run_folder
from ..store.records import check_record_file
from ..text import counted
from .cost import say_cost
from .on_card import show_on_card
from .result import (
    KIND,
    Context,
    Evaluation,
    InheritedBy,
    Row,
    ScoredBy,
    ScoredOn,
    load_evaluation,
    row_name,
)
from .scorer import Scorer, Trial
from .training_sets import Baselines, SyntheticImages, TrainingSet


@own_torch_state()
def evaluate(
    distilled: DistilledSet | Path | str | None,
    encoder: Encoder,
    train: LabelledImages | None,
    test: LabelledImages,
    config: EvaluateConfig | None = None,
    *,
    augment: AugmentConfig | None = None,
    images_per_class: int = 1,
    groups: Sequence[str] | None = None,
    source: Encoder | None = None,
    head: Head | None = None,
    chosen_by: Encoder | None = None,
    out: Path | str | None = None,
    features: FeatureStore | None = None,
    cache: Path | str | None = None,
    strict: bool = False,
    progress: bool = True,
    **options: Unpack[EvaluateOptions],
) -> Evaluation:
    """Score probes trained on a synthetic set and on real-image baselines.

    Every row is tested on the centre crops of ``test``. Training views are random resized crops and flips (no noise),
    with the augmentation that the set was distilled with unless ``augment`` is given. A set with soft labels is scored
    with them in the row "distilled", and with its hard labels in a separate row. Real images saved by `baseline --save`
    are named after their baseline, as in "herding, saved".

    The probe ``"inherited"`` uses the set's head (`InheritedProbe`). Its projector is fitted on the images of each row;
    "full real data" and "class-mean features" are scored with ridge instead.

    Features of views are kept in the cache and shared between probes, rows and later calls.

    Args:
        distilled: The synthetic set, or the folder or name of its run; its 8-bit images are scored. ``None`` scores
            only the baselines.
        encoder: The frozen encoder; it may differ from the one that the set was made with.
        train: Real training images for the baselines; ``None`` leaves the baselines out.
        test: Real test images.
        config: Protocol; ``options`` override its fields, e.g. ``probes=["ridge", "sgd"]``.
        augment: How training views are drawn.
        images_per_class: Size of the baselines if ``distilled`` is ``None``.
        groups: Group name of each image of ``test``, for the accuracy of the worst group.
        source: The encoder of the set's head, for the probe ``"inherited"``. Without it, the projector is fitted on
            class prototypes. Not needed if it is ``encoder``.
        head: The head of the probe ``"inherited"`` if only baselines are scored; its rows are the classes of ``test``.
            Default: the set's.
        chosen_by: The encoder that chooses the real images of the baselines (neighbours, medoids …). Default:
            ``encoder``.
        out: JSON file to which each row is saved as soon as it is scored. Rows already in the file are not scored
            again if set, images, encoder and protocol are the same.
        features: Where features come from, instead of ``cache``, ``strict`` and ``progress``.
        cache: Folder for cached features.
        strict: Raise on unreadable real images.
        progress: Show progress bars, and how long it will take if that is over a minute.
        **options: Fields of ``config``.

    Raises:
        UserError: Unknown option, probe or baseline, classes of the set that the images lack, a set whose record of
            its augmentation is damaged, ``floats`` of a set that has none, or an inherited probe without a head or with
            the head of an encoder other than ``source``.
    """
    folder = run_folder(distilled) if isinstance(distilled, str | Path) else None
    if distilled is not None:
        distilled = as_set(folder or distilled)
    check_encoder(encoder)
    check_labelled(test, "test")
    if train is not None:
        check_labelled(train, "train")
    if folder is not None:
        warn_of_seen(folder, train, test)
    for argument, other in {"source": source, "chosen_by": chosen_by}.items():
        if other is not None:
            check_encoder(other, argument)
    check_config("config", config, EvaluateConfig)
    check_config("augment", augment, AugmentConfig)
    config = with_options(config or EvaluateConfig(), options, "evaluate")
    config.check()
    if out is not None:
        check_record_file(Path(out), KIND)
    check_probes(config.probes)
    if config.floats and distilled is not None and torch.equal(distilled.float_images, distilled.images):
        raise UserError(
            f"the set has no float images, only 8-bit ones, as after an export or import; leave out {option('floats')}"
        )
    check_number("images_per_class", images_per_class, least=1, whole=True)
    store = features or FeatureStore(cache, strict, progress)
    class_names = distilled.class_names if distilled is not None else test.class_names
    groups = _kept_groups(groups, test, class_names)
    test = of_classes(test, class_names)
    train = of_classes(train, class_names) if train is not None and config.baselines else None
    head = checked_head(distilled, head, source) if need_head(config.probes) else None
    if head is not None and head.fingerprint == encoder.fingerprint:
        source = encoder
    augment = augment or (distilled.run.config.augment if distilled is not None else AugmentConfig())
    augment.check()
    augment = augment.for_probes(transformer=encoder.is_transformer)
    if not len(test):
        raise UserError(f"no test images in {test.spec!r} ({test.split}); choose another {option('test_split')}")
    check_not_one_picture(train, test)

    chooser = chosen_by or encoder
    passes = store.passes_of(encoder, test) + (store.passes_of(chooser, train) if train is not None else 0)
    say_cost(encoder, passes, "; only once, then they are cached", enabled=store.progress)
    test_bank = store.of(encoder, test)
    if distilled is not None:
        images_per_class = int(torch.bincount(distilled.labels).max())
    config = config.for_images(images_per_class * len(class_names))
    sets = _synthetic(distilled, augment, config, store) if distilled is not None else []
    if train is not None:
        bank = store.of(chooser, train)
        baselines = Baselines(encoder, train, bank, images_per_class, store, augment, config)
        sets += baselines.sets(chooser, distilled)
    scorer = Scorer(
        encoder=encoder,
        test=test_bank,
        config=config,
        groups=[groups[i] for i in test_bank.indices.tolist()] if groups is not None else None,
        head=head,
        source=source,
    )
    context = _context(scorer, test, train, augment, distilled, chooser)
    return _scored(scorer, sets, context, Path(out) if out is not None else None, store, distilled)


def _context(
    scorer: Scorer,
    test: LabelledImages,
    train: LabelledImages | None,
    augment: AugmentConfig,
    distilled: DistilledSet | None,
    chooser: Encoder,
) -> Context:
    """The context of the rows: everything that their scores depend on."""
    encoder, config, count = scorer.encoder, scorer.config, len(scorer.test)
    context = Context(
        title=f"{encoder.name} at {encoder.input_size} px, tested on {counted(count, 'image')} of {test.spec} "
        f"({test.split}), {counted(config.seeds, 'seed')}",
        encoder=_scored_by(encoder),
        test=ScoredOn(test.spec, test.split, count, test.fingerprint),
        protocol=EvaluateConfig(**{f.name: getattr(config, f.name) for f in fields(EvaluateConfig)}),
        augment=augment,
        class_names=test.class_names,
        train=ImagesNote(train.spec, train.split, train.fingerprint) if train is not None else None,
        inherited=_inherited(scorer.head, scorer.source, encoder) if scorer.head is not None else None,
        chosen_by=_scored_by(chooser) if train is not None and chooser.fingerprint != encoder.fingerprint else None,
        version=__version__,
        groups=digest_of(*map(str, scorer.groups)) if scorer.groups is not None else None,
    )
    if distilled is None:
        return context
    return replace(
        context,
        images=_digest(distilled),
        soft_labels=distilled.run.soft_labels,
        set_name=row_name(distilled.run),
    )


def _scored(
    scorer: Scorer,
    sets: list[TrainingSet],
    context: Context,
    out: Path | None,
    store: FeatureStore,
    distilled: DistilledSet | None,
) -> Evaluation:
    """Score row by row; each row is saved before the next one begins."""
    before = _reusable_rows(out, context)
    trials = [(one, trial, before.get(_key(one, trial))) for one in sets for trial in scorer.trials(one)]
    to_do = [(one, trial) for one, trial, row in trials if row is None]
    say_cost(
        scorer.encoder,
        scorer.passes(to_do),
        f"; fewer {option('views')} or {option('seeds')} are faster",
        enabled=store.progress,
    )
    rows: list[Row] = []
    with ProgressBar("probes", sum(scorer.fits(*one) for one in to_do), enabled=store.progress) as bar:
        for training_set, trial, row in trials:
            if row is None:
                row = scorer.row(training_set, trial, tell=lambda note: bar.advance(note=note))
                if row.name != context.set_name:
                    row = row.without_confusion()
                if out is not None:
                    Evaluation((*rows, row), context).save(out, of=distilled)
            rows.append(row)
    if out is not None:
        show_on_card(out.parent)
    return Evaluation(tuple(rows), context)


_Key = tuple[str, str, int, bool, str]


def _key(training_set: TrainingSet, trial: Trial) -> _Key:
    return trial.name, trial.probe, len(training_set.labels(0)), trial.soft, PROBES.code_of(trial.solver)


def _reusable_rows(out: Path | None, context: Context) -> dict[_Key, Row]:
    """Rows in a file whose scores would be the same again."""
    if out is None or not out.exists():
        return {}
    try:
        before = load_evaluation(out)
    except UserError:
        return {}  # saving the first row warns of it, and replaces the file
    own, theirs = context, before.context
    if own.version != theirs.version:
        return {}
    same_set, same_head = own.images == theirs.images, own.inherited == theirs.inherited
    return {
        (*row.key, row.soft_labels, row.code): row
        for row in before.comparable_with(own)
        if (same_set or not row.name.startswith((own.set_name, "neighbours")))
        and (same_head or not row.head)
        and (own.groups is None or row.scores[0].groups is not None)
    }


def _kept_groups(groups: Sequence[str] | None, test: LabelledImages, class_names: Sequence[str]) -> list[str] | None:
    """The groups of the test images whose class is kept."""
    if groups is None:
        return None
    if len(groups) != len(test):
        raise UserError(f"groups has {counted(len(groups), 'name')} for {len(test)} test images; give one for each")
    kept = np.isin(test.labels, [label for label, name in enumerate(test.class_names) if name in class_names])
    return [groups[i] for i in np.flatnonzero(kept).tolist()]


def _synthetic(
    distilled: DistilledSet, augment: AugmentConfig, config: EvaluateConfig, store: FeatureStore
) -> list[TrainingSet]:
    """The 8-bit images, which are shipped, and on request the float images."""
    soft = None if config.hard_labels else distilled.soft_labels
    name = row_name(distilled.run)
    images = {name: distilled.images}
    if config.floats:
        images[f"{name}, float"] = distilled.float_images
    return [
        SyntheticImages(row, soft, images=one, labels_of_images=distilled.labels, augment=augment, store=store)
        for row, one in images.items()
    ]


def _scored_by(encoder: Encoder) -> ScoredBy:
    return ScoredBy(encoder.name, encoder.fingerprint, encoder.input_size, encoder.precision)


def _inherited(head: Head, source: Encoder | None, encoder: Encoder) -> InheritedBy:
    return InheritedBy(
        source=head.encoder,
        source_fingerprint=head.fingerprint,
        source_features=source is not None,
        projector_parameters=head.weight.shape[1] * (encoder.dim + 1),
        head_bytes=head.num_bytes,
        head=digest_of(*(part.numpy().tobytes() for part in (head.weight, head.bias))),
    )


def _digest(distilled: DistilledSet) -> str:
    """Digest of everything in a set that its rows depend on."""
    parts = [distilled.float_images, distilled.labels]
    if distilled.soft_labels is not None:
        parts.append(distilled.soft_labels)
    return digest_of(*(part.contiguous().numpy().tobytes() for part in parts))


def checked_head(distilled: DistilledSet | None, head: Head | None = None, source: Encoder | None = None) -> Head:
    """The head that the inherited probe takes: the one given, else the set's.

    Raises:
        UserError: There is none, or it is not of ``source``.
    """
    if distilled is None and head is None:
        raise UserError(
            "probes 'inherited' needs a distilled set with a head, which real images do not have; leave it out"
        )
    head = head or (distilled.head if distilled is not None else None)
    if head is None and distilled is not None and distilled.run.source is None:
        raise UserError(
            "probes 'inherited' needs the head of the source encoder, but this set does not say which encoder it was "
            f"made with; leave {option('probes', 'inherited')} out"
        )
    if head is None:
        raise UserError(
            "probes 'inherited' needs the head of the source encoder, which this set does not have; add it: "
            + by_caller(
                command="probedistill label RUN --config RUN/config.yaml --keep-head",
                python="probedistill.with_extras(distilled, encoder, bank, keep_head=True)",
            )
        )
    if source is not None and source.fingerprint != head.fingerprint:
        raise UserError(
            f"the set's head is of encoder {head.encoder!r} ({head.fingerprint[:12]}), not of the source "
            f"{source.name!r} at {source.input_size} px ({source.fingerprint[:12]}); give the encoder it was made with"
        )
    return head
