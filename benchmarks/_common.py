"""Shared by all benchmarks: where the real images are, how results are kept, what machine this is."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from probedistill import Canvas, Distiller, Encoder, EncoderConfig, Loop, Tower, load_encoder
from probedistill.machine.places import cache_folder
from probedistill.objectives.clp import clp_objective
from probedistill.objectives.lgm import lgm_objective
from probedistill.objectives.real import Objective, RealFeatures
from probedistill.objectives.sfm import sfm_objective

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "benchmarks" / "results"
RUNS = ROOT / "runs" / "benchmarks"


def images(name: str, photos: Path | None = None) -> str:
    """Spec of a shared dataset, or of one in the folder ``photos``; exits with a clear line if it is missing."""
    path = (photos or SHARED / "data") / name
    if not path.is_dir():
        sys.exit(f"this benchmark needs {path}, which is not here")
    return f"folder:{path}"


def encoder(name: str, size: int = 112) -> EncoderConfig:
    """Config of a real encoder; exits with a clear line if its weights are missing.

    CLIP's tower is unpacked once, into the folder of the feature cache.
    """
    if name.startswith("lite"):
        return EncoderConfig(encoder=f"efficientnet_{name}", input_size=size)
    folder = SHARED / "encoders"
    if not folder.is_dir():
        sys.exit(f"this benchmark needs {folder}, which is not here")
    same: dict[str, Any] = {"pad_type": "same", "bn_eps": 1e-3}
    if name == "clip":
        place = cache_folder() / "weights"
        unpacked = subprocess.run(
            [sys.executable, str(folder / "unpack.py"), str(place)], stdout=subprocess.PIPE, text=True, check=True
        )
        weights = Path(unpacked.stdout.strip())
        return EncoderConfig(
            encoder="timm:vit_base_patch16_clip_quickgelu_224", checkpoint=weights, input_size=size,
            encoder_args={"num_classes": 512},
        )  # fmt: skip
    files = {"mobilenetv1": ("mobilenetv1_100.in1k", 1001), "mobilenetv2": ("mobilenetv2_100.dogs", 0)}
    file, classes = files[name]
    return EncoderConfig(
        encoder=f"timm:{name}_100", checkpoint=folder / f"{file}.safetensors", input_size=size,
        encoder_args={**same, "num_classes": classes},
    )  # fmt: skip


ENCODERS = ["lite0", "mobilenetv1", "mobilenetv2", "clip"]
METHODS = ["auto", "clp", "sfm", "lgm"]


def run_name(*parts: str) -> str:
    """Name of a run's folder, without blanks and commas, such as ``migrate-auto-300-steps-lite0-0``."""
    return "-".join(parts).replace(", ", "-").replace(" ", "-")


# The methods on unnormalised real features, to measure their cost.
OBJECTIVES: dict[str, Callable[[RealFeatures], Objective]] = {
    "lgm": lambda real: lgm_objective(real, sigma=0.01, balanced=True),
    "clp": lambda real: clp_objective(real, ridge=10.0, temperature=0.1, real_per_class=60),
    "sfm": lambda real: sfm_objective(real),
}


def small_distiller(classes: int, size: int, *, views: int, micro_batch: int, method: str = "sfm") -> Distiller:
    """Lite0 with two random real features per class, from noise: to measure a step's cost, not its result."""
    encoder = load_encoder("efficientnet_lite0", input_size=size)
    real = RealFeatures(torch.rand(2 * classes, encoder.dim), torch.arange(classes).repeat_interleave(2), classes)
    canvas = Canvas(classes, size)
    canvas.fill_with_noise(1.0, seed=0)
    loop = Loop(steps=1000, lr=0.02, views=views, micro_batch=micro_batch)
    return Distiller([Tower(encoder, OBJECTIVES[method](real))], canvas, torch.arange(classes), loop)


def channels_first(encoder: Encoder) -> None:
    """Undo the channels-last layout that `load_encoder` gives a model."""
    encoder.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """Parser of a script's command line; its --help shows the docstring. Without options, it refuses all arguments."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def machine() -> dict[str, Any]:
    """Processor, cores, threads and versions, on which a measurement depends."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def peak_memory_mib() -> float:
    """Peak resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_fresh_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run ``script ARGUMENTS`` in a new process, so that its peak memory is its own.

    The last line that it prints must be JSON.
    """
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{Path(script).name} {' '.join(arguments)} failed with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def made_by() -> dict[str, Any]:
    """The command behind a result, without the folders of this machine, and the machine."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(words)}".strip()
    return {"command": command, "machine": machine()}


def kept(name: str) -> dict[str, Any]:
    """The result that `keep` has written; empty if there is none yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def keep(name: str, content: dict[str, Any]) -> Path:
    """Write a result with the command and the machine that made it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**made_by(), **content}, indent=2) + "\n")
    return path
