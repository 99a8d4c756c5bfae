"""Inner layers: their features come from the encoder's own pass, and the objective is also applied to them."""

from __future__ import annotations

import os
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn

from conftest import TINY
from helpers_images import make_image_folder
from probedistill import (
    Callback,
    DistillConfig,
    Encoder,
    EncoderConfig,
    FeatureBank,
    UserError,
    distill,
    evaluate,
    extract_features,
    load_encoder,
    load_images,
)
from probedistill.distillation.objective import InnerLayers, load_method
from probedistill.objectives.layers import with_inner_layers
from probedistill.objectives.real import RealFeatures

NAMES = ("test_efficientnet", "test_resnet", "test_convnext")


def random_encoder(name: str = "test_efficientnet", size: int = 64) -> Encoder:
    args = {"img_size": size} if "vit" in name else {}
    return load_encoder(f"timm:{name}", pretrained=False, input_size=size, encoder_args=args, device="cpu")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return random_encoder()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_image_folder(tmp_path_factory.mktemp("photos"), per_class=6)


class Counted:
    """Counts the images that went through a model."""

    def __init__(self, encoder: Encoder) -> None:
        self.images = 0
        encoder.model.conv_stem.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.images += len(inputs[0])


# ---------------------------------------------------------------- the encoder


@pytest.mark.parametrize("name", NAMES)
def test_the_features_of_layers_follow_the_encoders_own(name):
    encoder = random_encoder(name)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    deep = encoder.with_layers(3)
    with torch.no_grad():
        own, all_of_them = encoder(images), deep(images)
    assert len(deep.widths) == 3
    assert deep.dim == encoder.dim + sum(deep.widths) == all_of_them.shape[1]
    torch.testing.assert_close(all_of_them[:, : encoder.dim], own)


def test_a_layers_features_are_mean_and_deviation_of_its_channels():
    encoder = random_encoder("test_resnet")
    seen: list[torch.Tensor] = []
    hook = encoder.model.layer4.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.rand(2, 3, 64, 64)
    deep = encoder.with_layers(1)
    with torch.no_grad():
        layer = deep(images)[:, encoder.dim :]
    hook.remove()
    maps = seen[-1]
    torch.testing.assert_close(layer[:, : maps.shape[1]], maps.mean(dim=(2, 3)))
    torch.testing.assert_close(layer[:, maps.shape[1] :], maps.var(dim=(2, 3), correction=0).add(1e-5).sqrt())


def test_weights_are_shared_and_told_apart_by_the_fingerprint(encoder):
    deep = encoder.with_layers(2)
    assert deep.model is encoder.model
    assert deep.plain is encoder
    assert encoder.plain is encoder
    assert len({encoder.fingerprint, deep.fingerprint, encoder.with_layers(3).fingerprint}) == 3
    assert encoder.with_layers(2).fingerprint == deep.fingerprint
    assert encoder.widths == ()


def test_a_flat_layer_has_a_gradient(encoder):
    deep = encoder.with_layers(3)
    images = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(deep(images)[:, encoder.dim :].sum(), images)
    assert bool(gradient.isfinite().all())


def test_an_encoder_that_gives_no_layers_stays_as_it_is(encoder):
    for other in (load_encoder(TINY), random_encoder("test_vit")):
        assert other.with_layers(3) is other
    assert encoder.with_layers(0) is encoder


def test_more_layers_than_exist_means_all(encoder):
    assert encoder.with_layers(99).widths == encoder.with_layers(5).widths


# ---------------------------------------------------------------- their features


def test_one_pass_gives_both_banks(folder, tmp_path):
    encoder = random_encoder()
    counted, images = Counted(encoder), load_images(f"folder:{folder}")
    deep = encoder.with_layers(3)
    counted.images = 0
    both = extract_features(deep, images, views=1, cache=tmp_path, progress=False)
    assert counted.images == 2 * len(images)
    plain = extract_features(encoder, images, views=1, cache=tmp_path, progress=False)
    assert counted.images == 2 * len(images)
    assert torch.equal(both.centre[:, : encoder.dim], plain.centre)
    assert torch.equal(both.augmented[..., : encoder.dim], plain.augmented)
    plain.check_encoder(encoder)


