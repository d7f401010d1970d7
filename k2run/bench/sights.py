"""Where a trade becomes visible at the end of the pipeline: in the answers of an API, or in an Iceberg table."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from k2run.adapters._iceberg.catalog import Iceberg, judged, open_catalog, open_table
from k2run.adapters._iceberg.views import data_files
from k2run.adapters._web import Request, send
from k2run.errors import Refused

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import FileScanTask, Table

    from k2run.actions.deadline import Deadline

GOOD = range(200, 300)


class Sight(Protocol):
    """A place to look for trades."""

    @property
    def source(self) -> str:
        """What results give as their source."""
        ...

    def seen(self, waiting: Collection[str], deadline: Deadline) -> set[str]:
        """Those of the ids that can be seen there now."""
        ...


class InAnswers:
    """The rows of an API's JSON answer.

    Args:
        request: Asks for the newest trades; more of them than come in between two looks.
        rows: Path to the rows, such as `data`.
        field: Of a row, with its id.
    """

    def __init__(self, request: Request, rows: str, field: str) -> None:
        self._request, self._field = request, field
        self._path = [part for part in rows.split(".") if part]

    @property
    def source(self) -> str:
        """What results give as their source."""
        return self._request.address

    def seen(self, waiting: Collection[str], deadline: Deadline) -> set[str]:
        """Those of the ids that are in the answer.

        Raises:
            Unreachable: No answer.
            Refused: An answer that is not good, or has no rows where they should be.
        """
        answer = send(self._request, deadline)
        if answer.status not in GOOD:
            raise Refused(f"{self._request.address} answered {answer.status_line}")
        found: Any = msgspec.json.decode(answer.content)
        for part in self._path:
            found = found.get(part) if isinstance(found, dict) else None
        if not isinstance(found, list):
            raise Refused(f"the answer of {self._request.address} has no list at {'.'.join(self._path) or 'its top'}")
        ids = {str(row.get(self._field)) for row in found if isinstance(row, dict)}
        return ids.intersection(waiting)


class InTable:
    """The rows of an Iceberg table; at each look only files that were not there at the last one are read."""

    def __init__(self, iceberg: Iceberg, name: str, field: str, deadline: Deadline) -> None:
        self._iceberg, self._name, self._field = iceberg, name, field
        table = open_table(iceberg, deadline, name)  # says what there is, when there is no such table
        self._catalog: Catalog = open_catalog(iceberg, deadline)
        self._metadata = table.metadata_location
        self._known = {task.file.file_path for task in data_files(table)}

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"{self._iceberg.source} {self._iceberg.full_name(self._name)}"

    def seen(self, waiting: Collection[str], deadline: Deadline) -> set[str]:
        """Those of the ids that have been committed since the last look."""
        deadline.remaining()
        with judged(self._iceberg, f"look into {self._name}"):
            table = self._catalog.load_table(self._iceberg.full_name(self._name))
            if table.metadata_location == self._metadata:
                return set()
            tasks = data_files(table)
            fresh = [task for task in tasks if task.file.file_path not in self._known]
            found = self._ids(table, fresh).intersection(waiting)
        self._metadata = table.metadata_location
        self._known = {task.file.file_path for task in tasks}
        return found

    def _ids(self, table: Table, files: list[FileScanTask]) -> set[str]:
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan

        if not files:
            return set()
        scan = ArrowScan(table.metadata, table.io, table.schema().select(self._field), AlwaysTrue())
        return {str(name) for name in scan.to_table(files)[self._field].to_pylist()}
