"""A step as the LGM authors describe it against one of ours: time and peak memory, as ratios within one run.

    python benchmarks/step_cost.py                     # 10 classes x 3 views, then 100 x 10 (about 10 min on 2 cores)
    python benchmarks/step_cost.py --encoder timm:vit_base_patch16_224 --random --size 224 --cases 100x10 1000x10

(a) The reference: each step sends a real batch (as many real images as synthetic views) and all views through the
encoder, each in one pass; autograd computes the head's gradient and differentiates it again. It is measured with
timm's encoder and with ours (folded batch norms, channels-last), so that the two gains can be told apart.
(b) Ours: closed-form gradients against stored real features; the last rows in micro-batches of 64 views.

The reference's real batches are random pixels in memory, so it is not charged for reading images. Every row runs in its
own process; its memory is the peak of that process minus the memory before the first step.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
import torch.nn.functional as F

from _common import argument_parser, channels_first, in_fresh_process, keep, peak_memory_mib
from probedistill import AugmentConfig

AUGMENT = AugmentConfig(noise_prob=0.5)  # the authors' views, in every row
ROWS = ["reference, timm's encoder", "reference, our encoder", "ours lgm", "ours sfm", "ours clp", "ours lgm, 64 views"]
MIB = 2**20


def prepare(options: argparse.Namespace, classes: int, plain: bool) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Encoder, real features (16 per class) and labels; features are random, because values do not affect the cost."""
    from probedistill import load_encoder

    encoder = load_encoder(
        options.encoder, input_size=options.size, pretrained=not options.random, fold_batchnorm=not plain,
        precision=options.precision,
    )  # fmt: skip
    if plain:
        channels_first(encoder)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(16 * classes, encoder.dim, generator=generator).abs()
    return encoder, features, torch.arange(classes).repeat_interleave(16)


def reference_gradient_step(
    encoder: Any,
    canvas: Any,
    labels: torch.Tensor,
    views: int,
    seed: int,
    real: torch.Tensor,
    real_labels: torch.Tensor,
) -> None:
    """Set the gradient of one step of Linear Gradient Matching on the canvas levels, only by autograd.

    ``real`` (n, 3, S, S) are this step's real images before augmentation.
    """
    from probedistill.features.views import apply_views, draw_views

    device = encoder.device
    head = torch.nn.Linear(encoder.dim, int(labels.max()) + 1, device=device)
    torch.nn.init.normal_(head.weight, std=0.01)
    torch.nn.init.zeros_(head.bias)

    parameters = list(head.parameters())

    def gradient(images: torch.Tensor, targets: torch.Tensor, create_graph: bool) -> torch.Tensor:
        loss = F.cross_entropy(head(encoder(images)), targets.to(device))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=create_graph)])

    with torch.no_grad():
        real = apply_views(real.to(device), draw_views(AUGMENT, len(real), seed=2 * seed), canvas.size)
    target = gradient(real, real_labels, create_graph=False).detach()
    drawn = draw_views(AUGMENT, len(labels) * views, seed=2 * seed + 1)
    synthetic = apply_views(canvas.render(canvas.levels).repeat_interleave(views, 0), drawn, canvas.size)
    ours = gradient(synthetic, labels.repeat_interleave(views), create_graph=True)
    (1 - F.cosine_similarity(ours, target, dim=0)).backward()


def measure(options: argparse.Namespace, row: str, classes: int, views: int) -> dict[str, float]:
    """Median seconds per step, and peak memory of only the steps."""
    from probedistill.distillation.canvas import Canvas
    from probedistill.distillation.engine import Distiller, Loop, Tower
    from probedistill.objectives.clp import clp_objective
    from probedistill.objectives.lgm import lgm_objective
    from probedistill.objectives.real import RealFeatures
    from probedistill.objectives.sfm import sfm_objective

    encoder, features, y = prepare(options, classes, plain="timm's" in row)
    canvas = Canvas(classes, options.size, device=encoder.device)
    canvas.fill_with_noise(1.0, seed=0)
    labels = torch.arange(classes)
    with torch.no_grad():
        encoder(torch.rand(2, 3, options.size, options.size, device=encoder.device))
    if row.startswith("reference"):
        optimizer = torch.optim.Adam([level.requires_grad_() for level in canvas.levels], lr=2e-3)
        batch = labels.repeat_interleave(views)
        pixels = torch.rand(len(batch), 3, options.size, options.size)

        def step(number: int) -> None:
            optimizer.zero_grad()
            reference_gradient_step(encoder, canvas, labels, views, number, pixels, batch)
            optimizer.step()
    else:
        real = RealFeatures(features, y, classes, "center_l2", encoder.device)
        objective = {
            "lgm": lambda: lgm_objective(real, sigma=0.01, balanced=True),
            "sfm": lambda: sfm_objective(real),
            "clp": lambda: clp_objective(real, ridge=1.0, temperature=0.1),
        }[row.split(",")[0].split()[1]]()
        micro_batch = 64 if "64" in row else classes * views
        loop = Loop(steps=1000, lr=0.02, views=views, augment=AUGMENT, micro_batch=micro_batch)
        distiller = Distiller([Tower(encoder, objective)], canvas, labels, loop)

        def step(number: int) -> None:
            distiller.step()

    on_gpu = encoder.device.type == "cuda"
    before = peak_memory_mib()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / MIB
    seconds = []
    for number in range(options.steps + 1):
        started = time.perf_counter()
        step(number)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / MIB if on_gpu else peak_memory_mib()
    return {"seconds": sorted(seconds[1:])[len(seconds[1:]) // 2], "mib": peak - before}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--random", action="store_true", help="random weights: speed does not depend on them")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=["10x3", "100x10"], help="CLASSESxVIEWS")
    parser.add_argument("--one", nargs=2, metavar=("ROW", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        row, case = options.one
        classes, views = map(int, case.split("x"))
        print(json.dumps(measure(options, row, classes, views)))
        return
    passed = ["--encoder", options.encoder, "--size", str(options.size), "--precision", options.precision]
    passed += ["--steps", str(options.steps), *(["--random"] if options.random else [])]
    results: dict[str, dict[str, dict[str, float]]] = {}
    for case in options.cases:
        results[case] = {}
        for row in ROWS:
            results[case][row] = in_fresh_process(__file__, *passed, "--one", row, case)
            base, this = results[case][ROWS[0]], results[case][row]
            print(
                f"{case:8} {row:28} {this['seconds']:7.3f} s  {base['seconds'] / this['seconds']:5.2f} × faster  "
                f"{this['mib']:7.0f} MiB  1/{base['mib'] / max(this['mib'], 1):.1f} of the memory",
                flush=True,
            )
    name = f"step_cost-{options.encoder.replace(':', '-')}-{options.size}-{options.precision}"
    print(keep(name, {"cases": results}))


if __name__ == "__main__":
    main()
