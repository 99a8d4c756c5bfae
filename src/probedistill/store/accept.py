"""Accept a deliberate edit: new digests for files as they are."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import UserError
from ..images.entries import own_files
from .distilled import DistilledSet, if_meant, set_files, take_images_of_files
from .files import whole_file
from .layout import IMAGES, METADATA, RUN, SUMS, TENSORS
from .locks import PATIENCE, claimed
from .named import check_own, run_folder
from .records import MAX_BYTES, SEAL, parse_json, sealed
from .run_record import check_plain_files, read_run
from .sums import MixedFilesError, file_digest, read_sums, write_sums
from .table import check_table


def accept_edits(path: Path) -> list[str]:
    """Accept a JSON file, or all files of a run.

    Returns:
        The names of the files that had changed.

    Raises:
        UserError: No such file, or damage that is more than an edit.
    """
    path = run_folder(path)
    check_own(path)
    if path.is_file():
        return [] if _accept_record(path) is None else [str(path)]
    if not path.is_dir():
        raise UserError(f"no such file or folder {str(path)!r}; give a run's folder or a JSON file")
    check_plain_files(path)
    with claimed(path, called="folder", wait=PATIENCE):
        before: dict[Path, bytes] = {}
        try:
            for file in sorted(path.glob("[!.]*.json")):
                content = _accept_record(file)
                if content is not None:
                    before[file] = content
            changed = [file.name for file in before]
            if (path / RUN).exists():
                changed += [name for name in _accept_files(path) if name not in changed]
        except UserError:  # accept all or nothing
            for file, content in before.items():
                with whole_file(file) as temporary:
                    temporary.write_bytes(content)
            raise
        return changed


def _accept_record(path: Path) -> bytes | None:
    """Renew the digest of a record; return what the file was before if it changed."""
    called = f"file {str(path)!r}"
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{called} is larger than any file that probedistill writes; restore it")
    before = path.read_bytes()
    content = parse_json(before, called, "restore it")
    fresh = sealed(content)
    if content.get(SEAL) == fresh[SEAL]:
        return None
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(fresh, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return before


def _accept_files(folder: Path) -> list[str]:
    """Write ``SHA256SUMS`` again; if the files are not a valid set, restore the old one."""
    run = read_run(folder)
    if not run.finished:
        return []
    try:
        before = read_sums(folder)
    except MixedFilesError:
        before = {}
    names = [RUN, TENSORS, *(file.relative_to(folder).as_posix() for file in own_files(folder / IMAGES))]
    odd = next((name for name in names if not (folder / name).is_file()), None)  # a pipe would block
    if odd is not None:
        raise UserError(f"{str(folder / odd)!r} is not a file; restore or remove it")
    after = {name: (file_digest(folder / name),) for name in names}
    write_sums(folder, after)
    try:
        DistilledSet.load(folder)
        table, *files = set_files(folder)
        if table == METADATA:
            check_table(folder / IMAGES / table, files)
        if take_images_of_files(folder):
            after[TENSORS] = (file_digest(folder / TENSORS),)
            write_sums(folder, after)
    except UserError as error:
        write_sums(folder, before) if before else (folder / SUMS).unlink()
        raise UserError(str(error).removesuffix(f"; {if_meant(folder)}")) from error  # this is what was tried
    return [name for name, known in after.items() if before.get(name) != known]
