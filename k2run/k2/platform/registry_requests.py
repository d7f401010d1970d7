"""What the registry does at each request: Confluent's answers and error codes.

Long because it is one table: what each path answers, in the order of the paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from k2run.k2.platform import registry_store
from k2run.k2.platform.program import log
from k2run.k2.platform.registry_store import Entry, Reference, Store, guid_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starlette.requests import Request

_LATEST = {"latest", "-1"}
_MOST_REFERENCES = 50
_NOT_CONFIGURED = {"compatibility": 40408, "mode": 40409}


class RefusedError(Exception):
    """An answer that is no success.

    Attributes:
        status: Of HTTP.
        code: The registry's own, which begins with the status.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.status = int(str(code)[:3])


class Sent(msgspec.Struct):
    """A schema as it is sent."""

    schema: str
    schemaType: str = "AVRO"  # noqa: N815 - the API's name
    references: tuple[Reference, ...] = ()
    id: int = 0
    version: int = 0


class _Level(msgspec.Struct):
    compatibility: str


class _Mode(msgspec.Struct):
    mode: str


class Registry:
    """What each path does; every method that begins with a verb answers one request."""

    def __init__(self, store: Store, level: str) -> None:
        self._store = store
        self._level = level

    # --- subjects and versions ----------------------------------------------------------------------------------------

    def get_subjects(self, request: Request) -> list[str]:
        """The names of the subjects."""
        deleted, only = _flag(request, "deleted"), _flag(request, "deletedOnly")
        with self._store.look():
            entries = self._store.every(request.query_params.get("subjectPrefix", ""), deleted=deleted or only)
        alive = {entry.subject for entry in entries if not entry.deleted}
        return _page(request, sorted({entry.subject for entry in entries} - (alive if only else set())))

    def get_versions(self, request: Request) -> list[int]:
        """The numbers of a subject's versions."""
        with self._store.look():
            return _page(request, [entry.version for entry in self._known(request, deleted=_flag(request, "deleted"))])

    def get_version(self, request: Request) -> dict[str, Any]:
        """One version of a subject."""
        with self._store.look():
            return _shown(self._version(request))

    def get_text(self, request: Request) -> Any:
        """The schema of a version alone."""
        with self._store.look():
            return msgspec.Raw(self._version(request).schema.encode())

    def get_referencing(self, request: Request) -> list[int]:
        """The ids of the schemas that refer to a version."""
        with self._store.look():
            return sorted({entry.id for entry in self._referencing(self._version(request))})

    def post_lookup(self, request: Request) -> dict[str, Any]:
        """The version of a subject that has this schema."""
        sent = _sent(request)
        with self._store.look():
            known = self._known(request, deleted=_flag(request, "deleted"))
            self._parsed(sent)
            guid = guid_of(sent.schema, sent.references)
            for entry in reversed(known):
                if entry.guid == guid:
                    return _shown(entry)
        raise RefusedError(40403, "Schema not found")

    def post_version(self, request: Request) -> dict[str, Any]:
        """Register a schema under a subject."""
        sent, subject = _sent(request), request.path_params["subject"]
        with self._store.change():
            self._refuse_mode(subject, imports=bool(sent.id or sent.version))
            parsed = self._parsed(sent)
            guid = guid_of(sent.schema, sent.references)
            entries = self._store.versions(subject)
            for entry in entries:
                if entry.guid == guid and not sent.version:
                    return {"id": entry.id, "version": entry.version, "guid": entry.guid}
            if sent.id:
                self._refuse_other_meaning(sent, guid)
            elif reasons := self._objections(self._level_of(subject), parsed, entries):
                raise RefusedError(
                    409,
                    "Schema being registered is incompatible with an earlier schema for subject "
                    f'"{subject}", details: [{"; ".join(reasons)}]',
                )
            made = self._store.add(subject, _compact(sent.schema), sent.references, sent.id, sent.version)
        log("schema_registered", subject=subject, version=made.version, id=made.id)
        return {"id": made.id, "version": made.version, "guid": made.guid}

    def delete_subject(self, request: Request) -> list[int]:
        """Delete a subject: softly first, then for good."""
        subject, permanent = request.path_params["subject"], _flag(request, "permanent")
        with self._store.change():
            self._refuse_mode(subject)
            entries = self._store.versions(subject, deleted=True)
            if not entries:
                raise RefusedError(40401, f"Subject '{subject}' not found.")
            alive = [entry for entry in entries if not entry.deleted]
            if permanent and alive:
                raise RefusedError(40405, f"Subject '{subject}' was not deleted first before being permanently deleted")
            if not permanent and not alive:
                raise RefusedError(
                    40404, f"Subject '{subject}' was soft deleted. Set permanent=true to delete permanently"
                )
            self._delete(entries if permanent else alive, permanent=permanent)
            if not permanent:  # as Confluent's does: a subject made again has no rule left over
                self._store.set(subject, "compatibility", None)
                self._store.set(subject, "mode", None)
        log("subject_deleted", "warning", subject=subject, permanent=permanent)
        return [entry.version for entry in (entries if permanent else alive)]

    def delete_version(self, request: Request) -> int:
        """Delete a version: softly first, then for good."""
        subject, permanent = request.path_params["subject"], _flag(request, "permanent")
        with self._store.change():
            self._refuse_mode(subject)
            entry = self._version(request, deleted=True)
            if permanent and not entry.deleted:
                raise RefusedError(
                    40407,
                    f"Subject '{subject}' Version {entry.version} was not deleted first before being permanently "
                    "deleted",
                )
            if not permanent and entry.deleted:
                raise RefusedError(
                    40406,
                    f"Subject '{subject}' Version {entry.version} was soft deleted. "
                    "Set permanent=true to delete permanently",
                )
            self._delete([entry], permanent=permanent)
        return entry.version

    def _delete(self, entries: Iterable[Entry], *, permanent: bool) -> None:
        for entry in entries:
            if self._referencing(entry):
                raise RefusedError(
                    42206, f"One or more references exist to the schema {entry.subject} {entry.version}."
                )
            (self._store.remove if permanent else self._store.hide)(entry)

    # --- schemas by their id ------------------------------------------------------------------------------------------

    def get_schema(self, request: Request) -> dict[str, Any]:
        """The schema with an id."""
        number = _number(request)
        with self._store.look():
            found = self._store.schema(number)
        if found is None:
            raise RefusedError(40403, f"Schema {number} not found")
        text, references, guid = found
        body: dict[str, Any] = {"schema": text, "guid": guid}
        if references:
            body["references"] = references
        if _flag(request, "fetchMaxId"):
            with self._store.look():
                body["maxId"] = self._store.last_number()
        return body

    def get_schema_text(self, request: Request) -> Any:
        """The schema with an id alone."""
        return msgspec.Raw(self.get_schema(request)["schema"].encode())

    def get_schema_by_guid(self, request: Request) -> dict[str, Any]:
        """The schema with a guid."""
        guid = request.path_params["guid"]
        with self._store.look():
            number = self._store.number_of(guid)
            found = None if number is None else self._store.schema(number)
        if found is None:
            raise RefusedError(40403, f"Schema {guid} not found")
        return {"schema": found[0], "guid": guid, "id": number}

    def get_schema_subjects(self, request: Request) -> list[str]:
        """The subjects that have the schema with an id."""
        return _page(request, list(dict.fromkeys(entry.subject for entry in self._where(request))))

    def get_schema_versions(self, request: Request) -> list[dict[str, Any]]:
        """The versions that have the schema with an id."""
        return _page(request, [{"subject": one.subject, "version": one.version} for one in self._where(request)])

    def get_schemas(self, request: Request) -> list[dict[str, Any]]:
        """Every version of every subject."""
        with self._store.look():
            entries = self._store.every(
                request.query_params.get("subjectPrefix", ""), deleted=_flag(request, "deleted")
            )
        newest = {entry.subject: entry for entry in entries}
        chosen = list(newest.values()) if _flag(request, "latestOnly") else entries
        return _page(request, [_shown(entry) for entry in chosen])

    def _where(self, request: Request) -> list[Entry]:
        number, deleted = _number(request), _flag(request, "deleted")
        with self._store.look():
            if self._store.schema(number) is None:
                raise RefusedError(40403, f"Schema {number} not found")
            subject = request.query_params.get("subject")
            return [
                entry
                for entry in self._store.where(number)
                if deleted >= entry.deleted and subject in {None, entry.subject}
            ]

    # --- compatibility ------------------------------------------------------------------------------------------------

    def post_compatible(self, request: Request) -> dict[str, Any]:
        """Whether a schema may follow one version of a subject, or all that its level looks at."""
        sent, subject = _sent(request), request.path_params["subject"]
        with self._store.look():
            parsed = self._parsed(sent)
            level = self._level_of(subject)
            one = "version" in request.path_params
            compared = [self._version(request)] if one else self._store.versions(subject)
            reasons = self._objections(level, parsed, compared)
        told = {"messages": reasons} if _flag(request, "verbose") else {}
        return {"is_compatible": not reasons, **told}

    def get_config(self, request: Request) -> dict[str, str]:
        """The level of a subject, or of the registry."""
        subject = request.path_params.get("subject", "")
        with self._store.look():
            own = self._own(subject, "compatibility", needed=not _flag(request, "defaultToGlobal"))
            return {"compatibilityLevel": own or self._level_of("")}

    def put_config(self, request: Request) -> dict[str, str]:
        """Set the level of a subject, or of the registry."""
        subject = request.path_params.get("subject", "")
        level = _body(request, _Level).compatibility.upper()
        if level not in registry_store.LEVELS:
            known = ", ".join(registry_store.LEVELS).lower()
            raise RefusedError(42203, f"Invalid compatibility level. Valid values are {known}")
        with self._store.change():
            self._store.set(subject, "compatibility", level)
        log("compatibility_set", subject=subject or "(all)", level=level)
        return {"compatibility": level}

    def delete_config(self, request: Request) -> dict[str, str]:
        """Take away the level of a subject, or of the registry; what it was."""
        subject = request.path_params.get("subject", "")
        with self._store.change():
            own = self._own(subject, "compatibility", needed=True)
            self._store.set(subject, "compatibility", None)
            return {"compatibilityLevel": own or self._level}

    # --- modes --------------------------------------------------------------------------------------------------------

    def get_mode(self, request: Request) -> dict[str, str]:
        """The mode of a subject, or of the registry."""
        subject = request.path_params.get("subject", "")
        with self._store.look():
            own = self._own(subject, "mode", needed=not _flag(request, "defaultToGlobal"))
            return {"mode": own or self._mode_of("")}

    def put_mode(self, request: Request) -> dict[str, str]:
        """Set the mode of a subject, or of the registry."""
        subject, mode = request.path_params.get("subject", ""), _body(request, _Mode).mode.upper()
        if mode not in registry_store.MODES:
            raise RefusedError(42204, f"Invalid mode. Valid values are {', '.join(registry_store.MODES)}")
        with self._store.change():
            there = self._store.versions(subject) if subject else self._store.every()
            if mode == "IMPORT" and there and not _flag(request, "force"):
                raise RefusedError(42205, "Cannot import since found existing subjects")
            self._store.set(subject, "mode", mode)
        log("mode_set", subject=subject or "(all)", mode=mode)
        return {"mode": mode}

    def delete_mode(self, request: Request) -> dict[str, str | None]:
        """Take away the mode of a subject; what it was."""
        subject = request.path_params["subject"]
        with self._store.change():
            own = self._own(subject, "mode", needed=True)
            self._store.set(subject, "mode", None)
            return {"mode": own}

    # --- what they share; inside `look` or `change` -------------------------------------------------------------------

    def _known(self, request: Request, *, deleted: bool = False) -> list[Entry]:
        subject = request.path_params["subject"]
        entries = self._store.versions(subject, deleted=deleted)
        if not entries:
            raise RefusedError(40401, f"Subject '{subject}' not found.")
        return entries

    def _version(self, request: Request, *, deleted: bool = False) -> Entry:
        version = request.path_params["version"]
        entries = self._known(request, deleted=deleted or _flag(request, "deleted"))
        if version in _LATEST:
            return entries[-1]
        if not version.isdecimal() or not 0 < int(version) < 2**31:
            raise RefusedError(
                42202,
                f"The specified version '{version}' is not a valid version id. Allowed values are between [1, 2^31-1] "
                'and the string "latest"',
            )
        for entry in entries:
            if entry.version == int(version):
                return entry
        raise RefusedError(40402, f"Version {version} not found.")

    def _referencing(self, entry: Entry) -> list[Entry]:
        at = (entry.subject, entry.version)
        return [one for one in self._store.every() if any((r.subject, r.version) == at for r in one.references)]

    def _parsed(self, sent: Sent) -> Any:
        if sent.schemaType != "AVRO":
            raise RefusedError(42201, f"Invalid schema: this registry holds AVRO alone, not {sent.schemaType}")
        if not sent.schema.strip():
            raise RefusedError(42201, "Empty schema")
        return self._read(sent.schema, sent.references)

    def _read(self, text: str, references: tuple[Reference, ...]) -> Any:
        try:
            return registry_store.parse(text, self._referenced(references))
        except registry_store.NotAvroError as problem:
            raise RefusedError(
                42201, f"Invalid schema {text} with refs {list(references)} of type AVRO, details: {problem}"
            ) from problem

    def _referenced(self, references: tuple[Reference, ...], depth: int = 0) -> list[str]:
        """The schemas that a schema refers to, each after those that it refers to itself."""
        found: dict[str, None] = {}
        for one in references:
            entry = next((e for e in self._store.versions(one.subject) if e.version == one.version), None)
            if entry is None or depth > _MOST_REFERENCES:
                raise RefusedError(42201, f"Invalid schema: no schema reference found for {one.subject} {one.version}")
            found.update(dict.fromkeys([*self._referenced(entry.references, depth + 1), entry.schema]))
        return list(found)

    def _objections(self, level: str, new: Any, entries: Sequence[Entry]) -> list[str]:
        if level == "NONE":
            return []
        compared = entries if level.endswith("_TRANSITIVE") else entries[-1:]
        reasons = registry_store.objections(level, new, [self._read(one.schema, one.references) for one in compared])
        return [*reasons, f"compatibility level: {level}"] if reasons else []

    def _own(self, subject: str, name: str, *, needed: bool) -> str | None:
        """A subject's own setting, which must be there when it is needed; with no subject that of the registry."""
        own = self._store.setting(subject, name)
        if own is None and subject and needed:
            code = _NOT_CONFIGURED[name]
            raise RefusedError(code, f"Subject '{subject}' does not have subject-level {name} configured")
        return own

    def _level_of(self, subject: str) -> str:
        own = self._store.setting(subject, "compatibility") if subject else None
        return own or self._store.setting("", "compatibility") or self._level

    def _mode_of(self, subject: str) -> str:
        own = self._store.setting(subject, "mode") if subject else None
        return own or self._store.setting("", "mode") or "READWRITE"

    def _refuse_mode(self, subject: str, *, imports: bool = False) -> None:
        mode = self._mode_of(subject)
        if mode.startswith("READONLY"):
            raise RefusedError(42205, f"Subject {subject} is in read-only mode")
        if imports and mode != "IMPORT":
            raise RefusedError(42205, f"Subject {subject} is not in import mode")

    def _refuse_other_meaning(self, sent: Sent, guid: str) -> None:
        there = self._store.schema(sent.id)
        if there is not None and there[2] != guid:
            raise RefusedError(42205, f"Overwrite new schema with id {sent.id} is not permitted.")


