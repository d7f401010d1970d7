"""What the kafka actions measure: the fields that `expect` may name."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from k2run.actions.action import Result


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


class Broker(Struct, frozen=True, kw_only=True):
    """One broker of a cluster."""

    id: int
    address: str


class Cluster(Result, frozen=True, kw_only=True):
    """A cluster that answered.

    Attributes:
        cluster_id: Its own id; another id at the same address is another cluster.
        brokers: Those that are up.
        controller: Id of the controlling broker, or None.
        elapsed_ms: From the question to the answer, with connecting.
    """

    cluster_id: str
    brokers: list[Broker]
    controller: int | None
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `1 broker in 4.2 ms`."""
        return f"{_counted(len(self.brokers), 'broker')} in {self.elapsed_ms:.1f} ms"


class Seen(Result, frozen=True, kw_only=True):
    """Whether a cluster answered.

    Attributes:
        answered: It did, within the time of the step.
        brokers: How many of it are up.
        detail: Why there was no answer.
        elapsed_ms: From the question to the answer, or to giving up.
    """

    answered: bool
    brokers: int = 0
    detail: str = ""
    elapsed_ms: float = 0.0

    def headline(self) -> str:
        """Such as `answers, 1 broker` or `no answer: …`."""
        return f"answers, {_counted(self.brokers, 'broker')}" if self.answered else f"no answer: {self.detail}"


class Topics(Result, frozen=True, kw_only=True):
    """The topics of a cluster.

    Attributes:
        topics: Number of partitions by name.
    """

    topics: dict[str, int]
    count: int

    def headline(self) -> str:
        """Such as `3 topics`."""
        return _counted(self.count, "topic")


class Topic(Result, frozen=True, kw_only=True):
    """One topic.

    Attributes:
        partitions: How many.
        replicas: Copies of the partition that has the fewest.
        under_replicated: Partitions with fewer copies in sync than they should have.
        leaderless: Partitions without a leader: they can neither be read nor written.
        settings: The topic's configuration.
    """

    topic: str
    topic_id: str
    partitions: int
    replicas: int
    under_replicated: int
    leaderless: int
    settings: dict[str, str]

    def headline(self) -> str:
        """Such as `40 partitions, 0 under-replicated`."""
        return f"{_counted(self.partitions, 'partition')}, {self.under_replicated} under-replicated"


class TopicMade(Result, frozen=True, kw_only=True):
    """A topic that is there now; `created` (and `changed`, as everywhere) tells whether it was made just now."""

    topic: str
    partitions: int
    created: bool
    changed: bool


class TopicGone(Result, frozen=True, kw_only=True):
    """A topic that is not there any more; `deleted` tells whether it was until now."""

    topic: str
    deleted: bool


class Watermarks(Result, frozen=True, kw_only=True):
    """How much a topic holds, by its offsets.

    Attributes:
        total: Offsets from the first readable one to the end: at most so many messages can be read. Markers of
            transactions take offsets too, as do messages that were aborted or compacted away.
        written: Offsets ever given: at most so many messages were written.
        low: First readable offset by partition; only partitions that ever held a message.
        high: Offset after the last message, likewise.
        partitions: How many partitions the topic has.
    """

    topic: str
    total: int
    written: int
    low: dict[int, int]
    high: dict[int, int]
    partitions: int

    def headline(self) -> str:
        """Such as `12,570 offsets in 3 of 40 partitions`."""
        return f"{self.total:,} offsets in {len(self.high)} of {self.partitions} partitions"


class Flow(Result, frozen=True, kw_only=True):
    """How fast a topic grows.

    Attributes:
        per_s: Messages a second.
        messages: Messages written during the window.
        window_s: Seconds between the two looks.
        busy_partitions: Partitions that grew.
    """

    topic: str
    per_s: float
    messages: int
    window_s: float
    busy_partitions: int

    def headline(self) -> str:
        """Such as `138.2 messages/s`."""
        return f"{self.per_s:,.1f} messages/s"


class Lag(Result, frozen=True, kw_only=True):
    """How far a consumer group is behind.

    Attributes:
        total: Messages still to be read.
        worst: The lag of the partition that has the most.
        by_partition: Lag of every partition that has any.
        partitions: How many partitions the topic has.
        committed_partitions: For how many the group has committed an offset.
    """

    topic: str
    group: str
    total: int
    worst: int
    by_partition: dict[int, int]
    partitions: int
    committed_partitions: int

    def headline(self) -> str:
        """Such as `612,044 messages behind`."""
        return f"{self.total:,} messages behind"


