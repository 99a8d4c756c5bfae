"""Features depend only on the image: encoders for which that is not true are refused in one line."""

from __future__ import annotations

import copy
import random
import re
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from conftest import TINY
from helpers_encoders import Tiny, close, pictures
from probedistill import Encoder, UserError, evaluate, load_encoder, load_splits
from probedistill.encoders.checks import example_images


class Wrong(Tiny):
    """Tiny, with one fault."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        how, self.calls = self.how, self.calls + 1
        if how == "no_grad":
            with torch.no_grad():
                return super().forward(images)
        if how == "inference_mode":
            with torch.inference_mode():
                return super().forward(images)
        if how == "masked":
            keep = torch.rand(len(images), 1, *images.shape[2:]) > 0.5
            return super().forward(images * keep)
        if how == "random crop":
            return super().forward(images.roll(int(torch.randint(1, 16, ())), 3) if self.calls % 2 else images)
        features = super().forward(images)
        return {
            "detach": lambda: features.detach(),
            "through numpy": lambda: torch.from_numpy(features.detach().numpy()),
            "rounded": lambda: (1000 * features).round(),
            "dropout": lambda: F.dropout(features, 0.1, training=True),
            "noise": lambda: features + 0.05 * torch.randn_like(features),
            "batch norm": lambda: F.batch_norm(features, None, None, training=True),
            "the batch's mean": lambda: features - features.mean(0),
            "what came before": lambda: features.cumsum(0),
            "its place": lambda: features * torch.arange(1, len(features) + 1).unsqueeze(1),
            "two at most": lambda: torch.cat([features[i : i + 1] for i in range(2)][: len(features)]),
            "constant": lambda: features * 0 + 1,
            "zero": lambda: features * 0,
            "collapsed": lambda: 1e-8 * features + torch.linspace(1, 2, 24),
            "nan": lambda: features / (features - features),
            "infinite": lambda: features * 1e38 * 1e38,
            "one for all": lambda: features.mean(0, keepdim=True),
            "one dimension": lambda: features[:, 0],
            "of another length": lambda: features[:, : 5 + self.calls],
            "in a list": lambda: [features],
            "complex": lambda: torch.fft.fft(features),
            "sparse": lambda: features.to_sparse(),
            "of the first half alone": lambda: torch.cat([features[:, :12], features[:, 12:].detach()], 1),
            "rounded in part": lambda: torch.where(torch.arange(24) // 12 == 0, (1000 * features).round(), features),
            "constant in part": lambda: torch.cat([features[:, :12], torch.ones(len(features), 12)], 1),
            "of one image alone": lambda: torch.cat([features[:1], features[1:].detach()]),
        }[how]()


def load(how: str) -> Encoder:
    return Encoder(Wrong(how), name="mine", input_size=32)


@pytest.mark.parametrize("how", ["dropout", "masked", "noise", "random crop", "of another length"])
def test_features_that_differ_each_time(how):
    with pytest.raises(
        UserError, match=r"^encoder 'mine' gives different features for the same images each time; switch"
    ):
        load(how)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("batch norm", "cannot take a single image (Expected more than 1 value"),
        ("what came before", "gives an image different features if the batch has other images"),
        ("its place", "gives an image different features if the batch has other images"),
        ("the batch's mean", "gives an image different features if the batch has other images"),
    ],
)
def test_features_that_depend_on_the_other_images(how, says):
    with pytest.raises(UserError, match=rf"^encoder 'mine' {re.escape(says)}.*must use stored statistics"):
        load(how)


def test_an_encoder_takes_any_number_of_images():
    with pytest.raises(UserError, match="gives an image different features if the batch has other images"):
        load("two at most")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("constant", "gives a dark and a bright image the same features"),
        ("collapsed", "gives a dark and a bright image the same features"),
        ("zero", "gives a dark and a bright image the same features"),
        ("nan", "returns features that are not finite in fp32"),
        ("infinite", "returns features that are not finite in fp32"),
        ("one for all", r"returns features of shape \(1, 24\)"),
        ("one dimension", r"returns features of shape \(2,\)"),
        ("in a list", "returns list; it must return a tensor"),
        ("complex", "returns complex features; it must return a plain tensor of real numbers"),
        ("sparse", "returns sparse features"),
    ],
)
def test_objects_that_are_not_features(how, says):
    with pytest.raises(UserError, match=says) as error:
        load(how)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "detach", "through numpy", "rounded"])
def test_distillation_needs_a_gradient_and_evaluation_does_not(how, monkeypatch, photos, distil_cli, tmp_path):
    module = types.ModuleType("without_gradient")
    module.make = lambda: Wrong(how)
    monkeypatch.setitem(sys.modules, "without_gradient", module)
    out = tmp_path / "run"
    error = distil_cli("--out", out, "--device", "cpu", encoder="module:without_gradient:make").error()
    assert "encoder 'without_gradient:make' lets no gradient through to its images" in error
    assert not out.exists()
    encoder = load_encoder("module:without_gradient:make", device="cpu")
    train, test = load_splits(f"folder:{photos}")
    scores = evaluate(None, encoder, train, test, seeds=1, views=0, baselines=["full"], cache=tmp_path, progress=False)
    assert len(scores.rows) == 1


def test_every_image_needs_a_gradient():
    with pytest.raises(UserError, match="it is zero for one of two images"):
        load("of one image alone").check_gradient()


@pytest.mark.parametrize(
    ("how", "which"), [("of the first half alone", "12 to 17 and 18 to 23"), ("rounded in part", "0 to 5 and 6 to 11")]
)
def test_every_part_of_the_features_needs_a_gradient(how, which):
    with pytest.raises(UserError, match=f"it is zero for features {which} of 24"):
        load(how).check_gradient()


class DropsWithAGradient(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return F.dropout(super().forward(images), 0.2, training=torch.is_grad_enabled())


def test_features_are_the_same_with_and_without_a_gradient():
    with pytest.raises(UserError, match="'mine' gives different features while a gradient is computed; switch"):
        Encoder(DropsWithAGradient(), name="mine", input_size=32).check_gradient()


def test_features_that_are_the_same_for_all_images_need_none():
    load("constant in part").check_gradient()


def test_an_encoder_with_a_gradient_is_taken():
    load_encoder(TINY, device="cpu").check_gradient()
    load_encoder(TINY, device="cpu", precision="fp16").check_gradient()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"])
def test_rounding_is_not_a_fault(name, precision):
    load_encoder(f"timm:{name}", pretrained=False, input_size=32, device="cpu", precision=precision).check_gradient()


def test_examples_are_images():
    images = example_images(48, torch.device("cpu"))
    assert images.shape == (2, 3, 48, 48)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert torch.equal(images, example_images(48, torch.device("cpu")))


def test_loading_draws_no_random_numbers():
    model = Tiny()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Encoder(model, name="tiny", input_size=32).check_gradient()
    assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------- what shows once in a while, or in part


class Does(Tiny):
    """Tiny with its own forward pass: `how` of itself and the images."""

    def __init__(self, how: Callable[[Does, Tensor], Tensor]) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("kept", torch.zeros(24))

    def forward(self, images: Tensor) -> Tensor:
        return self.how(self, images)

    def usual(self, images: Tensor) -> Tensor:
        return super().forward(images)


def does(how: Callable[[Does, Tensor], Tensor], **options: Any) -> Encoder:
    return Encoder(Does(how), name="mine", input_size=32, **options)


@pytest.mark.parametrize("draw", [lambda: float(torch.rand(())), random.random, lambda: np.random.rand()])  # noqa: NPY002
def test_occasional_randomness_is_noticed(draw):
    torch.manual_seed(0), random.seed(1), np.random.seed(0)  # noqa: NPY002
    with pytest.raises(UserError, match="gives different features for the same images each time"):
        does(lambda model, images: model.usual(images) * (2.0 if draw() < 0.2 else 1.0))


@pytest.mark.parametrize(("precision", "noise"), [("fp32", 5e-4), ("bf16", 2e-2)])
def test_little_noise_is_not_mistaken_for_rounding(precision, noise):
    def noisy(model: Does, images: Tensor) -> Tensor:
        return model.usual(images) * (1 + noise * torch.randn(len(images), 24))

    with pytest.raises(UserError, match="gives different features for the same images each time"):
        does(noisy, precision=precision)


def test_tokens_in_another_order_are_not_noise():
    """A masked autoencoder shuffles its tokens even without a mask, which makes half a percent in bfloat16."""

    def shuffled(model: Does, images: Tensor) -> Tensor:
        return model.usual(images) * (1 + 4e-3 * torch.randn(len(images), 24))

    torch.manual_seed(0)
    does(shuffled, precision="bf16")


def test_random_numbers_without_a_consequence_do_not_matter():
    does(lambda model, images: model.usual(images) + 0 * torch.rand(24))


def test_statistics_that_are_updated_in_evaluation():
    """They change so slowly that two passes agree, but not over ten thousand images."""

    def centred(model: Does, images: Tensor) -> Tensor:
        features = model.usual(images)
        model.kept.lerp_(features.detach().mean(0), 1e-4)
        return features - model.kept

    with pytest.raises(UserError, match="'mine' changes its own weights or statistics in each pass"):
        does(centred)


def reassigned(model: Does, mean: Tensor) -> None:
    model.kept = model.kept.lerp(mean, 1e-4)


def written_past_autograd(model: Does, mean: Tensor) -> None:
    model.kept.data.lerp_(mean, 1e-4)


def annealed(model: Does, mean: Tensor) -> None:
    model.heat = getattr(model, "heat", 1.0) * 0.99999
    model.kept.data = mean * 0 + 1 - model.heat


def collected(model: Does, mean: Tensor) -> None:
    model.bank = [*getattr(model, "bank", []), mean]
    model.kept = 1e-3 * torch.stack(model.bank).mean(0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("changes", [reassigned, written_past_autograd, annealed, collected])
def test_a_state_that_follows_the_images_is_noticed_wherever_it_is(changes, precision):
    strength = 1 if precision == "fp32" else 100

    def centred(model: Does, images: Tensor) -> Tensor:
        features = model.usual(images)
        changes(model, features.detach().float().mean(0))
        return features - strength * model.kept

    with pytest.raises(UserError, match=r"(changes its own weights or statistics|different features for the same)"):
        does(centred, precision=precision)


def test_what_a_model_remembers_without_using_it_does_not_matter():
    def watched(model: Does, images: Tensor) -> Tensor:
        features = model.usual(images)
        model.calls, model.last = getattr(model, "calls", 0) + 1, features.detach()
        model.kept = features.detach().mean(0)
        return features

    does(watched)


@pytest.mark.parametrize("draws", [np.random.default_rng(0), random.Random(0), torch.Generator().manual_seed(0)])
def test_a_models_own_generator_is_noticed(draws):
    def skips(model: Does, images: Tensor) -> Tensor:
        own = isinstance(model.draws, torch.Generator)
        number = float(torch.rand((), generator=model.draws)) if own else model.draws.random()
        return model.usual(images) * (2.0 if number < 0.1 else 1.0)

    model = Does(skips)
    model.draws = copy.deepcopy(draws) if not isinstance(draws, torch.Generator) else draws
    with pytest.raises(UserError, match="gives different features for the same images each time"):
        Encoder(model, name="mine", input_size=32)


@pytest.mark.parametrize("library", ["torch", "numpy", "random"])
def test_an_encoder_that_seeds_for_the_whole_program_is_noticed(library):
    seed = {"torch": torch.manual_seed, "numpy": np.random.seed, "random": random.seed}[library]
    draw = {"torch": lambda: torch.rand(()), "numpy": np.random.random, "random": random.random}[library]

    def seeds(model: Does, images: Tensor) -> Tensor:
        seed(0)
        return model.usual(images) * (1 + 0.1 * draw())

    with pytest.warns(UserWarning, match="encoder 'mine' seeds the random numbers of the whole program in each pass"):
        Encoder(Does(seeds), name="mine", input_size=32)


def test_an_encoder_that_draws_or_keeps_the_callers_numbers_is_not_taken_for_one_that_seeds():
    def draws(model: Does, images: Tensor) -> Tensor:
        torch.rand(())
        return model.usual(images)

    def draws_once(model: Does, images: Tensor) -> Tensor:
        if not hasattr(model, "drawn"):
            torch.manual_seed(0)
            model.drawn = random.random()
        return model.usual(images)

    def restores(model: Does, images: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return model.usual(images) * (1 + 0.1 * torch.rand(()))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for does in (draws, draws_once, restores):
            Encoder(Does(does), name="mine", input_size=32)


def test_precision_is_the_encoders_whatever_the_caller_has_set():
    images, encoders = (
        pictures(2, 32),
        [Encoder(Tiny(), name="t", input_size=32, precision=p) for p in ("fp32", "bf16")],
    )
    expected = [encoder(images) for encoder in encoders]
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(encoder(images), old) for encoder, old in zip(encoders, expected, strict=True))


def test_features_in_the_memory_of_the_previous_ones():
    memory = torch.zeros(9, 24)
    with pytest.raises(UserError, match="returns its features in the same memory each time; return a copy"):
        does(lambda model, images: memory[: len(images)].copy_(model.usual(images)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # torch warns of passes without a gradient
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_may_be_checkpointed(reentrant, monkeypatch, distil_cli, tmp_path):
    class Saves(Tiny):
        def forward(self, images):
            return checkpoint(super().forward, images, use_reentrant=reentrant)

    Encoder(Saves(), name="saves", input_size=32).check_gradient()
    module = types.ModuleType("saving")
    module.make = Saves
    monkeypatch.setitem(sys.modules, "saving", module)
    assert distil_cli("--out", tmp_path / "run", "--device", "cpu", encoder="module:saving:make").code == 0


def test_mixing_four_images_is_noticed():
    def by_four(model: Does, images: Tensor) -> Tensor:
        return torch.cat([part - part.mean(0) * (len(part) == 4) for part in model.usual(images).split(4)])

    with pytest.raises(UserError, match="gives an image different features if the batch has other images"):
        does(by_four)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_features_are_refused():
    with pytest.raises(UserError, match="returns nested features; it must return a plain tensor"):
        does(lambda model, images: torch.nested.nested_tensor(list(model.usual(images))))


CUT = {
    "a branch": lambda model, images: model.usual(images) + model.usual(images.detach()),
    "a channel": lambda model, images: model.usual(torch.cat([images[:, :2], images[:, 2:].detach()], 1)),
    "half of the image": lambda model, images: model.usual(torch.cat([images[..., :16], images[..., 16:].detach()], 3)),
    "another sign": lambda model, images: model.usual(2 * images.detach() - images),
}


@pytest.mark.parametrize("how", CUT)
def test_a_partly_cut_gradient_is_reported(how):
    encoder = does(CUT[how])
    with pytest.warns(UserWarning, match=r"the gradient of encoder 'mine' is wrong: it differs by .*% from"):
        encoder.check_gradient()


@pytest.mark.parametrize(
    "how",
    [
        lambda model, images: model.usual(images),
        lambda model, images: F.normalize(model.usual(images)),
        lambda model, images: model.usual(images) + 1e4,
        lambda model, images: model.usual(images.clamp(-0.1, 0.1)),
        lambda model, images: model.usual(images + ((images * 255).round() / 255 - images).detach()),
        lambda model, images: torch.fake_quantize_per_tensor_affine(model.usual(images), 0.05, 0, -128, 127),
    ],
    ids=["plain", "normalised", "far from zero", "clamped", "rounded, with a gradient", "features on a grid"],
)
def test_kinks_steps_and_rounding_are_not_reported(how, recwarn):
    does(how).check_gradient()
    assert not [said for said in recwarn if "gradient" in str(said.message)]


@pytest.mark.slow
def test_many_kinks_are_not_reported(recwarn):
    torch.manual_seed(9)
    Encoder(timm.create_model("tf_efficientnet_lite4", num_classes=0), name="mine", input_size=64).check_gradient()
    assert not [said for said in recwarn if "gradient" in str(said.message)]


@pytest.mark.parametrize(
    "images",
    [
        (255 * pictures()).byte(), pictures().numpy(), pictures().permute(0, 2, 3, 1), pictures()[0, 0],
        torch.rand(2, 4, 32, 32),
    ],
    ids=["bytes", "array", "channels at the end", "one channel", "with transparency"],
)  # fmt: skip
def test_objects_that_are_not_batches_of_images(images):
    with pytest.raises(UserError, match=r"images are .*; give a tensor of floats \(n, 3, H, W\), from 0 to 1"):
        Encoder(Tiny(), name="tiny", input_size=32)(images)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_in_another_precision(dtype):
    encoder = Encoder(Tiny(), name="tiny", input_size=32)
    assert close(encoder(pictures().to(dtype)), encoder(pictures()), 1e-2)


# ---------------------------------------------------------------- stored otherwise, written otherwise


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_in_other_dtypes_are_computed_in_float32(dtype):
    stored = Tiny().to(dtype)
    encoder = Encoder(stored, name="tiny", input_size=32)
    assert {value.dtype for value in encoder.state_dict().values() if value.is_floating_point()} == {torch.float32}
    reference = Tiny()
    reference.load_state_dict({name: value.to(dtype).float() for name, value in Tiny().state_dict().items()})
    expected = Encoder(reference, name="tiny", input_size=32)
    assert expected.fingerprint == encoder.fingerprint
    with torch.no_grad():
        assert close(encoder(pictures()), expected(pictures()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_in_other_dtypes_become_float32(dtype, monkeypatch, distil_cli, tmp_path):
    class Gives(Tiny):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).to(dtype)

    module = types.ModuleType("gives_otherwise")
    module.make = Gives
    monkeypatch.setitem(sys.modules, "gives_otherwise", module)
    assert load_encoder("module:gives_otherwise:make", device="cpu")(pictures()).dtype == torch.float32
    assert distil_cli("--out", tmp_path / "run", "--device", "cpu", encoder="module:gives_otherwise:make").code == 0
    assert Encoder(Gives(), name="mine", input_size=32).double()(pictures().double()).dtype in (torch.float32, dtype)


@pytest.mark.filterwarnings("ignore")  # torch is moving its quantisation elsewhere
def test_quantised_models_are_refused_in_one_line():
    """They have tuples and types among their weights, and round an image depending on the rest of the batch."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    with pytest.raises(UserError, match="gives an image different features if the batch has other images"):
        Encoder(quantised, name="int8", input_size=16)


