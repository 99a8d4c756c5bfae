"""Sets over time: merged, without classes or photos, with new ones."""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import TINY
from helpers_images import make_image_folder
from probedistill import (
    CanvasConfig,
    DistillConfig,
    DistilledSet,
    LinearProbe,
    RunConfig,
    UserError,
    class_statistics,
    distill,
    evaluate,
    extend,
    extract_features,
    forget,
    load_encoder,
    load_splits,
    merge,
    rename,
)
from probedistill.distillation.base import Base
from probedistill.distillation.beginnings import average_of, blend_of
from probedistill.distillation.new_folder import write_set
from probedistill.evaluation.real_sets import real_set
from probedistill.features.statistics import statistics_of_run
from probedistill.features.store import FeatureStore
from probedistill.report.info import run_info
from probedistill.ship.joined import KeptSet, load_runs, merge_sets, with_names, without_classes
from probedistill.store.card import Licence, held_out_in, licence_of
from probedistill.store.run_record import read_run

NAMES = ("cat", "dog", "hen", "owl")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = make_image_folder(tmp_path_factory.mktemp("time") / "photos", classes=NAMES, per_class=6, size=36)
    return load_splits(f"folder:{folder}")


@pytest.fixture(scope="module")
def runs(encoder, data, tmp_path_factory):
    """Runs on the first two classes, on the last two, and on all; each keeps its statistics and its head."""
    place = tmp_path_factory.mktemp("runs")
    parts = {"a": NAMES[:2], "b": NAMES[2:], "all": NAMES}
    for name, classes in parts.items():
        distill(
            data[0].with_classes(classes), encoder, steps=3, keep_stats=True, keep_head=True, out=place / name,
            progress=False,
        )  # fmt: skip
    return place


def out_of(tmp_path, **options):
    return RunConfig(out=tmp_path / "out", cache=tmp_path / "cache", progress=False, **options)


# ---------------------------------------------------------------------------------------------------
# merge


@pytest.mark.slow
def test_merged_set_has_the_images_and_the_sums_of_both(runs):
    a, b = load_runs([runs / "a", runs / "b"])
    merged = merge_sets([a, b])
    assert merged.distilled.class_names == NAMES
    assert merged.distilled.labels.tolist() == [0, 1, 2, 3]
    both = torch.cat([a.distilled.float_images, b.distilled.float_images])
    assert torch.equal(merged.distilled.float_images, both)
    (pooled,) = statistics_of_run(runs / "all")
    np.testing.assert_allclose(merged.statistics[0].products, pooled.products, rtol=1e-9)
    assert [part.name for part in merged.distilled.run.parts] == ["a", "b"]


