"""The report: what it shows, that it is a single self-contained file, and that names in it stay text."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from conftest import TINY
from helpers_report import SCRIPT, evaluation, long_names, make_run, results, write
from probedistill import EvaluateConfig, UserError, distill, extract_features, load_encoder, load_splits
from probedistill.encoders.trust import trusting
from probedistill.evaluation.result import Evaluation, load_evaluation
from probedistill.report.page import _embedded, write_report
from probedistill.report.pictures import pack
from probedistill.store.records import without_nan

pytest.importorskip("jinja2", reason="needs jinja2: pip install 'probedistill[report]'")


class Page(HTMLParser):
    """What a browser would find: scripts by id, addresses, text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[name] for name in ("src", "href", "srcset", "action", "poster") if name in values]
        self._inside = tag
        if tag == "script":
            self.scripts.append((values, ""))

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            values, before = self.scripts[-1]
            self.scripts[-1] = (values, before + data)
        elif self._inside != "style":
            self.words.append(data)

    def script(self, name: str) -> str:
        return next(text for values, text in self.scripts if values.get("id") == name)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split()).replace("\u00a0", " ")


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def report(tmp_path):
    def make(*folders, **options) -> Page:
        return Page(write_report(folders, tmp_path / "r.html", progress=False, **options).read_text("utf-8"))

    return make


def give_all(folder, class_names=("cat", "dog", SCRIPT)):
    for result in results(class_names).values():
        result.write(folder)
    return folder


# ---------------------------------------------------------------- what it shows


def test_scores_settings_and_command(run, report):
    page = report(run)
    assert "3 distilled images train a ridge probe to 61.8%; all 60 real images reach 92.3%." in page.text
    for value in ("61.8", "43.1", "92.3", "random real", "full real data"):
        assert value in page.text
    for fact in ("clp, preset default, 40 steps", "ab" * 32, "cd" * 32, "torch 2", "finished: step 40 of 40"):
        assert fact in page.text
    assert f"probedistill distill --config {run}/config.yaml --out {run}-again" in page.text
    assert "images: folder:photos" in page.text


def test_the_command_is_the_one_that_makes_the_set_again(photos, run_cli, report, tmp_path):
    config = tmp_path / "options.yaml"
    config.write_text(f"images: folder:{photos}\nencoder: {TINY}\n")
    real, small, theirs = (tmp_path / name for name in ("real", "small", "theirs"))
    assert run_cli("baseline", "--config", config, "--save", "random", "--seed", 3, "--out", real).code == 0
    assert f"probedistill baseline --config {real}/config.yaml --trust --save random" in report(real).text
    assert f"--seed 3 --out {real}-again" in report(real).text
    assert run_cli("export", real, "--out", small).code == 0
    assert run_cli("import", real / "images", "--out", theirs).code == 0
    for folder in (small, theirs):
        text = report(folder).text
        assert "No command reproduces this set" in text
        assert "each command gives the same images again" not in text
        assert "step 0 of 0" not in text


def test_what_differs_leaves_out_options_that_a_set_cannot_have(run, run_cli, report, tmp_path):
    save_file({"images": torch.rand(3, 3, 32, 32), "labels": torch.arange(3)}, tmp_path / "theirs.safetensors")
    words = ["import", tmp_path / "theirs.safetensors", "--classes", "cat", "dog", SCRIPT, "--out", tmp_path / "theirs"]
    assert run_cli(*words).code == 0
    text = report(run, tmp_path / "theirs").text
    assert "real images" in text
    for option in ("canvas.init", "clp.temperature", "schedule"):
        assert f'<th scope="row">{option}' not in text


