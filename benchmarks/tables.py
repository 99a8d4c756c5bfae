"""Write the tables of README.md and docs/ from benchmarks/results/*.json, between their markers.

python benchmarks/tables.py            # rewrites them
python benchmarks/tables.py --check    # fails if one differs from the results
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probedistill import Alignment

RESULTS = Path(__file__).parent / "results"
ROOT = RESULTS.parents[1]
REAL_IMAGES = ("random real", "centroids", "herding", "k-means medoids")
METHODS = {
    "clp": "distilled, `clp`",
    "sfm": "distilled, `sfm`",
    "lgm": "distilled, `lgm`",
    "clp, MSE outer loss": "distilled, `clp` with the MSE outer loss",
}


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def made_by(content: dict[str, Any]) -> str:
    return made_on([content], content["command"])


def made_on(contents: Sequence[dict[str, Any]], command: str) -> str:
    """The command that made a table, the machine and the date."""
    return f"Made by `{command}` {computed_on(contents)}"


def computed_on(contents: Sequence[dict[str, Any]]) -> str:
    """The machines, PyTorch versions and dates of some results."""
    machines = [content["machine"] for content in contents]
    places, versions = (sorted(set(found)) for found in (map(place, machines), (one["torch"] for one in machines)))
    days = sorted({machine["date"] for machine in machines})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    threads = sorted({machine["threads"] for machine in machines if not machine["gpu"]})
    most = max((machine["cores"] for machine in machines if not machine["gpu"]), default=0)
    used = f", {' or '.join(map(str, threads))} of {most} cores" if threads else ""
    *others, last = places
    where = f"{', '.join(others)} and {last}" if others else last
    return f"on {where}{used}, torch {' and '.join(versions)}, {when}."


def place(machine: dict[str, Any]) -> str:
    """The name of the GPU or CPU."""
    return str(machine["gpu"] or machine["cpu"])


def read_all(folder: str) -> list[dict[str, Any]]:
    """The contents of a folder of results, in the order of file names."""
    return [json.loads(path.read_text()) for path in sorted((RESULTS / folder).glob("*.json"))]


def percent(row: dict[str, Any]) -> str:
    return f"{100 * row['top1']:.1f} ± {100 * row['std']:.1f}"


def mean_and_std(values: list[float]) -> str:
    """Mean ± standard deviation in percent; the mean alone for one value, an empty string for none."""
    if not values:
        return ""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """A table in Markdown, with a note below it."""
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))
    return f"{text}\n\n{note}" if note else text


def methods() -> str:
    content = read("methods")
    lines = []
    for name, title in METHODS.items():
        runs = [run for run in content["methods"] if run["method"] == name]
        rows = [row for run in runs for row in run["rows"] if row["probe"] == "ridge"]
        mean = {"top1": statistics.fmean(r["top1"] for r in rows), "std": statistics.fmean(r["std"] for r in rows)}
        seconds = statistics.fmean(run["seconds"] for run in runs)
        memory = max(run["peak_mib"] for run in runs)
        images = runs[0]["rows"][0]["images"]
        lines.append([title, str(images), percent(mean), f"{seconds:.0f}", f"{memory / 1024:.1f} GiB"])
    names = list(dict.fromkeys(row["name"] for row in content["real"]))
    for name in names:
        of_probe = {row["probe"]: row for row in content["real"] if row["name"] == name}
        images = of_probe["ridge"]["images"]
        lines.append([name, f"{images:,}", percent(of_probe["ridge"]), "", ""])
    seeds = len({run["seed"] for run in content["methods"]})
    note = (
        f"{made_by(content)} Top-1 %; {seeds} distillation seed{'s' * (seeds > 1)}, mean ± std over 5 evaluation seeds."
    )
    return table(["trained on", "images", "ridge probe", "seconds", "peak memory"], lines, note)


def headline() -> str:
    """The first lines of README: `auto` with its default settings on Lite0, over three distillation seeds."""

    def rows(method: str) -> list[dict[str, Any]]:
        of = [c for c in of_seeds(size=224) if c["encoder"] == "lite0" and made_with(c) == f"`{method}`"]
        if not of:
            raise FileNotFoundError(2, "not there", f"seeds/clothing-lite0-{method}-px224.json")
        return [row for content in of for row in content["rows"] if row["probe"] == "ridge"]

    ours = [100 * row["top1"] for row in rows("auto") if row["name"] == "distilled"]
    real = {row["name"]: row for row in rows("real")}
    best = max((100 * row["top1"], name) for name, row in real.items() if row["images"] == 10 and name in REAL_IMAGES)
    return (
        f"*These ten images replace {real['full real data']['images']:,} photos of clothes; each started as the "
        "average of up to a hundred photos.\nA ridge probe on EfficientNet-Lite0, trained on these images alone, "
        f"reaches {statistics.fmean(ours):.1f}% accuracy on the test photos\n(±&nbsp;{statistics.stdev(ours):.1f} over "
        f"{len(ours)} runs). Trained on all {real['full real data']['images']:,} photos it reaches "
        f"{100 * real['full real data']['top1']:.0f}%, on ten random photos "
        f"{100 * real['random real']['top1']:.0f}%,\nand on the best ten photos chosen without distillation "
        f"{best[0]:.0f}%.*"
    )


CHOICES = {
    "auto": "**`auto`**: from averages, three inner layers",
    "1,000 steps": "… 1,000 steps",
    "10 views": "… 10 views",
    "1,000 steps, 10 views": "… 1,000 steps, 10 views",
    "weight 3": "… layers with weight 3",
    "no layers": "… no layers",
    "noise": "… from noise",
    "blends": "… from blends of ten photos",
    "blends, 1,000 steps": "… from blends, 1,000 steps",
    "blends, 100 steps": "… from blends, 100 steps",
    "blends, weight 3": "… from blends, 100 steps, layers with weight 3",
    "blends, no layers": "… from blends, 100 steps, no layers",
    "noise, 100 steps": "… from noise, 100 steps",
    "photos": "… from medoids",
}


def choices() -> str:
    """Variants of `auto` on validation photos: per dataset on Lite0, and the mean over datasets on other encoders."""
    contents = read_all("choices")
    datasets = list(dict.fromkeys(content["dataset"] for content in contents))
    others = [name for name in contents[0]["scores"] if name != "lite0"]
    compared = [d for d in datasets if any((c["dataset"], c["variant"]) == (d, "blends, no layers") for c in contents)]
    scored = {(content["dataset"], content["scored"]) for content in contents if "scored" in content}
    assert len(scored) == len({dataset for dataset, _ in scored}), f"other copies of a dataset: {sorted(scored)}"

    def home(content: dict[str, Any], row: str) -> float:
        return statistics.fmean(v for k, v in content["scores"]["lite0"].items() if k.startswith(f"{row}/"))

    def elsewhere(content: dict[str, Any], row: str) -> float:
        probes = ("ridge", "logistic")
        return statistics.fmean(content["scores"][name][f"{row}/{probe}"] for name in others for probe in probes)

    def line(title: str, of: list[dict[str, Any]], row: str) -> list[str]:
        cells, away = [title], []
        for dataset in datasets:
            mine = [content for content in of if content["dataset"] == dataset]
            if mine and dataset in compared:
                away.append(statistics.fmean(elsewhere(content, row) for content in mine))
            cells.append(mean_and_std([home(content, row) for content in mine]))
        whole = f"{100 * statistics.fmean(away):.1f}" if len(away) == len(compared) else ""
        return [*cells, whole]

    lines = []
    real = [content for content in contents if content["variant"] == "real"]
    for variant, title in CHOICES.items():
        of = [content for content in contents if content["variant"] == variant]
        if of:
            lines.append(line(title, of, "distilled"))
    lines.append(line("class medoids", real, "centroids"))
    lines.append(line("class-mean features", real, "class-mean features"))
    made = made_on(contents, "python benchmarks/choices.py --photos FOLDER")
    note = (
        f"{made} Top-1 % on photos held out of the training photos. Per dataset: mean of the ridge, logistic and "
        "sgd probes on Lite0, after 300 steps unless the row says otherwise. Elsewhere: mean over "
        f"{', '.join(compared)}, the ridge and logistic probes, and {len(others)} held-out encoders. "
        "± over distillation seeds; no ± means one seed."
    )
    return table(["distilled on Lite0", *datasets, "elsewhere"], lines, note)


def crops() -> str:
    """Sets scored with crops of three sizes: per dataset on Lite0, and on held-out encoders."""
    content = read("crops")
    datasets = list(dict.fromkeys(row["dataset"] for row in content["rows"]))
    probes = ("ridge", "logistic", "sgd")

    def cell(rows: list[dict[str, Any]], trained_on: str) -> str:
        return " / ".join(
            f"{100 * statistics.fmean(row['scores'][f'{trained_on}/{probe}'] for row in rows):.1f}" for probe in probes
        )

    def line(title: str, rows: list[dict[str, Any]], trained_on: str) -> list[str]:
        home = [[r for r in rows if (r["dataset"], r["encoder"]) == (dataset, "lite0")] for dataset in datasets]
        away = [row for row in rows if row["encoder"] != "lite0"]
        return [title, *(cell(part, trained_on) for part in [*home, away])]

    lines = []
    for title, what, trained_on in (("from blends", "blends-", "distilled"), ("class medoids", "real", "centroids")):
        for smallest in sorted({row["smallest"] for row in content["rows"]}):
            rows = [r for r in content["rows"] if r["smallest"] == smallest and r["set"].rstrip("0123456789") == what]
            lines.append(line(f"{title}, at least {100 * smallest:.0f}%", rows, trained_on))
    lines.append(line("class-mean features", [r for r in content["rows"] if r["set"] == "real"], "class-mean features"))
    note = (
        f"{made_by({**content, 'command': 'python benchmarks/crops.py --photos FOLDER'})} "
        "Top-1 % with the ridge / logistic / sgd probe on photos held out of the training photos; 300 steps, mean of "
        "three distillation seeds. Elsewhere: mean over these datasets and two held-out encoders."
    )
    return table(["scored with crops of", *datasets, "elsewhere"], lines, note)


def recipes() -> str:
    content = read("recipes")
    lines = []
    for method in ("clp", "sfm", "lgm"):
        for name, row in content["rows"].items():
            if name.split(",")[0] == method:
                title = f"**`{method}`, default** (200 steps)" if name == method else name
                lines.append([title, percent(row["ridge"])])
    note = f"{made_by(content)} Top-1 %; one distillation seed, 3 evaluation seeds."
    return table(["change from the default", "ridge probe"], lines, note)


def step_cost() -> str:
    content = read("step_cost-efficientnet_lite0-112-fp32")
    lines = []
    for case, rows in content["cases"].items():
        base = next(iter(rows.values()))
        classes, views = case.split("x")
        for name, row in rows.items():
            faster, smaller = base["seconds"] / row["seconds"], base["mib"] / max(row["mib"], 1)
            cells = [f"{classes} classes × {views} views", name, f"{row['seconds']:.3f}", f"{faster:.1f} ×"]
            lines.append([*cells, f"{row['mib']:.0f}", f"1/{smaller:.1f}"])
    return table(["case", "step", "seconds", "faster", "peak MiB", "memory"], lines, made_by(content))


def kernels(where: str = "") -> str:
    """Ways to run the encoder, relative to timm's model."""
    content = read(f"kernels-efficientnet_lite0-112{where}")
    what = ["forward", "forward + backward"]
    lines = []
    base = next(iter(content["ways"].values()))
    for name, row in content["ways"].items():
        cells = [f"{1000 * row[w]:.{0 if base[w] > 0.05 else 1}f} ms ({base[w] / row[w]:.2f} ×)" for w in what]
        lines.append([name, *cells, f"{row['first call']:.1f} s"])
    return table(["encoder", *what, "first call"], lines, f"{made_by(content)} 30 images.")


