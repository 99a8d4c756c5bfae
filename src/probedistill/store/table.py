"""``images/metadata.parquet``: the class of each image file, as `datasets` reads it.

`datasets` reads the labels of an image folder from this table. Its schema declares them as a ``ClassLabel`` and names
the classes, so that nothing is guessed from a folder, a number or a date. torchvision's ImageFolder, which reads only
folders, ignores it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, explained


def table_bytes(files: Sequence[str], labels: Sequence[int], class_names: Sequence[str]) -> bytes:
    """The table as a Parquet file, with the columns ``file_name``, ``label`` and ``class_name``.

    Args:
        files: Names of m image files, below ``images/``.
        labels: The class of each file, in [0, C).
        class_names: C names.
    """
    import pyarrow as arrow  # imported late: it takes 0.1 s that most commands can save
    import pyarrow.parquet as parquet

    text: dict[str, Any] = {"dtype": "string", "_type": "Value"}
    features = {"file_name": text, "label": {"names": list(class_names), "_type": "ClassLabel"}, "class_name": text}
    columns = {
        "file_name": arrow.array(files, arrow.string()),
        "label": arrow.array(labels, arrow.int64()),
        "class_name": arrow.array([class_names[label] for label in labels], arrow.string()),
    }
    table, file = arrow.table(columns), io.BytesIO()
    # Only the data: a third of the bytes that Arrow would write by default.
    with parquet.ParquetWriter(
        file, table.schema, compression="none", use_dictionary=False, write_statistics=False, store_schema=False
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)})
    return file.getvalue()


def check_table(path: Path, files: Sequence[str]) -> None:
    """Raise `UserError` unless a Parquet file can be read and lists these image files."""
    import pyarrow.parquet as parquet

    with explained(f"{str(path)!r} cannot be read", Exception, hint="restore it"):
        listed = sorted(map(str, values_of(parquet.ParquetFile(path), "file_name")))
    if listed != sorted(files):
        raise UserError(f"{str(path)!r} does not list the image files of its set; restore it")


def values_of(file: Any, column: str) -> Iterator[Any]:
    """Yield the values of a column of a `pyarrow.parquet.ParquetFile`; of images, their bytes.

    One at a time, because many rows may share one stored value, so that kilobytes become gigabytes. Equal texts are one
    object. Lists and dictionaries, which may be as large, are given as ``None``.
    """
    from pyarrow import types

    kind, leaf, same = file.schema_arrow.field(column).type, column, dict[str, str]()
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, leaf = kind.field("bytes").type, f"{column}.bytes"
    if types.is_nested(kind):
        yield from (None for _ in range(file.metadata.num_rows))
        return
    for batch in file.iter_batches(batch_size=1, columns=[leaf]):
        for value in batch.column(0).to_pylist():
            one = value.get("bytes") if isinstance(value, dict) else value
            yield same.setdefault(one, one) if isinstance(one, str) else one
