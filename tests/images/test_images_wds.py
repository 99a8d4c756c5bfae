"""WebDataset shards: what is found in tar files, how it is labelled and split, and what is damaged."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers_encoders import Tiny
from helpers_images import CLASSES, encoded, samples, write_tar
from probedistill.config import ImagesConfig
from probedistill.encoders.encoder import Encoder
from probedistill.errors import UserError
from probedistill.features.extract import extract_features
from probedistill.images.decode import UnreadableImageError
from probedistill.images.labelled import LabelledImages
from probedistill.images.splits import load_images, load_splits


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards with nine samples, three for each class."""
    for number in range(2):
        write_tar(tmp_path / "data" / f"part-{number:03d}.tar", samples(9 * number, 9))
    return tmp_path / "data"


def faults(images: LabelledImages) -> dict[str, str]:
    """The unreadable samples, with the reasons."""
    found = {}
    for i, name in enumerate(images.names):
        try:
            images.load(i)
        except UnreadableImageError as error:
            found[name] = str(error)
    return found


# ---- what is found


def test_images_and_labels_are_those_of_the_shards(shards):
    images = load_images(f"wds:{shards}")
    assert len(images) == 18
    assert images.class_names == ("0", "1", "2")
    assert images.labels.tolist() == [i % 3 for i in range(18)]
    assert images.names[0] == "part-000.tar/0000.png"
    assert images.names[9] == "part-001.tar/0009.png"
    for i in (0, 8, 9, 17):
        expected = Image.open(io.BytesIO(encoded(i % 3, i)))
        assert np.array_equal(np.asarray(images.load(i)), np.asarray(expected))
    assert images.split == "all"


@pytest.mark.parametrize(
    "place",
    ["data", "data/part-{000..001}.tar", "data/part-*.tar", "data/part-00[01].tar", "data/part-{000,001}.tar",
     "{data,data}/*.tar", "data/part-00{1..0}.tar"],
)  # fmt: skip
def test_ways_to_name_the_shards(tmp_path, shards, place):
    images = load_images(f"wds:{tmp_path / place}")
    assert images.names == load_images(f"wds:{shards}").names
    assert images.fingerprint == load_images(f"wds:{shards}").fingerprint
    assert len(load_images(f"wds:{shards / 'part-001.tar'}")) == 9


def test_a_path_that_looks_like_a_pattern(tmp_path):
    path = write_tar(tmp_path / "a[0]{1,2}.tar", samples(0, 6))
    assert len(load_images(f"wds:{path}")) == 6


def test_labels_by_name(tmp_path):
    write_tar(tmp_path / "x.tar", samples(0, 9, "name"))
    images = load_images(f"wds:{tmp_path}")
    assert images.class_names == CLASSES
    assert images.labels.tolist() == [i % 3 for i in range(9)]
    few = load_images(f"wds:{tmp_path}", classes=["owl", "cat"])
    assert few.class_names == ("owl", "cat")
    assert few.labels.tolist() == [1, 0] * 3


def test_a_list_of_classes_of_another_encoding(shards):
    (shards / "classes.txt").write_bytes("cat\r\ndog\r\nowl\r\n".encode("utf-16"))
    assert load_images(f"wds:{shards}").class_names == CLASSES


def test_names_of_classes_that_look_the_same(tmp_path):
    members = [(f"{i}.{kind}", data) for i, name in enumerate(["café", "cafe\u0301", "tea"] * 3)
               for kind, data in (("png", encoded(i % 3, i)), ("cls", name.encode()))]  # fmt: skip
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(
        UserError, match="have the same name except for spaces or the form of accents; write their"
    ) as error:
        load_images(f"wds:{tmp_path}")
    assert "\n" not in str(error.value)
    assert load_images(f"wds:{tmp_path}", classes=["tea", "café"]).counts().tolist() == [3, 3]


@pytest.mark.parametrize("label", ["number", "name"])
@pytest.mark.parametrize("where", ["train", "."])
def test_names_of_classes_next_to_the_shards(tmp_path, label, where):
    write_tar(tmp_path / "data" / "train" / "x.tar", samples(0, 9, label))
    (tmp_path / "data" / where / "classes.txt").write_text("cat\ndog\nowl\nyak\n\n")
    images = load_images(f"wds:{tmp_path / 'data'}")
    assert images.class_names == CLASSES  # without the yak, which has no samples


