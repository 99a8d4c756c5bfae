"""Names from data cannot control a terminal: errors, warnings, tables and sentences show them with escapes."""

from __future__ import annotations

import warnings

import pytest

from probedistill import DistilledSet
from probedistill.cli.app import show
from probedistill.cli.messages import shown_messages
from probedistill.show.tables import Table

CLEAR, TITLE, TURN = "\x1b[2J", "\x1b]0;owned\x07", "\u202e"


@pytest.mark.parametrize("name", [f"x{CLEAR}", f"x{TITLE}", f"x{TURN}gpj", "x\x9b31m"])
def test_an_error_shows_them(name, run_cli):
    for arguments in (["info", name], ["report", name], ["evaluate", name, "--config", name], [name]):
        error = run_cli(*arguments).error()
        assert not {"\x1b", "\x07", "\x9b", TURN} & set(error)


def test_a_warning_shows_them(capsys):
    with shown_messages():
        warnings.warn(f"image {CLEAR} is damaged", UserWarning, stacklevel=1)
    assert "image \\x1b[2J is damaged" in capsys.readouterr().err


def test_sentences_and_tables_show_them(capsys):
    show(f"two\nlines of {TITLE}", Table(CLEAR, (TURN,), ((CLEAR,),)))
    out = capsys.readouterr().out
    assert "two\nlines of \\x1b]0;owned\\x07" in out
    assert not {"\x1b", "\x07", TURN} & set(out)


def test_a_set_in_a_notebook_shows_images_with_escaped_names():
    import torch

    made = DistilledSet(torch.rand(2, 3, 8, 8), torch.arange(2), (f"<b>{TURN}", "dog"))
    page = made._repr_html_()
    assert page.count("data:image/png;base64,") == 2
    assert "&lt;b&gt;\\u202e" in page
    assert "<b>" not in page
    many = DistilledSet(torch.rand(70, 3, 8, 8), torch.arange(70), tuple(f"c{i}" for i in range(70)))
    assert "and 10 more" in many._repr_html_()
