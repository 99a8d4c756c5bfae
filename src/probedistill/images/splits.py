"""From a spec or config to one split, or to training and test images of the same classes."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import logging
import os
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import ImagesConfig
from ..errors import UserError, option, unknown_name
from ..machine.places import at_home, check_plain_file
from ..text import and_more, counted, one_line, text_of
from .duplicates import warn_of_duplicates
from .labelled import (
    LabelledImages,
    check_classes,
    check_classes_of_images,
    classes_argument,
    how_to_label,
    rows_of_labels,
)
from .sources import ALIASES, TESTING, TRAINING, WHOLE, Source, composed, open_source

_log = logging.getLogger(__name__)

_MOST_NAMES_BYTES = 1 << 26  # of a list of classes
_HELD_OUT = "holdout "  # how the names of held-out splits begin


def load_images(
    spec_or_config: str | ImagesConfig,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    min_per_class: int = 1,
    progress: bool = True,
    **options: Any,
) -> LabelledImages:
    """Find the labelled images of one split; no image is decoded yet.

    Args:
        spec_or_config: Spec string such as ``"folder:photos"``, or a whole configuration.
        split: Split to read; default ``config.split``, else the training split, else everything.
        classes: Subset of the classes, in this order; default ``config.classes``, else all.
        min_per_class: Least number of images that each class must have.
        progress: Show a progress bar if reading the images takes more than two seconds.
        **options: Other fields of ``ImagesConfig``.

    Returns:
        The images, N of C ≥ 2 classes.

    Raises:
        UserError: There is no such source, split or class, or a class has too few images.
    """
    if split is not None:
        options["split"] = split
    config, wanted = _settle(spec_or_config, classes, options)
    source, training = _opened(config, progress)
    images = source.load(training, wanted)
    check_classes_of_images(images.class_names, f"images {images.spec!r}")
    _check_enough(source, images, min_per_class, chosen=wanted is not None)
    warn_of_duplicates(images)
    if _testing(source, config, images.split) is not None:  # otherwise `load_splits` would hold some of these out
        images.config = config
    return images


def load_splits(config: str | ImagesConfig, *, progress: bool = True) -> tuple[LabelledImages, LabelledImages]:
    """Find the training and the test images; no image is decoded yet.

    If the source has no test split, the share ``config.holdout`` of each class is held out: always the same images,
    chosen by a hash of their names. Both results have the same ``class_names`` in the same order. A class may have no
    images in a test split that came with the source. A warning says how many images are, byte for byte, in two classes
    or in both results.

    Args:
        config: Spec string or configuration.
        progress: Show a progress bar if reading the images takes more than two seconds.

    Returns:
        Training images (at least 2 per class) and test images (at least 1 in total).

    Raises:
        UserError: As for ``load_images``; also if the test split has classes that the training split lacks, if both
            are the same split, or if a class is too small to be split.
    """
    config, wanted = _settle(config, None, {})
    source, training = _opened(config, progress)
    train = source.load(training, wanted)
    testing = _testing(source, config, training)
    if config.test_split is not None:
        testing = _named_split(source, "test split", config.test_split)
        if testing == training:
            raise UserError(
                f"test split {config.test_split!r} is also the training split; name another "
                f"{option('test_split')} or leave it out"
            )
    check_classes_of_images(train.class_names, f"images {train.spec!r}")
    _check_enough(source, train, 2 if testing else 3, chosen=wanted is not None, held_out=testing is None)
    test = None if testing is None else _matching_test(source, train, testing, wanted)
    if test is None:
        train, test = _hold_out(train, config.holdout)
    warn_of_duplicates(train, test)
    train.config, test.for_testing = config, True
    return train, test


def load_training(
    config: str | ImagesConfig,
    *,
    everything: bool = False,
    independent: bool = False,
    progress: bool = True,
) -> LabelledImages:
    """Find only the training images, as in `load_splits`, but allow fewer classes and images.

    Args:
        config: Spec string or configuration.
        everything: Hold nothing out if the source has no test split.
        independent: Refuse to hold anything out, because one image can change which others are held out.
        progress: Show a progress bar if reading the images takes more than two seconds.

    Raises:
        UserError: As for `load_images`; also if a class is too small to hold out an image.
    """
    config, wanted = _settle(config, None, {}, min_classes=1)
    source, training = _opened(config, progress)
    testing = _testing(source, config, training)
    held_out = testing is None and not everything
    if held_out and independent:
        raise UserError(
            f"images {source.spec!r} have no test split, so some would be held out for testing, which breaks the "
            f"promise of {option('epsilon')}: one image can change which others are held out; add "
            f"{option('all_images', True)} to sum all of them, or give the images a test split"
        )
    images = source.load(training, wanted)
    check_classes_of_images(images.class_names, f"images {images.spec!r}")
    _check_enough(source, images, 3 if held_out else 1, chosen=wanted is not None, held_out=held_out, min_classes=1)
    if held_out:
        images, test = _hold_out(images, config.holdout)
        _log.info(
            "%d of %d images are held out for testing; %s uses all",
            len(test), len(images) + len(test), option("all_images", True),
        )  # fmt: skip
        images.held_out = test.names
    warn_of_duplicates(images)
    images.config = config if held_out or testing is not None else None
    return images


def _testing(source: Source, config: ImagesConfig, training: str) -> str | None:
    """The name of the test split, if there is one."""
    return config.test_split or _pick([name for name in source.splits if name != training], TESTING)


def held_out_names(test: LabelledImages | None) -> Sequence[str]:
    """Names of the test images that `load_splits` held out; empty for a test split that came with the source."""
    return test.names if test is not None and test.split.startswith(_HELD_OUT) else ()


def _matching_test(
    source: Source, train: LabelledImages, testing: str, wanted: tuple[str, ...] | None
) -> LabelledImages:
    test = source.load(testing, wanted, absent_ok=True)
    alone = f", or give {spec} to hold some out" if (spec := source.alone(train.split)) else ""
    another = f"name another {option('test_split')}{alone}"
    found = {test.class_names[label] for label in np.unique(test.labels)}
    strangers = found - set(train.class_names)
    if strangers:
        name = min(strangers)
        near = difflib.get_close_matches(name, train.class_names, n=1)
        meant = f"{f'rename it to {near[0]!r}' if near else 'add it to the training images'} or leave it out with "
        way_out = f"nor is any other: {another}" if strangers == found and not near else meant + option("classes")
        raise UserError(
            f"class {name!r} is in split {testing!r} of {source.spec} but not in the training split "
            f"{train.split!r}; {way_out}"
        )
    test = test.of(train.class_names, "class", absent_ok=True)
    if not len(test):
        raise UserError(f"split {testing!r} of {source.spec} has no images to test on; {another}")
    return test


def named_classes(config: ImagesConfig) -> tuple[str, ...] | None:
    """The classes that ``config.classes`` names, @FILE read; ``None`` if it names none."""
    return _settle(config, None, {})[1]


def _settle(
    spec_or_config: str | ImagesConfig, classes: Sequence[str] | None, options: Mapping[str, Any], min_classes: int = 2
) -> tuple[ImagesConfig, tuple[str, ...] | None]:
    """Return the checked configuration and the requested class names, with @FILE read."""
    if isinstance(spec_or_config, str):
        config = ImagesConfig(images=spec_or_config, **options)
    elif not isinstance(spec_or_config, ImagesConfig):
        raise UserError(
            f"images is a {type(spec_or_config).__name__}; give a spec such as 'folder:photos', or wrap your own "
            f"images with {how_to_label(spec_or_config)}"
        )
    else:
        config = dataclasses.replace(spec_or_config, **options)
    if not 0 < config.holdout < 1:
        raise UserError(f"holdout {config.holdout!r} is not between 0 and 1; give a share such as 0.2")
    asked = classes if classes is not None else config.classes
    if asked is None:
        return config, None
    entries = [asked] if isinstance(asked, str) else list(asked)
    wanted = class_list(entries)
    check_classes(wanted, (), classes_argument(), config.images, absent_ok=True)
    if len(wanted) < min_classes:
        a_line = ", one per line" if any(entry.startswith("@") for entry in entries) else ""
        count = counted(len(wanted), "class", "classes")
        raise UserError(f"classes {entries} name {count}; name at least {min_classes}{a_line}")
    # Names instead of @FILE: the file may change or be gone, such as a shell's <(…), when a run's config is read.
    names = [re.sub(r"^(?=\\*@)", r"\\", name) for name in wanted]
    return dataclasses.replace(config, classes=names), tuple(wanted)


def class_list(entries: Sequence[str]) -> list[str]:
    """The names of classes as options give them, with @FILE read."""
    wanted: list[str] = []
    for entry in entries:
        wanted += _names_in_file(Path(entry[1:])) if entry.startswith("@") else [re.sub(r"^\\(?=\\*@)", "", entry)]
    return list(composed(wanted))


def _names_in_file(path: Path) -> list[str]:
    """Read one name per line. Lines that start with # are comments; ``\\#1`` is the class ``#1``."""
    check_plain_file(at_home(path), f"classes '@{path}'")
    try:
        with open(at_home(path), "rb") as file:
            content = file.read(_MOST_NAMES_BYTES + 1)
        if len(content) > _MOST_NAMES_BYTES:
            raise ValueError(f"more than {_MOST_NAMES_BYTES:,} bytes")
        lines = text_of(content).split("\n")
    except FileNotFoundError:
        raise UserError(
            f"classes '@{path}': no such file; give a UTF-8 text file with one class name per line, or write "
            f"\\@{path} for a class of that name"
        ) from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(
            f"classes '@{path}' cannot be read ({one_line(str(error))}); give a UTF-8 text file with one class "
            "name per line"
        ) from error
    names = [line.strip() for line in lines]
    tight = [name for name in names if re.match(r"#[^\s#]", name)]  # probably a name such as #1, not a comment
    if tight:
        warnings.warn(
            f"classes '@{path}': {one_line(tight[0])!r}{and_more(len(tight))} read as a comment; write \\# for a "
            "name that begins with #",
            stacklevel=2,
        )
    return [re.sub(r"^\\(?=\\*#)", "", name) for name in names if name and not name.startswith("#")]