class EndsInView(nn.Module):
    input_size = 32

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(8))

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)
        return features.view(features.size(0), -1)


@pytest.mark.parametrize("fold", [True, False])
def test_encoders_may_flatten_with_view(fold):
    encoder = Encoder(EndsInView(), name="mine", input_size=32, fold_batchnorm=fold)
    encoder.check_gradient()
    with torch.no_grad():
        expected = EndsInView().eval()((pictures(3) - encoder.mean) / encoder.std)
        assert close(encoder(pictures(3)), expected)
        assert close(encoder(pictures(3).contiguous(memory_format=torch.channels_last)), expected)


class ViewsItsWeights(Tiny):
    """A convolution that normalises its weights through a view of them."""

    def forward(self, images: Tensor) -> Tensor:
        weight = self.body[3].weight
        norms = weight.view(len(weight), -1).norm(dim=1)
        return F.conv2d(self.body[:3](images), weight / norms.view(-1, 1, 1, 1)).mean((2, 3))


class HoldsAVolume(Tiny):
    """Weights of five dimensions cannot be channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Parameter(torch.ones(1, 2, 3, 4, 1))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * self.volume.sum()


@pytest.mark.parametrize("kind", [ViewsItsWeights, HoldsAVolume])
def test_weights_may_need_the_contiguous_memory_format(kind):
    encoder = Encoder(kind(), name="mine", input_size=32)
    encoder.check_gradient()
    with torch.no_grad():
        assert close(encoder(pictures(3)), kind().eval()((pictures(3) - encoder.mean) / encoder.std))


class Patches(nn.Module):
    """Patches by ``as_strided``: in the other memory format they contain other pixels, without an error."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(48, 8)

    def forward(self, images: Tensor) -> Tensor:
        steps = (3 * 1024, 1024, 8 * 32, 8, 32, 1)
        return self.layer(images.as_strided((len(images), 3, 4, 4, 8, 8), steps).mean((4, 5)).flatten(1))


