"""Several encoders: each is loaded when it is used, and no more are in memory than allowed."""

from __future__ import annotations

import gc
import weakref

import pytest

from conftest import TINY
from probedistill import Encoder, EncoderConfig, UserError, load_encoder
from probedistill.encoders import pool as module
from probedistill.encoders.pool import EncoderPool


@pytest.fixture
def loaded(monkeypatch):
    """Every loaded encoder, as long as there is a reference to it."""
    held: list[weakref.ref[Encoder]] = []

    def load(config: EncoderConfig) -> Encoder:
        gc.collect()
        counts.append(sum(one() is not None for one in held))
        encoder = load_encoder(config)
        held.append(weakref.ref(encoder))
        return encoder

    counts: list[int] = []
    monkeypatch.setattr(module, "load_encoder", load)
    return counts


def sized(*sizes: int) -> list[str]:
    return [f"{TINY}@{size}" for size in sizes]


def test_encoders_come_in_order_whatever_they_are_given_as():
    given = [TINY, EncoderConfig(encoder=TINY, input_size=40), load_encoder(TINY, input_size=48)]
    pool = EncoderPool(given)
    assert len(pool) == 3
    assert [encoder.input_size for encoder in pool] == [32, 40, 48]
    assert [encoder.fingerprint for encoder in pool] == [entry["fingerprint"] for entry in pool.described]
    assert pool[2] is given[2]
    assert pool.described[1] == {
        "name": "helpers_encoders:tiny", "fingerprint": pool[1].fingerprint, "dim": 24, "input_size": 40,
        "precision": "fp32",
    }  # fmt: skip
    assert pool.names == [f"helpers_encoders:tiny@{size}" for size in (32, 40, 48)]
    assert [encoder.input_size for encoder in EncoderPool(TINY)] == [32]


@pytest.mark.slow
@pytest.mark.parametrize(("room", "beside", "loads"), [(1, 0, 6), (2, 1, 6), (3, 2, 3), (None, 2, 3)])
def test_no_more_encoders_in_memory_than_allowed(loaded, room, beside, loads):
    pool = EncoderPool(sized(32, 40, 48), room=room)
    for number in range(3):
        assert pool[number].input_size == (32, 40, 48)[number]
    assert max(loaded) == beside  # while one more was being loaded
    assert len(loaded) == loads


@pytest.mark.slow
def test_the_encoder_that_was_used_last_stays(loaded):
    pool = EncoderPool(sized(32, 40, 48), room=2)
    for number in (0, 1, 0, 1, 1, 0):
        assert pool[number].input_size in (32, 40)
    assert len(loaded) == 3 + 2


def test_an_encoder_is_found_by_its_fingerprint():
    pool = EncoderPool(sized(32, 40))
    found = pool.find(pool.described[1]["fingerprint"])
    assert found is not None
    assert found.input_size == 40
    assert pool.find("0" * 64) is None


@pytest.mark.slow
def test_one_more_encoder_is_added_once(loaded):
    pool = EncoderPool(sized(32))
    assert pool.add(EncoderConfig(encoder=TINY, input_size=40)).input_size == 40
    assert pool.add(f"{TINY}@40").input_size == 40
    assert len(pool) == 2
    assert len(loaded) == 2


def test_encoders_that_are_wrong_are_one_line():
    with pytest.raises(UserError, match="also is empty; name at least one"):
        EncoderPool([], argument="also")
    with pytest.raises(UserError, match=rf"^encoders '{TINY}' and '{TINY}@32' are the same encoder; name each once$"):
        EncoderPool([TINY, *sized(40), f"{TINY}@32"])
    with pytest.raises(UserError, match=r"the same encoder; give it a weight$"):
        EncoderPool([TINY, load_encoder(TINY)], once="give it a weight")
    with pytest.raises(UserError, match=r"^encoders 'no such': unknown encoder 'no such'"):
        EncoderPool([TINY, "no such"])
    with pytest.raises(UserError, match=r"^unknown encoder 'no such'"):
        EncoderPool(["no such"])
    with pytest.raises(
        UserError, match=r"choose another input_size=….*; to give options for one encoder, write a YAML file"
    ):
        EncoderPool([TINY, "module:helpers_encoders:picky@48"])
