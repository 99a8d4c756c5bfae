"""``folder:PATH``: a folder for each class, optionally inside split folders."""

from __future__ import annotations

import difflib
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..config import ImagesConfig
from ..errors import UserError, option
from ..machine.places import at_home
from ..text import and_more, as_utf8, quoted
from .contents import digests_of_files
from .entries import (
    RUNS,
    LeftOut,
    add_others,
    archive_in,
    has_images,
    image_files,
    is_archive,
    is_folder,
    is_run,
    listing,
    subfolders,
)
from .labelled import LabelledImages, check_class_names, check_classes, classes_argument, digest_of, plain_name
from .sources import ALIASES, FOLDER_SPLITS, WHOLE, ItemLoader, Source, described

_LABEL_FILES = frozenset({".csv", ".json", ".jsonl", ".mat", ".parquet", ".tsv", ".txt", ".xml"})
_BY_FILE = (
    "if a file lists the classes of the photos, put each photo into a folder of its class, or use "
    "labelled_images(paths, labels) in Python"
)
_PICTURES = frozenset(["images", "image", "imgs", "img", "jpegimages"])
_MASKS = frozenset(
    [
        "annotations", "groundtruth", "ground_truth", "gt", "labels", "label", "masks", "mask", "segmentation",
        "segmentationclass", "segmentationobject", "trimaps",
    ]
)  # fmt: skip
"""Folders next to those of photos, with pictures that say where on the photos something is."""


@described("folder:PATH", is_path=True)
def folder_source(place: str, config: ImagesConfig) -> Source:
    """A folder for each class, or such folders inside split folders."""
    root = at_home(Path(place))
    if config.images != as_utf8(config.images):
        raise UserError(f"images {as_utf8(config.images)!r}: the path is not UTF-8; {_way_to_utf8('the folder')}")
    if not os.path.exists(root):
        siblings = subfolders(root.parent) if os.access(root.parent, os.R_OK) else []
        near = difflib.get_close_matches(root.name, siblings, n=1)
        begins = "" if root.is_absolute() else f", which begins at {os.getcwd()}"
        hint = f"did you mean 'folder:{root.parent / near[0]}'?" if near else f"check the path{begins}"
        hint = "it is a broken link" if os.path.islink(root) else hint
        raise UserError(f"images {config.images!r}: no such folder; {hint}")
    if not root.is_dir():
        way_out = "an archive; unpack it and give its" if is_archive(root.name) else "a file; give the"
        raise UserError(f"images {config.images!r} is {way_out} folder with one folder per class")
    if is_run(root):
        raise UserError(f"images {config.images!r} is a run of probedistill; give its images, folder:{root / 'images'}")
    return _FolderSource(root, config)


