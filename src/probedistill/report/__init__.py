"""A report of finished (or unfinished) runs: one HTML file with everything in it and no network.

`gather` reads run folders, `pictures` packs images, `figures` draws numbers with plotly, `page` fills the
template with jinja2.
"""

from .page import write_report

__all__ = ["write_report"]
