import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.kernel.ids import is_slug, is_uuid7, new_id, uuid7

MILLISECONDS = st.integers(0, 2**48 - 1)
ENTROPY = st.integers(0, 2**74 - 1)


def test_the_example_of_rfc_9562() -> None:
    # Appendix A.6: 2022-02-22 14:22:22 -05:00, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F.
    entropy = 0xCC3 << 62 | 0x18C4DC0C0C07398F
    assert uuid7(0x017F22E279B0, entropy) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(MILLISECONDS, ENTROPY)
def test_every_field_of_a_uuid7_is_where_rfc_9562_puts_it(now_ms: int, entropy: int) -> None:
    text = uuid7(now_ms, entropy)
    value = uuid.UUID(text).int
    assert value >> 80 == now_ms
    assert value >> 76 & 0xF == 7
    assert value >> 62 & 0b11 == 0b10
    assert (value >> 64 & 0xFFF) << 62 | value & 2**62 - 1 == entropy
    assert is_uuid7(text)


@given(MILLISECONDS, MILLISECONDS, ENTROPY, ENTROPY)
def test_ids_of_a_later_millisecond_sort_later(
    one_ms: int, other_ms: int, one: int, other: int
) -> None:
    if one_ms != other_ms:
        assert (uuid7(one_ms, one) < uuid7(other_ms, other)) == (one_ms < other_ms)


def test_new_ids_carry_the_present_time_and_differ() -> None:
    before_ms = time.time_ns() // 1_000_000
    made = [new_id() for _ in range(1000)]
    after_ms = time.time_ns() // 1_000_000
    assert len(set(made)) == len(made)
    assert all(before_ms <= uuid.UUID(each).int >> 80 <= after_ms for each in made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "017F22E2-79B0-7CC3-98C4-DC0C0C07398F",
        "017f22e279b07cc398c4dc0c0c07398f",
        "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}",
        "017f22e2-79b0-4cc3-98c4-dc0c0c07398f",
        "017f22e2-79b0-7cc3-c8c4-dc0c0c07398f",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f\n",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
    ],
)
def test_only_the_canonical_form_of_version_7_counts(text: str) -> None:
    assert not is_uuid7(text)


@pytest.mark.parametrize("text", ["a", "0", "acme-2", "a" * 63, "a-", "a--b"])
def test_slugs(text: str) -> None:
    assert is_slug(text)


@pytest.mark.parametrize(
    "text", ["", "-a", "A", "a.b", "a*", "a>", "a b", "a_b", "ä", "a\n", "a/b", "a" * 64]
)
def test_not_slugs(text: str) -> None:
    assert not is_slug(text)
