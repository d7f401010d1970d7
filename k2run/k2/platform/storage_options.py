"""Where the other programs are: broker, registry, catalog, object store and its credentials, as options of a program."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

ACCESS_KEY, SECRET_KEY = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
REGION = "us-east-1"
CONNECT_S, REQUEST_S = 1.0, 4.0
"""A store that is paused still takes connections: what it does not answer within these seconds has failed."""
_REFUSED = re.compile(r"(?i)ACCESS_?DENIED|INVALID_?ACCESS_?KEY_?ID|SIGNATURE_?DOES_?NOT_?MATCH")


def add_broker(parser: argparse.ArgumentParser, verb: str = "read") -> None:
    """The options that name the broker and the schema registry; `verb` says what is done with its messages."""
    parser.add_argument("--bootstrap", default="127.0.0.1:19092", help="the broker (default: 127.0.0.1:19092)")
    parser.add_argument(
        "--registry",
        default="",
        metavar="URLS",
        help=f"comma-separated schema registry nodes; without any, JSON is {verb}",
    )


def add_catalog(parser: argparse.ArgumentParser) -> None:
    """The option that names the catalog."""
    parser.add_argument(
        "--catalog", default="http://127.0.0.1:18181", help="the REST catalog (default: http://127.0.0.1:18181)"
    )


def add_store(parser: argparse.ArgumentParser) -> None:
    """The option that names the object store."""
    parser.add_argument(
        "--s3-endpoint",
        default="",
        help=f"the object store, with the credentials in {ACCESS_KEY} and {SECRET_KEY}; without it tables are in files",
    )


def store_properties(endpoint: str) -> dict[str, str]:
    """Settings of pyiceberg for the object store; none for tables in files."""
    if not endpoint:
        return {}
    return {
        "s3.endpoint": endpoint,
        "s3.access-key-id": os.environ.get(ACCESS_KEY, ""),
        "s3.secret-access-key": os.environ.get(SECRET_KEY, ""),
        "s3.region": REGION,
        "s3.force-virtual-addressing": "false",
        "s3.connect-timeout": str(CONNECT_S),
        "s3.request-timeout": str(REQUEST_S),
        "s3.retry-strategy-impl": "k2run.k2.platform.store_retries.Twice",
    }


def refuses_credentials(said: str) -> bool:
    """Whether an error of an S3 store says that it does not take the key, which no waiting changes."""
    return bool(_REFUSED.search(said))
