"""Folders as users have them: classes with names of splits, links, system folders, awkward names."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import unicodedata
import warnings
import zipfile

import pytest

from helpers_images import class_image, make_image_folder
from probedistill import ImagesConfig, UserError, load_images, load_splits
from probedistill.images.splits import load_training


def classes_of(folder, **options):
    return load_images(f"folder:{folder}", **options).class_names


RUN = '{\n  "kind": "run"}'


def tree(root, *folders, count=4):
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            class_image(number, len(folders), size=4).save(root / folder / f"{i:02d}.png")
    return root


# ---- a class that is called like a split


@pytest.mark.parametrize("name", ["train", "Train", "val", "testing"])
@pytest.mark.parametrize("inner", [("freight", "passenger"), ("freight",)])
def test_a_class_named_like_a_split_does_not_hide_others(tmp_path, name, inner):
    tree(tmp_path, "bus", "car/red", *(f"{name}/{kind}" for kind in inner))
    with pytest.raises(UserError, match=rf"'{name}', next to 'bus', 'car', may be a split or a class; .*split='all'"):
        load_images(f"folder:{tmp_path}")
    assert classes_of(tmp_path, split="all") == tuple(sorted(["bus", "car", name]))
    assert len(load_images(f"folder:{tmp_path}", split="all")) == 4 * (2 + len(inner))
    if len(inner) > 1:
        with pytest.warns(UserWarning, match=f"ignoring 'bus', 'car' next to the split folders {name}"):
            assert classes_of(tmp_path, split=name) == ("freight", "passenger")


def test_train_and_training_are_two_classes_then(tmp_path):
    tree(tmp_path, "bus", "train/a", "training/a")
    with pytest.raises(UserError, match="may be a split or a class"):
        load_images(f"folder:{tmp_path}")


def test_splits_that_share_classes_are_splits_and_other_folders_are_reported(tmp_path):
    make_image_folder(tmp_path, size=4)
    tree(tmp_path, "unlabelled")
    with pytest.warns(UserWarning, match="ignoring 'unlabelled' next to the split folders test, train"):
        train, test = load_splits(f"folder:{tmp_path}")
    assert train.class_names == test.class_names == ("cat", "dog")


@pytest.mark.parametrize("name", ["dev", "eval", "Evaluation", "valid"])
def test_every_split_that_datasets_knows_is_one_in_folders(tmp_path, name):
    tree(tmp_path, *(f"{split}/{kind}" for split in ("train", name) for kind in ("cat", "dog")))
    assert load_splits(f"folder:{tmp_path}")[1].split == name
    tree(tmp_path, "test/cat", "test/dog")
    assert load_splits(f"folder:{tmp_path}")[1].split == "test"
    chosen = load_splits(ImagesConfig(images=f"folder:{tmp_path}", test_split=name.lower()))
    assert chosen[1].split == name


@pytest.mark.parametrize("names", [("trainset", "testset"), ("TrainData", "ValData"), ("train.v1", "testimages")])
def test_names_that_contain_the_name_of_a_split_are_not_two_classes(tmp_path, names):
    tree(tmp_path, *(f"{split}/{kind}" for split in names for kind in ("cat", "dog")))
    with pytest.raises(UserError, match="look like splits; rename them to train and test"):
        load_splits(f"folder:{tmp_path}")


@pytest.mark.parametrize("way", ["photos/cat/..", "photos/cat/small/../..", "photos/../photos/dog/.."])
def test_a_path_with_two_dots_reads_every_class(tmp_path, way, recwarn):
    tree(tmp_path / "photos", "cat", "cat/small", "dog")
    assert load_images(f"folder:{tmp_path}/{way}").counts().tolist() == [8, 4]
    assert not [one for one in recwarn if "ignoring" in str(one.message)]


def test_names_of_folders_matter_only_for_the_classes_that_are_chosen(tmp_path):
    tree(tmp_path, "cat", "dog", "caf\u00e9", "cafe\u0301")
    if len(os.listdir(tmp_path)) < 4:
        pytest.skip("this file system takes both forms of accents for one name")
    with pytest.raises(UserError, match="have the same name except for spaces or the form of accents"):
        classes_of(tmp_path)
    with pytest.raises(UserError, match="have the same name except for spaces or the form of accents"):
        classes_of(tmp_path, classes=["cat", "caf\u00e9"])
    assert classes_of(tmp_path, classes=["dog", "cat"]) == ("dog", "cat")


@pytest.mark.parametrize(
    ("folders", "same", "choice"),
    [
        (("Train", "train", "test"), ("Train", "train"), {"split": "train"}),
        (("train", "training"), ("train", "training"), {"split": "training"}),
        (("train", "Test", "testing"), ("Test", "testing"), {"test_split": "Test"}),
        (("train", "val", "valid"), ("val", "valid"), {"test_split": "valid"}),
    ],
)
def test_two_folders_for_one_split_are_refused_until_one_is_chosen(tmp_path, folders, same, choice):
    tree(tmp_path, *(f"{folder}/{name}" for folder in folders for name in ("cat", "dog")))
    if len(list(tmp_path.iterdir())) < len(folders):
        pytest.skip("one folder to this file system")
    one, other = same
    with pytest.raises(UserError, match=rf"'{one}' and '{other}' are both named like one split; .*{one}'"):
        load_splits(f"folder:{tmp_path}")
    train, test = load_splits(ImagesConfig(images=f"folder:{tmp_path}", **choice))
    assert choice.get("split", choice.get("test_split")) in (train.split.split(" ")[0], test.split)


def test_validation_folders_do_not_matter_next_to_a_test_split(tmp_path):
    tree(tmp_path, *(f"{folder}/{name}" for folder in ("train", "val", "valid", "test") for name in ("cat", "dog")))
    assert load_splits(f"folder:{tmp_path}")[1].split == "test"


def test_split_folders_inside_class_folders_are_not_mixed(tmp_path):
    tree(tmp_path, *(f"{name}/{folder}" for name in ("cat", "dog") for folder in ("Train", "test")))
    with pytest.raises(UserError, match=r"'cat' holds the split folders 'Train' and 'test'; .*test/cat.*split='all'"):
        load_splits(f"folder:{tmp_path}")
    assert load_images(f"folder:{tmp_path}", split="all").counts().tolist() == [8, 8]
    tree(tmp_path, "cat/kittens")
    assert load_images(f"folder:{tmp_path}").counts().tolist() == [12, 8]


def test_splits_without_class_folders_are_not_classes(tmp_path):
    tree(tmp_path, "train", "Test")
    with pytest.raises(
        UserError, match=r"'Test' and 'train' are named like splits, but have no class folders; .*'all'"
    ):
        load_images(f"folder:{tmp_path}")
    assert classes_of(tmp_path, split="all") == ("Test", "train")


def test_test_images_without_classes_leave_the_training_images_to_be_held_out(tmp_path):
    tree(tmp_path, "train/cat", "train/dog", "test/unknown")
    with pytest.raises(UserError, match=r"has no images to test on; .*, or give (folder:.*/train) to hold") as caught:
        load_splits(ImagesConfig(images=f"folder:{tmp_path}", classes=["cat", "dog"]))
    named = re.search(r"or give (\S+) to hold", str(caught.value))
    assert load_splits(named[1])[1].class_names == ("cat", "dog")


def test_test_images_of_no_class_of_the_training_images(tmp_path):
    """Tiny ImageNet: the classes of the images for validation are in a text file."""
    tree(tmp_path, "train/n01/images", "train/n02/images", "val/images")
    says = "'images' is in split 'val' .*; nor is any other: name another test_split=…, or give (folder:.*/train) to"
    with pytest.raises(UserError, match=says) as caught:
        load_splits(f"folder:{tmp_path}")
    assert load_splits(re.search(says, str(caught.value))[1])[1].class_names == ("n01", "n02")
    tree(tmp_path, "val/n02")
    with pytest.raises(UserError, match="add it to the training images or leave it out with classes="):
        load_splits(f"folder:{tmp_path}")


@pytest.mark.parametrize("folders", [("images", "masks"), ("JPEGImages", "SegmentationClass", "SegmentationObject")])
@pytest.mark.parametrize("split", ["", "train/"])
def test_photos_and_their_masks_are_no_classes(tmp_path, folders, split):
    tree(tmp_path, *(split + folder for folder in folders))
    says = f"'{folders[0]}' and '{folders[1]}' are photos and their masks, not classes; .* or name them with classes="
    with pytest.raises(UserError, match=says):
        load_images(f"folder:{tmp_path}")
    assert classes_of(tmp_path, classes=list(folders)) == folders
    tree(tmp_path, f"{split}gloves")
    assert len(classes_of(tmp_path)) == len(folders) + 1


def test_shards_of_a_download_are_no_classes(tmp_path):
    tree(tmp_path, "00000", "00001", "00002")  # numbers alone may be classes
    assert classes_of(tmp_path) == ("00000", "00001", "00002")
    for number in range(3):
        (tmp_path / f"{number:05d}_stats.json").write_text("{}")
    with pytest.raises(UserError, match=r"'00000' and 2 more are shards of img2dataset, not .*labelled_images"):
        load_images(f"folder:{tmp_path}")
    assert classes_of(tmp_path, classes=["00000", "00002"]) == ("00000", "00002")


def test_packed_photos_are_to_be_unpacked(tmp_path):
    tree(tmp_path, "cat", "dog")
    (tmp_path / "dog" / "more.zip").write_bytes(b"PK\3\4")
    with pytest.warns(UserWarning, match=r"ignoring archives \(unpack them\): 'dog/more\.zip'"):
        assert len(load_images(f"folder:{tmp_path}")) == 8
    (tmp_path / "hen").mkdir()
    (tmp_path / "hen" / "photos.tar.gz").write_bytes(b"\x1f\x8b")
    with (
        pytest.warns(UserWarning, match=r"archives \(unpack them\): 'dog/more\.zip' and 1 more"),
        pytest.raises(UserError, match="'hen' has 0 images"),
    ):
        load_images(f"folder:{tmp_path}", min_per_class=1)


@pytest.mark.parametrize("kind", ["folder", "hf"])
def test_a_packed_set_is_to_be_unpacked(tmp_path, kind):
    if kind == "hf":
        pytest.importorskip("datasets")
    tree(tmp_path / "tree", "data/cat", "data/dog")
    place = tmp_path / "downloads"
    place.mkdir()
    with zipfile.ZipFile(place / "data.zip", "w") as packed:
        for path in (tmp_path / "tree").rglob("*.png"):
            packed.write(path, path.relative_to(tmp_path / "tree"))
    with pytest.raises(UserError, match=r"'data\.zip'; unpack it|unpack 'data\.zip' and give folder:PATH"):
        load_images(f"{kind}:{place}")
    with pytest.raises(UserError, match="is an archive; unpack it and give"):
        load_images(f"{kind}:{place / 'data.zip'}")


@pytest.mark.parametrize("folders", [("test1", "train"), ("test_images", "train_images"), ("train2017", "val2017")])
def test_similar_names_of_splits_without_class_folders_are_not_classes(tmp_path, folders):
    tree(tmp_path, *folders)  # a table, or only file names, tell cats from dogs
    one, other = folders
    with pytest.raises(UserError, match=f"'{one}' and '{other}' are named like splits, but have no class folders"):
        load_images(f"folder:{tmp_path}")
    assert classes_of(tmp_path, split="all") == folders


def test_folders_with_equal_names_inside_all_classes_are_reported(tmp_path):
    tree(tmp_path, *(f"{domain}/{name}" for domain in ("art", "photo", "sketch") for name in ("cat", "dog")))
    says = r"'art' and 'photo' and 1 more lie in folders of the same names, 'cat', 'dog'; .*: folder:.*/art$"
    with pytest.warns(UserWarning, match=says):
        assert classes_of(tmp_path) == ("art", "photo", "sketch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert classes_of(tmp_path, classes=["art", "photo"]) == ("art", "photo")
        tree(tmp_path, "art")  # a separate image
        assert classes_of(tmp_path) == ("art", "photo", "sketch")


@pytest.mark.parametrize(
    "folders",
    [
        ("seg_train/seg_train/sea", "seg_train/seg_train/wood", "seg_test/seg_test/sea"),
        ("training_set/cats", "training_set/dogs", "test_set/cats", "test_set/dogs"),
        ("train2017/cats", "val2017/cats"),
        ("fold1/cats", "fold1/dogs", "fold2/cats", "fold2/dogs"),
        ("train_images/cats", "train_images/dogs", "test_images"),
    ],
)
def test_folders_with_names_similar_to_splits_are_not_classes(tmp_path, folders):
    tree(tmp_path, *folders)
    with pytest.raises(UserError, match=r"look like splits; rename them to train and test .* split='all' if these"):
        load_splits(f"folder:{tmp_path}")
    assert len(classes_of(tmp_path, split="all")) == 2


@pytest.mark.parametrize(
    "folders",
    [
        ("seg_train/seg_train/sea", "seg_test/seg_test/sea", "seg_pred/seg_pred"),  # as on Kaggle
        ("train", "test", "extra"),
        ("cat", "pets_train/cat", "pets_val/cat", "docs"),
    ],
)
def test_a_folder_next_to_two_that_differ_in_the_split_makes_no_classes_of_them(tmp_path, folders):
    tree(tmp_path, *folders)
    with pytest.raises(UserError, match=r"like splits[;,].* split='all' if these are classes"):
        load_splits(f"folder:{tmp_path}")
    assert len(classes_of(tmp_path, split="all")) == len(folders)


@pytest.mark.parametrize(
    "folders",
    [
        ("bus/red", "test_drive/red"),
        ("steam train/old", "bullet train/new"),
        ("steam train", "bullet train"),
        ("train toy", "toy test", "bus"),
        ("train station", "test tube", "cat"),
    ],
)
def test_words_of_splits_in_names_of_classes(tmp_path, folders):
    assert len(classes_of(tree(tmp_path, *folders))) == len(folders)


def test_a_folder_around_the_splits_is_named(tmp_path):
    make_image_folder(tmp_path / "images", size=4)
    with pytest.raises(UserError, match="or give the folder 'images' if its folders are the classes"):
        load_splits(f"folder:{tmp_path}")


def test_other_files_do_not_matter_next_to_splits(tmp_path):
    make_image_folder(tmp_path, size=4, splits=("train",))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.xml").write_text("x")
    tree(tmp_path, "runs/one/images", "@eaDir/cat")
    (tmp_path / "runs" / "one" / "run.json").write_text(RUN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_splits(f"folder:{tmp_path}")[0].split == "train without holdout 0.2"


# ---- links


def test_linked_folders_in_a_class_are_read(tmp_path):
    tree(tmp_path / "photos", "cat", "dog")
    tree(tmp_path / "disk", "more/deep", "wide", count=6)
    os.symlink(tmp_path / "disk" / "more", tmp_path / "photos" / "cat" / "linked")
    os.symlink(tmp_path / "disk" / "wide", tmp_path / "photos" / "emu")
    images = load_images(f"folder:{tmp_path / 'photos'}")
    assert images.counts().tolist() == [10, 4, 6]
    assert "cat/linked/deep/05.png" in images.names


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "cat", "loop", "../dog/back"])
def test_links_that_lead_back_are_not_followed(tmp_path, target):
    tree(tmp_path / "photos", "cat", "dog")
    os.symlink("../cat", tmp_path / "photos" / "dog" / "back")
    os.symlink(target, tmp_path / "photos" / "cat" / "loop")
    os.symlink("self", tmp_path / "photos" / "self")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = load_images(f"folder:{tmp_path / 'photos'}")
    assert images.class_names == ("cat", "dog")
    assert len(images) <= 14  # dog's link into cat leads to all of cat's images again


def test_an_ignored_link_is_reported(tmp_path):
    tree(tmp_path, "cat", "dog")
    os.symlink("..", tmp_path / "cat" / "loop")
    with pytest.warns(UserWarning, match="ignoring links to folders that are already read: 'cat/loop'"):
        load_images(f"folder:{tmp_path}")


def test_a_class_on_a_missing_disk_is_reported(tmp_path):
    tree(tmp_path, "cat", "dog")
    (tmp_path / "horse").symlink_to(tmp_path / "unmounted" / "horse")
    with pytest.warns(UserWarning, match="ignoring broken links: 'horse'"):
        assert classes_of(tmp_path) == ("cat", "dog")


@pytest.mark.slow
def test_folders_in_folders_in_folders(tmp_path):
    tree(tmp_path, "cat", "dog")
    here = os.open(tmp_path / "cat", os.O_RDONLY)
    for _ in range(1000):  # deeper than the longest possible path
        os.mkdir("nested", dir_fd=here)
        here, above = os.open("nested", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    try:
        with pytest.warns(UserWarning, match="ignoring folders more than 50 deep: 'cat/nested/"):
            images = load_images(f"folder:{tmp_path}")
    finally:  # pytest's own cleaning would recurse as deeply
        subprocess.run(["rm", "-rf", tmp_path / "cat" / "nested"], check=True)
    assert len(images) == 8


# ---- what systems add


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "__MACOSX", "lost+found", ".AppleDouble", "$RECYCLE.BIN", "#recycle", "System Volume Information",
     "@sharebin", "~snapshot", "FOUND.001", "RECYCLER", "@Recycle", ".ipynb_checkpoints"],
)  # fmt: skip
def test_folders_that_systems_add_are_neither_classes_nor_images(tmp_path, name):
    tree(tmp_path, "cat", "dog", f"{name}/cat", f"dog/{name}/00.png", f"dog/sub/{name}")
    images = load_images(f"folder:{tmp_path}")
    assert images.class_names == ("cat", "dog")
    assert images.counts().tolist() == [4, 4]


def test_a_class_called_recycler_is_a_class(tmp_path):
    tree(tmp_path, "bin", "recycler")
    assert classes_of(tmp_path) == ("bin", "recycler")


@pytest.mark.parametrize(
    "name", ["Thumbs.db", "desktop.ini", ".DS_Store", "._00.png", "Icon\r", "00.aae", "00.png:Zone.Identifier"]
)
def test_files_that_systems_add_are_not_images(tmp_path, name):
    tree(tmp_path, "cat", "dog")
    (tmp_path / "cat" / name).write_bytes(b"x")
    assert len(load_images(f"folder:{tmp_path}")) == 8


def test_hidden_folders_with_images_are_reported(tmp_path):
    tree(tmp_path, "cat", "dog", ".emu", ".ipynb_checkpoints", ".@__thumb", ".empty/inner")
    with pytest.warns(UserWarning, match=r"ignoring hidden folders with images: '\.emu'$"):
        assert classes_of(tmp_path) == ("cat", "dog")


@pytest.mark.parametrize(("name", "says"), [(".00.jpg.icloud", "only in iCloud"), (".00.png", "hidden files")])
def test_hidden_photos_are_reported(tmp_path, name, says):
    tree(tmp_path, "cat", "dog")
    (tmp_path / "dog" / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=rf"ignoring .*{says}.*: 'dog/\{name}'$"):
        assert len(load_images(f"folder:{tmp_path}")) == 8


def test_images_next_to_the_classes_are_reported(tmp_path):
    tree(tmp_path, "cat", "dog", "")
    with pytest.warns(UserWarning, match="ignoring files next to the class folders: '00.png' and 3 more"):
        assert len(load_images(f"folder:{tmp_path}")) == 8


# ---- names


def test_number_signs_in_lists_of_classes(tmp_path):
    names = ["jersey #10", "jersey #7", "#1", "\\#2", "ball"]
    tree(tmp_path / "photos", *names)
    listed = tmp_path / "names.txt"
    listed.write_text("# a comment\n  # another\njersey #10\r\njersey #7\n\\#1\n\\\\#2\n")
    assert classes_of(tmp_path / "photos", classes=[f"@{listed}"]) == ("jersey #10", "jersey #7", "#1", "\\#2")
    listed.write_text("jersey #7\n#1\nball\n")
    with pytest.warns(UserWarning, match=r"'#1' read as a comment; write \\# for a name that begins with #"):
        assert classes_of(tmp_path / "photos", classes=[f"@{listed}"]) == ("jersey #7", "ball")
    tree(tmp_path / "photos", "@home")
    assert classes_of(tmp_path / "photos", classes=["\\@home", "ball"]) == ("@home", "ball")
    ways = ImagesConfig(images=f"folder:{tmp_path / 'photos'}", classes=["\\@home", "ball"])
    for _ in range(2):  # from an option, and as stored with the images
        ways = load_splits(ways)[0].config
        assert ways is not None
        assert ways.classes == ["\\@home", "ball"]
    with pytest.raises(UserError, match=r"'@home': no such file; .*, or write \\@home for a class of that name"):
        classes_of(tmp_path / "photos", classes=["@home", "ball"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_classes_as_editors_and_shells_write_them(tmp_path, encoding, end):
    tree(tmp_path / "photos", "café", "école", "zoo")
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "names.txt").write_bytes(end.join([mark + "zoo", "café", ""]).encode(encoding))
    assert classes_of(tmp_path / "photos", classes=[f"@{tmp_path / 'names.txt'}"]) == ("zoo", "café")


def test_a_list_of_classes_without_an_end(tmp_path, monkeypatch):
    tree(tmp_path, "cat", "dog")
    monkeypatch.setattr("probedistill.images.splits._MOST_NAMES_BYTES", 1000)
    (tmp_path / "long.txt").write_text("cat\n" * 300)
    with pytest.raises(UserError, match=r"long.txt' cannot be read \(more than 1,000 bytes\)"):
        classes_of(tmp_path, classes=[f"@{tmp_path / 'long.txt'}"])
    with pytest.raises(UserError, match="classes '@/dev/zero' is a pipe or a device"):
        classes_of(tmp_path, classes=["@/dev/zero"])


@pytest.mark.parametrize("source", ["folder", "hf", "wds", "cub"])
def test_a_path_may_begin_with_a_tilde_without_a_home(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "~of-nobody", "cat", "dog")
    if source == "folder":
        assert classes_of("~of-nobody") == ("cat", "dog")
    for place in ["~nobody-at-all"] if source in ("folder", "hf") else ["~of-nobody", "~nobody-at-all"]:
        with pytest.raises(UserError, match=rf"^images '{source}:{place}"):
            load_images(f"{source}:{place}")


def test_accents_have_one_form(tmp_path):
    one, other = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    tree(tmp_path, f"train/{other}", "train/tea", f"test/{one}", "test/tea")
    train, test = load_splits(f"folder:{tmp_path}")
    assert train.class_names == test.class_names == (one, "tea")
    assert test.counts().tolist() == [4, 4]
    assert train.load(0).size == (4, 4)
    for name in (one, other):
        assert classes_of(tmp_path, classes=["tea", name]) == ("tea", one)


def test_the_form_of_accents_affects_neither_order_nor_images(tmp_path):
    """A macOS disk may write é as two characters, which sort before everything that begins with f."""
    ways = []
    for form in ("NFC", "NFD"):
        names = [unicodedata.normalize(form, name) for name in ("école", "zoo")]
        tree(tmp_path / form, *names)
        (tmp_path / form / names[0] / "01.png").rename(
            tmp_path / form / names[0] / unicodedata.normalize(form, "é.png")
        )
        ways.append(load_images(f"folder:{tmp_path / form}"))
    assert ways[0].class_names == ways[1].class_names == ("zoo", "école")
    assert ways[0].fingerprint == ways[1].fingerprint


def test_a_run_is_not_a_folder_of_photos(tmp_path):
    """Its folders images and evolution would be two classes."""
    tree(tmp_path, "images/cat", "images/dog", "evolution")
    (tmp_path / "run.json").write_text(RUN)
    with pytest.raises(UserError, match=rf"is a run of probedistill; give its images, folder:{tmp_path}/images$"):
        load_images(f"folder:{tmp_path}")
    assert classes_of(tmp_path / "images") == ("cat", "dog")


def test_a_run_among_the_photos_is_not_a_class(tmp_path):
    """Its images would be another class."""
    tree(tmp_path, "cat", "dog", "small/images/cat", "dog/mine/images/cat")
    for run in ("small", "dog/mine"):
        (tmp_path / run / "run.json").write_text(RUN)
    with pytest.warns(UserWarning, match="ignoring runs of probedistill: 'small' and 1 more$"):
        images = load_images(f"folder:{tmp_path}")
    assert images.class_names == ("cat", "dog")
    assert images.counts().tolist() == [4, 4]


def test_another_programs_run_json_does_not_make_a_run(tmp_path):
    tree(tmp_path, "cat", "dog", "dog/more")
    for folder in (tmp_path, tmp_path / "cat", tmp_path / "dog" / "more"):
        (folder / "run.json").write_text('{"id": 7}')
    images = load_images(f"folder:{tmp_path}")
    assert images.class_names == ("cat", "dog")
    assert images.counts()[1] > images.counts()[0]


def test_a_broken_link_is_reported_as_such(tmp_path):
    tree(tmp_path, "photos2/cat")
    (tmp_path / "photos").symlink_to(tmp_path / "unplugged")
    with pytest.raises(UserError, match=r"no such folder; it is a broken link$"):
        load_images(f"folder:{tmp_path / 'photos'}")


@pytest.mark.parametrize("two", [("café", "cafe\u0301"), ("cat", "cat "), ("cat", " cat")])
def test_folders_that_look_the_same(tmp_path, two):
    tree(tmp_path, *two, "dog")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("one folder to this file system")
    with pytest.raises(UserError, match="have the same name except for spaces or the form of accents; rename one"):
        load_images(f"folder:{tmp_path}")


def test_a_space_at_the_end_of_a_name(tmp_path):
    tree(tmp_path, "train/cat ", "train/dog", "test/cat", "test/dog")
    train, test = load_splits(f"folder:{tmp_path}")
    assert train.class_names == test.class_names == ("cat", "dog")
    assert test.counts().tolist() == [4, 4]


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "\x1b[2Jcat", "c\u202etac", "a\x85b", "a\u2028b"])
def test_names_that_control_a_terminal_are_refused_before_any_work(run_cli, tmp_path, name):
    tree(tmp_path / "photos", name, "dog", "emu")
    outcome = run_cli(
        "distill", "--images", f"folder:{tmp_path / 'photos'}", "--encoder", "module:helpers_encoders:tiny",
        "--steps", 1, "--out", tmp_path / "run",
    )  # fmt: skip
    assert "has a line break or a control character; rename it" in outcome.error()
    assert outcome.error().isprintable()
    assert not (tmp_path / "run").exists()
    assert classes_of(tmp_path / "photos", classes=["dog", "emu"]) == ("dog", "emu")


@pytest.mark.parametrize("name", ["שלום", "x" * 255, "metadata.jsonl", "ü" * 127, "نیم‌فاصله", "a'b\"c", "100%"])
def test_unusual_names_are_accepted(tmp_path, name):
    with contextlib.suppress(OSError):
        tree(tmp_path, name, "dog")
    assert set(classes_of(tmp_path)) == {unicodedata.normalize("NFC", name), "dog"}


def test_a_class_without_images_is_named(tmp_path):
    tree(tmp_path, "cat", "dog")
    (tmp_path / "emu" / "deep").mkdir(parents=True)
    with pytest.raises(UserError, match="class 'emu' has 0 images"):
        load_images(ImagesConfig(images=f"folder:{tmp_path}"))


@pytest.mark.parametrize(
    ("folders", "file", "says"),
    [
        (["images"], "annotations/instances.json", "the folder 'annotations' holds no images, but 'instances.json'"),
        (["train/images", "val/images"], "train/labels/1.txt", "the folder 'labels' holds no images, but '1.txt'"),
        (["images"], "labels.csv", r"have fewer than 2 classes \('images'\) next to 'labels.csv'"),
        ([""], "labels.csv", "have no class folders in .* next to 'labels.csv'"),
    ],
)
def test_the_error_for_labels_in_files_explains_class_folders(tmp_path, folders, file, says):
    tree(tmp_path, *folders)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}")
    with pytest.raises(UserError, match=says + r"; if a file lists .*folder of its class, or use labelled_images\("):
        load_splits(f"folder:{tmp_path}")


def test_a_text_next_to_one_class_matters_only_if_two_are_needed(tmp_path):
    tree(tmp_path, "train/cat", "train/dog", "test/cat")
    (tmp_path / "train" / "cat" / "from.txt").write_text("mine")
    (tmp_path / "test" / "from.txt").write_text("mine")
    (tmp_path / "test" / "dog").mkdir()
    (tmp_path / "test" / "dog" / "none.txt").write_text("none yet")
    assert load_splits(f"folder:{tmp_path}")[1].counts().tolist() == [4, 0]
    (tmp_path / "test" / "dog" / "none.txt").unlink()
    (tmp_path / "test" / "dog").rmdir()
    assert load_splits(f"folder:{tmp_path}")[1].counts().tolist() == [4, 0]
    assert load_training(f"folder:{tmp_path / 'test'}", everything=True).class_names == ("cat",)


def test_a_table_next_to_classes_does_not_matter(tmp_path):
    tree(tmp_path, "cat", "dog")
    (tmp_path / "labels.csv").write_text("a,b")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.json").write_text("{}")
    assert load_images(ImagesConfig(images=f"folder:{tmp_path}", classes=["cat", "dog"])).class_names == ("cat", "dog")