def test_head_of_a_merged_set_is_that_of_the_pooled_photos(runs):
    merged, pooled = merge_sets(load_runs([runs / "a", runs / "b"])), DistilledSet.load(runs / "all")
    np.testing.assert_allclose(merged.distilled.head.weight, pooled.head.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("command", [["rename", "RUN", "cat=lynx"], ["merge", "RUN", "OTHER"], ["migrate", "RUN"]])
def test_statistics_of_another_run_are_refused(runs, run_cli, tmp_path, command):
    run, (file,) = shutil.copytree(runs / "a", tmp_path / "run"), (runs / "b").glob("*.stats")
    shutil.copy(file, run)
    names = {"RUN": run, "OTHER": runs / "b"}
    words = [names.get(word, word) for word in command] + (["--encoder", TINY] if command[0] == "migrate" else [])
    error = run_cli(*words, "--out", tmp_path / "out").error()
    assert f"statistics file {str(run / file.name)!r} is of another run; restore the run's own" in error
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_merged_is_left_out_with_a_note(runs):
    a, b = load_runs([runs / "a", runs / "b"])
    merged = merge_sets([a, KeptSet(b.distilled, (), "b")])
    assert merged.statistics == ()
    assert merged.distilled.head is None
    assert "'b' has none" in merged.notes[0]
    assert "head was left out" in merged.notes[1]


def test_shared_classes_are_refused_or_have_the_images_of_both(runs):
    every, a = load_runs([runs / "all", runs / "a"])
    with pytest.raises(UserError, match="classes 'cat', 'dog' are in 'all' and in 'a'; forget them in one of the two"):
        merge_sets([every, a])
    bare = [KeptSet(one.distilled, (), one.name) for one in (every, a)]
    both = merge_sets(bare, same_classes=True).distilled
    assert both.labels.tolist() == [0, 0, 1, 1, 2, 3]
    assert both.run.config.images_per_class == 2


@pytest.mark.slow
def test_two_extensions_of_one_set_have_its_classes_once(runs, run_cli, data, encoder, tmp_path):
    for name in ("hen", "owl"):
        extend(
            runs / "a",
            data[0].with_classes([name]),
            encoder,
            run=replace(out_of(tmp_path), out=tmp_path / name),
            steps=1,
        )
    shown = run_cli("merge", tmp_path / "hen", tmp_path / "owl", "--out", tmp_path / "both", "--json").out
    record = json.loads(shown)
    assert [(one["name"], one["became"], one["photos"]) for one in record["classes"]] == [
        (name, "as before", 6) for name in NAMES
    ]
    assert record["notes"][0] == "Taken once: 'cat', 'dog', with the same images in 'owl' as before."
    both, (kept,), (pooled,) = (
        DistilledSet.load(tmp_path / "both"),
        *map(statistics_of_run, (tmp_path / "both", runs / "all")),
    )
    assert both.class_names == NAMES
    assert both.run.images.count == 24
    np.testing.assert_allclose(kept.sums, pooled.sums, rtol=1e-9)
    assert [part.count for part in kept.about.parts] == [12, 6, 6]
    assert float((kept.products - pooled.products).norm() / pooled.products.norm()) < 0.1
    assert both.head.weight.shape[0] == 4
    assert "name that set first" in record["notes"][1]
    exact, notes = merge([runs / "a", tmp_path / "hen", tmp_path / "owl"], out=tmp_path / "exact")
    (kept,) = statistics_of_run(tmp_path / "exact")
    assert (exact.class_names, len(notes)) == (NAMES, 2)
    np.testing.assert_allclose(kept.products, pooled.products, rtol=1e-9)
    assert [part.count for part in kept.about.parts] == [12, 6, 6]
    np.testing.assert_allclose(exact.head.weight, DistilledSet.load(runs / "all").head.weight, rtol=1e-3, atol=1e-4)


def test_a_set_and_its_extension_have_the_sums_of_the_extension(runs, data, encoder, tmp_path):
    extend(runs / "a", data[0].with_classes(["hen"]), encoder, run=out_of(tmp_path), steps=1)
    base, more = load_runs([runs / "a", tmp_path / "out"])
    merged = merge_sets([base, more])
    assert torch.equal(merged.distilled.float_images, more.distilled.float_images)
    np.testing.assert_allclose(merged.statistics[0].products, more.statistics[0].products, rtol=1e-9)
    assert not any("estimate" in note for note in merged.notes)
    with pytest.raises(UserError, match="leave it out, or name it before them"):
        merge_sets([more, base])


def test_photos_behind_different_images_of_a_class_are_counted_once(runs, data, encoder, tmp_path):
    for name in ("hen", "owl"):
        run = replace(out_of(tmp_path), out=tmp_path / name)
        extend(runs / "a", data[0].with_classes([name]), encoder, run=run, steps=1, refine=True)
    refined = load_runs([tmp_path / "hen", tmp_path / "owl"])
    with pytest.raises(UserError, match="classes 'cat', 'dog' are in 'hen' and in 'owl'"):
        merge_sets(refined)
    merged = merge_sets(refined, same_classes=True)
    assert merged.distilled.labels.tolist() == [0, 0, 1, 1, 2, 3]
    assert merged.statistics[0].counts.tolist() == [6, 6, 6, 6]
    (pooled,) = statistics_of_run(runs / "all")
    np.testing.assert_allclose(merged.statistics[0].sums, pooled.sums, rtol=1e-9)


def test_two_sets_of_the_same_photos_have_more_images_and_the_same_sums(runs, data, encoder, tmp_path):
    seeded = distill(
        data[0].with_classes(NAMES[:2]), encoder, steps=1, seed=1, keep_stats=True, keep_head=True,
        out=tmp_path / "seeded", progress=False,
    )  # fmt: skip
    base, again = load_runs([runs / "a", tmp_path / "seeded"])
    merged = merge_sets([base, again], same_classes=True)
    assert torch.equal(merged.distilled.of_class("dog")[1], seeded.of_class("dog")[0])
    assert torch.equal(merged.statistics[0].products, base.statistics[0].products)
    assert merged.statistics[0].about.parts == base.statistics[0].about.parts
    np.testing.assert_allclose(merged.distilled.head.weight, base.distilled.head.weight, rtol=1e-5, atol=1e-6)
    assert merged.notes == ()


@pytest.mark.parametrize("keeps", [True, False])
def test_a_set_that_adds_no_class_and_a_class_under_two_names_are_refused(runs, keeps):
    every = KeptSet.load(runs / "all") if keeps else KeptSet(DistilledSet.load(runs / "all"), name="all")
    fewer = replace(without_classes(every, ["owl"]), name="fewer")
    with pytest.raises(UserError, match="'fewer' has only classes that the sets before it have"):
        merge_sets([every, fewer])
    copy = replace(with_names(every, {"cat": "kitty"}), name="copy")
    with pytest.raises(UserError, match="class 'kitty' of 'copy' has the same images as class 'cat' of 'all'"):
        merge_sets([every, copy])


def test_a_class_of_the_same_images_but_other_photos_is_not_taken_once(runs):
    a, every = load_runs([runs / "a", runs / "all"])
    other = replace(a, statistics=tuple(replace(one, sums=2 * one.sums) for one in a.statistics), name="b")
    more = replace(every, distilled=replace(every.distilled, float_images=torch.cat([
        a.distilled.float_images, every.distilled.float_images[2:]])))  # fmt: skip
    with pytest.raises(UserError, match="classes 'cat', 'dog' are in 'b' and in 'all'"):
        merge_sets([other, more])
    assert merge_sets([a, more]).distilled.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("keeps", [True, False])
def test_classes_that_differ_only_in_spelling_are_two_with_a_warning(runs, keeps):
    def called(name, *names):
        one = KeptSet.load(runs / name)
        statistics = [replace(s, about=replace(s.about, class_names=names)) for s in one.statistics if keeps]
        held = replace(one.distilled, class_names=names, run=replace(one.distilled.run, class_names=names))
        return KeptSet(held, tuple(statistics), name)

    with pytest.warns(UserWarning, match="classes 'T-Shirt' and 't shirt' are treated as two; if they are one"):
        merged = merge_sets([called("a", "T-Shirt", "dog"), called("b", "t shirt", "owl")])
    assert merged.distilled.class_names == ("T-Shirt", "dog", "t shirt", "owl")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # within one set they are deliberate
        merge_sets([called("a", "Cat", "cat"), called("b", "hen", "owl")])


def test_sets_that_do_not_fit_are_refused(runs, encoder, data):
    other = load_encoder(TINY, encoder_args={"seed": 1}, device="cpu")
    a = KeptSet.load(runs / "a")
    part = data[0].with_classes(NAMES[2:])
    with pytest.raises(UserError, match="were made with different encoders"):
        merge_sets([a, KeptSet(distill(part, other, steps=1, progress=False), (), "x")])
    with pytest.raises(UserError, match="have 32 and 24 px"):
        merge_sets([a, KeptSet(distill(part, encoder, steps=1, canvas={"size": 24}, progress=False), (), "x")])
    with pytest.raises(UserError, match=r"different views \(augment.kind random and none\)"):
        merge_sets([a, KeptSet(distill(part, encoder, steps=1, augment="none", progress=False), (), "x")])


def test_merged_set_is_a_set_like_any_other(runs, run_cli, data, encoder, tmp_path):
    out = tmp_path / "merged"
    assert run_cli("merge", runs / "a", runs / "b", "--out", out).code == 0
    merged = DistilledSet.load(out)
    result = evaluate(merged, encoder, None, data[1], probes=["ridge"], seeds=1, baselines=[], progress=False)
    assert 0 <= result.rows[0].top1 <= 1
    assert "merged from" in run_cli("info", out).out
    assert run_cli("export", out, "--out", tmp_path / "small", "--no-progress").code == 0
    assert run_cli("report", out, "--out", tmp_path / "r.html", "--no-progress").code == 0
    record = json.loads(run_cli("merge", runs / "a", runs / "b", "--out", tmp_path / "again", "--json").out)
    assert [(one["name"], one["became"], one["photos"]) for one in record["classes"]] == [
        (name, "as before", 6) for name in NAMES
    ]
    assert "already exists" in run_cli("merge", runs / "a", runs / "b", "--out", out).error()
    assert "name two or more" in run_cli("merge", runs / "a", "--out", tmp_path / "x").error()
    assert "named twice" in run_cli("merge", runs / "a", runs / "a", "--out", tmp_path / "x").error()


def test_card_of_a_changed_set_names_the_files_next_to_its_images(runs, tmp_path):
    merge([runs / "a", runs / "b"], out=tmp_path / "merged")
    forget(runs / "all", ["cat"], out=tmp_path / "out")
    for folder in (tmp_path / "merged", tmp_path / "out"):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "(preview.png)" in card
        assert "second moments of the real features" in card
        assert (folder / "config.yaml").is_file()
        assert "To make it again" not in card, "config.yaml has the encoder alone"


def test_card_of_a_continued_set_does_not_say_that_no_photo_was_used(runs, data, encoder, tmp_path):
    extend(runs / "a", data[0].with_classes(NAMES[2:]), encoder, run=out_of(tmp_path), steps=1)
    forget(runs / "all", ["cat"], out=tmp_path / "less")
    for folder in (tmp_path / "out", tmp_path / "less"):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "began as averages of photos" in card
        assert "No photo was used" not in card
        assert re.search(r"(?m)^# [\w +]+, distilled$", card), "without the word for the source, as with folders"


def test_sets_of_different_methods_make_a_set_that_says_so(runs, run_cli, data, encoder, tmp_path):
    other, out = tmp_path / "b", tmp_path / "merged"
    distill(data[0].with_classes(NAMES[2:]), encoder, method="sfm", steps=1, out=other, progress=False)
    merged, notes = merge([runs / "a", other], out=out)
    assert merged.run.method == "merged"
    assert len(notes) == 2
    assert "merged" in run_cli("info", out).out
    assert run_cli("report", out, "--out", tmp_path / "r.html", "--no-progress").code == 0
    assert run_cli("runs", tmp_path).code == 0


def test_sets_of_different_methods_are_changed_with_the_settings_of_the_first_that_was_distilled(
    runs, data, encoder, tmp_path, monkeypatch
):
    own, chosen = tmp_path / "own", real_set("herding", encoder, data[0].with_classes(NAMES[2:3]))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "scaled_objective.py").write_text(
        "def objective(real, *, factor):\n    return lambda features, labels, step: factor * features.square().sum()\n"
    )
    distill(
        data[0].with_classes(NAMES[2:]), encoder, method="module:scaled_objective:objective",
        method_args={"factor": 2.0}, steps=1, keep_stats=True, real_views=0, out=own, progress=False,
    )  # fmt: skip
    merge([own, runs / "a"], out=tmp_path / "both")
    done, _ = forget(tmp_path / "both", [NAMES[0]], run=out_of(tmp_path), encoder=encoder, redistil=True)
    assert done.class_names == (*NAMES[2:], NAMES[1])
    assert done.run.config.method_args == {"factor": 2.0}
    sets = [KeptSet(chosen, (), "x"), KeptSet.load(runs / "a")]
    orders = [merge_sets(some).distilled.run for some in (sets, sets[::-1])]
    for run in orders:
        assert (run.method, run.baseline, run.config.steps) == ("merged", None, 3)
    assert orders[0].settings() == orders[1].settings()


