"""The one error shape: every kind has a status, and nothing gets in that was not put in."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from tidegate.edge.http import problems
from tidegate.edge.http.problems import STATUSES
from tidegate.kernel import errors
from tidegate.kernel.clock import SystemClock
from tidegate.kernel.errors import CODES, Code, ErrorKind, FieldProblem, Refusal
from tidegate.observability import context
from tidegate.observability.context import RequestContext
from tidegate.observability.tracing import Trace

MEMBERS = {
    *("type", "title", "status", "detail", "code", "details", "request_id", "timestamp"),
    *("errors", "retry_after"),
}


@pytest.fixture
def request_context() -> Iterator[RequestContext]:
    made = RequestContext("req-1", "c", Trace("1" * 32, "2" * 16, sampled=True, state=None), "", "")
    token = context.current.set(made)
    yield made
    context.current.reset(token)


def test_every_kind_has_a_status_of_its_own() -> None:
    assert set(STATUSES) == set(ErrorKind)
    assert len(set(STATUSES.values())) == len(STATUSES)
    assert all(400 <= status < 600 for status in STATUSES.values())


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.word)
def test_every_code_makes_a_whole_document(code: Code) -> None:
    refusal = Refusal(code, "why")
    document = orjson.loads(problems.body(refusal, SystemClock()))
    assert set(document) == MEMBERS
    assert document["status"] == problems.status(refusal) == STATUSES[code.kind]
    assert document["code"] == code.word
    assert document["type"] == f"/errors/{code.word}"
    assert document["title"] == code.title
    assert code.word.isupper()


def test_every_kind_is_used_by_some_code_or_stands_ready() -> None:
    ready = {ErrorKind.LIMITED, ErrorKind.LOST_UPDATE}
    assert set(ErrorKind) - {code.kind for code in CODES.values()} <= ready


def test_a_document_says_what_the_refusal_says(request_context: RequestContext) -> None:
    refusal = Refusal(
        errors.INVALID,
        "Two fields are wrong.",
        errors=(FieldProblem("/a", "is wrong"), FieldProblem("/b", "too")),
        details={"n": 1},
        retry_after_s=3,
    )
    document = orjson.loads(problems.body(refusal, SystemClock()))
    assert document["errors"] == [
        {"field": "/a", "problem": "is wrong"},
        {"field": "/b", "problem": "too"},
    ]
    assert document["details"] == {"n": 1}
    assert document["retry_after"] == 3
    assert document["request_id"] == "req-1"
    assert request_context.error_code == "INVALID"


def test_whoever_may_try_again_is_told_when() -> None:
    found = dict(problems.headers(Refusal(errors.UNAVAILABLE, "", retry_after_s=2)))
    assert found["retry-after"] == "2"
    assert "retry-after" not in dict(problems.headers(Refusal(errors.UNAVAILABLE, "")))


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.word)
def test_who_is_not_authenticated_is_told_how_to_be(code: Code) -> None:
    found = dict(problems.headers(Refusal(code, "")))
    assert ("www-authenticate" in found) is (code.kind is ErrorKind.UNAUTHENTICATED)
    assert found["content-type"] == "application/problem+json"
    assert found["cache-control"] == "no-store"


def test_an_invalid_token_is_called_so() -> None:
    found = dict(problems.headers(Refusal(errors.TOKEN_INVALID, "")))
    assert found["www-authenticate"] == 'Bearer realm="tidegate", error="invalid_token"'
    missing = dict(problems.headers(Refusal(errors.TOKEN_MISSING, "")))
    assert missing["www-authenticate"] == 'Bearer realm="tidegate"'
