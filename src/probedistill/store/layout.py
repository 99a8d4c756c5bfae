"""The location and name of every file that probedistill writes.

A **run**, written by ``distill``. Other commands write their results to it, too::

    RUN/
      run.json                       what made the set: settings, versions, fingerprints, losses (`RunRecord`)
      images/
        CLASS/000.png …              8-bit images: what is shipped and what is evaluated
        metadata.parquet             file_name, label and class_name of each image, for Hugging Face (`store/table.py`)
      tensors.safetensors            images (m, 3, S, S) float32 and labels (m,) int64; on request soft_labels (m, C),
                                     head.weight (C, d) and head.bias (C,), all float32
      SHA256SUMS                     a digest of each file above: what makes them one set
      README.md                      the card: what the set is, for people and for the hub (`store/card.py`)
      config.yaml                    repeats the run: ``probedistill distill --config FILE --out FOLDER``
      statistics-1-ENCODER-SIZEpx.stats   with keep_stats: sums of each encoder's real features
      preview.png                    a grid of the images
      held-out.txt                   names of the images held out for testing, if the source has no test split
      evolution/step-0000040.webp …  the images at step 0, at each preview and at the end
      progress.json                  while the run is going: how far it has got
      checkpoints/step-0000040.safetensors …   while the run is going: the two newest states
      evaluation-ENCODER-SIZEpx.json           scores of ``evaluate``
      geometry.json, bias.json, …    results of analyses, with a PNG for each
      audit-pairs.png                synthetic images next to the nearest photos: it shows photos
      audit-shadows/0000.safetensors …   scores of photos by each shadow set of ``audit``

An **export**, written by ``export``, is a set of its own: ``run.json``, ``images/``, ``tensors.safetensors`` without
the float images, ``SHA256SUMS``, ``README.md``, and ``config.yaml`` with the options of its encoder, unless these name
files or code.

The **cache** ($PROBEDISTILL_CACHE) contains features::

    CACHE/features/DIGEST/           one folder for each encoder, images, views and seed
      manifest.json                  what they are features of
      shard-00000.safetensors …      features of some images
    CACHE/views/ENCODER-DIGEST.safetensors   features of augmented views that probes are fitted on

    CACHE/hub/USER--NAME/NAME@COMMIT/   a set from the hub, which is never changed
    CACHE/sets/NAME-DIGEST/          a copy of a set that comes with the package, likewise
    CACHE/…/….results/               next to them: results that would go to a run (`store/named.py`)

**Statistics**, written by ``stats``: one file ``NAME.stats`` (`ClassStatistics.save` has its content).

**A ready head**, written by ``migrate``::

    OUT/head.safetensors             weight (C, d) and bias (C,) float32; classes, encoder, preparation, forecast
    OUT/config.yaml                  the options of its encoder
    OUT/migrate.json, migrate.png    every candidate with its forecast

**Composed data**, written by ``compose``::

    OUT/train/CLASS/…, OUT/test/CLASS/…      pictures
    OUT/groups.csv                   class and background of each picture
    OUT/composed.json                how they were made

Every command writes a file under the temporary name ``.NAME.….part`` and renames it when it is complete. A name that
ends in ``.part`` is left over from a process that was killed; the next command that writes there removes it. The
process that is using a folder holds ``.lock``.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder

RUN = "run.json"
IMAGES = "images"
METADATA = "metadata.parquet"
OLD_METADATA = "metadata.jsonl"
"""The same in sets that were written before release 0.2.0."""
TENSORS = "tensors.safetensors"
SUMS = "SHA256SUMS"
CONFIG = "config.yaml"
PREVIEW = "preview.png"
CARD = "README.md"
HELD_OUT = "held-out.txt"
EVOLUTION = "evolution"
PROGRESS = "progress.json"
CHECKPOINTS = "checkpoints"
HEAD = "head.safetensors"
LOCK = ".lock"
EVALUATIONS = "evaluation-*.json"
"""Every file of `scores_file`."""
SHADOWS = "audit-shadows"
"""Folder of what ``audit`` keeps for each shadow set."""
STATISTICS = "statistics-*.stats"
"""Every file of `statistics_file`."""
BY_COMMANDS = (EVALUATIONS, "geometry.*", "bias.*", "audit.*", "audit-pairs.png")
"""What other commands leave in the folder of a run."""

SUFFIXES = {"png": "png", "webp": "webp", "jpeg": "jpg"}
"""Image format of a set → suffix of its file names."""

_NAME_BYTES = 200  # file systems allow 255; a number in front and temporary names need some of them
# Windows refuses these, with or without a suffix. Hugging Face's imagefolder reads metadata.* as labels.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)
_METADATA = re.compile(r"metadata\.(jsonl|csv|parquet)", re.IGNORECASE)
# datasets.data_files treats a folder as a split if its name has one of these words between separators or at an end,
# and then ignores all other folders.
_SPLIT = re.compile(
    r"(?<![^-._ 0-9])(train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?![^-._ 0-9])"
)
_FORBIDDEN = '/\\:*?"<>|%$'  # the first nine by file systems; % is our escape, and datasets expands $HOME in paths


def check_beside_images(folder: Path, called: str = "") -> None:
    """Raise `UserError` for a folder among the images of a run: torchvision would take it for a class.

    ``called`` is the argument that the error names.
    """
    path = Path(os.path.abspath(folder))
    for part in (path, *path.parents):
        if part.name in (IMAGES, EVOLUTION, CHECKPOINTS) and (part.parent / RUN).is_file():
            raise UserError(
                f"{called}{str(folder)!r} is inside the run {part.parent.name!r}; choose a folder outside it"
            )


def checkpoint_file(step: int) -> str:
    """Name of the checkpoint after a step, below ``checkpoints/``."""
    return f"step-{step:07d}.safetensors"


def sprite_file(step: int) -> str:
    """Name of the picture of all images after a step, below ``evolution/``."""
    return f"step-{step:07d}.webp"


def scores_file(encoder: Encoder) -> str:
    """Name of the file with a set's scores on an encoder, in the folder of the set."""
    return f"evaluation-{safe_name(encoder.name)}-{encoder.input_size}px.json"


