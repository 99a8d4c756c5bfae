"""A feature bank larger than memory: peak memory at four sizes, and its speed against a plain read of its files.

    python benchmarks/stream.py                  # 2,000,000 × 768 in float16, 3 GB of disk, some minutes
    python benchmarks/stream.py --rows 50000     # a smaller one

For each size, a new process reads the same shards three times, each time after asking the system to forget them
(posix_fadvise): plainly and in order; for the class sums of 1,000 classes; and for LGM's gradient at a random head.
"Peak" is the rise of the process's memory while working (VmHWM − VmRSS; "process_mib" is all of it). "Rows" is what is
stored for each row: its label and its image's index. The gradient is limited by its two matrix products, not by the
disk. Writes results/stream.json and removes the bank.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from _common import argument_parser, in_fresh_process, keep

DIM, CLASSES, STEPS = 768, 1000, 4
SHARD = 512  # rows per file, as in `extract_features`


def generate(folder: Path, rows: int) -> None:
    """Write shards of random features, as `extract_features` does."""
    from probedistill.store.tensors import save_tensors

    generator = torch.Generator().manual_seed(0)
    for number, start in enumerate(range(0, rows, SHARD)):
        indices = torch.arange(start, min(start + SHARD, rows))
        features = torch.randn(len(indices), DIM, generator=generator) + (indices % CLASSES)[:, None] / CLASSES
        tensors = {
            "centre": features.half(),
            "augmented": torch.zeros(0, len(indices), DIM, dtype=torch.float16),
            "indices": indices,
        }
        save_tensors(folder / f"shard-{number:05d}.safetensors", tensors, {"skipped": []})


def forget(paths: list[Path]) -> None:
    """Ask the system to drop the files, which have been synced, from its cache."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_mib(what: str) -> float:
    """Resident size of this process: ``VmRSS`` now, or its peak ``VmHWM``."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def read_plainly(paths: list[Path]) -> None:
    buffer = bytearray(1 << 22)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def measure(folder: Path, rows: int) -> dict[str, Any]:
    """Seconds, speeds and the rise of peak memory for the first ``rows`` rows."""
    from probedistill.features.bank import FeatureBank, Shard
    from probedistill.objectives.lgm import summed_head_gradient
    from probedistill.objectives.real import RealFeatures

    starts = range(0, rows, SHARD)
    paths = [folder / f"shard-{number:05d}.safetensors" for number in range(len(starts))]
    weight = 0.01 * torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(1))
    warm = RealFeatures(torch.randn(16, DIM), torch.arange(16) % 8, 8)  # small: freed memory is kept for reuse
    warm.class_sums()
    summed_head_gradient(warm.blocks(), warm.counts, weight[:8])  # makes libraries start their threads
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_mib("VmRSS")

    labels, parts = torch.arange(rows) % CLASSES, [Shard(p, min(SHARD, rows - s)) for p, s in zip(paths, starts)]
    names = tuple(map(str, range(CLASSES)))
    bank = FeatureBank.of_parts(parts, 0, DIM, labels, torch.arange(rows), names, None)
    real = RealFeatures(bank, bank.all_labels(), CLASSES)
    tasks: dict[str, Callable[[], Any]] = {
        "plain read": lambda: read_plainly(paths),
        "class sums": real.class_sums,
        "LGM gradient": lambda: summed_head_gradient(real.blocks(), real.counts, weight, balanced=True),
    }
    size = sum(path.stat().st_size for path in paths)
    result: dict[str, Any] = {"rows": rows, "mb": size / 1e6}
    for name, task in tasks.items():
        forget(paths)
        started = time.perf_counter()
        task()
        seconds = time.perf_counter() - started
        result[name] = {"seconds": seconds, "mb_per_second": size / 1e6 / seconds}
    result["peak_mib"] = resident_mib("VmHWM") - before
    result["process_mib"] = resident_mib("VmHWM")
    result["rows_mib"] = (labels.nbytes + bank.indices.nbytes) / 2**20
    result["in_memory_mib"] = bank.num_bytes / 2**20
    return result


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, help="where the bank is made, default the system's temporary folder")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(Path(options.one[0]), int(options.one[1]))))
        return
    if options.rows < 2**STEPS * CLASSES:
        sys.exit(f"--rows {options.rows} must be at least {2**STEPS * CLASSES}")
    need, free = options.rows * DIM * 2, shutil.disk_usage(options.folder or tempfile.gettempdir()).free
    if free < 1.2 * need:
        sys.exit(
            f"this needs {need / 1e9:.1f} GB of disk and {free / 1e9:.1f} are free; give a smaller --rows or --folder"
        )
    with tempfile.TemporaryDirectory(prefix="probedistill-stream-", dir=options.folder) as name:
        started = time.perf_counter()
        generate(Path(name), options.rows)
        print(f"{options.rows:,} × {DIM} float16 written in {time.perf_counter() - started:.0f} s", flush=True)
        points = []
        for step in reversed(range(STEPS)):
            point = in_fresh_process(__file__, "--one", name, str(options.rows // 2**step // SHARD * SHARD))
            points.append(point)
            rates = ", ".join(f"{task} {point[task]['mb_per_second']:.0f}" for task in
                              ("plain read", "class sums", "LGM gradient"))  # fmt: skip
            print(
                f"{point['rows']:9,} rows, {point['mb']:6.0f} MB: peak {point['peak_mib']:5.0f} MiB "
                f"(rows {point['rows_mib']:.0f}; all in memory {point['in_memory_mib']:.0f}); MB/s: {rates}",
                flush=True,
            )
    keep("stream", {"dim": DIM, "classes": CLASSES, "dtype": "float16", "shard_rows": SHARD, "points": points})


if __name__ == "__main__":
    main()
