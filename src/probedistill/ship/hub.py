"""Sets on the Hugging Face hub: ``push`` and ``hub:USER/NAME[@REVISION]``.

A stranger's repository is fetched file by file. The file names follow from the classes and labels of the set, never
from a list in the repository. The files are JSON, safetensors and images; no code is run. Every file is checked against
``SHA256SUMS`` before the set is used.

Tested against a stand-in of the hub's HTTP interface (``tests/ship/test_hub.py``), not against the hub itself.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..encoders.named import fields_in_word, in_one_word
from ..encoders.trust import read_yaml
from ..errors import UserError, explained, option
from ..machine.network import asking_the_hub, check_waits, hub_address
from ..machine.places import checked_cache
from ..machine.progress import ProgressBar
from ..machine.threads import Workers
from ..store.card import REAL_DATA, published, real_data, rewrite
from ..store.distilled import DistilledSet, Encoded, set_files
from ..store.files import whole_file, whole_folder
from ..store.layout import CARD, CONFIG, HELD_OUT, IMAGES, PREVIEW, RUN, SUMS, TENSORS, safe_name
from ..store.locks import PATIENCE, claimed
from ..store.named import HUB, run_folder
from ..store.run_record import EncoderRecord, RunRecord

_SPEC = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w.-][\w./-]*))?")
_SET = (RUN, SUMS, TENSORS)
_BESIDE = (CARD, CONFIG, PREVIEW, HELD_OUT)
_MOST_BYTES = 8 * 2**30
_DATASET: dict[str, Any] = {"repo_type": "dataset"}
_CANNOT = "check the name and the network; for a private one, set HF_TOKEN"


@dataclass(frozen=True)
class Upload:
    """What `push` uploads, or would upload.

    Attributes:
        repo: USER/NAME.
        address: Its web address.
        private: Whether the repository is private.
        files: Name of each file → its size in bytes.
        left_out: Files of the run that are not uploaded.
    """

    repo: str
    address: str
    private: bool
    files: Mapping[str, int]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        images = [name for name in self.files if name.startswith(f"{IMAGES}/")]
        others = ", ".join(name for name in self.files if name not in images)
        text = (
            f"{len(self.files):,} files, {sum(self.files.values()):,} bytes: {others}, {len(images):,} below {IMAGES}/"
        )
        text += f"\nto {self.address}, {'private' if self.private else 'public: anyone can see it'}"
        return text + (f"\nleft out: {', '.join(self.left_out)}" if self.left_out else "")


# ---------------------------------------------------------------------------------------------------
# Push


@contextmanager
def prepared(run: Path | str, repo: str, *, private: bool = False) -> Iterator[tuple[Path, Upload]]:
    """Yield a copy of a set that can be published, with the list of its files; it is removed after the block.

    The copy names no local folders. The card is copied with its owner's edits. Scores are in the card; their files,
    statistics of the real features and pictures of the evolution are left out.

    Args:
        run: A finished run.
        repo: USER/NAME.
        private: Whether the repository is private.

    Raises:
        UserError: No such run, an unfinished or damaged one, or a name that the hub does not accept.
    """
    match = _SPEC.fullmatch(repo)
    if match is None or match[2]:
        raise UserError(f"repository {repo!r} must be USER/NAME, of letters, digits, '-', '_' and '.'")
    folder = run_folder(run)
    distilled = DistilledSet.load(folder)
    with tempfile.TemporaryDirectory(prefix="probedistill-push-") as place:
        copy = Path(place)
        _copy(distilled, folder, copy)
        files = {path.relative_to(copy).as_posix(): path.stat().st_size for path in sorted(copy.rglob("*"))
                 if path.is_file()}  # fmt: skip
        left_out = sorted({path.name for path in folder.iterdir()} - {name.split("/")[0] for name in files})
        left_out = [name for name in left_out if not name.startswith(".")]
        yield copy, Upload(repo, f"{hub_address()}/datasets/{repo}", private, files, tuple(left_out))


def push(run: Path | str, repo: str, *, private: bool = False, dry_run: bool = False) -> Upload:
    """Upload a set to the Hugging Face hub; ``hub:USER/NAME`` names it from then on.

    Args:
        run: A finished run.
        repo: USER/NAME; it is created if it does not exist.
        private: Whether the repository is private.
        dry_run: Upload nothing.

    Raises:
        UserError: See `prepared`; no token; or the hub refuses.
    """
    with prepared(run, repo, private=private) as (copy, upload):
        if not dry_run:
            send(copy, upload)
        return upload


def check_token() -> None:
    """Raise `UserError` if there is no token of the hub."""
    check_waits()
    import huggingface_hub

    if not huggingface_hub.get_token():
        raise UserError("no token for the Hugging Face hub; set HF_TOKEN, or log in once with: hf auth login")


def send(copy: Path, upload: Upload) -> None:
    """Upload a copy made by `prepared`; see `push`."""
    check_token()
    api, repo = _api(), upload.repo
    hint = "check the name, the network and the token's rights"
    with explained(f"repository {repo!r} cannot be written", Exception, hint=hint):
        api.create_repo(repo, private=upload.private, exist_ok=True, **_DATASET)
        if bool(api.repo_info(repo, **_DATASET).private) != upload.private:
            is_now = "public" if upload.private else "private"
            fix = f"leave out {option('private', True)}" if upload.private else f"add {option('private', True)}"
            raise UserError(f"repository {repo!r} exists and is {is_now}; {fix}, or change it on the hub")
        api.upload_folder(
            folder_path=copy, repo_id=repo, commit_message="Made with probedistill", delete_patterns=[f"{IMAGES}/*"],
            **_DATASET,
        )  # fmt: skip


def _copy(distilled: DistilledSet, folder: Path, copy: Path) -> None:
    """Write the set in its published form."""
    if (folder / PREVIEW).is_file():
        shutil.copyfile(folder / PREVIEW, copy / PREVIEW)
    if (folder / CONFIG).is_file():
        _copy_config(folder / CONFIG, copy / CONFIG)
    if (folder / HELD_OUT).is_file():
        lines = (folder / HELD_OUT).read_text(encoding="utf-8").split("\n")
        with whole_file(copy / HELD_OUT) as temporary:
            temporary.write_text("\n".join(map(published, lines)), encoding="utf-8", newline="\n")
    run, encoded = _published_run(distilled.run), None
    if run.export is not None:
        files = [(folder / IMAGES / name).read_bytes() for name in set_files(folder)[1:]]
        encoded = Encoded(files, run.export)
    replace(distilled, run=run).save(copy, encoded)
    if (folder / CARD).is_file():
        shutil.copyfile(folder / CARD, copy / CARD)
        rewrite(copy, REAL_DATA, real_data(copy, run))


def _published_run(run: RunRecord) -> RunRecord:
    """The record without the folders of this machine."""

    def encoder(record: EncoderRecord) -> EncoderRecord:
        return replace(record, name=published(record.name))

    also = [in_one_word(_published_value(fields_in_word(word))) for word in run.config.also]
    return replace(
        run,
        images=replace(run.images, spec=published(run.images.spec)),
        test=None if run.test is None else replace(run.test, spec=published(run.test.spec)),
        encoders=tuple(map(encoder, run.encoders)),
        statistics=tuple(replace(one, encoder=encoder(one.encoder)) for one in run.statistics),
        head=None if run.head is None else replace(run.head, encoder=published(run.head.encoder)),
        skipped=tuple(map(published, run.skipped)),
        config=replace(run.config, also=also),
    )


def _copy_config(path: Path, target: Path) -> None:
    """Copy the options of a run, without the folders of this machine."""
    content = read_yaml(path, f"config {str(path)!r}")
    content.pop("data_dir", None)
    for name in ("images", "encoder", "also", "checkpoint", "stats"):
        if name in content:
            content[name] = _published_value(content[name])
    with whole_file(target) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _published_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_published_value(one) for one in value]
    if isinstance(value, dict):
        return {name: _published_value(one) for name, one in value.items()}
    return published(value) if isinstance(value, str) else value


# ---------------------------------------------------------------------------------------------------
# Fetch


def fetch(place: str) -> Path:
    """The folder of a set on the hub, in the cache.

    Args:
        place: ``USER/NAME`` or ``USER/NAME@REVISION``, a branch, tag or commit.

    Returns:
        A folder like a run's. Without a network, it is the one last fetched under this name.

    Raises:
        UserError: No such repository, no set in it, or files that do not match its ``SHA256SUMS``.
    """
    match = _SPEC.fullmatch(place)
    if match is None:
        raise UserError(f"run 'hub:{place}' must be hub:USER/NAME or hub:USER/NAME@REVISION")
    check_waits()
    repo, revision = match[1], match[2]
    home = checked_cache() / HUB / safe_name(repo.replace("/", "--"))
    last = home / f"{safe_name(revision or 'newest')}.folder"
    try:
        way_out = "check the network, or use a set that comes with the package: probedistill sets"
        with (
            asking_the_hub(f"run 'hub:{place}'", way_out),
            explained(f"run 'hub:{place}' cannot be found", Exception, hint=_CANNOT),
        ):
            info = _api().repo_info(repo, revision=revision, files_metadata=True, **_DATASET)
    except UserError as error:
        from huggingface_hub.errors import HfHubHTTPError

        kept = _kept(home, last)
        if kept is None or isinstance(error.__cause__, HfHubHTTPError):  # the hub answered, and refused
            raise
        return kept
    commit = str(info.sha)
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise UserError(f"run 'hub:{place}' cannot be fetched: the hub names no commit")
    folder = home / f"{safe_name(repo.partition('/')[2])}@{commit[:12]}"  # the name that tables and reports show
    if not (folder / RUN).is_file():
        checked_cache(writes=True)
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()}
        with claimed(home, called="cache", wait=PATIENCE):
            if not (folder / RUN).is_file():
                _download(repo, commit, sizes, folder)
    with whole_file(last) as temporary:
        temporary.write_text(folder.name, encoding="utf-8")
    return folder


def _download(repo: str, commit: str, sizes: Mapping[str, int], folder: Path) -> None:
    called = f"run 'hub:{repo}'"
    missing = next((name for name in _SET if name not in sizes), None)
    if missing is not None:
        raise UserError(f"{called} is not a probedistill set: it has no {missing}")

    def get(name: str) -> None:
        from huggingface_hub import hf_hub_download

        with explained(f"{name} of {called} cannot be fetched", Exception, hint=_CANNOT):
            hf_hub_download(repo, name, revision=commit, local_dir=into, endpoint=hub_address(), **_DATASET)

    def check_sizes(names: list[str]) -> None:
        absent = next((name for name in names if name not in sizes), None)
        if absent is not None:
            raise UserError(f"{called} is damaged: {absent} is missing")
        if sum(sizes[name] for name in names) > _MOST_BYTES:
            raise UserError(f"{called} is larger than {_MOST_BYTES // 2**30} GiB, too large for a distilled set")

    with (
        explained(f"{called} cannot be kept in {str(folder.parent)!r}", OSError, hint="free some space"),
        whole_folder(folder) as into,
    ):
        check_sizes([*_SET])
        for name in _SET:
            get(name)
        names = [f"{IMAGES}/{name}" for name in set_files(into)]
        names += [name for name in _BESIDE if name in sizes]
        check_sizes([*_SET, *names])
        with Workers(8) as workers, ProgressBar("fetch", len(names)) as bar:
            for _ in workers.map(get, names):
                bar.advance()
        shutil.rmtree(into / ".cache", ignore_errors=True)  # made by the hub's client
        DistilledSet.load(into)


def _kept(home: Path, last: Path) -> Path | None:
    try:
        folder = home / last.read_text(encoding="utf-8")
    except OSError:
        return None
    return folder if folder.parent == home and (folder / RUN).is_file() else None


# ---------------------------------------------------------------------------------------------------
# The hub


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub_address())
