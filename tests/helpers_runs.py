"""Records of runs that were never distilled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from probedistill.config import DistillConfig
from probedistill.store.run_record import EncoderRecord, ImagesRecord, RunRecord, unrecorded


def encoder_record(name: str = "tiny", fingerprint: str = "ab" * 32, **changes: Any) -> EncoderRecord:
    """An encoder that a run was made with."""
    return EncoderRecord(name=name, fingerprint=fingerprint, **{"input_size": 24, "dim": 8, **changes})


def run_record(**changes: Any) -> RunRecord:
    """The record of a finished run."""
    known = {
        "config": DistillConfig(method="clp"),
        "encoders": (encoder_record(),),
        "images": ImagesRecord(spec="folder:photos", split="train", count=60, fingerprint="cd" * 32),
        "versions": {"probedistill": "0", "torch": "2"},
        "device": "cpu",
    }
    return replace(unrecorded(), **{**known, **changes})
