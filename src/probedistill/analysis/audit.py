"""Audit: what a distilled set reveals about the photos behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .._version import __version__
from ..config import DistillConfig
from ..distillation.objective import InnerLayers, inner_layers
from ..encoders.encoder import Encoder, check_encoder
from ..errors import UserError, option
from ..features.bank import FeatureBank
from ..features.encode import encode, load_again, prefetched
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages, check_labelled, of_classes
from ..images.sources import check_results_outside
from ..machine.progress import ProgressBar
from ..machine.torch_state import own_torch_state
from ..methods import check_number
from ..seeds import Stream, seed_of
from ..show.figures import Bars, Figure
from ..show.previews import save_grid
from ..show.tables import Table, number, percent
from ..store.distilled import DistilledSet, as_set
from ..store.layout import EVOLUTION, STATISTICS
from ..store.locks import PATIENCE, claimed
from ..store.named import run_folder
from ..store.records import Share
from ..store.run_record import BEGINNINGS, ImagesRecord
from ..text import counted
from .base import Analysis, EncoderAbout, MadeBy
from .copies import (
    Distances,
    Near,
    chance_of_suspects,
    feature_distances,
    nearest,
    pixel_distances,
    share_below,
    structure_distances,
)
from .copies import thumbnails as thumbnails_of
from .membership import Membership, Shadows, check_budget, membership
from .statistics import p_in_words

PAIRS = "audit-pairs.png"
RARE = 0.05
"""Share of photos that are as near to another photo as a suspect is to its nearest."""

_REFERENCE = 200  # photos whose own nearest photo is searched for
_PICTURED = 25  # synthetic images in the picture of pairs
_SMALL = 112  # side of an image in that picture, in pixels
_BATCH = 64

CANNOT = (
    "This does not show that no photo can be recovered: images can contain photos in ways that these distances and "
    "attacks do not detect. Only statistics with noise (stats --epsilon) come with a privacy promise."
)


# ---------------------------------------------------------------------------------------------------
# What is written


@dataclass(frozen=True)
class Match:
    """The nearest photo of a synthetic image by one measure.

    Attributes:
        photo: Its name.
        distance: Its distance.
        relative: The distance, divided by the mean distance of the next 50 nearest photos.
        share: Share of the photos whose nearest other photo is nearer.
        relative_share: Share of the photos whose nearest other photo stands out more from the next ones.
    """

    photo: str
    distance: float
    relative: float
    share: Share
    relative_share: Share


@dataclass(frozen=True)
class Audited:
    """A synthetic image: its class, and its nearest photo by each measure."""

    class_name: str
    matches: dict[str, Match]

    def suspects(self, measures: Sequence[str]) -> list[str]:
        """The measures by which one photo stands out as it does for less than 5% of the photos."""
        return [name for name in measures if self.matches[name].relative_share < RARE]


@dataclass(frozen=True)
class Measure:
    """A distance measure, and its distribution among photos.

    Attributes:
        says: Its name in words.
        visible: Whether it compares what people see; features of the run's encoder are similar by design.
        percentiles: 1, 5, 25, 50 and 75% of the distances of photos to their nearest other photo.
    """

    says: str
    visible: bool
    percentiles: tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Stored:
    """Something that a run's folder contains, and what it reveals about the photos."""

    what: str
    says: str


