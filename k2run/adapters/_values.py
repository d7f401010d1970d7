"""Values of a query as JSON has them."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from typing import Any


def plain(value: Any) -> Any:
    """A value as JSON has it: decimals become numbers, times ISO 8601; what is no number becomes None."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    match value:
        case float():
            plainly: Any = value if math.isfinite(value) else None
        case decimal.Decimal():
            # Sums of whole numbers come as decimals without places.
            plainly = int(value) if value.as_tuple().exponent == 0 else float(value)
        case dt.datetime() | dt.date() | dt.time():
            plainly = value.isoformat()
        case dt.timedelta():
            plainly = value.total_seconds()
        case bytes():
            plainly = value.hex()
        case None | bool() | int():
            plainly = value
        case _:
            plainly = str(value)
    return plainly