class _FolderSource(Source):
    """A folder of class folders, or of split folders of class folders."""

    def __init__(self, root: Path, config: ImagesConfig) -> None:
        self.root, self._is_told = root, config.split is not None
        self._split_folders = frozenset(_split_folders(root, config.images, config.split))
        _check_split_once(self._split_folders, config)
        super().__init__(config.images, dict.fromkeys(sorted(self._split_folders) or [WHOLE], _nothing))

    def load(self, split: str, classes: tuple[str, ...] | None, *, absent_ok: bool = False) -> LabelledImages:
        """The images of a split; only the folders of ``classes`` are listed."""
        parent = self._parent(split)
        left_out = LeftOut()
        folders = self._class_folders(parent, classes, left_out, absent_ok)
        if classes is not None:
            check_classes(classes, list(folders), classes_argument(), self.spec, absent_ok)
        class_names = tuple(folders) if classes is None else classes
        check_class_names([name for name in class_names if name in folders], f"images {self.spec!r}")
        paths, labels = list[str](), list[int]()
        inside: list[set[str]] = []  # per class, as long as these folders may be domains or contain splits
        for label, name in enumerate(class_names):
            if name in folders:
                found = sorted(image_files(parent / folders[name], folders[name], left_out), key=_accent_independent)
                if parent == self.root and not self._is_told:
                    inside.append({path.split("/")[1] if path.count("/") > 1 else "" for path in found})
                    if label == 0 and len(class_names) > 1:
                        _check_no_splits_inside(folders[name], inside[0], self.spec)
                is_needed = classes is None and not absent_ok
                if is_needed and not found and (file := _label_file(parent / folders[name])):
                    raise UserError(
                        f"images {self.spec!r}: the folder {name!r} holds no images, but {file!r}; {_BY_FILE}, or "
                        f"leave it out with {option('classes')}"
                    )
                paths += found if parent == self.root else [f"{split}/{path}" for path in found]
                labels += [label] * len(found)
        if classes is None:
            _check_no_masks(class_names, self.spec)
            _check_no_downloads(parent, class_names, self.spec)
        add_others(parent, left_out, hidden=classes is None)
        left_out.warn(self.spec)
        if classes is None:
            _warn_of_classes_inside(class_names, inside, self.spec)
        names = _names(paths)
        root = os.path.abspath(self.root)
        files = [f"{root}/{path}" for path in paths]
        contents = digests_of_files(files, place=self.root, progress=self.progress)
        stamps = [f"{name}\n{content.hex()}" for name, content in zip(names, contents, strict=True)]
        return LabelledImages(
            class_names=class_names,
            labels=labels,
            names=names,
            load=ItemLoader(files, names),
            spec=self.spec,
            split=split,
            fingerprint=digest_of("folder", *class_names, "\n", *stamps),
            contents=contents,
        )

    def _class_folders(
        self, parent: Path, wanted: tuple[str, ...] | None, left_out: LeftOut, absent_ok: bool
    ) -> Mapping[str, str]:
        """Class name → its folder's name on disk, which may encode accents differently or end in a space."""
        folders: dict[str, str] = {}
        not_utf8 = ""
        for folder in subfolders(parent):
            if is_run(parent / folder):
                left_out.add(RUNS, folder)
                continue
            if folder != as_utf8(folder):
                not_utf8 = not_utf8 or folder
                continue
            name = plain_name(folder)
            if name in folders and (wanted is None or name in wanted):
                raise UserError(
                    f"images {self.spec!r}: the class folders {folders[name]!a} and {folder!a} have the same "
                    "name except for spaces or the form of accents; rename one or put their images together"
                )
            folders[name] = folder
        if not_utf8 and (wanted is None or not (absent_ok or folders.keys() >= set(wanted))):
            named = f"the class folder {as_utf8(not_utf8)!r} has a name that is not UTF-8"
            raise UserError(
                f"images {self.spec!r}: {named}; {_way_to_utf8()}, or choose others with {option('classes')}"
            )
        folders = dict(sorted(folders.items()))  # the same order on every file system, however it encodes accents
        if not folders:
            way_out = _beside_classes(parent) or "; give a folder with one folder per class"
            raise UserError(f"images {self.spec!r} have no class folders in {parent}{way_out}")
        return folders

    def _parent(self, split: str) -> Path:
        return self.root / split if split in self._split_folders else self.root

    def beside_classes(self, split: str) -> str:
        return _beside_classes(self._parent(split))

    def alone(self, split: str) -> str:
        return f"{self.spec}/{split}"


def _nothing() -> LabelledImages:
    raise AssertionError("load lists the folders itself")


def _accent_independent(path: str) -> tuple[str, str]:
    """Sort key that does not depend on how a file system encodes accents."""
    return unicodedata.normalize("NFC", path), path


def _way_to_utf8(what: str = "it") -> str:
    """What to do about a name that is not UTF-8; in some locales (``LC_ALL=C``) only ASCII names are."""
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        return f"rename {what}"
    return f"set PYTHONUTF8=1 if it is (names of files are read as {encoding} here), else rename {what}"


def _names(paths: list[str]) -> list[str]:
    """Names of images, with accents in one form unless two names differ only in that form."""
    names = [as_utf8(path) for path in paths]
    changed = [unicodedata.normalize("NFC", name) for name in names]
    return changed if len(set(changed)) == len(names) else names


