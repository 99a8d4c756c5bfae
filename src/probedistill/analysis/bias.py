"""Does a model look at the background? Accuracy per group, and what distilled images resemble in feature space.

Data with known groups have a class and a background for each image. The training images tie them together, the test
images do not. A probe that leans on the background then fails on the groups that are rare in training.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._version import __version__
from ..config import SOLVERS, EncoderConfig, EvaluateConfig, ImagesConfig
from ..encoders.encoder import Encoder
from ..encoders.named import own_encoder
from ..encoders.pool import EncoderPool
from ..errors import UserError, unknown_name
from ..evaluation.protocol import evaluate
from ..evaluation.result import Row
from ..features.classes import class_means, medoids
from ..features.extract import extract_features
from ..images.labelled import LabelledImages, of_classes
from ..images.splits import load_splits
from ..store.distilled import DistilledSet
from ..store.files import check_writable, whole_file, write_json
from ..store.layout import check_named_once
from .groups import group_names, read_groups
from .statistics import rank_agreement

if TYPE_CHECKING:
    from rich.table import Table


_BATCH = 64
_ROUNDING = 1e-9  # a cosine no farther from 0 is 0: else rounding errors would make a share of 0 or 1
_GROUP_COLUMNS = 6
_TRAINED_ON = {"distilled": "distilled", "full": "full real data", "random": "random real"}  # key → row of `evaluate`


# ---------------------------------------------------------------------------------------------------
# Numbers from feature arrays


@dataclass(frozen=True)
class Directions:
    """What backgrounds and objects do to the features of real images.

    With μ(c, b) the mean feature of class c on background b, u(c) the usual background of class c, and every mean
    below one over the means μ (so that rare groups count as much as common ones):

    * background direction of c: mean over classes k of [μ(k, u(c)) − mean over b ≠ u(c) of μ(k, b)]
    * object direction of c: mean over backgrounds b of [μ(c, b) − mean over k ≠ c of μ(k, b)]

    For two classes on two backgrounds these are ± (nature − built) and ± (bird − mammal).

    Attributes:
        mean: (d,) float64, mean of all μ.
        background: (C, d) float64, towards the usual background of each class.
        object: (C, d) float64, towards each class.
        usual: (C,) int64, the usual background of each class.
    """

    mean: Tensor
    background: Tensor
    object: Tensor
    usual: Tensor

    @property
    def overlap(self) -> float:
        """Mean over classes of the cosine between the two directions: 0 when they can be told apart entirely."""
        return float(F.cosine_similarity(self.background, self.object).mean())


@dataclass(frozen=True)
class Resemblance:
    """How far images of each class resemble their usual background and their object; cosines, in [-1, 1].

    Attributes:
        background: (C,) cosine of (image − mean) with the background direction: > 0 leans on the usual background.
        object: (C,) cosine of (image − mean) with the object direction.
    """

    background: tuple[float, ...]
    object: tuple[float, ...]

    @property
    def share(self) -> tuple[float | None, ...]:
        """(C,) background / (background + object), in [0, 1], where a cosine below 0 counts as 0.

        ``None`` where neither is above 0: such images resemble neither. An image of the wrong object has no object
        in it to speak of, so its share is 1 (or ``None``), and the cosine says why.
        """
        return tuple(_share(*pair) for pair in zip(self.background, self.object, strict=True))

    def to_dict(self) -> dict[str, float | None]:
        """Means over classes of the cosines, and the share of these means (see `share`)."""
        background, thing = statistics.fmean(self.background), statistics.fmean(self.object)
        return {
            "background_similarity": background,
            "object_similarity": thing,
            "background_share": _share(background, thing),
        }


def _share(background: float, thing: float) -> float | None:
    background, thing = (value if value > _ROUNDING else 0.0 for value in (background, thing))
    return background / (background + thing) if background or thing else None


def usual_backgrounds(labels: Tensor, backgrounds: Tensor, num_classes: int, num_backgrounds: int) -> Tensor:
    """(C,) int64: the background whose share among a class's images exceeds its share among all images the most.

    Args:
        labels: (n,) int64 classes.
        backgrounds: (n,) int64 backgrounds.
        num_classes, num_backgrounds: C and B.
    """
    counts = _group_counts(labels, backgrounds, num_classes, num_backgrounds)
    # share − share times (images of the class) · (all images): whole numbers, so that ties are ties
    return (counts * counts.sum() - counts.sum(1, keepdim=True) * counts.sum(0)).argmax(1)


def group_directions(
    features: Tensor, labels: Tensor, backgrounds: Tensor, num_classes: int, num_backgrounds: int
) -> Directions | None:
    """The directions of real images with known groups; ``None`` when a group (class × background) has no image.

    Args:
        features: (n, d) float.
        labels, backgrounds: (n,) int64.
        num_classes, num_backgrounds: C ≥ 2 and B ≥ 2.
    """
    if int(_group_counts(labels, backgrounds, num_classes, num_backgrounds).min()) == 0:
        return None
    groups = labels * num_backgrounds + backgrounds
    means = class_means(features.double(), groups, num_classes * num_backgrounds)
    means = means.view(num_classes, num_backgrounds, -1)
    usual = usual_backgrounds(labels, backgrounds, num_classes, num_backgrounds)
    by_background, by_class = means.mean(0), means.mean(1)
    return Directions(
        mean=means.mean((0, 1)),
        background=_against_the_others(by_background)[usual],
        object=_against_the_others(by_class),
        usual=usual,
    )


def resemblance(directions: Directions, features: Tensor, labels: Tensor) -> Resemblance:
    """Cosines of images with the directions of their class, averaged over the images of a class.

    Args:
        directions: Of the same encoder's real features.
        features: (m, d) float, at least one image of each class.
        labels: (m,) int64.
    """
    centred = features.double() - directions.mean
    towards = [
        class_means(F.cosine_similarity(centred, of[labels])[:, None], labels, len(of)).flatten().tolist()
        for of in (directions.background, directions.object)
    ]
    return Resemblance(tuple(towards[0]), tuple(towards[1]))


def _group_counts(labels: Tensor, backgrounds: Tensor, num_classes: int, num_backgrounds: int) -> Tensor:
    groups = labels * num_backgrounds + backgrounds
    return torch.bincount(groups, minlength=num_classes * num_backgrounds).view(num_classes, num_backgrounds)


def _against_the_others(means: Tensor) -> Tensor:
    """Each row (k, d) less the mean of the other rows."""
    return (means - means.mean(0)) * len(means) / (len(means) - 1)


# ---------------------------------------------------------------------------------------------------
# A distilled set and an encoder


@dataclass(frozen=True)
class BiasEntry:
    """What was found for one distilled set and one encoder.

    Attributes:
        run: Name of the set's folder.
        class_names: C names.
        encoder: Its name, fingerprint and input size.
        accuracy: ``"distilled"``, ``"full"`` and ``"random"`` → top1, groups, worst_group, gap (mean − worst group),
            spread (best − worst group) and background_effect (accuracy on a class's usual background − on the
            others, mean of classes), each the mean over seeds of what one probe does. A probe that prefers one class
            has a bad worst group without any shortcut; the background effect is about the shortcut alone (but 0
            for a probe that answers one class for everything: look at top1 as well).
        resemblance: Of the synthetic images; ``None`` when a group has no training image.
        baseline: The same of ``"class_means"`` (of the real training features) and ``"medoids"``.
        overlap: See `Directions`.
    """

    run: str
    class_names: tuple[str, ...]
    encoder: dict[str, Any]
    accuracy: dict[str, dict[str, Any]]
    resemblance: Resemblance | None
    baseline: dict[str, Resemblance]
    overlap: float | None


def bias_of(
    distilled: DistilledSet,
    encoder: Encoder,
    train: LabelledImages,
    test: LabelledImages,
    backgrounds: Sequence[Sequence[str]],
    *,
    name: str = "distilled",
    probe: str = "ridge",
    seeds: int = 3,
    views: int = 20,
    cache: Path | str | None = None,
    strict: bool = False,
    progress: bool = True,
) -> BiasEntry:
    """Score a distilled set by group, and compare its images with backgrounds and objects in feature space.

    The real-data probe is fitted on the centre crops of all training images, the others on ``views`` augmented views.

    Args:
        distilled: The set; its 8-bit images are looked at.
        encoder: The frozen encoder.
        train, test: Real images of the set's classes.
        backgrounds: The background of each training image, and of each test image.
        name: What the entry is called.
        probe, seeds, views: See `EvaluateConfig`.
        cache: Folder of feature banks.
        strict: Raise on unreadable real images.
        progress: Show progress bars.

    Raises:
        UserError: Bad input.
    """
    train, test = train.with_classes(distilled.class_names), test.with_classes(distilled.class_names)
    config = EvaluateConfig(probes=[probe], seeds=seeds, views=views, full_views=0, baselines=["random", "full"])
    groups = group_names(test, backgrounds[1])
    scores = evaluate(
        distilled, encoder, train, test, config, groups=groups, cache=cache, strict=strict, progress=progress
    )
    bank = extract_features(encoder, train, cache=cache, strict=strict, progress=progress)
    names = sorted(set(backgrounds[0]) | set(backgrounds[1]))
    place = {background: i for i, background in enumerate(names)}
    scenes = torch.tensor([place[backgrounds[0][i]] for i in bank.indices.tolist()])
    usual = {
        name: names[u]
        for name, u in zip(
            bank.class_names, usual_backgrounds(bank.labels, scenes, bank.num_classes, len(names)).tolist(), strict=True
        )
    }
    directions = group_directions(bank.centre, bank.labels, scenes, bank.num_classes, len(names))
    own, baseline = None, {}
    if directions is not None:
        with torch.no_grad():
            parts = distilled.images.split(_BATCH)
            synthetic = torch.cat([encoder(part.to(encoder.device)).cpu() for part in parts])
        own = resemblance(directions, synthetic, distilled.labels)
        rows = medoids(bank, 1)
        means = class_means(bank.centre, bank.labels, bank.num_classes)
        baseline["class_means"] = resemblance(directions, means, torch.arange(bank.num_classes))
        baseline["medoids"] = resemblance(directions, bank.centre[rows], bank.labels[rows])
    about = {"name": encoder.name, "fingerprint": encoder.fingerprint, "input_size": encoder.input_size}
    accuracy = {key: _group_scores(scores[row, probe], usual, names) for key, row in _TRAINED_ON.items()}
    return BiasEntry(
        name, distilled.class_names, about, accuracy, own, baseline, directions.overlap if directions else None
    )


def _group_scores(row: Row, usual: dict[str, str], backgrounds: Sequence[str]) -> dict[str, Any]:
    """Scores by group of a row of `evaluate`; ``usual`` names each class's usual background."""
    per_seed = [s.groups or {} for s in row.scores]
    groups = {name: statistics.fmean(one[name] for one in per_seed) for name in per_seed[0]}
    effects = []
    for name, background in usual.items():
        own = f"{name}/{background}"
        others = [groups[group] for b in backgrounds if (group := f"{name}/{b}") in groups and b != background]
        if own in groups and others:
            effects.append(groups[own] - statistics.fmean(others))
    return {
        "top1": row.top1,
        "groups": groups,
        "worst_group": statistics.fmean(min(one.values()) for one in per_seed),
        "gap": statistics.fmean(statistics.fmean(one.values()) - min(one.values()) for one in per_seed),
        "spread": statistics.fmean(max(one.values()) - min(one.values()) for one in per_seed),
        "background_effect": statistics.fmean(effects) if effects else None,
    }


