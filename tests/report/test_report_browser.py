"""The report in a real browser: no errors, everything works with mouse and keyboard, axe finds nothing serious.

The browser is the one that $PROBEDISTILL_CHROMIUM names, the system's Chromium or Chrome, or Playwright's own.
Screenshots are kept in $PROBEDISTILL_ARTEFACTS, or with the tests' temporary files.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from conftest import TINY, wait_for
from helpers_report import SCRIPT, long_names, make_run, results

pytestmark = pytest.mark.slow

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'probedistill[dev]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
pytest.importorskip("plotly", reason="needs plotly: pip install 'probedistill[report]'")

CLASSES = ("cat", "dog", SCRIPT, "hen")
SIZES = {"phone": (360, 740), "desktop": (1280, 900)}


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("PROBEDISTILL_CHROMIUM") or next((p for p in map(shutil.which, names) if p), None)
    with sync_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=found)
        except sync_api.Error as error:
            reason = str(error).strip().splitlines()[0]
            pytest.skip(f"no Chromium here ({reason}); install it, or name it in PROBEDISTILL_CHROMIUM")
        yield started
        started.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, photos) -> Path:
    """A report of two runs with everything in it."""
    from probedistill.report.page import write_report

    folder = tmp_path_factory.mktemp("browser")
    first, second = make_run(folder / "first", CLASSES, side=40), make_run(folder / "second", CLASSES, seed=1)
    for result in results(CLASSES).values():
        result.write(first)
    return write_report([first, second], folder / "report.html", progress=False)


@pytest.fixture(scope="module")
def long_file(tmp_path_factory) -> Path:
    """A report whose heat map, groups and first class have long names."""
    from probedistill.report.page import write_report

    folder = tmp_path_factory.mktemp("long")
    run = make_run(folder / "run", ("a_class_name_without_a_space_that_is_longer_than_a_phone", "dog"))
    for result in long_names().values():
        result.write(run)
    return write_report([run], folder / "report.html", progress=False)


@pytest.fixture
def open_page(browser, page_file):
    """Open a report; at the end nothing may have been complained of, and nothing asked of a network."""
    said, contexts = [], []

    def start(size: str = "desktop", scheme: str = "light", file: Path = page_file):
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"a dialog: {dialog.message}"))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(file.as_uri())
        return page

    yield start
    for context in contexts:
        context.close()
    assert said == []


def pixels(canvas) -> list[int]:
    """What a canvas shows, as (width, height, sum over its values)."""
    values = "c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
    return canvas.evaluate(f"c => [c.width, c.height, {values}.reduce((a, b) => a + b)]")


def artefacts(otherwise: Path) -> Path:
    return Path(os.environ.get("PROBEDISTILL_ARTEFACTS") or otherwise)


def settle(page, script: str) -> None:
    """Wait until it holds. Playwright's own way needs eval, which the page's policy forbids."""
    wait_for(lambda: page.evaluate(script))


def test_pictures_and_filter(open_page):
    page = open_page()
    first = page.locator("#r0 .gallery li").first.locator("canvas")
    settle(page, "document.querySelector('#r0 .gallery canvas').width === 40")
    assert pixels(first)[2] > 0
    box = page.locator("#r0").get_by_label("Filter by class")
    box.fill("SCRIPT")
    assert page.locator("#r0 .gallery li:visible").all_inner_texts()[0].startswith(SCRIPT)
    assert page.locator("#r0 .gallery li:visible").count() == 1
    assert page.locator("#r0 .count").inner_text() == "1 of 4 images"
    box.fill("")
    assert page.locator("#r0 .gallery li:visible").count() == 4


def test_dialog(open_page):
    page = open_page()
    button = page.locator("#r0 .gallery button").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="dog")
    settle(page, "document.getElementById('viewer-image').width === 40")
    final = pixels(dialog.get_by_role("img"))
    slider = dialog.get_by_role("slider", name="Step")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    settle(page, "document.getElementById('viewer-image').getAttribute('aria-label').endsWith('at step 20')")
    assert pixels(dialog.get_by_role("img"))[2] < final[2]  # darker before it was done
    page.keyboard.press("ArrowRight")
    dialog.get_by_role("button", name="Close").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-title").inner_text() == SCRIPT
    page.get_by_role("button", name="Next").click()
    assert page.locator("#viewer-title").inner_text() == "hen"
    assert page.get_by_role("button", name="Next").get_attribute("aria-disabled") == "true"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert button.evaluate("b => b === document.activeElement")


def test_dialog_keeps_the_keys_at_its_ends(open_page):
    page = open_page()
    page.locator("#r0 .gallery button").nth(1).click()
    title = page.locator("#viewer-title")
    for name, over, back in (("Next", "hen", "ArrowLeft"), ("Previous", "cat", "ArrowRight")):
        page.get_by_role("button", name=name).focus()
        for _ in range(4):  # once more than there are images
            page.keyboard.press("Enter")
        assert title.inner_text() == over
        assert page.evaluate("document.activeElement.textContent") == name
        page.keyboard.press(back)
        assert title.inner_text() == {"hen": SCRIPT, "cat": "dog"}[over]


def test_long_names_on_a_phone(open_page, long_file, tmp_path):
    for width in (360, 400):
        page = open_page(file=long_file)
        page.set_viewport_size({"width": width, "height": 740})
        for chart in page.locator("#comparisons .chart").all()[:2]:
            chart.scroll_into_view_if_needed()
            chart.locator(".main-svg").first.wait_for()
        heat, bars = page.evaluate(LABELS)[:2]
        assert len(heat["labels"]) == 12
        assert len(bars["labels"]) >= 6
        assert [label for label in heat["labels"] + bars["labels"] if not label["shown"]] == []
        assert bars["legend"] <= bars["plot"] + 1
        page.screenshot(path=artefacts(tmp_path) / f"report-long-{width}.png", full_page=True)
        page.locator(".gallery button").first.click()
        assert page.get_by_role("button", name="Close").bounding_box()["height"] < 45  # one line
        assert page.evaluate("document.getElementById('viewer').scrollWidth") <= width


LABELS = """[...document.querySelectorAll('#comparisons .chart')].map(chart => {
    const box = chart.getBoundingClientRect(), bottom = (s) => chart.querySelector(s)?.getBoundingClientRect().bottom;
    const labels = [...chart.querySelectorAll('.xtick text, .ytick text')].map(text => {
        const at = text.getBoundingClientRect(), style = getComputedStyle(text);
        return { name: text.textContent, shown: at.width > 0 && style.display !== 'none' && style.opacity !== '0'
            && at.left >= box.left - 1 && at.right <= box.right + 1 && at.top >= box.top - 1 };
    });
    return { labels, legend: bottom('.legend'), plot: chart.querySelector('.bg')?.getBoundingClientRect().top
        ?? chart.querySelector('.plot')?.getBoundingClientRect().top };
})"""


def test_evolution_slider(open_page):
    page = open_page()
    place = page.locator("#r0-evolution")
    place.scroll_into_view_if_needed()
    settle(page, "document.querySelector('#r0-evolution canvas').width > 8")
    final = pixels(place.locator("canvas"))
    slider = place.get_by_role("slider", name="Step")
    slider.focus()
    page.keyboard.press("Home")
    settle(page, "document.querySelector('#r0-evolution canvas').getAttribute('aria-label').endsWith('at step 0')")
    assert slider.get_attribute("aria-valuetext") == "step 0"
    assert pixels(place.locator("canvas"))[2] < final[2]
    place.get_by_role("button", name="Play").click()
    settle(page, "document.querySelector('#r0-evolution input').value === '2'")
    assert place.get_by_role("button", name="Play").is_visible()


def test_hover_shows_the_name_of_a_point(open_page):
    page = open_page()
    chart = page.locator("#r0-geometry .chart")
    chart.scroll_into_view_if_needed()
    points = chart.locator(".point")
    points.last.wait_for()
    points.last.hover(force=True)
    label = chart.locator(".hovertext")
    label.first.wait_for()
    assert "synthetic · " in label.first.text_content()


def test_tabs(open_page):
    page = open_page()
    assert not page.locator("#r1").is_visible()
    page.get_by_role("tab", name="first").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#r1").is_visible()
    assert not page.locator("#r0").is_visible()
    assert page.get_by_role("tab", name="second").get_attribute("aria-selected") == "true"
    page.locator("#r1-curves .chart .main-svg").first.wait_for()


def test_theme(open_page):
    page = open_page(scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    toggle = page.get_by_role("button", name="Dark")
    assert toggle.get_attribute("aria-pressed") == "true"
    toggle.click()
    light = page.evaluate(ground)
    assert sum(map(int, light[4:-1].split(","))) > sum(map(int, dark[4:-1].split(","))) + 300
    page.reload()
    assert page.evaluate(ground) == light
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(ground) == dark


def test_copy(open_page):
    page = open_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#reproduce .copy").first.click()
    page.get_by_text("Copied").first.wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("probedistill distill --config ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_and_screenshot(open_page, size, scheme, tmp_path):
    page = open_page(size, scheme)
    for chart in page.locator(".chart:visible").all():
        chart.scroll_into_view_if_needed()
        chart.locator(".main-svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
    page.locator("#r0 .gallery button").first.click()
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
    page.keyboard.press("Escape")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = false; })")
    folder = artefacts(tmp_path)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=folder / f"report-{size}-{scheme}.png", full_page=True)
    assert (folder / f"report-{size}-{scheme}.png").stat().st_size > 10_000


def test_printed_whole(open_page, tmp_path):
    page = open_page(scheme="dark")
    settle(page, "[...document.querySelectorAll('.gallery canvas')].every(c => c.width > 8)")
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 20_000
    assert page.evaluate("document.querySelectorAll('.chart .main-svg').length") > 0
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"  # as it was on the screen

    settle(page, "[...document.querySelectorAll('.evolution canvas')].every(c => c.width > 8)")  # hidden runs' too
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 within a browser's margins
    page.screenshot(path=artefacts(tmp_path) / "report-print.png", full_page=True)
    charts = page.evaluate(PRINTED_CHARTS)
    assert len(charts) == page.locator(".chart").count()
    assert all(right <= card + 0.5 and width > 400 for right, card, width in charts)
    assert page.evaluate(EMPTY_HEADINGS) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert not page.locator("#r1").is_visible()
    page.get_by_role("tab", name="second").click()
    page.locator("#r1 .chart").first.scroll_into_view_if_needed()
    wait_for(lambda: page.evaluate(SECOND_FITS), 20)


PRINTED_CHARTS = """[...document.querySelectorAll('.chart')].map(chart => {
    const svg = chart.querySelector('.main-svg').getBoundingClientRect();
    return [svg.right, chart.closest('.plot').getBoundingClientRect().right, svg.width];
})"""
EMPTY_HEADINGS = """[...document.querySelectorAll('main h2, main h3')].filter(heading => {
    let height = 0;
    for (let next = heading.nextElementSibling; next; next = next.nextElementSibling) height += next.clientHeight;
    return height < 40;
}).map(heading => heading.textContent)"""
SECOND_FITS = """[...document.querySelectorAll('#r1 .chart')].every(chart =>
    Math.abs(chart.querySelector('.main-svg').clientWidth - chart.clientWidth) < 2)"""


def test_real_images_beside(open_page, photos, tmp_path):
    from probedistill import distill
    from probedistill.report.page import write_report

    distill(f"folder:{photos}", TINY, steps=2, out=tmp_path / "run", progress=False)
    file = write_report([tmp_path / "run"], tmp_path / "real.html", real_images=True, progress=False)
    page = open_page(file=file)
    page.locator(".gallery button").first.click()
    settle(page, "[...document.querySelectorAll('#viewer-near canvas')].every(c => c.width === 160)")
    assert page.locator("#viewer-near li").count() == 3
    assert all(pixels(canvas)[2] > 0 for canvas in page.locator("#viewer-near canvas").all())