def test_a_set_that_an_earlier_version_merged_from_several_methods_can_be_continued(
    runs, run_cli, data, encoder, tmp_path
):
    other, out = tmp_path / "b", tmp_path / "merged"
    distill(
        data[0].with_classes(NAMES[2:]), encoder, method="sfm", steps=1, keep_stats=True, real_views=0, out=other,
        progress=False,
    )  # fmt: skip
    merge([runs / "a", other], out=out)
    record = json.loads((out / "run.json").read_text())
    record["config"]["method"] = "merged"
    (out / "run.json").write_text(json.dumps(record))
    assert run_cli("accept", out).code == 0
    assert read_run(out).method == "merged"
    done, _ = forget(out, NAMES[3], run=out_of(tmp_path), encoder=encoder, redistil=True, steps=1)
    assert (done.class_names, done.run.method) == (NAMES[:3], "clp")


def test_real_images_of_several_baselines_are_not_said_to_be_of_one(encoder, data, tmp_path):
    sets = [
        real_set(name, encoder, data[0].with_classes(some))
        for name, some in (("herding", NAMES[:2]), ("random", NAMES[2:]))
    ]
    merged = merge_sets([KeptSet(one, (), str(number)) for number, one in enumerate(sets)]).distilled
    assert merged.run.baseline == merged.run.method == "merged"
    merged.save(tmp_path / "both")
    assert ("method", "none: real images, chosen by herding and random, seed 0") in run_info(tmp_path / "both").rows


# ---------------------------------------------------------------------------------------------------
# rename


def test_renamed_classes_keep_images_sums_and_head(runs, tmp_path):
    named, _ = rename(runs / "all", {"cat": "zebra", "dog": "cat"}, out=tmp_path / "named")
    loaded, before = DistilledSet.load(tmp_path / "named"), DistilledSet.load(runs / "all")
    assert loaded.class_names == named.class_names == ("zebra", "cat", "hen", "owl")
    assert torch.equal(loaded.float_images, before.float_images)
    assert torch.equal(loaded.head.weight, before.head.weight)
    (kept,), (old,) = statistics_of_run(tmp_path / "named"), statistics_of_run(runs / "all")
    assert kept.class_names == loaded.class_names
    assert torch.equal(kept.sums, old.sums)
    assert loaded.run.renamed == (("cat", "zebra"), ("dog", "cat"))
    again, _ = rename(tmp_path / "named", {"zebra": "horse", "cat": "dog"})
    assert again.run.renamed == (("cat", "horse"), ("zebra", "horse"), ("cat", "dog"))
    assert "classes renamed: cat → zebra" in (tmp_path / "named" / "README.md").read_text(encoding="utf-8")


def test_renamed_class_merges_with_the_class_of_that_name_and_goes_with_its_held_out_photos(runs, tmp_path):
    a, b = KeptSet.load(runs / "a"), KeptSet.load(runs / "b")
    called = with_names(replace(a, held_out=("train/cat/cat/1.png", "dog/cat.png", "cat/cat")), {"cat": "hen"})
    assert called.held_out == ("train/hen/cat/1.png", "dog/cat.png", "hen/cat")
    assert any("held-out.txt" in note for note in called.notes)
    merged = merge_sets([called, b], same_classes=True)
    assert merged.distilled.class_names == ("hen", "dog", "owl")
    assert merged.statistics[0].counts.tolist() == [12, 6, 6]
    both = replace(called, distilled=merged.distilled, statistics=merged.statistics)
    assert without_classes(both, ["hen"]).held_out == ("dog/cat.png",)


