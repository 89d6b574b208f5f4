import argparse

import pytest

from tidegate.devstack.program import Address, address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("localhost:0", Address("localhost", 0)),
        ("mail.test:65535", Address("mail.test", 65535)),
    ],
)
def test_an_address_is_host_and_port(text: str, expected: Address) -> None:
    assert address(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "host:", "host:65536", "host:-1", "host:\uff18"]
)
def test_anything_else_is_not_an_address(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        address(text)
