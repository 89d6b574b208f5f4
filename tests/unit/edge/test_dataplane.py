"""The data plane's paths and headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.authz.engine import COMMAND_SUBMIT, QUERY_READ
from tidegate.edge.http.dataplane import COMMAND_ROUTE, QUERY_ROUTE, client_timeout_s, match
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.routing.model import ServiceKind


def test_a_command_path_names_aggregate_and_id() -> None:
    found = match(b"/v1/commands/order/o-1")
    assert found is not None
    assert (found.route, found.action) == (COMMAND_ROUTE, COMMAND_SUBMIT)
    assert found.kind is ServiceKind.AGGREGATE
    assert (found.attribute, found.name, found.aggregate_id) == ("aggregate_type", "order", "o-1")


def test_a_query_path_names_a_view() -> None:
    found = match(b"/v1/query/open-orders.v2")
    assert found is not None
    assert (found.route, found.action) == (QUERY_ROUTE, QUERY_READ)
    assert found.kind is ServiceKind.PROJECTION
    assert (found.attribute, found.name) == ("view_type", "open-orders.v2")


@pytest.mark.parametrize(
    ("path", "aggregate_id"),
    [
        (b"/v1/commands/order/a%20b", "a b"),
        (b"/v1/commands/order/a%2Fb", "a/b"),
        (b"/v1/commands/order/%2e%2e", ".."),
        (b"/v1/commands/order/%C3%A9", "é"),
        (b"/v1/commands/order/%ff", "\ufffd"),
        (b"/v1/commands/order/%zz", "%zz"),
        (b"/v1/commands/order/a+b", "a+b"),
    ],
)
def test_an_id_is_decoded_once_and_an_escaped_slash_separates_nothing(
    path: bytes, aggregate_id: str
) -> None:
    found = match(path)
    assert found is not None
    assert found.aggregate_id == aggregate_id


@pytest.mark.parametrize(
    "path",
    [
        *(b"/v1/commands/", b"/v1/commands/order", b"/v1/commands/order/", b"/v1/commands//o-1"),
        *(b"/v1/commands/order/o-1/", b"/v1/commands/order/o-1/x", b"//v1/commands/order/o-1"),
        *(b"/v1/commands/../o-1", b"/v1/commands/.hidden/o-1", b"/v1/commands/or der/o-1"),
        *(b"/v1/commands/or%64er/o-1", b"/v1/commands/\xe9/o-1", b"/v1/%63ommands/order/o-1"),
        *(b"/V1/commands/order/o-1", b"/v1/command/order/o-1", b"v1/commands/order/o-1"),
        *(b"/v1/query/", b"/v1/query/..", b"/v1/query/a/b", b"/v1/query/a%2Fb", b"/v1/query/a/"),
        *(b"/v1/query/" + b"a" * 129, b"/v1/query/a?x", b"/v1/query/-a", b"", b"/"),
    ],
)
def test_any_other_path_leads_nowhere(path: bytes) -> None:
    assert match(path) is None


@given(path=st.binary(max_size=80))
def test_no_path_breaks_the_match(path: bytes) -> None:
    for prefix in (b"", b"/v1/commands/", b"/v1/query/"):
        found = match(prefix + path)
        assert found is None or found.name.isascii()


def test_without_the_header_the_client_sets_no_limit() -> None:
    assert client_timeout_s([]) is None


@pytest.mark.parametrize(
    ("value", "seconds"), [("1", 0.001), ("2500", 2.5), ("600000", 600.0), ("000100", 0.1)]
)
def test_the_clients_patience_is_milliseconds(value: str, seconds: float) -> None:
    assert client_timeout_s([value]) == seconds


@pytest.mark.parametrize(
    "values",
    [
        *([""], ["0"], ["-1"], ["+1"], ["1.5"], ["1e3"], ["600001"], ["1000000"], ["9" * 5000]),
        *(["abc"], [" 100"], ["100 "], ["1_000"], ["\u0661\u0662"], ["\xb2"], ["1", "1"]),
    ],
    ids=lambda values: ascii(values)[:30],
)
def test_any_other_patience_is_malformed(values: list[str]) -> None:
    refusal = client_timeout_s(values)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.MALFORMED
