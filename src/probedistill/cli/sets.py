"""The command that lists the sets in the package: sets."""

from __future__ import annotations

from .app import command, show


@command()
def sets() -> None:
    """List the small sets that come with the package. Use set:NAME in place of a run in any command.

    Example: probedistill sets

    Then, for example: probedistill evaluate set:digits-lite0 --config set:digits-lite0

    Each set has a card (README.md) with its scores, its licence and its source.
    """
    from ..ship.released import released_sets

    show(released_sets())