@pytest.mark.parametrize("value", [1, "1", "dog"])
def test_labels_in_json(tmp_path, value):
    members = []
    for i in range(4):
        label = value if i % 2 else "cat" if value == "dog" else 0
        members += [(f"{i}.jpg", encoded(i % 2, i, "JPEG")), (f"{i}.json", json.dumps({"y": label, "id": i}).encode())]
    write_tar(tmp_path / "x.tar", members)
    images = load_images(f"wds:{tmp_path}", label_column="y")
    assert images.class_names == (("cat", "dog") if value == "dog" else ("0", "1"))
    assert images.labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(UserError, match=r"have no labelled samples .*has no label \(no field 'label'\)"):
        load_images(f"wds:{tmp_path}")


def test_numbers_are_sorted_as_numbers(tmp_path):
    members = [m for i in (10, 9, 100) for m in ((f"{i}.png", encoded()), (f"{i}.cls", str(i).encode()))]
    write_tar(tmp_path / "x.tar", members)
    images = load_images(f"wds:{tmp_path}")
    assert images.class_names == ("9", "10", "100")
    assert images.labels.tolist() == [1, 0, 2]


def test_keys_incomplete_samples_and_other_members(tmp_path):
    members = [
        ("README.txt", b"read me"),
        ("./a.b/one.PNG", encoded(0)), ("./a.b/one.txt", b"a caption"), ("./a.b/one.cls", b" 0\n"),
        ("c/one.cls", b"1"), ("c/._one.png", b"of another system"), ("c/one.jpeg", encoded(1, kind="JPEG")),
        ("late.png", encoded(0)), ("other.png", encoded(1)), ("other.cls", b"1"), ("late.cls", b"0"),
        (".hidden.png", b"x"), (".hidden.cls", b"0"),
        ("late.png", encoded(1, 5)),  # added again: the last one counts, as in tar
    ]  # fmt: skip
    write_tar(tmp_path / "x.tar", members)
    with pytest.warns(UserWarning, match=r"shard 'x\.tar' of .* holds 'late\.png' more than once; using the last one"):
        images = load_images(f"wds:{tmp_path}")
    with pytest.raises(UserError, match=r"holds 'late\.png' more than once; give each sample its own key"):
        load_images(f"wds:{tmp_path}", strict=True)
    assert dict(zip(images.names, images.labels.tolist())) == {
        "x.tar/./a.b/one.png": 0, "x.tar/c/one.jpeg": 1, "x.tar/late.png": 0, "x.tar/other.png": 1,
    }  # fmt: skip
    late = images.load(list(images.names).index("x.tar/late.png"))
    assert np.array_equal(np.asarray(late), np.asarray(Image.open(io.BytesIO(encoded(1, 5)))))
    assert faults(images) == {}


def test_an_image_whose_key_has_a_dot_is_named(tmp_path):
    members = [m for i in range(2) for m in ((f"{i}.left.png", encoded(i)), (f"{i}.cls", b"%d" % i))]
    write_tar(tmp_path / "x.tar", members)
    said = "x.tar/0: there is a label, but the only image is .left.png; name it KEY.png, or choose it with "
    assert faults(load_images(f"wds:{tmp_path}"))["x.tar/0"] == said + "image_column='left.png'"


