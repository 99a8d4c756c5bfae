"""What the default export costs in accuracy: the same views and seeds on the PNG files and on the exported files.

    python benchmarks/export_loss.py       # two minutes of one core, and one for each set that seeds.py has not made

The clothing sets of seeds.py, Lite0 at 112 px, ridge probe, 8 evaluation seeds of 30 views, the same for both.
Writes results/export_loss.json.
"""

from __future__ import annotations

import statistics
import tempfile
from typing import Any

import _common
from probedistill import DistilledSet, Encoder, LabelledImages, evaluate, export, load_encoder, load_splits
from seeds import clothing_sets

SEEDS = 8


def measured(shipped: DistilledSet, encoder: Encoder, test: LabelledImages) -> dict[str, float]:
    """Bytes of the default export, scores before and after, and the mean difference between the two."""
    with tempfile.TemporaryDirectory() as folder:
        size = export(shipped, folder, progress=False).bytes
        exported = DistilledSet.load(folder)
    protocol: dict[str, Any] = {"probes": ["ridge"], "seeds": SEEDS, "views": 30, "augment": shipped.run.config.augment}
    before, after = (
        evaluate(one, encoder, None, test, progress=False, **protocol).rows[0].top1 for one in (shipped, exported)
    )
    return {"bytes": size, "png": before, "export": after, "difference": after - before}


def main() -> None:
    _common.argument_parser(__doc__).parse_args()
    encoder = load_encoder(_common.encoder("lite0"))
    train, test = load_splits(_common.images("clothing"))
    rows = []
    for method, sets in clothing_sets(train):
        found = [measured(one, encoder, test) for one in sets]
        means = {key: statistics.fmean(one[key] for one in found) for key in found[0]}
        spread = statistics.stdev(one["difference"] for one in found)
        rows.append({"method": method, **means, "std": spread})
        print(f"{method:5} {100 * means['difference']:+.2f} ± {100 * spread:.2f} points", flush=True)
    _common.keep("export_loss", {"rows": rows})


if __name__ == "__main__":
    main()
