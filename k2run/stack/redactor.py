"""Takes secrets out of everything that is shown or kept: out of texts, never out of the structure that holds them."""

from __future__ import annotations

import base64
import json
import re
import shlex
import sys
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from msgspec import to_builtins

from k2run.language.quantities import encode_quantity
from k2run.stack.secrets import MASK, SHORTEST, Spelled, base64_cores, base64_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_LINE = 8  # characters; a line of a longer secret (a PEM file) is masked by itself: logs print line by line
_FEW_DIGITS = 8  # a shorter number is as likely to be a figure
_SHORT, _REMEMBERED = 400, 500  # characters of a text, and texts, that are remembered
_LONG = 4096  # bytes of a line that is searched as a whole before each of its texts is
_NUMBERS = frozenset({int, float, bool, type(None)})
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "url": lambda secret: quote(secret, safe=""),
    "path": quote,
    "form": quote_plus,
    "json": lambda secret: json.dumps(secret)[1:-1],
    "shell": shlex.quote,
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
}
"""How a secret can be written in what k2run works with again: what is kept of it is its source and this."""
_PARTS = re.compile(r"[@:/?#\[\]]")
_WITH_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://(?:[^/@:]*:)?(?P<password>[^/@]*)@", re.IGNORECASE)
_WORDS = """
access action admin administrator answer args attempts changeit changeme check client clock code command connection
consumer content count critical data database debug default demo docker enter error event example expected external
failed false file finished guest hint host http https info input internal interrupted kafka local localhost login
maximum message minio mode name none null number objective open outcome owner pass passed password path pending
plain points port postgres postgresql process producer public read ready result root run running runbook secret
section seconds server service severity skipped stack started status step stdout stderr stop stopped stream string
system table test text time title token topic true undo unknown user username value values verdict warning word
write yaml
"""
_ORDINARY = frozenset(_WORDS.split())


class Secret:
    """A secret that was read.

    Args:
        text: The secret.
        source: Where it was read: `env:NAME`, …; `input:NAME` for one that was given by hand.

    Attributes:
        public: It is a word of a text that anybody may read, such as the name of a service.
        ordinary: It is an ordinary word, or public: hidden only where it stands alone.
    """

    def __init__(self, text: str, source: str, *, public: bool) -> None:
        self.text = text
        self.source = source
        self.public = public
        self.ordinary = public or text.casefold() in _ORDINARY or (text.isdigit() and len(text) < _FEW_DIGITS)

    @cached_property
    def forms(self) -> list[tuple[str, str]]:
        """How it is written in each form, each text once."""
        written = {write(self.text): form for form, write in reversed(FORMS.items())}
        return [(form, text) for text, form in reversed(written.items())]

    @cached_property
    def spelled(self) -> list[Spelled]:
        """It, its parts, and its base64."""
        made = [Spelled(self.text, lone=self.ordinary)]
        if not self.ordinary:
            made += _parts(self.text)
        made += [Spelled(core, pattern=base64_pattern(core)) for core in base64_cores(self.text)]
        return made


def _parts(secret: str) -> Iterator[Spelled]:
    """Parts that libraries print by themselves: lines, and what is cut out of a URL at its delimiters."""
    lines = [line for line in secret.splitlines() if line != secret]
    yield from (Spelled(line) for line in lines if len(line.strip()) >= _LINE)
    url = _WITH_PASSWORD.match(secret)
    if url:
        yield Spelled(url["password"])
    elif "://" in secret:
        return  # the parts of an address are no secret
    for part in [] if url else [part for line in secret.splitlines() for part in _PARTS.split(line)]:
        if SHORTEST <= len(part.strip()) < len(secret) and part.casefold() not in _ORDINARY:
            yield Spelled(part, lone=len(part) < _LINE, folded=True)


