"""``--preset paper`` is what the authors' code does, row by row of docs/fidelity.md.

The expected side is written from the description of their code, only with PyTorch: the library computes nothing of it.
Only random values (boxes, flips, seeds of noise, heads) come from the library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_engine import ConvEncoder
from torch import Tensor, nn
from torchvision.transforms import v2

from conftest import TINY
from probedistill import DistilledSet, distill, evaluate, load_encoder, load_images, load_splits
from probedistill.config import DistillConfig
from probedistill.distillation.canvas import Canvas
from probedistill.distillation.engine import Distiller, Loop, Tower
from probedistill.distillation.objective import load_method
from probedistill.features.encode import augmented_views
from probedistill.features.fresh import FreshBatches
from probedistill.features.views import Views, apply_views, draw_views, random_squares
from probedistill.objectives.real import RealFeatures
from probedistill.seeds import Stream, seed_of

CLASSES, VIEWS, SIDE, INPUT, DIM = 3, 4, 20, 16, 6


def paper(method: str, **options) -> DistillConfig:
    return DistillConfig.of(method=method, preset="paper", **options).resolve()


def real_features(count: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.cat([torch.arange(CLASSES), torch.randint(CLASSES, (count - CLASSES,), generator=generator) // 2])
    return torch.randn(count, DIM, generator=generator, dtype=torch.float64) + labels[:, None], labels


# ---- what the authors' code computes, from its description


def their_image(levels: list[Tensor], size: int) -> Tensor:
    """Levels are summed; colours are decorrelated by a matrix divided by the norm of its largest column."""
    root = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
    matrix = (root / max(float(column.norm()) for column in root.T)).to(levels[0])
    total = sum(F.interpolate(level, (size, size), mode="bilinear", align_corners=False) for level in levels)
    return torch.sigmoid(2 * torch.stack([sum(matrix[i, j] * total[:, j] for j in range(3)) for i in range(3)], dim=1))


def their_views(images: Tensor, views: Views, size: int) -> Tensor:
    """Crops by sampling: bilinear, zeros outside, no anti-aliasing; then noise of mean 0.5 and deviation 0.2."""
    results = []
    for image, box, flip, seed in zip(images, views.boxes, views.flips, views.noise_seeds, strict=True):
        left, top, width, height = box.tolist()
        centres = (torch.arange(size, dtype=images.dtype) + 0.5) / size
        x, y = 2 * (left + width * centres) - 1, 2 * (top + height * centres) - 1
        x = x.flip(0) if flip else x
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
        view = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        if seed >= 0:
            generator = torch.Generator().manual_seed(int(seed))
            view = view + (0.5 + 0.2 * torch.empty(view.shape).normal_(0, 1, generator=generator)).to(view)
        results.append(view)
    return torch.stack(results)


def their_lgm_loss(features: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor, weight: Tensor) -> Tensor:
    """One minus the cosine of two gradients of cross-entropy with respect to a head, by double backward."""
    head = nn.Linear(DIM, CLASSES).double()
    head.weight.data, head.bias.data = weight.clone(), torch.zeros(CLASSES, dtype=torch.float64)

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        parts = torch.autograd.grad(F.cross_entropy(head(x), y), list(head.parameters()), create_graph=True)
        return torch.cat([part.flatten() for part in parts])

    return 1 - F.cosine_similarity(gradient(features, labels), gradient(real, real_labels).detach(), dim=0)


def their_sfm_loss(features: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> Tensor:
    """One cosine over all flows; a flow points to the mean of the other classes' centres."""

    def flows(x: Tensor, y: Tensor) -> Tensor:
        centres = [x[y == c].mean(dim=0) for c in range(CLASSES)]
        others = [torch.stack(centres[:c] + centres[c + 1 :]).mean(dim=0) for c in range(CLASSES)]
        return torch.cat([other - centre for other, centre in zip(others, centres, strict=True)])

    return 1 - F.cosine_similarity(flows(features, labels), flows(real, real_labels), dim=0)


# ---- one step


def one_step(config: DistillConfig, fresh: Callable[[int, int], tuple[Tensor, Tensor]] | None = None) -> Distiller:
    """A distiller in float64 after one step, on a canvas larger than the encoder's input, with one level opened."""
    canvas = Canvas(CLASSES, SIDE, open_levels=1, dtype=torch.float64)
    canvas.fill_with_noise(config.canvas.init_noise, seed=0)
    canvas.open_noisy_level(seed=0)
    objective = load_method(config)(RealFeatures(*real_features(), CLASSES, fresh=fresh))
    loop = Loop(
        steps=config.steps, lr=config.lr, schedule=config.schedule, views=VIEWS, augment=config.augment,
        level_every=config.canvas.level_every, new_level=config.canvas.new_level, micro_batch=5,
    )  # fmt: skip
    return Distiller([Tower(ConvEncoder(), objective, 1.0, INPUT)], canvas, torch.arange(CLASSES), loop)


