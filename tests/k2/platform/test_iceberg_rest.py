"""The REST catalog speaks the specification: pyiceberg's own client uses it; conflicts and absences are told apart."""

from __future__ import annotations

import httpx
import pytest
from catalog_server import catalog_server
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.schema import Schema
from pyiceberg.types import LongType, NestedField

from k2run.k2.platform import table

SCHEMA = Schema(NestedField(1, "id", LongType(), required=True))


@pytest.fixture
def address(tmp_path):
    with catalog_server(tmp_path) as found:
        yield found


@pytest.fixture
def catalog(address):
    return table.open_catalog(address)


def test_namespaces_are_made_changed_listed_and_dropped(catalog):
    catalog.create_namespace("team", {"owner": "platform"})
    with pytest.raises(NamespaceAlreadyExistsError):
        catalog.create_namespace("team")
    assert catalog.list_namespaces() == [("team",)]
    catalog.update_namespace_properties("team", {"owner"}, {"level": "2"})
    assert catalog.load_namespace_properties("team") == {"level": "2"}
    catalog.create_table("team.one", SCHEMA)
    with pytest.raises(NamespaceNotEmptyError):
        catalog.drop_namespace("team")
    catalog.drop_table("team.one")
    catalog.drop_namespace("team")
    with pytest.raises(NoSuchNamespaceError):
        catalog.load_namespace_properties("team")


def test_tables_are_made_renamed_registered_and_dropped(catalog):
    catalog.create_namespace("team")
    made = catalog.create_table("team.one", SCHEMA, properties={"kept": "yes"})
    with pytest.raises(TableAlreadyExistsError):
        catalog.create_table("team.one", SCHEMA)
    assert catalog.list_tables("team") == [("team", "one")]
    assert catalog.load_table("team.one").properties["kept"] == "yes"
    catalog.rename_table("team.one", "team.two")
    assert not catalog.table_exists("team.one")
    catalog.drop_table("team.two")
    with pytest.raises(NoSuchTableError):
        catalog.load_table("team.two")
    assert catalog.register_table("team.three", made.metadata_location).metadata == made.metadata


def test_of_two_commits_to_the_same_state_one_is_told_of_its_conflict(address, catalog):
    catalog.create_namespace("team")
    catalog.create_table("team.one", SCHEMA, properties={"commit.retry.num-retries": "0"})
    mine, other = (table.open_catalog(address).load_table("team.one") for _ in range(2))
    rows = SCHEMA.as_arrow().empty_table()
    mine.append(rows)
    with pytest.raises(CommitFailedException):
        other.append(rows)
    assert len(catalog.load_table("team.one").snapshots()) == 1


def test_who_has_the_newest_state_is_told_so_without_it(address, catalog):
    catalog.create_namespace("team")
    catalog.create_table("team.one", SCHEMA)
    url = f"{address}/v1/namespaces/team/tables/one"
    first = httpx.get(url)
    again = httpx.get(url, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    catalog.load_table("team.one").append(SCHEMA.as_arrow().empty_table())
    changed = httpx.get(url, headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200
    assert changed.json()["metadata-location"] != first.json()["metadata-location"]


def test_what_is_wrong_has_the_specifications_shape(address):
    for method, path, status in (
        ("GET", "/v1/namespaces/nowhere/tables/none", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/namespaces", 400),
        ("PUT", "/v1/namespaces", 405),
    ):
        answer = httpx.request(method, address + path, content=b"{}" if method == "POST" else None)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)
        assert answer.json()["error"]["type"].endswith("Exception")