def gpu() -> str:
    content = read("gpu-timm-vit_base_patch16_224-224-bf16")
    columns = ["classes", "step", "steps/s", "views/s", "encoder's share of the matrix rate", "peak GiB"]
    lines = []
    for row in content["rows"]:
        cells = [f"{row['classes']:,}", row["step"] if row["step"] == "reference" else f"`{row['step']}`"]
        if "steps per second" in row:
            rate, share = row["steps per second"], row.get("share of matrix rate")
            cells += [f"{rate:.2f}", f"{rate * row['classes'] * content['views']:,.0f}"]
            cells += [f"{100 * share:.0f}%" if share else "", f"{row['peak MiB'] / 1024:.0f}"]
            cells.append(f"{row.get('micro_batch', row['classes'] * content['views']):,}")
        else:
            cells += ["out of memory", "", "", "", ""]
        lines.append(cells)
    note = (
        f"{made_by(content)} Matrix rate: {content['matrix rate'] / 1e12:.0f} TFLOP/s, the fastest of several large "
        "matrix products in bf16."
    )
    return table([*columns, "views in a pass"], lines, note)


def allocator() -> str:
    content = read("allocator")
    lines = []
    for default, kept in zip(content["rows"][::2], content["rows"][1::2], strict=True):
        cells = [f"{row['seconds']:.2f} s, {row['mib']:,.0f} MiB" for row in (default, kept)]
        faster = f"{default['seconds'] / kept['seconds']:.2f} ×"
        lines.append([f"{default['classes']:,} classes × 3 views", *cells, faster])
    return table(["case", "malloc's defaults", "freed memory kept", "faster"], lines, made_by(content))


