"""The Iceberg side of the sandbox: catalog, table schemas, and opening them. Importing this imports pyiceberg."""

from __future__ import annotations

import fcntl
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError, TableAlreadyExistsError
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BooleanType,
    DateType,
    DecimalType,
    IcebergType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
)
from sqlalchemy import URL

if TYPE_CHECKING:
    from pathlib import Path

    from pyiceberg.table import Table

NAMESPACE = "market_data"
TRADES = f"{NAMESPACE}.trades_v2"
REFERENCE_DATA = f"{NAMESPACE}.reference_data_v2"
CATALOG_FILE = "catalog.db"

_ROWS_PER_GROUP = 10_000  # a reader of the newest rows decodes whole groups: 50,000 cost it 17 ms of CPU, these 8


def _schema(*columns: tuple[str, IcebergType, bool]) -> Schema:
    """Columns as (name, type, required), numbered from 1."""
    fields = [NestedField(number, name, kind, required=must) for number, (name, kind, must) in enumerate(columns, 1)]
    return Schema(*fields)


TRADES_SCHEMA = _schema(
    ("message_id", StringType(), True),
    ("trade_id", StringType(), True),
    ("symbol", StringType(), True),
    ("exchange", StringType(), True),
    ("asset_class", StringType(), True),
    ("timestamp", TimestampType(), True),
    ("price", DecimalType(18, 8), True),
    ("quantity", DecimalType(18, 8), True),
    ("currency", StringType(), True),
    ("side", StringType(), True),
    ("trade_conditions", StringType(), False),
    ("source_sequence", LongType(), False),
    ("ingestion_timestamp", TimestampType(), True),
    ("platform_sequence", LongType(), False),
    ("vendor_data", StringType(), False),
    ("is_sample_data", BooleanType(), True),
)

REFERENCE_DATA_SCHEMA = _schema(
    ("message_id", StringType(), True),
    ("company_id", StringType(), True),
    ("symbol", StringType(), True),
    ("exchange", StringType(), True),
    ("asset_class", StringType(), True),
    ("company_name", StringType(), True),
    ("isin", StringType(), False),
    ("currency", StringType(), False),
    ("listing_date", DateType(), False),
    ("delisting_date", DateType(), False),
    ("is_active", BooleanType(), True),
    ("ingestion_timestamp", TimestampType(), True),
    ("vendor_data", StringType(), False),
)

_SCHEMAS = {TRADES: TRADES_SCHEMA, REFERENCE_DATA: REFERENCE_DATA_SCHEMA}

_PROPERTIES = {
    "write.parquet.row-group-limit": str(_ROWS_PER_GROUP),
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


def catalog_exists(warehouse: Path) -> bool:
    """Whether there is a catalog under `warehouse` yet; `open_catalog` would make one."""
    return (warehouse / CATALOG_FILE).exists()


def open_catalog(warehouse: Path) -> SqlCatalog:
    """The SQLite catalog of `warehouse`, made on first use together with the directory."""
    warehouse.mkdir(parents=True, exist_ok=True)
    path = warehouse.resolve() / CATALOG_FILE
    with (warehouse / "catalog.lock").open("w", encoding="utf-8") as lock:
        # Two programs that make the catalog at the same moment would trip over each other's tables.
        fcntl.flock(lock, fcntl.LOCK_EX)
        with closing(sqlite3.connect(path, timeout=30)) as database:
            # Readers then never block the consumer's commit, nor it them. The mode is remembered in the file.
            database.execute("PRAGMA journal_mode=WAL")
        # The database as a URL, which SQLAlchemy decodes; the warehouse as a path, for pyiceberg decodes no `file://`.
        address = URL.create("sqlite", database=str(path)).render_as_string()
        return SqlCatalog("k2", uri=address, warehouse=str(warehouse.resolve()))


def open_table(catalog: SqlCatalog, name: str) -> Table:
    """The table `name` (`TRADES` or `REFERENCE_DATA`), made on first use, unpartitioned and unsorted as K2's is."""
    with suppress(NamespaceAlreadyExistsError):
        catalog.create_namespace(NAMESPACE)
    try:
        return catalog.create_table(name, _SCHEMAS[name], properties=_PROPERTIES)
    except TableAlreadyExistsError:
        return catalog.load_table(name)
