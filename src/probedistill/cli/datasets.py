"""The command datasets: the papers' data, and how to run their tables on it."""

from __future__ import annotations

from .app import command, show


@command()
def datasets(name: str | None = None, /, *, class_list: bool = False) -> None:
    """List the data sets of the papers; with a NAME, how to get one and how to run the papers' table on it.

    Example: probedistill datasets imagenet-100

    The library brings none of these sets. It says where each comes from, what its makers allow, which --images reads
    it, what the papers report beside our own numbers, and which of all this was compared with its source.

    Parameters
    ----------
    name:
        One of the sets.
    class_list:
        Print the names of its classes alone, one a line, for --classes @FILE.
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
        show("More of one: probedistill datasets NAME")
        return
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    known = DATASETS[name]
    if class_list:
        if not known.class_list:
            raise UserError(f"class-list: {known.title} is used with all of its classes; leave --classes out")
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
    caption = "; ".join([*sources, *([known.cost] if known.cost else [])]) or "no figure of this set is on record here"
    heads = ("encoder", "recipe", "licence of the weights", "paper", "ours")
    show(Table("top-1 in percent", heads, tuple(lines), caption=caption, left=3))
    for encoder in ENCODERS:
        for line in known.commands(name, encoder):
            show(line)
    show(known.matrix_command(name))
