"""What the default export costs in accuracy: the same views and seeds on the PNG files and on the exported files.

    python benchmarks/export_loss.py       # two minutes of one core, and one for each set that seeds.py has not made

The clothing sets of seeds.py, Lite0 at 112 px, ridge probe, 8 evaluation seeds of 30 views, differences seed by seed.
Writes results/export_loss.json.
"""

from __future__ import annotations

import statistics
import tempfile

import _common
from probedistill import DistilledSet, evaluate, export, load_encoder, load_splits
from seeds import clothing_sets

SEEDS = 8


def main() -> None:
    encoder = load_encoder(_common.encoder("lite0"))
    train, test = load_splits(_common.images("clothing"))
    rows = []
    for method, shipped in clothing_sets(train):
        with tempfile.TemporaryDirectory() as folder:
            size = export(shipped, folder, progress=False).bytes
            sets = {"png": shipped, "export": DistilledSet.load(folder)}
        scores = {
            name: evaluate(
                one, encoder, None, test, probes=["ridge"], seeds=SEEDS, views=30, augment=shipped.run.config.augment,
                progress=False,
            ).rows[0]
            for name, one in sets.items()
        }  # fmt: skip
        pairs = zip(scores["export"].scores, scores["png"].scores, strict=True)
        differences = [after.top1 - before.top1 for after, before in pairs]
        mean, error = statistics.fmean(differences), statistics.stdev(differences) / SEEDS**0.5
        about = {"method": method, "bytes": size, "png": scores["png"].top1, "export": scores["export"].top1}
        rows.append({**about, "difference": mean, "standard_error": error})
        print(f"{method:5} {size:,} bytes, {100 * mean:+.2f} ± {100 * error:.2f} points", flush=True)
    _common.keep("export_loss", {"rows": rows})


if __name__ == "__main__":
    main()
