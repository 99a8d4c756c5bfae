"""Ten tasks of grocery, one after the other: what does a set retain of classes whose photos are gone?

    python benchmarks/incremental.py [MINUTES]     # repeat to continue; writes results/incremental.json and .png

The 81 classes come in ten tasks of eight (the last has nine), in an order drawn from the seed. After each task, a ridge
probe on 10 views is scored on the test images of all classes so far, with EfficientNet-Lite0 at 64 px:

* extend: `extend` with the old images fixed, 20 steps per task, and only the statistics of earlier tasks.
* extend --refine: the same, but the old images are optimised further, so a step costs as much as for all images.
* joint: all classes so far distilled again from all their photos, 20 steps; after tasks 5 and 10.
* extend, 100 steps; joint, 100 steps: the same with five times the steps.
* herding: as many photos as extend has images, kept as exemplars: those whose features are nearest to the class means.
* nearest class mean, and the ridge head of the statistics: only features, no images.

The budget is ten tasks of 20 or 100 steps; `distill` has 300 by default, the papers thousands. Three seeds for order
and distillation, as far as the time on a shared machine allowed: the results give the number for each row.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

import _common
from probedistill import (
    DistilledSet,
    Encoder,
    LabelledImages,
    LinearProbe,
    RunConfig,
    distill,
    extend,
    load_encoder,
    load_splits,
)
from probedistill.features.bank import FeatureBank
from probedistill.features.classes import herding
from probedistill.features.statistics import statistics_of_run
from probedistill.features.store import FeatureStore
from probedistill.ship.heads import head_of_statistics

TASKS, SIZE, VIEWS, SEEDS, JOINT = 10, 64, 10, 3, (5, 10)
STEPS = {"joint": 20, "joint, 100 steps": 100, "extend": 20, "extend, 100 steps": 100, "extend --refine": 20}
"""What is distilled, with the steps per task."""
PASSES = [
    *(("extend", seed) for seed in range(SEEDS)), ("joint", 0), ("extend --refine", 0), ("joint", 1), ("joint", 2),
    *(("extend, 100 steps", seed) for seed in range(SEEDS)), ("extend --refine", 1), ("extend --refine", 2),
    *(("joint, 100 steps", seed) for seed in range(SEEDS)),
]  # fmt: skip
"""What is made, in this order, with the seed."""


class TimeIsUpError(Exception):
    """The time is up; the next call continues."""


def tasks(names: Sequence[str], seed: int) -> list[list[str]]:
    """The classes of each task."""
    order = np.random.default_rng(seed).permutation(len(names))
    return [sorted(names[i] for i in part) for part in np.array_split(order, TASKS)]


def of_classes(whole: FeatureBank, names: Sequence[str]) -> FeatureBank:
    """The part of a bank with these classes, in this order; nothing is encoded again."""
    place = torch.tensor([names.index(name) if name in names else -1 for name in whole.class_names])
    rows = (place[whole.labels] >= 0).nonzero().squeeze(1)
    part = whole.select(rows)
    return FeatureBank(part.centre, part.augmented, place[part.labels], part.indices, tuple(names), whole.manifest)


def herded(whole: FeatureBank, names: Sequence[str], encoder: Encoder, train: LabelledImages) -> DistilledSet:
    """The photo that herding chooses first, for each class."""
    bank = of_classes(whole, names)
    rows = herding(bank, 1)
    images = torch.stack([encoder.centre_view(train.load(i)) for i in bank.indices[rows].tolist()])
    return DistilledSet(images, bank.labels[rows], tuple(names))


def probed(distilled: DistilledSet, encoder: Encoder, test: FeatureBank, store: FeatureStore) -> float:
    """Accuracy of a ridge probe on views of a set's images."""
    bank = of_classes(test, distilled.class_names)
    augment = distilled.run.config.augment
    views = store.synthetic_views(encoder, distilled.images, views=VIEWS, augment=augment, seed=0)
    return float(LinearProbe("ridge").fit_views(views, distilled.labels).score(bank.centre, bank.labels))


def of_sums(folder: Any, test: FeatureBank) -> dict[str, float]:
    """Accuracy from a run's statistics, without any image."""
    (sums,) = statistics_of_run(folder)
    bank = of_classes(test, sums.class_names)
    head = head_of_statistics(sums)
    logits = bank.centre @ head.weight.T + head.bias
    centre = sums.centre.float()
    means = torch.nn.functional.normalize(sums.means().float() - centre, dim=1)
    nearest = torch.nn.functional.normalize(bank.centre - centre, dim=1) @ means.T

    def right(scores: torch.Tensor) -> float:
        return float((scores.argmax(dim=1) == bank.labels).float().mean())

    return {"ridge head of the statistics": right(logits), "nearest class mean": right(nearest)}


