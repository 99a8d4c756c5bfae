"""What docs/diagnosis.md says: transfer between four encoders, alignment, where synthetic images lie, shortcuts.

    python benchmarks/diagnosis.py             # after table.py --datasets clothing; about half an hour on two cores

Looks at the runs that table.py leaves for clothing, and at runs of its own for the photos with known groups (birds and
mammals on nature and buildings). The encoders are EfficientNet-Lite0, MobileNetV1, MobileNetV2 and CLIP ViT-B/16, at
112 px. Every part is kept in results/diagnosis/. Cells of transfer that are there already are not scored again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import _common
from _common import ENCODERS, METHODS
from probedistill import (
    DistillConfig,
    DistilledSet,
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

OUT = _common.RESULTS / "diagnosis"
STEPS = {"clip": 60}
LONGER = {"clip": "auto, 300 steps"}  # what CLIP's images are after 60 is told by what they started from


def run_of(encoder: str, title: str) -> Path:
    """The folder of a run of table.py on clothing."""
    return _common.RUNS / _common.run_name("clothing", encoder, title)


def note(text: str) -> None:
    print(f"{time.strftime('%H:%M')} {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["transfer", "align", "geometry", "bias"])
    parser.add_argument("--views", type=int, default=10, help="evaluation views")
    options = parser.parse_args()
    configs = {name: _common.encoder(name) for name in ENCODERS}
    train, test = load_splits(_common.images("clothing"))
    OUT.mkdir(parents=True, exist_ok=True)
    if "transfer" in options.parts:
        runs = [run_of(name, LONGER.get(name, "auto")) for name in ENCODERS]
        matrix = transfer(
            runs, list(configs.values()), train, test, out=OUT / "transfer", probes=["ridge"], seeds=3,
            views=options.views,
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
            for method in [*METHODS, *([LONGER[name]] if name in LONGER else [])]:
                run = run_of(name, method)
                if not (run / "images").is_dir():
                    continue
                result = geometry(DistilledSet.load(run), encoder, train)
                rows[f"{name} {method}"] = {"tests": as_plain(result.tests)}
                if (name, method) == ("lite0", "auto"):
                    result.save(OUT / "geometry")
                note(f"{name} {method}\n{result}")
        (OUT / "geometry.json").write_text(json.dumps(rows, indent=1) + "\n")
    if "bias" in options.parts:
        photos = ImagesConfig(images=_common.images("spurious"))
        groups, reports = _common.SHARED / "data" / "spurious" / "groups.csv", []
        for name in ENCODERS:  # each run with its own encoder alone
            out = _common.RUNS / f"spurious-{name}"
            config = DistillConfig(method="clp", steps=STEPS.get(name, 150))
            distill(photos, configs[name], config, run=RunConfig(out=out, resume=True))
            reports.append(bias([out], photos, groups, encoders=[str(out / "config.yaml")], views=options.views))
        report = replace(reports[0], entries=tuple(entry for part in reports for entry in part.entries))
        report.save(OUT / "bias")
    for part in options.parts:
        _common.keep(f"diagnosis/made_by-{part}", {"encoders": ENCODERS, "views": options.views})


if __name__ == "__main__":
    main()
