"""A notification daemon (freedesktop.org) that keeps what it is to show: `notification_daemon.py FILE`."""
# No postponed annotations here: dbus-fast reads D-Bus signatures from them.

import asyncio
import json
import sys
from pathlib import Path

from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, dbus_method

NAME, PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"


class Notifications(ServiceInterface):
    def __init__(self, kept: Path) -> None:
        super().__init__(NAME)
        self._kept = kept

    @dbus_method()
    def Notify(  # noqa: N802, PLR0913, PLR0917 - the form of the interface
        self,
        app: "s",  # noqa: F821
        replaces: "u",  # noqa: ARG002, F821
        icon: "s",  # noqa: ARG002, F821
        title: "s",  # noqa: F821
        text: "s",  # noqa: F821
        actions: "as",  # noqa: ARG002, F722
        hints: "a{sv}",  # noqa: F722
        timeout: "i",  # noqa: ARG002, F821
    ) -> "u":  # noqa: F821
        shown = {"app": app, "title": title, "text": text, "urgency": hints["urgency"].value}
        with self._kept.open("a") as file:
            file.write(json.dumps(shown) + "\n")
        return 1

    @dbus_method()
    def GetCapabilities(self) -> "as":  # noqa: N802, F722
        return ["body", "body-markup"]

    @dbus_method()
    def GetServerInformation(self) -> "ssss":  # noqa: N802, F821
        return ["kept", "k2run", "1", "1.2"]


async def main(kept: Path) -> None:
    bus = await MessageBus().connect()
    bus.export(PATH, Notifications(kept))
    await bus.request_name(NAME)
    print("ready", flush=True)
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
