"""Letters of any script: different names look different, and a warning names letters that no font has."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from probedistill.show.figures import Bars, Figure, save_figures
from probedistill.show.previews import save_grid
from probedistill.show.tables import Table

NAMES = ("\u00e9", "\u00fc", "\u0436", "\u05d0", "\u24b6", "\u24b7")
"""Names in French, German, Russian and Hebrew; and two that matplotlib's default font lacks but another one has."""


def preview(path, name):
    save_grid(path, torch.zeros(1, 3, 32, 32), [name])


def bars(path, name):
    drawing = Bars((name,), {"one": np.ones(1)}, "axis", across=True)
    save_figures(
        path,
        [
            Figure("title", "summary", drawing, Table("", ("a",), ())),
        ],
    )


@pytest.mark.parametrize("save", [preview, bars])
def test_letters_of_other_scripts_are_not_boxes(save, tmp_path):
    """Previews showed boxes for all letters beyond English, figures for those that DejaVu Sans lacks."""
    pictures = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, name in enumerate(NAMES):
            save(tmp_path / f"{number}.png", name)
            pictures.add(Image.open(tmp_path / f"{number}.png").convert("RGB").tobytes())
    assert len(pictures) == len(NAMES)


@pytest.mark.parametrize(("save", "letter"), [(preview, "\U000f1234"), (bars, "\U000f5678")])
def test_letters_that_no_font_has_are_reported_once(save, letter, tmp_path):
    with pytest.warns(UserWarning, match=f"no font on this machine has {letter}: pictures show boxes"):
        save(tmp_path / "one.png", letter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(tmp_path / "two.png", letter)


def test_names_in_arabic_and_latin_keep_their_order(tmp_path):
    """A class with an Arabic name on the background "indoors" looked like a class "indoors" on an Arabic background."""
    for number, name in enumerate(("\u0643\u0644\u0628/indoors", "indoors/\u0643\u0644\u0628")):
        bars(tmp_path / f"{number}.png", name)
    one, other = (Image.open(tmp_path / f"{number}.png").convert("RGB").tobytes() for number in range(2))
    assert one != other
