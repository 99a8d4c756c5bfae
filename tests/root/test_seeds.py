"""Seeds: a function of only the user's seed, the purpose and the keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probedistill import UserError
from probedistill.seeds import Stream, seed_of

KEYS = st.lists(st.integers(0, 2**70), max_size=4)
STREAMS = st.sampled_from(Stream)


@given(st.integers(0, 2**70), STREAMS, KEYS, st.integers(0, 2**70), STREAMS, KEYS)
def test_two_places_share_a_seed_only_if_they_are_the_same(seed, stream, keys, other_seed, other_stream, other_keys):
    one, two = (seed, stream, keys), (other_seed, other_stream, other_keys)
    assert (seed_of(seed, stream, *keys) == seed_of(other_seed, other_stream, *other_keys)) == (one == two)


@pytest.mark.slow
@given(st.integers(0, 2**32), STREAMS, KEYS)
def test_a_seed_depends_on_the_number_of_keys(seed, stream, keys):
    assert seed_of(seed, stream, *keys) != seed_of(seed, stream, *keys, 0)


@given(st.integers(0, 2**70), STREAMS, KEYS)
def test_a_seed_fits_into_63_bits(seed, stream, keys):
    assert 0 <= seed_of(seed, stream, *keys) < 2**63


def test_seeds_and_streams_are_what_they_have_always_been():
    """Every stored result depends on them. New streams come at the end; no number is changed or reused."""
    assert seed_of(0, Stream.CANVAS_NOISE) == 2024819301478721300
    assert seed_of(0, Stream.STEP_VIEWS, 3, 1) == 8974951790560603529
    assert seed_of(7, Stream.AUDITED_PHOTOS, 2**64, 0) == 9179267542225704562
    assert [int(stream) for stream in Stream][:25] == [*range(1, 22), 24, 25, 30, 31]
    assert (Stream.OBJECTIVE, Stream.REAL_VIEWS, Stream.RANDOM_IMAGES, Stream.PROBE_VIEWS) == (3, 4, 5, 6)
    assert (Stream.CLUSTERS, Stream.GAUSSIANS, Stream.FIXED_VIEWS) == (20, 21, 25)


def test_every_purpose_has_its_own_stream():
    assert len({int(stream) for stream in Stream}) == len(Stream.__members__)


def test_a_seed_below_0_is_refused():
    with pytest.raises(UserError, match=r"seed -1 must be 0 or more"):
        seed_of(-1, Stream.OBJECTIVE)
