"""A stand-in for a schema registry behind a password, by Confluent's documented HTTP API; the embedded one has none.

    registry_server.py [--user NAME --password WORD]

Prints its port. It keeps subjects in memory and knows one rule, BACKWARD: a new field needs a default.
https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import argparse
import json
import re
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from fastavro import parse_schema

MISSING = {40401: "Subject '{}' not found.", 40402: "Version {} not found.", 40403: "Schema {} not found"}


class Answer(Exception):
    def __init__(self, status: int, content: object) -> None:
        self.status, self.content = status, content


def failed(status: int, code: int, message: str) -> Answer:
    return Answer(status, {"error_code": code, "message": message})


def missing(code: int, what: object) -> Answer:
    return failed(404, code, MISSING[code].format(what))


class State:
    def __init__(self) -> None:
        self.schemas: list[str] = []
        self.subjects: dict[str, list[str]] = {}
        self.levels: dict[str, str] = {"": "BACKWARD"}

    def versions(self, subject: str) -> list[str]:
        if subject not in self.subjects:
            raise missing(40401, subject)
        return self.subjects[subject]

    def told(self, subject: str, number: int) -> dict[str, object]:
        text = self.versions(subject)[number - 1]
        return {"subject": subject, "version": number, "id": self.schemas.index(text) + 1, "schema": text}

    def number(self, subject: str, version: str) -> int:
        count = len(self.versions(subject))
        number = count if version == "latest" else int(version)
        if not 0 < number <= count:
            raise missing(40402, version)
        return number

    def reasons(self, subject: str, text: str) -> list[str]:
        if subject not in self.subjects or self.levels.get(subject, self.levels[""]) == "NONE":
            return []
        old = {field["name"] for field in json.loads(self.subjects[subject][-1])["fields"]}
        new = [field for field in json.loads(text)["fields"] if field["name"] not in old and "default" not in field]
        return [f"READER_FIELD_MISSING_DEFAULT_VALUE: {field['name']}" for field in new]


def parsed(text: str) -> str:
    try:
        parse_schema(json.loads(text))
    except Exception as error:
        raise failed(422, 42201, f"Invalid schema: {error}") from error
    return text


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state = State()
    expected = ""

    def answer(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        try:
            if self.expected and self.headers.get("Authorization") != self.expected:
                raise failed(401, 401, "Unauthorized")
            self.route(unquote(urlsplit(self.path).path), sent)
            raise failed(404, 404, "HTTP 404 Not Found")
        except Answer as answer:
            content = json.dumps(answer.content).encode()
            self.send_response(answer.status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def route(self, path: str, sent: dict[str, str]) -> None:
        state = self.state
        if path == "/subjects":
            raise Answer(200, sorted(state.subjects))
        if found := re.fullmatch(r"/subjects/(.+)/versions", path):
            self.register(found[1], sent)
        if found := re.fullmatch(r"/subjects/(.+)/versions/(\w+)", path):
            raise Answer(200, state.told(found[1], state.number(found[1], found[2])))
        if found := re.fullmatch(r"/schemas/ids/(\d+)", path):
            number = int(found[1])
            if not 0 < number <= len(state.schemas):
                raise missing(40403, number)
            raise Answer(200, {"schema": state.schemas[number - 1]})
        if found := re.fullmatch(r"/compatibility/subjects/(.+)/versions/(\w+)", path):
            state.number(found[1], found[2])
            reasons = state.reasons(found[1], parsed(sent["schema"]))
            raise Answer(200, {"is_compatible": not reasons, "messages": reasons})
        if found := re.fullmatch(r"/config(?:/(.+))?", path):
            self.config(found[1] or "", sent)
        if found := re.fullmatch(r"/subjects/([^/]+)", path):
            versions = state.versions(found[1])
            if sent["schema"] not in versions:
                raise missing(40403, "")
            raise Answer(200, state.told(found[1], versions.index(sent["schema"]) + 1))

    def register(self, subject: str, sent: dict[str, str]) -> None:
        state, text = self.state, parsed(sent["schema"])
        if text not in state.subjects.get(subject, []):
            if reasons := state.reasons(subject, text):
                raise failed(409, 409, f"Schema being registered is incompatible with an earlier schema: {reasons}")
            state.subjects.setdefault(subject, []).append(text)
            if text not in state.schemas:
                state.schemas.append(text)
        raise Answer(200, {"id": state.schemas.index(text) + 1})

    def config(self, subject: str, sent: dict[str, str]) -> None:
        if self.command == "PUT":
            self.state.levels[subject] = sent["compatibility"]
            raise Answer(200, {"compatibility": sent["compatibility"]})
        level = self.state.levels.get(subject)
        if level is None and "defaultToGlobal=true" not in self.path:
            raise failed(404, 40408, f"Subject '{subject}' does not have subject-level compatibility configured")
        raise Answer(200, {"compatibilityLevel": level or self.state.levels[""]})

    def log_message(self, *_: object) -> None:
        pass

    do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names that http.server calls


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--user", default="")
    options.add_argument("--password", default="")
    given = options.parse_args()
    if given.user:
        Handler.expected = "Basic " + b64encode(f"{given.user}:{given.password}".encode()).decode()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


main()