@pytest.mark.parametrize("method", ["lgm", "sfm"])
def test_a_step_equals_the_authors_step(method):
    config = paper(method)
    drawn = torch.randperm(60, generator=torch.Generator().manual_seed(3))[: CLASSES * VIEWS]
    asked = []

    def fresh(step: int, count: int) -> tuple[Tensor, Tensor]:
        asked.append((step, count))
        return tuple(part[drawn] for part in real_features())

    distiller = one_step(config, fresh if method == "lgm" else None)
    before = [level.clone() for level in distiller.canvas.levels]
    leaves = [level.clone().requires_grad_() for level in before]
    labels = torch.arange(CLASSES).repeat_interleave(VIEWS)
    views = draw_views(config.augment, len(labels), seed=seed_of(0, Stream.STEP_VIEWS, 0, 0))
    assert 0 < (views.noise_seeds >= 0).sum() < len(labels)
    images = their_image(leaves, SIDE).repeat_interleave(VIEWS, dim=0)
    features = ConvEncoder()(their_views(images, views, INPUT))
    if method == "lgm":
        generator = torch.Generator().manual_seed(seed_of(0, Stream.OBJECTIVE, 0))
        weight = (0.01 * torch.randn(CLASSES, DIM, generator=generator)).double()
        real, real_labels = real_features()
        loss = their_lgm_loss(features, labels, real[drawn], real_labels[drawn], weight)
    else:
        loss = their_sfm_loss(features, labels, *real_features())
    loss.backward()
    torch.testing.assert_close(distiller.step(), loss.detach(), rtol=1e-6, atol=1e-9)
    assert asked == ([(0, CLASSES * VIEWS)] if method == "lgm" else [])
    for level, leaf in zip(distiller.canvas.levels, leaves, strict=True):
        torch.testing.assert_close(level.grad, leaf.grad, rtol=1e-6, atol=1e-10)
        moved = leaf.detach() - 0.002 * leaf.grad / (leaf.grad.abs() + 1e-8)  # Adam's first step
        torch.testing.assert_close(level, moved, rtol=1e-5, atol=1e-7)


# ---- the rows of the table


@pytest.mark.parametrize(("method", "views"), [("lgm", 10), ("sfm", 1)])
def test_steps_learning_rate_and_sizes(method, views):
    config = paper(method)
    assert (config.steps, config.lr, config.schedule, config.views) == (5000, 2e-3, "constant", views)
    assert (config.canvas.size, config.canvas.level_every, config.canvas.init) == (256, 200, "noise")
    assert (config.augment.scale, config.augment.ratio, config.augment.flip) == ((0.08, 1), (3 / 4, 4 / 3), 0.5)


def test_real_images_enter_as_their_centre_crops_and_views_as_the_papers_cut_them():
    for method in ("lgm", "sfm", "clp"):
        config = paper(method)
        assert config.real_views == 0
        assert (config.augment.antialias, config.augment.pad, config.augment.real_crop) == (False, "zeros", 256)
        assert config.encoder_values == {"preprocess": "papers"}
        assert (config.canvas.new_level, config.canvas.colour, config.layers) == ("noise", "decorrelated", 0)


def test_our_reading_of_clp():
    config = paper("clp")
    assert (config.clp.ridge, config.clp.normalize_head, config.clp.mean, config.views) == (0.1, False, 0.0, 1)


def test_half_of_the_views_are_brightened():
    views = draw_views(paper("lgm").augment, 400, seed=1)
    grey = torch.full((400, 3, 4, 4), 0.25, dtype=torch.float64)
    whole = Views(
        torch.tensor([[0.25, 0.25, 0.5, 0.5]]).repeat(400, 1).double(), views.flips, views.noise_seeds, 0.2, 0.5
    )
    noise = apply_views(grey, whole, 8) - 0.25
    noisy = noise.flatten(1).abs().amax(dim=1) > 1e-6
    assert float(noisy.double().mean()) == pytest.approx(0.5, abs=0.08)
    assert float(noise[noisy].mean()) == pytest.approx(0.5, abs=0.01)
    assert float(noise[noisy].std()) == pytest.approx(0.2, abs=0.01)
    assert (views.noise_mean, views.noise_std) == (0.5, 0.2)


