"""All runs of a folder in one table."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest

from conftest import TINY
from probedistill import UserError, load_evaluation
from probedistill.analysis.runs import RunGroup, Runs, collect_runs
from probedistill.cli import main
from probedistill.store.run_record import read_run, write_run

SCORED = ["--probes", "ridge", "--seeds", 1, "--views", 0, "--baselines", "centroids"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, photos):
    """Three seeds of one setting and one of another; all but the last are scored."""
    folder = tmp_path_factory.mktemp("several") / "runs"
    common = ["--images", f"folder:{photos}", "--encoder", TINY, "-q"]
    for name, lr, seed in (("a0", 0.02, 0), ("a1", 0.02, 1), ("deep/a2", 0.02, 2), ("b", 0.05, 0)):
        out = folder / name
        assert main([*map(str, ["distill", *common, "--steps", 2, "--lr", lr, "--seed", seed, "--out", out])]) == 0
        if name != "b":
            assert main([*map(str, ["evaluate", out, *common, *SCORED])]) == 0
    return folder


@pytest.mark.slow
def test_runs_that_differ_only_in_their_seed_are_one_row(made):
    found = collect_runs(made)
    first, second = sorted(found.groups, key=lambda group: -len(group.seeds))
    assert (first.seeds, second.seeds) == ((0, 1, 2), (0,))
    assert first.folders == ("a0", "a1", "deep/a2")
    assert first.settings == {"lr": "0.02"}
    assert second.settings == {"lr": "0.05"}
    (accuracy,) = first.accuracies
    top1 = []
    for name in first.folders:
        rows = json.loads(next((made / name).glob("evaluation-*.json")).read_text())["rows"]
        top1.append(rows[0]["top1"])
    assert accuracy.top1 == tuple(top1)
    assert accuracy.mean == pytest.approx(sum(top1) / 3)
    assert "lr" in found.tables()[0].columns
    (figure,) = found.figures()
    assert figure.drawing.series["ridge"][0] == pytest.approx(100 * accuracy.mean)
    assert figure.drawing.categories == ("a0 …", "b")
    assert any("No scores: b" in sentence for sentence in found.findings())


def test_a_spread_is_spoken_of_only_if_there_is_one(made, tmp_path):
    def says(*names):
        for name in names:
            shutil.copytree(made / name, tmp_path / "-".join(names) / name)
        return " ".join(collect_runs(tmp_path / "-".join(names)).findings())

    assert "distillation seeds" not in says("b"), "no score"
    assert "Some rows are of fewer than 3 distillation seeds; distil with more." in (alone := says("a0"))
    assert "±" not in alone
    assert "± is over distillation seeds. Some rows are of fewer" in says("a0", "a1")


def test_equal_weights_of_encoders_are_no_setting(made):
    about = read_run(made / "a0")

    def weighted(*weights: float) -> dict[str, object]:
        return replace(about, config=replace(about.config, encoder_weights=list(weights))).settings()

    assert weighted(1.0, 1.0) == weighted() == about.settings()
    assert weighted(1.0, 0.5)["encoder_weights"] == [1.0, 0.5]


def test_a_repeated_seed_counts_once(run_cli, made, tmp_path):
    """A copy of a run is not a second sample: ± over both would be too small."""
    runs = shutil.copytree(made, tmp_path / "runs")
    shutil.copytree(runs / "a0", runs / "copy of a0")
    before, after = ({g.settings["lr"]: g for g in collect_runs(folder).groups}["0.02"] for folder in (made, runs))
    assert after.seeds == (0, 0, 1, 2)
    assert after.repeats == [["a0", "copy of a0"]]
    (was,), (now,) = before.accuracies, after.accuracies
    assert now.top1 == (was.top1[0], *was.top1)
    assert (now.mean, now.std) == (was.mean, was.std)
    out = run_cli("runs", runs).out
    assert "│ 0 1 2 │" in out
    assert "a0, copy of a0 have the same seed and count as one run." in out


def test_runs_with_equal_names_but_other_photos_or_encoders_are_separate_rows(made, tmp_path):
    """A folder keeps its name when photos are added, and a model with another checkpoint or preparation."""
    for name, images, weights in (("a0", "1", "3"), ("a1", "2", "3"), ("a2", "1", "4")):
        shutil.copytree(made / "a0", tmp_path / name)
        about = read_run(made / "a0")
        images, encoder = (
            replace(one, fingerprint=64 * digit)
            for one, digit in ((about.images, images), (about.encoders[0], weights))
        )
        write_run(tmp_path / name, replace(about, images=images, encoders=(encoder,)))
    (table,) = collect_runs(tmp_path).tables()
    assert [tuple(row[name].split(", ")[-1] for name in ("images", "encoders")) for row in table.records()] == [
        ("photos 11111111", "fingerprint 33333333"),
        ("photos 22222222", "fingerprint 33333333"),
        ("photos 11111111", "fingerprint 44444444"),
    ]


def test_sets_of_other_classes_are_distinguished_only_by_the_classes(made, tmp_path):
    """Photos of other classes, as after a class is removed, have another fingerprint, which adds no information."""
    for name, digit, classes in (("a", "1", ("cat", "dog")), ("b", "2", ("cat", "emu"))):
        shutil.copytree(made / "a0", tmp_path / name)
        about = read_run(made / "a0")
        images = replace(about.images, fingerprint=64 * digit)
        write_run(tmp_path / name, replace(about, images=images, class_names=classes))
    (table,) = collect_runs(tmp_path).tables()
    assert "images" not in table.columns
    assert [row["classes"] for row in table.records()] == ["2: cat, dog", "2: cat, emu"]


def test_rows_scored_differently_are_not_silently_compared(made, photos, tmp_path):
    runs = shutil.copytree(made, tmp_path / "runs")
    other = [*SCORED[:-3], 1, *SCORED[-2:]]  # one view
    assert main([*map(str, ["evaluate", runs / "b", "--images", f"folder:{photos}", "--encoder", TINY, *other])]) == 0
    with pytest.warns(UserWarning, match="scores in .*b.* different views than those of 'a0', so their rows cannot be"):
        found = collect_runs(runs)
    assert all(group.accuracies for group in found.groups)


def test_the_command(run_cli, made, tmp_path):
    outcome = run_cli("runs", made, "--csv", tmp_path / "runs.csv")
    assert outcome.code == 0, outcome.err
    assert "0 1 2" in outcome.out
    lines = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert [line["run"] for line in lines] == ["a0", "a1", "deep/a2", "b"]
    assert [line["lr"] for line in lines] == ["0.02"] * 3 + ["0.05"]
    assert lines[-1]["top1"] == ""
    shown = json.loads(run_cli("runs", made, "--json").out)
    (ridge,) = shown["groups"][0]["accuracies"]
    assert ridge["mean"] == pytest.approx(statistics.fmean(ridge["top1"]))
    assert ridge["std"] == pytest.approx(statistics.stdev(ridge["top1"]))


def test_the_table_waits_for_no_library_that_computes(made):
    """PyTorch and scikit-learn take seconds to import, and the table only reads scores."""
    heavy = ["torch", "sklearn", "scipy", "pandas", "matplotlib"]
    script = f"import sys; sys.modules.update(dict.fromkeys({heavy}))\nimport probedistill.cli as cli\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}sys.exit(cli.main(['runs', {str(made)!r}]))"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "ridge" in done.stdout


def test_json_of_scores_is_what_their_file_contains(run_cli, made):
    """The accuracies of the table, too, not only those of single seeds."""
    (path,) = (made / "a0").glob("evaluation-*.json")
    common = ["--config", made / "a0" / "config.yaml", "-q", "--json"]
    shown = json.loads(run_cli("evaluate", made / "a0", *common, *SCORED).out)
    assert {"kind": "evaluation", **shown}.items() <= json.loads(path.read_text("utf-8")).items()
    assert shown["rows"][0]["top1"] == load_evaluation(path)["distilled"].top1


def test_real_images_add_no_columns_of_options(run_cli, made, photos, tmp_path):
    """A baseline has no learning rate: options that only distillation has are not shown for it."""
    out = made / "herding"
    saved = run_cli("baseline", "--images", f"folder:{photos}", "--encoder", TINY, "--save", "herding", "--out", out)
    assert saved.code == 0, saved.err
    try:
        found = {group.folders[0]: group.settings for group in collect_runs(made).groups}
    finally:
        shutil.rmtree(out)
    assert found["herding"] == {"method": "herding"}
    assert found["b"] == {"method": "clp", "lr": "0.05"}


def test_runs_of_other_classes_are_separate_rows(made, tmp_path):
    for name, class_names in (("one", ("cat", "dog")), ("other", ("cat", "owl"))):
        shutil.copytree(made / "a0", tmp_path / name)
        write_run(tmp_path / name, replace(read_run(made / "a0"), class_names=class_names))
    found = {group.folders: group.settings for group in collect_runs(tmp_path).groups}
    assert found == {("one",): {"classes": "2: cat, dog"}, ("other",): {"classes": "2: cat, owl"}}


def test_runs_in_a_bin_do_not_count_and_linked_runs_do(made, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(made / "a0", folder / "a0")
    for thrown_away in ("#recycle", "@eaDir", ".Trash-0"):
        shutil.copytree(made / "a1", folder / thrown_away / "a1")
    (folder / "deeper").symlink_to(made / "deep" / "a2")
    (folder / "latest").symlink_to("a0")
    assert [group.folders for group in collect_runs(folder).groups] == [("a0", "deeper")]


def test_scores_made_in_different_ways_are_not_averaged(made, photos, tmp_path):
    runs = shutil.copytree(made, tmp_path / "runs")
    next((runs / "a1").glob("evaluation-*.json")).unlink()
    other = [*SCORED[:-3], 1, *SCORED[-2:]]  # one view
    assert main([*map(str, ["evaluate", runs / "a1", "--images", f"folder:{photos}", "--encoder", TINY, *other])]) == 0
    with pytest.warns(UserWarning, match="leaving out the scores in .*a1.* different views than those of 'a0'"):
        found = collect_runs(runs)
    (accuracy,) = (one for group in found.groups for one in group.accuracies)
    assert accuracy.folders == ("a0", "deep/a2")
    assert any("No scores: a1, b" in sentence for sentence in found.findings())


def test_epochs_are_compared_between_runs_whose_probes_have_epochs(made, tmp_path):
    runs = shutil.copytree(made, tmp_path / "runs")
    for name, epochs in {"a1": 7, "deep/a2": 8}.items():
        (path,) = (runs / name).glob("evaluation-*.json")
        scores = load_evaluation(path)
        path.unlink()
        rows = (*scores.rows, *(replace(row, probe="sgd") for row in scores.rows))
        protocol = replace(scores.context.protocol, probes=["ridge", "sgd"], epochs=epochs)
        replace(scores, rows=rows, context=replace(scores.context, protocol=protocol)).save(path)
    with pytest.warns(UserWarning, match="leaving out the scores in .*a2.* different epochs than those of 'a1'"):
        found = collect_runs(runs)
    accuracies = [one for group in found.groups for one in group.accuracies]
    assert {one.probe: one.folders for one in accuracies} == {"ridge": ("a0", "a1"), "sgd": ("a1",)}


def test_folders_without_runs(run_cli, tmp_path):
    assert "no such folder" in run_cli("runs", tmp_path / "nothing").error()
    assert "contains no runs" in run_cli("runs", tmp_path).error()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "run.json").write_text("{}")
    with pytest.warns(UserWarning, match="it is left out"), pytest.raises(UserError, match="contains no runs"):
        collect_runs(tmp_path)


def test_options_of_other_methods_do_not_count_as_differences(photos, tmp_path, run_cli):
    for method in ("clp", "sfm"):
        made = run_cli("distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 1, "--method", method,
                       "--out", tmp_path / method)  # fmt: skip
        assert made.code == 0, made.err
    result = run_cli("runs", tmp_path)
    assert result.code == 0, result.err
    assert "clp" in result.out
    assert "ridge" not in result.out
    assert "temperature" not in result.out


@pytest.mark.slow
def test_an_option_that_only_one_run_of_a_method_has_is_a_difference(photos, tmp_path):
    """A record leaves out unused options, so two rows could look the same, with no setting to tell them apart."""
    common = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 1, "-q"]
    for name, more in (("plain", []), ("head", ["--keep-head"])):
        assert main([*map(str, [*common, "--out", tmp_path / name, *more])]) == 0
    groups = {group.folders[0]: group.settings for group in collect_runs(tmp_path).groups}
    assert groups == {"plain": {}, "head": {"keep_head": "True"}}


@pytest.mark.parametrize("count", [6, 7])
def test_of_many_settings_those_that_change_together_have_one_column(count):
    """A preset changes a dozen settings at once; a column for each would be wider than any terminal."""
    many = [f"setting_{i}" for i in range(count)]
    groups = tuple(
        RunGroup((folder,), (0,), True, {"preset": preset, "lr": lr, **dict.fromkeys(many, preset)}, (), 1.0)
        for folder, preset, lr in (("a", "paper", "1"), ("b", "default", "1"), ("c", "default", "2"))
    )
    runs = Runs("runs", groups)
    names, said = runs.tables()[0].columns, " ".join(runs.findings())
    assert {"preset", "lr"} <= set(names)
    assert (many[0] in names) == (count == 6)
    assert (f"Differ as preset does (--csv has them): {', '.join(many)}." in said) == (count == 7)
    assert many[-1] in runs.csv()


def test_no_options_are_shown_for_sets_that_were_made_elsewhere(made, run_cli, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(made / "b", runs / "b")
    assert run_cli("import", made / "b" / "images", "--out", runs / "theirs").code == 0
    found = {group.folders[0]: group.settings for group in collect_runs(runs).groups}
    assert found["theirs"]["method"] == "unknown"
    assert [row["seeds"] for row in collect_runs(runs).tables()[0].records()] == ["0", "–"]
    assert not {"steps", "lr", "canvas.init"} & {name for settings in found.values() for name in settings}
    page = tmp_path / "report.html"
    assert run_cli("report", runs / "b", runs / "theirs", "--out", page).code == 0
    assert "unknown, preset" not in page.read_text()


def test_a_continued_run_says_how_its_images_started(made, tmp_path):
    """Its canvas is filled with the old images and photos, although the option of the canvas is noise."""
    shutil.copytree(made / "b", tmp_path / "first")
    run = read_run(made / "b")
    later = replace(run, config=replace(run.config, canvas=replace(run.config.canvas, init="noise")))
    assert (run.begun_from, later.settings()["canvas.init"]) == ("average", "average")
    shutil.copytree(made / "b", tmp_path / "later")
    write_run(tmp_path / "later", later)
    assert [group.settings for group in collect_runs(tmp_path).groups] == [{}]