def statistics_file(number: int, encoder: str, input_size: int) -> str:
    """Name of the file with the statistics of an encoder's real features; ``number`` counts from 0."""
    return f"statistics-{number + 1}-{safe_name(encoder)}-{input_size}px.stats"


def image_files(labels: Sequence[int], class_names: Sequence[str], suffix: str) -> Iterator[str]:
    """CLASS/000.png … for each image, below ``images/``. Depends only on classes and order, not on contents."""
    counts, folders = [0] * len(class_names), class_folders(class_names)
    for label in labels:
        yield f"{folders[label]}/{counts[label]:03d}.{suffix}"
        counts[label] += 1


# ---------------------------------------------------------------------------------------------------
# Any name → the name of a file


def safe_name(text: str) -> str:
    """Any text as the name of one file or folder that Windows, macOS and Linux take.

    Characters that one of them refuses become ``%XX`` as in a URL: ``urllib.parse.unquote`` gives the text back. The
    end of a very long text becomes a digest.

    >>> safe_name("T-shirt/top"), safe_name(".."), safe_name("café au lait"), safe_name("aux")
    ('T-shirt%2Ftop', '%2E%2E', 'café au lait', 'au%78')
    """
    name = "".join(_escaped(c) if c in _FORBIDDEN or not _is_plain(c) else c for c in text) or "%"
    if name[0] in ". ~" or name.startswith("__"):  # hidden, a home folder, or ignored by datasets
        name = _escaped(name[0]) + name[1:]
    if name[-1] in ". ":
        name = name[:-1] + _escaped(name[-1])
    if match := _RESERVED.match(name):
        last = match.end(1) - 1
        name = name[:last] + _escaped(name[last]) + name[last + 1 :]
    if len(name.encode()) <= _NAME_BYTES:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    short = name.encode()[: _NAME_BYTES - 9].decode(errors="ignore")
    return f"{short}~{digest}"


def unique_names(texts: Sequence[str]) -> list[str]:
    """A safe name for each text, all different even if a file system ignores case or the form of accents.

    >>> unique_names(["Cat", "cat", "dog"])
    ['Cat', 'cat~2', 'dog']
    """
    taken: set[str] = set()
    names = []
    for text in texts:
        base = safe_name(text)
        name, number = base, 1
        while _compared_name(name) in taken:
            number += 1
            name = f"{base}~{number}"
        taken.add(_compared_name(name))
        names.append(name)
    return names


def class_folders(class_names: Sequence[str]) -> list[str]:
    """Return a folder name for each class, so that torchvision's ImageFolder numbers the classes as the set does.

    ImageFolder numbers folders in the order of their names. If that order is different, each name is prefixed with the
    number of its class. Hugging Face's imagefolder treats a folder called ``train`` as a split and drops the others,
    so the last letter of such a word is escaped.

    >>> class_folders(["bus", "train"]), class_folders(["red", "blue"])
    (['bus', 'trai%6E'], ['0-red', '1-blue'])

    Raises:
        UserError: In this locale, names beyond ASCII would be other files than on other machines.
    """
    names = [_without_split_words(name) for name in unique_names(class_names)]
    _check_encoding(names)
    if sorted(names) != names:
        digits = len(str(len(names) - 1))
        names = [_without_split_words(f"{number:0{digits}d}-{name}") for number, name in enumerate(names)]
    return names


def _check_encoding(names: Sequence[str]) -> None:
    encoding = sys.getfilesystemencoding()
    name = next((name for name in names if not name.isascii()), None)
    if name is not None and encoding.lower() not in ("utf-8", "utf8"):
        raise UserError(
            f"class {name!r} cannot be a folder, because names of files are read as {encoding} here; set PYTHONUTF8=1"
        )


def _without_split_words(name: str) -> str:
    """Escape words that `datasets` treats as a split, and the name of its table."""
    if _METADATA.fullmatch(name):
        return name[:-1] + _escaped(name[-1])
    while match := _SPLIT.search(name):
        last = match.end() - 1
        name = name[:last] + _escaped(name[last]) + name[last + 1 :]
    return name


def _is_plain(character: str) -> bool:
    """Whether a character may be in a file name: no control character, invisible mark or lone surrogate."""
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _compared_name(name: str) -> str:
    """A name as file systems compare it if they ignore case and the form of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def check_named_once(folders: Sequence[Path]) -> None:
    """Raise `UserError` if a run is named twice, even in different ways."""
    resolved = [folder.resolve() for folder in folders]
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise UserError(f"run {str(folders[i])!r} is named twice; name each run once")