@dataclass(frozen=True)
class Audit(Analysis):
    """What measurements say a distilled set reveals about the photos behind it.

    Attributes:
        run: What made the set.
        encoder: The encoder of its features.
        images: The photos.
        begun_from: What the synthetic images were at step 0.
        measures: Name → measure.
        audited: Every synthetic image, in the order of the set.
        stored: What else the folder holds.
        same_photos: Whether these are exactly the photos that the set was made from.
        promise: The privacy promise of statistics with noise; ``None`` without one.
        membership: Results of shadow sets; ``None`` if there were none.
        version: Version of probedistill.
    """

    kind = "audit"
    of_one_run = True

    run: MadeBy
    encoder: EncoderAbout
    images: ImagesRecord
    begun_from: str
    measures: dict[str, Measure]
    audited: tuple[Audited, ...]
    stored: tuple[Stored, ...]
    same_photos: bool
    promise: str | None = None
    membership: Membership | None = None
    version: str = __version__

    def __post_init__(self) -> None:
        if not self.measures or any(set(one.matches) != set(self.measures) for one in self.audited):
            raise ValueError("images and measures do not fit together")

    @property
    def visible(self) -> list[str]:
        """Names of the measures that compare what people see."""
        return [name for name, measure in self.measures.items() if measure.visible]

    @property
    def suspects(self) -> list[Audited]:
        """Synthetic images that look like one photo in particular, by some visible measure."""
        return [one for one in self.audited if one.suspects(self.visible)]

    def by_suspicion(self) -> list[int]:
        """Numbers of the synthetic images, sorted by how much their nearest photo visibly stands out, most first."""
        least = [min(one.matches[name].relative_share for name in self.visible) for one in self.audited]
        return sorted(range(len(least)), key=least.__getitem__)

    @property
    def shown(self) -> list[int]:
        """Numbers of the images that tables and figures show: the 25 most suspect, in the order of the set."""
        return sorted(self.by_suspicion()[:_PICTURED])

    def tables(self) -> list[Table]:
        """Synthetic images with their nearest photos; shadow sets; what is stored."""
        found = [self._copies()]
        if self.membership is not None:
            found.append(self._members())
        rows = tuple((one.what, one.says) for one in self.stored)
        return [*found, Table("What is stored", ("what", "what it reveals about the photos"), rows, left=2)]

    def _copies(self) -> Table:
        columns = [f"{name}\n{what}" for name in self.measures for what in ("distance", "nearer %", "stands out %")]
        rows = []
        for i in self.shown:
            one, cells = self.audited[i], []
            for match in one.matches.values():
                cells += [number(match.distance), f"{100 * match.share:.0f}", f"{100 * match.relative_share:.0f}"]
            rows.append((one.class_name, *cells))
        medians: list[str] = []
        for measure in self.measures.values():
            medians += [number(measure.percentiles[3]), "50", "50"]
        caption = (
            "Distance to the nearest photo. Nearer: percentage of photos that are nearer to another photo. Stands out: "
            f"percentage of photos whose nearest photo stands out more; below {100 * RARE:.0f}, the image resembles "
            "one particular photo."
        )
        title = f"Synthetic images and the nearest of {self.images.count:,} photos"
        if len(self.shown) < len(self.audited):
            title += f": the {len(self.shown)} most suspect of {len(self.audited):,}"
        return Table(
            title, ("class", *columns), (*rows, ("median photo", *medians)), caption,
            sections=(len(rows),), dim=(len(rows),),
        )  # fmt: skip

    def _members(self) -> Table:
        assert self.membership is not None
        rows = tuple(
            (one.says, one.how, _spread(one.auc, one.auc_interval), _spread(one.tpr, one.tpr_interval))
            for one in self.membership.attacks
        )
        title = f"Membership: {self.membership.shadows} shadow sets of half the photos"
        caption = (
            "Percent with 95% intervals. Guessing has an AUC of 50 and finds "
            f"{percent(self.membership.guess)}% of the members."
        )
        return Table(
            title, ("score of a photo", "attack", "AUC", "found at 1%\nfalse positives"), rows, caption, left=2
        )

    def findings(self) -> list[str]:
        """Sentences about what stands out, and what cannot be concluded."""
        found = []
        if not self.same_photos:
            found.append("These are not exactly the photos that the set was made from; any others were not compared.")
        for name in self.visible:
            count = sum(name in one.suspects([name]) for one in self.audited)
            p = chance_of_suspects(count, len(self.audited), RARE, min(self.images.count, _REFERENCE))
            found.append(
                f"By {name}, {count} of {len(self.audited)} synthetic images resemble one particular photo; among "
                f"photos, {100 * RARE:.0f}% do ({p_in_words(p)})."
            )
        if self.begun_from in _EXPECT:
            found.append(
                f"The images began as {BEGINNINGS[self.begun_from]}: expect to see {_EXPECT[self.begun_from]}."
            )
        if self.membership is None:
            found.append("Membership was not measured; add --shadows 16 to measure it.")
        else:
            one, tried = self.membership.strongest, len(self.membership.attacks)
            found.append(
                f"The strongest attack ({one.says}, {one.how}) finds {percent(one.tpr)}% of the members at 1% false "
                f"positives (95% interval {_ends(one.tpr_interval)}; guessing: {percent(self.membership.guess)}), AUC "
                f"{percent(one.auc)} ({_ends(one.auc_interval)}). It is the strongest of {tried}, on sets of half "
                f"the photos and {counted(self.membership.steps, 'step')}, not on this set itself."
            )
        if self.promise is not None:
            found.append(f"The statistics behind the set are {self.promise}.")
        return [*found, CANNOT]

    def figures(self) -> list[Figure]:
        """How unusual each image's nearest photo is, and how well attacks find members."""
        shown = {i: self.audited[i] for i in self.shown}
        series = {
            name: np.array([100 * one.matches[name].relative_share for one in shown.values()]) for name in self.measures
        }
        summary = (
            f"{len(self.suspects)} of {len(self.audited)} synthetic images visibly resemble one particular photo (it "
            f"stands out more than the nearest photo of {100 * (1 - RARE):.0f}% of the photos). Short bars are "
            "suspect; long ones do not guarantee that nothing can be recovered."
        )
        if len(shown) < len(self.audited):
            summary += f" Only the {len(shown)} most suspect are shown."
        names = tuple(f"{i + 1} · {one.class_name}" for i, one in shown.items())
        axis = "% of photos whose nearest photo stands out more"
        bars = Bars(names, series, axis, limits=(0.0, 100.0), across=True)
        found = [Figure("Copies of photos", summary, bars, self._copies())]
        if self.membership is not None:
            attacks = self.membership.attacks
            found_by = [*(one.tpr for one in attacks), self.membership.guess]
            rates = {"found at 1% false positives": 100 * np.array(found_by)}
            labels = (*(f"{one.score}, {one.how}" for one in attacks), "guessing")
            says = (
                f"Members found at 1% false positives by attacks on {self.membership.shadows} shadow sets. Another "
                "attack may find more."
            )
            drawn = Bars(labels, rates, "% of the members", digits=1, across=True)
            found.append(Figure("Membership", says, drawn, self._members()))
        return found