def test_encoders_may_depend_on_the_memory_format():
    encoder = Encoder(Patches(), name="mine", input_size=32)
    encoder.check_gradient()
    with torch.no_grad():
        assert close(encoder(pictures(3)), Patches()((pictures(3) - encoder.mean) / encoder.std))


class Doubles(torch.autograd.Function):
    """A user's own layer whose backward pass flattens with ``.view``."""

    @staticmethod
    def forward(ctx, images):
        return 2 * images

    @staticmethod
    def backward(ctx, gradient):
        return (2 * gradient.view(len(gradient), -1)).view(gradient.shape)


class FlattensGradients(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return Doubles.apply(self.body[:3](images)).mean((2, 3))


def test_backward_passes_may_flatten_with_view():
    encoder = Encoder(FlattensGradients(), name="mine", input_size=32)
    encoder.check_gradient()
    images = pictures().requires_grad_()
    encoder(images).sum().backward()
    assert images.grad.isfinite().all()


def test_scripted_and_traced_models_are_encoders():
    expected = Encoder(Tiny(), name="tiny", input_size=32)(pictures())
    for model in (torch.jit.script(Tiny()), torch.jit.trace(Tiny().eval(), pictures())):
        encoder = Encoder(model, name="tiny", input_size=32, mean=(0.485, 0.456, 0.406))
        encoder.check_gradient()
        assert close(encoder(pictures()), expected)


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.LazyConv2d(8, 5), nn.Flatten()), torch.export.export(Tiny(), (pictures(),)).module()]
)
def test_models_that_cannot_be_frozen(model):
    with pytest.raises(UserError, match=r"encoder 'mine' cannot be frozen .*; give a torch.nn.Module with all its"):
        Encoder(model, name="mine", input_size=32)


