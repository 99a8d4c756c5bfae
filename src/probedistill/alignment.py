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
from numpy.typing import ArrayLike, NDArray
from rich.markup import escape
from rich.table import Table
from scipy.stats import rankdata

from ._progress import ProgressBar
from ._text import as_text
from .augment import derive_seed
from .bank import extract_features
from .config import EncoderConfig
from .encoders import Encoder, display_names, encoder_config, load_encoder
from .errors import UserError
from .files import write_json
from .images import LabelledImages

METRICS = {"mutual_knn": "mutual k-NN", "cka": "linear CKA", "linear_map": "linear map, R²"}
RIDGES = 10.0 ** np.arange(-5, 4)
"""Penalties that `linear_map` chooses from, relative to the mean squared length of the centred features."""

_SEED_STREAM = 7
_BLOCK = 1024
_FEWEST = 3  # encoders, and pairs of them, that a rank correlation takes
_EXACT = 5040  # permutations: seven encoders
_DRAWN = 9999

Array = NDArray[np.float64]


# ---------------------------------------------------------------------------------------------------
# Metrics


def mutual_knn(a: ArrayLike, b: ArrayLike, k: int) -> float:
    """Share of the k nearest neighbours (cosine) that an image has in both spaces, in [0, 1].

    mean_i |kNN_A(i) ∩ kNN_B(i)| / k, the image itself excluded (Huh et al., "The Platonic Representation
    Hypothesis", ICML 2024, section 2 and appendix A). Independent features give k / (n − 1) on average.

    Args:
        a: (n, d_A) features.
        b: (n, d_B) features of the same images.
        k: Neighbours, 1 ≤ k < n.

    Raises:
        UserError: k is out of range.
        ValueError: The arrays are not (n, d), differ in n or are not finite.
    """
    a, b = _checked(a, b)
    return _overlap(_nearest(a, k), _nearest(b, k))


def linear_cka(a: ArrayLike, b: ArrayLike) -> float:
    """Centred kernel alignment of the linear kernels, ‖AᵀB‖² / (‖AᵀA‖ ‖BᵀB‖) with A, B centred, in [0, 1].

    Frobenius norms; Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
    equation 5. Computed in feature or in sample space, whichever is smaller. It is large for any two spaces
    when d is large beside n; `cka_chance` says how large. Constant features give 0.

    Args:
        a: (n, d_A) features.
        b: (n, d_B) features of the same images.

    Raises:
        ValueError: As for `mutual_knn`.
    """
    a, b = map(_centred, _checked(a, b))
    return _ratio(_product(a, b), _length(a) * _length(b))


def cka_chance(a: ArrayLike, b: ArrayLike) -> float:
    """Mean of `linear_cka` over all n! ways to pair the rows of A with those of B.

    E_π ⟨K, πLπᵀ⟩ = tr K · tr L / (n − 1) for centred kernels K and L, so it has a closed form.
    """
    a, b = map(_centred, _checked(a, b))
    return _ratio(_traces(a, b), _length(a) * _length(b))


def linear_map(a: ArrayLike, b: ArrayLike) -> float:
    """How well A maps linearly to B: cross-validated R² of ridge regression on centred features.

    Each image is predicted by the regression on all others (leave-one-out, so that the folds depend on no
    order), in closed form: residual / (1 − leverage). The penalty is the one of `RIDGES` with the smallest
    generalised cross-validation score (Golub, Heath and Wahba 1979). R² is pooled over B's features, relative
    to the mean of the other images: 1 for an exact map, about 0 for independent features. Not symmetric. With
    fewer images than features even A → A stays below 1: an image has parts that no other image shows.

    Args:
        a: (n, d_A) features to map from.
        b: (n, d_B) features of the same images to map to.

    Raises:
        ValueError: As for `mutual_knn`.
    """
    a, b = map(_centred, _checked(a, b))
    return _mapped(*_basis(a), b)


def _checked(*arrays: ArrayLike) -> list[Array]:
    """The arrays as float64, of the same n ≥ 2."""
    checked = [np.asarray(array, dtype=np.float64) for array in arrays]
    for array in checked:
        if array.ndim != 2 or len(array) < 2 or len(array) != len(checked[0]):
            raise ValueError(f"features must be (n, d) of the same n ≥ 2, got {[c.shape for c in checked]}")
        if not np.isfinite(array).all():
            raise ValueError("features have NaN or infinity")
    return checked


def _centred(features: Array) -> Array:
    return features - features.mean(axis=0)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _product(a: Array, b: Array) -> float:
    """⟨AAᵀ, BBᵀ⟩ = ‖AᵀB‖², in the smaller space."""
    if max(a.shape[1], b.shape[1]) <= len(a):
        return float(np.sum((a.T @ b) ** 2))
    return float(np.sum((a @ a.T) * (b @ b.T)))


def _length(a: Array) -> float:
    """‖AAᵀ‖."""
    return math.sqrt(_product(a, a))


def _traces(a: Array, b: Array) -> float:
    """tr AAᵀ · tr BBᵀ / (n − 1): what `_product` is on average when the rows are shuffled."""
    return float(np.sum(a**2) * np.sum(b**2)) / (len(a) - 1)