def _opened(config: ImagesConfig, progress: bool) -> tuple[Source, str]:
    """The source, and the name of its training split."""
    source = open_source(config)
    source.progress = progress
    return source, _training_split(source, config.split)


def _check_enough(
    source: Source, images: LabelledImages, least: int, *, chosen: bool, held_out: bool = False, min_classes: int = 2
) -> None:
    where = f"{images.spec} (split {images.split!r})"
    if len(images.class_names) < min_classes:
        found = ", ".join(map(repr, images.class_names)) or "none"
        hint = f"name more with {option('classes')}" if chosen else "add images of another class"
        if not chosen and len(images.class_names) == 1 and any(name.count("/") > 1 for name in images.names[:1]):
            hint += f", or give the folder {images.class_names[0]!r} if its folders are the classes"
        ending = "" if chosen else source.beside_classes(images.split)
        raise UserError(f"images {where} have fewer than {min_classes} classes ({found}){ending or f'; {hint}'}")
    counts = images.counts()
    small = np.flatnonzero(counts < least)
    if len(small):
        count = int(counts[small[0]])
        more = counted(len(small) - 1, "more class has", "more classes have")
        others = f" ({more} too few)" if len(small) > 1 else ""
        need = f"at least {least} are needed" + (" to hold one out for testing" if held_out else "")
        raise UserError(
            f"class {images.class_names[small[0]]!r} has {counted(count, 'image')} "
            f"in {where}{others}; {need}: add images or leave it out with {option('classes')}"
        )