def test_files_of_statistics_with_a_former_name_still_fit(runs, data, encoder, tmp_path):
    rename(runs / "all", {"cat": "lion", "dog": "cat"}, out=tmp_path / "once")
    rename(tmp_path / "once", {"cat": "wolf"}, out=tmp_path / "named")
    some = class_statistics(encoder, data[0].select([6, 7]).with_classes(["dog"]), progress=False)
    left, _ = forget(tmp_path / "named", "lion", [some], run=out_of(tmp_path), encoder=encoder, steps=1)
    (kept,) = statistics_of_run(tmp_path / "out")
    assert (kept.class_names, kept.counts.tolist()) == (("wolf", "hen", "owl"), [4, 6, 6])
    rest = class_statistics(encoder, data[0].select([8, 9, 10, 11]), progress=False)
    np.testing.assert_allclose(kept.sums[0], rest.sums[1], rtol=1e-9)
    assert left.run.renamed == (("cat", "lion"), ("dog", "wolf"), ("cat", "wolf"))
    # Two classes were once called so.
    of_cats = class_statistics(encoder, data[0].select([0, 1]).with_classes(["cat"]), progress=False)
    with pytest.raises(UserError, match=r"'cat'; .*\(in 'named', where 'cat' was renamed to 'lion' or 'wolf'\)"):
        forget(tmp_path / "named", [], [of_cats], run=replace(out_of(tmp_path), out=tmp_path / "x"), encoder=encoder)


def test_a_former_name_in_another_set_is_warned_of(runs):
    every, a = load_runs([runs / "all", runs / "a"])
    named = replace(with_names(without_classes(every, ["dog"]), {"cat": "lion"}), name="named")
    with pytest.warns(UserWarning, match="class 'lion' of 'named' was called 'cat' before, as a class of 'a' is"):
        merge_sets([a, KeptSet(named.distilled, (), "named")])


def test_photos_under_the_former_name_of_a_class(runs, data, encoder, run_cli, tmp_path):
    rename(runs / "a", {"cat": "lion"}, out=tmp_path / "named")
    said = run_cli("forget", tmp_path / "named", "--class", "cat", "--out", tmp_path / "x").error()
    assert "(in 'named', where 'cat' was renamed to 'lion')" in said
    with pytest.raises(UserError, match="contain the 6 photos of class 'lion' already in 'named'"):
        extend(tmp_path / "named", data[0].with_classes(["cat", "hen"]), encoder, run=out_of(tmp_path))
    with pytest.warns(UserWarning, match="class 'cat' of .* is a new class of 'named', where 'lion' was called so"):
        extend(tmp_path / "named", data[0].select([0, 1]).with_classes(["cat"]), encoder, run=out_of(tmp_path), steps=1)


def test_renaming_needs_the_folder_of_a_run(runs, run_cli, tmp_path):
    for folder, says in (
        (tmp_path / "none", "no such folder"),
        (runs, f"holds no run; give the folder of a run, such as '{runs}"),
    ):
        assert says in run_cli("rename", folder, "cat=lion", "--out", tmp_path / "out").error()


def test_names_on_the_command_line_may_have_a_sign_of_equality(runs, run_cli, tmp_path):
    (tmp_path / "names.txt").write_text("# as the labels are\ncat=a=b\n", encoding="utf-8")
    assert run_cli("rename", runs / "a", f"@{tmp_path / 'names.txt'}", "--out", tmp_path / "once").code == 0
    shown = run_cli("rename", runs / "a", "cat=a=b", "--out", tmp_path / "x", "--json").out
    assert {one["became"] for one in json.loads(shown)["classes"]} == {"as before"}
    assert run_cli("rename", tmp_path / "once", "a=b=c", "--out", tmp_path / "twice").code == 0
    assert DistilledSet.load(tmp_path / "twice").class_names == ("c", "dog")
    assert "cat → c, a=b → c" in run_cli("info", tmp_path / "twice").out
    rename(runs / "a", {"cat": "a", "dog": "a=b"}, out=tmp_path / "both")
    both = run_cli("rename", tmp_path / "both", "a=b=c", "--out", tmp_path / "unclear").error()
    assert "may rename 'a' to 'b=c' or 'a=b' to 'c'; use rename in Python" in both


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cat=dog"], "two classes of 'a' would be called 'dog'"),
        (["cta=cow"], "unknown class 'cta'; did you mean 'cat'"),
        (["cat"], "classes 'cat' is not OLD=NEW"),
        (["cat=cow", "cat=owl"], "classes renames 'cat' twice"),
        (["cat="], "is empty"),
    ],
)
def test_names_that_cannot_be_given_are_one_line(runs, run_cli, tmp_path, words, said):
    assert said in run_cli("rename", runs / "a", *words, "--out", tmp_path / "named").error()
    assert not (tmp_path / "named").exists()


# ---------------------------------------------------------------------------------------------------
# forget


def test_forgotten_class_goes_with_its_images_its_sums_and_its_part_in_the_head(runs, data, encoder, tmp_path):
    left, notes = forget(runs / "all", ["dog"], out=tmp_path / "out")  # a name as distill takes it
    before = DistilledSet.load(runs / "all")
    assert left.class_names == ("cat", "hen", "owl")
    assert torch.equal(left.float_images, before.float_images[[0, 2, 3]])
    (kept,) = statistics_of_run(tmp_path / "out")
    assert kept.counts.tolist() == [6, 6, 6]
    assert left.head.weight.shape[0] == 3
    assert left.run.forgotten == ("dog",)
    assert left.run.images.count == 18
    assert any("May remain" in note and "began as averages of photos" in note for note in notes)
    assert torch.equal(DistilledSet.load(tmp_path / "out").float_images, left.float_images)


def test_possible_traces_are_named_only_if_they_are_possible(runs, encoder, data, tmp_path):
    chosen = real_set("herding", encoder, data[0], features=FeatureStore(tmp_path / "cache", False, False))
    for name, held in (("real", chosen), ("bare", DistilledSet.load(runs / "all"))):
        held.save(tmp_path / name)
        _, notes = forget(tmp_path / name, "dog", out=tmp_path / f"{name}-less")
        assert any("were optimised together with" in note for note in notes) == (name == "bare")
        assert not any("--redistil" in note or "redistil=True" in note for note in notes), "there are no sums to do it"
        assert any("exports and copies of it" in note for note in notes)