def profile() -> str:
    content = read("profile_step")
    parts = ["views", "canvas", "objective", "adam", "other"]
    titles = ["views", "canvas", "objective", "Adam, fused", "other", "*Adam, not fused*"]
    lines = []
    for name, row in content["methods"].items():
        rest = [f"{1000 * row['rest'][part]:.1f} ms" for part in parts]
        cells = [f"`{name}`", f"{1000 * row['step']:.0f} ms", f"{100 * row['share']:.1f}%", *rest]
        lines.append([*cells, f"*{1000 * row['not fused']:.1f} ms*"])
    return table(["method", "step", "encoder", *titles], lines, made_by(content))


def memory() -> str:
    content = read("memory")
    curves = list(content["curves"].items())
    counts = [point["classes"] for point in curves[0][1]]
    lines = []
    for name, points in curves:
        known = {point["classes"]: point for point in points}
        cells = [f"{known[count]['mib']:,.0f}" if count in known else "over 16 GiB" for count in counts]
        lines.append([f"{name}, peak MiB", *cells])
    held = [f"{point['held_mib']:,.0f}" for point in curves[0][1]]
    lines.append(["of which gradient and Adam moments, MiB", *held])
    return table(["", *(f"{count:,}" for count in counts)], lines, made_by(content))


def time_to_accuracy() -> str:
    content = read("time_to_accuracy")
    reference = content["curves"]["reference"]
    target, total = content["target"], reference[-1][1]
    lines = []
    for name, curve in content["curves"].items():
        if name != "reference":
            seconds = next((s for _, s, accuracy in curve if accuracy >= target), None)
            cells = ["never", ""] if seconds is None else [f"{seconds:.1f}", f"{total / seconds:.0f} ×"]
            end = f"{100 * curve[-1][2]:.1f}% after {curve[-1][1]:.0f} s"
            lines.append([name, *cells, end])
    reached = f"The reference reaches {100 * target:.1f}% after {reference[-1][0]:,} steps and {total:.0f} s."
    return f"{reached}\n\n" + table(["", "seconds to reach it", "speed-up", "at the end"], lines, made_by(content))


def stream() -> str:
    content = read("stream")
    tasks, lines = ("class sums", "LGM gradient", "plain read"), []
    for point in content["points"]:
        rates = [f"{point[task]['mb_per_second']:,.0f} MB/s" for task in tasks]
        cells = [f"{point['rows']:,}", f"{point['mb'] / 1000:.2f} GB", f"{point['peak_mib']:.0f} MiB"]
        lines.append([*cells, f"{point['rows_mib']:.0f} MiB", *rates])
    note = f"{made_by(content)} {content['dim']} features in float16, 1,000 classes."
    return table(["rows", "on disk", "peak memory", "of which labels and image numbers", *tasks], lines, note)


ENCODERS = {
    "lite0": "Lite0",
    "lite1": "Lite1",
    "lite2": "Lite2",
    "mobilenetv1": "MobileNetV1",
    "mobilenetv2": "MobileNetV2",
    "clip": "CLIP B/16",
}
REAL = ["random real", "centroids", "neighbours", "class-mean features", "full real data"]


def of_seeds(dataset: str = "clothing", size: int = 112) -> list[dict[str, Any]]:
    """The results of seeds.py for a dataset at an input size."""
    return [content for content in read_all("seeds") if (content["dataset"], content["size"]) == (dataset, size)]


def made_by_seeds(contents: Sequence[dict[str, Any]]) -> str:
    """`made_on` for cells made by several commands."""
    return f"Made by `python benchmarks/seeds.py` (each result file holds its options) {computed_on(contents)}"


