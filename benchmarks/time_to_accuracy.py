"""Seconds until a given accuracy: the LGM authors' algorithm and schedule against our defaults.

    python benchmarks/time_to_accuracy.py                # 1,000 steps x 3 views of the reference: about 30 minutes
    python benchmarks/time_to_accuracy.py --full         # its own 5,000 x 10: most of a day on two cores

Clothing photos, EfficientNet-Lite0 at 112 px, one image per class. The reference is step (a) of step_cost.py with
timm's encoder and the authors' schedule: Adam with a constant rate of 2e-3, pyramid levels opened one by one (spread
over the run as theirs are over 5,000 steps), noise and crops on both sides, and a new real batch through the encoder
in every step (decoded beforehand, so reading is not charged). Accuracy is measured with a ridge probe on 20 views of
the 8-bit images, while the clock is stopped. Everything runs on one thread, and the clock counts processor time, so
that other work on the machine does not matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from _common import argument_parser, channels_first, images, keep
from probedistill import AugmentConfig, DistillConfig, LinearProbe, extract_features, load_encoder, load_splits
from probedistill.distillation.canvas import Canvas
from probedistill.distillation.start import make_distiller
from probedistill.features.views import apply_views, draw_views
from probedistill.seeds import Stream, seed_of
from probedistill.store.pixels import to_8_bits
from step_cost import reference_gradient_step

SIZE = 112


class Clock:
    """Runs steps, counts their seconds, and measures accuracy at intervals."""

    def __init__(self, name: str, encoder: Any, labels: torch.Tensor, test: Any) -> None:
        self.name, self.encoder, self.labels, self.test = name, encoder, labels, test
        self.seconds, self.curve = 0.0, list[tuple[int, float, float]]()

    def run(self, steps: int, every: int, step: Callable[[int], object], rendered: Callable[[], torch.Tensor]) -> None:
        for number in range(1, steps + 1):
            started = time.process_time()
            step(number - 1)
            self.seconds += time.process_time() - started
            if number % every == 0 or number == steps:
                self.curve.append((number, self.seconds, self.accuracy(rendered())))
                print(
                    f"{self.name:10} step {number:5} {self.seconds:7.1f} s  {100 * self.curve[-1][2]:.1f}%", flush=True
                )

    @torch.no_grad()
    def accuracy(self, pictures: torch.Tensor) -> float:
        pictures = to_8_bits(pictures).float() / 255
        drawn = draw_views(AugmentConfig(), 20 * len(pictures), seed=1)
        features = torch.cat(
            [
                self.encoder(apply_views(pictures, drawn[i : i + len(pictures)], SIZE))
                for i in range(0, len(drawn), len(pictures))
            ]
        )
        probe = LinearProbe().fit_views(features.view(20, len(pictures), -1), self.labels)
        return float(probe.score(self.test.centre.numpy(), self.test.labels.numpy()))

    def seconds_to(self, accuracy: float) -> float | None:
        return next((seconds for _, seconds, reached in self.curve if reached >= accuracy), None)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--full", action="store_true", help="the reference at its own 5,000 steps x 10 views")
    parser.add_argument("--methods", nargs="+", default=["sfm", "lgm", "clp"])
    options = parser.parse_args()
    steps, views = (5000, 10) if options.full else (1000, 3)
    torch.set_num_threads(1)

    encoder = load_encoder("efficientnet_lite0", input_size=SIZE)
    train, test = load_splits(images("clothing"))
    test_bank = extract_features(encoder, test)
    labels = torch.arange(len(train.class_names))
    clocks = []

    for method in options.methods:
        config = DistillConfig(method=method).resolve()
        bank = extract_features(encoder, train, views=int(config.real_views), augment=config.augment)
        distiller = make_distiller(config, [encoder], [bank], train)
        clock = Clock(f"ours {method}", encoder, labels, test_bank)
        clock.run(distiller.steps, 10, lambda _: distiller.step(), distiller.images)  # noqa: B023
        clocks.append(clock)

    plain = load_encoder("efficientnet_lite0", input_size=SIZE, fold_batchnorm=False)
    channels_first(plain)
    pixels = torch.stack([(encoder.centre_view(train.load(i)) * 255).byte() for i in range(len(train))])
    real_labels = torch.as_tensor(train.labels)
    canvas = Canvas(len(labels), SIZE, open_levels=1)
    canvas.fill_with_noise(1.0, seed=0)
    optimizer = torch.optim.Adam([{"params": [level.requires_grad_()]} for level in canvas.levels], lr=2e-3)
    level_every = steps // 25  # the authors open a level every 200 of 5,000 steps

    def reference(number: int) -> None:
        if number and number % level_every == 0 and not canvas.all_open:
            optimizer.add_param_group({"params": [canvas.open_level().requires_grad_()]})
        generator = torch.Generator().manual_seed(seed_of(0, Stream.RANDOM_IMAGES, number))
        rows = torch.randperm(len(pixels), generator=generator)[: len(labels) * views]
        optimizer.zero_grad()
        reference_gradient_step(plain, canvas, labels, views, number, pixels[rows].float() / 255, real_labels[rows])
        optimizer.step()

    clock = Clock("reference", encoder, labels, test_bank)
    clock.run(steps, max(1, steps // 40), reference, lambda: canvas.images())
    target = clock.curve[-1][2]
    print(f"\nthe reference reaches {100 * target:.1f}% after {clock.seconds:.0f} s")
    for ours in clocks:
        seconds = ours.seconds_to(target)
        print(
            f"{ours.name}: {'never' if seconds is None else f'{seconds:.1f} s, {clock.seconds / seconds:.0f} × sooner'}"
        )
    curves = {c.name: c.curve for c in [*clocks, clock]}
    print(keep("time_to_accuracy-full" if options.full else "time_to_accuracy", {"target": target, "curves": curves}))


if __name__ == "__main__":
    main()
