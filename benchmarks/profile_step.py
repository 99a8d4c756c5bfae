"""Where the time of a step goes: the share spent in the encoder (forward and backward), per method.

    python benchmarks/profile_step.py        # under a minute on two cores

EfficientNet-Lite0 at 112 px, 10 classes, 3 views. The encoder is timed inside the step; "rest" is the step without it:
canvas, views, objective and Adam, each of which is also timed separately.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from _common import argument_parser, keep
from probedistill import Canvas, Distiller, Loop, Tower, load_encoder
from probedistill.config import AugmentConfig
from probedistill.features.views import apply_views, draw_views
from probedistill.objectives.clp import clp_objective
from probedistill.objectives.lgm import lgm_objective
from probedistill.objectives.real import RealFeatures
from probedistill.objectives.sfm import sfm_objective

CLASSES, VIEWS, SIZE, REPEATS = 10, 3, 112, 15


class TimedEncoder:
    """Times the encoder's forward pass, and its backward pass by hooks on its input and output."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        self.encoder, self.seconds, self._started = encoder, 0.0, 0.0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        images = images * 1  # a separate node, so that the hook fires after the whole encoder
        features = self.encoder(images)
        self.seconds += time.perf_counter() - started
        if features.requires_grad:
            features.register_hook(lambda _: self._start())
            images.register_hook(lambda _: self._stop())
        return features

    def _start(self) -> None:
        self._started = time.perf_counter()

    def _stop(self) -> None:
        self.seconds += time.perf_counter() - self._started


def median_seconds(function: Callable[[], object]) -> float:
    """Median over repeats, after one warm-up."""
    function()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    argument_parser(__doc__).parse_args()
    encoder = load_encoder("efficientnet_lite0", input_size=SIZE)
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(CLASSES).repeat_interleave(300)
    real = RealFeatures(torch.randn(len(y), encoder.dim, generator=generator).abs(), y, CLASSES, "center_l2")
    objectives = {
        "sfm": sfm_objective(real),
        "lgm": lgm_objective(real, sigma=0.01, balanced=True),
        "clp": clp_objective(real, ridge=3.0, temperature=0.1, real_per_class=60),
    }
    labels, results = torch.arange(CLASSES), {}
    for name, objective in objectives.items():
        timed = TimedEncoder(encoder)
        canvas = Canvas(CLASSES, SIZE)
        canvas.fill_with_noise(1.0, seed=0)
        augment = AugmentConfig()
        loop = Loop(steps=1000, lr=0.02, views=VIEWS, augment=augment, micro_batch=30)
        distiller = Distiller([Tower(timed, objective)], canvas, labels, loop)
        step = inside = 0.0
        shares = []
        for number in range(REPEATS + 1):
            timed.seconds, started = 0.0, time.perf_counter()
            distiller.step()
            step, inside = time.perf_counter() - started, timed.seconds
            if number:
                shares.append((step, inside))
        step, inside = (statistics.median(values) for values in zip(*shares, strict=True))
        features = torch.rand(CLASSES * VIEWS, encoder.dim, requires_grad=True)
        view_labels = labels.repeat_interleave(VIEWS)
        drawn = draw_views(augment, CLASSES * VIEWS, seed=0)
        leaves = [level.clone().requires_grad_() for level in canvas.levels]
        images = torch.rand(CLASSES * VIEWS, 3, SIZE, SIZE, requires_grad=True)
        parts = {
            "objective": median_seconds(lambda: objective(features, view_labels, 0).backward()),  # noqa: B023
            "canvas": median_seconds(lambda: canvas.render(leaves).sum().backward()),  # noqa: B023
            "views": median_seconds(lambda: apply_views(images, drawn, SIZE).sum().backward()),  # noqa: B023
            "adam": median_seconds(distiller._optimizer.step),
        }
        plain = torch.optim.Adam(canvas.levels, lr=0.02, fused=False)
        not_fused = median_seconds(plain.step)
        parts["other"] = step - inside - sum(parts.values())  # drawing, repeating, checking, and cold caches
        results[name] = {"step": step, "encoder": inside, "share": inside / step, "rest": parts, "not fused": not_fused}
        rest = ", ".join(f"{part} {1000 * seconds:.1f}" for part, seconds in parts.items())
        print(f"{name}: step {1000 * step:.0f} ms, encoder {100 * inside / step:.1f}%; rest in ms: {rest}")
    print(keep("profile_step", {"methods": results}))


if __name__ == "__main__":
    main()
