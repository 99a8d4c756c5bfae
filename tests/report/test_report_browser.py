"""The report in a real browser: no errors, everything works with mouse and keyboard, axe finds nothing serious.

The browser is $PROBEDISTILL_CHROMIUM, the system's Chromium or Chrome, or Playwright's own.
Screenshots are kept in $PROBEDISTILL_ARTEFACTS, or with the tests' temporary files.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from conftest import TINY, wait_for
from helpers_report import SCRIPT, long_names, make_run, results

pytestmark = pytest.mark.slow

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'probedistill[dev]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
pytest.importorskip("jinja2", reason="needs jinja2: pip install 'probedistill[report]'")

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
    """Open a report; at the end there must have been no errors and no network requests."""
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
    """The content of a canvas, as (width, height, sum of its values)."""
    values = "c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
    return canvas.evaluate(f"c => [c.width, c.height, {values}.reduce((a, b) => a + b)]")


def artefacts(otherwise: Path) -> Path:
    return Path(os.environ.get("PROBEDISTILL_ARTEFACTS") or otherwise)


def settle(page, script: str) -> None:
    """Wait until a condition holds. Playwright's own function needs eval, which the page's policy forbids."""
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
    assert pixels(dialog.get_by_role("img"))[2] < final[2]  # darker at an earlier step
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
        for _ in range(4):  # one more press than there are images
            page.keyboard.press("Enter")
        assert title.inner_text() == over
        assert page.evaluate("document.activeElement.textContent") == name
        page.keyboard.press(back)
        assert title.inner_text() == {"hen": SCRIPT, "cat": "dog"}[over]


def test_long_names_on_a_phone(open_page, long_file, tmp_path):
    for width in (360, 400):
        page = open_page(file=long_file)
        page.set_viewport_size({"width": width, "height": 740})
        pictures = page.evaluate(LINES_OF_TEXT)
        assert len(pictures) >= 2
        for lines in pictures:
            assert [line for line in lines if not line["inside"]] == []
            for i, one in enumerate(lines):
                assert [other["text"] for other in lines[:i] if overlap(one["box"], other["box"])] == []
        said = ["".join(line["text"] for line in lines).replace(" ", "") for lines in pictures]
        assert any("timm:vit_small_patch14_dinov2.lvd142mat600px" in text for text in said)
        assert any("landbirdwithalongname0/bambooforestintherain0" in text for text in said)
        page.screenshot(path=artefacts(tmp_path) / f"report-long-{width}.png", full_page=True)
        page.locator(".gallery button").first.click()
        assert page.get_by_role("button", name="Close").bounding_box()["height"] < 45  # one line
        assert page.evaluate("document.getElementById('viewer').scrollWidth") <= width


def test_five_runs_side_by_side_are_no_wider_than_a_phone(open_page, tmp_path):
    from probedistill.report.page import write_report

    runs = [make_run(tmp_path / f"run-with-a-name-{seed}", CLASSES, seed=seed) for seed in range(5)]
    page = open_page("phone", file=write_report(runs, tmp_path / "report.html", progress=False))
    settle(page, "document.querySelector('table.wall canvas.result').width > 8")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES["phone"][0]
    page.set_viewport_size({"width": 1280, "height": 900})
    assert page.evaluate(BESIDE)


BESIDE = """[...document.querySelectorAll('table.wall .cell')].every(cell => {
    const [start, result] = [...cell.querySelectorAll('canvas')].map(canvas => canvas.getBoundingClientRect());
    return start.right < result.left && start.top >= result.top;
})"""
SHOWN_PER_DRAWN = """[...document.querySelectorAll('svg.figure')].filter(svg => svg.checkVisibility())
    .map(svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"""

LINES_OF_TEXT = """[...document.querySelectorAll('#comparisons svg.figure')].map(svg => {
    const all = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].map(text => {
        const at = text.getBoundingClientRect();
        return { text: text.textContent, box: [at.left, at.top, at.right, at.bottom],
            inside: at.left >= all.left - 1 && at.right <= all.right + 1 && at.top >= all.top - 1
                && at.bottom <= all.bottom + 1 };
    });
})"""


def overlap(one, other) -> bool:
    """Whether two lines of text touch by more than the free space above and below their letters."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    height, width = min(one[3] - one[1], other[3] - other[1]), min(one[2] - one[0], other[2] - other[0])
    return across > 0.25 * min(width, height) and down > 0.4 * min(width, height)


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


