"""``cub:PATH``, ``dogs:PATH``, ``waterbirds:PATH``, ``spawrious:PATH``: research sets in their original layouts.

Each has its own lists of the class and split of every image. Other sets of the papers are folders (``folder:``) or
known to torchvision.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from ..config import ImagesConfig
from ..errors import UserError, explained, option
from ..machine.places import at_home
from ..methods import check_name
from .entries import is_system_folder, listing
from .sources import Items, Source, described

Row = tuple[str, str, str]
"""An image's path below the set's folder, its class and its split."""


def _listed(place: str, config: ImagesConfig, marker: str, rows: Callable[[Path], Iterator[Row]]) -> Source:
    """Return a source of the rows of a set whose folder contains ``marker``.

    Raises:
        UserError: It does not, or the set's lists are damaged or name files outside the folder.
    """
    spec, root = config.images, at_home(Path(place))
    below = (path.parent for path in root.glob(f"*/{marker}") if not is_system_folder(path.parent.name))
    inner = sorted(below) if not (root / marker).exists() else [root]
    if not inner:
        raise UserError(f"images {spec!r}: no {marker} in {str(root)!r}; give the folder of the unpacked set")
    root = inner[0]
    reading = f"images {spec!r}: the lists in {str(root)!r} cannot be read"
    with explained(reading, Exception, hint="fetch the set again"):  # scipy raises many types on a damaged .mat file
        found = list(rows(root))
    outside = next((path for path, _, _ in found if path.startswith(("/", "\\")) or ".." in Path(path).parts), None)
    if outside is not None:
        raise UserError(
            f"images {spec!r}: the lists name {outside!r}, which is outside {str(root)!r}; download it again"
        )
    class_names = sorted({name for _, name, _ in found})

    def read(split: str) -> Items:
        own = [(path, name) for path, name, of in found if of == split]
        number = {name: i for i, name in enumerate(class_names)}
        return Items(
            images=[root / path for path, _ in own],
            labels=[number[name] for _, name in own],
            class_names=class_names,
            names=[path for path, _ in own],
        )

    return Source(spec, {split: partial(read, split) for split in dict.fromkeys(split for _, _, split in found)})


@described("cub:CUB_200_2011", options=(), is_path=True)
def cub_source(place: str, config: ImagesConfig) -> Source:
    """Caltech-UCSD Birds-200-2011 with its official split."""
    return _listed(place, config, "train_test_split.txt", _cub_rows)


def _cub_rows(root: Path) -> Iterator[Row]:
    def numbered(name: str) -> dict[str, str]:
        lines = (root / name).read_text(encoding="utf-8-sig").splitlines()
        return dict(line.split(maxsplit=1) for line in lines if line.strip())

    classes, class_of, is_train = map(numbered, ("classes.txt", "image_class_labels.txt", "train_test_split.txt"))
    for number, path in numbered("images.txt").items():
        yield f"images/{path}", classes[class_of[number]], "train" if is_train[number] == "1" else "test"


@described("dogs:PATH", options=(), is_path=True)
def dogs_source(place: str, config: ImagesConfig) -> Source:
    """Stanford Dogs with its official split."""
    return _listed(place, config, "Images", _dogs_rows)


def _dogs_rows(root: Path) -> Iterator[Row]:
    from scipy.io import loadmat

    for split in ("train", "test"):
        name = f"{split}_list.mat"
        path = root / name if (root / name).exists() else root / "lists" / name
        for (entry,) in loadmat(path)["file_list"]:
            yield f"Images/{entry.item()}", entry.item().split("/")[0].partition("-")[2], split


@described("waterbirds:PATH", options=(), is_path=True)
def waterbirds_source(place: str, config: ImagesConfig) -> Source:
    """Waterbirds: birds of CUB on backgrounds of Places, in training mostly on the usual one."""
    return _listed(place, config, "metadata.csv", _waterbirds_rows)


def _waterbirds_rows(root: Path) -> Iterator[Row]:
    with (root / "metadata.csv").open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            name = ("landbird", "waterbird")[int(row["y"])]
            yield row["img_filename"], name, ("train", "val", "test")[int(row["split"])]


_SPAWRIOUS = {
    # places of bulldogs, dachshunds, labradors and corgis in training and in testing, and the place that all share
    "o2o_easy": (("desert", "jungle", "dirt", "snow"), ("dirt", "snow", "desert", "jungle"), "beach"),
    "o2o_medium": (("mountain", "beach", "dirt", "jungle"), ("jungle", "dirt", "beach", "snow"), "desert"),
    "o2o_hard": (("jungle", "mountain", "snow", "desert"), ("mountain", "snow", "desert", "jungle"), "beach"),
}
_BREEDS = ("bulldog", "dachshund", "labrador", "corgi")
_SPAWRIOUS_SHARES = (0.97, 0.87)
"""Share of a breed's images at its usual place, in the two environments of the training data."""


@described("spawrious:PATH", options=("source_args",), is_path=True)
def spawrious_source(place: str, config: ImagesConfig) -> Source:
    """Spawrious, one of its one-to-one challenges: ``--source-args.challenge o2o_hard`` (default: o2o_easy)."""
    challenge = str(config.source_args.get("challenge", "o2o_easy"))
    check_name("challenge", challenge, _SPAWRIOUS, f"(in {option('source_args.challenge')})")
    return _listed(place, config, "0", partial(_spawrious_rows, challenge=challenge))


def _spawrious_rows(root: Path, challenge: str) -> Iterator[Row]:
    usual, unusual, shared = _SPAWRIOUS[challenge]
    for environment, share in enumerate(_SPAWRIOUS_SHARES):
        for breed, own, other in zip(_BREEDS, usual, unusual, strict=True):
            files = _spawrious_files(root, environment, own, breed)
            most = int(share * len(files))
            rest = _spawrious_files(root, environment, shared, breed)[: len(files) - most]
            yield from ((path, breed, "train") for path in [*files[:most], *rest])
            yield from ((path, breed, "test") for path in _spawrious_files(root, environment, other, breed))


def _spawrious_files(root: Path, environment: int, place: str, breed: str) -> Sequence[str]:
    folder = root / str(environment) / place / breed
    names = sorted(path.name for path in listing(folder) if Path(path.name).suffix.lower() in (".png", ".jpg", ".jpeg"))
    return [f"{environment}/{place}/{breed}/{name}" for name in names]
