"""The command line: the commands in their groups, for `k2run …` and for `invoke …` in the repository."""

from __future__ import annotations

import atexit
import gc
import os
import re
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn

from invoke import Collection, Exit, ParseError, Program, Task

from k2run.cli import document_tasks, history_tasks, runbook_tasks, stack_tasks
from k2run.cli.command import command, say_error
from k2run.errors import AuthorError
from k2run.terminal.safe_stream import PLAIN_SIGNS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from invoke import Context
    from invoke.parser import Argument, Parser, ParserContext


LOOSE = {"validate": "paths", "lint": "paths", "doc": "action", "explain": "code", "baseline": "words"}
"""Commands whose argument may be left out, or given several times, without its flag."""
OPTIONAL = {
    "abort": "run-id",
    "recover": "runbook",
    "drill": "runbook",
    "trend": "metric",
    "document": "kind",
    "docs": "kind",
    "report": "run-id",
}
"""Commands whose first argument may be left out; options with values may follow it."""
SHOWN = ("help", "list", "version")
"""The options of Invoke itself that `k2run` has; the others are about shell commands."""
BROKEN_PIPE = 128 + signal.SIGPIPE
"""The exit code by which a shell tells that the reader of the output had enough."""
LONGEST_NUMBER = 12
"""Digits of a number on the command line; no limit, port or count is larger."""
DRY = frozenset({"--dry-run", "--dry", "-R"})
TIMEOUT = frozenset({"-T", "--command-timeout"})
_REPHRASED = (
    (r"'(.+)' did not receive required positional arguments: (.+)", r"`\1` needs \2"),
    (r"Flag <Argument: ([\w-]+).*> needed value.*", r"--\1 needs a value"),
    (r"'(.+)' is ambiguous when given after an optional-value flag", r"'\1' follows an option that may take a value"),
    (r"No idea what '(.+)' is!", r"unexpected '\1'"),
)
"""What Invoke says of a command line, and how k2run says it."""
COLLECTED_AFTER = 50_000
"""New objects between two searches for cycles; Python's own 700 means seventy searches before a run has begun."""


@command(positional=("shell",), help={"shell": "bash, zsh or fish"})
def completion(c: Context, shell: str) -> None:
    """Print the completion script of a shell: commands, options, runbooks, stacks, runs, actions."""
    from k2run.authoring.completion import completion_of

    print(completion_of(shell, TASKS), end="")


GROUPS: dict[str, tuple[Task[Any], ...]] = {
    "Runs": runbook_tasks.TASKS,
    "Stacks": stack_tasks.TASKS,
    "Recovery": runbook_tasks.RECOVERY_TASKS,
    "History": history_tasks.TASKS,
    "Documents": document_tasks.TASKS,
    "Authoring": (*runbook_tasks.AUTHORING_TASKS, completion),
    "Unattended": stack_tasks.UNATTENDED_TASKS,
}
TASKS = tuple(task for tasks in GROUPS.values() for task in tasks)


