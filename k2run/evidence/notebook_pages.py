"""An executed notebook as pages for a projector, as an action of runbooks."""

from __future__ import annotations

import json
from pathlib import Path

from k2run.actions.action import Effect, Result, action
from k2run.errors import Refused, Unknown
from k2run.evidence.html import notebook as drawing


class Pages(Result, frozen=True, kw_only=True):
    """The pages of a notebook.

    Attributes:
        url: Where a browser finds them.
        pages: What stands behind `#` in the address of each.
    """

    path: str
    url: str
    pages: list[str]

    def headline(self) -> str:
        """Such as `7 pages`."""
        return f"{len(self.pages)} pages"


@action("notebook.pages", effect=Effect.CHANGES)
def pages(path: str, file: str) -> Pages:
    """Write an executed notebook as an HTML file for a projector: one page for each heading `## …`, code left out.

    Args:
        path: The executed notebook.
        file: The HTML file to write.
    """
    place, target = Path(path).expanduser().absolute(), Path(file).expanduser().absolute()
    try:
        notebook = json.loads(place.read_text(encoding="utf-8"))
        text = drawing.pages(notebook)
        sources = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
        titles = [drawing.slug(found[1]) for source in sources for found in drawing.HEADING.finditer(source)]
    except FileNotFoundError:
        raise Unknown(f"there is no notebook {place}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{place} is not a notebook: {error}") from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"{target} cannot be written: {error.strerror}") from error
    return Pages(path=str(target), url=target.as_uri(), pages=titles, source=str(place))
