"""How large should the crops be that a probe is trained on? Sets of choices.py, scored with three kinds of crops.

    python benchmarks/choices.py --photos FOLDER --variants blends     # first: the sets
    python benchmarks/crops.py --photos FOLDER

The sets are distilled with crops of 8 to 100% of the image, and scored with crops of at least 8%, 35% and 60%, on the
photos that choices.py held out, on their own encoder and on two held-out encoders. So are class medoids. Test photos
are not read. Writes results/crops.json after every row, and continues where it was stopped.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import _common
from choices import ENCODERS, PHOTOS, SHIPPED, halves, scores
from probedistill import AugmentConfig, DistilledSet

SMALLEST = [0.08, 0.35, 0.6]
PROBES = ["ridge", "logistic", "sgd"]


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of the datasets that no package of ours ships")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = _common.kept("crops").get("rows", [])
    for dataset in [*SHIPPED, *(PHOTOS if options.photos else {})]:
        runs = sorted(_common.RUNS.glob(f"choices-{dataset}-blends-[0-9]"))
        if not runs:
            continue
        train, test = halves(dataset, options.photos)
        for run, encoder, smallest in product([None, *runs], ["lite0", *ENCODERS["lite0"][1]], SMALLEST):
            name = run.name.removeprefix(f"choices-{dataset}-") if run else "real"
            row = {"dataset": dataset, "set": name, "encoder": encoder, "smallest": smallest}
            if any(row.items() <= one.items() for one in rows):
                continue
            crops = AugmentConfig(scale=(smallest, 1.0))
            photos = None if run else train
            found = scores(DistilledSet.load(run) if run else None, encoder, photos, test, PROBES, crops)
            rows.append({**row, "scores": found})
            print(rows[-1], flush=True)
            _common.keep("crops", {"rows": rows})


if __name__ == "__main__":
    main()
