"""Sums and means of classes, and the real images that represent a class."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..images.labelled import rows_of_labels
from ..seeds import Stream, seed_of
from .bank import FeatureBank


def random_images(bank: FeatureBank, images_per_class: int, *, seed: int) -> Tensor:
    """Rows (C · ipc,) of the bank drawn at random without replacement, class by class."""
    generator = torch.Generator().manual_seed(seed_of(seed, Stream.RANDOM_IMAGES))
    rows = _rows_of_classes(bank, images_per_class)
    return torch.cat([r[torch.randperm(len(r), generator=generator)[:images_per_class]] for r in rows])


def medoids(bank: FeatureBank, images_per_class: int) -> Tensor:
    """Rows (C · ipc,) of the images nearest to their class mean ("centroids" in the LGM paper)."""
    sums = summed_by_class(bank.blocks(views="centre"), bank.num_classes, bank.dim)
    means = means_of_sums(*sums)
    distance = torch.cat([(features.double() - means[y]).norm(dim=1) for features, y in bank.blocks(views="centre")])
    chosen = [
        rows[distance[rows].argsort(stable=True)[:images_per_class]]
        for rows in _rows_of_classes(bank, images_per_class)
    ]
    return torch.cat(chosen)


def herding(bank: FeatureBank, images_per_class: int) -> Tensor:
    """Rows (C · ipc,) of the images whose mean is nearest to their class mean, chosen one after the other.

    Each is the image that brings the mean of all images chosen so far nearest to the class mean (Welling 2009; used
    for exemplars by iCaRL, arXiv 1611.07725). With more than one image per class, this covers a class better than the
    images nearest to the mean, which are nearly the same image.
    """
    rows_of = _rows_of_classes(bank, images_per_class)
    return torch.cat([rows[_herded(bank.take(rows, views="centre"), images_per_class)] for rows in rows_of])


def k_medoids(bank: FeatureBank, images_per_class: int, *, seed: int = 0) -> Tensor:
    """Rows (C · ipc,) of the images nearest to the centres of k-means within each class, none twice."""
    return torch.cat([rows[_nearest_each(away)] for rows, away in _away_from_centres(bank, images_per_class, seed)])


def nearest_to_centres(bank: FeatureBank, images_per_class: int, count: int, *, seed: int = 0) -> list[Tensor]:
    """Rows of the images nearest to each of the centres of k-means within each class.

    With one image per class the centre is the class mean. An image may be near several centres.

    Returns:
        C · ipc tensors (k,), class by class, the nearest image first; k is ``count``, or the size of a smaller class.
    """
    return [
        rows[near]
        for rows, away in _away_from_centres(bank, images_per_class, seed)
        for near in away.argsort(dim=1, stable=True)[:, :count]
    ]


def clusters(bank: FeatureBank, images_per_class: int, *, least: int, most: int, seed: int = 0) -> list[Tensor]:
    """Rows of the images of each k-means cluster within each class; with one image per class, of the whole class.

    Args:
        bank: The features.
        images_per_class: Clusters of a class.
        least: A smaller cluster borrows the images nearest to its centre from the others, if there are enough.
        most: A larger cluster is cut to the images nearest to its centre.
        seed: Seed of the clusters.

    Returns:
        C · ipc tensors of rows, class by class, the nearest image first.
    """
    found = []
    for rows, away in _away_from_centres(bank, images_per_class, seed):
        cluster = away.argmin(dim=0)
        for number, order in enumerate(away.argsort(dim=1, stable=True)):
            of_cluster = cluster[order] == number
            own, others = order[of_cluster], order[~of_cluster]
            found.append(rows[torch.cat([own[:most], others[: max(least - len(own), 0)]])])
    return found


def _away_from_centres(bank: FeatureBank, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each class: its rows (n,) of the bank, and the distances (k, n) of its images from its k-means centres."""
    for label, rows in enumerate(_rows_of_classes(bank, count)):
        # In float32, products lose the distances between features that are close together but far from zero.
        features = bank.take(rows, views="centre").double()
        centres = cluster_centres(features, count, seed_of(seed, Stream.CLUSTERS, label))
        yield rows, torch.cdist(centres, features)