def test_head_is_dropped_without_statistics_to_recompute_it(runs):
    kept = KeptSet.load(runs / "all")
    left = without_classes(KeptSet(kept.distilled, (), "x"), ["dog"])
    assert left.distilled.head is None
    assert "head was left out" in left.notes[0]


def test_a_damaged_set_without_a_class_of_its_extension_cannot_be_resumed(runs, data, encoder, tmp_path):
    extend(runs / "a", data[0].with_classes(["hen"]), encoder, run=out_of(tmp_path), steps=1)
    forget(tmp_path / "out", "cat", run=RunConfig(out=tmp_path / "left"))
    next((tmp_path / "left" / "images").rglob("*.png")).write_bytes(b"x")
    with pytest.raises(UserError, match=r"is damaged .*; make it again or restore it"):
        DistilledSet.load(tmp_path / "left")


def test_an_export_has_no_sums_to_change(runs, encoder, run_cli, tmp_path):
    assert run_cli("export", runs / "all", "--out", tmp_path / "small").code == 0
    shown = run_cli("forget", tmp_path / "small", "--class", "dog", "--out", tmp_path / "less")
    assert "Removed: images of 'dog'." in shown.out
    with pytest.raises(UserError, match="exports never have: give the run that it was exported from, or distil it"):
        forget(tmp_path / "small", "dog", run=out_of(tmp_path), encoder=encoder, redistil=True)


def test_removed_photos_leave_the_sums_and_their_classes_are_distilled_again(runs, data, encoder, tmp_path):
    some = data[0].select([0, 1, 6])  # two cats, one dog
    share = class_statistics(encoder, some, progress=False)
    left, notes = forget(runs / "all", [], [share], run=out_of(tmp_path), encoder=encoder)
    before = DistilledSet.load(runs / "all")
    assert torch.equal(left.float_images[2:], before.float_images[2:])
    assert not torch.allclose(left.float_images[:2], before.float_images[:2], atol=0.05)
    (kept,) = statistics_of_run(tmp_path / "out")
    assert kept.counts.tolist() == [4, 5, 6, 6]
    rest = class_statistics(encoder, data[0].select([i for i in range(24) if i not in (0, 1, 6)]), progress=False)
    np.testing.assert_allclose(kept.products, rest.products, rtol=1e-9)
    assert any("'cat', 'dog'" in note for note in notes)


def test_redistilling_makes_all_images_again(runs, encoder, tmp_path):
    left, notes = forget(runs / "all", ["dog"], run=out_of(tmp_path), encoder=encoder, redistil=True)
    before = DistilledSet.load(runs / "all")
    assert not any(torch.allclose(a, b, atol=0.05) for a, b in zip(left.float_images, before.float_images[[0, 2, 3]]))
    assert left.run.forgotten == ("dog",)
    assert left.run.base.dropped == 3
    assert left.run.begun_from == "noise"
    assert not any("optimised together with what was removed" in note for note in notes)


def test_what_cannot_be_forgotten_is_one_line(runs, data, encoder, tmp_path):
    with pytest.raises(UserError, match="unknown class 'dgo'; did you mean 'dog'"):
        forget(runs / "all", ["dgo"], run=out_of(tmp_path))
    with pytest.raises(UserError, match="a set needs two"):
        forget(runs / "a", ["dog"], run=out_of(tmp_path))
    with pytest.raises(UserError, match="nothing to forget"):
        forget(runs / "a", run=out_of(tmp_path))
    with pytest.raises(UserError, match="steps 5 is for images that are distilled again, but none are"):
        forget(runs / "all", ["dog"], run=out_of(tmp_path), steps=5)
    everything = class_statistics(encoder, data[0].with_classes(["dog"]), progress=False)
    with pytest.raises(UserError, match="class 'dog' has no photos left"):
        forget(runs / "all", [], [everything], run=out_of(tmp_path), encoder=encoder)
    for foreign in (range(2), range(5), range(24)):  # photos unknown to the run
        share = class_statistics(encoder, data[1].select(foreign), progress=False)
        with pytest.raises(UserError, match=r"not part of|no photos left"):
            forget(runs / "all", [], [share], run=out_of(tmp_path), encoder=encoder)
    assert not (tmp_path / "out").exists()


def test_removing_an_unnamed_part_is_called_unproven(runs, data, encoder, tmp_path):
    some = class_statistics(encoder, data[0].select([0, 6]), name="somebody", progress=False)
    _, notes = forget(runs / "all", [], [some], run=out_of(tmp_path), encoder=encoder, steps=1)
    said = "Not proven that these photos were in 'all': 'somebody' is not among the parts that 'all' lists."
    assert any(note.startswith(said) for note in notes)


def test_removing_a_named_part_is_not_called_unproven(runs, data, encoder, tmp_path):
    more = RunConfig(out=tmp_path / "more", cache=tmp_path / "cache", progress=False)
    hens = data[0].with_classes(["hen"])
    extend(runs / "a", hens, encoder, run=more, steps=1)
    share = class_statistics(encoder, hens, progress=False)
    _, notes = forget(more.out, ["hen"], [share], run=out_of(tmp_path), encoder=encoder, steps=1)
    assert not any("Not proven" in note for note in notes)


# ---------------------------------------------------------------------------------------------------
# extend


def test_old_images_stay_bit_for_bit_and_new_classes_get_images(runs, data, encoder, tmp_path):
    new = data[0].with_classes(NAMES[2:])
    as_text = RunConfig(out=str(tmp_path / "out"), cache=tmp_path / "cache", progress=False)  # a path as text
    more = extend(runs / "a", new, encoder, run=as_text, test=data[1])
    before = DistilledSet.load(runs / "a")
    assert more.class_names == NAMES
    assert more.labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(more.float_images[:2], before.float_images)
    (kept,), (pooled,) = statistics_of_run(tmp_path / "out"), statistics_of_run(runs / "all")
    np.testing.assert_allclose(kept.sums, pooled.sums, rtol=1e-9)
    np.testing.assert_allclose(more.head.weight, DistilledSet.load(runs / "all").head.weight, rtol=1e-4, atol=1e-5)
    assert (read_run(tmp_path / "out").base.fixed, len(more.run.accuracy) > 0) == (2, True)


def assert_averaged(image, images, encoder):
    """Check that the image is near the mean of all photos of its class, with twice the contrast."""
    photos = [encoder.centre_view(images.load(i)) for i in range(len(images))]
    assert float((image - average_of(photos)).abs().mean()) < 0.05