# ---------------------------------------------------------------------------------------------------
# Split folders, or classes with the name of a split


def _split_folders(root: Path, spec: str, wanted: str | None) -> list[str]:
    """The folders of ``root`` that are splits, or none if its folders are classes.

    A folder called train may be a split or a class of trains. It is a split if all folders with images have names of
    splits, or if two different splits have a class in common. Otherwise ``wanted`` decides.

    Raises:
        UserError: It could be either, and the user has not said which.
    """
    folders = subfolders(root)
    inside = {name: set(subfolders(root / name)) for name in folders if name.lower() in FOLDER_SPLITS}
    splits = [name for name, classes in inside.items() if classes]
    if not splits and wanted is None:
        _check_unlike_splits(root, folders, spec, empty=bool(inside))
    if not splits or wanted == WHOLE:
        return []
    others = [name for name in folders if name not in splits and has_images(root / name)]
    if not others:
        return splits
    shown = quoted(others, 3)
    if wanted is not None or _share_classes(inside):
        warnings.warn(f"images {spec!r}: ignoring {shown} next to the split folders {', '.join(splits)}", stacklevel=2)
        return splits
    raise UserError(
        f"images {spec!r}: {splits[0]!r}, next to {shown}, may be a split or a class; "
        f"give {option('split', WHOLE)} if these folders are classes, or {option('split', splits[0])} to use only that "
        "folder"
    )


def _check_split_once(splits: Collection[str], config: ImagesConfig) -> None:
    """Refuse two folders for one split, such as Train and train, of which only one would be read."""
    training, *testing = ALIASES
    tested_on = next((group for group in testing if group & {name.lower() for name in splits}), set())
    for argument, named, group in (("split", config.split, training), ("test_split", config.test_split, tested_on)):
        same = sorted(name for name in splits if name.lower() in group)
        if len(same) > 1 and named not in splits:
            raise UserError(
                f"images {config.images!r}: {same[0]!r} and {same[1]!r} are both named like one split; put their "
                f"images together, or choose one with {option(argument, same[0])}"
            )


def _check_no_splits_inside(name: str, folders: Collection[str], spec: str) -> None:
    """Refuse a class folder whose images are in split folders (cat/train, cat/test): the split would be lost."""
    inside = sorted(folders)
    if len(inside) > 1 and FOLDER_SPLITS.issuperset(map(str.lower, inside)):
        shown = " and ".join(map(repr, inside[:2]))
        raise UserError(
            f"images {spec!r}: the class folder {name!r} holds the split folders {shown}; put class folders into "
            f"split folders ({inside[-1]}/{name}), or give {option('split', WHOLE)} to mix them"
        )


def _warn_of_classes_inside(class_names: Sequence[str], inside: Sequence[set[str]], spec: str) -> None:
    """Warn if all images are one folder deeper, in folders of the same names: these may be the classes, within domains.

    Args:
        class_names: Names of the classes.
        inside: For each class, the folders in it that contain images; the empty name is the class folder itself.
        spec: Spec for the warning.
    """
    shared = sorted(set.intersection(*inside)) if len(inside) > 1 else []
    if len(shared) > 1 and not any("" in names for names in inside):
        of = " and ".join(map(repr, class_names[:2])) + and_more(len(class_names), 2)
        warnings.warn(
            f"images {spec!r}: the images of {of} lie in folders of the same names, "
            f"{quoted(shared, 3)}; if these are the classes, give one of the "
            f"outer folders: {spec}/{class_names[0]}",
            stacklevel=2,
        )


