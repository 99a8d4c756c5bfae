"""Where randomness comes from: a seed is a function of the user's seed, a purpose and a place."""

from __future__ import annotations

import numpy as np

from .errors import UserError


def derive_seed(*keys: int) -> int:
    """Return a 63-bit seed that depends on every key; the only source of randomness here.

    Raises:
        UserError: A key, and so the user's seed, is negative.
    """
    if min(keys) < 0:
        raise UserError(f"seed {min(keys)} must be 0 or more")
    return int(np.random.SeedSequence(list(keys)).generate_state(1, np.uint64)[0] >> 1)