def test_new_images_start_from_photos_if_the_old_ones_did(runs, data, encoder, tmp_path):
    new = data[0].with_classes(NAMES[2:])
    more = extend(runs / "a", new, encoder, run=out_of(tmp_path), steps=1)
    assert_averaged(more.float_images[2], data[0].with_classes(["hen"]), encoder)


@pytest.mark.parametrize("init", ["blend", "real"])
def test_new_images_start_as_the_old_ones_did(data, encoder, tmp_path, init):
    first = RunConfig(out=tmp_path / "first", cache=tmp_path / "cache", progress=False)
    old = data[0].with_classes(NAMES[:2])
    distill(old, encoder, canvas=CanvasConfig(init=init), steps=1, keep_stats=True, run=first)
    new = data[0].with_classes(["hen"])
    more = extend(first.out, new, encoder, run=out_of(tmp_path), steps=1)
    photos = [encoder.centre_view(new.load(i)) for i in range(len(new))]
    starts = [blend_of(photos)] if init == "blend" else photos
    assert (more.run.begun_from, more.class_names) == (init, NAMES[:3])
    assert min(float((more.float_images[2] - start).abs().mean()) for start in starts) < 0.05


def test_images_of_a_second_extension_start_from_photos_too(runs, data, encoder, tmp_path):
    first = RunConfig(out=tmp_path / "first", cache=tmp_path / "cache", progress=False)
    assert extend(runs / "a", data[0].with_classes(["hen"]), encoder, run=first, steps=1).run.begun_from == "average"
    new = data[0].with_classes(["owl"])
    more = extend(first.out, new, encoder, run=out_of(tmp_path), steps=1)
    assert_averaged(more.float_images[3], new, encoder)


def test_refining_changes_old_images_too(runs, data, encoder, tmp_path):
    out = str(tmp_path / "out")
    more = extend(runs / "a", data[0].with_classes(NAMES[2:]), encoder, out=out, progress=False, refine=True)
    assert DistilledSet.load(out).class_names == more.class_names
    with pytest.raises(UserError, match="option of extend 'outt'"):
        extend(runs / "a", data[0].with_classes(NAMES[2:]), encoder, outt=out)
    before = DistilledSet.load(runs / "a")
    change = (more.float_images[:2] - before.float_images).abs().mean()
    assert 1e-4 < float(change) < 0.2
    assert more.run.base.refined == 2


def test_more_photos_of_a_class_change_only_the_images_of_that_class(runs, data, encoder, tmp_path):
    more = extend(runs / "a", data[1].with_classes(["dog"]), encoder, run=out_of(tmp_path))
    before = DistilledSet.load(runs / "a")
    assert more.class_names == NAMES[:2]
    assert torch.equal(more.float_images[0], before.float_images[0])
    assert not torch.equal(more.float_images[1], before.float_images[1])
    assert statistics_of_run(tmp_path / "out")[0].counts.tolist() == [6, 12]


@pytest.mark.slow
def test_new_images_complement_the_old_ones(runs, data, encoder, tmp_path):
    """The objective includes the fixed images: it is the loss of all images, not only of the new ones."""
    new = data[0].with_classes(NAMES[2:])
    few = extend(runs / "a", new, encoder, run=out_of(tmp_path), steps=40)
    assert few.run.losses[-1] < few.run.losses[0]
    bank = extract_features(encoder, data[1].with_classes(NAMES), progress=False)
    views = FeatureStore(tmp_path / "cache", progress=False).synthetic_views(
        encoder, few.images, views=10, augment=few.run.config.augment, seed=0
    )
    assert LinearProbe().fit_views(views, few.labels).score(bank.centre, bank.labels) > 0.5


def test_objective_sees_views_of_the_fixed_images_beside_those_that_change(encoder, tmp_path):
    fixed, changing = torch.rand(2, 3, 32, 32), torch.rand(1, 3, 32, 32)
    base = Base("x", fixed, torch.tensor([0, 2]), torch.tensor([1]), changing)
    config = DistillConfig(views=3).resolve()
    base.prepare([encoder], FeatureStore(tmp_path / "cache", progress=False), config)
    seen = []

    def objective(features, labels, step):
        seen.append((len(features), labels.tolist()))
        return features.sum()

    joined = base.beside_fixed(objective, encoder, 0, config)
    features = torch.zeros(3, encoder.dim)
    first, again, other = (joined(features, torch.tensor([1, 1, 1]), step) for step in (0, 0, 1))
    assert seen[0] == (9, [0, 2, 0, 2, 0, 2, 1, 1, 1])
    assert first == again != other


@pytest.mark.slow
def test_stopped_extension_resumes_to_the_same_result(runs, data, encoder, tmp_path):
    from probedistill import Callback, Interrupted

    new = data[0].with_classes(NAMES[2:])
    whole = extend(runs / "a", new, encoder, run=out_of(tmp_path / "whole"), steps=6)

    class Stop(Callback):
        def on_step(self, step):
            if step.step == 3:
                import os
                import signal

                os.kill(os.getpid(), signal.SIGINT)

    again = out_of(tmp_path / "again", resume=True, callback=[])
    from probedistill.distillation import change

    real = change.distill
    try:
        change.distill = lambda *a, **k: real(*a, **k | {"callbacks": [Stop()]})
        with pytest.raises(Interrupted):
            extend(runs / "a", new, encoder, run=again, steps=6)
    finally:
        change.distill = real
    resumed = extend(runs / "a", new, encoder, run=again, steps=6)
    assert torch.equal(resumed.float_images, whole.float_images)


