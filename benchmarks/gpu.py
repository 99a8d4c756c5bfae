"""A step on a GPU: steps per second, the encoder's share of the device's matrix rate, and peak memory.

    python benchmarks/gpu.py        # ViT-B/16 at 224 px, bf16, 100 and 1,000 classes, 10 views
    python benchmarks/gpu.py --device cpu --encoder timm:vit_tiny_patch16_224 --size 64 --classes 4 --views 2  # a trial

Weights are random, because speed does not depend on them. PyTorch counts the FLOPs of one view (forward, and forward
with backward to the pixels). The matrix rate is the best rate of some large products in the same precision. The
reference step of step_cost.py is also measured, if it fits. Writes results/gpu-ENCODER-SIZE-PRECISION.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from _common import OBJECTIVES, argument_parser, keep
from probedistill import Canvas, Distiller, Encoder, Loop, Tower, load_encoder
from probedistill.objectives.real import RealFeatures
from step_cost import reference_gradient_step

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def seconds_of(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Mean seconds per call, after a warm-up call."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    function()
    wait()
    started = time.perf_counter()
    for _ in range(repeats):
        function()
    wait()
    return (time.perf_counter() - started) / repeats


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """The best FLOP/s of some square products."""
    best = 0.0
    for n in (4096, 8192) if device.type == "cuda" else (512, 1024):
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        best = max(best, 2 * n**3 / seconds_of(lambda a=a, b=b: a @ b, device, 20))  # type: ignore[misc]
    return best


def flops_of_a_view(encoder: Encoder, size: int) -> dict[str, int]:
    """FLOPs of one view: for a forward pass, and for a forward and backward pass to the pixels."""
    image = torch.rand(1, 3, size, size, device=encoder.device)
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        encoder(image)
    with FlopCounterMode(display=False) as both:
        encoder(image.requires_grad_()).sum().backward()
    return {"forward": forward.get_total_flops(), "forward and backward": both.get_total_flops()}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--encoder", default="timm:vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    encoder = load_encoder(
        options.encoder, input_size=options.size, pretrained=False, precision=options.precision, device=options.device
    )
    device = encoder.device
    rate, flops = matrix_rate(device, DTYPES[options.precision]), flops_of_a_view(encoder, options.size)
    rows: list[dict[str, Any]] = []
    name_of_file = f"gpu-{options.encoder.replace(':', '-')}-{options.size}-{options.precision}"
    about = {"views": options.views, "matrix rate": rate, "flops of a view": flops}
    for classes in options.classes:
        labels, views = torch.arange(classes), classes * options.views
        real = RealFeatures(
            torch.randn(16 * classes, encoder.dim).abs(), labels.repeat_interleave(16), classes, "center_l2", device
        )
        for name in [*OBJECTIVES, "reference"]:
            canvas = Canvas(classes, options.size, device=device)
            canvas.fill_with_noise(1.0, seed=0)
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            row: dict[str, Any] = {"classes": classes, "step": name}
            try:
                if name == "reference":
                    batch = labels.repeat_interleave(options.views)
                    pixels = torch.rand(len(batch), 3, options.size, options.size)
                    for level in canvas.levels:
                        level.requires_grad_()
                    seconds = seconds_of(
                        lambda: reference_gradient_step(encoder, canvas, labels, options.views, 0, pixels, batch),  # noqa: B023
                        device, options.steps,
                    )  # fmt: skip
                else:
                    loop = Loop(steps=1000, lr=0.02, views=options.views)
                    distiller = Distiller([Tower(encoder, OBJECTIVES[name](real))], canvas, labels, loop)
                    seconds = seconds_of(distiller.step, device, options.steps)
                    size = distiller.micro_batch
                    row["micro_batch"] = size
                    # The last micro-batch keeps its graph; the others need a second forward pass.
                    again = flops["forward"] * (1 - min(size, views) / views if isinstance(size, int) else 1)
                    row["share of matrix rate"] = views * (flops["forward and backward"] + again) / seconds / rate
            except torch.cuda.OutOfMemoryError:
                row["out of memory"] = True
            else:
                row["steps per second"] = 1 / seconds
                if device.type == "cuda":
                    row["peak MiB"] = torch.cuda.max_memory_allocated() / 2**20
            rows.append(row)
            kept = keep(name_of_file, {**about, "rows": rows})
            print(
                ", ".join(f"{k}: {v:.3g}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()), flush=True
            )
    print(kept)


if __name__ == "__main__":
    main()
