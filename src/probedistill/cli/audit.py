"""The command of privacy: audit."""

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
    """Measure what a distilled set gives away of the photos behind it.

    Example: probedistill audit runs/photos --config runs/photos/config.yaml --shadows 16 --shadow-steps 60

    Copies: for every synthetic image the nearest photo in pixels (after registration), in structure (SSIM) and in
    features, beside the same distances among the photos. OUT/audit-pairs.png shows the pairs, and so shows photos.

    Membership, with --shadows or --minutes: sets are distilled again from random halves of the photos, and an attacker
    who knows all of them but one guesses which photos that one was made of (LiRA, arXiv 2112.03570). It takes as long
    as so many runs on half the photos; after the first one the command says how long. Ctrl-C is safe: the same command
    goes on.

    And what the run holds beside the images. Results go to OUT/audit.json and OUT/audit.png. docs/privacy.md says what
    they mean, and what may not be concluded.

    Parameters
    ----------
    others:
        Further encoders whose features are compared, each in one word or a YAML file: features of the run's own
        encoder are alike by design.
    shadows:
        Shadow sets, an even number from 6 on; 0: membership is not measured.
    minutes:
        No further shadow sets are begun after so many minutes; without --shadows as many as fit.
    shadow_steps:
        Steps of a shadow set; default: those of the run.
    seed:
        Seed of the halves, and of the photos that are compared with each other.
    out:
        Folder of the results; default: FOLDER.
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
    show(f"look: {out / PAIRS} (it shows photos), {out / 'audit.png'}   numbers: {out / 'audit.json'}")