def _pick(splits: Collection[str], preferred: Sequence[str]) -> str | None:
    return next((split for name in preferred for split in sorted(splits) if split.lower() == name), None)


def _named_split(source: Source, argument: str, wanted: str) -> str:
    if wanted in source.splits:
        return wanted
    same = next((group for group in ALIASES if wanted.lower() in group), {wanted.lower()})
    found = _pick(source.splits, [wanted.lower(), *sorted(same)])
    if found is None:
        hint = f"(in {source.spec})"
        if source.splits == (WHOLE,):
            hint = f"({source.spec} has no splits; leave it out to hold out a share)"
        raise unknown_name(argument, wanted, source.splits, hint=hint)
    return found


def _training_split(source: Source, wanted: str | None) -> str:
    if wanted is not None:
        return _named_split(source, "split", wanted)
    found = _pick(source.splits, TRAINING)
    if found is None:
        names = ", ".join(source.splits)
        raise UserError(
            f"images {source.spec!r} have no training split; name one of their splits with {option('split')}: {names}"
        )
    return found


def _holdout_indices(
    labels: NDArray[np.int64], names: Sequence[str], share: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide images into training and test indices, class by class, by a hash of their names.

    Each class of n ≥ 3 images keeps at least 2 for training and at least 1 for testing. The choice
    depends only on the names, not on their order or on other classes.
    """
    keys = [hashlib.sha256(b"probedistill holdout 0\n" + os.fsencode(name)).digest() for name in names]
    held: list[int] = []
    for members in rows_of_labels(labels):
        count = min(max(round(len(members) * share), 1), len(members) - 2)
        held += sorted(members.tolist(), key=lambda i: (keys[i], names[i]))[:count]
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[held] = True
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _hold_out(images: LabelledImages, share: float) -> tuple[LabelledImages, LabelledImages]:
    train, test = (images.select(part) for part in _holdout_indices(images.labels, images.names, share))
    train.split = f"{images.split} without holdout {share:g}"
    test.split = f"{_HELD_OUT}{share:g} of {images.split}"
    return train, test