# ---------------------------------------------------------------------------------------------------
# Several sets and encoders


@dataclass(frozen=True)
class BiasReport:
    """The entries, ranked, and whether distilled images rank encoders as real data do.

    Attributes:
        entries: One per (run, encoder).
        class_names: C names.
        usual: Usual background of each class in training, and its share there.
        context: Images, protocol, versions.
    """

    entries: tuple[BiasEntry, ...]
    class_names: tuple[str, ...]
    usual: tuple[dict[str, Any], ...]
    context: dict[str, Any]

    @property
    def groups(self) -> list[str]:
        """Names of the groups among the test images."""
        return list(self.entries[0].accuracy["distilled"]["groups"])

    @property
    def ranking(self) -> dict[str, list[int]]:
        """Places of the entries, best first: by worst group of the distilled images, and by background share.

        A share that is not defined comes last. Entries without a resemblance have no place by share.
        """
        places = range(len(self.entries))
        shares = [math.inf if (share := _share_of(entry)) is None else share for entry in self.entries]
        looked_at = [i for i in places if self.entries[i].resemblance is not None]
        return {
            "worst_group": sorted(places, key=lambda i: -self.entries[i].accuracy["distilled"]["worst_group"]),
            "background_share": sorted(looked_at, key=lambda i: shares[i]),
        }

    @property
    def agreement(self) -> dict[str, dict[str, float] | None] | None:
        """Rank agreement over encoders with the worst group of the probe on full real data.

        ``worst_group``: of the worst group of the distilled images. ``background_share``: of the background share
        of the distilled images, less being better; shares that are not defined are left out, and ``n`` counts the
        encoders that remain. Positive means agreement. Several runs of an encoder are averaged. ``None`` for fewer
        than 3 encoders.
        """
        by_encoder: dict[str, list[BiasEntry]] = {}
        for entry in self.entries:
            by_encoder.setdefault(entry.encoder["fingerprint"], []).append(entry)
        if len(by_encoder) < 3:
            return None

        worst, lean = [], []  # each with the full data's worst group
        for some in by_encoder.values():
            full, own = (
                statistics.fmean(entry.accuracy[key]["worst_group"] for entry in some) for key in ("full", "distilled")
            )
            worst.append((own, full))
            shares = [share for entry in some if (share := _share_of(entry)) is not None]
            if shares:
                lean.append((-statistics.fmean(shares), full))

        def of(pairs: list[tuple[float, float]]) -> dict[str, float] | None:
            return rank_agreement([first for first, _ in pairs], [second for _, second in pairs])

        return {"worst_group": of(worst), "background_share": of(lean)}

    def tables(self, width: int | None = None) -> list[Table]:
        """Accuracy by group, and what the images resemble, as rich tables; entries by distilled worst group.

        Args:
            width: Columns of characters that there are; default: what rich finds. Where the groups do not fit beside
                each other, each entry has a table with a row for each number.
        """
        from rich import get_console

        width = get_console().width if width is None else width
        entries = [self.entries[i] for i in self.ranking["worst_group"]]
        groups = self.groups if len(self.groups) <= _GROUP_COLUMNS else []  # more are in bias.json alone
        accuracy = _wide_table(entries, groups, width) or [_narrow_table(entry, groups, width) for entry in entries]
        looked_at = [entry for entry in entries if entry.resemblance is not None]
        return [*accuracy, _likeness_table(looked_at)] if looked_at else accuracy

    def summary(self) -> list[str]:
        """What the tables do not say, a line each."""
        lines = [
            f"in training {100 * one['share']:.0f} % of {one['class']!r} are on {one['background']!r}"
            for one in self.usual
        ]
        by_share = self.ranking["background_share"]
        if len(by_share) > 1:
            names = [
                f"{_entry_name(entry)}{' (no share)' if _share_of(entry) is None else ''}"
                for entry in (self.entries[i] for i in by_share)
            ]
            lines.append("least background first: " + ", ".join(names))
        for entry in self.entries:
            cosines = zip(entry.class_names, entry.resemblance.object, strict=True) if entry.resemblance else ()
            wrong = [f"{name!r} ({cosine:+.2f})" for name, cosine in cosines if cosine < -_ROUNDING]
            if wrong:
                lines.append(
                    f"{_entry_name(entry)}: object cosine below 0 for {_listed(wrong)}: the distilled images look like "
                    "another class's object, and the background share counts that as no object at all"
                )
        agreement = self.agreement
        if agreement is None:
            if len(self.entries) > 1:
                lines.append("agreement with the ranking by real data: needs at least 3 encoders")
            return lines
        for name, found in agreement.items():
            words = "not defined"
            if found:
                words = f"Spearman {found['spearman']:+.2f}, p = {found['p']:.3f} over {found['n']} encoders"
            lines.append(f"agreement of the ranking by {name.replace('_', ' ')} with real data's worst group: {words}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "kind": "bias",
            **self.context,
            "class_names": list(self.class_names),
            "groups": self.groups,
            "usual_backgrounds": list(self.usual),
            "entries": [self._entry(entry) for entry in self.entries],
            "ranking": self.ranking,
            "agreement": self.agreement,
        }

    def _entry(self, entry: BiasEntry) -> dict[str, Any]:
        own = entry.resemblance
        nothing = dict.fromkeys(("background_similarity", "object_similarity", "background_share"))
        return {
            "run": entry.run,
            "encoder": entry.encoder,
            **entry.accuracy,
            **(own.to_dict() if own else nothing),
            "per_class": _per_class(entry.class_names, own) if own else [],
            "direction_overlap": entry.overlap,
            "baseline": {
                kind: {**one.to_dict(), "per_class": _per_class(entry.class_names, one)}
                for kind, one in entry.baseline.items()
            },
        }

    def save(self, folder: Path | str) -> None:
        """Write ``bias.json`` and ``bias.png`` into a folder."""
        write_json(Path(folder) / "bias.json", self.to_dict())
        draw_bias(self, Path(folder) / "bias.png")


