"""Features of views are computed once, for probes, baselines, seeds and later commands."""

from __future__ import annotations

import pytest
import torch

from conftest import TINY
from helpers_encoders import Tiny
from probedistill import AugmentConfig, UserError, load_encoder, load_images
from probedistill.encoders.encoder import Encoder
from probedistill.features.encode import encode, view_features
from probedistill.features.shards import bank_files
from probedistill.features.store import FeatureStore
from probedistill.store.tensors import load_tensors, save_tensors

HOW = {"views": 3, "augment": AugmentConfig(noise_prob=0.0), "seed": 1}


class Counted:
    """An encoder that counts the images it has seen."""

    def __init__(self, **options: object) -> None:
        self.encoder = load_encoder(TINY, device="cpu", **options)
        self.seen = 0
        self.encoder.model.register_forward_hook(self._count)

    def _count(self, model: object, inputs: object, output: torch.Tensor) -> None:
        self.seen += len(output)

    def take(self) -> int:
        seen, self.seen = self.seen, 0
        return seen


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def real(photos):
    return load_images(f"folder:{photos}", split="train")


def test_views_of_synthetic_images_are_encoded_once(tmp_path, counted, images):
    features = FeatureStore(tmp_path).synthetic_views(counted.encoder, images, **HOW)
    assert counted.take() == 12
    again = FeatureStore(tmp_path).synthetic_views(counted.encoder, images, **HOW)
    assert counted.take() == 0
    assert torch.equal(again, features)
    expected = view_features(counted.encoder, images, HOW["augment"], 3, seed=1)
    torch.testing.assert_close(features, expected)


def test_no_views_means_the_unaugmented_images(tmp_path, counted, images):
    features = FeatureStore(tmp_path).synthetic_views(counted.encoder, images, **{**HOW, "views": 0})
    torch.testing.assert_close(features, encode(counted.encoder, images)[None])


CHANGES = {
    "seed": {"seed": 2},
    "views": {"views": 4},
    "augment": {"augment": AugmentConfig(scale=(0.5, 1.0))},
}


@pytest.mark.parametrize("change", [*CHANGES, "pixels", "encoder"])
def test_anything_else_is_encoded_again(tmp_path, counted, images, change):
    store = FeatureStore(tmp_path)
    first = store.synthetic_views(counted.encoder, images, **HOW)
    other = Counted(encoder_args={"seed": 1}) if change == "encoder" else counted
    other.take()
    if change == "pixels":
        images = images.clone()
        images[0, 0, 0, 0] += 1 / 255
    features = store.synthetic_views(other.encoder, images, **{**HOW, **CHANGES.get(change, {})})
    assert other.take() == features.shape[0] * 4
    assert features.shape != first.shape or not torch.equal(features, first)


def test_a_real_image_is_encoded_once_whatever_the_other_images_are(tmp_path, counted, real):
    store = FeatureStore(tmp_path)
    first = store.real_views(counted.encoder, real, [3, 0, 5], **HOW)
    assert first.shape == (3, 3, counted.encoder.dim)
    assert counted.take() == 9
    second = FeatureStore(tmp_path).real_views(counted.encoder, real, [5, 1, 3, 3], **HOW)
    assert counted.take() == 3
    assert torch.equal(second[:, 0], first[:, 2])
    assert torch.equal(second[:, 2], first[:, 0])
    assert torch.equal(second[:, 3], first[:, 0])
    alone = FeatureStore(tmp_path / "other").real_views(counted.encoder, real, [1], **HOW)
    torch.testing.assert_close(second[:, 1], alone[:, 0])


def test_centre_crops_of_real_images(tmp_path, counted, real):
    features = FeatureStore(tmp_path).real_views(counted.encoder, real, [4, 2], **{**HOW, "views": 0})
    bank = FeatureStore(tmp_path, progress=False).of(counted.encoder, real)
    torch.testing.assert_close(features[0], bank.centre[[4, 2]])


def test_passes_count_what_is_not_encoded_yet(tmp_path, counted, images, real):
    store = FeatureStore(tmp_path, progress=False)
    encoder = counted.encoder
    assert store.passes_of_synthetic_views(encoder, images, **HOW) == 12
    store.synthetic_views(encoder, images, **HOW)
    assert store.passes_of_synthetic_views(encoder, images, **HOW) == 0
    store.real_views(encoder, real, [0, 1], **HOW)
    assert store.passes_of_real_views(encoder, real, [0, 1, 2], **HOW) == 3
    assert store.passes_of(encoder, real) == len(real)
    assert bank_files(encoder, real, 2, None, 0, tmp_path).passes == 3 * len(real)
    store.of(encoder, real)
    assert store.passes_of(encoder, real) == 0
    assert bank_files(encoder, real, 2, None, 0, tmp_path).passes == 2 * len(real)


def test_a_torn_file_is_recomputed(tmp_path, counted, images):
    features = FeatureStore(tmp_path).synthetic_views(counted.encoder, images, **HOW)
    path = next((tmp_path / "views").iterdir())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.warns(UserWarning, match="computing it again"):
        again = FeatureStore(tmp_path).synthetic_views(counted.encoder, images, **HOW)
    assert torch.equal(again, features)


@pytest.mark.parametrize(
    "change",
    [lambda t: t.pop("features"), lambda t: t.update(features=t["features"][:, :1]),
     lambda t: t.update(features=t["features"] * torch.nan), lambda t: t.update(indices=t["indices"][:1])],
    ids=["none", "fewer", "nan", "indices"],
)  # fmt: skip
def test_features_of_another_shape_are_recomputed(tmp_path, counted, real, change):
    """Their checksum is right, but they are not those of these images."""
    features = FeatureStore(tmp_path).real_views(counted.encoder, real, [0, 1], **HOW)
    path = next((tmp_path / "views").iterdir())
    tensors, metadata = load_tensors(path)
    change(tensors)
    save_tensors(path, tensors, metadata)
    with pytest.warns(UserWarning, match="computing it again"):
        again = FeatureStore(tmp_path).real_views(counted.encoder, real, [0, 1], **HOW)
    assert torch.equal(again, features)


class BrokenForRed(Tiny):
    def forward(self, images):
        redder = (images[:, 0] - images[:, 1]).mean((1, 2), keepdim=True)[:, 0]
        return torch.where(redder > 1, torch.nan, super().forward(images))


def test_features_of_synthetic_images_are_finite(tmp_path):
    encoder = Encoder(BrokenForRed(), name="mine", input_size=32)
    images = torch.zeros(3, 3, 32, 32)
    images[1, 0] = 1
    with pytest.raises(
        UserError, match="'mine' returns features that are not finite in fp32 for 1 of 3 images or views"
    ):
        encode(encoder, images)
    with pytest.raises(UserError, match="are not finite in fp32 for 2 of 6 images or views"):
        view_features(encoder, images, AugmentConfig(), 2, seed=0)


def test_an_image_that_is_gone_is_named(tmp_path, counted, real, monkeypatch):
    from probedistill.images.decode import UnreadableImageError

    def load(index: int) -> None:
        raise UnreadableImageError("cat/0.png: gone")

    monkeypatch.setattr(real, "load", load)
    with pytest.raises(UserError, match=r"cat/0.png: gone; it could be read when its features were computed"):
        FeatureStore(tmp_path).real_views(counted.encoder, real, [0], **HOW)
