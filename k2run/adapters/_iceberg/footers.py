"""What the Parquet files of a table say about themselves: sizes before and after compression."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyiceberg.table import FileScanTask, Table

    from k2run.actions.deadline import Deadline


class Sizes(NamedTuple):
    """Bytes of all column chunks, and which codecs made them smaller."""

    uncompressed: int
    compressed: int
    codecs: list[str]


def sizes(table: Table, files: Sequence[FileScanTask], deadline: Deadline) -> Sizes:
    """Read every footer and add up its column chunks."""
    from pyarrow.parquet import ParquetFile

    before = after = 0
    codecs: set[str] = set()
    for task in files:
        deadline.remaining()
        with table.io.new_input(task.file.file_path).open() as stream:
            footer = ParquetFile(stream).metadata
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            chunks = [group.column(column) for column in range(group.num_columns)]
            before += sum(chunk.total_uncompressed_size for chunk in chunks)
            after += sum(chunk.total_compressed_size for chunk in chunks)
            codecs |= {chunk.compression.lower() for chunk in chunks}
    return Sizes(before, after, sorted(codecs))


def json_bytes_per_row(table: Table, files: Sequence[FileScanTask], rows: int) -> tuple[float, int]:
    """The mean size of a row as a JSON document, and over how many rows of the largest file it was taken."""
    from pyarrow.parquet import ParquetFile

    largest = max(files, key=lambda task: task.file.record_count)
    with table.io.new_input(largest.file.file_path).open() as stream:
        batch = next(ParquetFile(stream).iter_batches(batch_size=rows))
        documents = [json.encode(row) for row in batch.to_pylist()]
    return sum(map(len, documents)) / len(documents), len(documents)