@pytest.mark.parametrize("label", [("cls", b"1"), ("json", b'{"label": 1}')], ids=["cls", "json"])
def test_one_of_several_images_under_a_key_is_chosen(tmp_path, run_cli, label):
    names = ("jpg", "png", "left.png", "right.png")
    pictures = {kind: encoded(n, kind="JPEG" if kind == "jpg" else "PNG") for n, kind in enumerate(names)}
    members = [*((f"0.{kind}", content) for kind, content in pictures.items()), (f"0.{label[0]}", label[1])]
    write_tar(tmp_path / "x.tar", [*members, ("1.png", encoded(0)), ("1.cls", b"0")])
    line = run_cli("features", "--images", f"wds:{tmp_path}", "--encoder", "resnet18").error()
    assert "sample 'x.tar/0' has several images, .jpg and .png; choose one for all samples with --image-column" in line
    marks = set()
    for kind in ("png", "left.png", "right.png"):
        images = load_images(f"wds:{tmp_path}", image_column=kind)
        assert images.labels.tolist() == [1, 0]
        assert images.load(0).tobytes() == Image.open(io.BytesIO(pictures[kind])).tobytes()
        marks.add(images.fingerprint)
    assert len(marks) == 3
    assert "the only image is .png" in faults(images)["x.tar/1"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats_of_tar_and_long_names(tmp_path, format):
    name = "/".join(["folder" * 9] * 3)[-90:] if format == tarfile.USTAR_FORMAT else "é" * 50 + "/" + "long" * 40
    members = [m for i in range(4) for m in ((f"{name}{i}.png", encoded(i % 2)), (f"{name}{i}.cls", b"%d" % (i % 2)))]
    write_tar(tmp_path / "x.tar", members, format=format)
    images = load_images(f"wds:{tmp_path}")
    assert images.names[3] == f"x.tar/{name}3.png"
    assert faults(images) == {}


# ---- splits


@pytest.mark.parametrize(
    "names", [("train/0.tar", "test/0.tar"), ("train-000.tar", "test-000.tar"), ("in1k-train-0.tar", "in1k-val-0.tar"),
              ("Training_1.tar", "validation.tar")],
)  # fmt: skip
def test_splits_by_folder_or_name(tmp_path, names):
    for name in names:
        write_tar(tmp_path / name, samples(0, 9 if name == names[0] else 3))
    for place in (tmp_path, tmp_path / ("*/*.tar" if "/" in names[0] else "*.tar")):
        train, test = load_splits(f"wds:{place}")
        assert (len(train), len(test)) == (9, 3)
        assert train.names[0] == f"{names[0]}/0000.png"
        assert train.class_names == test.class_names
        assert train.fingerprint != test.fingerprint


def test_a_share_is_held_out_without_splits(shards):
    train, test = load_splits(ImagesConfig(images=f"wds:{shards}", holdout=0.34))
    assert (len(train), len(test)) == (12, 6)
    assert not set(train.names) & set(test.names)


def test_a_shard_without_a_split_among_others(tmp_path):
    write_tar(tmp_path / "train-0.tar", samples(0, 6))
    write_tar(tmp_path / "more.tar", samples(0, 6))
    with pytest.raises(UserError, match=r"'train-0.tar' is of split 'train', but 'more.tar' of none"):
        load_images(f"wds:{tmp_path}")


def test_shards_in_other_folders_are_named(tmp_path, shards):
    write_tar(tmp_path / "disk" / "2.tar", samples(18, 3))
    (shards / "more").symlink_to(tmp_path / "disk")
    with pytest.warns(UserWarning, match=rf"ignoring the shards in 'more'; .*wds:{shards}/\*\*/\*.tar"):
        assert len(load_images(f"wds:{shards}")) == 18
    write_tar(shards / "@eaDir" / "part-000.tar", samples(0, 3))
    assert len(load_images(f"wds:{shards}/**/*.tar")) == 21


# ---- fingerprint


def test_the_fingerprint_is_of_the_shards(shards):
    before = load_images(f"wds:{shards}").fingerprint
    assert load_images(f"wds:{shards}").fingerprint == before
    os.utime(shards / "part-001.tar", (5, 5))
    assert load_images(f"wds:{shards}").fingerprint == before
    status = (shards / "part-001.tar").stat()
    write_tar(shards / "part-001.tar", [*samples(9, 8), ("0017.png", encoded(2, 99)), ("0017.cls", b"2")])
    os.truncate(shards / "part-001.tar", status.st_size)
    os.utime(shards / "part-001.tar", ns=(status.st_atime_ns, status.st_mtime_ns))
    touched = load_images(f"wds:{shards}").fingerprint
    write_tar(shards / "part-002.tar", samples(18, 3))
    more = load_images(f"wds:{shards}").fingerprint
    (shards / "classes.txt").write_text("cat\ndog\nowl")
    assert len({before, touched, more, load_images(f"wds:{shards}").fingerprint}) == 4


# ---- damage


def test_damaged_samples_are_unreadable(tmp_path):
    members = [*samples(0, 6), ("bad.png", b"not an image"), ("bad.cls", b"1"), ("empty.png", b""), ("empty.cls", b"2"),
               ("half.png", encoded()), ("lonely.cls", b"1"), ("blank.png", encoded()), ("blank.cls", b" \n"),
               ("bytes.png", encoded()), ("bytes.cls", b"\xff\xfe"), ("json.png", encoded()), ("json.json", b"{"),
               ("list.png", encoded()), ("list.json", b"[1]"), ("null.png", encoded()),
               ("null.json", b'{"label": null}'),
               ("deep.png", encoded()), ("deep.json", b"[" * 100_000)]  # fmt: skip
    write_tar(tmp_path / "x.tar", members)
    images = load_images(f"wds:{tmp_path}")
    found = faults(images)
    assert {name.removeprefix("x.tar/") for name in found} == {
        "bad.png", "empty.png", "half.png", "lonely", "blank.png", "bytes.png", "json.png", "list.png", "null.png",
        "deep.png",
    }  # fmt: skip
    assert "not an image" in found["x.tar/bad.png"]
    assert found["x.tar/half.png"] == "x.tar/half.png: it has no label (.cls or .json)"
    assert found["x.tar/lonely"] == "x.tar/lonely: there is a label but no image"
    assert all("\n" not in why for why in found.values())


@pytest.mark.parametrize("lost", [1, 1024])  # bytes of the last label; bytes of the last image
def test_a_truncated_shard(shards, lost):
    path = shards / "part-001.tar"
    with tarfile.open(path) as tar:
        end = max(member.offset_data + member.size for member in tar)
    path.write_bytes(path.read_bytes()[: end - lost])
    with pytest.warns(
        UserWarning, match=r"shard 'part-001.tar' of .* is cut short or damaged after \d samples"
    ) as caught:
        images = load_images(f"wds:{shards}")
    assert len(caught) == 1
    assert len(images) == 18
    assert list(faults(images)) == ["part-001.tar/0017.png"]
    with pytest.raises(UserError, match=r"is cut short or damaged after .*download it again"):
        load_images(f"wds:{shards}", strict=True)


@pytest.mark.slow
def test_a_shard_cut_anywhere_never_gives_a_wrong_sample(tmp_path):
    path = write_tar(tmp_path / "x.tar", samples(0, 4))
    whole, expected = path.read_bytes(), load_images(f"wds:{path}")
    right = {name: (np.asarray(expected.load(i)), expected.labels[i]) for i, name in enumerate(expected.names)}
    generator = np.random.default_rng(0)
    for size in [0, 1, 511, 512, 513, *generator.integers(0, len(whole), 60).tolist()]:
        path.write_bytes(whole[:size])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                images = load_images(f"wds:{path}")
        except UserError as error:
            lines = str(error).splitlines()
            assert len(lines) == 1
            continue
        unreadable = faults(images)
        for i, name in enumerate(images.names):
            if name not in unreadable:
                assert np.array_equal(np.asarray(images.load(i)), right[name][0])
                assert images.class_names[images.labels[i]] == str(right[name][1])


def test_a_damaged_header_is_not_silently_ignored(shards):
    path = shards / "part-000.tar"
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        content[tar.getmembers()[6].offset + 150] ^= 0xFF  # in the checksum
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="'part-000.tar' .* damaged after 3 samples"):
        assert len(load_images(f"wds:{shards}")) == 12


