"""SIGKILL in every command that writes: repeating it gives the undisturbed result, and leaves nothing else."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from conftest import TINY
from helpers_images import make_image_folder
from probedistill.store.tensors import load_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OPERATIONS = (0, 2, 5, 11)
"""File operations between the first temporary file and the kill."""
PHOTOS = ["--images", "folder:{photos}"]
MADE = [*PHOTOS, "--encoder", TINY, "--cache", "{cache}", "--no-progress"]
QUICK = ["--probes", "ridge", "--seeds", "1", "--views", "2"]
COMMANDS = {
    "distill": ["distill", *MADE, "--steps", "2", "--out", "{out}/new", "--resume"],
    "evaluate": ["evaluate", "{out}/run", *MADE, *QUICK],
    "baseline": ["baseline", *MADE, "--save", "herding", "--out", "{out}/real"],
    "label": ["label", "{out}/run", *MADE, "--soft-labels", "source", "--keep-head"],
    "export": ["export", "{out}/run", "--out", "{out}/small", "--overwrite", "--no-progress"],
    "transfer": ["transfer", "{out}/run", "--encoders", TINY, *PHOTOS, "--cache", "{cache}", "--no-progress", *QUICK,
                 "--out", "{out}/transfer"],
    "compose": ["compose", "--out", "{out}/composed", "--foregrounds", "folder:{photos}", "--train-per-class", "3",
                "--test-per-group", "1", "--size", "16", "--no-progress"],
    "report": ["report", "{out}/run", "--out", "{out}/report.html", "--no-progress"],
    "baseline scores": ["baseline", *MADE, *QUICK, "--baselines", "random", "--out", "{out}/scores.json"],
    "geometry": ["geometry", "{out}/run", *MADE, "--k", "3", "--out", "{out}/geometry"],
    "audit": ["audit", "{out}/run", *MADE, "--out", "{out}/audit"],
    "align": ["align", "--encoders", TINY, f"{TINY}@40", *PHOTOS, "--cache", "{cache}", "--no-progress", "--k", "3",
              "--out", "{out}/align"],
    "bias": ["bias", "{out}/run", "--encoders", TINY, *PHOTOS, "--groups", "{out}/groups.csv", "--seeds", "1",
             "--views", "2", "--cache", "{cache}", "--no-progress", "--out", "{out}/bias"],
    "features": ["features", *PHOTOS, "--encoder", TINY, "--cache", "{out}/cache", "--no-progress"],
    "stats": ["stats", *MADE, "--out", "{out}/photos.stats"],
    "distill from statistics": ["distill", "--stats", "{out}/a.stats", "{out}/b.stats", "--union", "--encoder", TINY,
                                "--steps", "2", "--cache", "{cache}", "--no-progress", "--out", "{out}/new",
                                "--resume"],
    "merge": ["merge", "{out}/run", "{out}/other", "--same-classes", "--out", "{out}/merged"],
    "forget": ["forget", "{out}/three", "--class", "hen", "--out", "{out}/left"],
    "rename": ["rename", "{out}/three", "hen=chicken", "--out", "{out}/named"],
    "extend": ["extend", "{out}/three", "--images", "folder:{out}/added", "--all-images", "--encoder", TINY, "--cache",
               "{cache}", "--no-progress", "--out", "{out}/more", "--resume"],
    "migrate": ["migrate", "{out}/run", "--encoder", f"{TINY}@40", "--source", TINY, "--cache", "{cache}",
                "--no-progress", "--out", "{out}/head"],
}  # fmt: skip
TIMES = {"seconds", "created", "date", "time"}


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(entry) for key, entry in value.items() if key not in TIMES}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value


def content(folder: Path) -> dict[str, object]:
    """The content of the files in a folder, without times and digests that depend on times."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("SHA256SUMS", "contents.json"):
            name = path.relative_to(folder).as_posix()
            if path.suffix == ".json":
                record = json.loads(path.read_text())
                record.pop("sha256", None)
                found[name] = without_times(record)
            elif path.suffix in (".safetensors", ".stats"):  # their metadata may contain times
                found[name] = {key: value.tolist() for key, value in load_tensors(path)[0].items()}
            else:
                found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def begin(fork, photos, tmp_path_factory):
    """A finished run, and a cache with its features."""
    place = tmp_path_factory.mktemp("begin")
    words = [w.format(photos=photos, cache=place / "cache", out=place / "out") for w in COMMANDS["distill"]]
    where = words.index(str(place / "out/new"))
    for seed, name in enumerate(("run", "other")):
        words[where] = str(place / "out" / name)
        attempt = fork(*words, "--seed", str(seed))
        assert attempt.end() == 0, attempt.log.read_text()
    three = make_image_folder(place / "three", classes=("cat", "hen", "owl"), per_class=3)
    words[words.index(f"folder:{photos}")] = f"folder:{three}"
    words[where] = str(place / "out/three")
    attempt = fork(*words, "--keep-stats")
    assert attempt.end() == 0, attempt.log.read_text()
    for name, kind in {"a": ["cat"], "b": ["dog"]}.items():
        sums = ["stats", "--images", f"folder:{photos}", "--all-images", "--encoder", TINY, "--cache", place / "cache",
                "--no-progress", "--out", place / f"out/{name}.stats", "--classes", *kind]  # fmt: skip
        attempt = fork(*sums)
        assert attempt.end() == 0, attempt.log.read_text()
    make_image_folder(place / "out/added", classes=("dog", "pig"), per_class=2, splits=())
    files = sorted(path.relative_to(photos) for path in photos.rglob("*.png"))
    rows = [f"{file.as_posix()},{file.parts[-2]},{'red' if i % 2 else 'blue'}" for i, file in enumerate(files)]
    (place / "out" / "groups.csv").write_text("\n".join(["file,class,background", *rows]) + "\n")
    return place


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_command_can_be_repeated(fork, photos, begin, tmp_path, name):
    out, kills = tmp_path / "out", 0
    inputs = content(photos)
    words = [word.format(photos=photos, cache=tmp_path / "cache", out=out) for word in COMMANDS[name]]

    def start_over() -> None:
        for part in ("out", "cache"):
            shutil.rmtree(tmp_path / part, ignore_errors=True)
            shutil.copytree(begin / part, tmp_path / part)

    start_over()
    quiet = fork(*words)
    assert quiet.end() == 0, quiet.log.read_text()
    expected = content(out)
    for count in OPERATIONS:
        start_over()
        killed = fork(*words, die_after=[".part", count])
        code = killed.end()
        assert code in (0, -signal.SIGKILL), killed.log.read_text()
        kills += code != 0
        again = fork(*words)
        assert again.end() == 0, again.log.read_text()
        found = content(out)
        assert [path for path in found if path.endswith(".part")] == [], count
        assert found.keys() == expected.keys(), count
        assert [path for path in found if found[path] != expected[path]] == [], count
        assert content(photos) == inputs
    print(f"{name}: {kills} kills")
    assert kills
