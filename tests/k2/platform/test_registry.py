"""The schema registry's two nodes, asked by Confluent's own client, and by hand where that client cannot."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from k2run.k2.platform import registry_store
from k2run.k2.platform.registry_store import StateError, Store, guid_of
from k2run.k2.platform.schemas import RegistryClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def record(*fields: dict[str, Any], name: str = "R") -> str:
    return json.dumps({"type": "record", "name": name, "fields": list(fields)})


def field(name: str, kind: Any = "string", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


ONE = record(field("a"))
WIDER = record(field("a"), field("b", default=""))
BROKEN = record(field("a"), field("c"))


@pytest.fixture
def node(sandbox) -> str:
    """The URL of a node."""
    return sandbox.registry().url


@pytest.fixture
def client(node) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": node})


def refused(code: int, do: Callable[[], object]) -> str:
    with pytest.raises(SchemaRegistryError) as caught:
        do()
    assert caught.value.error_code == code
    return str(caught.value.error_message)


def test_versions_ids_and_lookups_are_as_confluents_client_expects_them(client):
    first = client.register_schema("s-value", Schema(ONE, "AVRO"))
    assert client.register_schema("s-value", Schema(json.dumps(json.loads(ONE), indent=4), "AVRO")) == first
    assert client.register_schema("t-value", Schema(ONE, "AVRO")) == first  # one schema, one id
    second = client.register_schema("s-value", Schema(WIDER, "AVRO"))
    assert 0 < first < 2**31
    assert 0 < second < 2**31
    assert first != second
    assert client.get_subjects() == ["s-value", "t-value"]
    assert client.get_subjects(subject_prefix="t") == ["t-value"]
    assert client.get_versions("s-value") == [1, 2]
    assert client.lookup_schema("s-value", Schema(ONE, "AVRO")).version == 1
    latest = client.get_latest_version("s-value")
    assert (latest.version, latest.schema_id, json.loads(latest.schema.schema_str)) == (2, second, json.loads(WIDER))
    assert json.loads(client.get_schema(first).schema_str) == json.loads(ONE)
    assert json.loads(client.get_schema_by_guid(latest.guid).schema_str) == json.loads(WIDER)
    assert client.get_subjects_by_schema_id(first) == ["s-value", "t-value"]
    assert [(one.subject, one.version) for one in client.get_schema_versions(first)] == [("s-value", 1), ("t-value", 1)]
    assert client.get_schema_types() == ["AVRO"]


def test_what_is_not_there_and_what_is_wrong_is_told_by_confluents_codes(client, node):
    client.register_schema("s-value", Schema(ONE, "AVRO"))
    assert "'u-value' not found" in refused(40401, lambda: client.get_versions("u-value"))
    refused(40402, lambda: client.get_version("s-value", 7))
    refused(42202, lambda: client.get_version("s-value", "newest"))
    refused(40403, lambda: client.get_schema(99))
    refused(40403, lambda: client.lookup_schema("s-value", Schema(WIDER, "AVRO")))
    refused(42201, lambda: client.register_schema("s-value", Schema('{"type": "recrod"}', "AVRO")))
    refused(42201, lambda: client.register_schema("s-value", Schema("{", "AVRO")))
    refused(42201, lambda: client.register_schema("s-value", Schema(record(field("a", "int", default="x")), "AVRO")))
    refused(42201, lambda: client.register_schema("s-value", Schema("message M {}", "PROTOBUF")))
    refused(42203, lambda: client.set_compatibility("s-value", "SIDEWAYS"))
    refused(40408, lambda: client.get_compatibility("s-value"))
    refused(42204, lambda: client.update_mode("s-value", "ASLEEP"))
    refused(40409, lambda: client.get_mode("s-value"))
    broken = refused(409, lambda: client.register_schema("s-value", Schema(BROKEN, "AVRO")))
    assert "'c'" in broken
    assert "no default value" in broken
    assert httpx.get(f"{node}/nothing").json() == {"error_code": 404, "message": "HTTP 404 Not Found"}
    assert httpx.patch(f"{node}/subjects").json()["error_code"] == 405
    assert httpx.post(f"{node}/subjects/s-value/versions", content=b"{").status_code == 400
    assert httpx.post(f"{node}/subjects/s-value/versions", json={}).status_code == 422
    answer = httpx.get(f"{node}/subjects")
    assert answer.headers["content-type"] == "application/vnd.schemaregistry.v1+json"


def test_a_level_holds_for_its_subject_and_the_registrys_for_all_others(client):
    for subject in ("s", "t"):
        client.register_schema(subject, Schema(WIDER, "AVRO"))
    assert client.get_compatibility() == "BACKWARD"
    client.set_compatibility("s", "FULL")
    dropped, unlike = Schema(record(field("b", default="")), "AVRO"), Schema(record(field("b", "int")), "AVRO")
    assert not client.test_compatibility("s", dropped)
    assert client.test_compatibility("t", dropped)
    told = client.test_compatibility_all_versions("s", dropped)
    assert not told
    refused(409, lambda: client.register_schema("s", dropped))
    client.set_compatibility("t", "NONE")
    assert client.test_compatibility("t", unlike)
    client.delete_config("t")
    assert not client.test_compatibility("t", unlike)
    client.set_compatibility(level="NONE")
    assert client.test_compatibility("t", unlike)
    assert client.get_compatibility("s") == "FULL"


def test_a_subject_is_deleted_softly_before_it_is_deleted_for_good(client):
    first = client.register_schema("s", Schema(ONE, "AVRO"))
    wider = client.register_schema("s", Schema(WIDER, "AVRO"))
    refused(40405, lambda: httpx_error(client, "DELETE", "subjects/s?permanent=true"))
    assert client.delete_version("s", 1) == 1
    refused(40406, lambda: client.delete_version("s", 1))
    assert client.get_versions("s") == [2]
    assert client.get_versions("s", deleted=True) == [1, 2]
    assert client.delete_subject("s") == [2]
    refused(40404, lambda: client.delete_subject("s"))
    assert client.get_subjects() == []
    assert client.get_subjects(deleted=True) == ["s"]
    assert client.get_schema(first).schema_str  # messages with this id can still be read
    httpx_error(client, "DELETE", "subjects/s?permanent=true")
    refused(40401, lambda: client.get_versions("s", deleted=True))
    assert client.register_schema("s", Schema(WIDER, "AVRO")) == wider  # an id never gets another meaning


def httpx_error(client: SchemaRegistryClient, verb: str, path: str) -> None:
    answer = httpx.request(verb, f"{client._rest_client.base_urls[0]}/{path}")
    if answer.is_error:
        told = answer.json()
        raise SchemaRegistryError(answer.status_code, told["error_code"], told["message"])


def test_a_mode_forbids_writing_and_another_gives_a_schema_the_id_that_it_had(client, node):
    client.register_schema("s", Schema(ONE, "AVRO"))
    client.update_mode("s", "READONLY")
    refused(42205, lambda: client.register_schema("s", Schema(WIDER, "AVRO")))
    client.delete_mode("s")
    assert client.get_global_mode() == "READWRITE"
    lost = {"schema": WIDER, "id": 41, "version": 3}
    assert httpx.post(f"{node}/subjects/u/versions", json=lost).json()["error_code"] == 42205
    client.update_mode("u", "IMPORT")
    assert httpx.post(f"{node}/subjects/u/versions", json=lost).json()["id"] == 41
    assert client.get_version("u", 3).schema_id == 41
    other = {"schema": BROKEN, "id": 41, "version": 4}
    assert httpx.post(f"{node}/subjects/u/versions", json=other).json()["error_code"] == 42205


def test_a_schema_may_use_the_type_of_another_which_then_stays(client, node):
    client.register_schema("kinds", Schema(record(field("x", "int"), name="Kind"), "AVRO"))
    user = record(field("kind", "Kind"), name="User")
    refused(42201, lambda: client.register_schema("users", Schema(user, "AVRO")))
    refers = [{"name": "Kind", "subject": "kinds", "version": 1}]
    made = httpx.post(f"{node}/subjects/users/versions", json={"schema": user, "references": refers}).json()
    assert httpx.get(f"{node}/subjects/kinds/versions/1/referencedby").json() == [made["id"]]
    assert httpx.get(f"{node}/schemas/ids/{made['id']}").json()["references"] == refers
    refused(42206, lambda: client.delete_subject("kinds"))


def test_what_one_node_registers_the_other_knows_and_both_know_it_after_kill_9(sandbox):
    one, other = sandbox.registry(), sandbox.registry()
    first, second = (SchemaRegistryClient({"url": node.url}) for node in (one, other))
    first.register_schema("s", Schema(ONE, "AVRO"))
    assert second.get_subjects() == ["s"]
    wider = second.register_schema("s", Schema(WIDER, "AVRO"))
    assert first.get_versions("s") == [1, 2]
    one.kill()
    other.kill()
    again = SchemaRegistryClient({"url": sandbox.registry().url})
    assert again.get_versions("s") == [1, 2]
    assert again.get_schema(wider).schema_str


def test_a_registry_that_lost_its_state_gives_a_schema_the_id_that_messages_name(sandbox):
    node = sandbox.registry()
    client = SchemaRegistryClient({"url": node.url})
    client.register_schema("others-value", Schema(ONE, "AVRO"))
    before = client.register_schema("s-value", Schema(WIDER, "AVRO"))
    node.kill()
    for left in sandbox.registry_state.parent.iterdir():
        left.unlink()
    again = SchemaRegistryClient({"url": sandbox.registry().url})
    assert again.get_subjects() == []
    assert again.register_schema("s-value", Schema(WIDER, "AVRO")) == before


def test_a_program_says_that_it_waits_while_an_answer_is_late_and_not_only_when_there_is_none():
    heard: list[bool] = []
    stopping = threading.Event()
    giving_up = threading.Timer(20, stopping.set)
    giving_up.start()  # an answer that was lost is not waited for
    with socket.create_server(("127.0.0.1", 0)) as node:

        def answer() -> None:  # slowly, but so that no wait for the next bytes is too long
            connection, _ = node.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\n")
                for number in range(1000):
                    if heard:
                        break
                    connection.sendall(f"X-{number}: still\r\n".encode())
                    time.sleep(0.1)
                connection.sendall(b"\r\n" + json.dumps({"schema": json.dumps("string")}).encode())

        threading.Thread(target=answer, daemon=True).start()
        client = RegistryClient(f"http://127.0.0.1:{node.getsockname()[1]}", stopping, heard.append)
        assert client.schema(1, "s-value") == "string"
    giving_up.cancel()
    assert heard == [True, False]


def test_a_schema_whose_id_is_another_ones_gets_the_next(tmp_path: Path):
    store = Store(tmp_path / "s.db")
    with store.change():
        number = store.free_number(guid_of(WIDER, ()))
        assert store.add("s", ONE, (), number).id == number
        assert store.add("s", WIDER, ()).id == number + 1


def test_a_state_that_is_lost_or_damaged_is_told(sandbox):
    node = sandbox.registry()
    SchemaRegistryClient({"url": node.url}).register_schema("s", Schema(ONE, "AVRO"))
    sandbox.registry_state.rename(sandbox.directory / "aside")
    answer = httpx.get(f"{node.url}/subjects")
    assert answer.status_code == 500
    assert answer.json()["error_code"] == 50001
    assert "is gone" in answer.json()["message"]
    assert node.metric("k2_schema_registry_subjects") is None  # unknown, not 0
    assert node.stop() == 0
    for left in sandbox.registry_state.parent.iterdir():
        left.unlink()  # SQLite would bring the state back from its write-ahead log
    sandbox.registry_state.write_bytes(b"not a database" * 1000)
    again = sandbox.registry()
    assert "registry_state_moved_aside" in again.log
    assert httpx.get(f"{again.url}/subjects").json() == []
    [aside] = sandbox.registry_state.parent.glob("schemas.db.unreadable-*")
    assert aside.read_bytes().startswith(b"not a database")
    assert sandbox.registry().log.count("moved_aside") == 0


def test_a_state_of_another_form_is_refused(tmp_path: Path):
    Store(tmp_path / "s.db")._database.execute("PRAGMA user_version = 9")
    with pytest.raises(StateError, match="another version"):
        Store(tmp_path / "s.db")


ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}


@pytest.mark.parametrize(
    ("writer", "reader", "reads"),
    [
        *(  # promotions: https://avro.apache.org/docs/1.12.0/specification/#schema-resolution
            (f'"{writer}"', f'"{reader}"', True)
            for writer, readers in {
                "int": ("long", "float", "double"),
                "long": ("float", "double"),
                "float": ("double",),
                "string": ("bytes",),
                "bytes": ("string",),
            }.items()
            for reader in readers
        ),
        *(
            (f'"{one}"', f'"{other}"', False)
            for one, other in (("long", "int"), ("double", "float"), ("int", "string"))
        ),
        (record(field("a"), field("b")), record(field("a")), True),  # ignored by the reader
        (record(field("a")), record(field("a"), field("b", default="x")), True),  # the reader's default
        (record(field("a")), record(field("a"), field("b")), False),
        (record(field("a"), field("b")), record(field("b"), field("a")), True),  # by name, in any order
        (record(field("a")), record(field("z", aliases=["a"])), True),
        (record(field("a"), name="R"), record(field("a"), name="S"), False),
        (json.dumps(ENUM), json.dumps(ENUM | {"symbols": ["B", "A", "C"]}), True),
        (json.dumps(ENUM), json.dumps(ENUM | {"symbols": ["A"]}), False),
        (json.dumps(ENUM), json.dumps(ENUM | {"symbols": ["A"], "default": "A"}), True),
        ('"int"', '["null", "long"]', True),
        ('["null", "int"]', '"int"', False),
        ('["int", "string"]', '["string", "long"]', True),
        ('["int", "boolean"]', '["int", "string"]', False),
        ('{"type": "array", "items": "int"}', '{"type": "array", "items": "long"}', True),
        ('{"type": "map", "values": "long"}', '{"type": "map", "values": "int"}', False),
        ('{"type": "fixed", "name": "F", "size": 4}', '{"type": "fixed", "name": "F", "size": 8}', False),
    ],
)
def test_what_a_reader_can_read_is_what_the_specification_says(writer, reader, reads):
    old, new = registry_store.parse(writer), registry_store.parse(reader)
    assert (not registry_store.objections("BACKWARD", new, [old])) is reads
    assert (not registry_store.objections("FORWARD", old, [new])) is reads
    if not reads:
        assert registry_store.objections("FULL", new, [old])


def test_only_a_transitive_level_looks_beyond_the_newest_version():
    versions = [
        registry_store.parse(record(*fields)) for fields in ((field("a"),), (), (field("a", "int", default=1),))
    ]
    assert not registry_store.objections("BACKWARD", versions[2], versions[:2])
    assert registry_store.objections("BACKWARD_TRANSITIVE", versions[2], versions[:2])
