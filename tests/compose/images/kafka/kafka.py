#!/usr/bin/env python3
"""Starts Apache Kafka with the settings that the environment has: KAFKA_NODE_ID=1 becomes node.id=1."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

JAVA = ["java", "-Xmx512m", "-cp", "/opt/kafka/libs/*"]
FILE = Path("/tmp/server.properties")


def main() -> None:
    """Format the data folder where it is new, then become the broker."""
    settings = {"log.dirs": "/var/lib/kafka/data", "offsets.topic.num.partitions": "3"}
    settings |= {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in os.environ.items()
        if name.startswith("KAFKA_")
    }
    FILE.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    formatting = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", os.environ["CLUSTER_ID"]]
    subprocess.run([*JAVA, *formatting, "-c", str(FILE)], check=True)
    os.execvp(JAVA[0], [*JAVA, "kafka.Kafka", str(FILE)])


main()