def made_with(content: dict[str, Any]) -> str:
    """The name of a set of seeds.py: its method, and any settings that differ from the note below the table."""
    size, views = content["size"], content["step_views"]
    name = content["method"].replace("-paper", " --preset paper")
    steps = f", {content['steps']:,} steps" * (content["steps"] != (150 if size == 112 else 300))
    if views == (12 if (size, content["encoder"]) == (224, "clip") else None):
        return f"`{name}`{steps}"
    return f"`{name}`{steps} of {'one view' if views == 1 else f'{views or 3} views'}"


def seeds(
    dataset: str = "clothing", names: Sequence[str] = ("lite0", "mobilenetv1", "mobilenetv2"), size: int = 112
) -> str:
    """Top-1 with three probes: methods (mean ± std over distillation seeds) and real images × encoders."""
    contents = [c for c in of_seeds(dataset, size) if c["encoder"] in names and c["images_per_class"] == 1]
    if not contents:
        raise FileNotFoundError(2, "not there", f"seeds/{dataset}-{names[0]}-real.json")
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    with_real = {content["encoder"] for content in contents if content["method"] == "real"}
    for content in contents:
        for row in content["rows"]:
            name = row["name"]
            if content["method"] == "medoids" and content["encoder"] not in with_real:
                name = "centroids"
            elif name == "distilled":
                name = f"distilled, {made_with(content)}"
            found.setdefault((name, content["encoder"], row["probe"]), []).append(row)
    encoders = [name for name in ENCODERS if any(content["encoder"] == name for content in contents)]
    probes = ("ridge", "logistic", "sgd")
    columns = ["trained on"]
    for encoder in encoders:
        columns += [f"{ENCODERS[encoder]}: ridge", "logistic", "sgd"]

    def cell(name: str, encoder: str, probe: str) -> str:
        rows = found.get((name, encoder, probe), [])
        if name == "neighbours" and rows:  # the neighbours of the method that chose the best ones
            return percent(max(rows, key=lambda row: row["top1"]))
        if len(rows) == 1:  # real images, with the deviation over evaluation seeds
            return percent(rows[0])
        return mean_and_std([row["top1"] for row in rows])

    shown = ("auto", "transfer", "noise", "clp", "sfm", "lgm", "clp-paper", "sfm-paper", "lgm-paper")
    made_sets = [content for content in contents if content["method"] in shown]
    made_sets.sort(key=lambda one: (shown.index(one["method"]), one.get("step_views") or 0, one["steps"]))
    titles = [made_with(one) for one in made_sets]
    methods = [f"distilled, {title}" for title in dict.fromkeys(titles)]
    # at one photo per class, herding and k-means medoids choose the same photo as centroids
    real = ["random real", "centroids", "neighbours", "class-mean features", "full real data"]
    lines = [[name, *(cell(name, e, probe) for e in encoders for probe in probes)] for name in [*methods, *real]]
    made = made_by_seeds(contents)
    runs = Counter((title, one["encoder"]) for title, one in zip(titles, made_sets, strict=True))
    most = max(runs.values())
    fewer = [
        f"; {number} for {title}" + f" on {ENCODERS[encoder]}" * (len(encoders) > 1)
        for (title, encoder), number in runs.items()
        if number < most
    ]
    of_one = "; with one seed, ± is over evaluation seeds" * (1 in runs.values())
    alone = [ENCODERS[e] for e in encoders if e not in with_real and ("centroids", e, "ridge") in found]
    of_two = " and ".join(["neighbours", *(f"centroids of {name}" for name in alone)])
    usual = "150 steps of 3 views of each image"
    if size != 112:
        usual = "300 steps of 3 views of each image (CLIP: 12, in bf16)"
    note = (
        f"{made} Top-1 %. Distilled: {usual} unless the row says otherwise; mean ± std over distillation seeds "
        f"({most}{''.join(fewer)}{of_one}). Real images: over 5 evaluation seeds ({of_two}: 2). "
        f"Probes are trained on {contents[0]['views']} views."
    )
    return table(columns, [line for line in lines if any(line[1:])], note)


def seeds_elsewhere(dataset: str = "clothing") -> str:
    """Ridge and logistic top-1 of `auto` and of medoids on held-out encoders, mean over distillation seeds."""
    contents = [c for c in of_seeds(dataset) if c.get("others") and c["steps"] != 75]
    targets = sorted({name for content in contents for name in content["others"]}, key=list(ENCODERS).index)
    sets: dict[str, list[dict[str, Any]]] = {}
    medoids: dict[str, list[dict[str, Any]]] = {}
    for content in contents:
        encoder = " + ".join(ENCODERS[name] for name in content["encoder"].split("+"))
        if content["method"] == "medoids":
            medoids[f"*medoids by {encoder}*"] = [content]
        elif content["method"] == "random":
            medoids.setdefault("*random photos*", []).append(content)
        else:
            sets.setdefault(f"{made_with(content)} on {encoder}", []).append(content)

    def cell(of: list[dict[str, Any]], target: str) -> str:
        rows = [row for content in of for row in content["others"].get(target, [])]
        tops = {probe: [row["top1"] for row in rows if row["probe"] == probe] for probe in ("ridge", "logistic")}
        return " / ".join(f"{100 * statistics.fmean(values):.1f}" for values in tops.values() if values)

    lines = [[title, *(cell(of, target) for target in targets)] for title, of in {**sets, **medoids}.items()]
    made = made_by_seeds(contents)
    counts = sorted({len(of) for of in sets.values()})
    note = (
        f"{made} Top-1 % on test photos, ridge / logistic probe, 30 views (CLIP: 10, of at least 35% of the "
        "image). Distilled: 150 steps of 3 views of each image (2 for two encoders) unless the row says otherwise; "
        f"mean over {counts[0]}{f' to {counts[-1]}' * (counts[0] < counts[-1])} distillation seeds."
    )
    return table(["", *(ENCODERS[target] for target in targets)], lines, note)


