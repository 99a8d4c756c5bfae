"""``set:NAME``: small sets that come with the package. ``benchmarks/released_sets.py`` makes them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import explained
from ..machine.places import cache_folder, checked_cache
from ..methods import check_name
from ..show.results import Result
from ..show.tables import Table
from ..store.card import published
from ..store.files import whole_folder
from ..store.layout import CARD, RUN, SUMS
from ..store.locks import PATIENCE, claimed
from ..store.named import SETS
from ..store.run_record import RunRecord, read_run
from ..store.sums import file_digest

PLACE = Path(__file__).parents[1] / "sets"
"""Their place in the package: a folder for each, as written by `export`."""


def released_names() -> list[str]:
    """Names of the sets that come with the package."""
    return sorted(path.parent.name for path in PLACE.glob(f"*/{RUN}"))


def unpack(name: str) -> Path:
    """The folder of a released set: a copy in the cache.

    Raises:
        UserError: There is no such set, or the cache cannot be written.
    """
    check_name("set", name, released_names(), "(see probedistill sets)")
    source = PLACE / name
    folder = cache_folder() / SETS / f"{name}-{file_digest(source / SUMS)[:12]}"
    if not (folder / RUN).is_file():
        checked_cache(writes=True)
        with (
            explained(f"set {name!r} cannot be copied to {str(folder)!r}", OSError, hint="free some space"),
            claimed(folder.parent, called="cache", wait=PATIENCE),
            whole_folder(folder) as partial,
        ):
            shutil.copytree(source, partial, dirs_exist_ok=True)
    return folder


@dataclass(frozen=True)
class ReleasedSet:
    """A set that comes with the package.

    Attributes:
        name: NAME in ``set:NAME``.
        run: What made it.
        licence: The hub's name for its licence.
        bytes: Size of its folder.
    """

    name: str
    run: RunRecord
    licence: str
    bytes: int


@dataclass(frozen=True)
class ReleasedSets(Result):
    """All sets that come with the package."""

    sets: tuple[ReleasedSet, ...]

    def tables(self) -> list[Table]:
        """A row for each set."""
        rows = tuple(
            (
                f"set:{one.name}",
                published(one.run.images.spec),
                "\n".join(map(str, one.run.encoders)),
                f"{one.run.image_count:,}",
                one.licence,
                f"{one.bytes:,}",
            )
            for one in self.sets
        )
        head = ("name", "made from", "for", "images", "licence", "bytes in all")
        return [Table("", head, rows, left=3)]

    def findings(self) -> list[str]:
        """How they are used."""
        return ["probedistill evaluate set:NAME --config set:NAME --images folder:PATH scores one on your test images."]


def released_sets() -> ReleasedSets:
    """Return the sets that come with the package, as their files describe them."""
    return ReleasedSets(tuple(map(_described, released_names())))


def _described(name: str) -> ReleasedSet:
    folder = PLACE / name
    lines = (folder / CARD).read_text(encoding="utf-8").splitlines()
    licence = next(line.removeprefix("license:").strip() for line in lines if line.startswith("license:"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ReleasedSet(name, read_run(folder), licence, size)
