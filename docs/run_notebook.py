"""Run a notebook and keep its outputs: results and pictures, but no progress bars and messages."""

from __future__ import annotations

import sys
import tempfile

import nbformat
from nbclient import NotebookClient


def main(path: str) -> None:
    """Run the notebook at ``path`` in an empty folder, and write it."""
    book = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # time stamps
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]
    nbformat.write(book, path)


if __name__ == "__main__":
    main(sys.argv[1])