def per_class() -> str:
    """Top-1 of `auto` and of real images, by images per class."""
    contents = [c for c in of_seeds() if c["encoder"] == "lite0" and c.get("step_views") is None]
    counts = sorted({content["images_per_class"] for content in contents})
    found: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for content in contents:
        if content["method"] == "real" or (content["method"] == "auto" and content["steps"] == 300):
            for row in content["rows"]:
                name = "distilled, `auto`" if row["name"] == "distilled" else row["name"]
                found.setdefault((name, content["images_per_class"], row["probe"]), []).append(row)
    names = ["distilled, `auto`", "herding", "k-means medoids", "centroids", "random real"]
    lines = []
    for name in names:
        cells = [name]
        for count in counts:
            tops = [[row["top1"] for row in found.get((name, count, probe), [])] for probe in ("ridge", "sgd")]
            cells.append(" / ".join(f"{100 * statistics.fmean(values):.1f}" for values in tops if values))
        lines.append(cells)
    seeds_of = {count: len(found.get((names[0], count, "ridge"), [])) for count in counts}
    shown = [content for content in contents if content["method"] == "real" or content["steps"] == 300]
    made = made_on(shown, "python benchmarks/seeds.py --images-per-class N --steps 300")
    note = (
        f"{made} Clothing, Lite0, test photos, ridge / sgd probe on 30 views. `auto`: 300 steps of 3 views of each "
        "image (1 view with ten images per class); "
        + (
            f"mean over {next(iter(seeds_of.values()))} distillation seeds"
            if len(set(seeds_of.values())) == 1
            else "distillation seeds " + ", ".join(f"{number} at {count}" for count, number in seeds_of.items())
        )
        + ". Real images: mean over 5 evaluation seeds."
    )
    return table(["images per class", *map(str, counts)], lines, note)


def transfer() -> str:
    from probedistill import load_transfer

    matrix = load_transfer(RESULTS / "diagnosis" / "transfer")
    lines = []
    (probe,) = matrix.probes
    for i, source in enumerate(matrix.sources):
        cells = [source.name]
        for j, own in enumerate(matrix.same[i]):
            cell = f"{100 * matrix.accuracy[0, i, j]:.1f}"
            cells.append(f"{f'**{cell}**' if own else cell} ± {100 * matrix.std[0, i, j]:.1f}")
        lines.append(cells)
    means, stds = matrix.baselines, matrix.baselines_std
    real = {"random real images": "random", "full real data": "full"}
    rows = [(title, means[name][0], stds[name][0]) for title, name in real.items() if name in means]
    for i, source in enumerate(matrix.sources if "centroids" in means else ()):
        medoids = f"medoids chosen by {source.encoders[0].name}"
        rows.append((medoids, means["centroids"][0, i], stds["centroids"][0, i]))
    for title, mean, std in rows:
        cells = [percent({"top1": m, "std": s}) for m, s in zip(mean, std, strict=True)]
        lines.append([f"*{title}*", *cells])
    note = (
        f"{of_diagnosis('transfer')} {probe.capitalize()} probe, {matrix.protocol.views} views with crops of at "
        f"least {100 * matrix.augment.scale[0]:.0f}% for every set and target, mean ± std over "
        f"{matrix.protocol.seeds} evaluation seeds."
    )
    return table(["distilled with", *(target.name for target in matrix.targets)], lines, note)


def of_diagnosis(part: str) -> str:
    return made_by(read(f"diagnosis/made_by-{part}"))


def aligned() -> Alignment:
    from probedistill import Alignment

    return Alignment.read(RESULTS / "diagnosis" / "align")


def alignment() -> str:
    found = aligned()
    lines = []
    titles = {"mutual_knn": "mutual 10-NN", "cka": "linear CKA", "linear_map": "linear map, R² (row → column)"}
    for metric, title in titles.items():
        for i, name in enumerate(found.names):
            cells = [f"{value:.2f}" for value in found.metrics[metric][i]]
            lines.append([title if i == 0 else "", name, *cells])
    note = f"{of_diagnosis('align')} {found.images.count:,} training photos of clothing."
    return table(["", "", *found.names], lines, note)


def correlation() -> str:
    found = aligned().transfer
    if found is None:
        return "No correlation: there are no transfer results for these encoders yet."
    lines = []
    for values, what in ((found.metrics, ""), (found.relative_to_full, ", accuracy relative to full data")):
        for metric, value in values.items():
            lines.append([metric + what, f"{value.spearman:+.2f}", f"{value.p:.2f}"])
    note = f"{found.pairs} pairs of source and target; p from all permutations of the {found.encoders} encoders. "
    return table(["metric", "Spearman with transfer accuracy", "permutation p"], lines, note + of_diagnosis("align"))


def periphery() -> str:
    lines = []
    for name, summary in read("diagnosis/geometry").items():
        test, margin = summary["tests"]["periphery"], summary["tests"]["margin"]
        low, high = test["interval"]
        distance = f"{test['score']:.2f} ({low:.2f} to {high:.2f})"
        lines.append([name, distance, f"{test['p']:.3f}", f"{margin['score']:.2f}"])
    columns = ["encoder, method", "distance quantile (95% interval)", "p", "margin quantile"]
    return table(columns, lines, of_diagnosis("geometry"))