def _spread(value: float, interval: tuple[float, float]) -> str:
    return f"{percent(value)} ({_ends(interval)})"


def _ends(interval: tuple[float, float]) -> str:
    return " to ".join(percent(end) for end in interval)


# ---------------------------------------------------------------------------------------------------
# How it is found


@own_torch_state()
def audit(
    distilled: DistilledSet | Path | str,
    encoder: Encoder,
    train: LabelledImages,
    *,
    others: Sequence[Encoder] = (),
    shadows: int = 0,
    minutes: float | None = None,
    shadow_steps: int | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    out: Path | str | None = None,
    features: FeatureStore | None = None,
    cache: Path | str | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Audit:
    """Measure what a distilled set reveals about the photos behind it.

    Copies: for every synthetic image the nearest photo in pixels (correlation of grey values after registration), in
    structure (SSIM) and in features, compared with the same distances among photos. Membership: shadow sets with and
    without a photo, and the likelihood-ratio attack LiRA (arXiv 2112.03570). Also lists what is stored besides the
    images.

    Args:
        distilled: The synthetic set, or the folder or name of its run.
        encoder: An encoder that it was made with; membership takes the first.
        train: The photos that it was made from.
        others: Further encoders whose features to compare. In the features of the set's own encoder, the images are
            similar to photos by design.
        shadows: Number of shadow sets, even and at least 6; 0 for none.
        minutes: Start no more shadow sets after this many minutes. Without ``shadows``: as many as fit in.
        shadow_steps: Steps of a shadow set. Default: those of the run.
        seed: Seed of the halves, and of the photos that are compared with each other.
        folder: Folder of the set, to list what else it contains.
        out: Folder for audit.json, audit.png, the picture of pairs and the shadow sets' scores. Default: none.
        features: Where features come from; default: a store of ``cache``, ``strict`` and ``progress``.
        cache: Folder of feature banks.
        strict: Raise on unreadable photos.
        progress: Show progress bars.

    Raises:
        UserError: Photos that lack a class of the run, fewer than four photos, a budget out of range, or shadow sets
            for a set that was not made from photos with this one encoder.
    """
    distilled = as_set(distilled)
    check_encoder(encoder)
    check_labelled(train, "train")
    if out is not None:
        check_results_outside(Path(out), train)
    store = features or FeatureStore(cache=cache, strict=strict, progress=progress)
    budget = check_budget(shadows, minutes)
    if shadow_steps is not None and not budget:
        raise UserError(
            f"shadow_steps {shadow_steps} is for shadow sets, but none are made; add {option('shadows')}, or "
            "leave it out"
        )
    train = of_classes(train, distilled.class_names, "the set")
    config = _shadow_config(distilled, encoder, shadow_steps) if budget else None
    inner: Sequence[InnerLayers | None] = []
    if config is None:
        bank = store.of(encoder, train)
    else:
        of_run = partial(store.of, images=train, views=config.real_view_count, augment=config.augment, seed=config.seed)
        inner = inner_layers(config, [encoder], of_run)
        bank = of_run(encoder)
    if len(bank) < 4:
        raise UserError(f"{train.spec!r} has {len(bank)} readable photos; an audit needs at least 4")
    photos = _photo_thumbnails(encoder, train, bank.indices, store.progress)
    synthetic = thumbnails_of(distilled.images)
    spaces = {
        "pixels": _Space("grey values after registration", True, pixel_distances, synthetic, photos),
        "structure": _Space("SSIM", True, structure_distances, synthetic, photos),
        "features": _feature_space(distilled, encoder, bank),
    }
    for one in others:
        spaces[f"features {one.name}@{one.input_size}"] = _feature_space(distilled, one, store.of(one, train))
    names = [train.names[i] for i in bank.indices.tolist()]
    measures, matches, found = _compare(spaces, names, seed, store.progress)
    members = None
    target = Path(out) if out is not None else None
    if config is not None:
        made = Shadows(config, encoder, train, bank, photos, seed, inner)
        members = membership(made, budget, minutes=minutes, folder=target, progress=store.progress)
    result = Audit(
        run=MadeBy.of(distilled.run),
        encoder=EncoderAbout.of(encoder),
        images=ImagesRecord.of(train, len(bank)),
        begun_from=distilled.run.begun_from,
        measures=measures,
        audited=tuple(
            Audited(distilled.class_names[label], {name: matches[name][i] for name in measures})
            for i, label in enumerate(distilled.labels.tolist())
        ),
        stored=_stored(distilled, run_folder(folder) if folder is not None else None),
        same_photos=distilled.run.images.fingerprint == train.fingerprint,
        promise=str(distilled.run.privacy) if distilled.run.privacy is not None else None,
        membership=members,
    )
    if target is not None:
        rows = {name: bank.indices[near.photo] for name, near in found.items()}
        _save(result, target, distilled, encoder, train, rows)
    return result


@dataclass(frozen=True)
class _Space:
    """A measure of likeness (see `Measure`), with the synthetic images and the photos in the form it needs."""

    says: str
    visible: bool
    distances: Distances
    synthetic: Tensor
    photos: Tensor


def _feature_space(distilled: DistilledSet, encoder: Encoder, bank: FeatureBank) -> _Space:
    """Features minus the photos' mean. With an encoder that made the set, they are similar by design."""
    mean = bank.centre.mean(dim=0)
    says = f"features of {encoder.name} at {encoder.input_size} px"
    visible = not distilled.run.made_with(encoder.fingerprint)
    return _Space(says, visible, feature_distances, encode(encoder, distilled.images) - mean, bank.centre - mean)


def _shadow_config(distilled: DistilledSet, encoder: Encoder, steps: int | None) -> DistillConfig:
    """The settings of shadow sets: those of the run.

    Raises:
        UserError: The set was not made from photos with only this encoder.
    """
    run, fix = distilled.run, "leave the shadow sets out"
    if not run.optimised or run.statistics:
        raise UserError(f"shadow sets repeat a distillation from photos, but this set was made differently; {fix}")
    if run.parts:
        names = ", ".join(repr(part.name) for part in run.parts)
        raise UserError(
            f"shadow sets repeat one distillation, but this set was merged from several ({names}); audit each of them, "
            f"or {fix}"
        )
    if len(run.encoders) > 1:
        raise UserError(f"shadow sets are for sets of one encoder, but this one has {len(run.encoders)}; {fix}")
    if not run.made_with(encoder.fingerprint):
        raise UserError(f"shadow sets need the encoder of the set, {run.encoders[0]}, not {encoder.name!r}")
    if steps is not None:
        check_number("shadow_steps", steps, least=1, whole=True)
    return replace(run.config, steps=steps or run.config.steps, also=[], encoder_weights=[]).resolve()


def _photo_thumbnails(encoder: Encoder, train: LabelledImages, indices: Tensor, progress: bool) -> Tensor:
    """Thumbnails (N, 32, 32) of the same centre crops as the features."""

    def load(index: int) -> Tensor:
        return encoder.centre_view(load_again(train, index), 64)

    found = []
    with ProgressBar("photos", len(indices), enabled=progress) as bar:
        for loaded in prefetched(load, indices.tolist(), _BATCH):
            found.append(thumbnails_of(torch.stack(loaded)))
            bar.advance(len(loaded))
    return torch.cat(found)


def _compare(
    spaces: dict[str, _Space], names: Sequence[str], seed: int, progress: bool
) -> tuple[dict[str, Measure], dict[str, list[Match]], dict[str, Near]]:
    """Find the nearest photos of every synthetic image and of some photos, by every measure."""
    generator = torch.Generator().manual_seed(seed_of(seed, Stream.AUDITED_PHOTOS))
    some = torch.randperm(len(names), generator=generator)[:_REFERENCE]
    measures, matches, found = {}, {}, {}
    total = sum(len(space.synthetic) + len(some) for space in spaces.values())
    with ProgressBar("nearest photos", total, enabled=progress) as bar:
        for name, space in spaces.items():
            photos = space.photos
            among = nearest(space.distances, photos[some], photos, own=some, advance=bar.advance)
            near = found[name] = nearest(space.distances, space.synthetic, photos, advance=bar.advance)
            levels = torch.tensor([0.01, 0.05, 0.25, 0.5, 0.75], dtype=torch.float64)
            one, two, three, four, five = among.distance.quantile(levels).tolist()
            measures[name] = Measure(space.says, space.visible, (one, two, three, four, five))
            share = share_below(near.distance, among.distance)
            stands_out = share_below(near.relative, among.relative)
            columns = (near.photo, near.distance, near.relative, share, stands_out)
            matches[name] = [
                Match(names[row], *rest) for row, *rest in zip(*(c.tolist() for c in columns), strict=True)
            ]
    return measures, matches, found


_EXPECT = {
    "real": "these photos in them",
    "average": "what the photos of a class have in common",
    "blend": "what the photos of a class have in common, and often one of the blended photos as the nearest one",
}


def _stored(distilled: DistilledSet, folder: Path | None) -> tuple[Stored, ...]:
    """What the set's folder contains, and what that reveals about the photos."""
    run = distilled.run
    known = BEGINNINGS.get(run.begun_from)
    began = f"they began as {known}" if known else "start unknown"
    found = [Stored(f"{len(distilled)} images", f"optimised to carry what the photos show of their classes; {began}")]
    if distilled.soft_labels is not None:
        found.append(Stored("soft labels", "how similar classes are, according to a head trained on the photos"))
    if distilled.head is not None:
        shape = " × ".join(map(str, distilled.head.weight.shape))
        found.append(Stored(f"head, {shape}", "trained on the features of every photo, without noise"))
    for one in run.statistics:
        says = str(one.privacy) if one.privacy else "exact sums of features; those of a small class reveal its photos"
        found.append(Stored(f"made from statistics of {one.encoder.name}", says))
    if folder is not None:
        if any(folder.glob(STATISTICS)):
            says = "exact sums" if run.privacy is None else "sums with noise"
            found.append(Stored("statistics of the features", f"{says} for each class"))
        if (folder / EVOLUTION).is_dir() and run.began_as_photos:
            found.append(
                Stored("evolution/", "its first picture shows the photos, or means of photos, that the images began as")
            )
    if run.statistics:
        noisy = "noisy number" if run.privacy is not None else "number"
        says = f"names of the parts, {noisy} of the photos ({run.images.count:,}) and a digest of the statistics"
    else:
        says = f"location, number ({run.images.count:,}) and a digest of the photos; names of unreadable ones"
    return (*found, Stored("run.json", says))


def _save(
    result: Audit, out: Path, distilled: DistilledSet, encoder: Encoder, train: LabelledImages, rows: dict[str, Tensor]
) -> None:
    """Write the record, its picture, and the picture of pairs, the most suspect images first."""
    images, titles = [], []
    for i in result.by_suspicion()[:_PICTURED]:
        images.append(_shrunk(distilled.images[i]))
        titles.append(f"synthetic: {result.audited[i].class_name}")
        for name, photo in rows.items():
            match = result.audited[i].matches[name]
            images.append(encoder.centre_view(train.load(int(photo[i])), _SMALL))
            share = f"{100 * match.relative_share:.0f}% of photos stand out more"
            titles.append(f"{name} {number(match.distance)}: {share}")
    with claimed(out, called="folder", wait=PATIENCE):
        result.write(out)
        result.draw(out)
        save_grid(out / PAIRS, torch.stack(images), titles, columns=1 + len(rows), limit=len(images))


def _shrunk(image: Tensor) -> Tensor:
    small: Tensor = F.interpolate(image[None], size=(_SMALL, _SMALL), mode="bilinear", antialias=True)
    return small[0].clamp(0, 1)
