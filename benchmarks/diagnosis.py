"""The results in docs/diagnosis.md: transfer between four encoders, alignment, geometry of the images, shortcuts.

    python benchmarks/diagnosis.py       # half an hour of two cores, and an hour or two for sets that are not there yet

Examines the clothing sets of seeds.py, and its own runs on photos with known groups (birds and mammals on nature and
buildings). The encoders are EfficientNet-Lite0, MobileNetV1, MobileNetV2 and CLIP ViT-B/16, at 112 px. Every part is
kept in results/diagnosis/. Finished cells of transfer are not scored again.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import _common
from _common import ENCODERS, METHODS
from probedistill import (
    DistillConfig,
    ImagesConfig,
    RunConfig,
    align,
    bias,
    distill,
    geometry,
    load_encoder,
    load_splits,
    load_transfer,
    transfer,
)
from probedistill.store.records import as_plain
from seeds import LARGE_CROPS, STEPS, Cell, made

OUT = _common.RESULTS / "diagnosis"
SEED = 2  # the seed of all sets
BIAS_STEPS = {"clip": 60}


def cell_of(encoder: str, method: str) -> Cell:
    """A set of docs/benchmarks.md: the longest run of `auto`, and the run in the table for other methods."""
    if encoder == "clip":
        return Cell("clothing", encoder, method, SEED, steps=300, precision="bf16", step_views=12)
    return Cell("clothing", encoder, method, SEED, steps=300 if method == "auto" else STEPS)


def note(text: str) -> None:
    print(f"{time.strftime('%H:%M')} {text}", flush=True)


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("--parts", nargs="+", default=["transfer", "align", "geometry", "bias"])
    parser.add_argument("--views", type=int, default=10, help="evaluation views")
    options = parser.parse_args()
    configs = {name: _common.encoder(name) for name in ENCODERS}
    train, test = load_splits(_common.images("clothing"))
    OUT.mkdir(parents=True, exist_ok=True)
    if "transfer" in options.parts:
        sets = [made(cell_of(name, "auto"), train) for name in ENCODERS]
        matrix = transfer(
            sets, list(configs.values()), train, test, out=OUT / "transfer", probes=["ridge"], seeds=3,
            views=options.views, augment=LARGE_CROPS,
        )  # fmt: skip
        note(str(matrix))
    if "align" in options.parts:
        path = OUT / "transfer" / "transfer.json"
        aligned = align(
            list(configs.values()), train, limit=1000, transfer=load_transfer(path) if path.exists() else None
        )
        aligned.save(OUT / "align")
        note(str(aligned))
    if "geometry" in options.parts:
        rows: dict[str, Any] = {}
        for name in ENCODERS:
            encoder = load_encoder(configs[name])
            for method in ["auto"] if name == "clip" else METHODS:  # starting from noise, CLIP needs a GPU
                result = geometry(made(cell_of(name, method), train), encoder, train)
                rows[f"{name} {method}"] = {"tests": as_plain(result.tests)}
                if (name, method) == ("lite0", "auto"):
                    result.save(OUT / "geometry")
                note(f"{name} {method}\n{result}")
        (OUT / "geometry.json").write_text(json.dumps(rows, indent=1) + "\n")
    if "bias" in options.parts:
        photos = ImagesConfig(images=_common.images("spurious"))
        groups, reports = _common.SHARED / "data" / "spurious" / "groups.csv", []
        for name in ENCODERS:  # each run only with its own encoder
            out = _common.RUNS / f"spurious-{name}"
            config = DistillConfig(method="clp", steps=BIAS_STEPS.get(name, STEPS))
            distill(photos, configs[name], config, run=RunConfig(out=out, resume=True))
            reports.append(bias([out], photos, groups, encoders=[configs[name]], views=options.views))
        report = replace(reports[0], entries=tuple(entry for part in reports for entry in part.entries))
        report.save(OUT / "bias")
    for part in options.parts:
        _common.keep(f"diagnosis/made_by-{part}", {"encoders": ENCODERS, "views": options.views})


if __name__ == "__main__":
    main()
