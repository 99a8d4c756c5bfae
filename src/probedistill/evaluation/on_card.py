"""The scores of a set on its card."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..show.tables import NOTHING, points
from ..store.card import SCORES, escaped, published, rewrite
from ..store.layout import EVALUATIONS
from ..store.locks import PATIENCE, claimed
from ..text import counted
from .result import Evaluation, load_evaluation


def show_on_card(folder: Path) -> None:
    """Write all scores in the folder of a set onto its card, if it has one."""
    found = []
    with claimed(folder, called="folder", wait=PATIENCE):
        for path in sorted(folder.glob(EVALUATIONS)):
            with suppress(UserError):  # commands that read scores report a damaged file
                found.append(as_markdown(load_evaluation(path)))
        if found:
            rewrite(folder, SCORES, "\n\n".join(found))


def as_markdown(evaluation: Evaluation) -> str:
    """Scores as a table for a card; the paths of this machine are left out."""
    by, on = evaluation.context.encoder, evaluation.context.test
    lines = [
        f"{escaped(published(by.name))} at {by.input_size} px, tested on {counted(on.images, 'image')} of "
        f"{escaped(published(on.spec))} ({escaped(on.split)}; fingerprint `{escaped(on.fingerprint[:12])}`), "
        f"{counted(evaluation.context.protocol.seeds, 'seed')}."
        + " Mean ± standard deviation over evaluation seeds."
        * (evaluation.context.protocol.seeds > 1),
        "",
        "| trained on | images | probe | top-1 % | gap to full |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for row in evaluation.rows:
        gap = points(evaluation.gap_to_full(row))
        name = f"**{escaped(row.name)}**" if row.name == evaluation.context.set_name else escaped(row.name)
        cells = (name, f"{row.images:,}", escaped(row.probe), row.accuracy(), gap or NOTHING)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