def shortcuts() -> str:
    from probedistill import BiasReport

    found = BiasReport.read(RESULTS / "diagnosis" / "bias")
    columns = ["rank", "encoder", "full data: worst group", "top-1", "distilled: worst group", "top-1"]
    lines = []
    for rank, number in enumerate(found.ranking["worst_group"], start=1):
        entry = found.entries[number]
        cells = [str(rank), entry.encoder.name]
        for scores in (entry.accuracy.full, entry.accuracy.distilled):
            cells += [f"{100 * scores.worst_group:.1f}", f"{100 * scores.top1:.1f}"]
        likeness = entry.resemblance
        cells += [f"{likeness.mean_background:.2f}", f"{likeness.mean_object:.2f}"] if likeness else ["", ""]
        lines.append(cells)
    text = table([*columns, "cosine to background", "to object"], lines)
    for name, value in (found.agreement or {}).items():
        if value.spearman is not None:
            numbers = f"Spearman {value.spearman:+.2f}, p = {value.p:.2f}, {value.n} encoders"
            text += f"\n\nAgreement of {name.replace('_', ' ')} with the worst group on full data: {numbers}."
    protocol = found.protocol
    return f"{text}\n\n{of_diagnosis('bias')} {protocol.seeds} evaluation seeds, {protocol.views} views."


def report_paint() -> str:
    content = read("report_paint")
    seconds = content["seconds"]
    return (
        f"A report with {seconds['images']:,} images of {seconds['side']} px ({seconds['megabytes']:.0f} MB) first "
        f"paints after {seconds['paint']:.2f} s and shows its first images after {seconds['pictures']:.1f} s. "
        + made_by(content)
    )


def inheritance() -> str:
    content = read("inheritance")
    probes = list(content["rows"][0]["top1"])
    lines = []
    for row in content["rows"]:
        cells = [str(row["images_per_class"]), row["set"], ENCODERS[row["target"]]]
        lines.append([*cells, *(mean_and_std(values) for values in row["top1"].values())])
    size = content["rows"][0]["head_bytes"] / 1024
    parameters = {ENCODERS[row["target"]]: f"{row['projector_parameters']:,}" for row in content["rows"]}
    projector = ", ".join(f"{count} to {target}" for target, count in parameters.items())
    note = (
        f"{made_by(content)} Shipped with the images: Lite0's head, {size:.0f} KiB. Parameters of the projector, "
        f"which is fitted and not shipped: {projector}. Top-1 %, {content['views']} views, "
        f"{content['seeds']} distillation seeds (random photos: draws)."
    )
    return table(["images per class", "trained on", "encoder", *probes], lines, note)


def labels() -> str:
    content = read("labels")
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in content["rows"]:
        key = (f"`{row['method']}`, {row['steps']} steps", str(row["images_per_class"]), row["labels"])
        cells.setdefault(key, {})[f"{ENCODERS[row['target']]}: {row['probe']}"] = mean_and_std(row["top1"])
    columns = list(next(iter(cells.values())))
    note = (
        f"{made_by(content)} Top-1 %, {content['views']} views, two evaluation seeds; mean ± std over "
        f"{content['seeds']} distillation seeds."
    )
    return table(
        ["set", "images per class", "labels", *columns], ([*key, *of.values()] for key, of in cells.items()), note
    )


def bytes_of_images() -> str:
    content = read("bytes")
    points = content["points"]
    settings = [s for s in dict.fromkeys(p["setting"] for p in points) if s.isdigit()]
    lines = []
    for source, count in dict.fromkeys((p["source"], p["images_per_class"]) for p in points):
        of_setting: dict[str, list[dict[str, Any]]] = {}
        for p in points:
            if (p["source"], p["images_per_class"]) == (source, count):
                of_setting.setdefault(p["setting"], []).append(p)
        top1 = {s: mean_and_std([p["top1"] for p in drawn]) for s, drawn in of_setting.items()}
        cells = [top1.get(s, "") for s in settings]
        for setting in ("png", "default"):
            sizes = [p["bytes"] for p in of_setting.get(setting, [])]
            cells.append(f"{top1[setting]} in {statistics.fmean(sizes) / 1000:.1f} kB" if sizes else "")
        title = source if source == "distilled" else f"{source}, {count} per class"
        lines.append([title, *cells])
    protocol = content["settings"]["protocol"]
    draws = {
        source: 1 + max(p["draw"] for p in points if p["source"] == source) for source in ("distilled", "random real")
    }
    note = (
        f"{made_by(content)} Top-1 % after decoding, ridge probe, {protocol['views']} views, "
        f"{protocol['seeds']} evaluation seeds; mean ± std over {draws['distilled']} distillation seeds, or over "
        f"{draws['random real']} draws of random real images."
    )
    return table(["", *(f"{s} kB" for s in settings), "PNG", "default export"], lines, note)


def export_loss() -> str:
    content = read("export_loss")
    lines = []
    for row in content["rows"]:
        cells = [f"`{row['method']}`", f"{100 * row['png']:.1f}", f"{100 * row['export']:.1f}"]
        lines.append([*cells, f"{100 * row['difference']:+.2f} ± {100 * row['std']:.2f}"])
    note = (
        f"{made_by(content)} Ridge probe, 8 evaluation seeds of 30 views, the same for both; mean over three "
        "distillation seeds, ± their standard deviation."
    )
    return table(["method", "PNG", "default export", "difference"], lines, note)


def fair_scores() -> str:
    content = read("fair_scores")
    lines = []
    for row in content["rows"]:
        cells = [f"`{row['method']}`", row["probe"], percent(row)]
        cells += ["" if row[what] is None else f"{100 * row[what]:+.1f}" for what in ("gap", "gain")]
        lines.append(cells)
    note = (
        f"{made_by(content)} Lite0 at 112 px, 150 steps, 5 evaluation seeds; mean over three distillation seeds, ± "
        "their standard deviation."
    )
    return table(["method", "probe", "top-1", "gap to full data", "gain over random"], lines, note)


