"""How much each way of running the encoder saves: forward and backward of one batch, as ratios within one run.

    python benchmarks/kernels.py                                   # EfficientNet-Lite0 at 112 px, 30 images: 3 minutes
    python benchmarks/kernels.py --encoder timm:vit_base_patch16_224 --random --size 224 --batch 64

The defaults follow from it: folded batch norms and channels-last are on because they help wherever they apply; bf16
and torch.compile are left to the user because they do not help on this CPU. On a GPU, fp32 is without TF32, as in
`distill`.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from _common import argument_parser, channels_first, keep
from probedistill import load_encoder

WAYS: dict[str, dict[str, Any]] = {
    "timm's model": {"fold_batchnorm": False, "plain": True},
    "channels-last": {"fold_batchnorm": False},
    "batch norms folded": {"plain": True},
    "both (default)": {},
    "both, bf16": {"precision": "bf16"},
    "both, fp16": {"precision": "fp16"},
    "both, torch.compile": {"compile": True},
}
ON_A_GPU: dict[str, dict[str, Any]] = {"both, TF32": {"tf32": True}}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--random", action="store_true", help="random weights: speed does not depend on them")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    ways = WAYS | (ON_A_GPU if torch.cuda.is_available() else {})
    for name, way in ways.items():
        settings = {key: value for key, value in way.items() if key not in ("plain", "tf32")}
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = "tf32" in way  # as in `distill`
        encoder = load_encoder(options.encoder, input_size=options.size, pretrained=not options.random, **settings)
        if "plain" in way:
            channels_first(encoder)
        images = torch.rand(options.batch, 3, options.size, options.size, device=encoder.device)

        def forward(encoder: Any = encoder, images: torch.Tensor = images) -> None:
            with torch.no_grad():
                encoder(images)

        def backward(encoder: Any = encoder, images: torch.Tensor = images) -> None:
            encoder(images.clone().requires_grad_()).sum().backward()

        started = time.perf_counter()
        forward()
        backward()
        row = {"first call": time.perf_counter() - started}
        for what, function in {"forward": forward, "forward + backward": backward}.items():
            seconds = []
            for _ in range(options.repeats):
                started = time.perf_counter()
                function()
                if encoder.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
            row[what] = statistics.median(seconds)
        results[name] = row
        base = results["timm's model"]
        ratios = ", ".join(f"{w} {1000 * row[w]:.0f} ms ({base[w] / row[w]:.2f} ×)" for w in list(row)[1:])
        print(f"{name:22} {ratios}, first call {row['first call']:.1f} s", flush=True)
    where = "-gpu" * torch.cuda.is_available()
    print(keep(f"kernels-{options.encoder.replace(':', '-')}-{options.size}{where}", {"ways": results}))


if __name__ == "__main__":
    main()