def test_impossible_extensions_are_one_line(runs, data, encoder, tmp_path):
    distill(data[0], encoder, steps=1, out=tmp_path / "bare", progress=False)
    with pytest.raises(UserError, match="has no statistics"):
        extend(tmp_path / "bare", data[1], encoder, run=out_of(tmp_path))
    with pytest.raises(UserError, match="are of encoder"):
        extend(runs / "a", data[1], load_encoder(TINY, encoder_args={"seed": 1}), run=out_of(tmp_path))
    with pytest.raises(UserError, match="encoders for a run that was made with 1"):
        extend(runs / "a", data[1], [encoder, encoder], run=out_of(tmp_path))
    with pytest.raises(UserError, match=r"are already in 'a'; give only new photos"):
        extend(runs / "a", data[0].with_classes(NAMES[:2]), encoder, run=out_of(tmp_path))
    with pytest.raises(UserError, match="steps 0 must be at least 1"):
        extend(runs / "a", data[0].with_classes(NAMES[2:]), encoder, run=out_of(tmp_path), steps=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("says", ["nothing_here", "evaluate_every -1"])
def test_options_of_an_extension_are_checked_before_features_are_computed(runs, data, encoder, tmp_path, says):
    options = {"callback": ["module:nothing_here:make"]} if says == "nothing_here" else {"evaluate_every": -1}
    with pytest.raises(UserError, match=says):
        extend(runs / "a", data[0].with_classes(NAMES[2:]), encoder, run=out_of(tmp_path, **options))
    assert not (tmp_path / "cache").exists()


def test_the_folder_of_an_extension_is_checked_before_features_are_computed(runs, data, encoder, tmp_path):
    shutil.copytree(runs / "b", tmp_path / "out")
    for options, says in (({}, "holds a finished run"), ({"resume": True, "overwrite": True}, "cannot be combined")):
        with pytest.raises(UserError, match=says):
            extend(runs / "a", data[0].with_classes(NAMES[2:]), encoder, run=out_of(tmp_path, **options))
    assert not (tmp_path / "cache").exists()


def test_an_extension_is_not_written_among_its_photos(runs, encoder, tmp_path):
    photos = make_image_folder(tmp_path / "new", classes=["hen", "owl"], per_class=4, size=36, splits=())
    with pytest.raises(UserError, match=r"inside the images .* and would count as a class"):
        extend(runs / "a", load_splits(f"folder:{photos}")[0], encoder, out=photos / "more", cache=tmp_path / "cache")
    assert not (photos / "more").exists()
    with pytest.raises(UserError, match="images 'folder:x' is an image spec"):
        extend(runs / "a", "folder:x", encoder)


def test_an_extension_calls_its_callbacks(runs, data, encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "told_of.py").write_text(
        "from probedistill import Callback\nsteps = []\n"
        "class Listener(Callback):\n    def on_step(self, step):\n        steps.append(step.step)\n"
    )
    run = out_of(tmp_path, callback=["module:told_of:Listener"])
    extend(runs / "a", data[0].with_classes(NAMES[2:]), encoder, run=run, steps=2)
    assert sys.modules.pop("told_of").steps == [1, 2]


def test_run_that_is_extended_is_never_overwritten(runs, data, encoder, tmp_path):
    """If it stopped half-way, the old set would be lost, and its photos are gone."""
    (tmp_path / "link").symlink_to(runs / "a")
    before = DistilledSet.load(runs / "a").float_images
    for out in (runs / "a", tmp_path / "link"):
        run = RunConfig(out=out, overwrite=True, progress=False)
        with pytest.raises(UserError, match="is the run that the new set is made from; give another folder"):
            extend(runs / "a", data[0].with_classes(NAMES[2:]), encoder, run=run)
        with pytest.raises(UserError, match="is the run that the new set is made from; give another folder"):
            forget(runs / "a", ["dog"], run=run, redistil=True, encoder=encoder)
    assert torch.equal(DistilledSet.load(runs / "a").float_images, before)


def test_photos_of_the_set_are_refused_among_other_photos(runs, data, encoder, tmp_path):
    """Together with other classes or photos, the images have another fingerprint; sums reveal them nevertheless."""
    for images, count in ((data[0], 6), (data[0].with_classes(["dog", "owl"]), 6)):
        with pytest.raises(UserError, match=rf"contain the {count} photos of class '(cat|dog)' already in 'a'"):
            extend(runs / "a", images, encoder, run=out_of(tmp_path))
    few = data[0].select([0, 1, 2, 6, 7, 8])
    small = RunConfig(out=tmp_path / "few", cache=tmp_path / "cache", progress=False)
    distill(few.with_classes(NAMES[:2]), encoder, steps=1, keep_stats=True, run=small)
    with pytest.raises(UserError, match="contain the 3 photos of class 'cat' already in 'few'"):
        extend(small.out, data[0].with_classes(NAMES[:2]), encoder, run=out_of(tmp_path))
    assert not (tmp_path / "out").exists()


def test_some_of_the_old_photos_again_are_warned_of(runs, data, encoder, tmp_path):
    with pytest.warns(UserWarning, match="also made from 'folder:.*': photos of class 'cat' that it has"):
        extend(runs / "a", data[0].select([1, 2]).with_classes(["cat"]), encoder, run=out_of(tmp_path), steps=1)


def test_forgotten_class_may_come_back(runs, data, encoder, tmp_path):
    first, second = (RunConfig(out=tmp_path / n, cache=tmp_path / "cache", progress=False) for n in ("one", "two"))
    hens = data[0].with_classes(["hen"])
    extend(runs / "a", hens, encoder, run=first, steps=1)
    forget(first.out, ["hen"], run=second)
    extend(second.out, hens, encoder, run=out_of(tmp_path), steps=1)
    assert statistics_of_run(tmp_path / "out")[0].counts.tolist() == [6, 6, 6]
    with pytest.raises(UserError, match="are already in 'out'"):
        extend(tmp_path / "out", hens, encoder, run=RunConfig(out=tmp_path / "no", progress=False))


# ---------------------------------------------------------------------------------------------------
# Files next to the images


@pytest.mark.parametrize("redistil", [False, True])
def test_the_licence_stays_and_no_file_of_the_forgotten_class_is_named(runs, encoder, data, tmp_path, redistil):
    cc0, names = (
        Licence("cc0-1.0", "CC0, by me."),
        ["cat/1.png", "train/cat/dog/2.png", "dog/ann-smith.png", "train/dog/ann-smith.png"],
    )
    (statistics,) = statistics_of_run(runs / "all")
    held = DistilledSet.load(runs / "all")
    held = replace(held, run=replace(held.run, skipped=("dog/bob-jones.jpg (cut short)",)))
    write_set(tmp_path / "before", held, options={}, statistics=[statistics], held_out=names, licence=cc0)
    forget(tmp_path / "before", "dog", run=out_of(tmp_path), encoder=encoder, redistil=redistil)
    left = tmp_path / "out"
    assert licence_of(left) == cc0
    assert (left / "held-out.txt").read_text() == "cat/1.png\ntrain/cat/dog/2.png\n"
    assert not any(name in file.read_bytes() for file in left.rglob("*.*") for name in (b"ann-smith", b"bob-jones"))


def test_names_of_held_out_photos_stay_if_classes_come(runs, encoder, run_cli, tmp_path):
    base, hens = (
        tmp_path / "base",
        make_image_folder(tmp_path / "new", classes=["hen"], per_class=6, size=36, splits=("train",)),
    )
    (statistics,) = statistics_of_run(runs / "a")
    write_set(base, DistilledSet.load(runs / "a"), options={}, statistics=[statistics],
              held_out=["cat/1.png", "dog/2.png"])  # fmt: skip
    options = ("--images", f"folder:{hens}", "--steps", 1, "--cache", tmp_path / "cache")
    assert run_cli("extend", base, "--encoder", TINY, *options, "--out", tmp_path / "more").code == 0
    held_out = held_out_in(tmp_path / "more")
    assert held_out[:2] == ["cat/1.png", "dog/2.png"]
    assert [name.startswith("train/hen/") for name in held_out[2:]] == [True]
    assert "the images listed in [held-out.txt]" in (tmp_path / "more" / "README.md").read_text(encoding="utf-8")
    more, b = KeptSet.load(tmp_path / "more"), replace(KeptSet.load(runs / "b"), held_out=("hen/9.png", "owl/1.png"))
    merged = merge_sets([more, b], same_classes=True)
    assert merged.held_out == ("cat/1.png", "dog/2.png", "owl/1.png")  # not the hens: the other set may have used them


def test_a_merged_set_has_the_licence_that_all_have(runs, tmp_path):
    cc0 = Licence("cc0-1.0", "CC0, by me.")
    for name in ("a", "b"):
        DistilledSet.load(runs / name).save(tmp_path / name, licence=cc0)
    merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "same")
    merge([tmp_path / "a", runs / "b"], out=tmp_path / "other")
    assert licence_of(tmp_path / "same") == cc0
    assert licence_of(tmp_path / "other") == Licence()