def folder(way: str, seed: int, task: int) -> Path:
    return _common.RUNS / _common.run_name("incremental", way.replace(" --", "-"), str(seed), str(task))


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=7.0, help="after which no further row is begun")
    end = time.monotonic() + 60 * parser.parse_args().minutes
    train, test_images = load_splits(_common.images("grocery"))
    encoder, store = load_encoder(_common.encoder("lite0", SIZE)), FeatureStore(progress=False)
    photos_bank, test = store.of(encoder, train), store.of(encoder, test_images)
    common: dict[str, Any] = {"evaluate_every": 0, "progress": False, "resume": True}
    known: dict[str, dict[str, float]] = _common.kept("incremental").get("each", {})

    def keep(seed: int, task: int, found: dict[str, float]) -> None:
        known.setdefault(f"{seed}/{task}", {}).update(found)
        write(known)
        print(seed, task, {name: round(100 * value, 1) for name, value in found.items()}, flush=True)
        if time.monotonic() > end:
            raise TimeIsUpError

    with suppress(TimeIsUpError):
        for way, seed in PASSES:
            parts = tasks(train.class_names, seed)
            for number, classes in enumerate(parts, start=1):
                row, out = known.get(f"{seed}/{number}", {}), folder(way, seed, number)
                joint, steps = way.startswith("joint"), STEPS[way]
                if way in row or (joint and number not in JOINT):
                    continue
                if joint or number == 1:
                    so_far = sorted(name for part in parts[:number] for name in part)
                    photos = train.with_classes(so_far)
                    found = distill(photos, encoder, seed=seed, steps=steps, keep_stats=not joint, out=out, **common)
                else:
                    run = RunConfig(out=out, **common)
                    refine, before = way.endswith("--refine"), folder(way, seed, number - 1)
                    photos = train.with_classes(classes)
                    found = extend(before, photos, encoder, run=run, seed=seed, steps=steps, refine=refine)
                scores = {way: probed(found, encoder, test, store)}
                if way == "extend":
                    exemplars = herded(photos_bank, found.class_names, encoder, train)
                    scores |= {"herding": probed(exemplars, encoder, test, store), **of_sums(out, test)}
                keep(seed, number, scores)
        print("done")
    draw(write(known))


def write(known: dict[str, dict[str, float]]) -> dict[str, list[Any]]:
    """Write the table over seeds, and every "SEED/TASK" behind it."""
    names = [*STEPS, "herding", "nearest class mean", "ridge head of the statistics"]
    table: dict[str, list[Any]] = {}
    for name in names:
        for number in range(1, TASKS + 1):
            values = [row[name] for seed in range(SEEDS) if name in (row := known.get(f"{seed}/{number}", {}))]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            cell = {"mean": float(np.mean(values)), "std": spread, "seeds": len(values)} if values else None
            table.setdefault(name, []).append(cell)
    table = {name: cells for name, cells in table.items() if any(cells)}
    _common.keep(
        "incremental",
        {
            "tasks": TASKS,
            "steps": STEPS,
            "input": SIZE,
            "seeds": len({key.split("/")[0] for key in known}),
            "accuracy": table,
            "each": known,
        },
    )
    return table


def draw(table: dict[str, list[Any]]) -> None:
    from probedistill.show.figures import Curve, Figure, Line, save_figures
    from probedistill.show.tables import Table

    lines = []
    for name, cells in table.items():
        there = [(number, cell) for number, cell in enumerate(cells, start=1) if cell is not None]
        if not there:
            continue
        x, y, spread = (
            np.array(values)
            for values in zip(*((float(n), 100 * c["mean"], 100 * c["std"]) for n, c in there), strict=True)
        )
        titles = tuple(f"{name}, task {n}: {100 * c['mean']:.1f}%" for n, c in there)
        lines.append(Line(name, x, y, titles, marked=name == "joint", spread=spread))
    seeds = max(cell["seeds"] for cells in table.values() for cell in cells if cell is not None)
    bands = ", bands of one standard deviation, one seed where there is no band" if seeds > 1 else ""
    summary = f"Accuracy on the classes so far, in percent; {seeds} seed{'s' * (seeds > 1)} of order{bands}."
    figure = Figure("Ten tasks of grocery", summary, Curve(tuple(lines), "task", "accuracy, %"), Table("", ("",), ()))
    save_figures(_common.RESULTS / "incremental.png", [figure])


if __name__ == "__main__":
    main()