# ---------------------------------------------------------------- what a model says of its images


@pytest.mark.parametrize(
    "mean", [0.5, [0.5] * 3, torch.full((3,), 0.5), torch.full((3,), 0.5).numpy(), torch.full((1, 3, 1, 1), 0.5)]
)
def test_mean_and_deviation_in_any_form(mean):
    encoder = Encoder(Tiny(), name="tiny", input_size=32, mean=mean, std=mean)
    assert (
        encoder.fingerprint == Encoder(Tiny(), name="tiny", input_size=32, mean=(0.5,) * 3, std=(0.5,) * 3).fingerprint
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, "images are in [0, 1], so divide mean and std by 255"),
        ({"mean": (0.5, 0.5)}, "mean (0.5, 0.5) cannot be used (2 of them); give three numbers"),
        ({"mean": None}, "mean None cannot be used"),
        ({"mean": torch.zeros(1, 2, 1, 1)}, "mean tensor([[[[0.]], [[0.]]]]) cannot be used (2 of them)"),
        ({"mean": (float("nan"), 0, 0)}, "images are in [0, 1]"),
        ({"std": (0.2, 0.0, 0.2)}, "has std (0.2, 0.0, 0.2); give numbers above 0"),
        ({"std": ("a", "b", "c")}, "cannot be used"),
        ({"crop_pct": 0}, "has crop_pct 0; give a number from 0.05 to 1"),
        ({"crop_pct": float("nan")}, "has crop_pct nan"),
        ({"crop_pct": 10**400}, "has crop_pct 1000"),
        ({"mean": 10**400}, "cannot be used (int too large to convert to float)"),
        ({"std": [10**400] * 3}, "give numbers above 0"),
        ({"std": torch.ones(3, device="meta")}, "cannot be used (Cannot copy out of meta tensor"),
        ({"crop_pct": 1e-6}, "has crop_pct 1e-06"),
        ({"crop_pct": "0.9"}, "has crop_pct '0.9'"),
    ],
)
def test_impossible_preparation_of_images(options, says):
    with pytest.raises(UserError, match=f"^encoder 'tiny'.*{re.escape(says)}"):
        Encoder(Tiny(), name="tiny", input_size=32, **options)


