"""Transfer: probes trained on sets of one encoder and scored with others, as a matrix source × target."""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

from .._version import __version__
from ..config import (
    AugmentConfig,
    EncoderConfig,
    EvaluateConfig,
    EvaluateOptions,
    TransferConfig,
    check_config,
    with_options,
)
from ..encoders.encoder import Encoder
from ..encoders.named import check_made_with, display_names, own_encoder
from ..encoders.pool import EncoderPool
from ..errors import UserError, by_caller, option
from ..evaluation.cost import say_cost
from ..evaluation.protocol import evaluate
from ..evaluation.result import OF_EPOCHS, OF_FULL, row_name
from ..evaluation.scorer import Scorer
from ..evaluation.training_sets import RealImages, always, check_enough
from ..features.bank import FeatureBank
from ..features.classes import medoids
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages, check_labelled
from ..images.sources import check_results_outside
from ..machine.progress import ProgressBar
from ..machine.torch_state import own_torch_state
from ..probes.kinds import PROBES, check_probes, has_epochs, kind_of, need_head, on_features
from ..store.card import warn_of_seen
from ..store.distilled import DistilledSet
from ..store.run_record import ImagesRecord
from .base import EncoderAbout
from .cells import Cell, Kept
from .matrix import FORMAT, RANDOM_INHERITED, ROWS, Scores, TransferMatrix
from .matrix import RealImages as ImagesOfMatrix
from .sets import UNKNOWN, SourceSet, check_sets, common_augment, named_sources, read_sets


@own_torch_state()
def transfer(
    runs: Sequence[Path | str | DistilledSet],
    encoders: Sequence[str | EncoderConfig | Encoder],
    train: LabelledImages,
    test: LabelledImages,
    config: TransferConfig | None = None,
    *,
    out: Path | str | None = None,
    augment: AugmentConfig | None = None,
    features: FeatureStore | None = None,
    cache: Path | str | None = None,
    strict: bool = False,
    progress: bool = True,
    **options: Unpack[EvaluateOptions],
) -> TransferMatrix:
    """Score probes trained on distilled sets with encoders that the sets may never have seen.

    >>> print(transfer(["runs/a", "runs/b"], ["efficientnet_lite0@112"], train, test))  # doctest: +SKIP

    Every cell is scored as in `evaluate`: views of the shipped images, encoded by the target, train a probe that is
    tested on the centre crops of ``test``. Targets are loaded one at a time, and real features come from banks.

    A set with soft labels is scored with them (unless ``hard_labels``); the baselines have hard labels. The probe
    ``"inherited"`` has separate rows of random images and centroids for each set, with that set's head; full real data
    are scored with ridge instead.

    Args:
        runs: Folders of finished runs, or distilled sets.
        encoders: The targets, each as a name for `encoder_config`, as a config, or loaded.
        train: Real training images, for the baselines.
        test: Real test images.
        config: Protocol; ``options`` override its fields, e.g. ``probes=["ridge", "sgd"]``.
        out: Folder for ``transfer.json`` and ``transfer.png``. Cells that another call has saved there are not
            scored again if set, encoder, images and protocol agree. Several calls may share the folder.
        augment: How training views are drawn, for every row; its noise is ignored. Default: as for the first set, with
            a warning if another set was distilled differently.
        features: Where features come from; default: a store of ``cache``, ``strict`` and ``progress``.
        cache: Folder of feature banks.
        strict: Raise on unreadable real images.
        progress: Show progress bars.

    Raises:
        UserError: No runs or encoders, unfinished runs, runs of different classes or sizes, classes that the
            images do not have, an encoder that cannot be loaded or is named twice.
    """
    check_labelled(train, "train")
    check_labelled(test, "test")
    check_config("config", config, TransferConfig)
    check_config("augment", augment, AugmentConfig)
    config = with_options(config or TransferConfig(), options, "transfer")
    config.check()
    check_probes(config.probes)
    store = features or FeatureStore(cache=cache, strict=strict, progress=progress)
    if out is not None:
        check_results_outside(Path(out), train)
    kept = Kept(Path(out) if out is not None else None)
    sets = read_sets(runs)
    per_class = check_sets(sets, train, config)
    class_names = sets[0].distilled.class_names
    if augment is not None:
        augment.check()
    augment = (augment or common_augment(sets)).for_probes()
    train, test = train.with_classes(class_names), test.with_classes(class_names)
    for one in sets:
        if one.folder is not None:
            warn_of_seen(one.folder, train, test)
    check_enough(class_names, train.counts().tolist(), per_class, config.baselines)
    bench = _Bench(sets, EncoderPool(encoders), train, test, config, augment, per_class, store)

    missing = bench.find_sources([cell for cell in bench.cells if kept.missing(cell)])
    for t in range(len(bench.targets)):
        here = [cell for cell in missing if cell.target == t]
        if here:
            bench.score_target(here, kept)
    with kept.shared() as folder:
        matrix = bench.matrix(kept.cells, finished=True)
        if folder is not None:
            matrix.write(folder)
            matrix.draw(folder)
    return matrix


