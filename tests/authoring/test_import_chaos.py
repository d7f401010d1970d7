"""An experiment and the runbook made of it come to the same end, run by Chaos Toolkit and by k2run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from k2run.authoring.chaos.experiment import convert, import_file
from k2run.errors import UsageError
from k2run.language.loader import parse_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.actions.catalogue import Catalogue

BIN = Path(sys.executable).parent
PAGE = {"items": [{"n": 1}, {"n": 2}], "keys": "no method", "status": "ok"}


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        wanted = self.headers.get("X-Token") == "open sesame"
        body = json.dumps(PAGE).encode()
        self.send_response(200 if wanted else 403)
        self.send_header("Content-Type", "text/plain" if self.path == "/text" else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def process(path: str, *arguments: str) -> dict[str, Any]:
    return {"type": "process", "path": path, "arguments": list(arguments)}


def experiment(page: str, *, watched: str, method: list[dict[str, Any]], status: int = 200) -> dict[str, Any]:
    """One that uses every provider and every kind of tolerance."""
    get = {"type": "http", "url": "${page}/x", "timeout": 5, "headers": {"X-Token": "${token}"}}
    file_there = {"type": "python", "module": "genericpath", "func": "exists", "arguments": {"path": "${watched}"}}
    mean = {"type": "python", "module": "statistics", "func": "mean", "arguments": {"data": [2, 4]}}
    probes: list[tuple[str, Any, dict[str, Any]]] = [
        ("status", status, get),
        ("one of two", [200, 204], get),
        ("body matches", {"type": "regex", "target": "body", "pattern": '"n": \\d'}, {**get, "url": "${page}/text"}),
        ("every n", {"type": "jsonpath", "path": "$.items[*].n", "target": "body", "expect": [1, 2]}, get),
        ("a key", {"type": "jsonpath", "path": "$.keys", "target": "body", "expect": "no method"}, get),
        ("two items", {"type": "jsonpath", "path": "$.items[*]", "target": "body", "count": 2}, get),
        ("in range", {"type": "range", "target": "stdout", "range": [1, 3]}, process("echo", "2")),
        ("exit code", 1, process("false")),
        ("python", True, file_there),
        ("python in range", [0, 5], mean),
    ]
    return {
        "version": "1.0.0",
        "title": "The page survives",
        "description": "All providers, all tolerances",
        "configuration": {
            "page": page,
            "watched": watched,
            "token": {"type": "env", "key": "PAGE_TOKEN", "default": "unknown"},
        },
        "steady-state-hypothesis": {
            "title": "The page is there",
            "probes": [
                {"type": "probe", "name": name, "tolerance": tolerance, "provider": provider}
                for name, tolerance, provider in probes
            ],
        },
        "method": method,
        "rollbacks": [{"type": "action", "name": "rolled back", "provider": process("touch", f"{watched}.back")}],
    }


def action(name: str, provider: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "action", "name": name, "provider": provider, **more}


def run_both(made: dict[str, Any], folder: Path, watched: Path) -> tuple[int, int, list[list[str]]]:
    """The exit codes of Chaos Toolkit and of k2run, and the files that each left."""
    file = folder / "made.json"
    file.write_text(json.dumps(made))
    book = import_file("chaos", file, folder=folder)
    (folder / "none.yaml").write_text("stack: 1\nname: none\n")
    env = {**os.environ, "PAGE_TOKEN": "open sesame", "K2RUN_HOME": str(folder / ".k2run")}
    commands = (
        [BIN / "chaos", "--no-version-check", "run", "--journal-path", folder / "chaos.journal", file],
        [BIN / "k2run", "run", book, "-e", "token=open sesame", "--stack", folder / "none.yaml", "--plain"],
    )
    codes, left = [], []
    for command in commands:
        watched.parent.mkdir(exist_ok=True)
        watched.touch()
        done = subprocess.run(command, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
        codes.append(done.returncode)
        left.append(sorted(file.name for file in watched.parent.iterdir()))
        for file in watched.parent.iterdir():
            file.unlink()
        print(done.stdout[-3000:], done.stderr[-3000:])
    return codes[0], codes[1], left


def test_an_experiment_that_holds_passes_in_both(page: str, tmp_path: Path) -> None:
    watched = tmp_path / "watched" / "file"
    method = [
        action("in the background", process("touch", f"{watched}.early"), background=True),
        action("a failure that decides nothing", process("false"), pauses={"before": 0.1, "after": 0.1}),
        {"ref": "every n"},
    ]
    theirs, ours, left = run_both(experiment(page, watched=str(watched), method=method), tmp_path, watched)
    assert (theirs, ours) == (0, 0)
    assert left == [["file", "file.back", "file.early"]] * 2


def test_a_deviation_after_the_method_fails_both(page: str, tmp_path: Path) -> None:
    watched = tmp_path / "watched" / "file"
    method = [action("break it", process("rm", str(watched)))]
    theirs, ours, left = run_both(experiment(page, watched=str(watched), method=method), tmp_path, watched)
    assert (theirs, ours) == (1, 1)
    assert left[1] == ["file.back"]


def test_without_a_steady_state_neither_begins(page: str, tmp_path: Path) -> None:
    watched = tmp_path / "watched" / "file"
    method = [action("never", process("touch", f"{watched}.never"))]
    made = experiment(page, watched=str(watched), method=method, status=404)
    _, ours, left = run_both(made, tmp_path, watched)
    assert ours == 1  # Chaos Toolkit says "completed" and ends with 0
    assert not any("file.never" in names for names in left)


def test_controls_typed_settings_and_rollbacks_that_always_run_come_to_the_same_end(tmp_path: Path) -> None:
    watched = tmp_path / "watched" / "file"
    trace = {"name": "trace", "provider": {"type": "python", "module": "not.there"}}
    made = {
        "title": "A file is read back",
        "description": "Settings, controls, rollbacks",
        "controls": [trace],
        "runtime": {"rollbacks": {"strategy": "always"}},
        "configuration": {
            "token": "unused",
            "folder": str(watched.parent),
            "most": {"type": "env", "key": "CHAOS_MOST", "default": 7, "env_var_type": "int"},
        },
        "secrets": {"store": {"key": {"type": "env", "key": "PAGE_TOKEN"}}},
        "steady-state-hypothesis": {
            "title": "It is there",
            "probes": [
                {"type": "probe", "name": name, "tolerance": tolerance, "provider": provider}
                for name, tolerance, provider in (
                    ("there", 0, process("test", "-d", "${folder}")),
                    (
                        "words",
                        {"type": "regex", "pattern": "^ok [0-9]+ 7", "target": "stdout"},
                        {
                            **process("echo"),
                            "arguments": "ok 12 ${most}",
                        },
                    ),
                    (
                        "path",
                        {"type": "jsonpath", "path": "$.a.b[0]", "expect": [3], "target": "stdout"},
                        process("echo", '{"a": {"b": [3, 4]}}'),
                    ),
                    (
                        "path without an end",
                        {"type": "jsonpath", "path": "$.a.c", "count": 0, "target": "stdout"},
                        process("echo", '{"a": {"b": [3, 4]}}'),
                    ),
                    ("range", {"type": "range", "range": [0.5, 2.5], "target": "stdout"}, process("echo", "2")),
                    ("no file", [1, 2], process("test", "-e", "${folder}/nowhere")),
                )
            ],
        },
        "method": [
            action("behind", {**process("sleep", "0.2"), "timeout": 4}, background=True),
            action("touch", process("touch", "${folder}/made"), pauses={"after": 0.1}, controls=[trace]),
            {"ref": "there"},
        ],
        "rollbacks": [
            action("tidy", process("rm", "-f", "${folder}/made")),
            action("mark", {**process("sh"), "arguments": "-c 'echo ${most} > ${folder}/back; exit 3'"}),
        ],
    }
    theirs, ours, left = run_both(made, tmp_path, watched)
    assert (theirs, ours) == (0, 0)
    assert left == [["back", "file"]] * 2


REMARKS = [
    ({"controls": [{"name": "x"}]}, "`controls`"),
    ({"method": [action("a", {"type": "aws"})]}, "providers of type aws"),
    ({"configuration": {"the-port": 1}}, "became the_port"),
    ({"configuration": {"a": {"type": "probe", "provider": process("true")}}}, "came from a probe"),
    ({"configuration": {"a": {"type": "env", "key": "A", "default": "b"}}}, "-e a=$A"),
    ({"secrets": {"g": {"s": {"type": "vault", "path": "x"}}}}, "type vault"),
    ({"secrets": {"g": {"s": "hunter2"}}}, "plain text"),
    ({"tolerance": {"type": "probe", "provider": process("true")}}, "type probe"),
    ({"tolerance": {"type": "jsonpath", "path": "$..a", "target": "stdout"}}, "JSON path $..a"),
    ({"tolerance": {"type": "regex", "pattern": "(a+)+b", "target": "stdout"}}, "(a+)+b"),
    ({"tolerance": True}, "whole answer"),
]


@pytest.mark.parametrize(("odd", "said"), REMARKS, ids=[row[1] for row in REMARKS])
def test_what_is_left_out_is_said_and_the_rest_is_valid(
    odd: dict[str, Any], said: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    probe = {"type": "probe", "name": "p", "tolerance": odd.pop("tolerance", 0), "provider": process("true")}
    method = [action("m", process("true"))]
    made = convert({"steady-state-hypothesis": {"probes": [probe]}, "method": method, **odd}, "odd", folder=tmp_path)
    assert any(said in remark for _, remark in made.remarks)
    assert "hunter2" not in made.text
    assert parse_runbook(made.text, "odd.yaml", catalogue).sections
    assert f"# not carried over: {made.remarks[0][1]}"[:60] in made.text


def test_secrets_stay_where_they_are(catalogue: Catalogue, tmp_path: Path) -> None:
    provider = {"type": "http", "url": "http://127.0.0.1/", "headers": {"X-Key": "Bearer ${key}"}}
    secrets = {"web": {"key": {"type": "env", "key": "WEB_KEY"}}}
    made = convert({"secrets": secrets, "method": [action("m", provider)]}, "odd", folder=tmp_path)
    book = parse_runbook(made.text, "odd.yaml", catalogue)
    assert (book.inputs[0].type, book.inputs[0].default) == ("secret", "env:WEB_KEY")
    assert str(book.sections[0].steps[0].args["headers"]["X-Key"]) == "Bearer {{ key }}"
    assert made.remarks == ()


ODD_TEXTS = [
    "{{ braces }}",
    "{% if %}",
    "$$5",
    "yes",
    "0123",
    "1e3",
    "a: b",
    "# no comment",
    "line\nline",
    "'\"\\",
]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_texts_mean_the_same_whatever_is_in_them(text: str, catalogue: Catalogue, tmp_path: Path) -> None:
    from k2run.language.expressions import render

    made = convert({"method": [action("m", process("echo", text, "x"))]}, "odd", folder=tmp_path)
    step = parse_runbook(made.text, "odd.yaml", catalogue).sections[0].steps[0]
    assert render(step.args, {})["command"] == ["echo", text, "x"]


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"title": "t"}'])
def test_what_is_no_experiment_is_a_usage_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "not.json"
    file.write_text(text)
    with pytest.raises(UsageError):
        import_file("chaos", file, folder=tmp_path / "made")
    assert not (tmp_path / "made").exists()


PROBE = {"type": "probe", "name": "h", "provider": process("true")}
UNJUDGED = [
    {"tolerance": {"type": "probe", "provider": {"type": "python", "module": "probes", "func": "no"}}},
    {"tolerance": {"type": "jsonpath", "path": '$.r[?(@.v!="0")]', "count": 0}},
    {"tolerance": {"type": "jsonpath", "path": "$..a", "target": "stdout"}},
    {"tolerance": {"type": "regex", "pattern": "(a+)+b", "target": "stdout"}},
    {"tolerance": {"type": "range", "range": [0, 5], "target": "nowhere"}},
    {"tolerance": "done"},
    {"tolerance": True, "provider": {"type": "http", "url": "http://127.0.0.1:1/"}},
    {},
]


@pytest.mark.parametrize("odd", UNJUDGED)
def test_a_hypothesis_that_cannot_be_carried_over_is_judged_by_a_person(
    odd: dict[str, Any], catalogue: Catalogue, tmp_path: Path
) -> None:
    made = convert({"steady-state-hypothesis": {"probes": [{**PROBE, **odd}]}}, "odd", folder=tmp_path)
    [step] = parse_runbook(made.text, "odd.yaml", catalogue).steady_state
    assert [inner.action for inner in step.block][-1] == "manual.confirm"
    assert made.remarks


def test_words_mean_what_chaos_toolkit_reads(catalogue: Catalogue, tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text(
        "title: t\ndescription: d\nsteady-state-hypothesis:\n  title: h\n  probes:\n"
        "    - {name: truth, type: probe, tolerance: yes, provider: {type: python, module: probes, func: 'yes'}}\n"
        "    - {name: tls, type: probe, tolerance: 200, provider: {type: http, url: 'https://h/', verify_tls: no}}\n"
        "method:\n"
        "  - {name: first, type: action, background: no, provider: {type: process, path: echo, arguments: one}}\n"
        "  - {name: second, type: action, provider: {type: process, path: echo, arguments: two}}\n"
    )
    path = import_file("chaos", file, folder=tmp_path / "made")
    book = parse_runbook(path.read_text(), str(path), catalogue)
    truth, tls = book.steady_state
    assert [condition.text for condition in truth.expect] == ["(result.stdout | from_json) == true"]
    assert "'yes'" not in truth.expect[0].text
    assert tls.args["tls"] == {"verify": False}
    assert not any(section.parallel > 1 for section in book.sections)


@pytest.mark.parametrize(
    "provider",
    [
        {**process("echo"), "arguments": "offset ${earliest}"},
        process("echo", "$earliest"),
        {"type": "http", "url": "http://127.0.0.1/${earliest}"},
        {"type": "python", "module": "m", "func": "f", "arguments": {"at": "${earliest}"}},
    ],
)
def test_a_name_without_a_value_makes_a_step_for_a_person(
    provider: dict[str, Any], catalogue: Catalogue, tmp_path: Path
) -> None:
    made = convert({"method": [action("m", provider)]}, "odd", folder=tmp_path)
    [step] = parse_runbook(made.text, "odd.yaml", catalogue).sections[0].steps
    assert step.action == "manual.confirm"
    assert made.remarks == (("m", "nothing in the experiment defines ${earliest}"),)


@pytest.mark.parametrize("text", ["-c 'echo ${HOME}'", "-c 'for f in a b; do echo $f; done'", "-c 'n=1; echo $n'"])
def test_what_a_shell_fills_in_is_left_to_it(text: str, catalogue: Catalogue, tmp_path: Path) -> None:
    made = convert({"method": [action("m", {**process("sh"), "arguments": text})]}, "odd", folder=tmp_path)
    [step] = parse_runbook(made.text, "odd.yaml", catalogue).sections[0].steps
    assert step.args["command"] == f"sh {text}"


def test_what_has_no_timeout_may_take_as_long_as_it_takes(catalogue: Catalogue, tmp_path: Path) -> None:
    made = convert({"method": [action("m", process("sleep", "65"))]}, "odd", folder=tmp_path)
    [step] = parse_runbook(made.text, "odd.yaml", catalogue).sections[0].steps
    assert step.timeout == 24 * 3600
