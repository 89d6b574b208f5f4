"""A wrapper that keeps a secret out of logs, errors and traces by type, not by guessing names."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Bytes that show themselves only to `reveal()`.

    `repr`, `str` and formatting give a fixed word; pickling is refused, and comparison takes
    constant time.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes | str) -> None:
        self._value = value.encode() if isinstance(value, str) else value

    def reveal(self) -> bytes:
        return self._value

    def reveal_text(self) -> str:
        return self._value.decode()

    def __repr__(self) -> str:
        return "Secret(**********)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not serialised")