class Hiding:
    """Takes some secrets out of texts and values.

    Args:
        secrets: The secrets, the first that was read first.
        spelled: How they, and their parts, may be written: a secret before its parts.
    """

    def __init__(self, secrets: Iterable[Secret] = (), spelled: Iterable[Spelled] = ()) -> None:
        self._hide(secrets, spelled)

    def _hide(self, secrets: Iterable[Secret], spelled: Iterable[Spelled]) -> None:
        self._longest_first = sorted(secrets, key=lambda secret: len(secret.text), reverse=True)
        self._spelled = list(spelled)
        self._by_anchor = [(each, entry) for entry in self._spelled for each in entry.anchors]
        self._unanchored = [entry for entry in self._spelled if not entry.anchors]
        self._seen: dict[str, str] = {}
        self._named: dict[str, str] = {}
        self._forms: dict[str, list[tuple[str, str, str]]] = {}

    def __call__(self, text: str) -> str:
        """The text without secrets."""
        seen = self._seen
        known = seen.get(text)
        return known if known is not None else self._hidden(text, seen, names=False)

    def name(self, text: str) -> str:
        """A text that something is known by, without secrets; an ordinary word stays: it may be that name."""
        seen = self._named
        known = seen.get(text)
        return known if known is not None else self._hidden(text, seen, names=True)

    def _hidden(self, text: str, seen: dict[str, str], *, names: bool) -> str:
        """Most texts of a run come again and again, so the last short ones are remembered.

        They are taken from, and go into, what was remembered when this began: a secret that is told meanwhile begins
        another one, after which nothing is taken from this.
        """
        made = text
        for entry in self._near(text):
            if not (names and entry.lone):
                made = entry.hide(made)
        if len(text) <= _SHORT:
            if len(seen) >= _REMEMBERED:
                seen.clear()
            seen[text] = made
        return made

    def _near(self, text: str) -> list[Spelled]:
        """What may be in a text; most texts hold nothing, and are done with here."""
        if not self._unanchored:
            return [entry for each, entry in self._by_anchor if each in text]
        return [entry for entry in self._spelled if (entry.may_be_in(text) if entry.anchors else entry.is_in(text))]

    def clean(self, value: Any, names: int = 0) -> Any:
        """A value without secrets, made of dicts, lists and plain values; the same object when no secret is known.

        Args:
            value: The value.
            names: Levels of mappings, from the outermost, whose keys are names that k2run gave.
        """
        return self._walk(value, self, names) if self._spelled else value

    def clean_names(self, value: Any) -> Any:
        """The same for values that are compared with others: ordinary words stay."""
        return self._walk(value, self.name, 0) if self._spelled else value

    def clean_shown(self, value: Any) -> Any:
        """The same, and all keys are names that k2run gave."""
        return self._walk(value, self.name, sys.maxsize) if self._spelled else value

    def _walk(self, value: Any, hide: Callable[[str], str], names: int) -> Any:
        kind = type(value)
        if kind is str:
            return hide(value)
        if kind is dict:
            if names > 0:
                return {key: self._walk(entry, hide, names - 1) for key, entry in value.items()}
            return {self._key(key): self._walk(entry, hide, 0) for key, entry in value.items()}
        if kind is list or kind is tuple:
            return kind([self._walk(entry, hide, names) for entry in value])
        if value is None or kind in _NUMBERS:
            return value
        plain = to_builtins(value, enc_hook=encode_quantity)  # a time, a result, …: as a journal writes it
        return plain if type(plain) in _NUMBERS else self._walk(plain, hide, names)

    def _key(self, key: Any) -> Any:
        if not isinstance(key, str):
            [key] = to_builtins({key: None}, str_keys=True)
        return self.name(key)

    def refer(self, value: Any, secrets: dict[str, tuple[str, str]], names: int = 0) -> Any:
        """A value in which each secret is replaced by what stands for it.

        What is a name of something anyway stays. What holds a secret in a form that cannot be made again is masked.

        Args:
            value: The value.
            secrets: Takes in, for what stands for a secret, where it is read and how it is written.
            names: Levels of mappings, from the outermost, whose keys are names that k2run gave.
        """
        return self._walk(value, lambda text: self._referred(text, secrets), names)

    def _referred(self, text: str, secrets: dict[str, tuple[str, str]]) -> str:
        for written, source, form in self._written(text):
            number = len(secrets) + 1
            while f"{MASK}{number}" in text:
                number += 1
            secrets[f"{MASK}{number}"] = source, form
            text = text.replace(written, f"{MASK}{number}")
        return self.name(text)

    def _written(self, text: str) -> list[tuple[str, str, str]]:
        """How the secrets stand in a text that can be made again from them: the text of each, its source, its form."""
        written = self._forms
        known = written.get(text)
        if known is not None:
            return known
        found, left = [], text
        for secret in self.secrets if self._near(text) else ():
            if not secret.source or secret.public or (secret.ordinary and left != secret.text):
                continue
            for form, spelled in secret.forms:
                if spelled in left:
                    found.append((spelled, secret.source, form))
                    left = left.replace(spelled, MASK)
        if len(text) <= _SHORT:
            if len(written) >= _REMEMBERED:
                written.clear()
            written[text] = found
        return found

    @property
    def secrets(self) -> list[Secret]:
        """Those that were read so far, the longest first."""
        return self._longest_first


