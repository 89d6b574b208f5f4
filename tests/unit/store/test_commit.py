"""Reading the server's refusals. The rest is tested on a real server."""

import pytest

from tidegate.store.commit import _sequence_in


@pytest.mark.parametrize(
    ("description", "sequence"),
    [
        ("wrong last sequence: 17 (10071)", 17),
        ("wrong last sequence: 0 (10071)", 0),
        ("wrong last sequence (10164)", 0),
        ("", 0),
    ],
)
def test_the_sequence_in_a_conflict(description: str, sequence: int) -> None:
    assert _sequence_in(description) == sequence