def _nearest(features: Array, k: int) -> NDArray[np.int64]:
    """(n, k) the k nearest other rows of each row, by angle, in no order."""
    n = len(features)
    if not 1 <= k < n:
        raise UserError(f"k {k} must be at least 1 and less than the number of images ({n})")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    found = []
    for start in range(0, n, _BLOCK):
        similarity = unit[start : start + _BLOCK] @ unit.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -np.inf
        found.append(np.argpartition(similarity, n - k, axis=1)[:, n - k :])
    return np.concatenate(found)


def _overlap(near_a: NDArray[np.int64], near_b: NDArray[np.int64]) -> float:
    n = len(near_a)
    pairs_a, pairs_b = (near + n * np.arange(n)[:, None] for near in (near_a, near_b))
    return np.intersect1d(pairs_a, pairs_b, assume_unique=True).size / near_a.size


def _basis(a: Array) -> tuple[Array, Array]:
    """Orthonormal U (n, r) and squared singular values (r,) of centred features."""
    in_samples = len(a) <= a.shape[1]
    values, vectors = np.linalg.eigh(a @ a.T if in_samples else a.T @ a)
    kept = values > 1e-10 * max(values[-1], np.finfo(np.float64).tiny)  # less than any penalty would leave
    values, vectors = values[kept], vectors[:, kept]
    return (vectors if in_samples else a @ vectors / np.sqrt(values)), values


def _mapped(u: Array, squares: Array, b: Array) -> float:
    """Leave-one-out R² of ridge regression from U diag(squares)^½ to centred B."""
    n, total = len(b), float(np.sum(b**2))
    if total == 0:
        return 0.0
    projected = u.T @ b  # (r, d_B)
    energy = np.sum(projected**2, axis=1)
    # What U cannot show is exactly nothing when it spans all n − 1 directions. Sums of small parts, not differences of
    # large ones: with a weak penalty both residual and 1 − leverage are nearly 0.
    spans = len(squares) == n - 1
    outside = np.zeros_like(b) if spans else b - u @ projected
    free = np.zeros(n) if spans else 1 - 1 / n - np.sum(u**2, axis=1)
    best, lost_share = math.inf, np.ones_like(squares)
    for ridge in RIDGES:
        penalty = ridge * squares.sum() / n
        share = penalty / (squares + penalty)
        score = (np.sum(outside**2) + np.sum(energy * share**2)) / (n - 1 - len(squares) + share.sum()) ** 2
        if score < best:
            best, lost_share = score, share
    residual = outside + u @ (lost_share[:, None] * projected)
    lost = np.sum((residual / (free + u**2 @ lost_share)[:, None]) ** 2)
    return 1 - float(lost) / (total * (n / (n - 1)) ** 2)


# ---------------------------------------------------------------------------------------------------
# Transfer


def mantel(metric: ArrayLike, accuracy: ArrayLike, *, seed: int = 0) -> tuple[float, float] | None:
    """Spearman rank correlation of two matrices over ordered pairs of encoders, with a permutation p-value.

    The pairs share encoders and are not independent, so the encoders' labels are permuted, rows and columns of
    ``metric`` together (Mantel 1967): all E! permutations up to seven encoders, else 9,999 drawn ones.

    Args:
        metric: (E, E), row = source, column = target; the diagonal is not looked at.
        accuracy: (E, E); NaN where a pair is not known.
        seed: Of the drawn permutations.

    Returns:
        Correlation and two-sided p; ``None`` for fewer than three encoders or three known pairs (the correlation
        of two is always ±1), or when either is the same for all pairs.
    """
    metric, accuracy = np.asarray(metric, np.float64), np.asarray(accuracy, np.float64)
    known = ~np.isnan(accuracy) & ~np.eye(len(accuracy), dtype=bool)
    used = np.flatnonzero(known.any(axis=0) | known.any(axis=1))
    metric, accuracy, known = (m[np.ix_(used, used)] for m in (metric, accuracy, known))
    count, (rows, columns) = len(used), np.nonzero(known)
    if min(count, len(rows)) < _FEWEST or len(np.unique(metric[known])) < 2 or len(np.unique(accuracy[known])) < 2:
        return None
    exact = math.factorial(count) <= _EXACT
    if exact:
        orders = np.array(list(itertools.permutations(range(count))))  # the first is the identity
    else:
        rng = np.random.default_rng(derive_seed(seed, _SEED_STREAM))
        orders = np.stack([np.arange(count), *(rng.permutation(count) for _ in range(_DRAWN))])
    left = rankdata(metric[orders[:, rows], orders[:, columns]], axis=1)
    right = rankdata(accuracy[known])
    left, right = left - left.mean(axis=1, keepdims=True), right - right.mean()
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right)
    correlation = np.divide(left @ right, lengths, out=np.zeros(len(left)), where=lengths > 0)
    p = float(np.mean(np.abs(correlation) >= abs(correlation[0]) - 1e-12))
    return float(correlation[0]), p


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


_NEEDS = f"a rank correlation needs at least {_FEWEST}"


