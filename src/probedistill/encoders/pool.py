"""Several encoders, a few of them in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..config import EncoderConfig
from ..errors import UserError, option
from .encoder import Encoder, several_encoders
from .load import load_encoder
from .named import display_names, encoder_config

Given = str | EncoderConfig | Encoder
"""An encoder in one word (`encoder_config`), as a config, or loaded."""


class EncoderPool:
    """Encoders by number, ``room`` of them in memory at a time; the others are loaded again when they are used.

    Every encoder is loaded once at the start, so that a wrong one is found before any work.

    >>> for encoder in EncoderPool(["efficientnet_lite0@112", "timm:resnet18"]): ...  # doctest: +SKIP

    Args:
        given: The encoders. Loaded ones stay in the caller's memory.
        argument: Its name in errors.
        room: How many to hold; ``None``: all of them.
        once: What the user can do about an encoder that is given twice.

    Attributes:
        described: ``name``, ``fingerprint``, ``dim``, ``input_size`` and ``precision`` of each.
        room: As above; it can be changed.

    Raises:
        UserError: No encoder, one that cannot be loaded, or the same one twice.
    """

    def __init__(
        self,
        given: Given | Sequence[Given],
        *,
        argument: str = "encoders",
        room: int | None = 1,
        once: str = "name each once",
    ) -> None:
        every = several_encoders(given, argument)
        if not every:
            raise UserError(f"{argument} is empty; name at least one, such as efficientnet_lite0@112")
        self.room = room
        self.described: list[dict[str, Any]] = []
        self._given: list[EncoderConfig | Encoder] = []
        self._held: dict[int, Encoder] = {}  # the most recently used one comes last
        words: dict[str, str] = {}  # fingerprint → the user's name for it
        for one in every:
            word = _word(one)
            try:
                fingerprint = self.add(one).fingerprint
            except UserError as error:
                if len(every) == 1:
                    raise
                hint = (
                    "; to give options for one encoder, write a YAML file with them and name that"
                    if option("input_size") in str(error)
                    else ""
                )
                raise UserError(f"{argument} {word!r}: {error}{hint}") from error
            if fingerprint in words:
                raise UserError(f"{argument} {words[fingerprint]!r} and {word!r} are the same encoder; {once}")
            words[fingerprint] = word

    def add(self, given: Given) -> Encoder:
        """Load one more encoder, which gets the next number; a config that already has a number keeps it."""
        config = encoder_config(given) if isinstance(given, str) else given
        if isinstance(config, EncoderConfig) and config in self._given:
            return self[self._given.index(config)]
        encoder = self._open(config)
        self._held[len(self._given)] = encoder
        self._given.append(config)
        about = ("name", "fingerprint", "dim", "input_size", "precision")
        self.described.append({name: getattr(encoder, name) for name in about})
        return encoder

    def find(self, fingerprint: str) -> Encoder | None:
        """The encoder with that fingerprint, if it is one of them."""
        fingerprints = [entry["fingerprint"] for entry in self.described]
        return self[fingerprints.index(fingerprint)] if fingerprint in fingerprints else None

    @property
    def names(self) -> list[str]:
        """A unique name for each encoder."""
        names = display_names(self.described)
        return [names[entry["fingerprint"]] for entry in self.described]

    def __len__(self) -> int:
        return len(self._given)

    def __getitem__(self, number: int) -> Encoder:
        held = self._held.pop(number, None)
        if held is None:
            held = self._open(self._given[number])
        self._held[number] = held
        return held

    def __iter__(self) -> Iterator[Encoder]:
        return (self[number] for number in range(len(self)))

    def _open(self, given: EncoderConfig | Encoder) -> Encoder:
        while self.room is not None and len(self._held) >= self.room:  # free memory before the next one needs it
            del self._held[next(iter(self._held))]
        return given if isinstance(given, Encoder) else load_encoder(given)


def _word(given: Given) -> str:
    if isinstance(given, EncoderConfig):
        return given.encoder if given.input_size is None else f"{given.encoder}@{given.input_size}"
    return given if isinstance(given, str) else given.name
