"""Secrets: read from where a stack file says they are, never from it; and every way in which one may be written.

Each character becomes a pattern of its spellings, so that any mixture of encodings is found: JSON once or twice
encoded, `repr`, shell quotes, percent-encoded, HTML. Base64 mixes characters: it has patterns of its own.
"""

from __future__ import annotations

import base64
import os
import re
import string
from contextlib import suppress
from functools import cached_property, lru_cache
from html.entities import codepoint2name
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.errors import StackInvalid
from k2run.language.inputs import SECRET_SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from k2run.language.document import Trail

COMMAND_LIMIT_S = 20.0
_REFERENCE = re.compile(
    r"(?P<source>env):(?P<name>[A-Za-z_]\w*)"
    r"|(?P<source2>file):(?P<path>(?!//).+)"  # file:// is a URL, as warehouses have it
    r"|(?P<source3>keyring):(?P<entry>[^/]+/.+)"
    r"|(?P<source4>cmd):(?P<command>.+)",
    re.DOTALL,
)
SHORTEST = 4
"""Characters; a shorter value would be found by chance in every other word, so it cannot be kept out of the records."""


class Reference(Struct, frozen=True):
    """Where a secret is, as an author or an operator wrote it down.

    The type is the permission to read it. A text that came in any other way (the page, an alert, a computed value)
    stays a text, whatever it looks like: to follow it would run a stranger's command.

    Attributes:
        text: `env:NAME`, `file:PATH`, `keyring:SERVICE/USER` or `cmd:COMMAND`.
    """

    text: str

    def __str__(self) -> str:
        return self.text


def as_written(value: Any) -> Any:
    """A value that an author or an operator wrote: a `Reference` where it says where a secret is."""
    return Reference(value) if isinstance(value, str) and is_secret(value) else value


def as_text(value: Any) -> Any:
    """A value where nothing is to be read: a reference is the text that it is."""
    return value.text if isinstance(value, Reference) else value


def is_secret(text: str) -> bool:
    """Whether a text says where a secret is, rather than being an ordinary value."""
    return text.startswith(SECRET_SOURCES) and _REFERENCE.fullmatch(text) is not None


def read_secret(reference: str, *, near: Path) -> str:
    """The secret that a reference names.

    Args:
        reference: `env:NAME`, `file:PATH`, `keyring:SERVICE/USER` or `cmd:COMMAND`.
        near: The folder that a relative PATH starts from, and that the command runs in.

    Raises:
        StackInvalid: It is not there, empty, or too short to be kept out of the records.
    """
    source, _, rest = reference.partition(":")
    secret = _SOURCES[source](rest, near)
    check_long_enough(secret, reference)
    return secret


class TooShort(StackInvalid):
    """A secret is too short to be kept out of the records."""


def check_long_enough(secret: str, source: str) -> None:
    """Refuse a secret that cannot be masked, wherever it comes from.

    Raises:
        TooShort: It is empty or too short.
    """
    if len(secret.strip()) < SHORTEST:
        raise TooShort(
            f"the secret {source} is {'empty' if not secret else f'shorter than {SHORTEST} characters'}",
            hint="a short one cannot be told from ordinary text, so it could not be kept out of the records",
        )


def _from_environment(name: str, near: Path) -> str:  # noqa: ARG001 - all sources have the same form
    if name not in os.environ:
        raise StackInvalid(f"the secret env:{name} is not set", hint=f"export {name}=… before the run")
    return os.environ[name]


def _from_file(path: str, near: Path) -> str:
    place = near / Path(path).expanduser()
    try:
        return place.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise StackInvalid(f"the secret file:{path} cannot be read: {reason}", hint=f"checked {place}") from error


def _from_keyring(entry: str, near: Path) -> str:  # noqa: ARG001 - all sources have the same form
    service, _, user = entry.partition("/")
    try:
        keyring = import_module("keyring")
    except ImportError:
        raise StackInvalid(
            f"the secret keyring:{entry} needs the package `keyring`", hint="install it beside k2run"
        ) from None
    secret: str | None = keyring.get_password(service, user)
    if secret is None:
        raise StackInvalid(f"the keyring has no entry {entry}", hint=f"`keyring set {service} {user}` makes it")
    return secret