def search() -> str:
    columns = [("clothing", "lite0"), ("clothing", "mobilenetv1"), ("grocery", "lite0"), ("grocery", "mobilenetv1")]
    contents = {c: read(f"search-{c[0]}-{c[1]}") for c in columns if (RESULTS / f"search-{c[0]}-{c[1]}.json").exists()}
    lines = []
    earlier = False
    for name in dict.fromkeys(name for content in contents.values() for name in content["rows"]):
        cells = [f"`{name}`"]
        for content in contents.values():
            row = content["rows"].get(name)
            mark = " †" if row and "note" in row else ""
            earlier = earlier or bool(mark)
            cells.append(percent(row["ridge"]) + mark if row else "")
        lines.append(cells)
    made = ", ".join(f"`python benchmarks/search.py {dataset} {encoder}`" for dataset, encoder in contents)
    machine = next(iter(contents.values()))["machine"]
    note = (
        "Objectives: `own` pulls each view to its class centre; `ideal` pulls it to its class's ideal feature for "
        "the ridge head of all real data; `headmatch` matches the induced head to that head; `kd` matches that head's "
        "predictions; `adam` uses the sgd probe's head; `path` is `lgm` at heads along a training path. "
        "Settings: `_v1`: one view per image and step; `_real`: from class medoids; `_lr05`: learning rate 0.05; "
        "`_s35`: crops of at least 35%; `_400`: twice the steps; `_levels`: pyramid levels opened one by one. "
        + ("†: made by an earlier version of the script with the same objectives. " if earlier else "")
        + "Made by "
        f"{made} on {machine['cpu']}, one core, torch {machine['torch']}, {machine['date']}."
    )
    return table(["candidate", *(f"{d}, {ENCODERS[e]}" for d, e in contents)], lines, note)


def migrate(part: str) -> str:
    content = read("migrate")
    summary = content["summary"]
    if part == "accuracy":
        names = list(next(iter(summary.values()))["accuracy"])
        lines = [
            [title, str(one["pairs"]), *(f"{100 * one['accuracy'][name]:.1f}" for name in names)]
            for title, one in summary.items()
        ]
        return table(["sets", "pairs", *names], lines, f"{made_by(content)} Top-1 %, mean over pairs.")
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "mean absolute error": lambda one: f"{100 * one['mean_absolute_error']:.1f}",
        "mean bias": lambda one: f"{100 * one['bias']:+.1f}",
        "largest error": lambda one: f"{100 * one['largest_error']:.1f}",
        "rank correlation of pairs": lambda one: f"{one['rank_correlation_of_pairs']:.2f}",
        "of candidates": lambda one: f"{one['rank_correlation_of_candidates']:.2f}",
        "`auto` is best": lambda one: f"{100 * one['auto_is_best']:.0f}%",
        "`auto` loses": lambda one: f"{100 * one['auto_loses']:.1f}",
    }
    lines = [[title, *(cell(one) for cell in columns.values())] for title, one in summary.items()]
    note = (
        "Errors in points, over all pairs and candidates; a positive bias is a forecast that is too high. Rank\n"
        "correlation: Spearman's, of forecast and true accuracy, over pairs (for `average`) and over the candidates\n"
        "of a pair (mean over pairs). `auto` loses: points behind the best candidate, on average."
    )
    return table(["sets", *columns], lines, note)


def over_seeds(rows: list[dict[str, Any]], column: str) -> str:
    """Mean ± standard deviation of a column over seeds; the mean alone for one seed."""
    return mean_and_std([row[column] for row in rows if column in row])


def federated() -> str:
    content = read("federated")
    lines = []
    names = list(dict.fromkeys(row["name"] for row in content["rows"]))
    order = ["clp", "sfm", "pFRF", "random", "full", "head:"]
    for name in sorted(names, key=lambda name: order.index(name.split()[0].rstrip(","))):
        rows = [row for row in content["rows"] if row["name"] == name]
        shown = f"{name} (one per class)" if name == "random real" else name
        lines.append([shown, over_seeds(rows, "lite0"), over_seeds(rows, "mobilenetv1")])
    seeds = len({row["seed"] for row in content["rows"]})
    note = (
        f"{made_by(content)} Top-1 %, mean ± standard deviation over {seeds} seeds of partition and distillation; no ± "
        "means one seed. Sets are scored by ridge probes over 5 evaluation seeds."
    )
    return table(["from", "Lite0", "MobileNetV1"], lines, note)


def privacy(data: str) -> str:
    content = read("privacy")
    rows = [row for row in content["rows"] if row["data"] == data]
    titles = ["sfm", "prototypes", "prototypes, corrected", "prototypes of both"]
    columns = ["ε", "Lite0: images", "prototypes", "corrected", "of both, ε/2 each"]
    lines = []
    for epsilon in dict.fromkeys(row["epsilon"] for row in rows if row["name"] in titles):
        of = {name: [r for r in rows if r["epsilon"] == epsilon and r["name"] == name] for name in titles}
        cells = [over_seeds(of[name], "lite0") for name in titles]
        cells += [over_seeds(of[name], "mobilenetv1") for name in ("sfm", "prototypes of both")]
        lines.append(["∞" if epsilon == "inf" else f"{epsilon:g}", *cells])
    real = []
    for name, shown in {"random real": "one random photo per class", "full real data": "all photos"}.items():
        found = [row for row in rows if row["name"] == name]
        if found:
            real.append(f"{shown} {over_seeds(found, 'lite0')} and {over_seeds(found, 'mobilenetv1')}")
    of_images, of_prototypes = ({r["release"] for r in rows if r["name"] == name} for name in ("sfm", "prototypes"))
    note = (
        f"{made_by(content)} Top-1 %, mean ± standard deviation over releases, each with its own noise "
        f"({len(of_prototypes)} for prototypes, {len(of_images)} for images). δ = {content['delta']:g}. "
        f"Ridge probes on photos, with Lite0 and MobileNetV1: {'; '.join(real)}."
    )
    return table([*columns, "MobileNetV1: images", "of both, ε/2 each"], lines, note)