def test_the_headline_uses_one_probe_and_the_runs_own_encoder(run, report):
    own = evaluation(["cat", "dog", SCRIPT], 3)
    distilled, *real = own.rows
    worse = tuple(replace(score, top1=0.111, per_class={"cat": 0.111}) for score in distilled.scores)
    elsewhere = replace(own.context, encoder=replace(own.context.encoder, fingerprint="ef" * 32))
    other = Evaluation((replace(distilled, scores=worse), *real), elsewhere)
    other.save(run / "evaluation-another.json")  # sorted first in the folder
    better = tuple(replace(score, top1=0.95) for score in distilled.scores)
    logistic = replace(distilled, probe="logistic", scores=better)
    (run / "evaluation-tiny.json").unlink()
    Evaluation((logistic, *own.rows), own.context).save(run / "evaluation-tiny.json")
    page = report(run)
    assert "3 distilled images train a logistic probe to 95.0%. " in page.text  # for full data, the ridge probe's score
    assert "62%" in {image["score"] for image in json.loads(page.script("data"))["r0"]["images"]}


def test_the_headline_is_about_a_probe_that_learned_from_the_images_alone(run, report):
    own = evaluation(["cat", "dog", SCRIPT], 3)
    better = tuple(replace(score, top1=0.9, per_class={"cat": 0.9}) for score in own.rows[0].scores)
    with_head = replace(own.rows[0], probe="inherited", on_features="ridge", scores=better)
    path = run / "evaluation-tiny.json"
    for rows in ((with_head, *own.rows), (with_head, *own.rows[1:])):
        path.unlink()
        Evaluation(rows, own.context).save(path)
        page = report(run)
        ridge = own.rows[0] in rows
        said = "a ridge probe to 61.8%" if ridge else "an inherited probe to 90.0%"
        assert f"3 distilled images train {said}; all 60 real images reach 92.3%." in page.text
        scores = {image["score"] for image in json.loads(page.script("data"))["r0"]["images"]}
        assert ("90%" in scores) is not ridge


def test_the_transfer_figure_says_what_its_table_says(run, report):
    found = results(("cat", "dog"))["transfer"]
    first, second = found.sources
    replace(found, sources=(replace(first, soft_labels=True), second)).write(run)
    page = report(run)
    ridge, inherited = (page.text.partition(f"Transfer · {probe}")[2] for probe in ("ridge", "inherited"))
    for name in ("a, soft labels", "full real data", "centroids of other"):
        assert name in ridge
    assert "random real, head of a" in inherited
    assert "full real data, ridge" in inherited
    assert "a, soft labels" not in inherited
    assert "random real, head of b" not in page.text, "it was not scored"
    assert "Top-1 % of an inherited probe" in page.text


def test_the_transfer_figure_has_no_deviation_with_one_seed(run, report):
    found = results(("cat", "dog"))["transfer"]
    found.write(run)
    assert f"± is over {found.protocol.seeds} evaluation seeds." in report(run).text
    replace(found, protocol=replace(found.protocol, seeds=1)).write(run)
    assert "±" not in report(run).text.partition("Transfer · ridge")[2].partition("Transfer · inherited")[0]


def test_images_are_in_it_unchanged(run, report):
    from probedistill import DistilledSet

    page = report(run)
    data = json.loads(page.script("data"))["r0"]
    assert [image["name"] for image in data["images"]] == ["cat", "dog", SCRIPT]
    assert data["evolution"] == {"steps": [0, 20, 40], "count": 3, "columns": 3}
    cell = data["sheets"]["cell"]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(page.script("r0-sheets-0")))).convert("RGB"))
    shipped = DistilledSet.load(run).images
    for i in range(3):
        x, y = i % data["sheets"]["columns"] * cell, i // data["sheets"]["columns"] * cell
        difference = sheet[y : y + cell, x : x + cell].mean((0, 1)) / 255 - shipped[i].mean((1, 2)).numpy()
        assert np.abs(difference).max() < 0.05


def test_every_result_file_in_the_folder_is_drawn(run, report):
    page = report(give_all(run))
    for title in ("Transfer · ridge", "Alignment · Linear CKA", "Where the images lie", "Groups · run-0"):
        assert title in page.text
    assert "Rank correlation with transfer: Spearman +0.83, p = 0.040, over 2 pairs of encoders." in page.text
    assert "On average, a synthetic image is farther from its class mean than 75% of the real images." in page.text
    assert re.search(r"Distilled: worst group 0\.0%, [\d.]+ points below the groups' mean\.", page.text)
    for cell in ("50.0 ± 0.0", "37.5 ± 0.0", "87.5 ± 0.0"):
        assert cell in page.text


