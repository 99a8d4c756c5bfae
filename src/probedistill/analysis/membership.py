"""Membership: does a distilled set reveal whether a photo was among those that it was made from?

Shadow sets are distilled from random halves of the photos, with the settings of the run. Half of them have seen a
given photo and half have not. For each shadow set, an attacker who knows all the others guesses its members with the
likelihood-ratio attack LiRA (Carlini et al., arXiv 2112.03570).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import norm, t
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from .._version import __version__
from ..config import DistillConfig
from ..distillation.objective import InnerLayers
from ..distillation.start import make_distiller
from ..encoders.encoder import Encoder
from ..errors import UserError
from ..features.bank import FeatureBank
from ..features.encode import encode
from ..features.shards import key_of
from ..images.labelled import LabelledImages
from ..machine.progress import ProgressBar, say
from ..probes.linear import LinearProbe
from ..seeds import Stream, seed_of
from ..store.files import check_writable
from ..store.layout import SHADOWS
from ..store.pixels import as_shipped
from ..store.records import Count, Share
from ..store.tensors import TornFileError, check_tensors, load_tensors, save_tensors
from ..text import counted, duration
from .copies import thumbnails

SCORES = ("probe", "features", "pixels")
LEAST = 6
"""Fewest shadow sets for an attack: three pairs, two of them as reference."""
MOST = 256
"""Shadow sets if only the time is limited."""
_MOST_ASKED = 10_000
FALSE_ALARMS = 0.01

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SAYS = {
    "probe": "margin of a probe trained on the set",
    "features": "similarity to its class's image in features",
    "pixels": "similarity to its class's image in pixels",
}


@dataclass(frozen=True)
class Attack:
    """How well an attack separates members from other photos.

    Attributes:
        score: What the attacker computes for a photo, one of `SCORES`.
        how: ``"online"``: the attacker has shadow sets with the photo and without it; ``"offline"``: only without.
        auc: Area under the ROC curve; 0.5 for guessing. Mean over the shadow sets.
        auc_interval: 95% interval of the mean, by t over the pairs of complementary shadow sets.
        tpr: True-positive rate at a false-positive rate of at most 1%; `Membership.guess` is that of guessing.
        tpr_interval: Its 95% interval.
    """

    score: str
    how: str
    auc: Share
    auc_interval: tuple[Share, Share]
    tpr: Share
    tpr_interval: tuple[Share, Share]

    @property
    def says(self) -> str:
        """The score in words."""
        return _SAYS[self.score]


@dataclass(frozen=True)
class Membership:
    """What the attacks on shadow sets found.

    Attributes:
        shadows: Number of shadow sets that were made.
        asked: Number of shadow sets that were requested.
        photos: Photos, of which each shadow set saw half.
        steps: Steps of each.
        attacks: Every score, online and offline.
    """

    shadows: Count
    asked: Count
    photos: Count
    steps: Count
    attacks: tuple[Attack, ...]

    @property
    def guess(self) -> float:
        """Share of the members that a guess finds: more than 1% of few photos.

        With k false alarms allowed among n others, a guess finds the members above the (k + 1)th of them: (k + 1) /
        (n + 1) on average.
        """
        others = self.photos // 2
        return (int(FALSE_ALARMS * others) + 1) / (others + 1)

    @property
    def strongest(self) -> Attack:
        """The attack that finds most members at few false alarms."""
        return max(self.attacks, key=lambda attack: (attack.tpr, attack.auc))


# ---------------------------------------------------------------------------------------------------
# The attack


def shadow_halves(labels: NDArray[np.int64], count: int, *, seed: int) -> Mask:
    """Which photos each shadow set is made from, (count, N): a random half of each class, and then the other half."""
    members = np.zeros((count, len(labels)), dtype=bool)
    for first in range(0, count, 2):
        rng = np.random.default_rng(seed_of(seed, Stream.SHADOW_HALVES, first // 2))
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            more = len(rows) // 2 + (rng.random() < 0.5) * (len(rows) % 2)
            members[first, rows[:more]] = True
        members[first + 1] = ~members[first]
    return members


def lira(scores: Array, members: Mask) -> tuple[Array, Array]:
    """The likelihood ratio of each photo for each shadow set, online and offline, both (S, N): high for members.

    The reference for a set is all others except its complement, whose members would reveal its own. A photo's scores
    are modelled as normal with its own means and common variances, as in 2112.03570 for few shadow sets.
    Online: log N(score; in) − log N(score; out). Offline: log Φ of the score among those of sets without the photo.

    Args:
        scores: (S, N) of S / 2 pairs.
        members: (S, N), each second row the complement of the one before it.
    """
    online, offline = np.empty_like(scores), np.empty_like(scores)
    for number in range(len(scores)):
        others = np.arange(len(scores)) // 2 != number // 2
        seen, member = scores[others], members[others]
        inside, spread_in = _normal(seen, member)
        outside, spread_out = _normal(seen, ~member)
        online[number] = norm.logpdf(scores[number], inside, spread_in) - norm.logpdf(
            scores[number], outside, spread_out
        )
        offline[number] = norm.logcdf(scores[number], outside, spread_out)
    return online, offline


def _normal(scores: Array, chosen: Mask) -> tuple[Array, float]:
    """Mean of each photo's chosen scores, and the standard deviation around it that all photos share."""
    count = chosen.sum(axis=0)
    mean = np.where(chosen, scores, 0.0).sum(axis=0) / count
    rest = np.where(chosen, scores - mean, 0.0)
    freedom = max(int((count - 1).sum()), 1)
    return mean, max(float(np.sqrt((rest**2).sum() / freedom)), 1e-9)


