"""Text from data, made safe for a terminal or a page; counts and types in words."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_ACTING = ("Cc", "Cs", "Zl", "Zp")
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, *, lines: bool = False) -> str:
    """Make text safe for a terminal or a page: characters that would have an effect there are shown as escapes.

    These are control characters (among them ESC, which begins every terminal sequence), marks that change the
    direction of the text around them, line separators, and halves of surrogate pairs, which files cannot contain.

    >>> printable("cat\\x1b[2J"), printable("a\\nb", lines=True)
    ('cat\\\\x1b[2J', 'a\\nb')

    Args:
        text: A name, or a text with names in it, that came from data.
        lines: Keep line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) if _acts(letter) and not (lines and letter == "\n") else letter for letter in text)


def one_line(text: str) -> str:
    """Put text on one line, with escapes for what a terminal would obey or UTF-8 cannot write.

    >>> one_line("a\\nb\\x1b[2J")
    'a b\\\\x1b[2J'
    """
    return printable(" ".join(text.split()))


def as_utf8(text: str) -> str:
    """The text with escapes for what UTF-8 cannot write; a file's name may be any bytes."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def encodable(text: str, encoding: str | None) -> str:
    """Replace what an encoding does not have: letters by escapes, so that names stay different, signs by ASCII.

    >>> encodable("Möwe → 0.1", "ascii")
    'M\\xf6we -> 0.1'
    """
    try:
        return text.encode(encoding or "utf-8", LEGIBLE).decode(encoding or "utf-8")
    except LookupError:  # unknown encoding
        return text.encode("ascii", LEGIBLE).decode()


LEGIBLE = "probedistill.legible"
"""The error handler for streams that does what `encodable` does."""
_SIGNS = {
    "→": "->", "←": "<-", "↔": "<->", "…": "...", "−": "-", "–": "-", "×": "x", "±": "+-", "·": "*", "≈": "~",
    "≥": ">=", "≤": "<=", "≠": "!=", "█": "#",
}  # fmt: skip


def _legible(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_SIGNS.get(letter) or _escaped(letter) for letter in letters), error.end


codecs.register_error(LEGIBLE, _legible)


def text_of(content: bytes) -> str:
    """Decode a text file in UTF-8, or in UTF-16 with its mark, as ``>`` in PowerShell 5 writes; lines end in \\n.

    >>> text_of("a\\r\\nb".encode("utf-16")).split("\\n")
    ['a', 'b']

    Raises:
        UnicodeDecodeError: It is in another encoding.
    """
    of_powershell = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if of_powershell else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def as_argument(path: Path | str) -> str:
    """Quote a path for a shell and for this program's command line.

    >>> as_argument("my run"), as_argument("-run")
    ("'my run'", './-run')
    """
    text = str(path)
    return quote(f"./{text}" if text.startswith("-") else text)


def and_more(count: int, shown: int = 1) -> str:
    """Return the end of a list that names ``shown`` of ``count`` things; empty if these are all.

    >>> and_more(5, 2), and_more(1)
    (' and 3 more', '')
    """
    return f" and {count - shown} more" if count > shown else ""


def quoted(names: Sequence[str], shown: int = 10) -> str:
    """Quote the first names of a list, and say how many more there are.

    >>> quoted(["hat", "shoes", "dress"], 2)
    "'hat', 'shoes' and 1 more"
    """
    return ", ".join(map(repr, names[:shown])) + and_more(len(names), shown)


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number of things, in the singular or the plural.

    >>> counted(1, "image"), counted(1200, "image"), counted(0, "class", "classes")
    ('1 image', '1,200 images', '0 classes')

    Args:
        count: How many.
        one: The singular.
        many: The plural; by default an s is added.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


_VALUES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    Path: "a path",
    list: "a list",
    dict: "a mapping of names to values",
    tuple[float, float]: "two numbers",
}


def value_in_words(kind: Any) -> str:
    """Describe a type in words, without Python's names of types.

    >>> value_in_words(float | Literal["auto"] | None), value_in_words(tuple[float, float])
    ('a number or auto', 'two numbers')

    Args:
        kind: A type, as in an annotation.
    """
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(value_in_words(one) for one in get_args(kind) if one is not NoneType)
    return _VALUES.get(kind) or _VALUES.get(get_origin(kind), "a value of its type")


def duration(seconds: float) -> str:
    """Return a length of time in a suitable unit.

    >>> duration(42.4), duration(25 * 60), duration(9_600), duration(4 * 86_400)
    ('42 s', '25 min', '2.7 h', '4.0 days')
    """
    for length, unit, digits in ((86_400, "days", 1), (3_600, "h", 1), (60, "min", 0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def _acts(letter: str) -> bool:
    return letter in _DIRECTIONS or unicodedata.category(letter) in _ACTING


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