def test_bias_shows_names_ranking_and_agreement(run, report):
    found = long_names()["bias"]
    found.write(run)
    page = report(run)
    _, second, third = (entry.title for entry in found.entries)
    assert f"{third} 1 (20.0%) 2 (0.30)" in page.text
    assert f"{second} 2 (10.0%) 3 (no share)" in page.text
    assert "agreement with real data Spearman +1.00, p = 0.333, 3 encoders not defined, 2 encoders" in page.text
    for group in found.groups:
        assert group in page.text
    replace(found, entries=found.entries[:2]).write(run)
    assert "A comparison with the ranking by real data needs at least 3 encoders" in report(run).text


MINE = """
from dataclasses import dataclass
from probedistill.analysis.base import Analysis
from probedistill.show.figures import Bars, Figure
from probedistill.show.tables import Table, number


@dataclass(frozen=True)
class Sharpness(Analysis):
    kind = "sharpness"
    values: list[float]

    def tables(self):
        rows = tuple((f"image {i}", number(value)) for i, value in enumerate(self.values))
        return [Table("Sharpness", ("", "sharpness"), rows)]

    def figures(self):
        (table,) = self.tables()
        names = tuple(name for name, _ in table.rows)
        return [Figure("Sharpness", "How sharp each image is.", Bars(names, {"": self.values}, "sharpness"), table)]
"""