def _pairs(pool: EncoderPool, own: Sequence[EncoderConfig], runs: int) -> Iterator[tuple[Encoder, int]]:
    """Every encoder with the numbers of the runs that are looked at with it: each run's own, or all with all."""
    if own:
        return ((pool.add(config), number) for number, config in enumerate(own))
    return ((encoder, number) for encoder in pool for number in range(runs))


def _per_class(class_names: Sequence[str], one: Resemblance) -> list[dict[str, Any]]:
    columns = zip(class_names, one.background, one.object, one.share, strict=True)
    names = ("name", "background_similarity", "object_similarity", "background_share")
    return [dict(zip(names, values, strict=True)) for values in columns]


def bias(
    runs: Sequence[Path | str],
    images: str | ImagesConfig,
    groups: Path | str,
    *,
    encoders: Sequence[str | EncoderConfig] | None = None,
    attributes: Sequence[str] = ("background",),
    probe: str = "ridge",
    seeds: int = 3,
    views: int = 20,
    out: Path | str | None = None,
    cache: Path | str | None = None,
    progress: bool = True,
) -> BiasReport:
    """Diagnose finished runs on data with known groups, one encoder in memory at a time.

    Args:
        runs: Folders of finished runs, all of the same classes.
        images: The real images, training and test.
        groups: CSV file with the background of every training and test image, see `read_groups`.
        encoders: Encoders that each run is looked at with; default: each run's own, by its ``config.yaml``.
        attributes: Columns of the file that make up the background.
        probe, seeds, views: See `EvaluateConfig`.
        out: Folder for ``bias.json`` and ``bias.png``.
        cache: Folder of feature banks.
        progress: Show progress bars.

    Raises:
        UserError: Bad input; nothing has been written.
    """
    if probe not in SOLVERS:  # not the inherited one: full data have no projector
        raise unknown_name("probe", probe, SOLVERS)
    EvaluateConfig(probes=[probe], seeds=seeds, views=views).check()
    if not runs:
        raise UserError("runs is empty; give the folder of at least one finished run")
    folders = [Path(run) for run in runs]
    check_named_once(folders)
    sets = [DistilledSet.load(folder) for folder in folders]
    class_names = sets[0].class_names
    for folder, distilled in zip(folders, sets, strict=True):
        if set(distilled.class_names) != set(class_names):
            raise UserError(
                f"runs {str(folders[0])!r} and {str(folder)!r} are of different classes "
                f"({_listed(class_names)} and {_listed(distilled.class_names)}); compare runs of the same classes"
            )
    if out is not None:
        check_writable(Path(out))
    own = [own_encoder(folder, mend="--encoders") for folder in folders] if encoders is None else []
    read = read_groups(groups, attributes)
    train, test = (of_classes(part, class_names, f"run {str(folders[0])!r}") for part in load_splits(images))
    backgrounds = read.match(train, test)
    names = sorted({name for part in backgrounds for name in part})
    if len(names) < 2:
        raise UserError(f"groups {str(groups)!r} has one background, {names[0]!r}; at least 2 are needed")

    options: dict[str, Any] = {"probe": probe, "seeds": seeds, "views": views, "cache": cache, "progress": progress}
    options["strict"] = isinstance(images, ImagesConfig) and images.strict
    entries = []
    pool = EncoderPool(own[:1] or encoders or [])
    for encoder, i in _pairs(pool, own, len(folders)):
        if own and not _is_own(sets[i], encoder):
            raise UserError(
                f"run {str(folders[i])!r} was not made with the encoder that its config.yaml describes; "
                "name one with --encoders"
            )
        name = folders[i].resolve().name
        entries.append(bias_of(sets[i], encoder, train, test, backgrounds, name=name, **options))
    report = BiasReport(
        tuple(entries),
        class_names,
        _usual(train, backgrounds[0]),
        {
            "images": {"spec": test.spec, "split": test.split, "fingerprint": test.fingerprint},
            "protocol": {"probe": probe, "seeds": seeds, "views": views, "attributes": list(attributes)},
            "probedistill": __version__,
        },
    )
    if any(entry.resemblance is None for entry in entries):
        print(
            "warning: a class has no training image on one of the backgrounds: object and background cannot be told "
            "apart in feature space, and accuracies alone are given",
            file=sys.stderr,
        )
    if out is not None:
        report.save(out)
    return report


