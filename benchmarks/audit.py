"""What `auto` and `clp` from noise give away of the clothing photos: copies over three seeds, and shadow sets.

Resumable: runs and shadow sets that are there are used again. ``--minutes`` ends it after a set is done.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import torch

from _common import RUNS, encoder, images, keep
from probedistill import DistilledSet, audit, distill, load_encoder, load_splits
from probedistill.store.records import as_plain

METHODS = {"auto": {"method": "auto"}, "clp from noise": {"method": "clp"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shadows", type=int, default=10)
    parser.add_argument("--shadow-steps", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    model, (train, _) = load_encoder(encoder("lite0")), load_splits(images("clothing"))
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for name, settings in METHODS.items():
            out = RUNS / f"audit-{name.replace(' ', '-')}-{options.steps}-{seed}"
            if not (out / "audit.json").exists() and time.monotonic() > end:
                break
            distilled = (
                DistilledSet.load(out)
                if (out / "images").is_dir()
                else distill(
                    train, model, steps=options.steps, seed=seed, evaluate_every=0, out=out, resume=True, **settings
                )
            )
            shadows = options.shadows if seed == 0 else 0  # of the method, not of a seed: once is enough
            result = audit(
                distilled, model, train, shadows=shadows, shadow_steps=options.shadow_steps, folder=out, out=out
            )
            print(name, seed, result)
            rows.append({
                "method": name,
                "seed": seed,
                "images": len(result.audited),
                "suspects": len(result.suspects),
                "by": {m: sum(m in one.suspects([m]) for one in result.audited) for m in result.measures},
                "nearer": {m: [round(one.matches[m].share, 3) for one in result.audited] for m in result.measures},
                "membership": as_plain(result.membership),
            })  # fmt: skip
            keep("audit", {"steps": options.steps, "shadow_steps": options.shadow_steps, "rows": rows})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
