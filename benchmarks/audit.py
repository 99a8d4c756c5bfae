"""What sets of `auto` reveal about the clothing photos: copies over three seeds, and members by shadow sets.

    python benchmarks/audit.py --minutes 7       # again until it says "done": an hour on one core

Lite0 at 112 px, ten images per set, 60 steps of 3 views. Images start from averages (the default of `auto`), from
blends of ten photos, from noise, and from single photos, which checks that the measures find copies. First, copies are
searched for in sets of three seeds per start; `--shadows 0` ends there. Then 20 shadow sets per start follow, with the
same number of steps. They test the method, not one seed. Each is distilled from a random half of every class and
attacked as in `probedistill audit --shadows`. Writes results/audit.json after every row. If repeated, it continues and
uses finished runs, shadow sets and rows again.
"""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import torch

import _common
from probedistill import DistilledSet, Encoder, LabelledImages, audit, distill, load_encoder, load_splits
from probedistill.analysis.audit import Audit
from probedistill.analysis.membership import Membership
from probedistill.config import CanvasConfig
from probedistill.features.classes import nearest_to_centres
from probedistill.features.store import FeatureStore
from probedistill.store.records import as_plain

STARTS = ["average", "blend", "real", "noise"]
SEEDS = 3


class TimeIsUpError(Exception):
    """The time is up; the next call continues."""


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


def copies_of(start: str, seed: int, found: Audit, began: list[set[str]]) -> dict[str, Any]:
    """A row about copies.

    Args:
        start: What the images started from.
        seed: Seed of the set.
        found: Result of the audit.
        began: For each image, the names of the photos that it started from, up to a hundred for averages. For noise,
            as a comparison, the photos that a blend would start from.
    """
    matches = [one.matches for one in found.audited]
    return {
        "start": start,
        "seed": seed,
        "images": len(found.audited),
        "suspects": len(found.suspects),
        "suspects_by": {name: sum(name in one.suspects([name]) for one in found.audited) for name in found.measures},
        "began_as": {name: [m[name].photo in photos for m, photos in zip(matches, began)] for name in found.measures},
        "nearer": {name: [round(one.matches[name].share, 4) for one in found.audited] for name in found.measures},
        "distance": {name: [round(one.matches[name].distance, 4) for one in found.audited] for name in found.measures},
        "among_photos": {name: measure.percentiles for name, measure in found.measures.items()},
    }


def members_of(found: Membership, layers: Any) -> dict[str, Any]:
    """A record with its own command and machine, because rows about copies may be from another day."""
    return {"layers": layers, **_common.made_by(), **as_plain(found)}


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--steps", type=int, default=60, help="of the sets and of the shadow sets")
    parser.add_argument("--shadows", type=int, default=20, help="shadow sets of each start; 0: copies alone")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing after so many minutes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    encoder, (train, _) = load_encoder(_common.encoder("lite0")), load_splits(_common.images("clothing"))
    before = _common.kept("audit")
    same = before.get("steps") == options.steps
    rows: list[dict[str, Any]] = before["rows"] if same else []
    members: dict[str, dict[str, Any]] = before["members"] if same else {}

    bank = FeatureStore(progress=False).of(encoder, train)
    nearest = nearest_to_centres(bank, 1, len(bank))

    def audited(start: str, seed: int, shadows: int = 0) -> tuple[DistilledSet, Audit]:
        left = (end - time.monotonic()) / 60
        if left <= 0:
            raise TimeIsUpError
        distilled, out = the_set(start, seed, options.steps, train, encoder)
        found = audit(
            distilled, encoder, train, shadows=shadows, shadow_steps=options.steps if shadows else None, progress=False,
            minutes=max(left - 1, 0.01) if shadows else None, folder=out, out=out,
        )  # fmt: skip
        return distilled, found

    def keep() -> None:
        rows.sort(key=lambda row: (STARTS.index(row["start"]), row["seed"]))
        _common.keep("audit", {"photos": len(train), "steps": options.steps, "rows": rows, "members": members})

    def done() -> bool:
        there = {(row["start"], row["seed"]) for row in rows}
        return set(product(options.starts, range(SEEDS))) <= there and all(
            members.get(start, {}).get("shadows", 0) >= options.shadows for start in options.starts
        )

    with suppress(TimeIsUpError):
        for seed, start in product(range(SEEDS), options.starts):
            if all((row["start"], row["seed"]) != (start, seed) for row in rows):
                photos = 1 if start == "real" else CanvasConfig().blend
                began = [{train.names[i] for i in bank.indices[near[:photos]].tolist()} for near in nearest]
                row = copies_of(start, seed, audited(start, seed)[1], began)
                rows.append(row)
                keep()
                print(start, seed, row["suspects_by"], flush=True)
        for start in options.starts:
            if members.get(start, {}).get("shadows", 0) >= options.shadows:
                continue
            distilled, found = audited(start, 0, options.shadows)
            if found.membership is None:
                raise TimeIsUpError
            members[start] = members_of(found.membership, distilled.run.config.layers)
            keep()
            for one in found.membership.attacks:
                print(
                    f"{start} {one.score}, {one.how}: AUC {one.auc:.3f} {one.auc_interval}, {one.tpr:.4f}", flush=True
                )
    print("done" if done() else "not done: run it again")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
