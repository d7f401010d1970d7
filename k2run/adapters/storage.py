"""What the stack keeps on this machine's disk: hide it, damage it, lock it; and give it back as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

from k2run.actions.action import Blast, Effect, Result, Striking, Undo, action, fault
from k2run.actions.deadline import Deadline
from k2run.adapters._burdens import LONGEST, Burdened, begin, name_of, relief
from k2run.errors import Refused, Unknown
from k2run.language.quantities import Duration
from k2run.stack.services import Services

KEPT = ".k2run-kept"
"""Added to the name of what is put aside."""
DISPLACED = ".k2run-displaced"
"""Added to the name of what took its place meanwhile."""


class Kept(Result, frozen=True, kw_only=True):
    """Something is not where, or what, it was; it is kept beside its place.

    Attributes:
        path: Where it was.
        kept: Where it is meanwhile.
    """

    path: str
    kept: str


class Returned(Result, frozen=True, kw_only=True):
    """Something is as it was.

    Attributes:
        changed: It was not before.
        displaced: Where that is which took its place meanwhile; empty when nothing did.
    """

    path: str
    changed: bool
    displaced: str = ""


@fault("storage.hide", blast=Blast.DATA)
def hide(services: Services, path: str) -> Striking[Kept]:
    """Take a file or folder away, as if its disk (or object store) were gone. Undone by putting it back.

    Blast radius: every service that reads or writes it.

    Args:
        path: The file or folder; below the stack's state folder when it is relative.

    Raises:
        Unknown: There is nothing.
        Refused: It is hidden already.
    """
    place, kept = _places(services, path)
    yield _put_back(path)
    place.rename(kept)
    return Kept(path=str(place), kept=str(kept), source=str(place.parent))


@fault("storage.damage", blast=Blast.DATA)
def damage(services: Services, path: str, content: str = "damaged by k2run\n") -> Striking[Kept]:
    """Replace what is in a file, such as a configuration, by something else. Undone by putting the original back.

    Blast radius: every service that reads the file.

    Args:
        path: The file; below the stack's state folder when it is relative.
        content: What is to be in it.

    Raises:
        Unknown: There is nothing.
        Refused: It is no file, or damaged already.
    """
    place, kept = _places(services, path)
    if not place.is_file():
        raise Refused(f"{place} is no file", hint="storage.hide takes folders")
    yield _put_back(path)
    place.rename(kept)
    place.write_text(content)
    shutil.copymode(kept, place)
    return Kept(path=str(place), kept=str(kept), source=str(place.parent))


@action("storage.put_back", effect=Effect.CHANGES)
def put_back(services: Services, path: str) -> Returned:
    """Put back what was hidden or damaged; nothing happens when nothing was. What took its place is kept beside it.

    Args:
        path: The file or folder; below the stack's state folder when it is relative.
    """
    place = _place(services, path)
    kept, displaced = _beside(place, KEPT), _beside(place, DISPLACED)
    if not kept.exists():
        return Returned(path=str(place), changed=False, source=str(place.parent))
    in_the_way = place.exists()
    if in_the_way:
        if displaced.is_dir():
            shutil.rmtree(displaced)
        place.rename(displaced)
    kept.rename(place)
    if in_the_way and displaced.is_file():
        displaced.unlink()  # the damage itself
        in_the_way = False
    return Returned(
        path=str(place), changed=True, displaced=str(displaced) if in_the_way else "", source=str(place.parent)
    )


@fault("storage.lock", blast=Blast.DATA)
def lock(services: Services, deadline: Deadline, path: str, at_most: Duration = LONGEST) -> Striking[Burdened]:
    """Hold the write lock of an SQLite database, such as that of a table catalog. Undone by letting it go.

    Blast radius: every service that writes to the database waits, and gives up in the end.

    Args:
        path: The database; below the stack's state folder when it is relative.
        at_most: When the lock is let go by itself.

    Raises:
        Unknown: There is nothing.
        Refused: Somebody else holds the lock, or it is no such database.
    """
    place = _place(services, path)
    if not place.is_file():
        raise Unknown(f"there is no database at {place}")
    burden = name_of("lock")
    yield relief(burden, f"unlock {place.name}")
    return begin(services, deadline, burden, [str(place)], at_most)


def _put_back(path: str) -> Undo:
    return Undo(action="storage.put_back", args={"path": path}, says=f"put back {Path(path).name}")


def _places(services: Services, path: str) -> tuple[Path, Path]:
    """Where it is, and where it is to be kept.

    Raises:
        Unknown: There is nothing.
        Refused: Something is kept there already.
    """
    place = _place(services, path)
    kept = _beside(place, KEPT)
    if kept.exists():
        raise Refused(f"{place} is put aside already", hint=f"storage.put_back: {{path: {path}}}")
    if not place.exists():
        raise Unknown(f"there is nothing at {place}")
    return place, kept


def _place(services: Services, path: str) -> Path:
    state = Path(services.stack.state)
    place = state / Path(path).expanduser()
    if place == state or place in state.parents:
        raise Refused(f"{place} holds k2run's own state", hint="name a file or folder of one service")
    return place


def _beside(place: Path, ending: str) -> Path:
    return place.with_name(place.name + ending)