class CommandLine(Program):
    """Invoke's program, which also reads `validate a b c` and explains what it refuses; exit code 2 for wrong usage."""

    code = 1

    def parse_core_args(self) -> None:
        """Parse the options before the command; those of Invoke that have no use here are refused."""
        for word in self.argv[1:]:
            if not word.startswith("-"):
                break
            self._check_core_option(word.partition("=")[0])
        super().parse_core_args()

    def parse_collection(self) -> None:
        """Take the commands; Python may keep compiled modules again, which Invoke has just forbidden."""
        sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
        super().parse_collection()

    def parse_tasks(self) -> None:
        """Parse the command and its options."""
        words = self.core.unparsed
        if words and not words[0].startswith("-"):
            self._check_command(words)
        words[:] = gather(words)
        whole = self.collection
        self.collection = _named(whole, {*words, self.args.help.value})
        try:
            super().parse_tasks()
        except ParseError as error:
            _refuse(_rephrased(str(error)), f"`{self.binary} --help {words[0]}` shows the options")
        finally:
            self.collection = whole

    def parse_cleanup(self) -> None:
        """Answer `--help` and `--list`."""
        try:
            super().parse_cleanup()
        except ParseError:
            _refuse(f"there is no command '{self.args.help.value}'", f"`{self.binary} --list` shows the commands")

    def execute(self) -> None:
        """Run the command, and remember its exit code for the end of the process."""
        try:
            super().execute()
            self.code = 0
        except Exit as ended:
            self.code = ended.code
            raise

    def print_help(self) -> None:
        """Print the usage, every command, and the options that work without one."""
        print(f"Usage: {self.binary} COMMAND [options]\n")
        self.list_tasks()
        print("Options:\n")
        self.print_columns(
            [
                ("-h, --help [COMMAND]", "Show this help, or that of a command."),
                ("-l, --list", "List the commands."),
                ("-V, --version", "Show the version."),
            ]
        )

    def list_flat(self) -> None:
        """List the commands in their groups."""
        if self.list_root or self.list_depth:
            super().list_flat()
            return
        help_of = dict(self._make_pairs(self.scoped_collection))
        known = [(title, [task.name for task in tasks]) for title, tasks in GROUPS.items()]
        grouped = {name for _, names in known for name in names}
        others = [name for name in help_of if name.split(" ")[0] not in grouped]
        for title, names in [*known, ("Development", others)]:
            pairs = [pair for name in names for pair in help_of.items() if pair[0].split(" ")[0] == name]
            if pairs:
                print(f"{title}:\n")
                self.print_columns(pairs)

    def print_task_help(self, name: str) -> None:
        """Print what a command does, its arguments and its options."""
        context = self.parser.contexts[name]
        first = LOOSE.get(name) or OPTIONAL.get(name)
        arguments = {f"--{argument.name}": argument.name.upper() for argument in context.positional_args}
        usage = list(arguments.values())
        if first:
            arguments[f"--{first}"] = first.upper()
            usage = [f"[{first.upper()} …]" if name in LOOSE else f"[{first.upper()}]"]
        print(" ".join(["Usage:", self.binary, name, *usage, "[options]"]) + "\n")
        print(f"{(self.collection[name].__doc__ or '').strip()}\n")
        rows = [(flags, text, arguments.get(flags.partition("=")[0])) for flags, text in context.help_tuples()]
        for title, pairs in (
            ("Arguments", [(argument, text) for _, text, argument in rows if argument]),
            ("Options", [(flags, text) for flags, text, argument in rows if not argument]),
        ):
            if pairs:
                print(f"{title}:")
                self.print_columns(pairs)

    def _make_parser(self) -> Parser:
        parser = super()._make_parser()
        if self.core.unparsed:
            self._check_options(parser)
        return parser

    def _check_core_option(self, name: str) -> None:
        _refuse_to_pretend(name)
        if name == "-e":
            _refuse("-e comes after the command", f"{self.binary} run RUNBOOK -e name=value")
        shown = {flag for argument in self.core_args() for flag in _flags(argument) if argument.names[0] in SHOWN}
        if name not in shown:
            _refuse(f"{self.binary} has no option {name}", f"`{self.binary} --help` shows commands and options")

    def _check_command(self, words: list[str]) -> None:
        names = {name for known, aliases in self.collection.task_names.items() for name in (known, *aliases)}
        if words[0] not in names:
            from k2run.language.problems import did_you_mean

            hint = did_you_mean(words[0], names) or f"`{self.binary} --list` shows the commands"
            _refuse(f"there is no command '{words[0]}'", hint)
        if not {"-h", "--help"}.isdisjoint(words[1:]):  # Invoke would take it for the runbook's name
            self.args.help.value = words[0]
            words.clear()

    def _check_options(self, parser: Parser) -> None:
        """Refuse options that the command does not have, and numbers that are not numbers.

        Invoke would take an unknown option for the command's first argument, and answer with a traceback to a number
        that is none.
        """
        command, *rest = self.core.unparsed
        known = _flags_of(parser.contexts.values())
        accepted = known if self.namespace is not None else _flags_of([self.core[0]]) | known
        ours = {name for task in TASKS for name in (task.name, *task.aliases)}
        if command in ours and (self.args.dry.value or self.args["command-timeout"].value is not None):
            _refuse_to_pretend("--dry" if self.args.dry.value else "-T")
        words = iter(rest)
        for word in words:
            if not word.startswith("-") or word == "-":
                continue
            name, equals, value = word.partition("=")
            if not word.startswith("--"):
                name, value = word[:2], word[2:].removeprefix("=")
            if command in ours:
                _refuse_to_pretend(name)
            argument = accepted.get(name)
            if argument is None:
                from k2run.language.problems import did_you_mean

                hint = did_you_mean(name, known) or f"`{self.binary} --help {command}` shows the options"
                _refuse(f"`{command}` has no option {name}", hint)
            if equals and not argument.takes_value:
                _refuse(f"{name} takes no value", f"`{self.binary} --help {command}` shows the options")
            if argument.takes_value and not argument.optional and not (equals or value):
                value = next(words, "")
            if argument.kind is int and not (value.isdecimal() and len(value) <= LONGEST_NUMBER):
                _refuse(
                    f"{name} {value}: expected a whole number, 0 or more",
                    f"`{self.binary} --help {command}` shows the options",
                )


