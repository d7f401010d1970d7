from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from k2run.errors import StackInvalid
from k2run.stack.redactor import Redactor
from k2run.stack.secrets import MASK
from k2run.stack.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path

Make = Callable[..., Stack]
SECRETS = st.text(min_size=4, max_size=40).filter(lambda text: len(text.strip()) > 3)


def test_a_secret_is_read_only_when_it_is_asked_for_and_masked_from_then_on(
    make_stack: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCH_KEY", raising=False)
    stack = make_stack("services: {api: {url: 'http://a', headers: {X-API-Key: 'env:BENCH_KEY'}}}")
    assert stack.redact("swordfish") == "swordfish"
    with pytest.raises(StackInvalid, match="env:BENCH_KEY is not set"):
        stack.services["api"]
    monkeypatch.setenv("BENCH_KEY", "swordfish")
    assert stack.services["api"].headers == {"X-API-Key": "swordfish"}
    assert stack.redact("the key is swordfish!") == f"the key is {MASK}!"


def test_a_secret_comes_from_a_file_or_a_command(make_stack: Make, tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("opensesame\n")
    stack = make_stack("""
        connections:
          store: {key: "file:key.txt", token: "cmd:echo open-says-me", warehouse: "file:///data", other: "env:"}
    """)
    settings = stack.settings("store")
    assert settings == {"key": "opensesame", "token": "open-says-me", "warehouse": "file:///data", "other": "env:"}
    assert stack.redact("opensesame open-says-me") == f"{MASK} {MASK}"


def test_a_secret_that_looks_like_a_reference_is_not_followed(make_stack: Make, tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("cmd:touch proof; echo taken\n")
    stack = make_stack("""
        vars: {key: "file:key.txt"}
        connections: {store: {key: "{{ key }}", token: "{{ secret('file:key.txt') }}", place: "file:{{ 'key' }}.txt"}}
    """)
    settings = stack.settings("store")
    assert settings is not None
    assert set(settings.values()) == {"cmd:touch proof; echo taken"}
    assert not (tmp_path / "proof").exists()


def test_a_secret_can_be_a_part_of_a_value(make_stack: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_PASSWORD", "p@ss/word")
    stack = make_stack("""
        vars: {key: "{{ secret('env:BENCH_NOT_SET', 'public-default') }}"}
        connections: {db: {uri: "postgresql://k2:{{ secret('env:BENCH_PASSWORD') }}@db/k2", key: "{{ key }}"}}
    """)
    settings = stack.settings("db") or {}
    assert settings["uri"] == "postgresql://k2:p@ss/word@db/k2"
    assert settings["key"] == "public-default"
    assert stack.redact(f"{settings} p%40ss%2Fword") == stack.redact(str(settings)) + f" {MASK}"
    assert "ss/word" not in stack.redact(str(settings))
    assert "public-default" not in stack.redact(str(settings))


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("env:BENCH_NOT_SET", "is not set"),
        ("env:BENCH_SHORT", "shorter than 4"),
        ("file:nowhere.txt", "No such file"),
        ("cmd:echo too bad >&2; exit 3", "it ended with 3"),
        ("cmd:true", "is empty"),
        ("keyring:k2/nobody", "keyring"),
    ],
)
def test_a_secret_that_is_not_there_is_told_with_its_place(
    make_stack: Make, monkeypatch: pytest.MonkeyPatch, reference: str, said: str
) -> None:
    monkeypatch.setenv("BENCH_SHORT", "abc")
    stack = make_stack(f"connections:\n  store:\n    key: {json.dumps(reference)}\n")
    with pytest.raises(StackInvalid, match=rf"bench\.yaml:\d+:\d+: .*{said}"):
        stack.settings("store")
    assert stack.check() == []  # the file is right; no secret is read to see that


def test_a_stack_without_secrets_redacts_nothing(make_stack: Make) -> None:
    stack = make_stack("connections: {store: {warehouse: 'file:///data'}}")
    value = {"a": ["b"]}
    assert stack.redact.clean(value) is value


@settings(deadline=None)
@example(secret="\x800000\U000127d3", before=b"", after=b"")
@example(secret="\\000", before=b"", after=b"")
@given(secret=SECRETS, before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_a_secret_is_found_in_every_form(secret: str, before: bytes, after: bytes) -> None:
    redact = Redactor()
    redact.add(secret)
    for form in (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        assert redact(f"<{form}>") == f"<{MASK}>"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(before + secret.encode() + after).decode()
        shown = redact(whole)
        assert MASK in shown
        # What is left are the neighbours and the ends where the secret's bits mix with theirs.
        assert len(shown.replace(MASK, "")) <= len(encode(before + after)) + 8


def test_nested_data_is_cleaned_keys_included() -> None:
    redact = Redactor()
    redact.add("hunter2hunter2")
    value = {"key hunter2hunter2": ["hunter2hunter2", 7, None, ("x", {"y": "a hunter2hunter2"})]}
    assert redact.clean(value) == {f"key {MASK}": [MASK, 7, None, ("x", {"y": f"a {MASK}"})]}


def test_each_line_of_a_long_secret_is_masked_by_itself() -> None:
    redact = Redactor()
    redact.add("-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----")
    assert redact("loaded MIIEvQIBADANBg from the file") == f"loaded {MASK} from the file"


def test_a_secret_of_the_keyring_is_masked_like_any_other(
    make_stack: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = (
        "KEPT = {'ops': 'ring-of-keys-9', 'low': 'abc'}\ndef get_password(_service, user):\n    return KEPT.get(user)\n"
    )
    (tmp_path / "keyring.py").write_text(ring)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "keyring", raising=False)
    stack = make_stack("connections: {store: {key: 'keyring:k2/ops'}, low: {key: 'keyring:k2/low'}}")
    assert stack.settings("store") == {"key": "ring-of-keys-9"}
    assert stack.redact("said ring-of-keys-9") == f"said {MASK}"
    with pytest.raises(StackInvalid, match="shorter than 4"):
        stack.settings("low")
    monkeypatch.delitem(sys.modules, "keyring")


def test_a_default_does_not_stand_in_for_a_secret_that_is_too_short(
    make_stack: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_SHORT", "abc")
    stack = make_stack("""connections: {store: {key: "{{ secret('env:BENCH_SHORT', 'a-default') }}"}}""")
    with pytest.raises(StackInvalid, match="shorter than 4"):
        stack.settings("store")
