"""Ten parties with few classes each: sets from merged statistics and from pooled photos, and heads from the statistics.

    python benchmarks/federated.py --minutes 7       # again until it says "done": an hour on a shared core

Clothing photos are distributed to ten parties by a Dirichlet distribution (α = 0.05) for each class, so that a party
has one to seven classes. Each party computes statistics of Lite0's features at 112 px; the server merges them. Sets are
distilled from the merged statistics and from the pooled photos, both from noise, with 100 steps of 3 views and three
seeds (for partition and distillation). They are scored with ridge probes on Lite0 and on MobileNetV1, which no party
has used. Heads from the same statistics: nearest class mean, LDA (as in FedCGS, arXiv 2503.06962), logistic regression
on draws from the Gaussians (the idea of GH-OFL, arXiv 2602.01186), and ridge regression, which needs only these sums.
pFRF's shared set is reimplemented after its authors' code, from the merged statistics; "equal shares" is one seed that
treats classes as equally large, as a check. Nothing is chosen on test data: the shrinkage of LDA is 0.1, and ridge has
the probe's own penalty. Writes results/federated.json after every row, and continues where it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import _common
from probedistill import (
    ClassStatistics,
    DistilledSet,
    Encoder,
    FeatureBank,
    LabelledImages,
    LinearProbe,
    distill,
    evaluate,
    extract_features,
    load_encoder,
    load_splits,
    merge_statistics,
)
from probedistill.distillation.prepare import Data
from probedistill.features.classes import class_sums
from probedistill.features.gaussians import gaussian_features
from probedistill.objectives.real import Objective, RealFeatures
from probedistill.probes.of_statistics import ridge_head
from probedistill.store.run_record import EncoderRecord, PartRecord

PARTIES, ALPHA, SEEDS, STEPS = 10, 0.05, 3, 100
SHRINKAGE = 0.1
WAYS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "clp": ("clp", {}, (0, 1, 2)),
    "sfm": ("sfm", {}, (0,)),
    "pFRF": ("module:federated:frf", {}, ()),
    "pFRF, equal shares,": ("module:federated:frf", {"equal": True}, ()),
}
"""What is distilled: method, options, and the seeds that are also distilled from the pooled photos."""


def partition(labels: Tensor, seed: int) -> list[Tensor]:
    """The images of each party: every class is divided by shares from a Dirichlet distribution."""
    rng = np.random.default_rng(seed)
    owner = np.empty(len(labels), dtype=np.int64)
    for label in labels.unique().tolist():
        rows = rng.permutation(np.flatnonzero(labels.numpy() == label))
        owner[rows] = rng.choice(PARTIES, len(rows), p=rng.dirichlet([ALPHA] * PARTIES))
    return [torch.from_numpy(np.flatnonzero(owner == party)) for party in range(PARTIES)]


def parties_of(bank: FeatureBank, encoder: Encoder, seed: int) -> list[ClassStatistics]:
    """What each party sends: the statistics of its classes."""
    sent = []
    for party, rows in enumerate(partition(bank.labels, seed)):
        if len(rows):
            part = PartRecord(f"party {party}", f"{seed}-{party}", len(rows), "benchmark")
            every = ClassStatistics.of_bank(bank.select(rows), EncoderRecord.of(encoder), part)
            there = [name for name, count in zip(every.class_names, every.counts.tolist(), strict=True) if count]
            sent.append(every.with_classes(there))
    return sent


def merged(parts: list[ClassStatistics], names: tuple[str, ...]) -> ClassStatistics:
    """What the server has: the statistics of all parties, with classes in the order of the test set."""
    return merge_statistics(parts, union=True).with_classes(names)


# ---------------------------------------------------------------------------------------------------
# The shared set of pFRF


def frf(real: RealFeatures, *, equal: bool = False) -> Objective:
    """The objective of the authors' code at one image per class (github.com/XinbaoQiao/pFRF, src/federated/server.py).

    There, the target of class c is its pooled mean μ_c, and mean_c (1 − cos(g_c, g*_c)) is minimised, where
    g*_c = μ / C − p_c μ_c with the mean μ of all images and the share p_c of the class. g_c is the same for synthetic
    features, whose shares are 1 / C. That is a step of linear regression from zero, like SFM's flow except for the
    shares: both have the same direction if all classes have the same size, which ``equal`` assumes. Steps, views and
    canvas are the same as for the other rows. The next stage, which fits a head and a map to the shared set for each
    party, is left out.
    """
    sums, counts = real.class_sums()
    if equal:
        sums, counts = sums / counts.reshape(-1, 1), torch.ones_like(counts)
    total, classes = counts.sum(), real.num_classes
    target = (sums.sum(dim=0) / total / classes - sums / total).to(real.device, real.dtype)

    def objective(features: Tensor, labels: Tensor, step: int) -> Tensor:
        added, n = class_sums(features, labels, classes)
        means = added / n
        ours = (means.mean(dim=0) - means) / classes
        return 1 - torch.nn.functional.cosine_similarity(ours, target, dim=1).mean()

    return objective


# ---------------------------------------------------------------------------------------------------
# Heads from the statistics: (C, d) weight and (C,) bias


def class_means(found: ClassStatistics) -> tuple[Tensor, Tensor]:
    means = found.means()
    return means, -means.square().sum(dim=1) / 2


def lda(found: ClassStatistics) -> tuple[Tensor, Tensor]:
    covariance, means = found.covariance(), found.means()
    level = covariance.diagonal().mean() * torch.eye(found.dim, dtype=torch.float64)
    weight = torch.linalg.solve((1 - SHRINKAGE) * covariance + SHRINKAGE * level, means.T).T
    return weight, (found.counts / found.total).log() - (weight * means).sum(dim=1) / 2


def logistic_on_draws(found: ClassStatistics) -> tuple[Tensor, Tensor]:
    features, labels = gaussian_features(found, 256)
    probe = LinearProbe("logistic").fit(features.float(), labels)
    return torch.from_numpy(probe.coef_), torch.from_numpy(probe.intercept_)


HEADS: dict[str, Callable[[ClassStatistics], tuple[Tensor, Tensor]]] = {
    "class means": class_means,
    "LDA": lda,
    "logistic on draws": logistic_on_draws,
    "ridge": ridge_head,
}


def accuracy(head: tuple[Tensor, Tensor], test: FeatureBank) -> float:
    weight, bias = (part.double() for part in head)
    logits = test.centre.double() @ weight.T + bias
    return float((logits.argmax(dim=1) == test.labels).double().mean())


# ---------------------------------------------------------------------------------------------------
# Rows


def rows_of_heads(
    parts: list[ClassStatistics], found: ClassStatistics, test: FeatureBank, seed: int
) -> Iterator[dict[str, Any]]:
    for name, make in HEADS.items():
        yield {"name": f"head: {name}", "seed": seed, "lite0": accuracy(make(found), test)}
    logits = torch.zeros(len(test), found.num_classes, dtype=torch.float64)
    for part in parts:  # what each party could send instead of statistics
        if part.num_classes > 1:
            weight, bias = ridge_head(part)
            here = [found.class_names.index(name) for name in part.class_names]
            logits[:, here] += part.total * (test.centre.double() @ weight.T + bias)
    right = (logits.argmax(dim=1) == test.labels).double().mean()
    yield {"name": "head: ridge of each party, averaged", "seed": seed, "lite0": float(right)}


def scored(distilled: DistilledSet, train: LabelledImages, test: LabelledImages) -> dict[str, float]:
    scores = {}
    for name in ("lite0", "mobilenetv1"):
        result = evaluate(
            distilled, load_encoder(_common.encoder(name)), train, test, probes=["ridge"], seeds=5, baselines=[]
        )
        scores[name] = result.rows[0].top1
    return scores


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing after so many minutes")
    stop = time.monotonic() + 60 * parser.parse_args().minutes
    train, test = load_splits(_common.images("clothing"))
    encoder = load_encoder(_common.encoder("lite0"))
    bank, test_bank = extract_features(encoder, train), extract_features(encoder, test)
    rows: list[dict[str, Any]] = _common.kept("federated").get("rows", [])
    classes: list[int] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        about = {"parties": PARTIES, "alpha": ALPHA, "steps": STEPS, "classes_of_parties": classes}
        _common.keep("federated", {**about, "rows": rows})

    for seed in range(SEEDS):
        parts = parties_of(bank, encoder, seed)
        classes += [part.num_classes for part in parts]
        found = merged(parts, bank.class_names)
        there = {row["name"] for row in rows if row["seed"] == seed}
        for row in rows_of_heads(parts, found, test_bank, seed):
            if row["name"] not in there:
                keep(row)
        for way, (method, arguments, of_photos) in WAYS.items():
            sources: dict[str, Data] = {"merged statistics": found, "pooled photos": train}
            for name, source in sources.items():
                title = f"{way} from {name}"
                left_out = seed not in of_photos if source is train else bool(arguments) and seed > 0
                if title in there or left_out:
                    continue
                if time.monotonic() > stop:
                    print("not done: run it again")
                    return
                distilled = distill(
                    source, encoder, method=method, method_args=arguments, steps=STEPS, seed=seed, real_views=0,
                    evaluate_every=0, canvas={"init": "noise"}, progress=False, resume=True,
                    out=_common.RUNS / _common.run_name("federated", title, str(seed)),
                )  # fmt: skip
                keep({
                    "name": title, "seed": seed, **scored(distilled, train, test), "seconds": distilled.run.seconds,
                    "last_loss": distilled.run.losses[-1],
                })  # fmt: skip
    if not any(row["name"] == "full real data" for row in rows):
        for name in ("lite0", "mobilenetv1"):
            model = load_encoder(_common.encoder(name))
            result = evaluate(None, model, train, test, probes=["ridge"], seeds=5, baselines=["random", "full"])
            for one in result.rows:
                keep({"name": one.name, "seed": 0, name: one.top1})
    print("done")


if __name__ == "__main__":
    main()