def test_columns_are_the_same_from_memory_and_from_files(encoder, folder, tmp_path):
    deep, images = encoder.with_layers(2), load_images(f"folder:{folder}")
    held = extract_features(deep, images, views=1, cache=tmp_path, progress=False)
    filed = extract_features(deep, images, views=1, cache=tmp_path, progress=False, max_memory=0)
    assert held.in_memory
    assert not filed.in_memory
    start, stop = encoder.dim, encoder.dim + deep.widths[0]
    rows = torch.tensor([5, 0, 7])
    wanted = held.all_views()[0][:, start:stop]
    for bank in (held, filed):
        columns = bank.columns(start, stop)
        assert columns.dim == deep.widths[0]
        assert torch.equal(columns.all_views(), wanted)
        assert torch.equal(torch.cat([block for block, _ in columns.blocks()]), wanted)
        assert torch.equal(columns.take(rows), wanted[rows])


# ---------------------------------------------------------------- the objective


def test_the_loss_is_the_features_and_the_mean_over_the_layers():
    z, t = torch.randn(6, 9, dtype=torch.float64), torch.arange(6) % 2
    parts = [lambda f, y, s, k=k: f.square().sum() * k + s for k in (1.0, 2.0, 3.0)]
    loss = with_inner_layers(parts[0], 4, [(2, parts[1]), (3, parts[2])], 0.5)
    own, first, second = z[:, :4], z[:, 4:6], z[:, 6:]
    expected = own.square().sum() + 7 + 0.25 * (2 * first.square().sum() + 3 * second.square().sum() + 14)
    torch.testing.assert_close(loss(z, t, 7), expected)


@pytest.mark.parametrize("method", ["clp", "sfm", "lgm"])
def test_the_objective_is_applied_to_each_layer(encoder, method):
    """With real features as synthetic ones, the loss is the sum of losses that are known for each layer."""
    deep, generator = encoder.with_layers(2), torch.Generator().manual_seed(3)
    features, labels = torch.randn(12, deep.dim, generator=generator), torch.arange(12) % 3
    z, t = torch.randn(6, deep.dim, generator=generator), torch.arange(6) % 3
    bank = FeatureBank(features, features.new_empty(0, 12, deep.dim), labels, torch.arange(12), ("a", "b", "c"))
    config = DistillConfig(method=method, layers=2, layer_weight=0.5, real_views=0).resolve()
    normalize = config.options()["normalize"]
    own = load_method(config)(RealFeatures(features[:, : encoder.dim], labels, 3, normalize))
    ends = [encoder.dim, encoder.dim + deep.widths[0], deep.dim]
    expected = own(z[:, : ends[0]], t, 0)
    for start, stop in pairwise(ends):
        real = RealFeatures(features[:, start:stop], labels, 3, normalize)
        expected = expected + 0.25 * load_method(config)(real)(z[:, start:stop], t, 0)
    torch.testing.assert_close(InnerLayers(deep, bank).beside(own, config)(z, t, 0), expected)


# ---------------------------------------------------------------- runs


def test_auto_uses_layers_and_the_single_methods_do_not():
    assert DistillConfig().resolve().layers == 3
    assert DistillConfig(layers=1).resolve().layers == 1
    assert {DistillConfig(method=method).resolve().layers for method in ("clp", "sfm", "lgm")} == {0}
    assert DistillConfig().resolve(without_images=True).layers == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": -1}, "layers -1"),
        ({"layers": 1.5}, "layers 1.5"),
        ({"layer_weight": -0.5}, "layer_weight -0.5"),
        ({"layer_weight": float("nan")}, "layer_weight nan"),
        ({"layers": 2, "method": "lgm", "lgm": {"fresh": True, "real_batch": -1}}, "lgm.fresh"),
    ],
)
def test_bad_values_are_one_line(options, words):
    with pytest.raises(UserError) as caught:
        DistillConfig.of(**options).resolve()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_transformer_has_its_own_recipe_unless_told_otherwise(folder, tmp_path):
    def recipe(encoder, **options):
        how = {"steps": 1, "progress": False, "evaluate_every": 0, "cache": tmp_path}
        run = distill(f"folder:{folder}", encoder, **how, **options).run
        return run.begun_from, run.config.lr, run.config.views, run.config.clp.ridge, run.config.augment.scale

    transformer, network = random_encoder("test_vit"), random_encoder()
    assert (transformer.is_transformer, network.is_transformer) == (True, False)
    assert recipe(network) == ("average", 0.02, 3, 10.0, (0.08, 1.0))
    assert recipe(transformer) == ("real", 0.01, 12, 3.0, (0.35, 1.0))
    assert recipe([network, transformer]) == ("real", 0.01, 12, 3.0, (0.35, 1.0))
    assert recipe(transformer, canvas={"init": "noise"}) == ("noise", 0.05, 3, 10.0, (0.35, 1.0))
    assert recipe(transformer, canvas={"init": "average"}, lr=0.02) == ("average", 0.02, 12, 3.0, (0.35, 1.0))
    assert recipe(transformer, augment={"scale": (0.08, 1.0)}) == ("real", 0.01, 12, 3.0, (0.08, 1.0))
    assert recipe(transformer, clp={"ridge": 0.5}, views=2)[2:4] == (2, 0.5)
    assert recipe(network, aim="transfer") == ("blend", 0.02, 3, 1.0, (0.08, 1.0))
    assert recipe(transformer, aim="transfer") == recipe(transformer)


