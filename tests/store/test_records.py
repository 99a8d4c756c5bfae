"""Records: what is written can be read, and anything else is one line that names the place of the fault."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from probedistill import UserError
from probedistill.store.records import (
    Count,
    OrNaN,
    Share,
    as_plain,
    from_plain,
    parse_record,
    read_record,
    write_record,
)


@dataclass(frozen=True)
class Part:
    name: str
    top1: Share


@dataclass(frozen=True)
class Whole:
    count: Count
    parts: tuple[Part, ...]
    matrix: NDArray[np.float64]
    by_name: dict[str, float]
    unknown: OrNaN = None
    notes: list[str] = field(default_factory=list)


WHOLE = Whole(
    2, (Part("a", 0.5), Part("ü\u202e", 1.0)), np.array([[1.0, math.nan], [0.0, 2.5]]), {"x": 1.5}, None, ["n"]
)
FILE = {"called": "whole file 'w.json'", "hint": "make it again"}


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, entry in inner for place in places(entry, (*at, key)))]


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = replaced(copy[at[0]], at[1:], new)
    return copy


def test_what_is_written_comes_back(tmp_path):
    write_record(tmp_path / "w.json", WHOLE, kind="whole")
    back = read_record(tmp_path / "w.json", Whole, kind="whole", what="whole", hint="make it again")
    assert as_plain(back) == as_plain(WHOLE)
    np.testing.assert_array_equal(back.matrix, WHOLE.matrix)
    assert json.loads((tmp_path / "w.json").read_text())["kind"] == "whole"


@pytest.mark.slow
@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_replaced_value_is_read_or_is_one_line(data):
    content = as_plain(WHOLE)
    at = data.draw(st.sampled_from(places(content)))
    new = data.draw(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})
        | st.lists(st.integers(), max_size=3) | st.dictionaries(st.text(max_size=3), st.none(), max_size=2)
    )  # fmt: skip
    text = json.dumps(replaced(content, at, new))  # NaN and Infinity as Python writes them, which is not JSON
    with suppress(UserError):
        found = parse_record(text, Whole, **FILE)
        assert as_plain(from_plain(as_plain(found), Whole)) == as_plain(found)
        return
    with pytest.raises(UserError, match=r"^whole file 'w\.json' [^\n]*; make it again$"):
        parse_record(text, Whole, **FILE)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_file_that_is_cut_is_one_line(data):
    text = json.dumps(as_plain(WHOLE)).encode()
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(UserError, match=r"^whole file 'w\.json' [^\n]*; make it again$"):
        parse_record(text[:cut], Whole, **FILE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"count": 1e999}', "complete JSON|damaged"),
        ('{"count": NaN}', "complete JSON"),
        ('{"count": -1, "parts": [], "matrix": [], "by_name": {}}', r"\$\.count"),
        ('{"count": 1, "parts": [{"name": "a", "top1": 1.5}], "matrix": [], "by_name": {}}', r"\$\.parts\[0\]\.top1"),
        ('{"count": 1, "parts": [], "matrix": "x", "by_name": {}}', r"\$\.matrix"),
        ('{"count": 1, "parts": [], "by_name": {}}', "matrix"),
        ('{"count": 1, "parts": [], "matrix": [' + "9" * 400 + '], "by_name": {}}', "complete JSON|damaged"),
        ('{"count": 1, "parts": [], "matrix": [], "by_name": {"x": ' + "9" * 400 + "}}", r"\$\.by_name|complete JSON"),
        ('{"count": 1, "parts": [], "matrix": [], "by_name": {"\\ud800": 1}}', "complete JSON|damaged"),
        ("[" * 5000, "complete JSON"),
        ('{"a":' * 5000, "complete JSON"),
        ("[]", "has no JSON object"),
        ("", "complete JSON"),
        ('{"count": ' + "9" * 5000 + "}", "complete JSON|damaged"),
    ],
)
def test_damage_is_named(text, says):
    with pytest.raises(UserError, match=says):
        parse_record(text, Whole, **FILE)


def test_files_that_cannot_be_read(tmp_path):
    def read(path: Path) -> Whole:
        return read_record(path, Whole, kind="whole", what="whole", hint="make it again")

    with pytest.raises(UserError, match="is not there; make it again"):
        read(tmp_path / "nowhere.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "folder.json")
    (tmp_path / "latin.json").write_bytes(b'{"count": "\xff"}')
    with pytest.raises(UserError, match="is not complete JSON"):
        read(tmp_path / "latin.json")
    write_record(tmp_path / "other.json", WHOLE, kind="other")
    with pytest.raises(UserError, match="is not a probedistill whole file"):
        read(tmp_path / "other.json")


def test_numbers_that_json_lacks_are_null(tmp_path):
    write_record(tmp_path / "w.json", {"a": math.nan, "b": [math.inf, 1.0]})
    content = json.loads((tmp_path / "w.json").read_text())
    assert (content["a"], content["b"]) == (None, [None, 1.0])
