import copy
import logging
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pytest

from tidegate.kernel.secret import Secret

PLAIN = "correct horse"


@dataclass(frozen=True)
class Holder:
    secret: Secret


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{!r:>40}".format,
        "%s".__mod__,
        "%r".__mod__,
        lambda secret: f"{secret}",
        lambda secret: f"{secret!s:.5}",
        lambda secret: format(secret, "s"),
        lambda secret: str([secret]) + str({"secret": secret}) + str(Holder(secret)),
        lambda secret: str(ValueError("bad", secret)),
    ],
)
@pytest.mark.parametrize("plain", [PLAIN, PLAIN.encode()])
def test_it_is_never_shown(show: Callable[[Secret], str], plain: str | bytes) -> None:
    shown = show(Secret(plain))
    assert "correct" not in shown
    assert "horse" not in shown


def test_it_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(PLAIN)
    logging.getLogger("test").error("signed with %s", secret, extra={"key": secret})
    assert "signed with Secret(" in caplog.text
    assert PLAIN not in caplog.text
    assert PLAIN not in str(vars(caplog.records[0]))


@pytest.mark.parametrize(
    "serialise",
    [
        *(lambda secret, p=protocol: pickle.dumps(secret, p) for protocol in range(6)),
        lambda secret: pickle.dumps(Holder(secret)),
        copy.copy,
        copy.deepcopy,
        lambda secret: asdict(Holder(secret)),
    ],
)
def test_it_is_never_serialised(serialise: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError, match="not serialised"):
        serialise(Secret(PLAIN))


def test_it_has_no_dictionary_to_look_into() -> None:
    with pytest.raises(TypeError):
        vars(Secret(PLAIN))


def test_it_reveals_what_it_was_given() -> None:
    assert Secret("grün").reveal() == "grün".encode()
    assert Secret("grün".encode()).reveal_text() == "grün"


def test_secrets_are_equal_by_content() -> None:
    assert Secret("a") == Secret(b"a")
    assert hash(Secret("a")) == hash(Secret(b"a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
