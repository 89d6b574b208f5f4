"""Log lines: one JSON object each, with the request's ids, and never a secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from tidegate.kernel.secret import Secret
from tidegate.observability import context, logs
from tidegate.observability.context import RequestContext
from tidegate.observability.logs import JsonFormatter, TextFormatter
from tidegate.observability.settings import Settings
from tidegate.observability.tracing import Trace

SECRET = Secret("hunter2-hunter2")
LOG = logging.getLogger("tidegate.test")


class Lines(logging.Handler):
    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(params=["json", "text"])
def lines(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    handler = Lines(JsonFormatter("replica-1") if request.param == "json" else TextFormatter())
    LOG.addHandler(handler)
    LOG.setLevel(logging.DEBUG)
    yield handler.lines
    LOG.removeHandler(handler)


@pytest.fixture
def written() -> Iterator[list[str]]:
    handler = Lines(JsonFormatter("replica-1"))
    LOG.addHandler(handler)
    yield handler.lines
    LOG.removeHandler(handler)


@pytest.fixture
def request_context() -> Iterator[RequestContext]:
    trace = Trace("1" * 32, "2" * 16, sampled=True, state=None)
    made = RequestContext("req-1", "corr-1", trace, "192.0.2.1", "agent")
    token = context.current.set(made)
    yield made
    context.current.reset(token)


def fail_with(what: object) -> None:
    raise ValueError(f"could not use {what}")


def test_a_secret_never_gets_into_a_line(lines: list[str]) -> None:
    logs.event(LOG, logging.INFO, f"signing in with {SECRET}", password=SECRET, deep=[SECRET])
    LOG.info("a secret: %s, %r, %s", SECRET, SECRET, {"password": SECRET})
    try:
        fail_with(SECRET)
    except ValueError:
        LOG.exception("it failed")
    assert len(lines) == 3
    for line in lines:
        assert "hunter2" not in line
        assert SECRET.reveal().hex() not in line


def test_what_cannot_be_written_as_json_is_written_as_text(written: list[str]) -> None:
    logs.event(LOG, logging.INFO, "odd", odd=object(), raw=b"\xff", many={1, 2})
    assert "object object" in json.loads(written[0])["odd"]


def test_every_line_says_when_where_and_how_bad(written: list[str]) -> None:
    logs.event(LOG, logging.WARNING, "careful", upstream="s1")
    line = json.loads(written[0])
    assert line["level"] == "warning"
    assert line["message"] == "careful"
    assert line["replica"] == "replica-1"
    assert line["upstream"] == "s1"
    assert line["timestamp"].endswith("Z")
    assert "request_id" not in line


def test_a_line_of_a_request_carries_its_ids(
    written: list[str], request_context: RequestContext
) -> None:
    request_context.principal_id, request_context.tenant_id = "ada", "acme"
    LOG.warning("deep inside")
    line = json.loads(written[0])
    assert line["request_id"] == "req-1"
    assert line["correlation_id"] == "corr-1"
    assert line["trace_id"] == "1" * 32
    assert line["span_id"] == "2" * 16
    assert (line["principal_id"], line["tenant_id"]) == ("ada", "acme")


def test_no_value_can_fill_the_disk(written: list[str]) -> None:
    logs.event(LOG, logging.WARNING, "m" * 100_000, user_agent="u" * 100_000)
    try:
        fail_with("e" * 100_000)
    except ValueError:
        LOG.exception("failed")
    assert all(len(line) < 10_000 for line in written)


def test_an_exception_is_told_with_its_traceback(lines: list[str]) -> None:
    try:
        fail_with(SECRET)
    except ValueError:
        LOG.exception("it failed")
    assert "ValueError: could not use" in lines[0]
    assert "in fail_with" in lines[0]


def test_a_line_is_one_line_whatever_is_in_it(written: list[str]) -> None:
    logs.event(LOG, logging.WARNING, 'a\nb\r\nc "quoted"', field="x\ny\u2028")
    assert "\n" not in written[0]
    assert json.loads(written[0])["message"] == 'a\nb\r\nc "quoted"'


@pytest.fixture
def restored() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(("form", "formatter"), [("json", JsonFormatter), ("text", TextFormatter)])
def test_logs_are_written_in_the_chosen_form_from_the_chosen_level_on(
    form: str, formatter: type[logging.Formatter], restored: logging.Logger
) -> None:
    logs.configure(Settings.model_validate({"level": "warning", "format": form}), "r")
    (handler,) = restored.handlers
    assert isinstance(handler.formatter, formatter)
    assert restored.level == logging.WARNING
