"""The command that publishes a set: push."""

from __future__ import annotations

from pathlib import Path

from .app import command, show


@command()
def push(folder: Path, repo: str, *, private: bool = False, dry_run: bool = False) -> None:
    """Upload a set to the Hugging Face hub, after saying what is uploaded and to where.

    Example: probedistill push runs/photos USER/photos-distilled --private

    Afterwards every command that takes a run takes hub:USER/photos-distilled, and load_dataset of the package datasets
    reads it. The card (README.md) is uploaded as it is in the folder: write the licence of the photos into it first.
    Folders of this machine are taken out of run.json and config.yaml. The token is that of HF_TOKEN or hf auth login.

    Parameters
    ----------
    folder:
        A finished run.
    repo:
        USER/NAME; it is made if it is not there.
    private:
        Do not let others see it.
    dry_run:
        Say what would be uploaded, and upload nothing.
    """
    from ..ship.hub import check_token, prepared, send

    with prepared(folder, repo, private=private) as (copy, upload):
        if not dry_run:
            check_token()
        show(str(upload))
        if dry_run:
            show("nothing was uploaded (--dry-run)")
            return
        send(copy, upload)
        show(f"there: {upload.address}   use: probedistill info hub:{repo}")
