"""Completion for bash, zsh and fish: a script made from the tasks, which runs without Python.

Commands, options and actions are written into the script; runbooks, stacks and runs are looked up as files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2run.actions.catalogue import Catalogue
from k2run.authoring.action_manual import every_explanation
from k2run.errors import UsageError
from k2run.language.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

COMMANDS = ("k2run", "invoke", "inv")
SHELLS = ("bash", "zsh", "fish")
_LOOKED_UP = {
    "runbook": "runbooks",
    "paths": "files",
    "file": "files",
    "stack": "stacks",
    "run_id": "runs",
}
"""Which files the values of an argument are, by the argument's name."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        options: Its options with what they are for.
        words: The words that may follow it, where they are known beforehand.
        looked_up: What else may follow it: `runbooks`, `stacks`, `runs`, `files`; "" for nothing else.
    """

    name: str
    says: str
    options: tuple[tuple[str, str], ...]
    words: tuple[str, ...]
    looked_up: str


def completion_of(shell: str, tasks: Iterable[Any]) -> str:
    """The completion script of a shell: bash, zsh or fish.

    Raises:
        UsageError: There is no completion for that shell.
    """
    writers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in writers:
        raise UsageError(f"no completion for {shell!r}", hint=f"supported shells: {', '.join(SHELLS)}")
    return writers[shell](commands_of(tasks))


def commands_of(tasks: Iterable[Any]) -> tuple[Command, ...]:
    """What can be completed for each task."""
    catalogue = Catalogue()
    known = {
        "action": (*catalogue.adapters(), *catalogue.names()),
        "code": tuple(every_explanation()),
        "kind": tuple(Kind),
        "shell": SHELLS,
        "form": ("chaos",),
    }
    return tuple(_command(task, known) for task in tasks)


def _command(task: Any, known: dict[str, tuple[str, ...]]) -> Command:
    first = next(iter(task.positional), None) or next(iter(task.iterable), None)
    arguments = task.get_arguments()
    names = {name for argument in arguments for name in argument.names}
    if first is None or first == "e":
        first = next((name for name in ("action", "code") if name in names), "")
    options = tuple(
        (f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}", argument.help or "")
        for argument in arguments
        for name in argument.names[:1]
        if name != first
    )
    says = (task.__doc__ or "").strip().split("\n")[0]
    return Command(
        task.name.replace("_", "-").strip("-"), says, options, known.get(first, ()), _LOOKED_UP.get(first, "")
    )


_LOOK_UPS = """\
_k2run_runbooks() {
  (cd runbooks 2>/dev/null && find . -name '*.yaml' -not -path './stacks/*' | sed 's|.*/||; s|\\.yaml$||')
}
_k2run_stacks() { (cd runbooks/stacks 2>/dev/null && ls -1 | sed 's|\\.yaml$||'); }
_k2run_runs() { echo last; ls -1 .k2run/runs 2>/dev/null; }
"""


def _bash(commands: tuple[Command, ...]) -> str:
    names = " ".join(command.name for command in commands)
    cases = "\n".join(
        f"    {command.name}) options='{' '.join(option for option, _ in command.options)}';"
        f" words='{' '.join(command.words)}'; looked_up='{command.looked_up}' ;;"
        for command in commands
    )
    return f"""\
# k2run completion for bash: source it, or put it into ~/.local/share/bash-completion/completions/k2run
{_LOOK_UPS}
_k2run() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  local options='' words='' looked_up=''
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '{names} --list --help --version' -- "$word"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  case "$before" in
    --stack) COMPREPLY=($(compgen -W "$(_k2run_stacks)" -- "$word") $(compgen -f -- "$word")); return ;;
    --tags|--skip-tags|-e|--e|--lines|--timeout) return ;;
    --output|--folder|--inputs) COMPREPLY=($(compgen -f -- "$word")); return ;;
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")); return ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  case "$looked_up" in
    runbooks|stacks|runs) COMPREPLY+=($(compgen -W "$(_k2run_$looked_up)" -- "$word")) ;;
  esac
  case "$looked_up" in
    runbooks|files|stacks) COMPREPLY+=($(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _k2run {" ".join(COMMANDS)}
"""


def _zsh(commands: tuple[Command, ...]) -> str:
    described = "\n".join(f"    '{_single(command.name)}:{_single(command.says)}'" for command in commands)
    cases = "\n".join(
        f"    {command.name}) options=({' '.join(_zsh_option(*option) for option in command.options)});"
        f" words_known=({' '.join(command.words)}); looked_up='{command.looked_up}' ;;"
        for command in commands
    )
    return f"""\
#compdef {" ".join(COMMANDS)}
# k2run completion for zsh: put it as _k2run into a folder of $fpath, or source it after compinit
{_LOOK_UPS}
_k2run() {{
  local -a commands options words_known
  local looked_up='' before="${{words[CURRENT-1]}}"
  commands=(
{described}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  case "${{words[2]}}" in
{cases}
  esac
  case "$before" in
    --stack) compadd -- ${{(f)"$(_k2run_stacks)"}}; _files; return ;;
    --tags|--skip-tags|-e|--e|--lines|--timeout) return ;;
    --output|--folder|--inputs) _files; return ;;
  esac
  if [[ "${{words[CURRENT]}}" == -* ]]; then
    _describe option options
    return
  fi
  (( $#words_known )) && compadd -- $words_known
  case "$looked_up" in
    runbooks|stacks|runs) compadd -- ${{(f)"$(_k2run_$looked_up)"}} ;;
  esac
  case "$looked_up" in
    runbooks|files|stacks) _files ;;
  esac
}}
(( $+functions[compdef] )) && compdef _k2run {" ".join(COMMANDS)}
"""


_FISH_LOOK_UPS = """\
# k2run completion for fish: put it into ~/.config/fish/completions/k2run.fish, or source it
function __k2run_names; find $argv -name '*.yaml' 2>/dev/null | string replace -r '.*/(.*)\\.yaml$' '$1'; end
function __k2run_runbooks; __k2run_names runbooks -not -path 'runbooks/stacks/*'; end
function __k2run_stacks; __k2run_names runbooks/stacks; end
function __k2run_runs; echo last; ls -1 .k2run/runs 2>/dev/null; end
"""


def _fish(commands: tuple[Command, ...]) -> str:
    lines = [_FISH_LOOK_UPS]
    for program in COMMANDS:
        lines += [line for command in commands for line in _fish_command(program, command)]
    return "\n".join(lines) + "\n"


def _fish_command(program: str, command: Command) -> list[str]:
    inside = f"complete -c {program} -n '__fish_seen_subcommand_from {command.name}'"
    lines = [f"complete -c {program} -f -n __fish_use_subcommand -a {command.name} -d '{_single_fish(command.says)}'"]
    for option, says in command.options:
        values = " -x -a '(__k2run_stacks)'" if option == "--stack" else ""
        kind = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
        lines.append(f"{inside} {kind}{values} -d '{_single_fish(says)}'")
    if command.words:
        lines.append(f"{inside} -f -a '{' '.join(command.words)}'")
    if command.looked_up in ("runbooks", "stacks", "runs"):
        lines.append(f"{inside} -a '(__k2run_{command.looked_up})'")
    elif command.looked_up:
        lines.append(f"{inside} -F")
    return lines


def _zsh_option(option: str, says: str) -> str:
    return f"'{option}:{_single(says)}'" if says else f"'{option}'"


def _single(text: str) -> str:
    """A text inside single quotes of a POSIX shell, its colons kept from zsh."""
    return text.replace("'", "'\\''").replace(":", "\\:")


def _single_fish(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
