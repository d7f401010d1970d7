"""The registry's subjects: the state that its nodes share, and what a subject may become.

The state is one SQLite file that every node opens, so that each sees what another one has changed. Whether a text is an
Avro schema, and whether it may follow those that are there, are the words of Apache's own library: its parser, and its
check of a reader's schema against a writer's.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import uuid
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.errors import AvroException
from avro.name import Names
from avro.schema import make_avsc_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from avro.schema import Schema

_BUSY_S = 2.0
_MOST_IDS = 2**31 - 1
"""Ids are four bytes of a message, signed in most clients."""
_FORM = 1
"""Of the tables below, kept in the file: another one is refused rather than read halfway."""
_TABLES = """
CREATE TABLE IF NOT EXISTS schemas (id INTEGER PRIMARY KEY, guid TEXT UNIQUE NOT NULL, text TEXT NOT NULL,
  refs TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS versions (subject TEXT, version INTEGER, id INTEGER NOT NULL REFERENCES schemas (id),
  deleted INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (subject, version));
CREATE TABLE IF NOT EXISTS settings (subject TEXT, name TEXT, value TEXT NOT NULL, PRIMARY KEY (subject, name));
"""
LEVELS = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")
MODES = ("READWRITE", "READONLY", "READONLY_OVERRIDE", "IMPORT")
_SAYS = {
    "reader_field_missing_default_value": "the field {what!r} at path {where!r} in the {reader} schema has no default "
    "value and is missing in the {writer} schema",
    "missing_union_branch": "a type inside a union at path {where!r} in the {writer} schema is not in the {reader} "
    "schema: {what}",
    "missing_enum_symbols": "the {reader} schema lacks enum symbols at path {where!r} that the {writer} schema has: "
    "{what}",
    "name_mismatch": "the names of the schemas do not match at path {where!r}: {what}",
    "fixed_size_mismatch": "the sizes do not match at path {where!r}: {what}",
    "type_mismatch": "the types do not match at path {where!r}: {what}",
}
_DEFAULTS: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "int": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "bytes": (str,),
    "string": (str,),
    "enum": (str,),
    "fixed": (str,),
    "array": (list,),
    "map": (dict,),
    "record": (dict,),
}


class StateError(Exception):
    """The state cannot be read or written; the message says what is wrong with it."""


class Reference(msgspec.Struct, frozen=True):
    """A named type that a schema takes from another subject."""

    name: str
    subject: str
    version: int


class Entry(msgspec.Struct, frozen=True):
    """One version of a subject."""

    subject: str
    version: int
    id: int
    guid: str
    schema: str
    references: tuple[Reference, ...] = ()
    deleted: bool = False


_SELECT = "SELECT subject, version, id, guid, text, refs, deleted FROM versions JOIN schemas USING (id) WHERE "
_references = msgspec.json.Decoder(tuple[Reference, ...]).decode


def guid_of(schema: str, references: tuple[Reference, ...]) -> str:
    """The same for every spelling of one schema: white space and the order of attributes do not matter."""
    spelled = json.dumps(json.loads(schema), sort_keys=True, separators=(",", ":")).encode()
    return str(uuid.UUID(bytes=hashlib.sha256(spelled + msgspec.json.encode(references)).digest()[:16]))


class Store:
    """The state, opened by one node. Safe to share between threads, which take turns.

    Raises:
        StateError: The file is damaged, of another form, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.RLock()
        self.created = not path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            (health,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
            if health != "ok":
                raise StateError(f"{path} is damaged: {health}")
            self._prepare()
            self._file = path.stat().st_ino
        except (OSError, sqlite3.Error) as problem:
            raise StateError(f"{path} cannot be read as the registry's state: {problem}") from problem

    def _prepare(self) -> None:
        with self.change():
            (form,) = self._database.execute("PRAGMA user_version").fetchone()
            if form not in {0, _FORM}:
                raise StateError(f"{self._path} was written by another version of the registry (form {form})")
            for statement in filter(str.strip, _TABLES.split(";")):
                self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {_FORM}")

    @contextmanager
    def look(self) -> Iterator[None]:
        """The state as it is, from one moment.

        Raises:
            StateError: It cannot be read, or its file is not the one that was opened.
        """
        with self._within("BEGIN"):
            yield

    @contextmanager
    def change(self) -> Iterator[None]:
        """All that is done inside is done or not; no other node changes anything meanwhile.

        Raises:
            StateError: It cannot be read or written, or its file is not the one that was opened.
        """
        with self._within("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def _within(self, begin: str) -> Iterator[None]:
        with self._turn:
            try:
                self._refuse_another_file()
                self._database.execute(begin)
                try:
                    yield
                except BaseException:
                    with suppress(sqlite3.Error):
                        self._database.execute("ROLLBACK")
                    raise
                self._database.execute("COMMIT")
            except sqlite3.Error as problem:
                raise StateError(f"{self._path}: {problem}") from problem

    def _refuse_another_file(self) -> None:
        """A file that was deleted can still be read and written by whoever has it open, and by no one after that."""
        known = getattr(self, "_file", None)
        if known is None:
            return
        try:
            found = self._path.stat().st_ino
        except OSError as problem:
            raise StateError(f"{self._path} is gone: {problem.strerror}") from problem
        if found != known:
            raise StateError(f"{self._path} is not the file that this node has opened")

    # --- what is there; inside `look` or `change` ---------------------------------------------------------------------

    def versions(self, subject: str, *, deleted: bool = False) -> list[Entry]:
        """The versions of a subject, oldest first; the deleted ones too when asked for."""
        rows = self._database.execute(f"{_SELECT} subject = ? AND deleted <= ? ORDER BY version", (subject, deleted))
        return [_entry(row) for row in rows]

    def every(self, prefix: str = "", *, deleted: bool = False) -> list[Entry]:
        """Every version of the subjects whose names begin so."""
        rows = self._database.execute(
            f"{_SELECT} substr(subject, 1, ?) = ? AND deleted <= ? ORDER BY subject, version",
            (len(prefix), prefix, deleted),
        )
        return [_entry(row) for row in rows]

    def where(self, number: int) -> list[Entry]:
        """Every version that has this schema, the deleted ones too."""
        return [_entry(row) for row in self._database.execute(f"{_SELECT} id = ? ORDER BY subject, version", (number,))]

    def schema(self, number: int) -> tuple[str, tuple[Reference, ...], str] | None:
        """Text, references and guid of a schema; an id keeps them when no subject has it any more."""
        row = self._database.execute("SELECT text, refs, guid FROM schemas WHERE id = ?", (number,)).fetchone()
        return (row[0], _references(row[1]), row[2]) if row else None

    def number_of(self, guid: str) -> int | None:
        """The id of the schema with this guid."""
        row = self._database.execute("SELECT id FROM schemas WHERE guid = ?", (guid,)).fetchone()
        return int(row[0]) if row else None

    def free_number(self, guid: str) -> int:
        """The id of a new schema: the same one again in a registry that lost its state, for messages name it."""
        number = uuid.UUID(guid).int % _MOST_IDS + 1
        while self.schema(number) is not None:
            number = number % _MOST_IDS + 1
        return number

    def last_number(self) -> int:
        """The highest id there is; 0 for none."""
        return int(self._database.execute("SELECT coalesce(max(id), 0) FROM schemas").fetchone()[0])

    def setting(self, subject: str, name: str) -> str | None:
        """A setting of a subject, or of the registry when it is empty."""
        row = self._database.execute(
            "SELECT value FROM settings WHERE subject = ? AND name = ?", (subject, name)
        ).fetchone()
        return str(row[0]) if row else None

    # --- what changes; inside `change` --------------------------------------------------------------------------------

    def add(
        self, subject: str, schema: str, references: tuple[Reference, ...], number: int = 0, version: int = 0
    ) -> Entry:
        """Add a version to a subject; a schema that is there keeps its id, whichever subject it came with.

        Args:
            subject: Its name.
            schema: The text.
            references: Named types of others.
            number: The id that it must get; 0 for one that follows from the schema.
            version: The version that it must get; 0 for the next one.
        """
        guid = guid_of(schema, references)
        known = self.number_of(guid)
        if known is None:
            known = number or self.free_number(guid)
            refs = msgspec.json.encode(references).decode()
            self._database.execute("INSERT INTO schemas VALUES (?, ?, ?, ?)", (known, guid, schema, refs))
        if not version:
            newest = "SELECT coalesce(max(version), 0) + 1 FROM versions WHERE subject = ?"
            (version,) = self._database.execute(newest, (subject,)).fetchone()
        self._database.execute("INSERT OR REPLACE INTO versions VALUES (?, ?, ?, 0)", (subject, version, known))
        return Entry(subject, version, known, guid, schema, references)

    def hide(self, entry: Entry) -> None:
        """Delete a version softly: it is only shown to those who ask for deleted ones."""
        self._database.execute(
            "UPDATE versions SET deleted = 1 WHERE subject = ? AND version = ?", (entry.subject, entry.version)
        )

    def remove(self, entry: Entry) -> None:
        """Delete a version for good."""
        self._database.execute("DELETE FROM versions WHERE subject = ? AND version = ?", (entry.subject, entry.version))

    def set(self, subject: str, name: str, value: str | None) -> None:
        """Set a setting of a subject, or of the registry when it is empty; None takes it away."""
        if value is None:
            self._database.execute("DELETE FROM settings WHERE subject = ? AND name = ?", (subject, name))
        else:
            self._database.execute("INSERT OR REPLACE INTO settings VALUES (?, ?, ?)", (subject, name, value))


def _entry(row: tuple[str, int, int, str, str, str, int]) -> Entry:
    subject, version, number, guid, text, refs, deleted = row
    return Entry(subject, version, number, guid, text, _references(refs), bool(deleted))


class NotAvroError(Exception):
    """A text is no Avro schema."""


def parse(text: str, referenced: Sequence[str] = ()) -> Schema:
    """Read a schema.

    Args:
        text: JSON, or the bare name of a primitive type.
        referenced: The schemas whose named types it may use.

    Raises:
        NotAvroError: It is none; the message says why.
    """
    try:
        names = Names(validate_names=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown logical type is the type below it, says the specification
            for one in referenced:
                make_avsc_object(json.loads(one), names)
            found = make_avsc_object(json.loads(text), names)
    except (AvroException, ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        raise NotAvroError(f"{type(problem).__name__}: {problem}") from problem
    _refuse_wrong_defaults(found)
    return found


def objections(level: str, new: Schema, older: Sequence[Schema]) -> list[str]:
    """Why a schema must not follow others by a level; empty when it may.

    Args:
        level: One of LEVELS.
        new: The schema to come.
        older: Those that are there, oldest first; only the transitive levels look beyond the newest.
    """
    if level == "NONE" or not older:
        return []
    compared = older if level.endswith("_TRANSITIVE") else older[-1:]
    rule = level.removesuffix("_TRANSITIVE")
    found: dict[str, None] = {}
    for old in compared:
        if rule in {"BACKWARD", "FULL"}:
            found.update(dict.fromkeys(_objections(new, old, "new", "old")))
        if rule in {"FORWARD", "FULL"}:
            found.update(dict.fromkeys(_objections(old, new, "old", "new")))
    return list(found)


def _objections(reader: Schema, writer: Schema, reads: str, writes: str) -> list[str]:
    judged = ReaderWriterCompatibilityChecker().get_compatibility(reader, writer)  # type: ignore[no-untyped-call]
    if judged.compatibility is not SchemaCompatibilityType.incompatible:
        return []
    kinds = list(dict.fromkeys(kind.value for kind in judged.incompatibilities))
    where = ", ".join(sorted(judged.locations))
    what = "; ".join(sorted(judged.messages))
    if len(kinds) == 1:
        shown = what if kinds != ["reader_field_missing_default_value"] else ", ".join(sorted(judged.messages))
        return [_SAYS[kinds[0]].format(what=shown, where=where, reader=reads, writer=writes)]
    return [f"{' and '.join(kinds)} at {where} between the {reads} schema as reader and the {writes} one: {what}"]


def _refuse_wrong_defaults(schema: Any, seen: frozenset[int] = frozenset()) -> None:
    """Apache's parser in Java refuses a default that is not of its field's type; the one in Python lets it pass."""
    if id(schema) in seen:
        return
    seen = seen | {id(schema)}
    if schema.type == "record":
        for field in schema.fields:
            if field.has_default and not _may_be_default(field.type, field.default):
                raise NotAvroError(
                    f"Invalid default for field {field.name}: {json.dumps(field.default)} not a {field.type}"
                )
            _refuse_wrong_defaults(field.type, seen)
    for part in (getattr(schema, "items", None), getattr(schema, "values", None), *getattr(schema, "schemas", ())):
        if part is not None and not callable(part):
            _refuse_wrong_defaults(part, seen)


def _may_be_default(schema: Any, value: object) -> bool:
    """Whether a value is a default of a type; that of a union is one of any branch, as Avro 1.12 says."""
    if schema.type == "union":
        return any(_may_be_default(branch, value) for branch in schema.schemas)
    if isinstance(value, bool) and schema.type != "boolean":
        return False
    return isinstance(value, _DEFAULTS.get(schema.type, (object,)))