def test_hovering_shows_the_name_of_a_point_and_of_a_cell(open_page):
    page = open_page()
    for place, said in (("#r0-analyses", "synthetic · "), ("#comparisons", " → other: ")):
        titled = page.locator(f"{place} svg.figure :is(circle, path, rect):has(title)")
        found = [element for element in titled.all() if said in element.locator("title").text_content()]
        assert found
        found[-1].scroll_into_view_if_needed()
        assert said in found[-1].evaluate(UNDER_ITS_MIDDLE)


UNDER_ITS_MIDDLE = """element => {
    const at = element.getBoundingClientRect();
    const found = document.elementFromPoint((at.left + at.right) / 2, (at.top + at.bottom) / 2);
    return found.querySelector('title')?.textContent ?? '';
}"""


def test_wall(open_page):
    page = open_page()
    assert page.locator("main > section").first.get_attribute("id") == "wall"
    buttons = page.locator(".wall button")
    assert buttons.count() == 2 * len(CLASSES)
    settle(page, "[...document.querySelectorAll('.wall canvas')].every(c => c.width > 8)")
    start, result = buttons.first.locator("canvas").all()
    assert pixels(start)[2] < pixels(result)[2]  # these runs begin with black images
    page.get_by_role("button", name="dog, second").click()
    assert page.get_by_role("dialog", name="dog").is_visible()


def test_save_images_and_tables(open_page, page_file, tmp_path):
    page = open_page()
    with page.expect_download() as csv:
        page.locator("#summary").get_by_role("link", name=re.compile("Save as CSV ?: Runs")).click()
    assert csv.value.suggested_filename == "Runs.csv"
    lines = Path(csv.value.path()).read_text("utf-8-sig").splitlines()
    assert lines[0] == "run,method,encoder,state,images per class,steps,seconds"
    assert [line.split(",")[0] for line in lines[1:]] == ["first", "second"]
    with page.expect_download() as sheet:
        page.locator("#r0").get_by_role("link", name="Save all images").click()
    assert Image.open(sheet.value.path()).size == (4 * 40, 40)
    page.locator("#r0 .gallery button").first.click()
    settle(page, "document.getElementById('viewer-save').href.startsWith('data:image/png')")
    with page.expect_download() as image:
        page.get_by_role("link", name="Save this image").click()
    assert image.value.suggested_filename == "cat.png"
    assert Image.open(image.value.path()).size == (40, 40)


def test_tabs(open_page):
    page = open_page()
    assert not page.locator("#r1").is_visible()
    page.get_by_role("tab", name="first").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#r1").is_visible()
    assert not page.locator("#r0").is_visible()
    assert page.get_by_role("tab", name="second").get_attribute("aria-selected") == "true"
    assert page.locator("#r1-curves svg.figure").first.is_visible()


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
    assert page.locator("svg.figure:visible").count() > 5
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert min(page.evaluate(SHOWN_PER_DRAWN)) > 0.8, "text of 12 pixels is too small to read"
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
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"  # the theme on the screen is kept

    settle(page, "[...document.querySelectorAll('.evolution canvas')].every(c => c.width > 8)")  # even in hidden runs
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 minus a browser's margins
    page.screenshot(path=artefacts(tmp_path) / "report-print.png", full_page=True)
    drawn = page.evaluate(PRINTED)
    assert len(drawn) == page.locator("svg.figure").count()
    assert all(right <= card + 0.5 and width > 100 for right, card, width in drawn)
    assert page.evaluate(EMPTY_HEADINGS) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert not page.locator("#r1").is_visible()
    page.get_by_role("tab", name="second").click()
    assert page.locator("#r1 svg.figure").first.is_visible()


PRINTED = """[...document.querySelectorAll('svg.figure')].map(svg => {
    const at = svg.getBoundingClientRect();
    return [at.right, svg.closest('.plot').getBoundingClientRect().right, at.width];
})"""
EMPTY_HEADINGS = """[...document.querySelectorAll('main h2, main h3')].filter(heading => {
    let height = 0;
    for (let next = heading.nextElementSibling; next; next = next.nextElementSibling) height += next.clientHeight;
    return height < 40;
}).map(heading => heading.textContent)"""


def test_real_images_beside(open_page, photos, tmp_path):
    from probedistill import distill
    from probedistill.encoders.trust import trusting
    from probedistill.report.page import write_report

    distill(f"folder:{photos}", TINY, steps=2, out=tmp_path / "run", progress=False)
    with trusting():
        file = write_report([tmp_path / "run"], tmp_path / "real.html", real_images=True, progress=False)
    page = open_page(file=file)
    page.locator(".gallery button").first.click()
    settle(page, "[...document.querySelectorAll('#viewer-near canvas')].every(c => c.width === 160)")
    assert page.locator("#viewer-near li").count() == 3
    assert all(pixels(canvas)[2] > 0 for canvas in page.locator("#viewer-near canvas").all())