def _check_unlike_splits(root: Path, folders: list[str], spec: str, *, empty: bool) -> None:
    """Refuse class folders that all have names similar to splits (train_images and test_images, fold1 and fold2).

    Otherwise they would silently be trained on as classes. So would ``empty`` splits: folders with the names of splits
    and without class folders; and two folders whose names differ only in that (seg_train and seg_test, next to
    seg_pred).
    """
    kinds = {name: _kinds_of_split(name) for name in folders}
    if not all(kinds.values()):
        folders = _unlike_only_in_kind(kinds)
    if len(folders) < 2:
        return
    inside = [set(subfolders(root / name)) for name in folders]
    differ = len({kinds[name] for name in folders}) > 1
    shown = " and ".join(map(repr, folders[:2])) + and_more(len(folders), 2)
    if empty or (differ and not any(inside)):
        raise UserError(
            f"images {spec!r}: {shown} are named like splits, but have no class folders; "
            f"put the images of each class into a folder inside, or give {option('split', WHOLE)} if these are classes"
        )
    if differ or (all(inside) and len(set.intersection(*inside)) > 1):
        raise UserError(
            f"images {spec!r}: {shown} look like splits; rename them to train and test with the class folders "
            f"directly inside, give one of them as folder:PATH, or give {option('split', WHOLE)} if these are classes"
        )


_SPLIT_WORD = re.compile(r"([a-z]+?)(?:set|data|images|imgs|photos)?(?![a-z])")


def _kinds_of_split(name: str) -> tuple[str, ...]:
    """Return the kinds of split that the words in a folder's name stand for, each as one word."""
    words = _SPLIT_WORD.findall(name.lower())
    groups = (*ALIASES, {"fold"}, {"holdout"})
    return tuple(min(group) for group in groups if group & set(words))


def _unlike_only_in_kind(kinds: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return folders whose names are the same except for different kinds of split; none if there are none."""
    alike = dict[str, list[str]]()
    for name, kind in kinds.items():
        if kind:
            rest = _SPLIT_WORD.sub(lambda word: "" if _kinds_of_split(word[0]) else word[0], name.lower())
            alike.setdefault(rest, []).append(name)
    return next((names for names in alike.values() if len({kinds[name] for name in names}) > 1), [])


def _check_no_masks(folders: Collection[str], spec: str) -> None:
    """Refuse the folders of a segmentation set, photos and masks, which would be two classes."""
    pictures = [name for name in folders if name.lower() in _PICTURES]
    masks = [name for name in folders if name.lower() in _MASKS]
    if pictures and masks and len(pictures) + len(masks) == len(folders):
        raise UserError(
            f"images {spec!r}: the folders {pictures[0]!r} and {masks[0]!r} are photos and their masks, not classes; "
            f"{_BY_FILE}, or name them with {option('classes')} if they are classes"
        )


def _check_no_downloads(parent: Path, folders: Collection[str], spec: str) -> None:
    """Refuse the folders of img2dataset, 00000 and so on: photos in the order in which they were downloaded."""
    first = next(iter(folders), "")
    if first.isdecimal() and all(os.path.exists(parent / f"{name}_stats.json") for name in folders):
        raise UserError(
            f"images {spec!r}: the folders {first!r}{and_more(len(folders))} are shards of img2dataset, not classes; "
            f"{_BY_FILE}"
        )


def _share_classes(splits: Mapping[str, Collection[str]]) -> bool:
    """Whether two different splits (not train and training) have a class of the same name."""
    of_kinds = [set[str]() for _ in ALIASES]
    for split, classes in splits.items():
        kind = next(kind for kind, group in enumerate(ALIASES) if split.lower() in group)
        of_kinds[kind] |= set(map(plain_name, classes))
    return len(set().union(*of_kinds)) < sum(map(len, of_kinds))


def _label_file(folder: Path) -> str | None:
    """Return a file that may contain the labels of the photos: detection sets and tables have no class folders."""
    names = (Path(entry.name) for entry in listing(folder) if not is_folder(entry))
    texts = (name for name in names if name.suffix.lower() in _LABEL_FILES)
    return next((as_utf8(str(name)) for name in texts if name.stem.lower() not in ("readme", "license")), None)


def _beside_classes(folder: Path) -> str:
    """The end of an error about a folder with too few class folders, if it has an archive or labels; else nothing."""
    file, packed = _label_file(folder), archive_in(folder)
    if packed:
        return f" next to {as_utf8(packed)!r}; unpack it"
    return f" next to {file!r}; {_BY_FILE}" if file else ""