def attack(scores: dict[str, Array], members: Mask) -> tuple[Attack, ...]:
    """How well each score, (S, N), separates members from other photos: every shadow set is attacked in turn."""
    found = []
    for score, values in scores.items():
        for how, ratio in zip(("online", "offline"), lira(values, members), strict=True):
            each = np.array([_success(mine, ratios) for mine, ratios in zip(members, ratio, strict=True)])
            (auc, auc_interval), (tpr, tpr_interval) = (_mean(each[:, column]) for column in (0, 1))
            found.append(Attack(score, how, auc, auc_interval, tpr, tpr_interval))
    return tuple(found)


def _success(members: Mask, ratios: Array) -> tuple[float, float]:
    """AUC, and the share of members found at 1% false alarms."""
    alarms, hits, _ = roc_curve(members, ratios, drop_intermediate=False)
    return float(roc_auc_score(members, ratios)), float(hits[alarms <= FALSE_ALARMS].max())


def _mean(values: Array) -> tuple[float, tuple[float, float]]:
    """The mean, and its 95% interval over pairs: two complementary halves are not independent samples."""
    pairs = values.reshape(-1, 2).mean(axis=1)
    middle = float(pairs.mean())
    reach = float(t.ppf(0.975, len(pairs) - 1) * pairs.std(ddof=1) / np.sqrt(len(pairs)))
    return middle, (max(middle - reach, 0.0), min(middle + reach, 1.0))


# ---------------------------------------------------------------------------------------------------
# Shadow sets


@dataclass(frozen=True)
class Shadows:
    """How shadow sets are made.

    Attributes:
        config: Settings of the run, resolved.
        encoder: Its encoder.
        train: The photos.
        bank: Their features.
        photos: Their thumbnails (N, 32, 32), in the order of the bank.
        seed: Seed of the halves and of the sets.
        inner: The encoder's inner layers, if the run asks for them.
    """

    config: DistillConfig
    encoder: Encoder
    train: LabelledImages
    bank: FeatureBank
    photos: Tensor
    seed: int
    inner: Sequence[InnerLayers | None] = ()

    @property
    def key(self) -> str:
        """What the scores depend on."""
        return key_of(
            (__version__, self.config, self.encoder.fingerprint, self.encoder.precision, self.train.fingerprint,
             len(self.bank), self.seed)
        )  # fmt: skip

    def scores(self, number: int, members: Mask) -> Tensor:
        """Distil a shadow set and score every photo, (3, N)."""
        rows = torch.from_numpy(np.flatnonzero(members))
        seed = seed_of(self.seed, Stream.SHADOW_HALVES, number, 1) % 2**31  # the attacker does not know the run's seed
        inner = [None if deep is None else deep.select(rows) for deep in self.inner]
        distiller = make_distiller(
            replace(self.config, seed=seed), [self.encoder], [self.bank.select(rows)], self.train, inner=inner
        )
        for _ in range(self.config.steps):
            distiller.step()
        return self._scored(as_shipped(distiller.images().float().cpu()), distiller.labels.cpu())

    def _scored(self, images: Tensor, labels: Tensor) -> Tensor:
        features, real, y = encode(self.encoder, images), self.bank.centre, self.bank.labels
        logits = torch.from_numpy(LinearProbe("ridge").fit(features, labels).logits(real)).double()
        own = logits.gather(1, y[:, None])[:, 0]
        margin = own - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
        centre = real.mean(dim=0)
        like = F.normalize(real - centre, dim=1) @ F.normalize(features - centre, dim=1).T
        grey = [F.normalize(_centred(part), dim=1) for part in (self.photos, thumbnails(images))]
        foreign = y[:, None] != labels
        near = [values.masked_fill(foreign, -torch.inf).amax(dim=1) for values in (like, grey[0] @ grey[1].T)]
        return torch.stack([margin, *(values.double() for values in near)])