@pytest.mark.slow
def test_random_bytes_are_an_error_or_whole_samples(tmp_path):
    path = write_tar(tmp_path / "x.tar", samples(0, 4))
    whole, generator = path.read_bytes(), np.random.default_rng(1)
    for _ in range(60):
        content = bytearray(whole)
        for place in generator.integers(0, len(content), 8):
            content[place] = generator.integers(256)
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                faults(load_images(f"wds:{path}"))
            except UserError as error:
                lines = str(error).splitlines()
                assert len(lines) == 1


def test_a_shard_that_is_cut_after_it_was_read(shards):
    images = load_images(f"wds:{shards}")
    os.truncate(shards / "part-001.tar", 3000)
    assert "cut short" in faults(images)["part-001.tar/0017.png"]
    (shards / "part-000.tar").unlink()
    assert faults(images)["part-000.tar/0000.png"] == "part-000.tar/0000.png: no such file"


def test_nothing_is_written_and_no_link_is_followed(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(2))
    path = write_tar(tmp_path / "data" / "x.tar", [
        *samples(0, 4), ("../../out.png", encoded()), ("../../out.cls", b"0"),
        ("/etc/abs.png", encoded()), ("/etc/abs.cls", b"0"),
    ])  # fmt: skip
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}.png")
            link.type, link.linkname = kind, str(secret)
            tar.addfile(link)
            label = tarfile.TarInfo(f"link{kind.decode()}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"0"))
    before = sorted(tmp_path.rglob("*"))
    found = faults(load_images(f"wds:{path}"))
    assert sorted(tmp_path.rglob("*")) == before
    assert len(found) == 2
    assert all("a label but no image" in why for why in found.values())


def test_names_that_are_not_text(tmp_path):
    members = [m for i in range(4) for m in ((f"{i}\udcff\n.png", encoded()), (f"{i}\udcff\n.cls", b"%d" % (i % 2)))]
    members += [("z.png", encoded()), ("z.json", b'{"label": "a\\n\\ud800b"}')]
    write_tar(tmp_path / "x.tar", members, format=tarfile.GNU_FORMAT)
    images = load_images(f"wds:{tmp_path}")
    for text in (*images.names, *images.class_names):
        assert "\n" not in text
        text.encode()
    assert faults(images) == {}


# ---- bad input: one line


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("data/part-{000..003}.tar", "no such shard '.*part-002.tar'"),
        ("data/none-*.tar", "no shard matches '.*none-[*].tar'; check the pattern"),
        ("data/part-9.tar", "no such shard '.*part-9.tar'"),
        ("nowhere", "no such shard"),
        ("data/part-{0..99999999}.tar", "name more than 1,000,000 shards"),
        ("empty", "the folder has no .tar files"),
        ("text.tar", "shard 'text.tar' is not a tar file that can be read"),
        ("zero.tar", "shard 'zero.tar' is not a tar file that can be read .empty file.; download it again"),
        ("packed.tar.gz", "'packed.tar.gz' is not a tar file .*decompress it"),
        ("packed.tar", "'packed.tar' is not a tar file .*decompress it"),
        ("packed", "the folder has no .tar files; decompress its shards, such as '0.tgz'"),
        ("s3://bucket/{000..003}.tar", "shards are read from this machine; download them and give their folder"),
        ("pipe:curl -s https://host/0.tar", "shards are read from this machine; download them"),
        ("bare.tar", "have no labelled samples in split 'all' .*bare.tar/0.png: it has no label"),
        ("nothing.tar", "have no labelled samples in split 'all'; each needs"),
        ("fifo.tar", "shard '.*fifo.tar' is not a file"),
        ("dir.tar/*", "no shard matches"),
    ],
)
def test_bad_places(tmp_path, shards, place, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "dir.tar").mkdir()
    (tmp_path / "text.tar").write_text("this is no tar file\n" * 100)
    (tmp_path / "zero.tar").write_bytes(b"")
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "text.tar")
    (tmp_path / "packed").mkdir()
    for name in ("packed.tar", "packed/0.tgz"):
        (tmp_path / name).write_bytes((tmp_path / "packed.tar.gz").read_bytes())
    write_tar(tmp_path / "bare.tar", [("0.png", encoded()), ("1.png", encoded())])
    write_tar(tmp_path / "nothing.tar", [])
    os.mkfifo(tmp_path / "fifo.tar")
    with pytest.raises(UserError, match=message) as caught:
        load_images(f"wds:{place if ':' in place else tmp_path / place}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog", r"label 2 of part-000.tar/0002.png is not in classes.txt \(2 names\)"),
        ("cat\ndog\ncat", r"classes.txt' names 'cat' twice"),
    ],
)
def test_bad_lists_of_classes(shards, text, message):
    (shards / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        load_images(f"wds:{shards}")


def test_a_list_of_names_that_look_like_numbers(tmp_path):
    labels = ("007", "010", "001") * 2
    members = [(f"{i}.png", encoded(i % 3, i)) for i in range(6)]
    members += [(f"{i}.cls", label.encode()) for i, label in enumerate(labels)]
    write_tar(tmp_path / "x.tar", members)
    (tmp_path / "classes.txt").write_text("007\n010\n001\n")
    images = load_images(f"wds:{tmp_path}")
    assert [images.class_names[label] for label in images.labels] == ["007", "010", "001"] * 2
    (tmp_path / "classes.txt").write_text("\n".join("abcdefghijk"))
    images = load_images(f"wds:{tmp_path}")
    assert [images.class_names[label] for label in images.labels] == ["h", "k", "b"] * 2


def test_comments_above_a_list_of_classes_take_no_number(shards):
    (shards / "classes.txt").write_text("# of our zoo\n#\ncat\n#1\nowl\n")
    assert load_images(f"wds:{shards}").class_names == ("cat", "#1", "owl")


def test_compressed_shards_next_to_others_are_named(tmp_path):
    write_tar(tmp_path / "train.tar", samples(0, 9))
    for name in ("test.tar.gz", "val.TGZ"):
        (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.warns(UserWarning, match=r"ignoring 'test.tar.gz' and 1 more; decompress what is to be read"):
        load_images(f"wds:{tmp_path}")


def test_a_range_below_a_folder_with_brackets(tmp_path):
    for number in (0, 1):
        write_tar(tmp_path / "zoo [2024]" / f"{number}.tar", samples(9 * number, 9))
    assert len(load_images(f"wds:{tmp_path}/zoo [2024]/{{0..1}}.tar")) == 18


def test_one_class_is_too_few(tmp_path):
    write_tar(tmp_path / "x.tar", [("0.png", encoded()), ("0.cls", b"0")])
    with pytest.raises(UserError, match="fewer than 2 classes"):
        load_images(f"wds:{tmp_path}")


# ---- many threads, and features


def test_shards_are_read_by_many_threads_at_once(shards):
    images = load_images(f"wds:{shards}")
    expected = [np.asarray(images.load(i)) for i in range(18)]
    gate = threading.Barrier(8)

    def read(seed: int) -> bool:
        gate.wait()
        order = np.random.default_rng(seed).permutation(18)
        return all(np.array_equal(np.asarray(images.load(i)), expected[i]) for i in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_features_of_shards(tmp_path, shards, caplog):
    write_tar(shards / "part-002.tar", [*samples(18, 3), ("bad.png", b"x"), ("bad.cls", b"0"), ("half.png", encoded())])
    encoder = Encoder(Tiny(0), name="tiny", input_size=32)
    images = load_images(f"wds:{shards}")
    bank = extract_features(encoder, images, cache=tmp_path / "cache", shard_size=4, progress=False)
    assert len(images) == 23
    assert bank.labels.tolist() == [i % 3 for i in range(21)]
    assert len(bank.skipped) == 2
    assert "skipped 2 unreadable of 23 images" in caplog.text
    again = extract_features(encoder, images, cache=tmp_path / "cache", shard_size=4, progress=False, max_memory=0)
    assert (again.centre == bank.centre).all()
    with pytest.raises(UserError, match=r"bad\.png: not an image"):
        extract_features(encoder, images, cache=tmp_path / "cache", shard_size=4, progress=False, strict=True)


@pytest.mark.slow
def test_a_test_class_of_broken_samples_does_not_stop_the_run(distil_cli, run_cli, tmp_path):
    members = samples(0, 9)
    write_tar(tmp_path / "shards" / "train.tar", members)
    broken = [("z.png", b"no image"), ("z.cls", b"2")]
    write_tar(tmp_path / "shards" / "test.tar", [*(m for m in members if m[0] < "0002"), *broken])
    outcome = distil_cli("--out", tmp_path / "run", images=f"wds:{tmp_path / 'shards'}")
    assert outcome.code == 0, outcome.err
    assert "skipped 1 unreadable of 3 images (test): test.tar/z.png (not an image" in outcome.err
    scored = run_cli("evaluate", tmp_path / "run", "--config", tmp_path / "run", "--views", 1, "--seeds", 1)
    assert scored.code == 0, scored.err


def test_a_class_of_broken_samples_is_named_with_a_hint(distil_cli, tmp_path):
    broken = [member for i in range(4) for member in ((f"z{i}.png", b"no image"), (f"z{i}.cls", b"7"))]
    write_tar(tmp_path / "x.tar", [*samples(0, 12), *broken])
    error = distil_cli("--out", tmp_path / "run", images=f"wds:{tmp_path}")
    assert error.code == 2
    line = error.err.splitlines()[-1]
    assert "class '7' (all without holdout 0.2) has" in line
    assert "first: x.tar/z" in line