def _by_epochs(probes: Sequence[str]) -> list[tuple[str, ...]]:
    """The probes without epochs, and those with epochs; without empty parts."""
    parts = (tuple(probe for probe in probes if has_epochs(probe) == among) for among in (False, True))
    return [part for part in parts if part]


class _Bench:
    """The sets, the targets and the protocol of one matrix: which cells it has, and how each is scored."""

    def __init__(
        self,
        sets: Sequence[SourceSet],
        encoders: EncoderPool,
        train: LabelledImages,
        test: LabelledImages,
        config: TransferConfig,
        augment: AugmentConfig,
        images_per_class: int,
        features: FeatureStore,
    ) -> None:
        self.sets, self.train, self.test, self.config, self.augment = sets, train, test, config, augment
        self.images_per_class, self._encoders, self._features = images_per_class, encoders, features
        self._medoids: dict[str, FeatureBank] = {}
        self._heads = tuple(need_head(config.probes))
        encoders.room = 2 if self._heads else 1  # probes behind a head need the source encoder, too
        names = display_names([*encoders.described, *(vars(entry) for held in sets for entry in held.encoders)])
        self.targets = tuple(
            EncoderAbout(names[entry["fingerprint"]], entry["fingerprint"], entry["input_size"])
            for entry in encoders.described
        )
        self.sources = named_sources(sets, names, config)
        self.cells = [cell for t in range(len(self.targets)) for cell in self._cells_of(t)]

    def _cells_of(self, t: int) -> Iterator[Cell]:
        """The cells of a target, in the order in which they are scored."""
        own = [probe for probe in self.config.probes if probe not in self._heads]
        real = {"train": self.train.fingerprint, "images_per_class": self.images_per_class}
        everything = list(range(len(self.sets)))
        sources: dict[str, list[int]] = {}
        for row, held in enumerate(self.sets):
            source = held.encoders[0].fingerprint
            sources.setdefault(source, []).append(row)
            for probes in _by_epochs(own):
                yield Cell("distilled", t, self._key("distilled", t, probes, set=held.fingerprint), probes, [row])
            for probes in _by_epochs(self._heads):
                key = self._key("inherited", t, probes, set=held.fingerprint, source=source)
                yield Cell("distilled", t, key, probes, [row], source, inherits=True)
                for kind in ("random", "centroids"):
                    if kind in self.config.baselines:
                        key = self._key(kind, t, probes, head=held.head_fingerprint, source=source, **real)
                        yield Cell(kind, t, key, probes, [row], source, inherits=True)
        for probes in _by_epochs(own):
            for source, rows in sources.items() if "centroids" in self.config.baselines else ():
                yield Cell(
                    "centroids", t, self._key("centroids", t, probes, source=source, **real), probes, rows, source
                )
            if "random" in self.config.baselines:
                yield Cell("random", t, self._key("random", t, probes, **real), probes, everything)
        for probes in _by_epochs(on_features(self.config.probes)) if "full" in self.config.baselines else ():
            yield Cell("full", t, self._key("full", t, probes, **real), probes, everything)

    def _key(self, kind: str, t: int, probes: Sequence[str], **of: Any) -> str:
        """Digest of everything that the scores of a cell depend on, except which probes of their kind are requested."""
        protocol, default = asdict(self.config), TransferConfig()
        if kind != "full":
            protocol |= {name: getattr(default, name) for name in OF_FULL}
        for name in ("probes", "baselines", "floats", *(() if has_epochs(probes[0]) else OF_EPOCHS)):
            del protocol[name]
        target = self._encoders.described[t]
        code = {name: digest for name in self.config.probes if (digest := PROBES.code_of(name))}
        about = {
            "version": [FORMAT, __version__],
            "kind": kind,
            "of": of,
            "target": [target["fingerprint"], target["precision"]],
            "test": self.test.fingerprint,
            "protocol": protocol,
            "augment": asdict(self.augment),
            **({"code": code} if code else {}),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def find_sources(self, cells: Sequence[Cell]) -> list[Cell]:
        """Choose the medoids that the cells need; leave out those whose source encoder cannot be loaded.

        Raises:
            UserError: A cell of a probe behind a head needs that encoder.
        """
        absent = set()
        for held in self.sets:
            source = held.encoders[0].fingerprint
            wanted = {cell.kind for cell in cells if cell.source == source}
            inherited = any(cell.inherits for cell in cells if cell.source == source)
            if not wanted or source in absent or source in self._medoids:
                continue
            try:
                encoder = self._source_encoder(held)
            except UserError as error:
                if inherited:
                    raise UserError(f"probes {self._heads[0]!r} needs the source's features: {error}") from error
                absent.add(source)
                warnings.warn(f"leaving out a row of centroids: {error}", stacklevel=3)
                continue
            if "centroids" in wanted:
                bank = self._features.of(encoder, self.train)
                self._medoids[source] = bank.select(medoids(bank, self.images_per_class))
                if source not in {target.fingerprint for target in self.targets}:
                    self._features.release(encoder)
            del encoder  # frees its memory before the next one is loaded
        return [cell for cell in cells if cell.source not in absent]

    def _source_encoder(self, held: SourceSet) -> Encoder:
        """The encoder that a set was distilled with: one of the targets, else the one in its config.yaml.

        Raises:
            UserError: No such file, it may not be followed (`own_encoder`), or it describes another encoder.
        """
        source = held.encoders[0]
        encoder = self._encoders.find(source.fingerprint)
        if encoder is not None:
            return encoder
        if source is UNKNOWN:
            without = by_caller(command="--baselines random full", python="baselines=['random', 'full']")
            raise UserError(
                f"{held.label} does not say which encoder it was made with; leave its centroids out with {without}, or "
                "save medoids as a set and add it to the runs: probedistill baseline --save centroids --images SPEC "
                "--encoder NAME --out runs/centroids"
            )
        fix = f"add {source.name!r} to {option('encoders')}"
        if held.folder is None:
            raise UserError(f"{held.label} has no folder with a config.yaml that describes its encoder; {fix}")
        config = own_encoder(held.folder, called=option("encoders"))
        try:
            encoder = self._encoders.add(config)
        except UserError as error:
            raise UserError(f"the encoder of {held.label} cannot be loaded ({error}); {fix}") from error
        check_made_with(encoder, source.fingerprint, called=held.label, way_out=fix)
        return encoder

    def score_target(self, cells: Sequence[Cell], kept: Kept) -> None:
        """Score the cells of one target; each is saved as soon as it is known."""
        self._say_cost(cells)
        self._fill_banks(cells)  # has its own bar; the cells then find the features in the store
        name = f"probes on {self.targets[cells[0].target].name}"
        with ProgressBar(name, len(cells), enabled=self._features.progress) as bar:
            for cell in cells:
                probes = kept.missing(cell)
                if probes:  # empty if an equal cell has been scored meanwhile
                    kept.add(cell, self._score(cell, probes))
                    with kept.shared() as folder:
                        if folder is not None:
                            self.matrix(kept.cells, finished=False).write(folder)
                bar.advance(note=cell.kind)
        # Keep the real features of only one target in memory.
        self._features.release(self._encoders[cells[0].target])

    def _say_cost(self, cells: Sequence[Cell]) -> None:
        """Print how long the encoder of one target will take for some cells, if that is over a minute."""
        encoder, store, kinds = self._encoders[cells[0].target], self._features, {cell.kind for cell in cells}
        passes = store.passes_of(encoder, self.test)
        if kinds & {"random", "full"}:
            passes += store.passes_of(encoder, self.train)
        count = self.images_per_class * len(self.train.class_names)
        config = self.config.for_images(count)
        views = int(config.views)
        for cell in cells:
            if cell.kind == "distilled":
                images = self.sets[cell.rows[0]].distilled.images
                for seed in range(config.seeds):
                    passes += store.passes_of_synthetic_views(
                        encoder, images, views=views, augment=self.augment, seed=seed
                    )
            elif cell.kind != "full":
                passes += config.seeds * count * max(views, 1)
        say_cost(encoder, passes, "; only once, then they are cached", enabled=store.progress)

    def _fill_banks(self, cells: Sequence[Cell]) -> None:
        """Extract the real features that the cells of one target need."""
        encoder = self._encoders[cells[0].target]
        self._features.of(encoder, self.test)
        if any(cell.kind == "random" for cell in cells):
            self._features.of(encoder, self.train)
        if any(cell.kind == "full" for cell in cells):
            self._features.of(encoder, self.train, views=self.config.full_views, augment=self.augment)

    def _score(self, cell: Cell, probes: Sequence[str]) -> Scores:
        """Top-1 accuracy for every seed, by `evaluate`."""
        if cell.kind == "centroids":
            return self._score_medoids(cell, probes)
        protocol = {f.name: getattr(self.config, f.name) for f in fields(EvaluateConfig)}
        protocol |= {"probes": list(probes), "baselines": []}
        distilled, held, (train, test) = None, self.sets[cell.rows[0]], self._photos_of(cell)
        more: dict[str, Any] = {}
        if cell.inherits:
            more = {"source": self._source_encoder(held), "head": held.distilled.head}
        if cell.kind == "distilled":
            row, distilled = row_name(held.distilled.run), held.distilled
        else:
            row, protocol["baselines"] = ROWS[cell.kind], [cell.kind]
        result = evaluate(
            distilled, self._encoders[cell.target], train, test, EvaluateConfig(**protocol),
            augment=self.augment, images_per_class=self.images_per_class, features=self._features.quiet(), **more,
        )  # fmt: skip
        return {r.probe: [s.top1 for s in r.scores] for r in result.rows if r.name == row}

    def _score_medoids(self, cell: Cell, probes: Sequence[str]) -> Scores:
        """As `_score`, for the medoids of a source whose encoder need not be loaded, with the views of `evaluate`."""
        encoder, store = self._encoders[cell.target], self._features.quiet()
        held, (train, test) = self.sets[cell.rows[0]], self._photos_of(cell)
        bank = self._medoids[cell.source].labelled(train)
        images = RealImages(
            ROWS["centroids"], bank=bank, source=train, rows=always(torch.arange(len(bank))),
            augment=self.augment.for_probes(transformer=encoder.is_transformer), store=store,
        )  # fmt: skip
        scorer = Scorer(
            encoder=encoder,
            test=store.of(encoder, test),
            config=replace(self.config, probes=list(probes)).for_images(len(bank)),
            groups=None,
            head=held.distilled.head if cell.inherits else None,
            source=self._source_encoder(held) if cell.inherits else None,
        )
        return {trial.probe: [s.top1 for s in scorer.row(images, trial).scores] for trial in scorer.trials(images)}

    def _photos_of(self, cell: Cell) -> tuple[LabelledImages, LabelledImages]:
        """Training and test images of a cell; for real images behind a head, with the classes in the head's order."""
        if cell.kind == "distilled" or not cell.inherits:
            return self.train, self.test
        names = self.sets[cell.rows[0]].distilled.class_names
        return self.train.with_classes(names), self.test.with_classes(names)

    def matrix(self, cells: dict[str, Scores], *, finished: bool) -> TransferMatrix:
        """The matrix of what has been scored so far."""
        seen = dict.fromkeys(probe for cell in self.cells for probe in cells.get(cell.key, {}))
        probes = tuple(p for asked in self.config.probes for p in seen if p == asked or p.startswith(f"{asked},"))
        mean, std = (
            {
                kind: np.full((len(probes), len(self.sets), len(self.targets)), np.nan)
                for kind in ("distilled", *self._kinds)
            }
            for _ in range(2)
        )
        heads = self._in_place(probes)
        for cell, name, scores in self._rows_of(cells, heads):
            if name in probes:
                kind = RANDOM_INHERITED if cell.kind == "random" and cell.inherits else cell.kind
                at = probes.index(name), cell.rows, cell.target
                mean[kind][at] = statistics.fmean(scores)
                std[kind][at] = statistics.stdev(scores) if len(scores) > 1 else 0.0
        accuracy, deviation = mean.pop("distilled"), std.pop("distilled")
        for values in (mean, std):
            values.update({kind: values[kind][:, 0] for kind in ("random", "full") if kind in values})
        return TransferMatrix(
            self.sources, self.targets, probes, accuracy, deviation, mean, std,
            class_names=self.train.class_names,
            images_per_class=self.images_per_class,
            protocol=self.config,
            augment=self.augment,
            images=ImagesOfMatrix(ImagesRecord.of(self.train), ImagesRecord.of(self.test)),
            versions={
                "probedistill": __version__, "python": platform.python_version(), "torch": str(torch.__version__),
            },
            finished=finished,
            heads=heads,
            cells=dict(cells),
        )  # fmt: skip

    def _rows_of(
        self, cells: Mapping[str, Scores], heads: Mapping[str, str]
    ) -> Iterator[tuple[Cell, str, list[float]]]:
        """Yield scores by cell and probe; scores on full real data also stand in for probes behind a head."""
        for cell in self.cells:
            for probe, scores in cells.get(cell.key, {}).items():
                yield cell, probe, scores
                if cell.kind == "full":
                    yield from ((cell, head, scores) for head, other in heads.items() if other == probe)

    def _in_place(self, probes: Sequence[str]) -> dict[str, str]:
        """Probe behind a head → the probe that replaces it on full real data."""
        found = {}
        for head in self._heads:
            for probe in probes:
                if probe == head or probe.startswith(f"{head},"):  # ", no augmentation"
                    found[probe] = (kind_of(head).on_features or head) + probe.removeprefix(head)
        return found

    @property
    def _kinds(self) -> list[str]:
        """The baselines of a matrix; random images behind heads are a separate baseline."""
        inherited = bool(self._heads) and "random" in self.config.baselines
        return [*self.config.baselines, *([RANDOM_INHERITED] if inherited else [])]