@pytest.mark.slow
def test_which_options_have_no_effect_depends_on_the_encoder(folder, tmp_path):
    """A transformer starts from single photos and uses no layers; a convolutional model does."""
    how = {"steps": 1, "progress": False, "evaluate_every": 0, "cache": tmp_path}

    def said(encoder):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            distill(f"folder:{folder}", encoder, aim="transfer", canvas={"blend": 5}, **how)
        found = [one for one in caught if "without effect" in str(one.message)]
        assert all(one.filename == __file__ for one in found), "where the user has called"
        return [str(one.message).removeprefix("without effect: ") for one in found]

    assert said(random_encoder("test_vit")) == [
        "canvas.blend 5 is for canvas.init average or blend, but canvas.init is real",
        "aim transfer needs inner layers, but those of 'test_vit' cannot be used; "
        "those of convolutional timm models can",
    ]
    assert said(random_encoder()) == []


def test_views_for_a_transformer_are_the_same_in_distilling_and_scoring(folder, tmp_path):
    encoder, train = random_encoder("test_vit"), load_images(f"folder:{folder}")
    how = {"cache": tmp_path, "progress": False}
    made = distill(train, encoder, steps=1, evaluate_every=0, **how)
    protocol = {"probes": ["ridge"], "seeds": 1, "views": 2, **how}
    beside = evaluate(made, encoder, train, train, baselines=["random"], **protocol)
    alone = evaluate(None, encoder, train, train, baselines=["random"], **protocol)
    assert beside.context.augment == alone.context.augment == made.run.config.augment
    assert beside["random real"].top1 == alone["random real"].top1


@pytest.mark.slow
def test_layers_change_the_images_and_weight_0_switches_them_off(encoder, folder, tmp_path):
    def images(**options):
        how = {"method": "clp", "steps": 2, "progress": False, "evaluate_every": 0, "cache": tmp_path}
        return distill(f"folder:{folder}", encoder, **how, **options).images

    plain = images(layers=0)
    assert not torch.equal(images(layers=2), plain)
    torch.testing.assert_close(images(layers=2, layer_weight=0.0), plain, atol=2, rtol=0)


@pytest.mark.slow
def test_resumed_in_the_middle_the_images_are_the_same(folder, tmp_path):
    how = {"steps": 4, "progress": False, "evaluate_every": 0, "cache": tmp_path / "cache", "micro_batch": 4}
    encoder = EncoderConfig(encoder="timm:test_efficientnet", pretrained=False, input_size=64)
    whole = distill(f"folder:{folder}", encoder, **how)

    class Stops(Callback):
        def on_step(self, step):
            if step.step == 2:
                raise RuntimeError("stopped")

    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="stopped"):
        distill(f"folder:{folder}", encoder, **how, out=out, checkpoint_seconds=0, callbacks=[Stops()])
    again = distill(f"folder:{folder}", encoder, **how, out=out, resume=True)
    assert torch.equal(again.images, whole.images)
    assert again.run.config.layers == 3


def test_statistics_have_no_layers(run_cli, folder, tmp_path):
    stats = str(tmp_path / "a.stats")
    images = ["--images", f"folder:{folder}", "--encoder", TINY]
    assert run_cli("stats", *images, "--out", stats).code == 0
    line = run_cli("distill", "--stats", stats, "--encoder", TINY, "--layers", "2", "--out", tmp_path / "x").error()
    assert "layers 2" in line
    assert not os.path.exists(tmp_path / "x")


@pytest.mark.slow
def test_distill_uses_features_that_were_computed_before(run_cli, photos, tmp_path):
    options = ["--images", f"folder:{photos}", "--encoder", "timm:test_resnet@64", "--no-pretrained",
               "--cache", tmp_path / "cache"]  # fmt: skip

    def kept() -> list[str]:
        return sorted(path.parent.name for path in (tmp_path / "cache").rglob("shard-*"))

    assert run_cli("features", *options).code == 0
    before = kept()
    assert len(before) == 3, "of training images with and without inner layers, and of test images"
    assert run_cli("distill", *options, "--steps", 1, "--out", tmp_path / "run").code == 0
    assert kept() == before
