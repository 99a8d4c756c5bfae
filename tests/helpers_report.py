"""Run folders to report on, made without distilling anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from helpers_runs import encoder_record, run_record
from probedistill import DistillConfig, DistilledSet
from probedistill.show.previews import save_sprite

SCRIPT = "<script>alert(1)</script>"


def make_run(
    folder: Path,
    class_names: Sequence[str] = ("cat", "dog", SCRIPT),
    *,
    per_class: int = 1,
    side: int = 24,
    seed: int = 0,
) -> Path:
    """A finished run of noise images with an evolution, losses, accuracy and scores; return its folder."""
    generator = torch.Generator().manual_seed(seed)
    count = len(class_names) * per_class
    images = torch.rand(count, 3, side, side, generator=generator)
    labels = torch.arange(len(class_names)).repeat_interleave(per_class)
    run = run_record(
        config=DistillConfig(method="clp", steps=40, seed=seed, images_per_class=per_class),
        encoders=(encoder_record(input_size=side),),
        losses=[2 / (i + 1) for i in range(40)],
        accuracy=[(20, 0.25), (40, 0.5)],
        seconds=12.5,
    )
    DistilledSet(images, labels, tuple(class_names), run).save(folder)
    for step in (0, 20, 40):
        save_sprite(folder, step, images * step / 40)
    (folder / "config.yaml").write_text("images: folder:photos\nencoder: tiny\n")
    write(folder / "evaluation-tiny.json", evaluation(class_names, count))
    return folder


def evaluation(class_names: Sequence[str], images: int) -> dict[str, Any]:
    """Scores as `probedistill evaluate` writes them."""

    def row(name: str, count: int, top1: float) -> dict[str, Any]:
        scores = [{"top1": top1, "balanced": top1, "per_class": dict.fromkeys(class_names, top1)}]
        return {"name": name, "probe": "ridge", "images": count, "top1": top1, "std": 0.01, "scores": scores}

    return {
        "context": {"title": "tiny at 24 px", "encoder": {"name": "tiny", "input_size": 24}},
        "rows": [row("distilled", images, 0.618), row("random real", images, 0.431), row("full real data", 60, 0.923)],
    }


def results(class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A result file of each kind."""
    points = [
        {
            "x": i % 7 + 0.3 * place,
            "y": i % 5 + 0.3 * place,
            "label": i % len(class_names),
            "kind": kind,
            "name": f"{kind} {i}",
        }
        for place, (kind, count) in enumerate(
            {"real": 30, "medoid": len(class_names), "synthetic": len(class_names)}.items()
        )
        for i in range(count)
    ]
    place = {"distance_quantile": 0.75, "margin": 0.1, "own_neighbours": 0.5}
    encoder = {"name": SCRIPT, "fingerprint": "ab", "input_size": 24}
    group = {"groups": {"cat/indoors": 0.9, "cat/outdoors": 0.4}, "worst_group": 0.4, "gap": 0.5, "top1": 0.65}
    return {
        "transfer": {
            "kind": "transfer", "targets": [encoder, {"name": "other"}],
            "sources": [{"name": "a", "encoder": encoder}, {"name": "b", "encoder": {"name": "other"}}],
            "probes": ["ridge", "inherited"],
            "accuracy": {"ridge": [[0.5, 0.25], [float("nan"), 0.375]], "inherited": [[0.5, 0.5], [0.5, 0.5]]},
            "baselines": {
                "ridge": {"full": [0.875, 0.8125], "centroids": [[0.125, 0.125], [0.25, 0.25]]},
                "inherited": {"full": [0.875, 0.8125], "random_inherited": [[0.375, 0.25], [None, None]]},
            },
        },
        "align": {
            "kind": "align", "encoders": [encoder, {"name": "other"}],
            "metrics": {"cka": [[1.0, 0.61], [0.61, 1.0]]},
            "transfer": {"pairs": 2, "metrics": {"cka": {"spearman": 0.83, "p": 0.04}}},
        },
        "geometry": {
            "kind": "geometry", "encoder": encoder, "class_names": list(class_names), "explained": [0.4, 0.2],
            "points": points, "classes": [{"name": n, "synthetic": place, "medoid": place} for n in class_names],
        },
        "bias": {
            "kind": "bias", "groups": ["cat/indoors", "cat/outdoors"],
            "entries": [{"run": "r", "encoder": encoder, "distilled": group, "full": group, "background_share": 0.3}],
        },
    }  # fmt: skip


def long_names(count: int = 6) -> dict[str, dict[str, Any]]:
    """Result files with a heat map of ``count`` encoders and with groups, all with names that are too long to show."""
    names = [f"timm:vit_small_patch14_dinov2.lvd142m at {100 * i} px" for i in range(1, count + 1)]
    encoders = [{"name": name, "fingerprint": name} for name in names]
    groups = [f"landbird with a long name {i}/bamboo forest in the rain {i}" for i in range(count)]
    values = [[(i + j) / (2 * count) for i in range(count)] for j in range(count)]

    def scores(shift: float) -> dict[str, Any]:
        found = {group: shift + 0.1 * i / count for i, group in enumerate(groups)}
        return {"groups": found, "worst_group": shift, "gap": 0.1, "top1": shift}

    entries = [
        {"run": f"run-{i}", "encoder": encoders[i], "background_share": None if i == 1 else 0.1 * (i + 1)}
        | {key: scores(0.2 * k + 0.1 * i) for k, key in enumerate(("distilled", "random", "full"))}
        for i in range(3)
    ]
    return {
        "transfer": {
            "kind": "transfer", "sources": encoders, "targets": encoders, "probes": ["ridge"],
            "accuracy": {"ridge": values},
        },
        "bias": {
            "kind": "bias", "groups": groups, "entries": entries,
            "ranking": {"worst_group": [2, 1, 0], "background_share": [0, 2, 1]},
            "agreement": {"worst_group": {"spearman": 1.0, "p": 1 / 3, "n": 3}, "background_share": None},
        },
    }  # fmt: skip


def write(path: Path, content: Any) -> Path:
    """Write JSON."""
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
