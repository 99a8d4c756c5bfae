"""The search behind `auto`: objectives and their combinations, starts and views, scored on the validation splits.

    python benchmarks/search.py clothing lite0                       # every candidate: about an hour on one core
    python benchmarks/search.py grocery lite0 --only clp_v1 clp_v1_real

200 steps, one distillation seed. Ridge and sgd probes on 50 views, 3 evaluation seeds, on the validation split: the
test split is reserved for seeds.py. Finished candidates are kept in results/search-DATASET-ENCODER.json, each with its
settings, and computed again if these have changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import _common
from probedistill import (
    AugmentConfig,
    Canvas,
    DistilledSet,
    Distiller,
    ImagesConfig,
    Loop,
    Tower,
    evaluate,
    extract_features,
    load_encoder,
    load_splits,
)
from probedistill.features.classes import class_means, medoids
from probedistill.objectives.clp import clp_objective
from probedistill.objectives.formulas import class_flows, closed_form_head, head_gradient, lgm_loss, sample_weights
from probedistill.objectives.lgm import lgm_objective
from probedistill.objectives.real import Objective, RealFeatures
from probedistill.objectives.sfm import sfm_objective

VALIDATION = {"clothing": "validation", "grocery": "val"}


@dataclass(frozen=True)
class Candidate:
    """Terms of the loss with their weights, and differences from 200 steps × 3 views from noise."""

    terms: tuple[tuple[float, str], ...]
    start: str = "noise"
    views: int = 3
    lr: float = 0.02
    smallest_crop: float = 0.08
    steps: int = 200
    level_every: int = 0


CANDIDATES = {
    "clp": Candidate(((1, "clp"),)),
    "clp+sfm": Candidate(((1, "clp"), (1, "sfm"))),
    "clp+own": Candidate(((1, "clp"), (1, "own"))),
    "own": Candidate(((1, "own"),)),
    "headmatch": Candidate(((1, "headmatch"),)),
    "ideal": Candidate(((1, "ideal"),)),
    "kd": Candidate(((1, "kd"),)),
    "adam": Candidate(((1, "adam"),)),
    "clp+adam": Candidate(((1, "clp"), (1, "adam"))),
    "clp_real": Candidate(((1, "clp"),), start="real"),
    "sfm": Candidate(((1, "sfm"),)),
    "sfm+0.5clp": Candidate(((1, "sfm"), (0.5, "clp"))),
    "lgm": Candidate(((1, "lgm"),)),
    "path": Candidate(((1, "path"),)),
    "clp_400": Candidate(((1, "clp"),), steps=400),
    "clp_levels": Candidate(((1, "clp"),), level_every=15),
    "clp_v1": Candidate(((1, "clp"),), views=1),
    "sfm_v1": Candidate(((1, "sfm"),), views=1),
    "clp_v1_lr05": Candidate(((1, "clp"),), views=1, lr=0.05),
    "clp_v1_s35": Candidate(((1, "clp"),), views=1, smallest_crop=0.35),
    "clp_v1_real": Candidate(((1, "clp"),), views=1, start="real"),
}


def full_head(real: RealFeatures) -> Tensor:
    """The head (d, C) of a class-balanced ridge probe on all real features."""
    features, labels, classes = real.features.double(), real.labels, real.num_classes
    weights = (1 / real.counts.double())[labels]
    weighted = (features * (weights / weights.mean())[:, None]).T
    kernel = weighted @ features
    targets = F.one_hot(labels, classes).double() - 1 / classes
    ridge = kernel.diagonal().mean() * torch.eye(len(kernel), dtype=torch.float64)
    return torch.linalg.solve(kernel + ridge, weighted @ targets).float()


def ideal_features(head: Tensor, ridge: float) -> Tensor:
    """(C, d) features, one per class, whose ridge probe is a positive multiple of a head W (d, C) with W 1 = 0.

    With λ = ridge · the mean of ‖z_c‖², the probe on Z = M Wᵀ is Zᵀ (Z Zᵀ + λ I)⁻¹ (I - 1/C). If M commutes with
    G = Wᵀ W, whose eigenvalues are g, it is W / κ, where the eigenvalues of M solve m² g - κ m + λ = 0. κ is found by
    bisection: the larger it is, the nearer M is to a multiple of I, and Z to the head's own columns. A weak ridge has
    no solution and uses the least κ.
    """
    values, vectors = torch.linalg.eigh((head.T @ head).double())
    values = values.clamp(min=0)

    def factors(kappa: float) -> Tensor:  # for λ = 1
        return 2 / (kappa + (kappa**2 - 4 * values).clamp(min=0).sqrt())

    low = 2 * float(values.max()) ** 0.5  # the least κ with a solution
    high = 1e4 * low
    for _ in range(100):
        middle = (low * high) ** 0.5
        is_long = ridge * float((factors(middle) ** 2 * values).mean()) > 1
        low, high = (middle, high) if is_long else (low, middle)
    return ((vectors * factors(high)) @ vectors.T).to(head) @ head.T


def make_terms(real: RealFeatures, raw: RealFeatures) -> dict[str, Callable[[], Objective]]:
    """The objectives by name; each gets unit-length centred features (``real``) or unnormalised features (``raw``)."""
    classes, batch = real.num_classes, 60 if real.num_classes < 50 else 10
    of_class = real.labels.argsort(stable=True).split(real.counts.tolist())

    def drawn(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        return torch.cat([c[torch.randint(len(c), (batch,), generator=generator)] for c in of_class])

    def induced(features: Tensor, labels: Tensor, offset: float) -> Tensor:
        z = real.normalize(features)
        targets = F.one_hot(labels, classes).to(z) - offset
        return closed_form_head(z, targets, 10 * z.detach().square().sum(1).mean())

    def own() -> Objective:
        """Separable: match each view's centred feature to the centre of its real class."""
        centres = F.normalize(class_means(real.features, real.labels, classes), dim=1)
        return lambda z, t, step: (1 - F.cosine_similarity(real.normalize(z), centres[t], dim=1)).mean()

    def ideal() -> Objective:
        """Separable: match each view's centred feature to its class's ideal feature, from the head of all real data."""
        wanted = F.normalize(ideal_features(full_head(real), 10.0), dim=1)
        return lambda z, t, step: (1 - F.cosine_similarity(real.normalize(z), wanted[t], dim=1)).mean()

    def headmatch() -> Objective:
        """Match the head induced by all images together to the head of all real data."""
        head = full_head(real)
        return lambda z, t, step: (1 - F.cosine_similarity(induced(z, t, 1 / classes), head, dim=0)).mean()

    def kd() -> Objective:
        """CLP with a target that is half predictions of the head of all real data."""
        head = F.normalize(full_head(real), dim=0)

        def objective(z: Tensor, t: Tensor, step: int) -> Tensor:
            rows = drawn(step)
            x, y = real.take(rows), F.one_hot(real.labels[rows], classes)
            target = 0.5 * torch.softmax(x @ head / 0.1, 1) + 0.5 * y
            return F.cross_entropy(x @ F.normalize(induced(z, t, 0), dim=0) / 0.1, target)

        return objective

    def adam() -> Objective:
        """CLP with tanh of each flow as the head, like the sgd probe's head after Adam's sign-like steps."""
        scale = (raw.features - raw.mean).norm(dim=1).mean()

        def objective(z: Tensor, t: Tensor, step: int) -> Tensor:
            flows = -class_flows(z, t, classes)
            head = F.normalize(torch.tanh(flows / flows.detach().square().mean(1, keepdim=True).sqrt()), dim=1)
            rows = drawn(step)
            return F.cross_entropy(raw.take(rows) / scale @ head.T / 0.1, raw.labels[rows])

        return objective

    def path() -> Objective:
        """LGM with heads along a real training path (which starts at SFM's W = 0) instead of random heads."""
        weight, weights = torch.zeros(classes, real.dim), sample_weights(real.counts.float(), balanced=True)
        heads, targets = [], []
        for _ in range(40):
            gradient = head_gradient(real.features, real.labels, weight, weights=weights)
            heads.append(weight)
            targets.append(gradient)
            weight = weight - 20 * gradient[:, :-1]
        return lambda z, t, step: lgm_loss(
            head_gradient(real.normalize(z), t, heads[step * 7 % 40]), targets[step * 7 % 40]
        )

    return {
        "path": path,
        "clp": lambda: clp_objective(real, ridge=10.0, temperature=0.1, real_per_class=batch),
        "sfm": lambda: sfm_objective(raw),
        "lgm": lambda: lgm_objective(real, sigma=0.1, balanced=True),
        "ideal": ideal,
        "own": own,
        "headmatch": headmatch,
        "kd": kd,
        "adam": adam,
    }