def _shown(entry: Entry) -> dict[str, Any]:
    body: dict[str, Any] = {
        "subject": entry.subject,
        "version": entry.version,
        "id": entry.id,
        "guid": entry.guid,
        "schema": entry.schema,
    }
    return body | ({"references": entry.references} if entry.references else {})


def _sent(request: Request) -> Sent:
    sent: Sent = _body(request, Sent)
    return sent


def _body(request: Request, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(request.state.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        unreadable = isinstance(problem, msgspec.DecodeError) and not isinstance(problem, msgspec.ValidationError)
        raise RefusedError(400 if unreadable else 422, f"Unrecognized body: {problem}") from problem


def _number(request: Request) -> int:
    number = request.path_params["number"]
    if not number.isdecimal():
        raise RefusedError(404, "HTTP 404 Not Found")
    return int(number)


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"


def _page(request: Request, found: list[Any]) -> list[Any]:
    """The part that `offset` and `limit` ask for; a limit below 1 is none."""
    try:
        start = max(0, int(request.query_params.get("offset", 0)))
        limit = int(request.query_params.get("limit", -1))
    except ValueError as problem:
        raise RefusedError(404, "HTTP 404 Not Found") from problem
    return found[start : start + limit] if limit > 0 else found[start:]


def _compact(schema: str) -> str:
    """A schema without white space between its parts, as the registry hands it out."""
    return msgspec.json.encode(msgspec.json.decode(schema)).decode()