def _correlations(
    metrics: Mapping[str, Array], transfer: Mapping[str, Any], encoders: Sequence[Mapping[str, Any]], seed: int
) -> tuple[dict[str, Any] | None, str | None]:
    """What align.json says of transfer, or ``None``, and why something is missing."""
    accuracy, relative = transfer_accuracy(transfer, [e["fingerprint"] for e in encoders])
    np.fill_diagonal(accuracy, math.nan)
    known = ~np.isnan(accuracy)
    count = int((known.any(axis=0) | known.any(axis=1)).sum())
    if count < _FEWEST:
        return None, f"transfer is known between {count} of these encoders; {_NEEDS}"
    pairs = int(known.sum())
    if pairs < _FEWEST:
        return None, f"transfer is known for {pairs} pairs of different encoders; {_NEEDS}"
    relative_pairs = int((known & ~np.isnan(relative)).sum())
    note = None
    if relative_pairs < _FEWEST:
        note = f"the share of full data is known for {relative_pairs} pairs of different encoders; {_NEEDS}"

    def of(values: Array, pairs: int) -> dict[str, Any]:
        results = {name: mantel(metric, values, seed=seed) or (None, None) for name, metric in metrics.items()}
        return {name: {"spearman": rho, "p": p, "pairs": pairs} for name, (rho, p) in results.items()}

    return {
        "pairs": pairs,
        "encoders": count,
        "probe": transfer["probes"][0],
        "exact": math.factorial(count) <= _EXACT,
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
        from .alignment_figure import draw_alignment

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
    described = _described(encoders)
    if transfer is not None:
        _check_transfer(transfer, described)
    if limit < 3:
        raise UserError(f"limit {limit} must be at least 3 images")
    if limit < len(images):
        images = images.select(balanced_rows(images.labels, limit, seed=seed))
    if not 1 <= k < len(images):
        raise UserError(f"k {k} must be at least 1 and less than the number of images ({len(images)})")
    features, rows = [], None
    for spec in encoders:
        bank = extract_features(_loaded(spec), images, cache=cache, strict=strict, progress=progress)
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


def balanced_rows(labels: NDArray[np.int64], limit: int, *, seed: int) -> NDArray[np.int64]:
    """At most ``limit`` rows drawn from labels (n,), as many of each class as there are, in their order."""
    rng = np.random.default_rng(derive_seed(seed, _SEED_STREAM))
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)  # the how-manieth of its class a row is
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        turn[of_class] = np.arange(len(of_class))
    return np.sort(order[turn[order].argsort(kind="stable")][:limit])


def _loaded(spec: str | EncoderConfig | Encoder) -> Encoder:
    if isinstance(spec, Encoder):
        return spec
    return load_encoder(spec if isinstance(spec, EncoderConfig) else encoder_config(spec))


def _described(specs: Sequence[str | EncoderConfig | Encoder]) -> tuple[dict[str, Any], ...]:
    """What the encoders are; each is loaded for a moment, so that a wrong one is found before any work."""
    if isinstance(specs, str) or len(specs) < 2:
        count = 1 if isinstance(specs, str) else len(specs)
        raise UserError(f"encoders names {count} encoder(s); alignment compares at least 2: --encoders A B")
    described: list[dict[str, Any]] = []
    for spec in specs:
        encoder = _loaded(spec)
        for other in described:
            if other["fingerprint"] == encoder.fingerprint:
                raise UserError(
                    f"encoders name {encoder.name!r} at {encoder.input_size} px twice "
                    f"({encoder.fingerprint[:12]}); name each encoder once"
                )
        keys = ("name", "fingerprint", "dim", "input_size")
        described.append({key: getattr(encoder, key) for key in keys})
    names = display_names(described)
    return tuple(d | {"name": names[d["fingerprint"]]} for d in described)


def _compared(features: Sequence[Array], k: int, progress: bool) -> tuple[dict[str, Array], Array]:
    """The metrics (E, E) of every pair, and `cka_chance`; neighbours and bases are computed once an encoder."""
    count = len(features)
    features = _checked(*features)
    near = [_nearest(f, k) for f in features]
    features = [_centred(f) for f in features]
    lengths = [_length(f) for f in features]
    metrics = {name: np.ones((count, count)) for name in METRICS}
    by_chance = np.ones((count, count))
    with ProgressBar("alignment", count**2, enabled=progress) as bar:
        for i in range(count):
            a, basis = features[i], _basis(features[i])
            for j, b in enumerate(features):
                metrics["linear_map"][i, j] = _mapped(*basis, b)
                if i <= j:
                    scale = lengths[i] * lengths[j]
                    for values, value in (
                        (metrics["mutual_knn"], _overlap(near[i], near[j])),
                        (metrics["cka"], _ratio(_product(a, b), scale)),
                        (by_chance, _ratio(_traces(a, b), scale)),
                    ):
                        values[i, j] = values[j, i] = value
                bar.advance()
    return metrics, by_chance


__all__ = [
    "METRICS",
    "Alignment",
    "align",
    "balanced_rows",
    "cka_chance",
    "linear_cka",
    "linear_map",
    "mantel",
    "mutual_knn",
    "transfer_accuracy",
]