def _flags(argument: Argument) -> list[str]:
    return [f"--{name}" if len(name) > 1 else f"-{name}" for name in argument.names]


def _flags_of(contexts: Iterable[ParserContext]) -> dict[str, Argument]:
    """The options of several parts of a command line, those that Invoke negates included."""
    known: dict[str, Argument] = {}
    for context in contexts:
        flags = {flag: context.flags[flag] for flag in [*context.flags, *context.flags.aliases]}
        known |= flags | {negated: flags[flag] for negated, flag in context.inverse_flags.items()}
    return known


def _refuse_to_pretend(name: str) -> None:
    """Refuse options of Invoke that promise what is not kept: they are for shell commands of its own."""
    if name in DRY:
        _refuse(
            "use --check for a dry run: `k2run run RUNBOOK --check`",
            "--check resolves every step and calls nothing; --check=probe calls what only observes",
        )
    if name in TIMEOUT:
        _refuse(
            "-T has no effect on a runbook",
            "a step's limit is its `timeout`, a section's its `within`; `run --check` only checks",
        )


def _refuse(message: str, hint: str) -> NoReturn:
    say_error(message, hint)
    raise Exit(code=AuthorError.exit_code)


def _rephrased(text: str) -> str:
    for pattern, ours in _REPHRASED:
        if re.fullmatch(pattern, text):
            return re.sub(pattern, ours, text)
    return text


def gather(words: list[str]) -> list[str]:
    """Let `validate a b c` name several files, and `doc` none: Invoke takes exactly one argument without its flag."""
    if len(words) > 1 and words[0] in OPTIONAL and not words[1].startswith("-"):
        return [words[0], f"--{OPTIONAL[words[0]]}", *words[1:]]
    if not words or words[0] not in LOOSE:
        return words
    flag = f"--{LOOSE[words[0]]}"
    values = [word for word in words[1:] if not word.startswith("-")]
    flags = [word for word in words[1:] if word.startswith("-") and word != flag]
    return [words[0], *flags, *(part for value in values for part in (flag, value))]


def _named(whole: Collection, words: set[str]) -> Collection:
    """The tasks that the command line may mean: Invoke's parser copies every task that it is given, twice."""
    names = [name for name, aliases in whole.task_names.items() if not words.isdisjoint({name, *aliases})]
    return Collection(*(whole[name] for name in names)) if names else whole


def adopt(program: Program) -> None:
    """Let an Invoke program read k2run's command lines, and set up the process for it.

    `invoke` has made its own program before it loads the tasks of the repository.
    """
    program.__class__ = CommandLine
    set_up_process()
    atexit.register(lambda: leave(getattr(program, "code", 1)))


def main() -> None:
    """The console script `k2run`."""
    import k2run

    program = CommandLine(name="k2run", binary="k2run", namespace=Collection(*TASKS), version=k2run.__version__)
    adopt(program)
    try:
        program.run()
    except Exit as ended:
        sys.exit(ended.code)
    except BrokenPipeError:  # `| head` has read enough
        sys.exit(BROKEN_PIPE)


def set_up_process() -> None:
    """Undo settings of Invoke and of the parent process that k2run cannot use.

    Invoke keeps Python from writing bytecode, a third of the time of a short run; a tenth is spent on searches
    for cycles while modules are loaded. A parent may have k2run ignore the end of its children: then the system keeps
    no exit codes, and every failed command would look like a successful one.
    """
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
    gc.set_threshold(COLLECTED_AFTER)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent: no other file may take its number
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))  # noqa: PTH123, SIM115
        elif mode == "w" and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=PLAIN_SIGNS)


def leave(code: int) -> None:
    """End at once when a call was left behind; otherwise skip Python's last search for cycles.

    A thread of a client library that is busy while Python shuts down can crash the process, and its exit code would be
    the crash's. The search covers all modules and takes longer than many commands; DuckDB needs it: it counts the
    objects that are left, and complains.
    """
    dispatch = sys.modules.get("k2run.engine.dispatch")
    if dispatch is not None and dispatch.is_one_left_behind():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    if "_duckdb" not in sys.modules:
        gc.freeze()
