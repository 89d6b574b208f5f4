from collections import Counter
from typing import Any

from tidegate.devstack.replay.agreement import counts_of, difference, first_difference

EXPECTED = {"case-1": Counter(stamp=2, sign=1), "case-2": Counter(stamp=1)}


def answer(**counts: dict[str, int]) -> dict[str, Any]:
    items = [
        {"aggregate_id": aggregate_id.replace("_", "-"), "event_type": name, "count": count}
        for aggregate_id, types in counts.items()
        for name, count in types.items()
    ]
    return {"position": 9, "total": sum(item["count"] for item in items), "items": items}


def test_equal_counts_agree() -> None:
    seen = counts_of(answer(case_1={"stamp": 2, "sign": 1}, case_2={"stamp": 1}))
    assert seen == EXPECTED
    assert first_difference(EXPECTED, seen) is None


def test_other_aggregates_are_not_the_files_business() -> None:
    seen = {**EXPECTED, "case-3": Counter(stamp=9)}
    assert first_difference(EXPECTED, seen) is None


def test_what_is_missing_differs() -> None:
    seen = counts_of(answer(case_1={"stamp": 2, "sign": 1}))
    assert first_difference(EXPECTED, seen) == (
        "case-2 has 0 stamp in the projection and 1 in the file"
    )


def test_what_is_counted_twice_differs() -> None:
    seen = counts_of(answer(case_1={"stamp": 3, "sign": 1}, case_2={"stamp": 1}))
    assert first_difference(EXPECTED, seen) == (
        "case-1 has 3 stamp in the projection and 2 in the file"
    )


def test_what_the_file_does_not_know_of_its_aggregates_differs() -> None:
    seen = counts_of(answer(case_1={"stamp": 2, "sign": 1, "burn": 1}, case_2={"stamp": 1}))
    assert first_difference(EXPECTED, seen) == (
        "case-1 has 1 burn in the projection and 0 in the file"
    )


async def test_it_asks_until_the_read_side_has_followed() -> None:
    answers = [
        None,
        answer(case_1={"stamp": 1}),
        answer(case_1={"stamp": 2, "sign": 1}, case_2={"stamp": 1}),
    ]

    async def ask() -> dict[str, Any] | None:
        return answers.pop(0)

    assert await difference(EXPECTED, ask) is None
    assert not answers


async def test_after_the_deadline_the_last_difference_is_told() -> None:
    async def ask() -> dict[str, Any] | None:
        return answer(case_1={"stamp": 2, "sign": 1})

    told = await difference(EXPECTED, ask, deadline_s=0)
    assert told == "case-2 has 0 stamp in the projection and 1 in the file"


async def test_a_projection_that_never_answers_does_not_agree() -> None:
    async def ask() -> dict[str, Any] | None:
        return None

    assert await difference({}, ask, deadline_s=0) == "it gave no answer"