def test_a_buffer_in_float64_is_computed_in_float32():
    def times_one(model: Does, images: Tensor) -> Tensor:
        return model.usual(images * model.one)

    model = Does(times_one)
    model.register_buffer("one", torch.ones(1, dtype=torch.float64))
    assert close(Encoder(model, name="mine", input_size=32)(pictures()), does(Does.usual)(pictures()))


def test_weights_on_the_meta_device():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten())
    with pytest.raises(UserError, match="its weights are on the device 'meta', which holds none"):
        Encoder(model, name="mine", input_size=32)


def test_other_encoders_take_images_channels_last():
    seen = []
    encoder = Encoder(Tiny(), name="tiny", input_size=32)
    encoder.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(pictures())
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_a_model_that_was_made_in_inference_mode(recwarn):
    def make() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 49, 6))
        model.append(nn.Linear(6, 6))[-1].weight = model.append(nn.Linear(6, 6))[-1].weight  # tied
        return model

    usual = Encoder(make(), name="mine", input_size=32)
    with torch.inference_mode():
        model = make()
    encoder = Encoder(model, name="mine", input_size=32)
    encoder.check_gradient()
    assert encoder.fingerprint == usual.fingerprint
    assert model[4].weight is model[5].weight
    assert torch.equal(encoder(pictures(32)), usual(pictures(32)))
    assert not recwarn