def _herded(features: Tensor, count: int) -> Tensor:
    """Indices (count,) of the features (n, d) that herding chooses, in order."""
    features = features.double()
    mean, total = features.mean(dim=0), torch.zeros(features.shape[1], dtype=torch.float64)
    free = torch.ones(len(features), dtype=torch.bool)
    chosen = torch.empty(count, dtype=torch.int64)
    for number in range(count):
        distance = ((total + features) / (number + 1) - mean).norm(dim=1)
        chosen[number] = distance.masked_fill(~free, torch.inf).argmin()
        free[chosen[number]] = False
        total += features[chosen[number]]
    return chosen


def cluster_centres(features: Tensor, count: int, seed: int) -> Tensor:
    """Centres (count, d) of k-means."""
    from sklearn.cluster import KMeans

    if count == 1:
        return features.mean(dim=0, keepdim=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of fewer different images than clusters; centres repeat
        found = KMeans(count, n_init=4, random_state=seed % 2**32).fit(features.double().numpy())
    return torch.from_numpy(found.cluster_centers_).to(features)


def _nearest_each(distance: Tensor) -> Tensor:
    """The nearest column for each row of distances (k, n); closest pairs first, and no column twice."""
    chosen = torch.empty(len(distance), dtype=torch.int64)
    left = distance.clone()
    for _ in range(len(distance)):
        row, column = divmod(int(left.argmin()), distance.shape[1])
        chosen[row] = column
        left[row], left[:, column] = torch.inf, torch.inf
    return chosen


def neighbours(bank: FeatureBank, features: Tensor, labels: Tensor) -> Tensor:
    """Rows (m,) of the real images nearest (cosine) to synthetic features (m, d), within the same class.

    No real image is taken twice, so that the baseline has as many images as the synthetic set.
    """
    rows = _rows_of_classes(bank, int(torch.bincount(labels).max()))
    synthetic = F.normalize(features.double(), dim=1)
    chosen = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique().tolist():
        real = F.normalize(bank.take(rows[label], views="centre").double(), dim=1)
        taken = torch.zeros(len(real), dtype=torch.bool)
        for i in (labels == label).nonzero().squeeze(1).tolist():
            nearest = (real @ synthetic[i]).masked_fill(taken, -2.0).argmax()
            chosen[i], taken[nearest] = rows[label][nearest], True
    return chosen


def _rows_of_classes(bank: FeatureBank, least: int) -> list[Tensor]:
    rows = [torch.from_numpy(rows) for rows in rows_of_labels(bank.labels.numpy(), bank.num_classes)]
    for name, r in zip(bank.class_names, rows, strict=True):
        if len(r) < least:
            raise UserError(f"images_per_class {least} is more than class {name!r} has real images ({len(r)})")
    return rows


# ---------------------------------------------------------------------------------------------------
# Pure functions


def class_sums(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum (C, d) and number (C, 1) of each class's features; sums of blocks can be added up."""
    sums = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)  # avoids an (n, C) matrix
    return sums, torch.bincount(labels, minlength=num_classes).to(features)[:, None]


def means_of_sums(sums: Tensor, counts: Tensor) -> Tensor:
    """Class means (C, d) from `class_sums`."""
    return sums / counts


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean feature of each class, (C, d). A class without samples gives a row of NaN."""
    return means_of_sums(*class_sums(features, labels, num_classes))


def summed_by_class(blocks: Iterable[tuple[Tensor, Tensor]], num_classes: int, dim: int) -> tuple[Tensor, Tensor]:
    """`class_sums` of all blocks in one pass: float64 on the CPU, O(C · d) memory, the same on every device."""
    sums, counts = torch.zeros(num_classes, dim, dtype=torch.float64), torch.zeros(num_classes, dtype=torch.float64)
    for features, labels in blocks:
        labels = labels.cpu()
        sums.index_add_(0, labels, features.detach().cpu().double())
        counts += torch.bincount(labels, minlength=num_classes)
    return sums, counts[:, None]


def balanced_rows(labels: NDArray[np.int64], limit: int, *, seed: int) -> NDArray[np.int64]:
    """At most ``limit`` rows drawn from labels (n,), as many of each class as there are, in their order."""
    rng = np.random.default_rng(seed_of(seed, Stream.BALANCED_ROWS))
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)  # position of each row within its class
    for rows in rows_of_labels(labels[order]):
        turn[order[rows]] = np.arange(len(rows))
    return np.sort(order[turn[order].argsort(kind="stable")][:limit])
