"""Metadata that depends on the repository's address: links on the project page, and in the README shown there.

The address is known when GitHub builds a release, from its environment variables. In other builds, the README's links
are not changed, and the project has no links.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def repository() -> str | None:
    """Address of the repository, if this build knows it."""
    server, name = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    return f"{server}/{name}" if server and name else None


def absolute(readme: str, address: str, revision: str) -> str:
    """The README with absolute links to files and pictures of the repository."""
    readme = re.sub(r"(!\[[^\]]*\]\()(?!https?:|#)", rf"\g<1>{address}/raw/{revision}/", readme)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?!https?:|#)", rf"\g<1>{address}/blob/{revision}/", readme)


class CustomMetadataHook(MetadataHookInterface):
    """Set ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling when it builds."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        address, revision = repository(), os.environ.get("GITHUB_REF_NAME", "main")
        if address is not None:
            text = absolute(text, address, revision)
            metadata["urls"] = {
                "Repository": address,
                "Issues": f"{address}/issues",
                "Changelog": f"{address}/blob/{revision}/CHANGELOG.md",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
