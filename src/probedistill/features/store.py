"""Where the features of real images come from: a cache on disk, shared by everything in one command."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..config import AugmentConfig
from ..encoders.encoder import Encoder
from ..images.labelled import LabelledImages
from ..machine.processes import ALONE, Processes
from .bank import FeatureBank
from .extract import extract_features


@dataclass
class FeatureStore:
    """Features of real images, computed once and kept.

    It is made once for a command, or a call from Python, and handed down in place of its fields.

    >>> bank = FeatureStore(cache="features").of(encoder, images, views=2)  # doctest: +SKIP

    Attributes:
        cache: Folder of feature banks; default ``$PROBEDISTILL_CACHE`` or ``~/.cache/probedistill``.
        strict: Raise on an unreadable image instead of leaving it out with a warning.
        progress: Show progress bars.
        team: Processes that share the work.
    """

    cache: Path | str | None = None
    strict: bool = False
    progress: bool = True
    team: Processes = ALONE
    _found: dict[tuple[object, ...], FeatureBank] = field(default_factory=dict, init=False, repr=False)

    def of(
        self,
        encoder: Encoder,
        images: LabelledImages,
        *,
        views: int = 0,
        augment: AugmentConfig | None = None,
        seed: int = 0,
    ) -> FeatureBank:
        """Features of the centre crops of ``images``, and of ``views`` augmented views of each.

        A bank that this store has given before is given again, without a look at the disk.

        Raises:
            UserError: As for `extract_features`.
        """
        how = (repr(augment), seed) if views else ()
        key = (encoder.fingerprint, encoder.precision, images.fingerprint, images.class_names, views, *how)
        if key not in self._found:
            self._found[key] = extract_features(
                encoder, images, views=views, augment=augment, seed=seed,
                cache=self.cache, strict=self.strict, progress=self.progress, processes=self.team,
            )  # fmt: skip
        return self._found[key]
