"""``README.md``: the card of a set, for people and for the Hugging Face hub.

A card is written with the set and then belongs to its owner, who may edit it: it is not in ``SHA256SUMS``. Later
commands rewrite only the text between the comments ``<!-- probedistill: NAME -->`` and ``<!-- probedistill: end -->``.
Without these comments the card is left unchanged.

Names come from data. They are escaped for YAML and for Markdown, and only the last part of a path is shown.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from urllib.parse import quote as url_quote

import yaml

from ..encoders.trust import not_followed, read_yaml
from ..errors import UserError
from ..images.duplicates import digest_of_pictures
from ..images.labelled import LabelledImages
from ..images.splits import held_out_names
from ..text import counted, printable
from .files import whole_file
from .layout import CARD, CONFIG, HELD_OUT, IMAGES, PREVIEW, STATISTICS
from .run_record import PartOfSet, RunRecord, read_run

SCORES, REAL_DATA = "scores", "real data"
"""Parts of a card that later commands rewrite."""

_END = "<!-- probedistill: end -->"
_NO_SCORES = "Not scored yet: `probedistill evaluate` writes its table here."
_MOST_CARD = 2**18  # bytes that are read
_MOST_SHOWN = 20  # images, if there is no preview
_MOST_NAMED = 200  # classes
_PAPERS = {
    "lgm": ("Linear Gradient Matching", "2511.16674"),
    "clp": ("Closed-Form Linear-Probe distillation", "2605.07194"),
    "sfm": ("Statistical Flow Matching", "2602.05391"),
}
_BEGAN = {
    "real": "**These images began as photos**: each started as a real image of its class, and may still show it.",
    "blend": "**These images began as photos**: each started as the mean of several real images of its class, and may "
    "still show what they have in common.",
    "average": "**These images began as averages of photos**: each started as the mean of up to a hundred real images "
    "of its class, in 32 × 32 pixels, and may still show what they have in common.",
    "noise": "**These images began as noise.** That does not make them private: they were optimised to carry what the "
    "photos say about their classes.",
}


@dataclass(frozen=True)
class Licence:
    """The licence of a set.

    Attributes:
        name: As the hub names it, such as ``cc0-1.0``; ``unknown`` until somebody knows.
        sentence: For people.
    """

    name: str = "unknown"
    sentence: str = (
        "Not stated yet. It depends on the licence of the photos that the images were made from: state it here and in "
        "the first lines of this file."
    )


@dataclass(frozen=True)
class CardOf:
    """What a card describes.

    Attributes:
        run: What made the set.
        files: Its image files, below ``images/``.
        labels: The class of each image.
        image_size: Side of the images in pixels.
        licence: See `Licence`.
    """

    run: RunRecord
    files: Sequence[str]
    labels: Sequence[int]
    image_size: int
    licence: Licence = Licence()


def write_card(folder: Path, about: CardOf) -> None:
    """Write the card of a set into its folder."""
    with whole_file(folder / CARD) as temporary:
        temporary.write_text(card_text(folder, about), encoding="utf-8", newline="\n")


def card_text(folder: Path, about: CardOf) -> str:
    """The card of a set.

    Args:
        folder: The folder of the set, for the files next to the images.
        about: The set.
    """
    parts = [
        f"---\n{_front_matter(about)}---",
        f"# {escaped(_title(about.run))}",
        *_what_it_is(about),
        _picture(folder, about),
        "## Load it\n\n" + _loading(about),
        "## Scores\n\n" + _part(SCORES, _NO_SCORES),
        "## Made from\n\n" + _made_from(folder, about.run),
        "## Real data in this set\n\n" + _part(REAL_DATA, real_data(folder, about.run)),
        "## Licence\n\n" + about.licence.sentence,
        "## Citation\n\n" + _citation(about.run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rewrite(folder: Path, name: str, content: str) -> bool:
    """Replace a part of the card in ``folder``.

    Returns:
        Whether there is a card that has this part; without one, nothing is changed.
    """
    path = folder / CARD
    try:
        before = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    pattern = re.compile(re.escape(_begin(name)) + ".*?" + re.escape(_END), re.DOTALL)
    after, count = pattern.subn(lambda _: _part(name, content), before, count=1)
    if count and after != before:
        with whole_file(path) as temporary:
            temporary.write_bytes(after.encode("utf-8"))
    return count > 0


def real_data(folder: Path, run: RunRecord) -> str:
    """A list of what a set contains of the real data in addition to its images."""
    held = []
    if run.head is not None:
        held.append(f"- the head of {escaped(published(run.head.encoder))}: a linear classifier fitted on all real "
                    "features (`tensors.safetensors`)")  # fmt: skip
    if run.soft_labels is not None:
        held.append(f"- soft labels ({escaped(run.soft_labels.kind)}), fitted on the real features")
    if any(folder.glob(STATISTICS)):
        held.append("- class counts, means and second moments of the real features (`statistics-….stats`): read "
                    "docs/statistics.md before you publish them")  # fmt: skip
    if (folder / HELD_OUT).exists():
        held.append(f"- the names of the held-out files (`{HELD_OUT}`)")
    return "\n".join(held) if held else "Nothing but the images."


def licence_of(folder: Path) -> Licence:
    """The licence on the card in ``folder``; an unknown one if there is no card, or none on it."""
    try:
        text = (folder / CARD).read_bytes()[:_MOST_CARD].decode("utf-8", "replace")
    except OSError:
        return Licence()
    name = re.search(r"\A---\n(?:.*\n)*?license: ([\w.-]+)\n", text)
    words = re.search(r"^## Licence\n+(.+?)\s*(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    found = Licence()
    return Licence(name[1] if name else found.name, words[1] if words else found.sentence)


def write_held_out(folder: Path, names: Sequence[str]) -> None:
    """Write the names of held-out images, one per line, if there are any."""
    if names:
        with whole_file(folder / HELD_OUT) as temporary:
            text = "".join(f"{printable(name)}\n" for name in names)
            temporary.write_text(text, encoding="utf-8", newline="\n")


def held_out_in(folder: Path) -> list[str]:
    """The names that `write_held_out` wrote into ``folder``; an empty list if there are none."""
    try:
        return (folder / HELD_OUT).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def warn_of_seen(folder: Path, train: LabelledImages | None, test: LabelledImages) -> None:
    """Warn if the set in ``folder`` may have been made from images that are now held out for testing.

    Which photos of a class are held out depends on all of them, and on ``--holdout``: photos that come, go or get other
    names change it. If none of the images was held out for this set, they are taken to be other images, unless they
    are together the pictures that it was made from: its training split under another name.
    """
    run = read_run(folder)
    sets: tuple[RunRecord | PartOfSet, ...] = (run, *run.parts)
    for made in sets:
        parts = [part and part.of(made.class_names, "class", absent_ok=True) for part in (train, test)]
        if made.pictures is not None and made.pictures in (digest_of_pictures(parts[1]), digest_of_pictures(*parts)):
            warnings.warn(
                f"{str(folder)!r} was made from all images of {test.spec!r}, test images included (there called "
                f"{published(made.images.spec)!r}, {made.images.split}), so accuracy is too high; test on others",
                stacklevel=3,
            )
            return
    held, testing = set(held_out_in(folder)), [printable(name) for name in held_out_names(test)]
    seen = [name for name in testing if name not in held]
    training = () if train is None else map(printable, train.names)
    if seen and not held.isdisjoint([*testing, *training]):
        warnings.warn(
            f"{len(seen)} of {counted(len(test), 'test image')} were not held out when {str(folder)!r} was made, such "
            f"as {seen[0]!r}: unless they are new, it was made from them, and accuracy is too high; "
            f"{folder / HELD_OUT} lists those that were held out",
            stacklevel=3,
        )


# ---------------------------------------------------------------------------------------------------
# Parts


def _front_matter(about: CardOf) -> str:
    run, count = about.run, len(about.labels)
    tags = ["dataset-distillation", "linear-probe", "probedistill", *([run.method] if run.method in _PAPERS else [])]
    content = {
        "license": about.licence.name,
        "pretty_name": _title(run),
        "task_categories": ["image-classification"],
        "tags": tags,
        "size_categories": ["n<1K" if count < 1000 else "1K<n<10K" if count < 10_000 else "10K<n<100K"],
        # Without this, datasets would read the scores and the preview as data, too.
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": f"{IMAGES}/**"}]},
        ],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def _title(run: RunRecord) -> str:
    name = printable(re.sub(r"^(folder|wds|statistics):", "", published(run.images.spec)))
    return f"{name}, distilled" if run.optimised else f"{name}, a few images per class"


def _what_it_is(about: CardOf) -> Iterator[str]:
    run, count, classes = about.run, len(about.labels), len(about.run.class_names)
    kind = "synthetic" if run.optimised else "real" if run.begun_from == "real" else "labelled"
    yield (
        f"{count:,} {kind} images of {classes:,} classes, {about.image_size} × {about.image_size} pixels. They train "
        "linear probes on frozen vision encoders in seconds."
    )
    if run.optimised:
        yield _BEGAN.get(run.begun_from, "")
        yield from _of_statistics(run)
    elif run.begun_from == "real":
        yield "**These are real images**, chosen from the training images and cropped to the encoder's input size."


def _of_statistics(run: RunRecord) -> Iterator[str]:
    """Sentences about a set that was distilled from statistics, with or without an earlier set."""
    if not run.statistics:
        return
    parties = ", ".join(escaped(part.name) for part in run.statistics[0].parts if not part.removed)
    if run.base is None and not run.forgotten and not run.began_as_photos:
        yield f"**No photo was used.** The set was made only from sums of features, from: {parties}."
    else:
        yield f"It was made from an earlier set and from sums of features, from: {parties}."
    promise = run.privacy
    if promise is not None and promise.epsilon is not None:
        yield (
            f"**The sums, and so this set, are ({promise.epsilon:g}, {promise.delta:g})-differentially private**: "
            f"{escaped(promise.adjacency)}; bounded by {escaped(promise.clipping)}; noise by "
            f"{escaped(promise.library)}. Class names are not covered."
        )


def _picture(folder: Path, about: CardOf) -> str:
    if (folder / PREVIEW).exists():
        return f"![The images with their classes]({PREVIEW})"
    shown = list(zip(about.files, about.labels))[:_MOST_SHOWN]
    return " ".join(
        f"![{escaped(about.run.class_names[label])}](<{url_quote(f'{IMAGES}/{file}')}>)" for file, label in shown
    )


def _loading(about: CardOf) -> str:
    augment, source = about.run.config.augment, about.run.source
    size = source.input_size if source is not None else about.image_size
    scale, ratio = (", ".join(f"{float(value):.4g}" for value in pair) for pair in (augment.shares, augment.ratio))
    normalise = "T.Normalize(…)  # mean and deviation of your encoder\n     ])"
    if source is not None and source.mean is not None and source.std is not None:
        mean, std = (", ".join(f"{value:.4g}" for value in part) for part in (source.mean, source.std))
        normalise = f"T.Normalize(({mean}), ({std}))])"
    transform = (
        f"T.Compose([T.RandomResizedCrop({size}, ({scale}), ({ratio})), T.RandomHorizontalFlip({augment.flip:g}), "
        "T.ToTensor(),"
        if augment.kind == "random"
        else f"T.Compose([T.Resize(({size}, {size})), T.ToTensor(),"
    )
    code = f"""from probedistill import DistilledSet                    # images, labels, names, history