# ---------------------------------------------------------------------------------------------------
# The command line


@pytest.mark.parametrize("text", ["cat\nowl\n", "\ufeffcat\r\n# no\r\n\r\nowl\r\n"])
def test_forgotten_classes_may_stand_in_a_file(runs, run_cli, tmp_path, text):
    (tmp_path / "gone.txt").write_text(text, encoding="utf-8", newline="")
    outcome = run_cli("forget", runs / "all", "--classes", f"@{tmp_path / 'gone.txt'}", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert DistilledSet.load(tmp_path / "out").class_names == ("dog", "hen")
    assert "no such file" in run_cli("forget", runs / "all", "--class", "@no.txt", "--out", tmp_path / "no").error()


@pytest.mark.slow
def test_command_line_over_time(distil_cli, run_cli, photos, tmp_path):
    run, more = tmp_path / "run", tmp_path / "more"
    assert distil_cli("--out", run, "--keep-stats", "--no-progress").code == 0
    new = make_image_folder(tmp_path / "new", classes=("hen", "owl"), per_class=4, size=40, splits=("train",))
    added = run_cli(
        "extend", run, "--images", f"folder:{new}", "--all-images", "--encoder", TINY, "--out", more, "--no-progress"
    )
    assert added.code == 0, added.err
    assert "4 images of 4 classes" in added.out
    again = ["--images", f"folder:{new}", "--all-images", "--encoder", TINY, "--steps", 1, "--no-progress"]
    record = json.loads(run_cli("extend", run, *again, "--out", tmp_path / "json", "--json").out)
    assert {one["name"]: one["became"] for one in record["classes"]} == {
        "cat": "as before", "dog": "as before", "hen": "new", "owl": "new",
    }  # fmt: skip
    twice = run_cli("extend", tmp_path / "json", *again, "--classes", "owl", "--out", tmp_path / "no")
    assert "contain the 4 photos of class 'owl' already in 'json'; give only" in twice.error()
    left = run_cli("forget", more, "--class", "cat", "--out", tmp_path / "left", "--json")
    assert left.code == 0, left.err
    record = json.loads(left.out)
    assert "May remain" in " ".join(record["notes"])
    assert record["classes"][-1] == {"name": "cat", "images": 0, "photos": 0, "became": "gone"}
    assert json.loads((tmp_path / "left/run.json").read_text())["forgotten"] == ["cat"]
    share, gone = tmp_path / "owl.stats", tmp_path / "gone"
    new_owls = ["--images", f"folder:{new}", "--all-images", "--classes", "owl", "--encoder", TINY]
    assert run_cli("stats", *new_owls, "--out", share).code == 0
    again = ["--redistil", "--steps", 2, "--encoder", TINY, "--no-progress"]
    taken = run_cli("forget", more, "--class", "owl", "--stats", share, "--out", gone, *again)
    assert taken.code == 0, taken.err
    assert "out is missing" in run_cli("extend", run, "--images", f"folder:{new}").error()
    assert "already exists" in run_cli("forget", more, "--class", "cat", "--out", run).error()
    assert "unknown class 'x'" in run_cli("forget", more, "--class", "x", "--out", tmp_path / "no").error()
    every = ["cat", "dog", "hen", "owl"]
    assert "no class of 'more' would be left" in run_cli("forget", more, "--class", *every, "--out", run).error()
    for command in (["extend", "--images", f"folder:{new}"], ["forget", "--stats", share]):
        error = run_cli(command[0], tmp_path / "nowhere", *command[1:], "--out", tmp_path / "no").error()
        assert "no such folder" in error


def test_of_many_classes_that_became_the_same_only_the_first_have_a_line(run_cli, tmp_path):
    folder = make_image_folder(
        tmp_path / "photos", classes=[f"c{number:02}" for number in range(60)], per_class=1, size=8, splits=()
    )
    assert run_cli("import", folder, "--out", tmp_path / "set").code == 0
    (tmp_path / "removed.txt").write_text("\n".join(f"c{number}" for number in range(35, 60)))
    command = ("forget", tmp_path / "set", "--classes", f"@{tmp_path / 'removed.txt'}", "--out")
    shown = run_cli(*command, tmp_path / "less").out
    lines = [re.split(r"\s*│\s*", line.strip("│ ")) for line in shown.splitlines() if line.startswith("│")]
    assert lines[:20] == [[f"c{number:02}", "as before", "1", "–"] for number in range(20)]
    assert lines[20:40] == [[f"c{number}", "gone", "0", "–"] for number in range(35, 55)]
    assert lines[40:] == [["15 more classes", "as before", "15", "–"], ["5 more classes", "gone", "0", "–"]]
    assert "images of 'c35', 'c36', 'c37'" in shown
    assert "'c44' and 15 more." in shown
    found = json.loads(run_cli("--json", *command, tmp_path / "again").out.splitlines()[0])
    assert len(found["classes"]) == 60