def _centred(images: Tensor) -> Tensor:
    flat = images.float().flatten(1)
    return flat - flat.mean(dim=1, keepdim=True)


def check_budget(shadows: int, minutes: float | None) -> int:
    """Number of shadow sets that a budget asks for, even; 0 for none.

    Raises:
        UserError: Too few or too many, an odd number, or no time.
    """
    if minutes is not None and not minutes > 0:
        raise UserError(f"minutes {minutes} must be more than 0")
    if shadows == 0:
        return MOST if minutes is not None else 0
    if not LEAST <= shadows <= _MOST_ASKED or shadows % 2:
        raise UserError(
            f"shadows {shadows} must be 0 or an even number from {LEAST} to {_MOST_ASKED:,}: half of the sets see a "
            "photo, half do not"
        )
    return shadows


def membership(
    shadows: Shadows, count: int, *, minutes: float | None = None, folder: Path | None = None, progress: bool = True
) -> Membership:
    """Make shadow sets and attack them.

    Args:
        shadows: How they are made.
        count: How many, even.
        minutes: No further pair is begun after so long, as soon as there are enough for an attack.
        folder: Where the scores of each set are kept, so that the same call continues where it was stopped.
        progress: Show a progress bar.

    Raises:
        UserError: Half of a class is too few to distil from.
    """
    _check_halves(shadows)
    labels = shadows.bank.labels.numpy()
    members = shadow_halves(labels, count, seed=shadows.seed)
    kept = [_read(folder, number, shadows.key, (3, len(labels))) for number in range(count)]
    missing, began = [number for number in range(count) if kept[number] is None], time.monotonic()
    found: list[Tensor] = []
    with ProgressBar("shadow sets", count, initial=count - len(missing), enabled=progress) as bar:
        for number in range(count):
            spent = (time.monotonic() - began) / 60
            if minutes is not None and spent >= minutes and number >= LEAST and number % 2 == 0:
                break
            scores = kept[number]
            if scores is None:
                start = time.monotonic()
                scores = shadows.scores(number, members[number])
                _keep(folder, number, shadows.key, scores)
                if number == missing[0] and progress:
                    _say_cost(len(missing), time.monotonic() - start, minutes)
                bar.advance()
            found.append(scores)
    stacked = torch.stack(found).numpy()  # (S, 3, N)
    attacks = attack({name: stacked[:, i] for i, name in enumerate(SCORES)}, members[: len(found)])
    return Membership(len(found), count, len(labels), shadows.config.steps, attacks)


def _check_halves(shadows: Shadows) -> None:
    least = shadows.config.images_per_class if shadows.config.canvas.from_photos else 1
    counts = torch.bincount(shadows.bank.labels, minlength=shadows.bank.num_classes).tolist()
    for name, count in zip(shadows.bank.class_names, counts, strict=True):
        if count // 2 < least:
            raise UserError(
                f"class {name!r} has only {counted(count, 'photo')}, and a shadow set, made from half of them, needs "
                f"at least {least}; leave the shadow sets out"
            )


def _say_cost(left: int, seconds: float, minutes: float | None) -> None:
    """Print how long it will take, once the first set has been timed."""
    whole = left * seconds
    limit = f", stopping after {minutes:g} min" if minutes is not None and 60 * minutes < whole else ""
    each = f"{counted(left, 'shadow set')}, about {duration(seconds)} each"
    say(f"{each}: {duration(whole)} in all{limit}; if you stop it, the same command continues")


def _path(folder: Path, number: int) -> Path:
    return folder / SHADOWS / f"{number:04d}.safetensors"


def _read(folder: Path | None, number: int, key: str, shape: tuple[int, int]) -> Tensor | None:
    """Scores from an earlier call; ``None`` if they are torn or were made with other settings."""
    if folder is None or not _path(folder, number).exists():
        return None
    try:
        tensors, metadata = load_tensors(_path(folder, number))
        check_tensors(_path(folder, number), tensors, {"scores": shape})
    except TornFileError:
        return None
    return tensors["scores"] if metadata == {"shadow": key} else None


def _keep(folder: Path | None, number: int, key: str, scores: Tensor) -> None:
    if folder is not None:
        check_writable(folder / SHADOWS)
        save_tensors(_path(folder, number), {"scores": scores}, {"shadow": key})
