"""What sets of `auto` give away of the clothing photos: copies over three seeds, and members by shadow sets.

    python benchmarks/audit.py --minutes 7       # again until it says "done": forty minutes on one core

Lite0 at 112 px, ten images a set, 60 steps of 3 views, from blends of photos (`auto` as it is), from noise, and from
single photos, as a check that the measures find what is there. Copies are looked for in sets of three seeds. The 20
shadow sets, from blends, are of the method, not of a seed, and have as many steps; each is distilled from a random half
of every class and attacked as `probedistill audit --shadows` does. Writes results/audit.json after every row. Repeated,
it goes on: runs, shadow sets and rows that are there are used again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import _common
from probedistill import DistilledSet, Encoder, LabelledImages, audit, distill, load_encoder, load_splits
from probedistill.analysis.audit import Audit
from probedistill.store.records import as_plain

SHADOWS = {"blend": 20, "noise": 0, "real": 0}
"""Start → shadow sets."""
STARTS = list(SHADOWS)
SEEDS = 3


def the_set(start: str, seed: int, steps: int, train: LabelledImages, encoder: Encoder) -> tuple[DistilledSet, Path]:
    out = _common.RUNS / f"audit-{start}-{steps}-{seed}"
    if (out / "images").is_dir():
        return DistilledSet.load(out), out
    canvas: dict[str, Any] = {"init": start}
    made = distill(
        train, encoder, method="auto", canvas=canvas, steps=steps, seed=seed, evaluate_every=0, progress=False,
        out=out, resume=True,
    )  # fmt: skip
    return made, out


def row_of(start: str, seed: int, found: Audit) -> dict[str, Any]:
    return {
        "start": start,
        "seed": seed,
        "images": len(found.audited),
        "suspects": len(found.suspects),
        "suspects_by": {name: sum(name in one.suspects([name]) for one in found.audited) for name in found.measures},
        "nearer": {name: [round(one.matches[name].share, 4) for one in found.audited] for name in found.measures},
        "distance": {name: [round(one.matches[name].distance, 4) for one in found.audited] for name in found.measures},
        "among_photos": {name: measure.percentiles for name, measure in found.measures.items()},
        "membership": as_plain(found.membership),
    }


def made(row: dict[str, Any] | None) -> int:
    """Shadow sets behind a row; -1 if there is no row."""
    return -1 if row is None else row["membership"]["shadows"] if row["membership"] else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--steps", type=int, default=60, help="of the sets and of the shadow sets")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing after so many minutes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    encoder, (train, _) = load_encoder(_common.encoder("lite0")), load_splits(_common.images("clothing"))
    path = _common.RESULTS / "audit.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    rows: list[dict[str, Any]] = before["rows"] if before.get("steps") == options.steps else []
    for seed in range(SEEDS):
        for start in options.starts:
            asked = SHADOWS[start] if seed == 0 else 0
            there = next((row for row in rows if (row["start"], row["seed"]) == (start, seed)), None)
            if made(there) >= asked:
                continue
            left = (end - time.monotonic()) / 60
            if left <= 0:
                print("not done: run it again")
                return
            distilled, out = the_set(start, seed, options.steps, train, encoder)
            found = audit(
                distilled, encoder, train, shadows=asked, shadow_steps=options.steps, progress=False,
                minutes=max(left - 1, 0.01) if asked else None, folder=out, out=out,
            )  # fmt: skip
            row = row_of(start, seed, found)
            rows = [*(one for one in rows if one is not there), row]
            rows.sort(key=lambda one: (STARTS.index(one["start"]), one["seed"]))
            _common.keep("audit", {"photos": found.images.count, "steps": options.steps, "rows": rows})
            print(start, seed, row["suspects_by"], f"{time.monotonic() - end + 60 * options.minutes:.0f} s", flush=True)
            for one in found.membership.attacks if found.membership is not None else ():
                print(
                    f"  {one.score}, {one.how}: AUC {one.auc:.3f} {one.auc_interval}, {one.tpr:.4f} {one.tpr_interval}"
                )
    print(
        "not done: run it again"
        if any(made(row) < SHADOWS[row["start"]] for row in rows if row["seed"] == 0)
        else "done"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
