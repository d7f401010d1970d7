"""The documentation site: `invoke site` builds it into `site/`, from the pages of this folder and two of the root."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from k2run import __version__  # noqa: E402 - found by the line above

project = "k2run"
version = release = __version__
extensions = ["myst_parser", "sphinx_external_toc"]
external_toc_path = "contents.yml"
myst_heading_anchors = 4
html_theme = "furo"
html_title = "k2run"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
exclude_patterns = ["_build"]
suppress_warnings = ["myst.header", "misc.highlighting_failure"]  # the second: wrong runbooks are shown as they are
ROOT_PAGES = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Take the pages that the repository keeps at its root, and show links out of `docs/` as text."""
    del app
    text = source[0]
    if docname in ROOT_PAGES:
        text = (HERE.parent / ROOT_PAGES[docname]).read_text(encoding="utf-8").replace("](docs/", "](")
    source[0] = re.sub(r"\[([^\]]*)\]\(\s*\.\./[^)]*\)", r"`\1`", text)


def setup(app: Sphinx) -> None:
    """Register what reads the pages."""
    app.connect("source-read", read)