def _from_command(command: str, near: Path) -> str:
    import subprocess

    try:
        done = subprocess.run(  # noqa: S602 - the stack's author wrote it as a shell command
            command, shell=True, cwd=near, capture_output=True, timeout=COMMAND_LIMIT_S, text=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StackInvalid(
            f"the secret cmd:{command} gave no value within {COMMAND_LIMIT_S:g}s", hint="does it wait for input?"
        ) from None
    if done.returncode != 0:
        raise StackInvalid(
            f"the secret cmd:{command} could not be read: it ended with {done.returncode}",
            hint=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it said nothing",
        )
    return done.stdout.rstrip("\r\n")


_SOURCES: dict[str, Callable[[str, Path], str]] = {
    "env": _from_environment,
    "file": _from_file,
    "keyring": _from_keyring,
    "cmd": _from_command,
}


def read_at_hand(read: Callable[..., str], reference: str, *, near: Path) -> str:
    """Read a secret for which nothing has to be run.

    Raises:
        StackInvalid: A command has to be run for it, or a keyring opened.
    """
    if not reference.startswith(("env:", "file:")):
        raise StackInvalid(f"the secret {reference} is not read before it is used")
    return read(reference, near=near)


def may_name_a_secret(trail: Trail) -> bool:
    """Whether a value at this place may name a secret; a command's arguments and URLs are what they look like."""
    return trail[0] in {"connections", "vars"} or (len(trail) > 2 and trail[2] in {"headers", "env", "ready"})  # noqa: PLR2004 - services, name, key


ENDS = 8
"""Characters: a text that was cut inside a secret is known by as much of its beginning or its end."""
_ANCHOR = 3  # characters that no encoding changes; fewer would be found everywhere
WRAPPED = 60
"""Characters of base64; tools break longer ones into lines."""
CHUNK = 24
"""Characters of base64, two of which are shorter than any line."""
SPACE = (
    r"(?:\s|\\{1,8}(?:[nrtfv]|(?i:x|u00)(?i:0[9a-d]|20))|(?i:%(?:25)*(?:20|0[9a-d]))|\+"
    r"|&(?:amp;)*#(?:0*(?:9|1[0-3]|32)|(?i:x0*(?:[9a-d]|20)));)"
)
_ESCAPED = (r"%[0-9A-Fa-f]{2}", r"\\[nrtfv]", r"\\x[0-9A-Fa-f]{2}", r"\\u[0-9A-Fa-f]{4}")
"""What may end in a letter or a digit right before a word, and belongs to no word."""
_RUN = re.compile(r"^\(\?:\\\\\{(\d+),(\d+)\}")
"""Begins the pattern of backslashes: `(?:\\\\{2,16}`."""
_SHORT = {"\0": "0", "\a": "a", "\b": "b", "\x1b": "e"}
_QUOTES = {
    "'": r"""'\\{0,8}"'\\{0,8}"'|'\\{1,8}''|'{1,2}""",
    '"': r"""\\{0,8}""\\{0,8}"|"{1,2}""",
}
MASK = "•••"
_CUT_AFTER = re.compile(r"[\\'\")\]}\s]*(?:…|\.\.\.|\Z)")
_CUT_BEFORE = re.compile(r"(?:\A|…|\.\.\.)[\\'\"(\[{\s]*")


def units(secret: str) -> list[str]:
    """A pattern for each character (each run of space, each run of backslashes) of a secret."""
    made: list[str] = []
    for kind, run in groupby(secret, key=_kind):
        characters = list(run)
        if kind == "space":
            made.append(SPACE + "+")
        elif kind == "backslash":
            count = len(characters)
            made.append(rf"(?:\\{{{count},{8 * count}}}|(?:(?i:%(?:25)*5c)|&#92;|&bsol;){{{count}}})")
        else:
            made += map(_unit, characters)
    return made


def opening(steps: list[str]) -> str:
    """The pattern of some characters, for the beginning of a search.

    A run at its beginning is as short as it may be, or begins where the text's run does: otherwise a long run of spaces
    or backslashes in a text would be read to its end from each of its places.
    """
    first, *rest = steps
    first = SPACE if first == SPACE + "+" else _RUN.sub(r"(?:(?<!\\\\)\\\\{\1,\2}|\\\\{\1}", first)
    return "".join((first, *rest))


def _kind(character: str) -> str:
    return "space" if character in string.whitespace else "backslash" if character == "\\" else "other"


@lru_cache(1024)
def _unit(character: str) -> str:
    """Every spelling of one character, the longest first."""
    if _is_plain(character):
        return character
    code = ord(character)
    octets = character.encode("utf-8", "surrogatepass")
    halves = character.encode("utf-16-be", "surrogatepass").hex()
    name = codepoint2name.get(code, "apos" if character == "'" else "")
    spellings = [
        "".join(rf"%(?:25)*{octet:02x}" for octet in octets),
        "".join(rf"\\{{1,8}}x{octet:02x}" for octet in octets),
        "".join(rf"\\{{1,8}}u{halves[at : at + 4]}" for at in range(0, len(halves), 4)),
        rf"\\{{1,8}}U{code:08x}",
        rf"&(?:amp;)*#(?:{code}|x0*{code:x});",
        *([rf"\\{{1,8}}x{code:02x}"] if code < 256 else []),  # noqa: PLR2004 - repr of Latin letters
        *([rf"&(?:amp;)*{name};"] if name else []),
        *([rf"\\{{1,8}}{_SHORT[character]}"] if character in _SHORT else []),
        *([SPACE] if character.isspace() else []),
    ]
    itself = rf"\\{{0,8}}(?:{_QUOTES.get(character, re.escape(character))})"
    return f"(?:(?i:{'|'.join(spellings)})|{itself})"


def _is_plain(character: str) -> bool:
    """Whether every encoding of text leaves it as it is."""
    return character.isascii() and character.isalnum()


def alone(pattern: str, text: str) -> str:
    """The same pattern, found only where it stands alone: as a word, or as a number."""
    inside = "0-9" if text.isdigit() else "A-Za-z_"
    before = "|".join((rf"(?<![{inside}])", *(f"(?<={escaped})" for escaped in _ESCAPED)))
    return f"(?:{before})(?:{pattern})(?![{inside}])"


def base64_cores(secret: str) -> list[str]:
    """The secret in base64 at each of the three places that it can have in a longer text, in both alphabets.

    The characters at both ends mix with the neighbours, so only those between them are the same every time.
    """
    raws = [secret.encode("utf-8", "surrogatepass")]
    with suppress(UnicodeEncodeError):  # how some clients encode `user:password`
        raws.append(secret.encode("latin-1"))
    cores: list[str] = []
    for raw in raws:
        for shift in range(3):
            first = -(-shift * 8 // 6)  # characters that hold bits of what stands before
            whole = (shift + len(raw)) * 8 // 6  # characters up to the end that hold no bits of what follows
            padded = b"\0" * shift + raw
            cores += [encode(padded).decode()[first:whole] for encode in (base64.b64encode, base64.urlsafe_b64encode)]
    found = (core for core in dict.fromkeys(cores) if len(core) > _ANCHOR)
    return sorted(found, key=len, reverse=True)  # one may be a part of another


def base64_pattern(core: str) -> str:
    """Finds a core, with the ends that mix, and where it is broken into lines."""
    characters = [r"(?:\\{0,8}/|(?i:%(?:25)*2f))" if each == "/" else _base64(each) for each in core]
    between = SPACE + "*" if len(core) > WRAPPED else ""
    return between.join(characters) + r"(?:[A-Za-z0-9+/_-]?(?:=|%3[Dd]|\\{1,8}u003[Dd]){1,2})?"


def _base64(character: str) -> str:
    return r"(?:\+|(?i:%(?:25)*2b)|\\{1,8}u002[bB])" if character == "+" else re.escape(character)


def anchor(text: str) -> str:
    """The longest part of a text that no encoding changes; "" when it is too short to look for."""
    runs = ["".join(run) for plain, run in groupby(text, key=_is_plain) if plain]
    longest = max(runs, key=len, default="")
    return longest if len(longest) >= _ANCHOR else ""


class Spelled:
    """One text that is to be hidden, with every way of writing it.

    Args:
        text: What is to be hidden.
        lone: Hide it only where it stands alone as a word.
        folded: Letters may be of either case: names of hosts are written in small ones.
        pattern: How it is written, when that is not by its characters.
    """

    def __init__(self, text: str, *, lone: bool = False, folded: bool = False, pattern: str = "") -> None:
        self.lone = lone
        self._text = text.strip(string.whitespace) or text
        self._folded = folded
        self._pattern = pattern
        self._before = f"{SPACE}{{0,{len(text) - len(text.lstrip(string.whitespace))}}}"
        self._after = "" if text == self._text else SPACE + "*"
        self.cut = not lone and len(self._text) > ENDS and not pattern
        ends = (self._text[:ENDS], self._text[-ENDS:]) if self.cut else (self._text,)
        if pattern and len(text) > WRAPPED:  # where one is broken by the end of a line, the other is whole
            ends = (text[:CHUNK], text[CHUNK : 2 * CHUNK])
        found = {anchor(end) for end in ends}
        self.anchors: list[str] = [] if "" in found else sorted(found | {each.lower() for each in found if folded})

    def is_in(self, text: str) -> bool:
        """Whether it, or an end of it, stands in a text; for one without an anchor."""
        return any(pattern.search(text) for pattern in ((self._head, self._tail) if self.cut else (self._whole,)))

    def hide(self, text: str) -> str:
        """The text without it."""
        if not self.may_be_in(text):
            return text
        text = self._whole.sub(MASK, text)
        return self._without_ends(text) if self.cut and self.may_be_in(text) else text

    def may_be_in(self, text: str) -> bool:
        """Whether it is worth while to search; never wrong when it says no."""
        for each in self.anchors:  # a loop: quicker than `any` over one or two
            if each in text:
                return True
        return not self.anchors

    @cached_property
    def _steps(self) -> list[str]:
        return units(self._text)

    @cached_property
    def _whole(self) -> re.Pattern[str]:
        pattern = self._pattern or f"{self._before}{opening(self._steps)}{self._after}"
        return self._compiled(alone(pattern, self._text) if self.lone else pattern)

    @cached_property
    def _head(self) -> re.Pattern[str]:
        return self._compiled(opening(self._steps[:ENDS]))

    @cached_property
    def _tail(self) -> re.Pattern[str]:
        return self._compiled(opening(self._steps[-ENDS:]))

    @cached_property
    def _each(self) -> list[re.Pattern[str]]:
        return [self._compiled(step) for step in self._steps]

    def _compiled(self, pattern: str) -> re.Pattern[str]:
        return re.compile(pattern, re.IGNORECASE if self._folded else 0)

    def _without_ends(self, text: str) -> str:
        """Hide its beginning where the text was cut after it, and its end where the text was cut before it."""
        for match in reversed(list(self._head.finditer(text))):
            end = _follow(self._each[ENDS:], text, match.end())
            if _CUT_AFTER.match(text, end):
                text = text[: match.start()] + MASK + text[end:]
        for match in reversed(list(self._tail.finditer(text))):
            for cut in reversed(list(_CUT_BEFORE.finditer(text, 0, match.start() + 1))):
                if self._is_end(text, cut.end(), match.start()):
                    text = text[: cut.end()] + MASK + text[match.end() :]
                    break
        return text

    def _is_end(self, text: str, start: int, end: int) -> bool:
        """Whether a part of the text is a middle of the secret, right before its last characters."""
        middle = self._each[:-ENDS]
        return any(_follow(middle[at:], text, start) == end for at in range(len(middle) + 1))


def _follow(steps: Iterable[re.Pattern[str]], text: str, at: int) -> int:
    """How far a text goes on as the steps do."""
    for step in steps:
        match = step.match(text, at)
        if match is None:
            break
        at = match.end()
    return at
