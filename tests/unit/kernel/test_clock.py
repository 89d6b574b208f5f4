import time

import pytest

from tidegate.kernel.clock import SystemClock, rfc3339


@pytest.mark.parametrize(
    ("at_s", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.25, "2023-11-14T22:13:20.250Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
        (-0.5, "1969-12-31T23:59:59.500Z"),
        (253_402_300_799, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_rfc3339_is_utc_with_milliseconds(at_s: float, text: str) -> None:
    assert rfc3339(at_s) == text


def test_the_system_clock_reads_the_machine() -> None:
    clock = SystemClock()
    before = time.time(), time.monotonic(), time.monotonic()
    read = clock.now_s(), clock.monotonic_s(), clock.boottime_s()
    assert before[0] <= read[0] <= time.time()
    assert before[1] <= read[1] <= time.monotonic()
    # Counts the time asleep too, so it is never behind.
    assert before[2] <= read[2]
