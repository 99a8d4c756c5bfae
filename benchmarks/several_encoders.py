"""Do images distilled with two encoders at once serve a third better than those of either alone?

    python benchmarks/several_encoders.py             # clothing, at 112 px: about 40 minutes on two cores
    python benchmarks/several_encoders.py --quick     # 40 steps

For each pair of {EfficientNet-Lite0, MobileNetV1, MobileNetV2}: one run with both encoders and one with each alone, the
same number of steps and, in all, of views per step (4 of one encoder, or 2 of each), scored on every encoder, CLIP
included. "Held out" are the encoders that a run has not seen. Runs are kept in runs/benchmarks/, rows in
results/several_encoders.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
from typing import Any

import _common
from probedistill import DistillConfig, ImagesConfig, RunConfig, distill, evaluate, load_encoder, load_splits

SOURCES = ["lite0", "mobilenetv1", "mobilenetv2"]
TARGETS = [*SOURCES, "clip"]
PROTOCOL: dict[str, Any] = {"probes": ["ridge"], "seeds": 3, "views": 10, "progress": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--method", default="auto")
    options = parser.parse_args()
    name = "several_encoders-quick" if options.quick else "several_encoders"
    path = _common.RESULTS / f"{name}.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    image_config = ImagesConfig(images=_common.images("clothing"))
    _, test = load_splits(image_config)
    encoders = {target: load_encoder(_common.encoder(target)) for target in TARGETS}
    teams = [(source,) for source in SOURCES] + list(itertools.combinations(SOURCES, 2))
    for team in teams:
        title = " + ".join(team)
        if title not in rows:
            config = DistillConfig(
                method=options.method, steps=40 if options.quick else options.steps, views=4 // len(team)
            )
            run = RunConfig(out=_common.RUNS / f"{name}-{'-'.join(team)}", resume=True)
            distilled = distill(image_config, [_common.encoder(source) for source in team], config, run=run)
            scores = {}
            for target, encoder in encoders.items():
                row = evaluate(distilled, encoder, None, test, **PROTOCOL)["distilled"]
                scores[target] = {"top1": row.top1, "std": row.std}
            rows[title] = {"sources": team, "seconds": distilled.run.seconds, "scores": scores}
            _common.keep(name, {"rows": rows, "protocol": PROTOCOL, "steps": config.steps})
        cells = ", ".join(
            f"{target}{'' if target in team else ' (held out)'} {100 * score['top1']:.1f}"
            for target, score in rows[title]["scores"].items()
        )
        print(f"{title:28} {cells}", flush=True)


if __name__ == "__main__":
    main()
