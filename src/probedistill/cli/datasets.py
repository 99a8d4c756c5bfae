"""The command datasets: the papers' data sets, and how to reproduce their tables."""

from __future__ import annotations

from .app import command, show


@command()
def datasets(name: str | None = None, /, *, class_list: bool = False) -> None:
    """List the data sets of the papers; with a NAME, say how to get one and how to reproduce the papers' table on it.

    Example: probedistill datasets imagenet-100

    None of these sets comes with the library. For each, this command shows its source and licence, the --images that
    reads it, the papers' results next to ours, and which of these facts were checked against their source.

    Parameters
    ----------
    name:
        Name of a set.
    class_list:
        Print only the names of its classes, one per line, for --classes @FILE.
    """
    from ..errors import UserError, unknown_name
    from ..images.known import DATASETS, ENCODERS
    from ..show.tables import Table, percent

    if name is None:
        if class_list:
            raise UserError("class-list needs the name of a set: probedistill datasets imagenet-100 --class-list")
        rows = [
            (key, known.title, known.images, f"{known.classes:,}", f"{known.train:,}", f"{known.test:,}")
            for key, known in DATASETS.items()
        ]
        show(Table("", ("name", "set", "images", "classes", "train", "test"), tuple(rows), left=3))
        show("Details: probedistill datasets NAME")
        return
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    known = DATASETS[name]
    if class_list:
        if not known.class_list:
            raise UserError(f"class-list: {known.title} is used with all its classes; leave --classes out")
        print("\n".join(known.class_list))
        return
    read_as = " ".join([known.images, *known.options])
    show(f"{known.title}: {known.classes:,} classes, {known.train:,} training and {known.test:,} test images")
    show(f"from:    {known.home}")
    show(f"licence: {known.licence}")
    show(f"read as: --images {read_as}")
    show(f"gives:   {known.gives}")
    show(f"checked: {known.checked}")
    figures = {figure.encoder: figure for figure in known.figures}
    lines = []
    for encoder, (title, licence) in ENCODERS.items():
        figure = figures.get(encoder)
        theirs, ours = (figure.theirs, figure.ours) if figure else (None, None)
        lines.append((title, encoder, licence, percent(theirs), percent(ours)))
    sources = sorted({f"{figure.source}: {figure.what}" for figure in known.figures})
    caption = "; ".join([*sources, *([known.cost] if known.cost else [])]) or "no results on this set are recorded here"
    heads = ("encoder", "recipe", "licence of the weights", "paper", "ours")
    show(Table("top-1 %", heads, tuple(lines), caption=caption, left=3))
    for encoder in ENCODERS:
        for line in known.commands(name, encoder):
            show(line)
    show("The table across encoders, and its rows of neighbours:")
    show(known.matrix_command(name), *known.neighbours_commands(name))