@pytest.fixture
def own_analysis(tmp_path, monkeypatch):
    """A module with a user's own analysis, in the current folder."""
    (tmp_path / "my_analysis.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    yield "module:my_analysis:Sharpness"
    sys.modules.pop("my_analysis", None)
    sys.path[:] = [place for place in sys.path if place != str(tmp_path)]


@pytest.mark.slow
def test_a_users_own_analysis_is_shown(run, run_cli, own_analysis, tmp_path):
    from probedistill.analysis.kinds import kinds

    kinds([own_analysis])["sharpness"]([0.25, 0.5]).save(run)
    assert Image.open(run / "sharpness.png").width > 100
    result = run_cli("report", run, "--analysis", own_analysis, "--out", tmp_path / "r.html", "--no-progress")
    assert result.code == 0, result.err
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert "How sharp each image is." in page.text
    assert "image 1 0.50" in page.text
    (run / "sharpness.json").write_text('{"kind": "sharpness", "values": ["x"]}')
    error = run_cli("report", run, "--analysis", own_analysis, "--out", tmp_path / "s.html").error()
    assert "is damaged: Expected `float`, got `str` - at `$.values[0]`" in error
    assert "is not there" not in error
    assert not (tmp_path / "s.html").exists()
    error = run_cli("report", run, "--analysis", "module:my_analysis:Bars", "--out", tmp_path / "s.html").error()
    assert "must be a dataclass derived from probedistill.analysis.base.Analysis" in error


def test_an_analysis_of_an_installed_package_is_shown(run, report, own_analysis, monkeypatch):
    from probedistill.analysis.kinds import KINDS, kinds

    monkeypatch.setitem(KINDS.__dict__, "plugins", {"sharp": "my_analysis:Sharpness"})
    kinds()["sharpness"]([0.25, 0.5]).write(run)
    assert "How sharp each image is." in report(run).text


def test_result_files_can_be_named(run, report, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    give_all(other)
    page = report(run, transfer=other / "transfer.json", align=other, bias=other, geometry=other)
    for title in ("Transfer · ridge", "Alignment · Linear CKA", "Where the images lie", "Groups · run-0"):
        assert page.text.count(f"{title}") >= 1
    assert "Where the images lie" not in report(run).text


def test_several_runs(run, report, tmp_path):
    second = make_run(tmp_path / "second", ("dog", SCRIPT, "cat"), per_class=2, seed=1)
    page = report(run, second, title="Two")
    assert set(json.loads(page.script("data"))) == {"r0", "r1"}
    assert [i["title"] for i in json.loads(page.script("data"))["r1"]["images"]][:2] == ["dog 1", "dog 2"]
    assert "run: 25.0% at step 20 and 50.0% at step 40; second: 25.0% at step 20" in page.text


def test_scores_of_different_protocols_are_marked(run, report, tmp_path):
    """The table of all runs said "by the same protocol", whatever each run's protocol was."""
    second = make_run(tmp_path / "second", seed=1)
    page = report(run, second)
    assert "deviation over evaluation seeds. Guessing among 3 classes reaches 33%." in page.text
    assert "cannot be compared" not in page.text
    scores = evaluation(("cat", "dog", SCRIPT), 3)
    other = replace(scores.context.encoder, name="x")
    context = replace(scores.context, protocol=replace(scores.context.protocol, epochs=7), encoder=other)
    replace(scores, context=context).save(second / "evaluation-tiny.json")
    assert "cannot be compared" not in report(run, second).text, "a ridge probe has no epochs"
    context = replace(scores.context, protocol=EvaluateConfig(views=3), encoder=other)
    replace(scores, context=context).save(second / "evaluation-tiny.json")
    assert "These rows cannot be compared. They were scored in different ways (views)." in report(run, second).text


def test_a_title_of_many_runs_is_short(report, tmp_path):
    page = report(*(make_run(tmp_path / f"run-{number}") for number in range(7)))
    assert "Distilled: run-0, run-1, run-2, run-3, run-4 and 2 more" in page.text
    assert "7 runs end between 50.0% and 50.0% (run-0)." in page.text


def test_a_set_without_losses_has_the_steps_of_its_run(report, run_cli):
    """Sets that come with the package have no losses, so the report and watch said that they had no steps."""
    assert run_cli("watch", "set:digits-lite0").out.startswith("finished: step 300 of 300, ")
    assert re.search(r"finished 1 300 \d+ Save as CSV : Runs", report("set:digits-lite0").text)


def test_a_wall_of_each_class_and_run_comes_first(run, report, tmp_path):
    second = make_run(tmp_path / "second", ("dog", SCRIPT, "cat"), seed=1)
    page = report(run, second)
    source = (tmp_path / "r.html").read_text("utf-8")
    assert source.index('id="wall"') < source.index('id="summary"')
    cells = re.findall(r'class="cell" data-run="(r\d)" data-index="(\d)"', source)
    assert cells == [("r0", "0"), ("r1", "2"), ("r0", "1"), ("r1", "0"), ("r0", "2"), ("r1", "1")]
    assert source.count('<canvas class="start"') == 6
    assert "The small picture is the start" in page.text
    (run / "evolution/step-0000000.webp").unlink()
    report(run)
    assert '<canvas class="start"' not in (tmp_path / "r.html").read_text("utf-8")


def test_what_differs_between_runs_and_what_they_share(run, report, tmp_path):
    second = make_run(tmp_path / "second", per_class=2, seed=7)
    page = report(run, second)
    summary = page.text[page.text.index("Summary", page.text.index("Reproduce") + 1) :]
    assert "run method encoder state images per class steps seconds run clp tiny at 24 px finished 1 40 12" in summary
    assert "second clp tiny at 24 px finished 2 40 12" in summary
    assert "What differs setting run second seed 0 7" in summary
    assert page.text.count("60 of folder:photos (train)") == 1, "what is shared is said once"
    assert "Shared by all runs method clp, preset default, 40 steps" in page.text
    twin = make_run(tmp_path / "twin")
    assert "The runs do not differ in anything else." in report(run, twin).text


def test_every_table_can_be_saved_as_csv(run, report):
    page = report(give_all(run))
    files = [address for address in page.addresses if address.startswith("data:text/csv")]
    assert len(files) > 8
    tables = [base64.b64decode(file.partition("base64,")[2]).decode("utf-8-sig") for file in files]
    assert any(table.splitlines()[:2] == ["step,loss", "1,2.0000"] for table in tables)
    assert any("first" not in table and "61.8 ± 1.0" in table for table in tables)


def test_long_names_do_not_push_the_images_out_of_sight(report, tmp_path):
    names = [f"milk number {i}, half fat, in a box that is good for the environment" for i in range(12)]
    runs = [make_run(tmp_path / f"a-run-with-a-long-name-{seed}", names, seed=seed) for seed in range(4)]
    page = report(*runs)
    head = page.text[: page.text.index("Images")]
    assert "12 classes: milk number 0" in head
    assert len(head) < 600
    assert "Distilled: a-run-with-a-long-name-0, a-run-with-a-long-name-1 and 2 more" in page.text


def test_ten_classes_and_two_runs_are_under_a_megabyte(report, tmp_path):
    class_names = [f"class number {i}" for i in range(10)]
    runs = [make_run(tmp_path / name, class_names, side=64, seed=i) for i, name in enumerate(("a", "b"))]
    for run in runs:
        give_all(run, class_names)
    report(*runs)
    assert (tmp_path / "r.html").stat().st_size < 1_000_000


def test_control_characters_in_names_are_escaped(report, tmp_path):
    page = report(make_run(tmp_path / "run \x1b[2J", ("cat", "dog\u200f"), seed=1))
    assert "run \\x1b[2J" in page.text
    assert not {"\x1b", "\u200f"} & set((tmp_path / "r.html").read_text("utf-8"))
    assert json.loads(page.script("data"))["r0"]["images"][1]["name"] == "dog\\u200f"


def test_unfinished_run_is_reported_as_such(run, run_cli, tmp_path):
    state = json.loads((run / "run.json").read_text())
    write(run / "run.json", {**state, "finished": False, "losses": [], "accuracy": []})
    write(
        run / "progress.json",
        {"kind": "progress", "step": 7, "steps": 40, "losses": [2.0, 1.5], "accuracy": [[5, 0.25]], "seconds": 3},
    )
    result = run_cli("report", run, "--out", tmp_path / "r.html", "--no-progress")
    assert result.code == 0
    assert result.err.strip() == (
        "warning: run 'run' is not finished (step 7 of 40, loss 1.5000, probe 25.0% at step 5); showing it as it is"
    )
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert "run is not finished. Shown so far: step 7 of 40" in page.text
    assert json.loads(page.script("data"))["r0"]["images"] == []


def test_equal_input_gives_equal_bytes(run, report, tmp_path):
    give_all(run)
    report(run)
    once = (tmp_path / "r.html").read_bytes()
    report(run)
    assert (tmp_path / "r.html").read_bytes() == once


# ---------------------------------------------------------------- one file, and text stays text


def test_nothing_is_loaded_from_anywhere(run, report, tmp_path):
    page = report(give_all(run))
    assert page.addresses
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    source = (tmp_path / "r.html").read_text("utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', source)[1]
    assert policy.startswith("default-src 'none'; img-src data: blob:;")
    own = [text for values, text in page.scripts if values.get("type") is None]
    assert len(own) == 1
    assert policy.count("sha256-") == 1


def test_a_class_name_is_text_everywhere(run, report, tmp_path):
    (run / "config.yaml").write_text(f"images: '{SCRIPT}'\n")
    page = report(give_all(run), title=SCRIPT)
    assert not any("alert(1)" in text for values, text in page.scripts if values.get("type") is None)
    assert (tmp_path / "r.html").read_text("utf-8").count("<script>alert") == 0
    assert page.text.count(SCRIPT) > 5


@pytest.mark.slow
@given(st.recursive(st.text() | st.floats() | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
@settings(max_examples=40, deadline=None)
def test_embedded_json_round_trips_and_cannot_end_an_element(value):
    plain = without_nan(value)
    text = _embedded(json.dumps(plain, allow_nan=False, ensure_ascii=False))
    assert json.loads(text) == plain
    assert not set("<>&\u2028\u2029") & set(text)


@given(st.integers(1, 40), st.sampled_from([16, 70, 200]))
@settings(max_examples=12, deadline=None)
def test_sheets_hold_every_picture_in_its_cell(count, cell):
    colours = [((37 * i) % 256, (91 * i) % 256, (11 * i) % 256) for i in range(count)]
    sheets = pack(count, lambda i: Image.new("RGB", (50, 50), colours[i]), cell)
    assert len(sheets.sheets) == -(-count // sheets.per_sheet)
    opened = [Image.open(io.BytesIO(base64.b64decode(s))).convert("RGB") for s in sheets.sheets]
    for i in range(count):
        place = i % sheets.per_sheet
        middle = (place % sheets.columns * cell + cell // 2, place // sheets.columns * cell + cell // 2)
        found = opened[i // sheets.per_sheet].getpixel(middle)
        assert np.abs(np.subtract(found, colours[i])).max() < 12


# ---------------------------------------------------------------- real images


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, photos):
    folder = tmp_path_factory.mktemp("report") / "photos-run"
    distill(f"folder:{photos}", TINY, steps=3, images_per_class=2, out=folder, progress=False)
    return folder


@pytest.mark.slow
def test_real_images_only_on_request(distilled, report, photos):
    assert "near" not in json.loads(report(distilled).script("data"))["r0"]
    with trusting():
        page = report(distilled, real_images=True)
    near = json.loads(page.script("data"))["r0"]["near"]
    train, _ = load_splits(f"folder:{photos}")
    from probedistill import DistilledSet

    encoder, made = load_encoder(TINY), DistilledSet.load(distilled)
    bank = extract_features(encoder, train, progress=False)
    real = bank.centre / bank.centre.norm(dim=1, keepdim=True)
    features = encoder(made.images)
    for z, label, names in zip(features, made.labels, near["names"], strict=True):
        order = [i for i in (real @ z).argsort(descending=True).tolist() if bank.labels[i] == label]
        assert names == [train.names[bank.indices[i]] for i in order[:3]]
    assert page.script("r0-near-0")


def test_real_images_must_be_the_runs_own(distilled, run_cli, tmp_path, photos):
    config = (distilled / "config.yaml").read_text()
    try:
        (distilled / "config.yaml").write_text(
            config.replace("encoder: module", "classes: [dog, cat]\nencoder: module")
        )
        arguments = ["report", distilled, "--real-images", "--out", tmp_path / "r.html"]
        assert "encoder 'module:helpers_encoders:tiny', which needs trust" in run_cli(*arguments).error()
        error = run_cli(*arguments, "--trust").error()
        assert "the images that " in error
        assert "are not the ones the run was made with" in error
        (distilled / "config.yaml").write_text(
            f"{config}input_size: 48\n"
            if "input_size" not in config
            else re.sub("input_size: .*", "input_size: 48", config)
        )
        error = run_cli(*arguments, "--trust").error()
        assert "was not made with the encoder in its config.yaml; restore the file or leave" in error
        (distilled / "config.yaml").write_text(re.sub("(?m)^images: .*\n", "", config))
        error = run_cli(*arguments, "--trust").error()
        assert "names no images: the run was made from statistics or from other sets; leave --real-images out" in error
        (distilled / "config.yaml").unlink()
        error = run_cli("report", distilled, "--real-images", "--out", tmp_path / "r.html").error()
        assert "has no config.yaml" in error
        assert not (tmp_path / "r.html").exists()
    finally:
        (distilled / "config.yaml").write_text(config)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["RUN", "--out", "DIR/r.txt"], "must end in .html"),
        (["RUN", "--out", "DIR/sub.html"], "is a folder"),
        (["RUN", "RUN"], "is named twice"),
        (["DIR/none"], "no such folder"),
        (["DIR/empty"], "holds no run"),
        (["RUN", "OTHER"], "runs of different classes"),
        (["RUN", "--transfer", "DIR/none.json"], "is not there"),
        (["RUN", "--transfer", "DIR/align.json"], "is not a probedistill transfer file; give a file that"),
        (["RUN", "--align", "DIR/broken.json"], "is not complete JSON"),
        (["RUN", "--geometry", "DIR/list.json"], "has no JSON object"),
        (["RUN", "--align", "DIR/shape.json"], "metrics.cka has the shape (1, 1), not (2, 2)"),
        (["RUN", "--analysis", "bias2"], "unknown analysis 'bias2'; did you mean 'bias'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, run_cli, tmp_path, arguments, says):
    make_run(tmp_path / "other", ("cat", "hen"))
    for name in ("empty", "sub.html"):
        (tmp_path / name).mkdir()
    results(["cat"])["align"].write(tmp_path)
    align = json.loads((tmp_path / "align.json").read_text())
    write(tmp_path / "shape.json", {**align, "metrics": {**align["metrics"], "cka": [[1.0]]}})
    write(tmp_path / "list.json", [])
    (tmp_path / "broken.json").write_text('{"kind": ')
    before = sorted(tmp_path.rglob("*"))
    places = {"RUN": run, "OTHER": tmp_path / "other"}
    arguments = [places.get(a) or a.replace("DIR", str(tmp_path)) for a in arguments]
    if "--out" not in arguments:
        arguments += ["--out", tmp_path / "r.html"]
    assert says in run_cli("report", *arguments).error()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["transfer", "align", "geometry", "bias"])
def test_damaged_result_files(run, report, kind):
    results(["cat", "dog", SCRIPT])[kind].write(run)
    good = json.loads((run / f"{kind}.json").read_text())
    for key in good.keys() - {"kind", "heads", "cells", "transfer", "note", "sizes", "sha256"}:
        for damaged in ({k: v for k, v in good.items() if k != key}, {**good, key: [{"x": "?"}]}, {**good, key: None}):
            write(run / f"{kind}.json", damaged)
            with pytest.raises(UserError, match=rf"^{kind} file '.*{kind}.json' is damaged: .*; give a file that"):
                report(run)


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ({"name": 3}, "rows[0].name"),
        ({"scores": []}, "rows[0].scores"),
        ({"scores": [{"top1": 2}]}, "rows[0].scores[0].top1"),
    ],
)
def test_damaged_scores(run, report, damage, place):
    content = json.loads((run / "evaluation-tiny.json").read_text())
    content["rows"][0] |= damage
    write(run / "evaluation-tiny.json", content)
    with pytest.raises(UserError, match=r"evaluation file .* is damaged") as error:
        report(run)
    assert place in str(error.value)


def test_a_file_that_is_not_a_record(run, report):
    state = json.loads((run / "run.json").read_text())
    write(run / "run.json", {**state, "config": "clp"})
    with pytest.raises(UserError, match=r"run file .*run\.json' is damaged: .* - at `\$\.config`"):
        report(run)


def test_damaged_sprites_are_left_out(run, report):
    (run / "evolution/step-0000020.webp").write_bytes(b"RIFF")
    with pytest.warns(UserWarning, match="left out of the evolution"):
        page = report(run)
    assert json.loads(page.script("data"))["r0"]["evolution"]["steps"] == [0, 40]


def test_missing_requirements_are_named(run, run_cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    error = run_cli("report", run, "--out", tmp_path / "r.html").error()
    assert "report needs the package jinja2, which is not installed; run: pip install 'probedistill[report]'" in error


def test_confusions_between_classes_are_drawn(run, report):
    path = next(run.glob("evaluation-*.json"))
    found = load_evaluation(path)
    counts = ((18, 2, 0), (0, 20, 0), (5, 0, 15))
    first = replace(found.rows[0], scores=tuple(replace(one, confusion=counts) for one in found.rows[0].scores))
    path.unlink()
    replace(found, rows=(first, *found.rows[1:])).save(path)
    text = report(run).text
    assert "Confusion matrix" in text
    assert "25.0% of class" in text
    assert "are classified as cat" in text