def _usual(train: LabelledImages, backgrounds: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """The usual background of each class in training and its share of the class's images."""
    names = sorted(set(backgrounds))
    labels = torch.as_tensor(train.labels)
    scenes = torch.tensor([names.index(background) for background in backgrounds])
    usual = usual_backgrounds(labels, scenes, len(train.class_names), len(names))
    return tuple(
        {"class": name, "background": names[u], "share": float((scenes[labels == c] == u).double().mean())}
        for c, (name, u) in enumerate(zip(train.class_names, usual.tolist(), strict=True))
    )


def _share_of(entry: BiasEntry) -> float | None:
    """Background share of the distilled images; ``None`` where it is not defined or was not looked at."""
    return entry.resemblance.to_dict()["background_share"] if entry.resemblance else None


def _is_own(distilled: DistilledSet, encoder: Encoder) -> bool:
    source = distilled.run.source
    return source is not None and source.fingerprint == encoder.fingerprint


def _encoder_name(entry: BiasEntry) -> str:
    return f"{entry.encoder['name']}@{entry.encoder['input_size']}"


def _entry_name(entry: BiasEntry) -> str:
    return f"{entry.run} ({_encoder_name(entry)})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" … {len(names)} in all" if len(names) > 3 else "")


# ---------------------------------------------------------------------------------------------------
# Tables

_NUMBERS = {
    "top1": "top-1", "worst_group": "worst", "gap": "mean −\nworst", "spread": "best −\nworst",
    "background_effect": "usual −\nother",
}  # fmt: skip
_ACCURACY_TITLE = "accuracy % by group (class/background)"


def _wide_table(entries: Sequence[BiasEntry], groups: Sequence[str], width: int) -> list[Table]:
    """One table of all entries with a column for each group; empty where it is wider than ``width``."""
    from rich.cells import cell_len
    from rich.markup import escape
    from rich.table import Table

    first, *others = _NUMBERS.values()
    columns = [first, *(group.replace("/", "/\n") for group in groups), *others]
    rows = max(cell_len(f"  {row}") for row in _TRAINED_ON.values())
    widths = [rows, *(max(len("-100.0"), *map(cell_len, column.split("\n"))) for column in columns)]
    if sum(widths) + 3 * len(widths) + 1 > width:  # a blank on both sides of each column, and the lines
        return []
    table = Table(title=_ACCURACY_TITLE, title_justify="left")
    table.add_column("trained on", min_width=rows, overflow="fold")
    for column in columns:
        table.add_column(escape(column), justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(escape(f"{entry.run} · {_encoder_name(entry)}"))
        for key, row in _TRAINED_ON.items():
            scores = entry.accuracy[key]
            top1, *numbers = (scores[name] for name in _NUMBERS)
            of_groups = (scores["groups"][group] for group in groups)
            table.add_row(f"  {row}", *map(_percent, (top1, *of_groups, *numbers)))
        table.add_section()
    return [table]


def _narrow_table(entry: BiasEntry, groups: Sequence[str], width: int) -> Table:
    """A table of one entry with a row for each number and group; names are folded, and it takes 60 columns at least."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{entry.run} · {_encoder_name(entry)}: {_ACCURACY_TITLE}"), title_justify="left")
    scores = [entry.accuracy[key] for key in _TRAINED_ON]
    rows = {name: heading.replace("\n", " ") for name, heading in _NUMBERS.items()}
    least = max(map(len, rows.values()))
    left = width - sum(len(row) + 3 for row in _TRAINED_ON.values()) - 4  # of the lines and blanks between columns
    table.add_column("trained on", min_width=least, max_width=max(least, left), overflow="fold")
    for row in _TRAINED_ON.values():
        table.add_column(row, min_width=len(row), justify="right", overflow="fold")
    for name, heading in rows.items():
        table.add_row(heading, *(_percent(one[name]) for one in scores))
    table.add_section()
    for group in groups:
        table.add_row(escape(group), *(_percent(one["groups"][group]) for one in scores))
    return table


def _likeness_table(entries: Sequence[BiasEntry]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="likeness in feature space (cosine, mean of classes)", title_justify="left")
    table.add_column("images", min_width=len("  class means"), overflow="fold")
    for column in ("usual background", "object", "background share"):
        table.add_column(column, justify="right", overflow="fold")
    for entry in entries:
        table.add_row(escape(f"{entry.run} · {_encoder_name(entry)}"))
        own = {"distilled": entry.resemblance} if entry.resemblance else {}
        for kind, one in {**own, **entry.baseline}.items():
            *cosines, share = one.to_dict().values()
            cells = [f"{cosine:+.2f}" for cosine in cosines]
            table.add_row(f"  {kind.replace('_', ' ')}", *cells, "–" if share is None else f"{share:.2f}")
        table.add_section()
    return table


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


# ---------------------------------------------------------------------------------------------------
# The picture

_COLOURS = {
    "distilled": "#c1440e", "full": "#2a6f97", "random": "#a9b4bd", "object": "#5a8f3c", "background": "#8c6bb1",
}  # fmt: skip


def draw_bias(report: BiasReport, path: Path) -> None:
    """Draw accuracy per group and the likeness to background and object, a row for each entry."""
    from matplotlib.figure import Figure

    order = report.ranking["worst_group"]
    figure = Figure((11, 0.9 + 2.8 * len(order)), layout="constrained")
    axes = figure.subplots(len(order), 2, width_ratios=[5, 3], squeeze=False, sharex="col")
    usual = {f"{one['class']}/{one['background']}" for one in report.usual}
    names = [group + ("\nusual" if group in usual else "\nrare") for group in report.groups]
    for (left, right), place in zip(axes, order, strict=True):
        entry = report.entries[place]
        for i, (key, row) in enumerate(_TRAINED_ON.items()):
            heights = [100 * entry.accuracy[key]["groups"][group] for group in report.groups]
            places = [g + 0.27 * (i - 1) for g in range(len(heights))]
            bars = left.bar(places, heights, 0.25, color=_COLOURS[key], label=row)
            left.bar_label(bars, fmt="%.0f", fontsize=7)
        left.set_xticks(range(len(names)), names, fontsize=8, parse_math=False)
        left.tick_params(labelbottom=True)
        left.set(ylim=(0, 109), ylabel="accuracy %")
        worst, real = (100 * entry.accuracy[key]["worst_group"] for key in ("distilled", "full"))
        title = f"{entry.run} · {_encoder_name(entry)}: worst group {worst:.0f} % distilled, {real:.0f} % full data"
        left.set_title(title, fontsize=9, loc="left", parse_math=False)
        shown = {"distilled": entry.resemblance, **entry.baseline} if entry.resemblance else {}
        for i, one in enumerate(reversed(shown.values())):
            numbers = one.to_dict()
            for offset, what in ((0.2, "object"), (-0.2, "background")):
                label = {"object": "object", "background": "usual background"}[what] if i == 0 else None
                bar = right.barh(i + offset, numbers[f"{what}_similarity"], 0.36, color=_COLOURS[what], label=label)
                right.bar_label(bar, fmt="%+.2f", fontsize=7, padding=2)
        right.set_yticks(range(len(shown)), [kind.replace("_", " ") for kind in reversed(shown)], fontsize=8)
        right.axvline(0, color="black", lw=0.8)
        right.margins(x=0.15)
        right.tick_params(labelbottom=True, labelsize=8)
        title = "likeness in feature space (cosine)" if shown else "likeness: a group has no training image"
        right.set_title(title, fontsize=9, loc="left")
    for column in range(2):
        handles, labels = axes[0][column].get_legend_handles_labels()
        where = ("outside upper left", "outside upper right")[column]
        if handles:
            figure.legend(handles, labels, loc=where, fontsize=8, ncols=3, frameon=False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
