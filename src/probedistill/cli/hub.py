"""The command that publishes a set: push."""

from __future__ import annotations

from pathlib import Path

from .app import command, show


@command()
def push(folder: Path, repo: str, *, private: bool = False, dry_run: bool = False) -> None:
    """Upload a set to the Hugging Face hub; says first what is uploaded, and where to.

    Example: probedistill push runs/photos USER/photos-distilled --private

    Afterwards, every command that takes a run accepts hub:USER/photos-distilled, and load_dataset of the package
    datasets reads it. The card (README.md) is uploaded as it is, so write the licence of the photos into it first.
    Local folder names are removed from run.json and config.yaml. The token comes from HF_TOKEN or hf auth login.

    Parameters
    ----------
    folder:
        Folder of a finished run.
    repo:
        USER/NAME of the repository. It is created if it does not exist.
    private:
        Create a private repository.
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
        show(f"uploaded: {upload.address}   use: probedistill info hub:{repo}")
