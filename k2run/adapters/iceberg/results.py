"""What the iceberg actions measure: the fields that `expect` may name."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from k2run.actions.action import Result
from k2run.language.quantities import Size


class Tables(Result, frozen=True, kw_only=True):
    """The tables of a namespace, with their namespace."""

    tables: list[str]
    count: int

    def headline(self) -> str:
        """Such as `orders, customers`."""
        return ", ".join(name.rpartition(".")[2] for name in self.tables[:4])


class TableSchema(Result, frozen=True, kw_only=True):
    """The columns of a table.

    Attributes:
        columns: Type by name, in order.
        required: Columns that may not be null.
        missing: Expected columns that the table lacks.
        extra: Columns that were not expected; empty when none were named.
        partitioned_by: Such as `day(timestamp)`.
        sorted_by: Such as `symbol asc`.
    """

    table: str
    columns: dict[str, str]
    count: int
    required: list[str]
    missing: list[str]
    extra: list[str]
    partitioned_by: list[str]
    sorted_by: list[str]

    def headline(self) -> str:
        """Such as `16 columns, missing currency`."""
        wrong = [
            f"{word} {', '.join(names)}" for word, names in (("missing", self.missing), ("extra", self.extra)) if names
        ]
        return ", ".join([f"{self.count} columns", *wrong])


class Rows(Result, frozen=True, kw_only=True):
    """How many rows there are.

    Attributes:
        told_by: `snapshot` when the table's metadata counts them, `rows` when they were read.
        snapshot_id: Of the snapshot that was counted; None before the first.
    """

    table: str
    rows: int
    told_by: str
    snapshot_id: int | None

    def headline(self) -> str:
        """Such as `12,570 rows`."""
        return f"{self.rows:,} rows"


class Snapshot(Struct, frozen=True, kw_only=True):
    """One committed state of a table; counts that its summary lacks are None."""

    id: int
    time: str
    operation: str
    added_rows: int | None
    total_rows: int | None


class Snapshots(Result, frozen=True, kw_only=True):
    """The states of a table, newest first.

    Attributes:
        count: How many the table keeps.
        snapshots: The newest of them.
        newest_age_s: Seconds since the last commit.
    """

    table: str
    count: int
    snapshots: list[Snapshot]
    newest_age_s: float

    def headline(self) -> str:
        """Such as `12 snapshots, newest 0.9 s old`."""
        return f"{self.count} snapshots, newest {self.newest_age_s:.1f} s old"


class Files(Result, frozen=True, kw_only=True):
    """The files of the current snapshot.

    Attributes:
        count: Data files.
        bytes: Their size together.
        rows: In them, deleted ones too.
        smallest_bytes: Of one file; None when there is none.
        largest_bytes: Likewise.
        mean_bytes: Likewise.
        small: Files below the size asked about.
        delete_files: Files that take rows away again.
    """

    table: str
    count: int
    bytes: int
    rows: int
    smallest_bytes: int | None
    largest_bytes: int | None
    mean_bytes: float | None
    small: int
    delete_files: int

    def headline(self) -> str:
        """Such as `12 files, 4.1MiB, 3 small`."""
        return f"{self.count} files, {Size(self.bytes)}, {self.small} small"


class Freshness(Result, frozen=True, kw_only=True):
    """How old the newest row is.

    Attributes:
        newest: ISO 8601 in UTC.
        oldest: ISO 8601 in UTC.
        age_s: Seconds from the newest to now by this machine's clock; below zero when the row's clock is ahead.
        span_s: Seconds from the oldest to the newest.
        told_by: `manifests` when the table's metadata keeps the bounds, `rows` when they were read.
    """

    table: str
    column: str
    newest: str
    oldest: str
    age_s: float
    span_s: float
    told_by: str

    def headline(self) -> str:
        """Such as `newest row 2.1 s old, spans 900 s`."""
        return f"newest row {self.age_s:.1f} s old, spans {self.span_s:.0f} s"


class Compression(Result, frozen=True, kw_only=True):
    """How much smaller the files are than what is in them.

    Attributes:
        ratio: `uncompressed_bytes` over `compressed_bytes`: what the codec saves on Parquet's own encoding.
        json_ratio: `json_bytes_per_row` times `rows` over `file_bytes`: against rows as JSON documents.
        uncompressed_bytes: Column chunks before compression, as the footers of all files say.
        compressed_bytes: Column chunks as they are stored.
        file_bytes: The files on their storage.
        json_bytes_per_row: Measured on `sampled_rows` rows of the largest file.
        codecs: Such as `[zstd]`.
    """

    table: str
    ratio: float
    json_ratio: float
    uncompressed_bytes: int
    compressed_bytes: int
    file_bytes: int
    files: int
    rows: int
    json_bytes_per_row: float
    sampled_rows: int
    codecs: list[str]

    def headline(self) -> str:
        """Such as `2.31 to 1 by zstd, 7.9 to 1 against JSON`."""
        return f"{self.ratio:.2f} to 1 by {'+'.join(self.codecs)}, {self.json_ratio:.1f} to 1 against JSON"


class Duplicates(Result, frozen=True, kw_only=True):
    """Rows that say the same thing twice.

    Attributes:
        rows: Rows read.
        distinct: Different values among them.
        duplicates: Rows beyond the first of each value.
        nulls: Rows without a value; each counts as distinct from nothing.
        examples: Some of the values that are there more than once.
    """

    table: str
    column: str
    rows: int
    distinct: int
    duplicates: int
    nulls: int
    examples: list[Any]

    def headline(self) -> str:
        """Such as `0 duplicates in 12,570 rows`."""
        return f"{self.duplicates:,} duplicates in {self.rows:,} rows"


class Appended(Result, frozen=True, kw_only=True):
    """Rows that were added, with the snapshot that has them."""

    table: str
    rows: int
    snapshot_id: int


class Compacted(Result, frozen=True, kw_only=True):
    """A table that was rewritten."""

    table: str
    rows: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    snapshot_id: int

    def headline(self) -> str:
        """Such as `120 files → 1, 4.1MiB → 2.0MiB`."""
        files = f"{self.files_before} files → {self.files_after}"
        return f"{files}, {Size(self.bytes_before)} → {Size(self.bytes_after)}"


class Expired(Result, frozen=True, kw_only=True):
    """Snapshots that are forgotten, and how many are kept."""

    table: str
    expired: int
    kept: int


class RolledBack(Result, frozen=True, kw_only=True):
    """The snapshot that is current again, and the one that was."""

    table: str
    snapshot_id: int
    from_snapshot_id: int
