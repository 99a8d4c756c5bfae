"""Text of any script in pictures: letters that a picture's font lacks come from the machine's other fonts."""

from __future__ import annotations

import logging
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache

from ..text import and_more

_BOXES = "Last Resort"  # a fallback font that draws a box for every letter
_SHOWN = 5  # letters named in a warning


def families(text: str) -> list[str]:
    """Families of matplotlib's fonts that have the letters of a text between them: its own first."""
    import matplotlib as mpl

    return [*mpl.rcParams["font.family"], *(family for family, _ in _others(_lacking(text)))]


def files(text: str) -> list[str]:
    """The files of these fonts."""
    from matplotlib.font_manager import FontProperties, findfont

    return [findfont(FontProperties()), *(file for _, file in _others(_lacking(text)))]


def with_most(text: str, files: Sequence[str]) -> str:
    """The first of some font files that has as many letters of a text as any of them."""
    return max(files, key=lambda file: len(_letters(file).intersection(map(ord, text))))


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress matplotlib's log about fonts of other scripts, such as that they have no bold letters."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _lacking(text: str) -> frozenset[str]:
    """Letters of a text that matplotlib's own font lacks."""
    if text.isascii():
        return frozenset()
    from matplotlib.font_manager import FontProperties, findfont

    own = _letters(findfont(FontProperties()))
    return frozenset(letter for letter in text if ord(letter) not in own and _is_drawn(letter))


def _is_drawn(letter: str) -> bool:
    """Whether a character is visible: joiners, variation selectors and line breaks are not."""
    return unicodedata.category(letter) not in ("Cc", "Cf") and not 0xFE00 <= ord(letter) <= 0xFE0F


@cache
def _others(letters: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """(Family, file) of fonts that together have these letters. Warns once about letters that no font has."""
    from matplotlib.font_manager import fontManager

    # Upright regular fonts, sans serif first, then by name: machines with the same fonts draw the same picture.
    entries = [font for font in fontManager.ttflist if font.style == "normal" and not font.name.startswith(_BOXES)]
    entries.sort(key=lambda font: (abs(_weight(font.weight) - 400), "Sans" not in font.name, font.name, font.fname))
    found, missing = [], {ord(letter) for letter in letters}
    for font in entries if missing else ():
        here = missing & _letters(font.fname)
        if here:
            found.append((font.name, font.fname))
            missing -= here
        if not missing:
            break
    if missing:
        names = sorted(map(chr, missing))
        warnings.warn(
            f"no font on this machine has {' '.join(names[:_SHOWN])}{and_more(len(names), _SHOWN)}: pictures show "
            "boxes instead; install a font for that script, such as Noto Sans CJK (reports use the browser's fonts)",
            stacklevel=2,
        )
    return tuple(found)


def _weight(weight: str | int) -> int:
    return weight if isinstance(weight, int) else 400


@lru_cache(16)  # a machine may have a thousand fonts
def _letters(file: str) -> frozenset[int]:
    """Code points of the letters in a font file."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):  # a file that was removed, or of a kind that matplotlib cannot read
        return frozenset()
