"""The Iceberg side of the platform: catalog, table schemas, and opening them. Importing this imports pyiceberg."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyarrow.fs import AwsStandardS3RetryStrategy
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError, NoSuchTableError, TableAlreadyExistsError
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
from requests.adapters import HTTPAdapter

from k2run.k2.platform.store_files import CONNECT_S, store_properties

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table
    from requests import Response, Session

NAMESPACE = "market_data"
TRADES = f"{NAMESPACE}.trades_v2"
REFERENCE_DATA = f"{NAMESPACE}.reference_data_v2"
ANSWER_S = 10.0

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
    # A commit whose answer is lost may have happened: only whoever looks at the ledger first may try it again.
    "commit.retry.num-retries": "0",
    "write.parquet.row-group-limit": str(_ROWS_PER_GROUP),
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


def open_catalog(address: str, s3_endpoint: str = "") -> Catalog:
    """The REST catalog at this URL, with the object store its tables are in; none for tables in files.

    Raises:
        OSError, RESTError: It does not answer.
    """
    return _PunctualCatalog("k2", uri=address, **store_properties(s3_endpoint))


class _Punctual(HTTPAdapter):
    """Requests that end; pyiceberg sets no timeout of its own, and a catalog that is paused still takes connections."""

    def send(self, *args: Any, **settings: Any) -> Response:
        settings["timeout"] = (CONNECT_S, ANSWER_S)
        return super().send(*args, **settings)


class _PunctualCatalog(RestCatalog):
    def _create_session(self) -> Session:
        session = super()._create_session()
        session.mount("http://", _Punctual())
        session.mount("https://", _Punctual())
        return session


def open_table(catalog: Catalog, name: str) -> Table:
    """The table `name` (`TRADES` or `REFERENCE_DATA`), made on first use, unpartitioned and unsorted as K2's is."""
    try:
        return catalog.load_table(name)
    except NoSuchTableError:
        with suppress(NamespaceAlreadyExistsError):
            catalog.create_namespace(NAMESPACE)
        with suppress(TableAlreadyExistsError):
            return catalog.create_table(name, _SCHEMAS[name], properties=_PROPERTIES)
        return catalog.load_table(name)


class Twice(AwsStandardS3RetryStrategy):  # type: ignore[misc]  # pyarrow has no types
    """Two attempts: whoever asked decides whether to go on. Left to itself Arrow tries for half a minute."""

    def __init__(self) -> None:
        super().__init__(max_attempts=2)
