from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.routing.model import Endpoint, Transport
from tidegate.upstream.retry import Attempts, Budget, Failed

A, B = Endpoint("a:1", Transport.GRPC), Endpoint("b:1", Transport.GRPC)
SENT, NOT_SENT = Failed(sent=True), Failed(sent=False)
BUDGET = Budget(attempts=3, reconnect_wait_s=3.0, ends_s=10.0)


def attempts(*endpoints: Endpoint, budget: Budget = BUDGET) -> Attempts:
    return Attempts(endpoints, budget, random.Random(7))


@pytest.mark.parametrize("failed", [SENT, NOT_SENT])
def test_the_next_endpoint_is_tried_at_once(failed: Failed):
    turns = attempts(A, B)
    assert turns.endpoint is A
    assert turns.after(failed, now_s=0) == 0
    assert turns.endpoint is B


@pytest.mark.parametrize("failed", [SENT, NOT_SENT])
def test_coming_back_to_an_endpoint_takes_a_pause(failed: Failed):
    turns = attempts(A, B)
    turns.after(failed, now_s=0)
    pause_s = turns.after(failed, now_s=0)
    assert pause_s is not None
    assert pause_s > 0
    assert turns.endpoint is A


def test_what_is_sent_is_counted():
    turns = attempts(A)
    assert turns.after(SENT, now_s=0) is not None
    assert turns.after(SENT, now_s=0) is not None
    assert turns.after(SENT, now_s=0) is None


def test_a_single_attempt_is_not_repeated():
    turns = attempts(A, B, budget=Budget(attempts=1, reconnect_wait_s=3, ends_s=10))
    assert turns.after(SENT, now_s=0) is None


def test_looking_for_a_connection_is_timed_not_counted():
    turns = attempts(A, B)
    for step in range(29):
        assert turns.after(NOT_SENT, now_s=step / 10) is not None
    assert turns.after(NOT_SENT, now_s=3.0) is None


def test_a_restart_leaves_attempts_for_when_the_node_is_back():
    turns = attempts(A)
    turns.after(SENT, now_s=0)
    for step in range(20):
        assert turns.after(NOT_SENT, now_s=step / 10) is not None
    assert turns.after(SENT, now_s=2.0) is not None
    assert turns.after(SENT, now_s=2.1) is None


def test_nothing_is_awaited_past_the_deadline():
    turns = attempts(A, budget=Budget(attempts=10, reconnect_wait_s=3, ends_s=1.0))
    assert turns.after(SENT, now_s=0.9999) is None


@settings(deadline=None)
@given(st.integers(), st.lists(st.booleans(), min_size=1, max_size=40))
def test_pauses_grow_with_jitter_and_stay_short(seed: int, sent: list[bool]):
    budget = Budget(attempts=100, reconnect_wait_s=100, ends_s=1000)
    turns = Attempts((A,), budget, random.Random(seed))
    expected_s = 0.05
    for each in sent:
        pause_s = turns.after(Failed(each), now_s=0)
        assert pause_s is not None
        assert expected_s / 2 <= pause_s <= expected_s
        expected_s = min(expected_s * 2, 0.4)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers())
def test_every_call_ends(endpoints: int, seed: int):
    turns = attempts(*[Endpoint(f"n:{port}", Transport.GRPC) for port in range(endpoints)])
    chance = random.Random(seed)
    now_s, sent_times = 0.0, 0
    for _ in range(200):
        now_s += chance.uniform(0, 0.5)
        sent = chance.random() < 0.1
        sent_times += sent
        pause_s = turns.after(Failed(sent), now_s)
        if pause_s is None:
            break
        now_s += pause_s
        assert now_s < BUDGET.ends_s
    else:
        pytest.fail("it never gave up")
    assert sent_times <= BUDGET.attempts
