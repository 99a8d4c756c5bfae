"""All randomness: a seed is a function of the user's seed, a purpose and keys.

No generator is kept between steps. A resumed run, another micro-batch or another number of processes therefore draws
the same views, heads and batches.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum, unique

from .errors import UserError


@unique
class Stream(IntEnum):
    """Purposes of random numbers. Two purposes never share a stream.

    A stream's number affects every result drawn from it: add new streams at the end, and do not change existing ones.
    """

    CANVAS_NOISE = 1
    """Starting noise; key: the image."""
    STEP_VIEWS = 2
    """Views of the synthetic images; keys: step, tower."""
    OBJECTIVE = 3
    """Heads and real batches; key: step."""
    REAL_VIEWS = 4
    """Views behind the real statistics; key: the image."""
    RANDOM_IMAGES = 5
    """Random real images of the baseline."""
    PROBE_VIEWS = 6
    """Views on which probes are trained; keys: for real images, the image and its first view."""
    LABEL_VIEWS = 7
    """Views behind soft labels."""
    LABEL_IMAGES = 8
    """Real images on which soft labels are fitted."""
    EXPORT_VIEWS = 9
    """Views on which exported images are compared."""
    BALANCED_ROWS = 10
    """Class-balanced choice of real images."""
    ENCODER_ORDERS = 11
    """Permutations of encoders, in `mantel`."""
    VALUE_ORDERS = 12
    """Permutations of values, in `rank_agreement`."""
    BOOTSTRAP = 13
    """Resampled classes."""
    COMPOSED_ORDER = 14
    """Order in which composed images use their originals; key: class."""
    COMPOSED_PLACE = 15
    """Place and size of a foreground; keys: split, class, number."""
    COMPOSED_CROP = 16
    """Crop of a background; keys: split, class, number, background."""
    TEXTURE = 17
    """Procedural textures; keys: kind, number."""
    FRESH_BATCH = 18
    """Real images of a step's fresh batch; key: step."""
    FRESH_VIEWS = 19
    """Crops of a step's fresh real batch; key: step."""
    CLUSTERS = 20
    """Starting centres of k-means; key: class."""
    GAUSSIANS = 21
    """Features drawn from statistics; key: class."""
    FORECAST = 24
    """Simulated features behind a forecast."""
    FIXED_VIEWS = 25
    """Views of a run's fixed synthetic images; with the keys step and tower: which of them a step uses."""
    SHADOW_HALVES = 30
    """Photos of shadow sets, and their seeds; keys: pair; set, 1."""
    AUDITED_PHOTOS = 31
    """Photos whose own neighbours are searched for."""


def seed_of(seed: int, stream: Stream, *keys: int) -> int:
    """Return a 63-bit seed that depends on the user's seed, the stream, every key, and the number of keys.

    Args:
        seed: The user's seed, 0 or more.
        stream: The purpose.
        keys: Numbers of a step, an image, a class …; each 0 or more.

    Raises:
        UserError: The seed is negative.
    """
    if seed < 0:
        raise UserError(f"seed {seed} must be 0 or more")
    words = (seed, int(stream), *keys)
    # Decimal numbers with a separator: different lists of words never give the same text, however large a word is.
    digest = hashlib.blake2b(",".join(map(str, words)).encode(), digest_size=8).digest()
    return struct.unpack("<Q", digest)[0] >> 1
