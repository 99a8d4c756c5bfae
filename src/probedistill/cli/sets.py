"""The command that lists the sets that come with the package: sets."""

from __future__ import annotations

from .app import command, show


@command()
def sets() -> None:
    """List the small sets that come with the package; set:NAME stands for a run in every command that takes one.

    Example: probedistill sets

    Then, for example: probedistill evaluate set:digits-lite0 --config set:digits-lite0

    Each has a card (README.md) with its scores, its licence and what it was made from.
    """
    from ..ship.released import released_sets

    show(released_sets())
