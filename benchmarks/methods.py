"""Accuracy, seconds and peak memory of every method and real-image baseline, in one run.

    python benchmarks/methods.py            # about half an hour on two cores
    python benchmarks/methods.py --quick    # ridge probe only, one seed of each method

Finished rows are kept in results/methods.json and not computed again, unless the defaults have changed since; --again
forgets them all. Those in the repository are from 2026-11-21, before today's defaults. Also writes
results/methods.png (accuracy against seconds) and the ten images of each method.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import RESULTS, argument_parser, images, in_fresh_process, keep, kept, peak_memory_mib

RECIPES: dict[str, dict[str, Any]] = {
    "auto": {"method": "auto"},
    "sfm": {"method": "sfm"},
    "lgm": {"method": "lgm"},
    "clp": {"method": "clp"},
    "clp, MSE outer loss": {"method": "clp", "clp": {"outer": "mse"}},
}


def is_of_today(run: dict[str, Any]) -> bool:
    """Whether a finished run has the settings that it would have now."""
    from probedistill import DistillConfig

    settings = DistillConfig.of(**RECIPES[run["method"]], seed=run["seed"]).resolve().to_dict()
    return {key: run["config"].get(key) for key in settings} == settings


def distil_and_score(name: str, seed: int, out: str, probes: list[str], seeds: int) -> dict[str, Any]:
    """Distil once in this process, then score: seconds and memory are for only the distillation."""
    from probedistill import CLPConfig, DistilledSet, RunConfig, distill, evaluate, load_encoder, load_splits

    settings = dict(RECIPES[name])
    if "clp" in settings:
        settings["clp"] = CLPConfig(**settings["clp"])
    encoder = load_encoder("efficientnet_lite0", input_size=112)
    train, test = load_splits(images("clothing"))
    run = RunConfig(out=Path(out), overwrite=True, evaluate_every=0)
    distilled = distill(train, encoder, run=run, seed=seed, **settings)
    memory = peak_memory_mib()
    scores = evaluate(DistilledSet.load(out), encoder, None, test, probes=probes, seeds=seeds)
    return {
        "method": name,
        "seed": seed,
        "seconds": distilled.run.seconds,
        "peak_mib": memory,
        "config": distilled.run.config.to_dict(),
        "rows": [{k: v for k, v in row.items() if k != "scores"} for row in scores.plain_rows()],
    }


def baselines(probes: list[str], seeds: int) -> dict[str, Any]:
    """Score the real-image rows."""
    from probedistill import evaluate, load_encoder, load_splits

    encoder = load_encoder("efficientnet_lite0", input_size=112)
    train, test = load_splits(images("clothing"))
    names = ["random", "centroids", "means", "full"]
    scores = evaluate(None, encoder, train, test, probes=probes, seeds=seeds, baselines=names)
    return {"rows": [{k: v for k, v in row.items() if k != "scores"} for row in scores.plain_rows()]}


def draw(methods: list[dict[str, Any]], real: list[dict[str, Any]], path: Path) -> None:
    """Plot accuracy against seconds, with the real-image baselines as lines."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    colours = {name: f"C{i}" for i, name in enumerate(RECIPES)}
    for run in methods:
        row = run["rows"][0]
        axes.errorbar(
            run["seconds"], 100 * row["top1"], yerr=100 * row["std"], fmt="o", color=colours[run["method"]],
            label=run["method"] if run["seed"] == 0 else None,
        )  # fmt: skip
    for row in real:
        if row["probe"] == methods[0]["rows"][0]["probe"]:
            axes.axhline(100 * row["top1"], color="grey", lw=0.8, ls="--")
            axes.text(0, 100 * row["top1"] + 0.4, row["name"], color="grey", fontsize=8)
    axes.set(xlabel="seconds of distillation", ylabel=f"top-1 % ({methods[0]['rows'][0]['probe']} probe)")
    axes.set_xlim(left=0)
    axes.set_title("One image per class, clothing, EfficientNet-Lite0 at 112 px", fontsize=10)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="ridge probe only, one seed of each method")
    parser.add_argument("--again", action="store_true", help="forget rows that are finished")
    parser.add_argument("--seeds", type=int, default=3, help="distillation seeds of each method")
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "SEED", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--real", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    probes, evaluation_seeds = (["ridge"], 3) if arguments.quick else (["sgd", "ridge"], 5)
    if arguments.one:
        name, seed, out = arguments.one
        print(json.dumps(distil_and_score(name, int(seed), out, probes, evaluation_seeds)))
        return
    if arguments.real:
        print(json.dumps(baselines(probes, evaluation_seeds)))
        return

    name = "methods-quick" if arguments.quick else "methods"
    state = {} if arguments.again else kept(name)
    runs = [run for run in state.get("methods", []) if is_of_today(run)]
    real = state["real"] if runs else []
    quick = ["--quick"] if arguments.quick else []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(1 if arguments.quick else arguments.seeds):
            for method in RECIPES:
                if not any((run["method"], run["seed"]) == (method, seed) for run in runs):
                    out = Path(scratch) / f"{method.replace(', ', '-').replace(' ', '-')}-{seed}"
                    runs.append(in_fresh_process(__file__, "--one", method, str(seed), str(out), *quick))
                    keep(name, {"methods": runs, "real": real})
                    if seed == 0 and not arguments.quick:
                        (RESULTS / f"images-{out.name}.png").write_bytes((out / "preview.png").read_bytes())
                show(next(run for run in runs if (run["method"], run["seed"]) == (method, seed)))
            if not real:
                real += in_fresh_process(__file__, "--real", *quick)["rows"]
    for row in real:
        print(f"{row['name']:24} {row['probe']:8} {100 * row['top1']:5.1f} ± {100 * row['std']:.1f}")
    for method in RECIPES:
        of_method = [run for run in runs if run["method"] == method]
        for i, row in enumerate(of_method[0]["rows"]):
            mean = statistics.fmean(run["rows"][i]["top1"] for run in of_method)
            seconds = statistics.fmean(run["seconds"] for run in of_method)
            print(f"{method:24} {row['probe']:8} {100 * mean:5.1f}   {seconds:.0f} s, {len(of_method)} seeds")
    path = keep(name, {"methods": runs, "real": real})
    draw(runs, real, path.with_suffix(".png"))
    print(path, file=sys.stderr)


def show(run: dict[str, Any]) -> None:
    scores = ", ".join(f"{r['probe']} {100 * r['top1']:.1f} ± {100 * r['std']:.1f}" for r in run["rows"])
    print(
        f"{run['method']:24} seed {run['seed']}: {scores}; {run['seconds']:.0f} s, {run['peak_mib']:.0f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
