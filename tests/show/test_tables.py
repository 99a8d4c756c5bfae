"""Tables: the same for terminal, page and data frame; names from data cannot control any of them."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from probedistill.show.tables import NOTHING, Table, as_text, number, percent, points
from probedistill.text import printable

ATTACKS = {
    "\x1b[2Jcleared": "\\x1b[2Jcleared",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "\x9b31mred": "\\x9b31mred",
    "over\u202egnp.exe": "over\\u202egnp.exe",
    "isolate\u2066x\u2069": "isolate\\u2066x\\u2069",
    "line\u2028end": "line\\u2028end",
    "half \ud800": "half \\ud800",
    "line\r\nfeed": "line\\r\\nfeed",
}
NAMES = ["cat", "T-shirt/top", "café", "猫", "قطة", "👩‍🔬", "[red]x[/red]", "a\\"]


def test_control_characters_are_shown_as_escapes():
    for name, shown in ATTACKS.items():
        assert printable(name) == shown


def test_other_names_are_not_changed():
    for name in NAMES:
        assert printable(name) == name
        assert name in as_text(Table("", ("name",), ((name,),)).rich())


@given(st.text(st.characters()))
def test_printable_text_has_no_control_characters_and_can_be_written(text):
    shown = printable(text)
    assert not {unicodedata.category(letter) for letter in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert printable(shown) == shown
    shown.encode()
    assert "\n" in printable(f"{text}\n", lines=True)


def test_hostile_names_in_a_table():
    name = "".join(ATTACKS)
    table = Table(name, (name,), ((name,),), caption=name)
    for output in (str(table), table.html()):
        assert not {letter for letter in output if letter in "\x1b\x9b\x07\r\u202e\u2066\u2028"}
        output.encode()
    assert "<b>" not in Table("<b>", ("<b>",), (("<b>",),), caption="<b>").html()


def test_numbers_as_they_are_shown():
    assert (percent(0.756, 0.011), percent(float("nan")), points(-0.01)) == ("75.6 ± 1.1", NOTHING, "-1.0")
    assert (number(1.234), number(None)) == ("1.23", NOTHING)


def test_no_number_is_folded_or_cut_on_a_narrow_page():
    numbers = ["1234567", "12,345", "100.0", "±", "10.1", "-0.5", "1.5e-05"]
    table = Table("", ("trained on", "k", "n", "top-1 %", "gap", "lr"),
                  (("distilled images", *numbers[:2], " ".join(numbers[2:5]), *numbers[5:]),), left=6)  # fmt: skip
    for width in (20, 40):
        lines = as_text(table.rich(), width=width, soft_wrap=True).split("\n")
        words = {word for line in lines for word in line.split()}
        assert set(numbers) <= words, width


def test_text_between_numbers_is_aligned_to_the_left():
    table = Table(
        "", ("photo", "class", "%", "class 2", "% 2"), (("a.jpg", "cat", "60", "dog", "40"),), left=2, texts=(3,)
    )
    for made in (table.rich(), table.fitting(100)):
        assert [column.justify for column in made.columns] == ["left", "left", "right", "left", "right"]
    assert '<td>dog</td><td class="number">40</td>' in table.html()


_ROWS = (
    ("class-mean features", "logistic", "10", "86.7 ± 10.1", "+13.3"),
    ("set:clothing-mobilenetv1", "ridge", "3,068", "7.5 ± 0.0", "–"),
)
_SCORES = Table(
    "Scores", ("trained on", "probe", "images", "balanced\ntop-1 %", "gap to full"), _ROWS, left=2, dim=(1,)
)


@given(st.integers(44, 130))
def test_a_table_fits_the_terminal_and_breaks_no_name(width):
    lines = as_text(_SCORES.fitting(width), width=width, soft_wrap=True).split("\n")
    shown = "\n".join(lines)
    assert max(map(cell_len, lines)) <= width
    for whole in ("set:clothing-mobilenetv1", "logistic", "3,068", "+13.3"):
        assert whole in shown, width


def test_a_table_that_is_too_wide_is_a_line_for_each_cell():
    lines = as_text(_SCORES.fitting(50), width=50, soft_wrap=True).split("\n")
    assert [line for line in lines if "trained on" in line] == [
        "│ trained on  │ class-mean features      │",
        "│ trained on  │ set:clothing-mobilenetv1 │",
    ]
    assert "│ gap to full │ –                        │" in lines


def test_numbers_get_room_before_headings_and_names():
    shown = as_text(_SCORES.fitting(72), width=72, soft_wrap=True)
    assert "86.7 ± 10.1" in shown
    assert "gap to full" not in shown, "the head is broken, and not the numbers"
    wide = as_text(_SCORES.fitting(110), width=110, soft_wrap=True)
    assert "gap to full" in wide
    assert wide == as_text(_SCORES.rich(), width=110, soft_wrap=True)


def test_a_table_as_text_is_not_cut():
    columns = tuple(f"column {number}" for number in range(20))
    assert "314" in str(Table("", columns, ((*["1"] * 19, "314"),)))


def test_columns_with_equal_names_lose_no_cell():
    """A class may be called "class", like the column of names: one of both was lost in JSON and data frames."""
    table = Table("", ("class", "p", "class", "p\n(2)", "p"), (("a", "1", "b", "2", "3"),))
    assert table.records() == [{"class": "a", "p": "1", "class (2)": "b", "p (2)": "2", "p (3)": "3"}]


def test_columns_of_text_share_the_room():
    rows = (("a", "word " * 20, "224 px", "other " * 20),)
    lines = as_text(Table("", ("name", "what", "input", "more"), rows, left=4).fitting(60), width=60).splitlines()
    assert "224 px" in "\n".join(lines)
    _, what, _, more = (len(part) for part in lines[0].strip("┏┓").split("┳"))
    assert abs(what - more) <= 1


def test_a_table_in_a_file_is_wider_than_the_page_rather_than_a_line_for_each_cell():
    lines = as_text(_SCORES.fitting(50, or_wider=True), width=50, soft_wrap=True).split("\n")
    assert sum("trained on" in line for line in lines) == 1
    assert 50 < max(map(cell_len, lines)) <= 90
    assert "set:clothing-mobilenetv1" in "\n".join(lines)


def test_long_words_are_broken_after_separators():
    columns = ("run", "images_per_class", "classes", "accuracy_on_validation")
    table = Table("t", columns, (("groc", "1", "Alpro-Blueberry-Soyghurt", "99.9"),), left=3)
    lines = as_text(table.fitting(55), width=55).splitlines()
    assert max(map(len, lines)) <= 55
    said = " ".join(lines)
    for part in ("images_per_ ", "class ", "Alpro- ", "Blueberry- ", "Soyghurt ", "accuracy_on_ ", "validation "):
        assert part in said