class Redactor(Hiding):
    """Knows the secrets that were read so far, and replaces them by `•••`.

    It is told each secret before anybody else gets it.

    Args:
        public: A text that anybody may read: a secret that is a word of it is an ordinary word.
        everywhere: Is told the same.
        lenient: Leave words alone that anybody may read.
    """

    def __init__(self, public: str = "", everywhere: Redactor | None = None, *, lenient: bool = False) -> None:
        super().__init__()
        self._everywhere = everywhere
        self._lenient = lenient
        self._secrets: dict[str, Secret] = {}
        self._anchors: list[bytes] = []
        self._public = [public]
        self._remarks: list[str] = []
        self._lock = threading.Lock()
        if everywhere is not None:
            everywhere.publish(public)

    def add(self, secret: str, source: str = "", *, remark: bool = True) -> None:
        """From now on, this text is masked.

        Args:
            secret: The text.
            source: Where it was read.
            remark: Say when it is an ordinary word.
        """
        if self._everywhere is not None:
            self._everywhere.add(secret, source, remark=False)
        with self._lock:
            if secret in self._secrets or len(secret.strip()) < SHORTEST:
                return
            self._know(secret, source, remark=remark)
            self._rebuild()

    def publish(self, text: str) -> None:
        """Anybody may read this text: what is a word of it cannot be masked inside of other words."""
        if self._everywhere is not None:
            self._everywhere.publish(text)
        with self._lock:
            if text in self._public:
                return
            self._public.append(text)
            for known in list(self._secrets.values()):
                if not known.public and self._is_word(known.text, text):
                    self._know(known.text, known.source, remark=not known.ordinary)
            self._rebuild()

    def _know(self, secret: str, source: str, *, remark: bool) -> None:
        public = any(self._is_word(secret, text) for text in self._public)
        known = Secret(secret, source, public=public)
        self._secrets = {**self._secrets, secret: known}
        if known.ordinary and remark:
            self._remarks.append(_remark(known))

    @staticmethod
    def _is_word(secret: str, text: str) -> bool:
        return secret in text and re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text) is not None

    def _rebuild(self) -> None:
        spelled = [
            entry
            for secret in self._secrets.values()
            for entry in secret.spelled
            if not (entry.lone and secret.public and self._lenient)
        ]
        self._anchors = [each.encode() for each in dict.fromkeys(each for entry in spelled for each in entry.anchors)]
        self._hide(self._secrets.values(), spelled)

    def take_remarks(self) -> list[str]:
        """What is to be said about the secrets that were read since this was asked last."""
        if not self._remarks:
            return []
        with self._lock:
            taken, self._remarks = self._remarks, []
        return taken

    def may_be_in(self, line: bytes) -> bool:
        """Whether it is worth while to look for secrets in what a line says, in any encoding; never wrong with a no.

        Args:
            line: JSON, in which each letter and digit is written as it is.
        """
        if len(line) < _LONG:  # its few texts are looked up one by one, quicker than a line that is new each time
            return bool(self._spelled)
        if any(each in line for each in self._anchors):
            return True
        text = line.decode(errors="replace") if self._unanchored else ""
        return any(entry.is_in(text) for entry in self._unanchored)


SHOWN = Redactor(lenient=True)
"""Every secret that this process has read: nothing that it shows outside of a run has one in it."""


def unsecret(text: str) -> str:
    """A message as it may be shown; only what anybody may read in the stack file or the runbook stays."""
    return SHOWN(text)


def unsecret_layout(text: str) -> str:
    """Lines made of values without secrets, as a last measure: ordinary words are k2run's own, and stay."""
    return SHOWN.name(text)


def unsecret_value(value: Any) -> Any:
    """The same for what is shown as JSON; its keys are k2run's."""
    return SHOWN.clean_shown(to_builtins(value, enc_hook=encode_quantity))


def _remark(secret: Secret) -> str:
    return (
        f"the secret {secret.source or 'of the stack'} is an ordinary word: it is masked only where it stands alone, "
        "and not where it is the name of something"
    )
