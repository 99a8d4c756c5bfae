"""A CSV file with each image's group: its class and, for example, its background."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, option, unknown_name
from ..images.labelled import LabelledImages
from ..images.sources import FOLDER_SPLITS
from ..machine.places import check_plain_file
from ..text import text_of

_JOIN = "/"


@dataclass(frozen=True)
class GroupFile:
    """The content of a group file.

    Attributes:
        path: The file.
        values: Image name → its background, or several attributes joined by "/".
        classes: Image name → its class; empty if the file has no such column.
    """

    path: Path
    values: dict[str, str]
    classes: dict[str, str]

    def match(self, *parts: LabelledImages) -> list[list[str]]:
        """The background of every image, for each part (train, test …) in its order.

        Rows of classes, and of split folders, that are not among the parts are ignored.

        Raises:
            UserError: The file names images that are in none of the parts, lacks some that are, or gives an image a
                different class.
        """
        where = f"groups {str(self.path)!r}"
        known = {name: part.class_names[label] for part in parts for name, label in zip(part.names, part.labels)}
        used = {name for part in parts for name in part.class_names}
        splits = {name.split("/")[0] for name in known}

        def asked_for(name: str) -> bool:
            other_split = name.split("/")[0].lower() in FOLDER_SPLITS and name.split("/")[0] not in splits
            return not other_split and self.classes.get(name, "") in used | {""}

        unknown = [name for name in self.values if name not in known and asked_for(name)]
        if unknown:
            raise UserError(
                f"{where} names {unknown[0]!r}{_more(unknown)}, which is not among the images of "
                f"{parts[0].spec} (such as {next(iter(known), '')!r}); correct the names or choose "
                f"other {option('images')}"
            )
        missing = [name for name in known if name not in self.values]
        if missing:
            raise UserError(
                f"{where} misses {missing[0]!r}{_more(missing)} of {parts[0].spec}; add a row for each image"
            )
        other = [name for name, of in known.items() if self.classes.get(name, of) != of]
        if other:
            raise UserError(
                f"{where} gives {other[0]!r} class {self.classes[other[0]]!r}, the images {known[other[0]]!r}"
                f"{_more(other)}; correct the file"
            )
        return [[self.values[name] for name in part.names] for part in parts]


def read_groups(path: Path | str, attributes: Sequence[str] = ("background",)) -> GroupFile:
    """Read a CSV file with the columns file, class (optional) and the attributes; others are ignored.

    File names are relative to the folder of the images (``train/bird/001.jpg``); column names are not case-sensitive.

    Args:
        path: The file.
        attributes: Columns that, with the class, make up a group; several are combined.

    Raises:
        UserError: No such file, not CSV in UTF-8, a missing column or value, or a file named twice.
    """
    path, where = Path(path), f"groups {str(path)!r}"
    if not attributes:
        raise UserError("attribute is empty; give at least one column, such as background")
    check_plain_file(path, where)
    try:
        text = text_of(path.read_bytes())
        first = text.lstrip("\n").partition("\n")[0]
        between = max(",;\t", key=first.count)  # spreadsheets write ; in many countries
        reader = csv.reader(io.StringIO(text), delimiter=between)
        rows = [(number, row) for number, row in enumerate(reader, 1) if any(row)]
    except FileNotFoundError:
        raise UserError(f"{where}: no such file; give a CSV file with the columns file, class, background") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where} cannot be read as CSV in UTF-8: {reason}; correct the file") from error
    if not rows:
        raise UserError(f"{where} is empty; it needs the columns file, class, {', '.join(attributes)} and their rows")
    header = [name.strip().lower() for name in rows[0][1]]
    for name in ("file", *attributes):
        if name.lower() not in header:
            raise unknown_name("column", name, header, hint=f"(in {path.name})")
    columns = {name: header.index(name) for name in ("file", *map(str.lower, attributes), "class") if name in header}
    values: dict[str, str] = {}
    classes: dict[str, str] = {}
    twice = []
    for number, row in rows[1:]:
        cells = {name: "".join(row[i : i + 1]).strip() for name, i in columns.items()}
        absent = next((name for name, cell in cells.items() if not cell), None)
        if absent is not None:
            raise UserError(f"{where}, line {number}: no {absent}; fill it in")
        # Accents in one form, as in the names of images: a file from another system may use the other form.
        name = unicodedata.normalize("NFC", cells["file"].replace("\\", "/").removeprefix("./"))
        if name in values:
            twice.append(name)
        values[name] = _JOIN.join(cells[attribute.lower()] for attribute in attributes)
        if "class" in cells:
            classes[name] = unicodedata.normalize("NFC", cells["class"])
    if twice:
        raise UserError(f"{where} names {twice[0]!r} twice{_more(twice)}; keep one row for each image")
    return GroupFile(path, values, classes)


def group_names(images: LabelledImages, backgrounds: Sequence[str]) -> list[str]:
    """The group of each image: ``class/background``."""
    return [
        f"{images.class_names[label]}{_JOIN}{background}"
        for label, background in zip(images.labels, backgrounds, strict=True)
    ]


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
