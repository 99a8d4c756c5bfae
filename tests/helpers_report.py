"""Run folders to report on, made without distilling anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers_runs import encoder_record, run_record
from probedistill import AugmentConfig, DistillConfig, DistilledSet, EvaluateConfig, TransferConfig
from probedistill.analysis.alignment import Alignment, AlignmentOptions, Chance, Space, TransferCorrelation
from probedistill.analysis.audit import Audit, Audited, Match, Measure, Stored
from probedistill.analysis.base import Analysis, EncoderAbout, MadeBy
from probedistill.analysis.bias import BiasProtocol, BiasReport
from probedistill.analysis.bias_entry import Accuracy, BiasEntry, GroupScores
from probedistill.analysis.directions import Resemblance
from probedistill.analysis.geometry import ClassGeometry, Geometry, Projection
from probedistill.analysis.matrix import RealImages, Source, TransferMatrix
from probedistill.analysis.membership import Attack, Membership
from probedistill.analysis.migrate import Anchor, Candidate, Migration, Old
from probedistill.analysis.places import Place
from probedistill.analysis.similarity import METRICS
from probedistill.analysis.statistics import ClassTest, Correlation
from probedistill.evaluation.result import Context, Evaluation, Row, ScoredBy, ScoredOn
from probedistill.probes.scores import Scores
from probedistill.show.previews import save_sprite
from probedistill.store.run_record import ImagesRecord

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
    evaluation(class_names, count).save(folder / "evaluation-tiny.json")
    return folder


def evaluation(class_names: Sequence[str], images: int) -> Evaluation:
    """Scores of a distilled set and of real images, over three seeds that are a point apart."""

    def scores(top1: float) -> Scores:
        return Scores(top1, None, dict.fromkeys(class_names, top1), None, None, 60, top1)

    def row(name: str, count: int, top1: float) -> Row:
        return Row(name, "ridge", count, tuple(scores(top1 + by) for by in (-0.01, 0.0, 0.01)))

    rows = (row("distilled", images, 0.618), row("random real", images, 0.431), row("full real data", 60, 0.923))
    context = Context(
        "tiny at 24 px", ScoredBy("tiny", "ab" * 32, 24, "fp32"), ScoredOn("folder:photos", "test", 60, "cd" * 32),
        EvaluateConfig(), AugmentConfig(), tuple(class_names),
    )  # fmt: skip
    return Evaluation(rows, context)


def results(class_names: Sequence[str]) -> dict[str, Analysis]:
    """One result of each kind."""
    return {
        "transfer": transfer(),
        "align": align(),
        "geometry": geometry(class_names),
        "bias": bias(["cat/indoors", "cat/outdoors"], [EncoderAbout(SCRIPT, "ab", 24)]),
        "migrate": migration(),
        "audit": audited(class_names),
    }


def audited(class_names: Sequence[str]) -> Audit:
    """An image of each class with its nearest photo, and shadow sets."""
    match = Match("cat/0001.png", 0.2, 0.5, 0.04, 0.03)
    return Audit(
        MadeBy("clp", "tiny"), EncoderAbout(SCRIPT, "ab", 24), ImagesRecord("folder:photos", "train", 60, "cd" * 32),
        "real", {"pixels": Measure("grey values", True, (0.1, 0.1, 0.2, 0.3, 0.4))},
        tuple(Audited(name, {"pixels": match}) for name in class_names),
        (Stored("3 images", "they began as photos"),), True, None,
        Membership(6, 6, 60, 40, (Attack("probe", "online", 0.6, (0.5, 0.7), 0.02, (0.01, 0.03)),)),
    )  # fmt: skip


ABOUT = ImagesRecord("folder:photos", "test", 60, "cd" * 32)


def transfer(encoders: Sequence[EncoderAbout] | None = None, values: Any = None) -> TransferMatrix:
    """Transfer between sets of each encoder, by a ridge probe and, without ``values``, by an inherited head."""
    nan = float("nan")
    rest: dict[str, Any] = {
        "class_names": ("cat", "dog"), "images_per_class": 1, "protocol": TransferConfig(), "augment": AugmentConfig(),
        "images": RealImages(ABOUT, ABOUT), "versions": {}, "finished": True,
    }  # fmt: skip
    if encoders is not None:
        accuracy = np.array([values])
        sources = tuple(Source(encoder.name, "r", "clp", (encoder,)) for encoder in encoders)
        return TransferMatrix(sources, tuple(encoders), ("ridge",), accuracy, np.zeros_like(accuracy), {}, {}, **rest)
    encoders = (EncoderAbout(SCRIPT, "ab", 24), EncoderAbout("other", "cd", 24))
    sources = tuple(Source(name, name, "clp", (encoder,)) for name, encoder in zip("ab", encoders, strict=True))
    accuracy = np.array([[[0.5, 0.25], [nan, 0.375]], [[0.5, 0.5], [0.5, 0.5]]])
    baselines = {
        "full": np.array([[0.875, 0.8125]] * 2),
        "centroids": np.array([[[0.125, 0.125], [0.25, 0.25]], [[nan, nan], [nan, nan]]]),
        "random_inherited": np.array([[[nan, nan], [nan, nan]], [[0.375, 0.25], [nan, nan]]]),
    }
    std = {name: np.zeros_like(value) for name, value in baselines.items()}
    return TransferMatrix(
        sources, encoders, ("ridge", "inherited"), accuracy, np.zeros_like(accuracy), baselines, std,
        heads={"inherited": "ridge"}, **rest,
    )  # fmt: skip


def migration() -> Migration:
    """Two candidates, with their forecasts and the truth."""
    candidates = (Candidate("ridge", 0.75, 0.5, 0.375), Candidate("average", 0.625, 0.5625, 0.5))
    old = (Old(EncoderAbout("old", "cd", 24), "stored", 0.75),)
    anchor = Anchor(0.625, "evaluate", 0.875)
    return Migration(SCRIPT, EncoderAbout(SCRIPT, "ab", 24), old, anchor, candidates, "average", True, 20, ABOUT)


def align() -> Alignment:
    """Two encoders, and how their alignment correlates with transfer."""
    spaces = (Space(SCRIPT, "ab", 24, 8), Space("other", "cd", 24, 8))
    values = np.array([[1.0, 0.61], [0.61, 1.0]])
    found = {name: Correlation(0.83, 0.04, 2) for name in METRICS}
    return Alignment(
        spaces, dict.fromkeys(METRICS, values), Chance(0.1, values), ABOUT, AlignmentOptions(10, 60, 0),
        TransferCorrelation("ridge", 2, True, found, found),
    )  # fmt: skip


def geometry(class_names: Sequence[str]) -> Geometry:
    """Every class is drawn, with thirty real images in all."""
    counts = {"real": 30, "medoid": len(class_names), "synthetic": len(class_names)}
    points = [
        (i % 7 + 0.3 * place, i % 5 + 0.3 * place, i % len(class_names), kind, None if kind == "synthetic" else f"{i}")
        for place, (kind, count) in enumerate(counts.items())
        for i in range(count)
    ]
    x, y, labels, kinds, names = zip(*points, strict=True)
    place = Place(0.75, 0.5, 0.5, 0.1, 0.1, 1.0, 1.0, 0.5)
    test = ClassTest(0.75, (0.5, 0.9), 0.04)
    return Geometry(
        EncoderAbout(SCRIPT, "ab", 24), MadeBy("clp", "tiny"), ABOUT, 10,
        tuple(ClassGeometry(name, 10, place, place, place) for name in class_names),
        dict.fromkeys(("periphery", "angle", "margin"), test),
        Projection(np.stack([x, y], axis=1), labels, kinds, names, (0.4, 0.2)),
    )  # fmt: skip


def bias(groups: Sequence[str], encoders: Sequence[EncoderAbout]) -> BiasReport:
    """An entry for each encoder; the second has no background share."""

    def scores(worst: float) -> GroupScores:
        found = {group: worst + 0.05 * i for i, group in enumerate(groups)}
        return GroupScores(sum(found.values()) / len(found), found, worst, 0.05 * (len(groups) - 1), 0.1, 0.1)

    def entry(i: int, encoder: EncoderAbout) -> BiasEntry:
        likeness = Resemblance((-0.1,), (-0.1,)) if i == 1 else Resemblance((0.1 * (i + 1),), (1 - 0.1 * (i + 1),))
        accuracy = Accuracy(*(scores(0.2 * k + 0.1 * i) for k in range(3)))
        return BiasEntry(f"run-{i}", ("cat",), encoder, accuracy, likeness, {}, 0.0)

    return BiasReport(
        tuple(entry(i, encoder) for i, encoder in enumerate(encoders)), ("cat",), (), ABOUT,
        BiasProtocol("ridge", 1, 1, ("background",)), "0",
    )  # fmt: skip


def long_names(count: int = 6) -> dict[str, Analysis]:
    """Results with a heat map of ``count`` encoders and with groups, all with very long names."""
    encoders = [
        EncoderAbout(f"timm:vit_small_patch14_dinov2.lvd142m at {100 * i} px", f"{i}", 100 * i)
        for i in range(1, count + 1)
    ]
    groups = [f"landbird with a long name {i}/bamboo forest in the rain {i}" for i in range(count)]
    values = [[(i + j) / (2 * count) for i in range(count)] for j in range(count)]
    return {"transfer": transfer(encoders, values), "bias": bias(groups, encoders[:3])}


def write(path: Path, content: Any) -> Path:
    """Write JSON; the digest is removed from a record that was changed on purpose, so that it is accepted."""
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key != "sha256"}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
