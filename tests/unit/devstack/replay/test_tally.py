import pytest

from tidegate.devstack.replay.tally import Outcome, Result, Tally


def tally_of(*results: Result) -> Tally:
    tally = Tally()
    for result in results:
        tally.add(result)
    return tally


def test_it_counts_outcomes_and_rows_sent_more_than_once() -> None:
    tally = tally_of(
        Result(Outcome.ACCEPTED, 0.1, 1),
        Result(Outcome.ACCEPTED, 0.1, 3),
        Result(Outcome.DUPLICATE, 0.1, 2),
    )
    assert (tally.rows, tally.repeated) == (3, 2)
    assert tally.counts == {Outcome.ACCEPTED: 2, Outcome.DUPLICATE: 1}
    assert tally.clean


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.FAILED])
def test_one_refused_or_failed_row_is_enough_to_not_be_clean(outcome: Outcome) -> None:
    tally = tally_of(Result(Outcome.ACCEPTED, 0.1, 1), Result(outcome, 0.1, 1, "403 FORBIDDEN"))
    assert not tally.clean
    assert tally.reasons == {f"{outcome.value}: 403 FORBIDDEN": 1}


def test_percentiles_are_by_nearest_rank() -> None:
    tally = tally_of(*(Result(Outcome.ACCEPTED, float(each), 1) for each in range(100, 0, -1)))
    assert [tally.latency_s(share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]


def test_the_percentiles_of_one_row_are_its_latency() -> None:
    tally = tally_of(Result(Outcome.ACCEPTED, 0.25, 1))
    assert [tally.latency_s(share) for share in (0.5, 0.99)] == [0.25, 0.25]
