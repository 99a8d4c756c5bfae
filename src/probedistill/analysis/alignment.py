"""Alignment: how alike the feature spaces of several encoders are, and whether transfer follows it.

The metrics are pure functions of feature arrays A (n, d_A) and B (n, d_B), row i of both of the same image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from rich.markup import escape
from rich.table import Table

from ..config import EncoderConfig
from ..encoders.encoder import Encoder
from ..encoders.pool import EncoderPool
from ..errors import UserError
from ..features.classes import balanced_rows
from ..features.extract import extract_features
from ..images.labelled import LabelledImages
from ..machine.progress import ProgressBar
from ..show.tables import as_text
from ..store.files import whole_file, write_json
from .similarity import (
    METRICS,
    Array,
    basis_of,
    centred,
    checked,
    length,
    mapped,
    nearest,
    overlap,
    product,
    ratio,
    traces,
)
from .statistics import EXACT, FEWEST, mantel


def transfer_accuracy(transfer: Mapping[str, Any], fingerprints: Sequence[str]) -> tuple[Array, Array]:
    """Accuracy (E, E) of a transfer.json, source × target, and the same over the target's full-data accuracy.

    Encoders are matched by fingerprint, the first probe counts, and several sets of one encoder are averaged.
    Sets that were made with several encoders are left out. NaN where nothing is known.
    """
    place = {fingerprint: i for i, fingerprint in enumerate(fingerprints)}
    probe = transfer["probes"][0]
    scores = np.array(transfer["accuracy"][probe], dtype=np.float64)
    full = np.array(transfer["baselines"][probe].get("full", math.nan), dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.stack([scores, np.where(full > 0, scores / full, math.nan)])
    found: dict[tuple[int, int], list[Array]] = {}
    for s, source in enumerate(transfer["sources"]):
        for t, target in enumerate(transfer["targets"]):
            i, j = place.get(source["encoder"]["fingerprint"]), place.get(target["fingerprint"])
            if i is not None and j is not None and not source.get("also") and not np.isnan(scores[s, t]):
                found.setdefault((i, j), []).append(both[:, s, t])
    result = np.full((2, len(place), len(place)), math.nan)
    for (i, j), values in found.items():
        result[:, i, j] = np.mean(values, axis=0)
    return result[0], result[1]


_NEEDS = f"a rank correlation needs at least {FEWEST}"


def _correlations(
    metrics: Mapping[str, Array], transfer: Mapping[str, Any], encoders: Sequence[Mapping[str, Any]], seed: int
) -> tuple[dict[str, Any] | None, str | None]:
    """What align.json says of transfer, or ``None``, and why something is missing."""
    accuracy, relative = transfer_accuracy(transfer, [e["fingerprint"] for e in encoders])
    np.fill_diagonal(accuracy, math.nan)
    known = ~np.isnan(accuracy)
    count = int((known.any(axis=0) | known.any(axis=1)).sum())
    if count < FEWEST:
        return None, f"transfer is known between {count} of these encoders; {_NEEDS}"
    pairs = int(known.sum())
    if pairs < FEWEST:
        return None, f"transfer is known for {pairs} pairs of different encoders; {_NEEDS}"
    relative_pairs = int((known & ~np.isnan(relative)).sum())
    note = None
    if relative_pairs < FEWEST:
        note = f"the share of full data is known for {relative_pairs} pairs of different encoders; {_NEEDS}"

    def of(values: Array, pairs: int) -> dict[str, Any]:
        results = {name: mantel(metric, values, seed=seed) or (None, None) for name, metric in metrics.items()}
        return {name: {"spearman": rho, "p": p, "pairs": pairs} for name, (rho, p) in results.items()}

    return {
        "pairs": pairs,
        "encoders": count,
        "probe": transfer["probes"][0],
        "exact": math.factorial(count) <= EXACT,
        "metrics": of(accuracy, pairs),
        "relative_to_full": of(relative, relative_pairs),
    }, note


def _check_transfer(transfer: Mapping[str, Any], encoders: Sequence[Mapping[str, Any]]) -> None:
    ours = {e["fingerprint"] for e in encoders}
    if not transfer["probes"]:
        raise UserError("transfer results have no probe; make them again")
    sources = {s["encoder"]["fingerprint"]: s["encoder"]["name"] for s in transfer["sources"]}
    targets = {t["fingerprint"]: t["name"] for t in transfer["targets"]}
    if not any(s in ours and t in ours and s != t for s in sources for t in targets):
        named = ", ".join(sorted({*sources.values(), *targets.values()}))
        raise UserError(
            f"transfer results are of other encoders ({named}) than --encoders "
            f"({', '.join(e['name'] for e in encoders)}); name the same ones, at the same input sizes"
        )


# ---------------------------------------------------------------------------------------------------
# Encoders


@dataclass(frozen=True)
class Alignment:
    """How alike E feature spaces are.

    Attributes:
        encoders: ``name`` (no two alike), ``fingerprint``, ``dim`` and ``input_size`` of each.
        metrics: (E, E) for each of `METRICS`; row = from, column = to.
        chance: What unrelated spaces would give: ``mutual_knn`` (a number), ``cka`` (E, E), ``linear_map`` 0.
        images: ``spec``, ``split`` and ``count`` of the images that were compared.
        options: ``k``, ``limit`` and ``seed``.
        transfer: Rank correlation of each metric with the accuracy of transfer, if that was given, its p and the
            number of pairs of encoders that it is over.
        note: Why there is none, or none with the share of full data, although it was given.
    """

    encoders: tuple[dict[str, Any], ...]
    metrics: dict[str, Array]
    chance: dict[str, Any]
    images: dict[str, Any]
    options: dict[str, Any]
    transfer: dict[str, Any] | None = None
    note: str | None = None

    @property
    def names(self) -> list[str]:
        """Names of the encoders."""
        return [encoder["name"] for encoder in self.encoders]

    def table(self) -> Table:
        """A row for each pair of encoders."""
        k, count = self.options["k"], self.images["count"]
        title = f"{count:,} images of {self.images['spec']} ({self.images['split']})"
        table = Table(title=escape(title), title_justify="left")
        for name in ("A", "B"):
            table.add_column(name, overflow="fold")
        for name in (f"mutual {k}-NN", "linear CKA", "map A → B, R²", "map B → A, R²"):
            table.add_column(name, justify="right")
        knn, cka, mapped = (self.metrics[name] for name in METRICS)
        for i, j in itertools.combinations(range(len(self.encoders)), 2):
            values = (knn[i, j], cka[i, j], mapped[i, j], mapped[j, i])
            table.add_row(escape(self.names[i]), escape(self.names[j]), *(f"{value:.3f}" for value in values))
        itself = f"{np.diag(mapped).mean():.3f}"
        table.add_row("any with itself", "", "1.000", "1.000", itself, itself, style="dim")
        cka_by_chance = np.asarray(self.chance["cka"])[~np.eye(len(self.encoders), dtype=bool)].mean()
        table.add_row(
            "by chance", "", f"{self.chance['mutual_knn']:.3f}", f"{cka_by_chance:.3f}", "0", "0", style="dim"
        )
        return table

    def transfer_table(self) -> Table | None:
        """A row for each metric, if there are transfer results."""
        if self.transfer is None:
            return None
        title = (
            f"Rank correlation with transfer ({self.transfer['probe']} probe, {self.transfer['pairs']} pairs of "
            f"{self.transfer['encoders']} encoders)"
        )
        table = Table(title=escape(title), title_justify="left")
        table.add_column("metric")
        for name in ("accuracy: Spearman", "p", "pairs", "share of full data: Spearman", "p", "pairs"):
            table.add_column(name, justify="right")
        for metric, title in METRICS.items():
            results = (self.transfer["metrics"][metric], self.transfer["relative_to_full"][metric])
            cells = []
            for result in results:
                cells += ["–" if result[key] is None else f"{result[key]:.3f}" for key in ("spearman", "p")]
                cells.append(str(result["pairs"]))
            table.add_row(title, *cells)
        return table

    def __str__(self) -> str:
        return as_text(*filter(None, (self.table(), self.transfer_table(), escape(self.note or ""))))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "kind": "align",
            "encoders": list(self.encoders),
            "metrics": {name: values.tolist() for name, values in self.metrics.items()},
            "chance": self.chance,
            "images": self.images,
            "options": self.options,
            "transfer": self.transfer,
            "note": self.note,
        }

    def save(self, folder: Path | str) -> None:
        """Write ``align.json`` and ``align.png`` into ``folder``."""
        write_json(Path(folder) / "align.json", self.to_dict())
        draw_alignment(self, Path(folder) / "align.png")


def align(
    encoders: Sequence[str | EncoderConfig | Encoder],
    images: LabelledImages,
    *,
    k: int = 10,
    limit: int = 5000,
    seed: int = 0,
    transfer: Mapping[str, Any] | None = None,
    cache: Path | str | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Alignment:
    """Compare the feature spaces of encoders on the centre crops of the same real images.

    Encoders are loaded one at a time and their features come from banks.

    Args:
        encoders: Two or more, each in one word as for `encoder_config`, as a config, or loaded.
        images: Real images. Those of the training split are a good choice: their features are in the cache
            after a distillation, there are more of them, and nothing is fitted to a label.
        k: Neighbours of the mutual k-NN.
        limit: Images at most, balanced over the classes as far as they go.
        seed: Of the choice of images and of the drawn permutations.
        transfer: Content of a transfer.json.
        cache: Folder of feature banks.
        strict: Raise on unreadable real images.
        progress: Show progress bars.

    Raises:
        UserError: Fewer than two encoders, the same one twice, one that cannot be loaded, k or limit out of range,
            or transfer results of other encoders.
    """
    pool = _pool(encoders)
    described = tuple(
        {"name": name, **{key: entry[key] for key in ("fingerprint", "dim", "input_size")}}
        for name, entry in zip(pool.names, pool.described, strict=True)
    )
    if transfer is not None:
        _check_transfer(transfer, described)
    if limit < 3:
        raise UserError(f"limit {limit} must be at least 3 images")
    if limit < len(images):
        images = images.select(balanced_rows(images.labels, limit, seed=seed))
    if not 1 <= k < len(images):
        raise UserError(f"k {k} must be at least 1 and less than the number of images ({len(images)})")
    features, rows = [], None
    for encoder in pool:
        bank = extract_features(encoder, images, cache=cache, strict=strict, progress=progress)
        if rows is not None and bank.indices.tolist() != rows:
            raise UserError(f"not the same images of {images.spec!r} could be read each time; restore them")
        rows = bank.indices.tolist()
        features.append(bank.centre.numpy().astype(np.float64))
    metrics, cka_by_chance = _compared(features, k, progress)
    correlations, note = _correlations(metrics, transfer, described, seed) if transfer is not None else (None, None)
    return Alignment(
        encoders=described,
        metrics=metrics,
        chance={"mutual_knn": k / (len(features[0]) - 1), "cka": cka_by_chance.tolist(), "linear_map": 0.0},
        images={
            "spec": images.spec,
            "split": images.split,
            "count": len(features[0]),
            "fingerprint": images.fingerprint,
        },
        options={"k": k, "limit": limit, "seed": seed},
        transfer=correlations,
        note=note,
    )


def _pool(encoders: Sequence[str | EncoderConfig | Encoder]) -> EncoderPool:
    count = 1 if isinstance(encoders, (str, EncoderConfig, Encoder)) else len(encoders)
    if count < 2:
        raise UserError(f"encoders names {count} encoder(s); alignment compares at least 2: --encoders A B")
    return EncoderPool(encoders)


def _compared(features: Sequence[Array], k: int, progress: bool) -> tuple[dict[str, Array], Array]:
    """The metrics (E, E) of every pair, and `cka_chance`; neighbours and bases are computed once an encoder."""
    count = len(features)
    features = checked(*features)
    near = [nearest(f, k) for f in features]
    features = [centred(f) for f in features]
    lengths = [length(f) for f in features]
    metrics = {name: np.ones((count, count)) for name in METRICS}
    by_chance = np.ones((count, count))
    with ProgressBar("alignment", count**2, enabled=progress) as bar:
        for i in range(count):
            a, basis = features[i], basis_of(features[i])
            for j, b in enumerate(features):
                metrics["linear_map"][i, j] = mapped(*basis, b)
                if i <= j:
                    scale = lengths[i] * lengths[j]
                    for values, value in (
                        (metrics["mutual_knn"], overlap(near[i], near[j])),
                        (metrics["cka"], ratio(product(a, b), scale)),
                        (by_chance, ratio(traces(a, b), scale)),
                    ):
                        values[i, j] = values[j, i] = value
                bar.advance()
    return metrics, by_chance


# ---------------------------------------------------------------------------------------------------
# The picture


@rc_context({"text.parse_math": False})  # a $ in a name is a $
def draw_alignment(alignment: Alignment, path: Path) -> None:
    """Draw a heat map for each metric, with the values in the cells."""
    from matplotlib.figure import Figure

    names, count = alignment.names, len(alignment.encoders)
    side = max(2.6, 0.85 * count)
    margin = 0.075 * max(map(len, names))  # inches that the names take
    figure = Figure((len(METRICS) * side + margin + 1.2, side + 0.7 * margin + 0.7), layout="constrained")
    panels = figure.subplots(1, len(METRICS))
    titles = {
        **METRICS,
        "mutual_knn": f"mutual {alignment.options['k']}-NN",
        "linear_map": "linear map, row → column, R²",
    }
    for panel, (metric, title) in zip(panels, titles.items(), strict=True):
        values = alignment.metrics[metric]
        panel.imshow(values, vmin=0, vmax=1, cmap="viridis")
        for i, j in np.ndindex(values.shape):
            colour = "black" if values[i, j] > 0.6 else "white"
            panel.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=10)
        panel.set_title(title, fontsize=11)
        panel.set_xticks(range(count), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
        panel.set_yticks(range(count), names if panel is panels[0] else [""] * count, fontsize=9)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
    images = alignment.images
    figure.suptitle(f"{images['count']:,} images of {Path(images['spec']).name} ({images['split']})", fontsize=11)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
