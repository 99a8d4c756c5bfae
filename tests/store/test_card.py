"""The card of a set: correct, safe for Markdown and YAML, without traces of this machine, and editable."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from conftest import TINY
from helpers_images import make_image_folder
from helpers_runs import encoder_record, run_record
from probedistill import DistilledSet, evaluate, export, load_encoder, load_splits
from probedistill.store.card import Licence, escaped, licence_of, published, rewrite
from probedistill.store.run_record import ImagesRecord

NASTY = ["<script>alert(1)</script>", "a|b", "[x](http://evil.example)", "`rm`", "train", "--- #",
         "<!-- probedistill: end -->", "![i](javascript:x)", "true", "a: b"]  # fmt: skip


def make_set(names=("cat", "dog"), **changes) -> DistilledSet:
    images = torch.rand(len(names), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return DistilledSet(images, torch.arange(len(names)), tuple(names), run_record(class_names=tuple(names), **changes))


def card_of(distilled, folder, **options) -> str:
    return (distilled.save(folder, **options) / "README.md").read_text(encoding="utf-8")


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_every_set_has_a_card_that_the_hub_understands(tmp_path):
    found = front_matter(card_of(make_set(), tmp_path, licence=Licence("cc0-1.0", "CC0.")))
    assert found["license"] == "cc0-1.0"
    assert found["task_categories"] == ["image-classification"]
    assert found["configs"][0]["data_files"] == [{"split": "train", "path": "images/**"}]


@pytest.mark.parametrize(
    ("begun", "says"),
    [
        ("real", "began as photos"),
        ("blend", "began as photos"),
        ("average", "began as averages"),
        ("noise", "began as noise"),
    ],
)
def test_says_how_the_images_began(tmp_path, begun, says):
    assert says in card_of(make_set(begun_from=begun), tmp_path)


def test_names_are_shown_literally(tmp_path):
    pytest.importorskip("markdown_it")
    from markdown_it import MarkdownIt

    card = card_of(make_set(NASTY), tmp_path)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(card.split("---\n", 2)[2])
    inline = [child for token in tokens for child in token.children or []]
    html = [t.content for t in [*tokens, *inline] if t.type in ("html_inline", "html_block")]
    assert all(re.fullmatch(r"(<!-- probedistill: [a-z ]+ -->\s*)+", one.strip()) for one in html)
    links = [t.attrs["href"] for t in inline if t.type == "link_open"]
    assert all(link.startswith(("https://arxiv.org/abs/", "held-out.txt")) for link in links)
    shown = "".join(t.content for t in inline if t.type in ("text", "text_special"))
    assert all(name in shown for name in NASTY)


@given(st.text(max_size=20))
def test_escaped_text_is_one_line_without_markup(text):
    found = escaped(text)
    assert "\n" not in found
    assert "<" not in found
    assert not re.search(r"(?<!\\)(\\\\)*[\[\]`|*]", found)


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("folder:/home/me/photos", "folder:photos"),
        ("folder:~/photos/", "folder:photos"),
        (r"folder:C:\Users\me\photos", "folder:photos"),
        ("wds:/data/train-{000..146}.tar", "wds:train-{000..146}.tar"),
        ("hf:user/repo", "hf:user/repo"),
        ("hf:/home/me/model", "hf:model"),
        ("module:mine:source:/home/me/x", "module:mine:source:x"),
        ("hf:../me/model at 64 px", "hf:model at 64 px"),
        ("timm:resnet18", "timm:resnet18"),
    ],
)
def test_paths_of_this_machine_are_left_out(spec, shown, tmp_path):
    assert published(spec) == shown
    images = ImagesRecord(spec=spec, split="train", count=9, fingerprint="ab" * 32)
    card = card_of(make_set(images=images, test=images, encoders=(encoder_record(spec),)), tmp_path)
    assert "home" not in card
    assert "Users" not in card


def test_an_edited_card_is_not_damage_and_keeps_its_edits(tmp_path):
    folder = make_set().save(tmp_path / "set")
    path = folder / "README.md"
    path.write_text(path.read_text() + "\nMy own words.\n")
    assert len(DistilledSet.load(folder)) == 2
    assert rewrite(folder, "scores", "| 99 |")
    assert "| 99 |" in path.read_text()
    assert "My own words." in path.read_text()
    path.write_text("All mine.")
    assert not rewrite(folder, "scores", "| 98 |")
    assert path.read_text() == "All mine."


@pytest.mark.slow
def test_a_run_names_what_was_held_out_and_shows_its_scores(distil_cli, run_cli, tmp_path):
    photos = make_image_folder(tmp_path / "photos", per_class=8, splits=())
    run = tmp_path / "run"
    assert distil_cli("--out", run, "--keep-head", images=f"folder:{photos}").code == 0
    names = (run / "held-out.txt").read_text().splitlines()
    assert len(names) == 4
    assert all((photos / name).is_file() for name in names)
    before = (run / "README.md").read_text()
    assert "Not scored yet" in before
    assert "the head of" in before
    done = run_cli("evaluate", run, "--config", run / "config.yaml", "--seeds", 2, "--views", 2)
    assert done.code == 0, done.err
    card = (run / "README.md").read_text()
    assert "| **distilled** | 2 | ridge |" in card
    assert "| full real data |" in card
    assert "2 seeds. Mean ± standard deviation over evaluation seeds." in card
    assert "(held-out.txt)" in card
    assert str(tmp_path) not in card
    assert TINY.split(":", 1)[1] in card.replace("\\", "")


def test_label_says_on_the_card_what_it_stored(distil_cli, run_cli, tmp_path):
    run = tmp_path / "run"
    assert distil_cli("--out", run).code == 0
    assert "Nothing but the images." in (run / "README.md").read_text()
    assert run_cli("label", run, "--config", run / "config.yaml", "--soft-labels", "source").code == 0
    assert "soft labels (source)" in (run / "README.md").read_text()


def test_datasets_reads_the_run_as_its_images_alone(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = make_set(["red", "train", "[x]"]).save(tmp_path / "set")
    (folder / "evaluation-x.json").write_text('{"rows": []}')
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "hf"))
    assert [(row["label"], row["class_name"]) for row in data] == list(enumerate(["red", "train", "[x]"]))


@pytest.mark.slow
def test_testing_on_the_training_split_under_another_name_is_warned_of(distil_cli, run_cli, tmp_path):
    photos, run = make_image_folder(tmp_path / "photos", per_class=6, size=8), tmp_path / "run"
    (tmp_path / "link").symlink_to(photos / "train")
    shutil.copytree(photos / "train", tmp_path / "copied")
    assert distil_cli("--out", run, images=f"folder:{photos}").code == 0

    def says(images, *more, run=run):
        done = run_cli("evaluate", run, "--images", images, "--encoder", TINY, "--seeds", 1, "--baselines", *more)
        assert done.code == 0, done.err
        return "test images included (there called 'folder:photos', train), so accuracy is too high" in done.err

    for name in ("photos/train", "link", "copied"):
        assert says(f"folder:{tmp_path / name}"), name
    assert says(f"folder:{photos}", "--split", "test", "--test-split", "train")
    assert not says(f"folder:{photos}")
    assert not says(f"folder:{photos / 'test'}")
    assert "±" not in (run / "README.md").read_text(encoding="utf-8"), "of one evaluation seed"
    others = make_image_folder(tmp_path / "others", classes=("hen", "owl"), per_class=6, size=8, seed=1)
    assert distil_cli("--out", tmp_path / "second", images=f"folder:{others}").code == 0
    assert run_cli("merge", run, tmp_path / "second", "--out", tmp_path / "both").code == 0
    for folder in (others, photos):
        shutil.copytree(folder / "train", tmp_path / "pooled", dirs_exist_ok=True)
        shutil.copytree(folder, tmp_path / "split", dirs_exist_ok=True)
    assert says(f"folder:{tmp_path / 'pooled'}", run=tmp_path / "both")
    assert not says(f"folder:{tmp_path / 'split'}", run=tmp_path / "both")


@pytest.mark.slow
def test_photos_that_come_later_change_what_is_held_out(distil_cli, run_cli, tmp_path):
    photos, run = make_image_folder(tmp_path / "photos", per_class=6, size=8, splits=()), tmp_path / "run"
    assert distil_cli("--out", run, images=f"folder:{photos}").code == 0
    says = "were not held out when '.*run' was made, such as '(cat|dog)/x?00.*: unless they are new, it was made from"

    def commands(images, *more):
        of = ("--images", f"folder:{images}", *more)
        yield run_cli("evaluate", run, *of, "--encoder", TINY, "--seeds", 1, "--baselines", "random")
        yield run_cli("transfer", run, *of, "--encoders", TINY, "--seeds", 1, "--out", tmp_path / "transfer")
        yield run_cli("migrate", run, *of, "--encoder", TINY, "--out", tmp_path / "head")

    for made in commands(photos):
        assert (made.code, "held out when" in made.err) == (0, False)
    for made in commands(photos, "--holdout", 0.5):
        assert (made.code, len(re.findall(says, made.err))) == (0, 1)
    make_image_folder(tmp_path / "more", per_class=9, size=8, splits=(), seed=1)
    (tmp_path / "others").mkdir()
    for path in (tmp_path / "more").rglob("*.png"):
        (tmp_path / "others" / path.parent.name).mkdir(exist_ok=True)
        for folder in (photos, tmp_path / "others"):
            shutil.copy(path, folder / path.parent.name / f"x{path.name}")
    train, test = load_splits(f"folder:{photos}")
    with pytest.warns(UserWarning, match=says):
        evaluate(run, load_encoder(TINY), train, test, baselines=[], seeds=1, views=1, progress=False)
    other = run_cli("evaluate", run, "--images", f"folder:{tmp_path / 'others'}", "--encoder", TINY, "--seeds", 1)
    assert (other.code, "held out when" in other.err) == (0, False)


def test_an_export_keeps_the_licence_and_the_names_that_were_held_out(tmp_path, run_cli):
    folder = make_set().save(tmp_path / "set", licence=Licence("cc0-1.0", "CC0, by me.\nIn two lines."))
    (folder / "held-out.txt").write_text("cat/1.png\n")
    assert licence_of(folder) == Licence("cc0-1.0", "CC0, by me.\nIn two lines.")
    assert run_cli("export", folder, "--out", tmp_path / "small").code == 0
    assert licence_of(tmp_path / "small") == licence_of(folder)
    assert (tmp_path / "small/held-out.txt").read_text() == "cat/1.png\n"
    export(folder, tmp_path / "small", overwrite=True, progress=False)
    card = (tmp_path / "small/README.md").read_text(encoding="utf-8")
    assert licence_of(tmp_path / "small") == licence_of(folder)
    assert "the names of the held-out files" in card
    export(make_set(), tmp_path / "small", overwrite=True, progress=False)
    assert licence_of(tmp_path / "small") == Licence()
    assert not (tmp_path / "small/held-out.txt").exists(), "it was another set's"
    assert licence_of(tmp_path) == Licence()
    (folder / "README.md").write_text("All mine.")
    assert licence_of(folder) == Licence()


def test_the_card_of_an_export_shows_its_own_files(tmp_path):
    export(make_set(["a b", "c"]), tmp_path / "small", progress=False)
    card = (tmp_path / "small/README.md").read_text()
    assert "(<images/a%20b/000.webp>)" in card
    assert (tmp_path / "small/images/a b/000.webp").exists()
    assert replace(DistilledSet.load(tmp_path / "small").run.export, bytes=0).format == "webp"
