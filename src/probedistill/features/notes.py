"""What features were computed from, as their files and results name it. Importing this does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder


@dataclass(frozen=True)
class EncoderNote:
    """The encoder of some features."""

    name: str
    fingerprint: str
    dim: int

    @classmethod
    def of(cls, encoder: Encoder) -> EncoderNote:
        """The note of an encoder."""
        return cls(encoder.name, encoder.fingerprint, encoder.dim)


@dataclass(frozen=True)
class ImagesNote:
    """The images of some features."""

    spec: str
    split: str
    fingerprint: str
