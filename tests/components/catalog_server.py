"""The platform's REST catalog in this process, over SQLite and a folder: what a test of one of its readers needs."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def catalog_server(folder: Path) -> Iterator[str]:
    """The URL of a catalog whose tables are in `folder`."""
    import uvicorn
    from pyiceberg.catalog.sql import SqlCatalog
    from sqlalchemy import URL

    from k2run.k2.platform.iceberg_rest import CATALOG, application

    folder.mkdir(parents=True, exist_ok=True)
    address = URL.create("sqlite", database=str(folder / "catalog.db")).render_as_string()
    catalog = SqlCatalog(CATALOG, uri=address, warehouse=str(folder))
    server = uvicorn.Server(uvicorn.Config(application(catalog), log_level="critical", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            catalog.close()