def test_pixels_beyond_the_edge_are_black():
    """An enlarged view of the whole image: its outermost samples lie between the image's pixels and black."""
    images = torch.rand(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2, dtype=torch.float64)
    views = Views(boxes, torch.tensor([False, True]), torch.full((2,), -1), antialias=False, zeros=True)
    torch.testing.assert_close(apply_views(images, views, 12), their_views(images, views, 12))
    edge = apply_views(images, replace(views, zeros=False), 12)
    assert (apply_views(images, views, 12)[:, :, 0] < edge[:, :, 0]).all()


def test_a_new_level_is_noise_and_adam_starts_again():
    config = paper("sfm", canvas={"level_every": 2})
    distiller = one_step(config)
    distiller.step()
    assert len(distiller.canvas.levels) == 2
    assert all(float(state["step"]) == 1 for state in distiller._optimizer.state.values())
    moved: list[Tensor] = []

    def after_update(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        moved[:] = [level.clone() for level in distiller.canvas.levels]

    handle = distiller._optimizer.register_step_post_hook(after_update)
    distiller.step()
    handle.remove()
    levels = distiller.canvas.levels
    assert len(levels) == 3
    for level, old in zip(levels, moved, strict=False):
        torch.testing.assert_close(level, old * 2 / 3, rtol=1e-12, atol=0)
    assert not distiller._optimizer.state
    distiller.step()
    assert [float(state["step"]) for state in distiller._optimizer.state.values()] == [1, 1, 1]


def test_the_noise_of_a_new_level_is_standard_normal_over_the_number_of_levels():
    canvas = Canvas(8, 64, open_levels=5)
    level = canvas.open_noisy_level(seed=0, first=0)
    assert float(level.std()) == pytest.approx(1 / 6, rel=0.02)
    assert float(level.mean()) == pytest.approx(0, abs=0.005)
    other = Canvas(3, 64, open_levels=5)  # another process's images
    assert torch.equal(other.open_noisy_level(seed=0, first=5), level[5:])
    assert not torch.equal(level[0], level[1])


def test_each_new_level_has_its_own_noise_from_the_runs_seed():
    """The noise differs from the start, from the level before, and from that of another seed."""
    drawn = []
    for seed in (0, 1):
        loop = Loop(steps=9, lr=1e-12, views=1, level_every=1, new_level="noise", seed=seed)
        canvas = Canvas(CLASSES, SIDE, open_levels=1, dtype=torch.float64)
        canvas.fill_with_noise(1.0, seed=seed)
        objective = load_method(paper("sfm"))(RealFeatures(*real_features(), CLASSES))
        distiller = Distiller([Tower(ConvEncoder(), objective, 1.0, INPUT)], canvas, torch.arange(CLASSES), loop)
        for _ in range(2):
            distiller.step()
        # Three levels, each N(0, 1) / 3 by now
        drawn += [3 * level.flatten()[:3] for level in canvas.levels]
    numbers = torch.cat(drawn)
    assert all(abs(float(a - b)) > 1e-6 for i, a in enumerate(numbers) for b in numbers[:i])


def test_real_images_are_random_squares_first():
    """Short side 256, a random square of 256, then the view."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    upright = photo.transpose(Image.Transpose.TRANSPOSE)
    resized = np.asarray(photo.resize((36, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    for squares in (random_squares(photo, 24, 40, seed=0), random_squares(upright, 24, 40, seed=0).mT):
        places = [
            [x for x in range(13) if np.allclose(square.numpy() * 255, resized[:, :, x : x + 24], atol=2)]
            for square in squares
        ]
        assert all(len(found) == 1 for found in places)
        assert {found[0] for found in places} > {0, 12}
    assert paper("lgm").augment.real_crop == 256
    views = augmented_views(photo, 16, 5, paper("lgm").augment, seed=2)
    assert views.shape == (5, 3, 16, 16)
    assert not torch.allclose(views[0], views[1], atol=0.05)


def test_lgm_draws_fresh_crops_of_a_fresh_batch(photos):
    config = paper("lgm")
    assert config.lgm.fresh
    assert config.lgm.real_batch == -1
    images, encoder = load_images(f"folder:{photos}"), load_encoder(TINY, device="cpu")
    fresh = FreshBatches(encoder, images, torch.arange(len(images)), config.augment)
    features, _ = fresh(0, 5)
    assert features.shape == (5, encoder.dim)
    assert torch.equal(fresh(0, 5)[0], features)  # depends only on the step, so a resumed run draws the same
    assert not torch.equal(fresh(1, 5)[0], features)
    everything = [fresh(step, 1000) for step in (0, 1)]
    for x, y in everything:
        assert len(x) == len(images)
        assert torch.bincount(y).tolist() == images.counts().tolist()
    rows = [x.sort(dim=0).values for x, _ in everything]  # the same photos in other crops
    assert not torch.allclose(*rows, atol=1e-4)


@pytest.mark.parametrize("size", [(148, 74), (74, 148), (74, 74)])
def test_every_encoder_gets_imagenets_statistics_and_the_papers_crop(size):
    encoder = load_encoder(TINY, device="cpu", preprocess="papers")
    assert encoder.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert encoder.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    side = encoder.input_size
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    theirs = v2.Compose([v2.Resize(round(side * 256 / 224)), v2.CenterCrop(side), v2.ToImage()])(photo) / 255
    torch.testing.assert_close(encoder.centre_view(photo), theirs, rtol=0, atol=1e-6)
    assert encoder.fingerprint != load_encoder(TINY, device="cpu").fingerprint


def test_on_a_larger_canvas_the_papers_views_see_the_middle():
    """Canvas 256, view 224: the unresized centre crop, as for real images; `own` sees the whole image, smaller."""
    encoder = load_encoder(TINY, device="cpu", preprocess="papers")
    side = encoder.input_size
    edge = round(side * 256 / 224)
    canvas = torch.rand(2, 3, edge, edge, generator=torch.Generator().manual_seed(0))
    middle = v2.functional.center_crop(canvas, [side, side])
    torch.testing.assert_close(encoder(canvas), encoder(middle), rtol=0, atol=1e-6)
    own = load_encoder(TINY, device="cpu")
    assert not torch.allclose(own(canvas), own(middle), atol=1e-4)


def test_a_paper_runs_scores_use_the_middle_of_its_images(photos):
    train, test = load_splits(f"folder:{photos}")
    encoder = load_encoder(TINY, device="cpu", preprocess="papers")
    edge = round(encoder.input_size * 256 / 224)
    made = distill(train, encoder, method="sfm", preset="paper", steps=2, canvas={"size": edge}, progress=False)
    cut = v2.functional.center_crop(made.float_images, [encoder.input_size] * 2)
    whole, middle = (
        evaluate(one, encoder, None, test, probes=["1nn"], views=0, seeds=1, progress=False).rows[0]
        for one in (made, replace(made, float_images=cut))
    )
    assert whole.scores == middle.scores


@pytest.mark.parametrize(
    ("words", "part", "option", "value"),
    [
        (("--augment", "none"), "augment", "kind", "none"),
        (("--canvas.kind", "pixels"), "canvas", "kind", "pixels"),
        (("--canvas.colour", "none"), "canvas", "colour", "none"),
        (("--canvas.size", 40), "canvas", "size", 40),
    ],
)
def test_each_ablation_is_one_option_of_the_command(distil_cli, tmp_path, words, part, option, value):
    made = distil_cli(*words, "--preset", "paper", "--method", "sfm", "--out", tmp_path / "run", steps=1)
    assert made.code == 0, made.err
    config = DistilledSet.load(tmp_path / "run").run.config
    assert getattr(getattr(config, part), option) == value


def test_the_ablations_of_the_paper():
    """No augmentation; no pyramid, but decorrelation; no decorrelation, but a pyramid."""
    whole = paper("lgm")
    plain = paper("lgm", augment={"kind": "none"})
    assert plain.canvas == whole.canvas
    views = draw_views(plain.augment, 4, seed=0)
    images = torch.rand(4, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(apply_views(images, views, 9), images)
    for option, value in (("kind", "pixels"), ("colour", "none"), ("size", 224)):
        changed = paper("lgm", canvas={option: value})
        same = [name for name in vars(whole.canvas) if getattr(whole.canvas, name) == getattr(changed.canvas, name)]
        assert set(vars(whole.canvas)) - set(same) == {option}
        assert changed.augment == whole.augment


# ---- what our defaults do otherwise


def test_our_sfm_differs_from_the_authors_code_on_unbalanced_data():
    features, labels = real_features()
    z = torch.randn(CLASSES * 2, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    t = torch.arange(CLASSES).repeat(2)
    theirs = their_sfm_loss(z, t, features, labels)
    losses = {}
    for cosine in ("classes", "all"):
        for others in ("samples", "centres"):
            config = DistillConfig.of(method="sfm", sfm={"cosine": cosine, "others": others})
            losses[cosine, others] = load_method(config)(RealFeatures(features, labels, CLASSES))(z, t, 0)
    torch.testing.assert_close(losses["all", "centres"], theirs, rtol=1e-12, atol=0)
    assert len({round(float(loss), 6) for loss in losses.values()}) == 4