def main() -> None:
    parser = _common.argument_parser(__doc__)
    parser.add_argument("dataset", choices=VALIDATION)
    parser.add_argument("encoder", choices=["lite0", "mobilenetv1", "mobilenetv2"])
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    options = parser.parse_args()
    name = f"search-{options.dataset}-{options.encoder}"
    rows = _common.kept(name).get("rows", {})
    encoder = load_encoder(_common.encoder(options.encoder))
    photos = ImagesConfig(images=_common.images(options.dataset), test_split=VALIDATION[options.dataset])
    train, test = load_splits(photos)
    bank, classes = extract_features(encoder, train), len(train.class_names)
    real, raw = (RealFeatures(bank.centre, bank.labels, classes, n) for n in ("center_l2", "none"))
    terms = make_terms(real, raw)
    for title in options.only:
        candidate = CANDIDATES[title]
        asked = json.loads(json.dumps(asdict(candidate)))
        if title not in rows or rows[title].get("candidate", asked) != asked or "note" in rows[title]:
            parts = [(weight, terms[term]()) for weight, term in candidate.terms]
            canvas = Canvas(classes, encoder.input_size, open_levels=1 if candidate.level_every else None)
            if candidate.start == "real":
                chosen = bank.indices[medoids(bank, 1)].tolist()
                canvas.fill_with_images(torch.stack([encoder.centre_view(train.load(i)) for i in chosen]))
            else:
                canvas.fill_with_noise(1.0, seed=0)

            def loss(z: Tensor, t: Tensor, step: int, parts: list[tuple[float, Objective]] = parts) -> Tensor:
                return torch.stack([weight * part(z, t, step) for weight, part in parts]).sum()

            loop = Loop(
                steps=candidate.steps, views=candidate.views, lr=candidate.lr, level_every=candidate.level_every,
                micro_batch=60, augment=AugmentConfig(scale=(candidate.smallest_crop, 1.0)),
            )  # fmt: skip
            distiller = Distiller([Tower(encoder, loss)], canvas, torch.arange(classes), loop)
            started = time.process_time()
            for _ in range(candidate.steps):
                distiller.step()
            seconds = time.process_time() - started
            distilled = DistilledSet(distiller.images(), torch.arange(classes), tuple(train.class_names))
            scores = evaluate(
                distilled, encoder, None, test, probes=["ridge", "sgd"], seeds=3, views=50, sgd_views=50,
                augment=AugmentConfig(), progress=False,
            )  # fmt: skip
            rows[title] = {"candidate": asked, "date": time.strftime("%Y-%m-%d"), "cpu_seconds": seconds} | {
                row.probe: {"top1": row.top1, "std": row.std} for row in scores.rows
            }
            _common.keep(name, {"rows": rows})
        cells = ", ".join(f"{probe} {100 * rows[title][probe]['top1']:.1f}" for probe in ("ridge", "sgd"))
        print(f"{title:16} {cells}", flush=True)


if __name__ == "__main__":
    main()
