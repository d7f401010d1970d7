"""Makes the containers of a stack through Docker Compose, where its file names a compose file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.errors import StackUnavailable
from k2run.stack.backend import State
from k2run.stack.model import RunBy
from k2run.stack.services import backend_of

if TYPE_CHECKING:
    from k2run.actions.deadline import Deadline
    from k2run.stack.model import Service
    from k2run.stack.stack import Stack

LAST_LINES = 12
COMPOSE = (("docker", "compose"), ("docker-compose",))
"""How Compose v2 is called: as a plugin of the client, or as a program of its own."""


def create_missing(stack: Stack, services: list[Service], deadline: Deadline) -> list[str]:
    """Bring the compose project up when containers do not exist yet; images are pulled and built as needed.

    Returns:
        The services whose containers were made (and started).

    Raises:
        StackUnavailable: Compose is not installed, or could not bring the project up.
    """
    if stack.compose is None:
        return []
    missing = _missing(stack, services)
    if missing:
        said = _up(stack, deadline)
        still = _missing(stack, services)
        if still:
            raise StackUnavailable(f"{stack.compose} made no container for {', '.join(still)}{said}")
        # Compose may end well although a container could not be started, because its port is taken for one.
        idle = [service.name for service in services if service.name in missing and not _runs(stack, service)]
        if idle:
            raise StackUnavailable(
                f"{stack.compose} started no {', '.join(idle)}{said}", hint="is a port taken? see also `k2run logs`"
            )
    return missing


def _runs(stack: Stack, service: Service) -> bool:
    return backend_of(stack, service).status().state in {State.RUNNING, State.UNHEALTHY}


def _missing(stack: Stack, services: list[Service]) -> list[str]:
    """The services whose containers do not exist."""
    contained = [service for service in services if service.run is RunBy.DOCKER]
    return [service.name for service in contained if backend_of(stack, service).status().state is State.ABSENT]


def _up(stack: Stack, deadline: Deadline) -> str:
    """Bring the project up; gives Compose's last words, set apart below a message."""
    command = [*_program(), "--file", str(stack.compose), "up", "--detach", "--build"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=deadline.remaining(),
            stdin=subprocess.DEVNULL,
            env=_environment(stack),
        )
    except subprocess.TimeoutExpired as error:
        raise StackUnavailable(
            f"{' '.join(command)} was not done within {deadline.seconds:g}s",
            hint="the first time images are pulled and built: do that once by hand, or give --timeout",
        ) from error
    said = "".join(f"\n  | {line}" for line in done.stderr.splitlines()[-LAST_LINES:])
    if done.returncode:
        raise StackUnavailable(f"{' '.join(command)} failed{said}", hint="look at what Compose says")
    return said


def _environment(stack: Stack) -> dict[str, str]:
    """Compose speaks to the same engine as k2run does."""
    url = (stack.settings("docker") or {}).get("url", "")
    return {**os.environ, "DOCKER_HOST": url} if url else dict(os.environ)


def _program() -> tuple[str, ...]:
    for words in COMPOSE:
        # Also beside this Python: a package of its environment puts it there, and that may not be on the path.
        found = shutil.which(words[0]) or shutil.which(words[0], path=str(Path(sys.executable).parent))
        if found is None:
            continue
        asked = subprocess.run(
            [found, *words[1:], "version"], capture_output=True, check=False, stdin=subprocess.DEVNULL
        )
        if asked.returncode == 0:
            return (found, *words[1:])
    raise StackUnavailable(
        "Docker Compose v2 is not installed", hint="install the plugin `docker compose`, or docker-compose"
    )