distilled = DistilledSet.load("FOLDER")                  # or "hub:USER/NAME"

from datasets import load_dataset                        # columns: image, label (with class names), class_name
data = load_dataset("FOLDER", split="train")             # or "USER/NAME"

import torchvision.transforms as T                       # the views that probes are trained on
from torchvision.datasets import ImageFolder
views = {transform}
                   {normalise}
data = ImageFolder("FOLDER/{IMAGES}", views)"""
    names = ", ".join(escaped(name) for name in about.run.class_names[:_MOST_NAMED])
    more = ", …" if len(about.run.class_names) > _MOST_NAMED else ""
    return f"{_fenced(code, 'python')}\n\nClasses, numbered from 0: {names}{more}."


def _made_from(folder: Path, run: RunRecord) -> str:
    images = run.images
    lines = [f"- images: {escaped(published(images.spec))}, {escaped(images.split)}: {counted(images.count, 'image')} "
             f"(fingerprint `{escaped(images.fingerprint[:12])}`)"]  # fmt: skip
    if run.test is not None and run.statistics:
        lines.append(f"- tested during distillation on: {escaped(published(run.test.spec))}, "
                     f"{escaped(run.test.split)}; the sums may include these images")  # fmt: skip
    elif run.test is not None:
        test = run.test
        named = f", listed in [{HELD_OUT}]({HELD_OUT})" if (folder / HELD_OUT).exists() else ""
        lines.append(f"- held out, not used for this set: {escaped(published(test.spec))}, {escaped(test.split)}: "
                     f"{counted(test.count, 'image')} (fingerprint `{escaped(test.fingerprint[:12])}`){named}. Test "
                     "only on these")  # fmt: skip
        if test.split.startswith("holdout"):
            lines.append("- how it was split: each class is sorted by the SHA-256 of `probedistill holdout 0`, a line "
                         "feed and the image name; the first part is held out")  # fmt: skip
    elif (folder / HELD_OUT).exists():
        lines.append(f"- held out, not used for this set: the images listed in [{HELD_OUT}]({HELD_OUT}). Test only on "
                     "these")  # fmt: skip
    else:
        lines.append("- held out: not recorded; the images above were used")
    lines += [f"- encoder: {escaped(published(str(encoder)))} (fingerprint `{escaped(encoder.fingerprint[:12])}`)"
              for encoder in run.encoders]  # fmt: skip
    if run.renamed:
        names = ", ".join(f"{escaped(old)} → {escaped(new)}" for old, new in run.renamed)
        lines.append(f"- classes renamed: {names}")
    if not run.made_elsewhere:
        steps = f"{counted(run.config.steps, 'step')}, " if run.config.steps else ""
        how = f"{steps}seed {run.config.seed}"
        lines.append(f"- method: {escaped(run.method)}, {how}")
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    lines += [f"- versions: {escaped(versions)}"] if versions else []
    command = command_again(run, folder / CONFIG)
    return "\n".join(lines) + (f"\n\nTo make it again:\n\n{_fenced(command, 'sh')}" if command else "")


def command_again(run: RunRecord, file: Path, *, shown: str = CONFIG, out: str = "again") -> str | None:
    """The command that makes a set again.

    Args:
        run: What made the set.
        file: Its config.yaml.
        shown: What the command calls that file, as a shell takes it.
        out: The folder that the command names, likewise.

    Returns:
        ``None`` if no command does: another program made it, it came from other sets or from statistics, it was made in
        Python of images or of an encoder that the file does not name, or the file is damaged.
    """
    if run.made_elsewhere or run.derived or run.statistics or run.base or not file.is_file():
        return None
    try:
        content = read_yaml(file, f"config {str(file)!r}")
    except UserError:
        return None
    if not {"images", "encoder"} <= content.keys():
        return None
    flags = f"--config {shown}" + (" --trust" if not_followed(content) else "")
    if run.config.steps:
        return f"probedistill distill {flags} --out {out}"
    options = f"--images-per-class {run.config.images_per_class} --seed {run.config.seed}"
    return f"probedistill baseline {flags} --save {quote(run.method)} {options} --out {out}"


def _citation(run: RunRecord) -> str:
    lines = ["- photos: add it here"]
    if run.method in _PAPERS:
        name, number = _PAPERS[run.method]
        lines.append(f"- method: {name}, [arXiv {number}](https://arxiv.org/abs/{number})")
    return "\n".join([*lines, "- tool: probedistill, `CITATION.cff`"])


# ---------------------------------------------------------------------------------------------------
# Text


def escaped(text: str) -> str:
    """Text that Markdown shows literally, on one line.

    >>> escaped("a|b <i> [x](y) *")
    'a\\\\|b &lt;i&gt; \\\\[x\\\\]\\\\(y\\\\) \\\\*'
    """
    plain = " ".join(printable(text).split())
    acting = r"([\\`*_{}\[\]()#!|~$^=]|://|^[-+>]|(?<=\d)\.(?= ))"
    found = re.sub(acting, lambda match: "\\:\\/\\/" if match[0] == "://" else "\\" + match[0], plain)
    return found.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")


def _fenced(code: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{printable(code, lines=True)}\n{fence}"


def published(spec: str) -> str:
    """A name of images or of an encoder without the folders of this machine: of a path the last part.

    >>> published("folder:/home/me/photos"), published("hf:user/repo"), published("wds:../x/train-{000..9}.tar")
    ('folder:photos', 'hf:user/repo', 'wds:train-{000..9}.tar')
    """
    kind, _, place = spec.partition(":")
    if kind in ("folder", "wds"):
        return f"{kind}:{_last(place)}"
    return _PATH.sub(lambda match: _last(match[0]), spec)


_PATH = re.compile(r"(?<!\w)[A-Za-z]:[\\/][^:]*|(?<![\w.-])(~\w*|\.{1,2})?[\\/][^:]*|[^\s:]*\\[^:]*")
"""A path that reveals something about this machine: absolute, below a home folder, or above the current folder."""


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or "…"


def _begin(name: str) -> str:
    return f"<!-- probedistill: {name} -->"


def _part(name: str, content: str) -> str:
    # The content cannot end a comment: names are escaped, and numbers contain no brackets.
    return f"{_begin(name)}\n{content}\n{_END}"