class Groups(Result, frozen=True, kw_only=True):
    """The consumer groups of a cluster."""

    groups: list[str]
    count: int

    def headline(self) -> str:
        """Such as `2 groups`."""
        return _counted(self.count, "group")


class Member(Struct, frozen=True, kw_only=True):
    """One member of a consumer group; `partitions` counts what it is assigned."""

    client_id: str
    host: str
    partitions: int


class Group(Result, frozen=True, kw_only=True):
    """One consumer group.

    Attributes:
        state: As Kafka names it, in small letters: stable, empty, preparing_rebalance, ….
        members: Empty also where the broker does not tell them (Tansu).
    """

    group: str
    state: str
    members: list[Member]
    assignor: str

    def headline(self) -> str:
        """Such as `stable, 2 members`."""
        return f"{self.state}, {_counted(len(self.members), 'member')}"


class Configs(Result, frozen=True, kw_only=True):
    """The settings of a broker.

    Attributes:
        settings: Value by name, as text.
        changed: Names of settings that differ from Kafka's defaults.
    """

    broker: int
    settings: dict[str, str]
    changed: list[str]

    def headline(self) -> str:
        """Such as `broker 1: 212 settings, 9 changed`."""
        return f"broker {self.broker}: {len(self.settings)} settings, {len(self.changed)} changed"


class Produced(Result, frozen=True, kw_only=True):
    """What was written.

    Attributes:
        count: Messages asked for.
        acked: Messages the cluster acknowledged.
        failed: Messages it did not.
        seconds: From the first message to the last acknowledgement.
        per_s: Acknowledged messages a second.
        bytes: Size of all values together, uncompressed.
        id_prefix: With a template: the ids of these messages, and of no others, start so.
        first_offsets: By partition.
        last_offsets: By partition.
    """

    topic: str
    count: int
    acked: int
    failed: int
    seconds: float
    per_s: float
    bytes: int
    id_prefix: str
    first_offsets: dict[int, int]
    last_offsets: dict[int, int]

    def headline(self) -> str:
        """Such as `600,000 of 600,000 acknowledged, 190,000/s`."""
        return f"{self.acked:,} of {self.count:,} acknowledged, {self.per_s:,.0f}/s"


class Message(Struct, frozen=True, kw_only=True):
    """One message.

    Attributes:
        time: When it was written, ISO 8601 in UTC; empty when the broker does not know.
        key: As text.
        value: The JSON document or decoded record, or text, or hexadecimal digits of what is neither.
        schema_id: Of a value in the schema registry's framing (Avro, Protobuf); otherwise None.
    """

    partition: int
    offset: int
    time: str
    key: str | None
    value: Any
    schema_id: int | None


class Sample(Result, frozen=True, kw_only=True):
    """Some messages of a topic, newest first.

    Attributes:
        newest_age_s: Seconds since the newest one was written, or None when the broker does not know.
    """

    topic: str
    messages: list[Message]
    count: int
    newest_age_s: float | None

    def headline(self) -> str:
        """Such as `5 messages, newest 0.8 s old`."""
        age = f", newest {self.newest_age_s:.1f} s old" if self.newest_age_s is not None else ""
        return f"{_counted(self.count, 'message')}{age}"


class RoundTrip(Result, frozen=True, kw_only=True):
    """A message that went in and came back.

    Attributes:
        write_ms: Until the cluster acknowledged it.
        read_ms: From there until it was read back.
        total_ms: Both.
    """

    topic: str
    write_ms: float
    read_ms: float
    total_ms: float

    def headline(self) -> str:
        """Such as `there and back in 8.1 ms`."""
        return f"there and back in {self.total_ms:.1f} ms"


class Reset(Result, frozen=True, kw_only=True):
    """A group that was set to other offsets.

    Attributes:
        offsets: The new offset by partition.
        lag_before: Messages it had to read before; None when it had committed nothing.
        lag_after: Messages it has to read now.
    """

    topic: str
    group: str
    offsets: dict[int, int]
    lag_before: int | None
    lag_after: int

    def headline(self) -> str:
        """Such as `lag 1,000 → 0`."""
        before = "unknown" if self.lag_before is None else f"{self.lag_before:,}"
        return f"lag {before} → {self.lag_after:,}"
