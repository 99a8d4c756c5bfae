"""What every result can do, shown with one that has only tables, sentences and figures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from numpy.typing import NDArray

from probedistill import UserError
from probedistill.show.figures import Bars, Figure
from probedistill.show.results import Result
from probedistill.show.tables import NOTHING, Table, percent


@dataclass(frozen=True)
class Sharpness(Result):
    names: tuple[str, ...]
    values: tuple[float, ...]

    def tables(self):
        rows = tuple(
            (name, "= " * (v > 0.3) + percent(v, 0.01), "1,200", percent(v) if v > 0.3 else NOTHING)
            for name, v in zip(self.names, self.values)
        )
        return [Table("Sharpness", ("image", "top-1", "images", "gap"), rows)]

    def findings(self):
        return [f"{self.names[0]} is the sharpest."]

    def figures(self):
        return [Figure("Sharp", "How sharp.", Bars(self.names, {"x": np.array(self.values)}, "x"), self.tables()[0])]


@pytest.fixture
def result():
    return Sharpness(("cat <b>", "dog \x1b[2J"), (0.5, 0.25))


def test_a_terminal_shows_tables_and_findings(result, capsys):
    for said in (str(result), repr(result)):
        assert "50.0 ± 1.0" in said
        assert "cat <b> is the sharpest." in said
        assert "\x1b" not in said
    result.show()
    assert capsys.readouterr().out.rstrip("\n") == str(result)


@pytest.mark.slow
def test_many_numbers_are_not_all_shown_at_a_prompt():
    names = tuple(f"image {i}" for i in range(500))
    result = Sharpness(names, (0.5,) * 500)
    assert len(repr(result).splitlines()) == 41
    assert repr(result).endswith("more lines: print() shows them")
    assert "image 499" in str(result)


def test_a_notebook_shows_findings_figures_and_tables(result):
    page = result._repr_html_()
    for part in ("cat &lt;b&gt; is the sharpest.", "<h4>Sharp</h4>", "How sharp.", "<svg", "<table>", "50.0 ± 1.0"):
        assert part in page
    assert "<b>" not in page
    assert "\x1b" not in page


def test_show_displays_it_in_a_notebook(result, monkeypatch):
    shown = []
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=shown.append))
    result.show()
    assert shown == [result]


@pytest.mark.slow
def test_plot_is_a_page_of_matplotlib(result, tmp_path):
    page = result.plot()
    page.savefig(tmp_path / "result.pdf")
    assert (tmp_path / "result.pdf").read_bytes().startswith(b"%PDF")
    # A notebook shows it, although nobody imported pyplot.
    assert DisplayFormatter().format(page)[0]["image/png"].startswith(b"\x89PNG")


def test_plot_of_a_result_without_drawings_is_one_line():
    class Bare(Result):
        def tables(self):
            return []

    with pytest.raises(UserError, match=r"this Bare has no figures; show\(\)"):
        Bare().plot()


def test_parts_of_a_result_are_short_at_a_prompt(result):
    (figure,), (table,) = result.figures(), result.tables()
    assert repr(figure) == "Figure(title='Sharp', summary='How sharp.')"
    assert "50.0" not in repr(table)
    assert "<svg" in figure._repr_html_()


def test_a_data_frame_holds_numbers(result):
    pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert list(frame.columns) == ["image", "top-1", "top-1 ±", "images", "gap"]
    assert frame["top-1"].tolist() == [50.0, 25.0]
    assert frame["images"].tolist() == [1200, 1200]
    assert frame["images"].dtype.kind == "i"
    assert np.isnan(frame["gap"][1])
    assert frame["image"].tolist() == list(result.names)


def test_a_data_frame_without_pandas_is_one_line(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"^to_pandas\(\) needs the package pandas, .* pip install pandas$"):
        result.to_pandas()


def test_characters_that_standard_output_lacks_give_no_traceback(result, monkeypatch, tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii", errors="strict") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        result.show()
    assert "50.0 +- 1.0" in (tmp_path / "out").read_text()


@dataclass(frozen=True)
class Heights(Result):
    heights: NDArray[np.float64]


def test_results_with_arrays_can_be_compared(result):
    one, same, other = (Heights(np.array([height, np.nan])) for height in (1.0, 1.0, 2.0))
    assert one == same
    assert one != other
    assert one != result
    assert one in [other, same]
