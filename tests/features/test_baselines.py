"""Real images with which a synthetic set is compared."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from probedistill.errors import UserError
from probedistill.features.bank import FeatureBank
from probedistill.features.classes import (
    clusters,
    herding,
    k_medoids,
    medoids,
    nearest_to_centres,
    neighbours,
    random_images,
)


def make_bank(per_class=(6, 9, 7), d: int = 5, seed: int = 0) -> FeatureBank:
    """A bank of random features, with mixed classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(per_class)), torch.tensor(per_class))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centre = torch.randn(len(labels), d, generator=generator) + 0.5 * labels[:, None]
    return FeatureBank(
        centre=centre,
        augmented=centre.new_zeros(0, len(labels), d),
        labels=labels,
        indices=torch.arange(len(labels)),
        class_names=tuple("abcdef"[: len(per_class)]),
    )


# ---- random images


@settings(max_examples=40, deadline=None)
@given(ipc=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_random_images_are_equally_many_per_class_and_all_different(ipc, seed):
    bank = make_bank()
    rows = random_images(bank, ipc, seed=seed)
    assert bank.labels[rows].tolist() == [c for c in range(3) for _ in range(ipc)]
    assert len(rows.unique()) == len(rows)
    assert torch.equal(rows, random_images(bank, ipc, seed=seed))


def test_every_image_can_be_drawn_and_seeds_differ():
    bank = make_bank()
    drawn = [random_images(bank, 2, seed=seed) for seed in range(60)]
    assert set(torch.cat(drawn).tolist()) == set(range(len(bank)))
    assert len({tuple(rows.tolist()) for rows in drawn}) > 50


# ---- medoids


@pytest.mark.parametrize("ipc", [1, 2, 6])
@pytest.mark.parametrize("seed", range(5))
def test_medoids_match_brute_force(ipc, seed):
    bank = make_bank(seed=seed)
    expected = []
    for c in range(3):
        of_class = [i for i in range(len(bank)) if bank.labels[i] == c]
        mean = sum(bank.centre[i].double() for i in of_class) / len(of_class)
        distance = {i: float(sum((bank.centre[i].double() - mean) ** 2)) for i in of_class}
        expected += sorted(of_class, key=distance.__getitem__)[:ipc]
    assert medoids(bank, ipc).tolist() == expected


def test_the_first_of_equal_medoids_is_taken():
    bank = make_bank((3, 2))
    bank.centre[:] = 1.0
    rows = medoids(bank, 1)
    assert rows.tolist() == [(bank.labels == c).nonzero()[0, 0] for c in range(2)]


# ---- nearest neighbours


def test_a_neighbour_is_the_nearest_of_its_class_by_angle():
    bank = make_bank()
    synthetic = torch.randn(3, 5, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([2, 0, 1])
    similarity = F.normalize(synthetic, dim=1) @ F.normalize(bank.centre, dim=1).T
    similarity[labels[:, None] != bank.labels] = -torch.inf
    expected = similarity.argmax(dim=1)
    assert torch.equal(neighbours(bank, synthetic, labels), expected)
    assert torch.equal(neighbours(bank, 100 * synthetic.double(), labels), expected)  # lengths do not change angles


@pytest.mark.parametrize("ipc", [1, 3, 6])
def test_no_neighbour_is_used_twice(ipc):
    bank = make_bank()
    labels = torch.arange(3).repeat(ipc)
    same = torch.randn(1, 5, generator=torch.Generator().manual_seed(0)).expand(len(labels), -1)
    rows = neighbours(bank, same, labels)
    assert torch.equal(bank.labels[rows], labels)
    assert len(rows.unique()) == len(rows)
    # all images of a class want the same neighbour: they get the nearest ones, in order
    similarity = F.cosine_similarity(bank.centre, same[:1])
    for c in range(3):
        of_class = (bank.labels == c).nonzero()[:, 0]
        expected = of_class[similarity[of_class].argsort(descending=True)][:ipc]
        assert rows[labels == c].tolist() == expected.tolist()


def test_real_images_are_their_own_neighbours():
    bank = make_bank()
    rows = random_images(bank, 4, seed=0)
    assert torch.equal(neighbours(bank, 3 * bank.centre[rows], bank.labels[rows]), rows)


def test_opposite_images_are_still_of_the_class():
    bank = make_bank((2, 2))
    bank.centre[bank.labels == 0] = torch.tensor([1.0, 0, 0, 0, 0])
    rows = neighbours(bank, torch.tensor([[-1.0, 0, 0, 0, 0]] * 2), torch.tensor([0, 0]))
    assert sorted(rows.tolist()) == (bank.labels == 0).nonzero()[:, 0].tolist()


# ---- too few images


@pytest.mark.parametrize(
    "choose",
    [
        lambda bank, ipc: random_images(bank, ipc, seed=0),
        medoids,
        herding,
        k_medoids,
        lambda bank, ipc: neighbours(bank, torch.ones(3 * ipc, 5), torch.arange(3).repeat(ipc)),
    ],
)
def test_a_class_with_too_few_images_is_named(choose):
    assert len(choose(make_bank((6, 9, 7)), 6)) == 18
    with pytest.raises(UserError, match=r"images_per_class 7 is more than class 'a' has real images \(6\)"):
        choose(make_bank((6, 9, 7)), 7)


# ---- herding and k-means medoids


@pytest.mark.parametrize("ipc", [1, 2, 6])
@pytest.mark.parametrize("seed", range(3))
def test_herding_takes_the_image_that_brings_the_mean_nearest(ipc, seed):
    bank = make_bank(seed=seed)
    expected = []
    for c in range(3):
        left, taken = [i for i in range(len(bank)) if bank.labels[i] == c], []
        mean = torch.stack([bank.centre[i].double() for i in left]).mean(0)
        for _ in range(ipc):
            best = min(left, key=lambda i: float((bank.centre[[*taken, i]].double().mean(0) - mean).norm()))
            left.remove(best)
            taken.append(best)
        expected += taken
    assert herding(bank, ipc).tolist() == expected


@pytest.mark.parametrize("count", [1, 3, 50])
def test_the_nearest_to_one_centre_are_the_nearest_to_the_mean(count):
    bank = make_bank()
    found = nearest_to_centres(bank, 1, count)
    sizes = torch.bincount(bank.labels).tolist()
    assert [len(rows) for rows in found] == [min(count, size) for size in sizes]
    nearest = medoids(bank, 6).split(6)  # the smallest class has six
    assert all(torch.equal(rows[:6], want[:count]) for rows, want in zip(found, nearest, strict=True))
    assert [sorted(bank.labels[rows].unique().tolist()) for rows in found] == [[0], [1], [2]]


def test_each_of_two_clusters_has_its_own_nearest_images():
    bank = make_bank((8, 8))
    side = torch.arange(len(bank)) % 2
    bank.centre[:, 0] += 50.0 * side
    found = nearest_to_centres(bank, 2, 2)
    assert len(found) == 4
    assert all(len(side[rows].unique()) == 1 for rows in found)
    assert {int(side[rows[0]]) for rows in found[:2]} == {0, 1}


@pytest.mark.parametrize(("least", "most"), [(1, 3), (2, 50), (50, 50)])
def test_the_one_cluster_of_a_class_is_the_class_the_nearest_first(least, most):
    bank = make_bank()
    found = clusters(bank, 1, least=least, most=most)
    assert all(torch.equal(rows, want) for rows, want in zip(found, nearest_to_centres(bank, 1, most), strict=True))


def test_each_of_two_clusters_has_its_own_images_and_others_only_where_it_is_small():
    bank = make_bank((8, 8))
    side = torch.ones(len(bank), dtype=torch.int64)
    for label in (0, 1):
        side[(bank.labels == label).nonzero()[:2]] = 0  # two images of each class; the other six are elsewhere
    bank.centre[:, 0] += 50.0 * side
    found = clusters(bank, 2, least=1, most=5)
    assert sorted((len(rows), *side[rows].unique().tolist()) for rows in found) == [(2, 0), (2, 0), (5, 1), (5, 1)]
    small = [rows for rows in clusters(bank, 2, least=4, most=50) if side[rows[0]] == 0]
    assert [side[rows].tolist() for rows in small] == [[0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("choose", [herding, k_medoids])
def test_one_image_per_class_is_the_medoid(choose):
    bank = make_bank()
    assert choose(bank, 1).tolist() == medoids(bank, 1).tolist()


@settings(max_examples=20, deadline=None)
@given(ipc=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_k_medoids_are_different_images_of_each_class(ipc, seed):
    bank = make_bank(seed=seed % 7)
    rows = k_medoids(bank, ipc, seed=seed)
    assert bank.labels[rows].tolist() == [c for c in range(3) for _ in range(ipc)]
    assert len(rows.unique()) == len(rows)
    assert torch.equal(rows, k_medoids(bank, ipc, seed=seed))


def test_k_medoids_find_the_clusters_that_the_nearest_to_the_mean_miss():
    """In a class with three clusters: one image of each, while the nearest to the mean are all in one."""
    bank = make_bank((9, 9))
    for label in range(2):
        rows = (bank.labels == label).nonzero()[:, 0]
        for number, row in enumerate(rows):
            bank.centre[row] = 10.0 * torch.eye(5)[number % 3] + 0.1 * number * torch.ones(5)
    for label, rows in enumerate(k_medoids(bank, 3).view(2, 3)):
        assert sorted(bank.centre[rows].argmax(dim=1).tolist()) == [0, 1, 2], label


def test_k_medoids_of_equal_images():
    bank = make_bank((4, 4))
    bank.centre[:] = 1.0
    rows = k_medoids(bank, 3)
    assert len(rows.unique()) == 6


@pytest.mark.parametrize(
    "choose",
    [
        lambda bank: medoids(bank, 5),
        lambda bank: herding(bank, 5),
        lambda bank: k_medoids(bank, 5),
        lambda bank: torch.cat(nearest_to_centres(bank, 2, 5)),
        lambda bank: torch.cat(clusters(bank, 2, least=3, most=30)),
        lambda bank: neighbours(bank, bank.centre[:40] + 0.4, bank.labels[:40]),
    ],
)
@pytest.mark.parametrize("away", [1e3, 1e4])
def test_features_that_lie_far_from_zero_lose_nothing(choose, away):
    """Distances are as exact as in float64, whatever offset all features share."""
    bank = make_bank((40, 30), d=64)
    centre = (bank.centre + away).float()
    banks = [
        FeatureBank(one, one.new_zeros(0, 70, 64), bank.labels, bank.indices, bank.class_names)
        for one in (centre, centre.double())
    ]
    assert torch.equal(choose(banks[0]), choose(banks[1]))
