"""How often a request to the object store is tried; pyiceberg is given the class by its name."""

from __future__ import annotations

from pyarrow.fs import AwsStandardS3RetryStrategy


class Twice(AwsStandardS3RetryStrategy):  # type: ignore[misc]  # pyarrow has no types
    """Two attempts: whoever asked decides whether to go on. Left to itself Arrow tries for half a minute."""

    def __init__(self) -> None:
        super().__init__(max_attempts=2)
