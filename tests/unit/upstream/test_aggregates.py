from __future__ import annotations

import grpc
import pytest

from tidegate.kernel import errors
from tidegate.kernel.errors import Code, Refusal
from tidegate.upstream.aggregates import outcome_of
from tidegate.upstream.retry import Failed

DOMAIN_ANSWERS = {
    grpc.StatusCode.ABORTED: errors.VERSION_CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: errors.COMMAND_REJECTED,
    grpc.StatusCode.INVALID_ARGUMENT: errors.COMMAND_INVALID,
}
OTHERS = set(grpc.StatusCode) - {
    *DOMAIN_ANSWERS,
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
SECRET = "cannot connect to 10.0.0.7:50051"


@pytest.mark.parametrize(("status", "code"), DOMAIN_ANSWERS.items())
def test_a_domain_answer_is_told_in_the_nodes_own_words(status: grpc.StatusCode, code: Code):
    assert outcome_of(status, "order is closed", "n:1") == Refusal(code, "order is closed")


@pytest.mark.parametrize("status", DOMAIN_ANSWERS)
def test_a_domain_answer_is_never_long_and_never_empty(status: grpc.StatusCode):
    long, silent = outcome_of(status, "x" * 10_000, "n:1"), outcome_of(status, "", "n:1")
    assert isinstance(long, Refusal)
    assert isinstance(silent, Refusal)
    assert len(long.detail) == 512
    assert silent.detail


def test_unavailable_is_tried_again():
    failed = outcome_of(grpc.StatusCode.UNAVAILABLE, SECRET, "n:1")
    assert failed == Failed(sent=True, why=SECRET)


@pytest.mark.parametrize(
    ("status", "code"),
    [(grpc.StatusCode.DEADLINE_EXCEEDED, errors.DEADLINE)]
    + [(status, errors.UPSTREAM_FAILED) for status in sorted(OTHERS, key=lambda each: each.name)],
)
def test_any_other_status_says_nothing_of_what_is_behind(status: grpc.StatusCode, code: Code):
    refusal = outcome_of(status, SECRET, "10.0.0.7:50051")
    assert isinstance(refusal, Refusal)
    assert refusal.code is code
    assert "10.0.0.7" not in repr(refusal)