STARTS = {"average": "averages (`auto`)", "blend": "blends of ten photos", "real": "single photos", "noise": "noise"}


def audit_copies() -> str:
    content = read("audit")
    columns = ["images start from", "measure", "suspects", "nearest photo is a starting photo", "nearer, %"]
    lines = []
    for start, title in STARTS.items():
        rows = [row for row in content["rows"] if row["start"] == start]
        if not rows:
            continue
        images = sum(row["images"] for row in rows)
        for name in ("pixels", "structure", "features"):
            suspects = sum(row["suspects_by"][name] for row in rows)
            began = sum(sum(row["began_as"][name]) for row in rows)
            nearer = statistics.median(share for row in rows for share in row["nearer"][name])
            lines.append([title, name, f"{suspects} of {images}", f"{began} of {images}", f"{100 * nearer:.0f}"])
    seeds = len({row["seed"] for row in content["rows"]})
    note = (
        f"{made_by(content)} {seeds} distillation seeds of each; {content['photos']:,} photos. Starting photos: for "
        "averages of a hundred and for noise, the ten that a blend would start from. Nearer: median over the images."
    )
    return table(columns, lines, note)


def audit_members() -> str:
    members = read("audit")["members"]
    says = {"probe": "margin of a probe", "features": "similarity in features", "pixels": "similarity in pixels"}

    def with_ends(value: float, ends: list[float]) -> str:
        return f"{100 * value:.1f} ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"

    columns = ["images start from", "score of a photo", "attack", "AUC, %", "true positives at 1% false positives, %"]
    lines, notes = [], []
    for start, title in STARTS.items():
        found = members.get(start)
        if found is None:
            continue
        for one in found["attacks"]:
            cells = [with_ends(one["auc"], one["auc_interval"]), with_ends(one["tpr"], one["tpr_interval"])]
            lines.append([title, says[one["score"]], one["how"], *cells])
        notes.append(
            f"From {title}: {found['shadows']} shadow sets of {found['steps']} steps with {found['layers'] or 'no'} "
            f"inner layers, each from half of {found['photos']:,} photos; 95% intervals by t over "
            f"{found['shadows'] // 2} pairs. {made_by(found)}"
        )
    return table(columns, lines, "\n".join([*notes, "Guessing gives 50 and 1."]))


def spread_over_seeds(cell: dict[str, Any]) -> str:
    return f"{100 * cell['mean']:.1f}" + (f" ± {100 * cell['std']:.1f}" if cell["seeds"] > 1 else "")


def incremental() -> str:
    content = read("incremental")
    shown = [1, 2, 3, 5, 7, 10]
    lines = []
    for name, cells in content["accuracy"].items():
        values = [cells[number - 1] for number in shown]
        lines.append([name, *("" if c is None else spread_over_seeds(c) for c in values)])
    seeds = f"mean ± std over {content['seeds']} seeds of order and distillation; no ± means one seed"
    note = f"{made_by(content)} Top-1 %, {seeds if content['seeds'] > 1 else 'one seed of order and distillation'}."
    return table(["after task", *map(str, shown)], lines, note)


TABLES: dict[str, Callable[[], str]] = {
    "federated": federated,
    "privacy_clothing": partial(privacy, "clothing"),
    "privacy_grocery": partial(privacy, "grocery"),
    "audit_copies": audit_copies,
    "audit_members": audit_members,
    "incremental": incremental,
    "migrate_accuracy": partial(migrate, "accuracy"),
    "migrate_forecast": partial(migrate, "forecast"),
    "search": search,
    "transfer": transfer,
    "alignment": alignment,
    "correlation": correlation,
    "periphery": periphery,
    "shortcuts": shortcuts,
    "report_paint": report_paint,
    "inheritance": inheritance,
    "labels": labels,
    "bytes": bytes_of_images,
    "fair_scores": fair_scores,
    "export_loss": export_loss,
    "headline": headline,
    "seeds": seeds,
    "seeds_grocery": partial(seeds, "grocery", names=["lite0", "clip"]),
    "seeds_clip": partial(seeds, names=["clip"]),
    "seeds_224": partial(seeds, names=["lite0", "clip"], size=224),
    "seeds_224_others": partial(seeds, names=["mobilenetv1", "mobilenetv2"], size=224),
    "per_class": per_class,
    "seeds_elsewhere": seeds_elsewhere,
    "seeds_cifar": partial(seeds, "cifar-10", names=["lite0"]),
    "seeds_cifar_elsewhere": partial(seeds_elsewhere, "cifar-10"),
    "choices": choices,
    "crops": crops,
    "methods": methods,
    "recipes": recipes,
    "step_cost": step_cost,
    "kernels": kernels,
    "kernels_gpu": partial(kernels, "-gpu"),
    "gpu": gpu,
    "allocator": allocator,
    "profile": profile,
    "memory": memory,
    "stream": stream,
    "time_to_accuracy": time_to_accuracy,
}


def filled(content: str, marked: re.Match[str]) -> str:
    """A table between its two markers."""
    return f"{marked[1]}{content}\n{marked[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a table is out of date")
    options = parser.parse_args()
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = new = path.read_text()
        for name, make in TABLES.items():
            pattern = re.compile(rf"(<!-- {name}: benchmarks/tables.py -->\n).*?(<!-- end -->)", re.DOTALL)
            if pattern.search(new):
                try:
                    content = make()
                except FileNotFoundError as error:
                    content = f"Not made yet: no `{Path(error.filename).name}`."
                new = pattern.sub(partial(filled, content), new)
        if new != text:
            stale.append(path.name)
            if not options.check:
                path.write_text(new)
    if stale:
        print(("out of date: " if options.check else "rewritten: ") + ", ".join(stale))
    sys.exit(bool(stale and options.check))


if __name__ == "__main__":
    main()
