"""The command about privacy: audit."""

from __future__ import annotations

from pathlib import Path

from ..config import EncoderConfig, ImagesConfig
from ..store.named import results_folder, run_folder
from .app import Cache, EncoderOptions, Folder, Images, Progress, command, show


@command(ImagesConfig, EncoderConfig)
def audit(
    folder: Folder,
    images: Images,
    encoder: EncoderOptions,
    *,
    others: list[str] | None = None,
    shadows: int = 0,
    minutes: float | None = None,
    shadow_steps: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """Measure what a distilled set reveals about the photos behind it.

    Example: probedistill audit runs/photos --config runs/photos/config.yaml --shadows 16 --shadow-steps 60

    Copies: finds the nearest photo to every synthetic image in pixels (after registration), in structure (SSIM) and in
    features, and compares the distances with those among the photos. OUT/audit-pairs.png shows the pairs, so it shows
    photos.

    Membership, with --shadows or --minutes: distils shadow sets from random halves of the photos. An attacker who knows
    all shadow sets but one guesses which photos that one was made from (LiRA, arXiv 2112.03570). This takes as long as
    the same number of runs on half the photos; after the first one, the command says how long. Ctrl-C is safe: the same
    command continues.

    The audit also lists what the run stores besides the images. Results go to OUT/audit.json and OUT/audit.png.
    docs/privacy.md explains what they mean and what they cannot show.

    Parameters
    ----------
    others:
        Further encoders whose features to compare: names or YAML files. In the features of the run's own encoder, the
        images are similar to photos by design.
    shadows:
        Number of shadow sets: even, at least 6. 0: do not measure membership.
    minutes:
        Start no more shadow sets after this many minutes. Without --shadows: as many as fit in.
    shadow_steps:
        Optimisation steps of a shadow set. Default: those of the run.
    seed:
        Seed of the halves, and of the photos that are compared with each other.
    out:
        Folder for the results. Default: FOLDER.
    """
    from ..analysis.audit import PAIRS
    from ..analysis.audit import audit as run_audit
    from ..analysis.membership import check_budget
    from ..encoders.load import load_encoder
    from ..encoders.named import encoder_config
    from ..images.splits import load_splits
    from ..store.distilled import DistilledSet
    from ..store.files import check_writable

    folder = run_folder(folder)
    out = results_folder(folder) if out is None else out
    distilled = DistilledSet.load(folder)
    check_writable(out)
    check_budget(shadows, minutes)
    more = [encoder_config(name, device=encoder.device) for name in others or []]
    train, _ = load_splits(images, progress=progress)
    result = run_audit(
        distilled, load_encoder(encoder), train, others=[load_encoder(one) for one in more], shadows=shadows,
        minutes=minutes, shadow_steps=shadow_steps, seed=seed, folder=folder, out=out, cache=cache,
        strict=images.strict, progress=progress,
    )  # fmt: skip
    show(result)
    show(f"figures: {out / PAIRS} (shows photos), {out / 'audit.png'}   numbers: {out / 'audit.json'}")
