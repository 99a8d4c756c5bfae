"""Figures: names are shown literally and never cut, nothing overlaps, and every number has a title."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from PIL import Image

from probedistill import UserError
from probedistill.show.draw import MOST_DOTS, scene_of, ticks
from probedistill.show.figures import (
    COLOURS,
    Bars,
    Curve,
    Figure,
    HeatMap,
    Line,
    Plane,
    Points,
    colour,
    on_one_page,
    save_figures,
)
from probedistill.show.scene import Dot, Path, Words, text_width, wrapped
from probedistill.show.tables import Table
from probedistill.text import printable

HOSTILE = "<b>$x$&</b>"
LONG = "timm:vit_small_patch14_reg4_dinov2.lvd142m@518px with a name that_goes_on and on"
TABLE = Table("numbers", ("a",), (("1",),))
SVG = "{http://www.w3.org/2000/svg}"

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60) | st.just(HOSTILE) | st.just(LONG)
numbers = st.floats(-1e4, 1e4) | st.just(float("nan"))


def figure(drawing, summary="What it shows."):
    return Figure("Title", summary, drawing, TABLE)


def parsed(drawing):
    return ElementTree.fromstring(figure(drawing).svg())


def titles(drawing):
    return [element.text for element in parsed(drawing).iter(f"{SVG}title")]


def heat_map(rows, columns, values=None, **options):
    values = np.arange(len(rows) * len(columns), dtype=float).reshape(len(rows), -1) if values is None else values
    return HeatMap(tuple(rows), tuple(columns), values, **options)


def plane(*groups, count=3):
    xy = np.random.default_rng(0).normal(size=(count, 2))
    return Plane(
        tuple(Points(name, xy + i, tuple(f"{name} {k}" for k in range(count)), marker)
              for i, (name, marker) in enumerate(groups)), "first", "second",
    )  # fmt: skip


def bars(categories, series, **options):
    values = np.linspace(-10, 90, len(categories))
    return Bars(tuple(categories), dict.fromkeys(series, values), "top-1, %", **options)


def curve(*line_names, **options):
    x = np.arange(1, 6, dtype=float)
    return Curve(
        tuple(Line(name, x, x * x + i, tuple(f"step {k:.0f}" for k in x)) for i, name in enumerate(line_names)),
        "step", "loss", **options,
    )  # fmt: skip


DRAWINGS = {
    "heat map": heat_map([HOSTILE, LONG], [LONG, HOSTILE, "c"]),
    "plane": plane((HOSTILE, "dot"), (LONG, "star"), ("c", "diamond"), ("c", "cross")),
    "bars": bars([HOSTILE, LONG, "c"], ["distilled", LONG]),
    "bars across": bars([HOSTILE, LONG, "c"], ["distilled", LONG], across=True),
    "curve": curve(HOSTILE, LONG),
}


def box(words):
    """Left, top, right and bottom of the largest area that a line of text can take."""
    width, height = text_width(words.text, words.size) * (1.1 if words.bold else 1.0), words.size
    before = {"start": 0.0, "middle": width / 2, "end": width}[words.anchor]
    if words.turned:
        return words.x - height / 2, words.y + before - width, words.x + height / 2, words.y + before
    return words.x - before, words.y - height / 2, words.x - before + width, words.y + height / 2


def check_layout(drawing):
    """Check that every line of text is within the picture, and that no two lines touch."""
    scene = scene_of(drawing)
    boxes = [box(mark) for mark in scene.marks if isinstance(mark, Words)]
    for left, top, right, bottom in boxes:
        assert left >= -1
        assert top >= -1
        assert right <= scene.width + 1
        assert bottom <= scene.height + 1
    for (l1, t1, r1, b1), (l2, t2, r2, b2) in combinations(boxes, 2):
        assert r1 <= l2 + 0.5 or r2 <= l1 + 0.5 or b1 <= t2 + 0.5 or b2 <= t1 + 0.5


def letters(text):
    return re.sub(r"\s", "", printable(text, lines=True))


def words(drawing):
    return "".join(letters(mark.text) for mark in scene_of(drawing).marks if isinstance(mark, Words))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=list(DRAWINGS))
def test_names_are_whole_and_do_not_overlap(drawing):
    check_layout(drawing)
    for name in (HOSTILE, LONG):
        assert letters(name) in words(drawing)


@pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=list(DRAWINGS))
def test_svg_is_one_whole_element_without_scripts_or_styles(drawing):
    root = parsed(drawing)
    assert root.tag == f"{SVG}svg"
    assert (root.get("role"), root.get("aria-label")) == ("img", "What it shows.")
    assert root.get("viewBox").split()[2:] == [root.get("width"), root.get("height")]
    assert root.get("fill") == "currentColor"
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in {"svg", "rect", "circle", "path", "text", "title"}
        assert not [name for name in element.attrib if name.startswith("on") or name in ("style", "href")]


@pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=list(DRAWINGS))
def test_hostile_names_are_text(drawing):
    assert "<b>" not in figure(drawing, HOSTILE).svg()
    assert any(HOSTILE in title for title in titles(drawing))


@pytest.mark.slow
@given(st.lists(names, min_size=1, max_size=5), st.lists(names, min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_any_names_in_a_heat_map(rows, columns):
    drawing = heat_map(rows, columns)
    check_layout(drawing)
    assert len(titles(drawing)) == len(rows) * len(columns)
    assert all(letters(name) in words(drawing) for name in [*rows, *columns])


@given(st.lists(names, min_size=1, max_size=25, unique=True))
@settings(max_examples=30, deadline=None)
def test_any_number_of_classes_has_room_in_a_legend(class_names):
    for drawing in (
        plane(*((name, "star") for name in class_names)), curve(*class_names), bars(["a", "b"], class_names),
    ):  # fmt: skip
        check_layout(drawing)
        parsed(drawing)


@given(st.lists(names, min_size=1, max_size=6), st.booleans())
@settings(max_examples=30, deadline=None)
def test_any_names_of_bars(categories, across):
    drawing = bars(categories, ["distilled", "full"], across=across)
    check_layout(drawing)
    assert all(letters(name) in words(drawing) for name in categories)


@given(names, st.floats(20, 300))
def test_wrapped_lines_keep_all_letters_and_fit(text, width):
    lines = wrapped(text, width, 12)
    assert "".join(map(letters, lines)) == letters(text)
    assert all(len(line) == 1 or text_width(line, 12) <= width for line in lines)


@pytest.mark.parametrize("width", range(50, 200, 10))
def test_no_number_is_broken(width):
    """A line used to end with "have 0.", and the next one began with "50"."""
    numbers = ["0.50", "1,234.5", "-0.25", "3e-05"]
    lines = wrapped(f"Periphery {' over '.join(numbers)} and others.", width, 12)
    assert {word for line in lines for word in line.split()}.issuperset(numbers)


# ---------------------------------------------------------------- numbers


def test_titles_of_cells_points_bars_and_lines():
    values = np.array([[12.34, np.nan]])
    assert titles(heat_map(["run"], ["a", "b"], values, unit="%")) == ["run → a: 12.3%", "run → b: –"]
    text = (("12.3 ± 0.4", "–"),)
    assert titles(heat_map(["run"], ["a", "b"], values, text=text))[0] == "run → a: 12.3 ± 0.4"
    assert titles(plane(("cat", "dot"), ("dog", "star"), count=2)) == ["cat 0", "cat 1", "dog 0", "dog 1"]
    assert titles(Bars(("cat",), {"x": np.array([40.0])}, "top-1")) == ["cat: 40"]
    assert titles(Bars(("cat",), {"x": np.array([40.0]), "y": np.array([np.nan])}, "top-1")) == [
        "cat · x: 40", "cat · y: –",
    ]  # fmt: skip
    assert titles(curve("loss"))[-1] == "step 5"
    assert titles(curve("a", "b"))[0] == "a · step 1"


@given(some.arrays(np.float64, (3, 4), elements=numbers))
@example(np.full((3, 4), -10000.0))  # numbers wider than a usual bar
@settings(max_examples=25, deadline=None)
def test_numbers_may_be_missing_anywhere(values):
    drawing = heat_map("abc", "wxyz", values, framed=np.isnan(values), gaps=(2,))
    check_layout(drawing)
    assert sum(title.endswith("–") for title in titles(drawing)) == np.isnan(values).sum()
    for across in (False, True):
        check_layout(Bars(tuple("wxyz"), dict(zip("abc", values)), "x", across=across, digits=1))
    rows = tuple(Line(n, np.arange(1.0, 5), v, tuple("1234"), marked=True, spread=v) for n, v in zip("abc", values))
    for log_x in (False, True):
        drawing = Curve(rows, "x", "y", log_x=log_x)
        check_layout(drawing)
        assert len(titles(drawing)) == np.isfinite(values).sum()
        assert "nan" not in figure(drawing).svg()
    xy = values[:, :2]
    assert len(titles(Plane((Points("a", xy, tuple("abc")),), "x", "y"))) == np.isfinite(xy).all(1).sum()


def test_one_scale_in_both_directions_of_a_plane():
    corners = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    here, right, above = scene_of(Plane((Points("a", corners, tuple("abc")),), "", "")).marks[-3:]
    assert (right.x - here.x) / 3 == pytest.approx((here.y - above.y) / 5)


def test_a_bar_is_as_long_as_its_number():
    marks = scene_of(Bars(("a", "b"), {"x": np.array([25.0, 50.0])}, "", limits=(0, 100))).marks
    first, second = (mark.height for mark in marks if type(mark).__name__ == "Box")
    assert second == pytest.approx(2 * first)


def test_a_missing_number_breaks_a_line():
    y = np.array([1.0, 2.0, np.nan, 4.0, 5.0])
    drawing = Curve((Line("a", np.arange(5.0), y, tuple("01234")),), "", "")
    coloured = [m for m in scene_of(drawing).marks if type(m).__name__ == "Path" and m.width == 1.8]
    assert [len(path.places) for path in coloured] == [2, 2]


def test_large_clouds_are_thinned_with_a_note():
    drawing = plane(("many", "dot"), ("few", "star"), count=4000)
    assert len(titles(drawing)) <= MOST_DOTS + 4000
    assert f"{MOST_DOTS:,}of4,000dotsareshown" in words(drawing)
    one = plane(("many", "dot"), count=100_000)
    assert len(figure(one).svg()) < 250_000


def test_a_hundred_classes_fit_a_small_file():
    values = np.eye(100)
    class_names = [f"class number {i}" for i in range(100)]
    drawing = heat_map(class_names, class_names, values, digits=2)
    assert len(figure(drawing).svg()) < 200_000
    assert len(titles(drawing)) == 100


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 9))
def test_ticks_are_few_and_inside(low, length, most):
    high = low + length
    if high - low > 1e-9 * abs(low):
        found = ticks(low, high, most)
        assert len(found) <= most + 2
        slack = 1e-6 * (high - low) + 1e-11 * max(abs(low), abs(high))
        assert all(low - slack <= value <= high + slack for value in found)


def test_thirty_classes_have_thirty_colours():
    """After ten the colours used to repeat, and a legend had one colour three times."""
    assert len({colour(number) for number in range(30)}) == 30
    assert [colour(number) for number in range(10)] == list(COLOURS)


def linear(colour):
    """Red, green and blue of #rrggbb as linear light."""
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(light):
    """The CIE L*a*b* coordinates of some light, in which distances match perception."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(light, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


SEEN = {  # vision without one kind of cone (Machado, Oliveira and Fernandes 2009)
    "with all cones": np.eye(3),
    "without green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "without red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "without blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("eye", SEEN)
def test_colours_differ_for_every_reader(eye):
    """Blue and purple, or orange and olive, used to look the same to colour-blind readers."""
    seen = [lab(np.array(SEEN[eye]) @ linear(one)) for one in COLOURS]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 10


@pytest.mark.parametrize("page", ["#ffffff", "#1d2026"])
def test_colours_stand_out_from_light_and_dark_pages(page):
    """A contrast of at least 3:1, as WCAG requires of the parts of a picture."""
    bright = [np.array([0.2126, 0.7152, 0.0722]) @ linear(one) + 0.05 for one in (page, *COLOURS)]
    assert all(max(one, bright[0]) / min(one, bright[0]) >= 2.95 for one in bright[1:])


def test_lines_differ_in_grey_print():
    """Each of four lines has its own dashes, also in the legend; a single line is solid."""
    paths = [path.get("stroke-dasharray") for path in parsed(curve("a", "b", "c", "d")).iter(f"{SVG}path")]
    dashes = [one for one in paths if one]
    assert len(set(dashes)) == 3
    assert len(dashes) == 2 * 3
    assert not [path for path in parsed(curve("a")).iter(f"{SVG}path") if path.get("stroke-dasharray")]


@pytest.mark.parametrize("across", [True, False])
def test_bars_show_their_deviation(across):
    values = {"ridge": np.array([50.0, 98.0, np.nan]), "sgd": np.array([20.0, 30.0, 40.0])}
    spreads = {"ridge": np.array([4.0, 5.0, 6.0])}
    drawing = Bars(("a", "b", "c"), values, "top-1 accuracy in %", limits=(0, 100), across=across, spreads=spreads)
    check_layout(drawing)
    assert {"a · ridge: 50 ± 4", "b · ridge: 98 ± 5", "c · ridge: –", "a · sgd: 20"} <= set(titles(drawing))
    places = [np.array(mark.places) for mark in scene_of(drawing).marks if isinstance(mark, Path) and mark.width == 1.2]
    first, second = (np.ptp(ends[:, 0 if across else 1]) for ends in places)  # none for the missing bar
    assert second == pytest.approx(first * 7 / 8)  # from 93 to 100, the end of the axis


def test_negative_numbers_have_a_minus():
    assert "−10" in words(bars(["a"], ["b"]))
    assert "-10" not in words(bars(["a"], ["b"]))


# ---------------------------------------------------------------- PNG


@pytest.mark.slow
def test_png_holds_all_figures_below_each_other(tmp_path):
    figures = [figure(drawing) for drawing in DRAWINGS.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="no font on this machine has")
        save_figures(tmp_path / "all.png", [figure(heat_map(["猫 $x"], ["\x1b[2J"])), *figures])
        save_figures(tmp_path / "one.png", figures[:1])
    every, one = (Image.open(tmp_path / name) for name in ("all.png", "one.png"))
    assert every.height > 3 * one.height
    assert min(one.size) > 300
    assert np.asarray(every.convert("L")).std() > 5
    assert not list(tmp_path.glob(".*"))


def test_a_figure_without_a_drawing_has_only_its_table(tmp_path):
    assert figure(None).svg() == ""
    save_figures(tmp_path / "x.png", [figure(None), figure(DRAWINGS["curve"])])
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_a_title_is_nearer_to_its_own_picture_than_to_the_one_above():
    page = on_one_page([figure(curve("a")), figure(curve("a"))])
    heights = {text: [] for text in ("step", "Title", "What it shows.", "loss")}
    for text in page.axes[0].texts:
        heights.get(text.get_text(), []).append(text.get_position()[1])
    assert heights["loss"][1] - heights["What it shows."][1] < 0.8 * (heights["Title"][1] - heights["step"][0])


def test_a_page_for_matplotlib_users():
    page = on_one_page([figure(DRAWINGS["bars"])])
    said = {text.get_text() for text in page.axes[0].texts}
    assert {"Title", "What it shows.", HOSTILE} <= said


def test_a_png_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_figures(tmp_path / "file" / "x.png", [figure(DRAWINGS["curve"])])


def test_names_are_never_set_by_latex(tmp_path):
    """Notebooks for papers switch LaTeX on, but class names are not LaTeX, and it may not be installed."""
    import matplotlib as mpl

    with mpl.rc_context({"text.usetex": True}):
        on_one_page([figure(heat_map(["100%", "a_b"], ["#1", "x^2"]))]).savefig(tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").size[0] > 100


def test_a_line_of_one_point_is_a_dot_in_the_legend():
    lines = [Line(str(count), np.arange(count), np.arange(count), ("",) * count) for count in (1, 2)]
    scene = scene_of(Curve(tuple(lines), "x", "y"))
    names = [mark for mark in scene.marks if isinstance(mark, Words)][:2]
    assert [name.text for name in names] == ["1", "2"]
    beside = [mark for mark in scene.marks if isinstance(mark, Dot) and abs(mark.y - names[0].y) < 3]
    assert [dot.x < names[0].x for dot in beside] == [True], "and none beside the name of the line"


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 100), names), min_size=1, max_size=8), st.booleans())
@settings(max_examples=40, deadline=None)
def test_names_of_points_lie_on_the_page_and_not_on_each_other(points, log_x):
    x, y, labels = zip(*points, strict=True)
    line = Line("a", np.array(x), np.array(y), labels, joined=False, labels=labels)
    scene = scene_of(Curve((line,), "x", "y", log_x=log_x))
    bare = scene_of(Curve((replace(line, labels=()),), "x", "y", log_x=log_x))
    others = [item for item in bare.marks if isinstance(item, Words)]
    shown = [item for item in scene.marks if isinstance(item, Words) and item not in others]
    assert {item.text for item in shown} <= set(labels)
    assert shown or all(text_width(name, 11) > scene.width - 1 for name in labels)
    boxes = [(item.x - text_width(item.text, item.size) / 2, item) for item in shown]
    for left, item in boxes:
        assert left >= -1e-6
        assert left + text_width(item.text, item.size) <= scene.width + 1e-6
    for (left, one), (start, two) in combinations(boxes, 2):
        apart = left + text_width(one.text, one.size) < start or start + text_width(two.text, two.size) < left
        assert apart or abs(one.y - two.y) > one.size
