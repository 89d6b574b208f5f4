import pytest

from tidegate.store.changes import Entry
from tidegate.store.connection import ApiError, StoreError, checked
from tidegate.store.reading import decode


def test_an_object_is_an_entry() -> None:
    assert decode("user.1", b'{"v":1,"x":2}', 7, {}) == Entry("user.1", {"v": 1, "x": 2}, 7)


@pytest.mark.parametrize(
    ("payload", "headers"),
    [
        (b"", {}),
        (b"", {"KV-Operation": "DEL"}),
        (b'{"v":1}', {"KV-Operation": "DEL"}),
        (b"", {"KV-Operation": "PURGE"}),
        (b"", {"Nats-Marker-Reason": "MaxAge"}),
    ],
)
def test_an_empty_value_or_a_delete_is_absence_with_a_revision(
    payload: bytes, headers: dict[str, str]
) -> None:
    assert decode("user.1", payload, 7, headers) == Entry("user.1", None, 7)


@pytest.mark.parametrize("payload", [b"no", b"[]", b"1", b'"x"', b"null", b'{"v":1', b"\xff"])
def test_anything_else_is_an_error_that_shows_neither_key_nor_value(payload: bytes) -> None:
    with pytest.raises(StoreError, match=r"^the stored value of a user is not") as caught:
        decode("user.of.someone", payload, 7, {})
    assert "someone" not in str(caught.value)


def test_the_kind_of_an_entry_is_its_first_token() -> None:
    assert Entry("user.1.2", None, 0).kind == "user"
    assert Entry("user", None, 0).kind == "user"


def test_an_answer_with_an_error_raises_it() -> None:
    with pytest.raises(ApiError, match=r"no such stream \(10059\)") as caught:
        checked(b'{"error":{"code":404,"err_code":10059,"description":"no such stream"}}')
    assert (caught.value.code, caught.value.err_code) == (404, 10059)


@pytest.mark.parametrize("payload", [b"", b"+OK", b"[]", b"1"])
def test_an_answer_that_is_none_is_an_error(payload: bytes) -> None:
    with pytest.raises(StoreError):
        checked(payload)
