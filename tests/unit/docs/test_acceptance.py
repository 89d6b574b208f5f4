"""The map from what must hold to the tests that show it is complete."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "acceptance.md"
NOT_REACHED = "not reached yet: "

IDS = [
    *("T1.1", "T1.2", "T1.3"),
    *("T2.1", "T2.2", "T2.3"),
    *("T3.1", "T3.2", "T3.3"),
    *("T4.1", "T4.2", "T4.3", "T4.4"),
    *("T5.1", "T5.2", "T5.3"),
    *("T6.1", "T6.2", "T6.3"),
    *("T7.1", "T7.2", "T7.3"),
    *("T8.1", "T8.2"),
    *("T9.1", "T9.2", "T9.3", "T9.4"),
    *("T10.1", "T10.2", "T10.3", "T10.4", "T10.5"),
]

_ROW = re.compile(r"^\| (T\d+\.\d+) \| (.+?) \| (.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`tests/[\w/]+\.py::\w+(?:::\w+)?`")


def test_every_id_stands_once_and_in_order() -> None:
    assert [row[0] for row in _ROW.findall(PAGE.read_text(encoding="utf-8"))] == IDS


def test_every_row_names_tests_or_says_why_there_is_none() -> None:
    """That the named tests exist is checked for all pages, in test_links."""
    for row_id, _, shown in _ROW.findall(PAGE.read_text(encoding="utf-8")):
        if shown.startswith(NOT_REACHED):
            assert len(shown) > len(NOT_REACHED) + 10, f"{row_id} does not say why"
        else:
            rest = _TEST.sub("", shown)
            assert _TEST.search(shown), f"{row_id} names no test"
            assert not rest.strip("<br> "), f"{row_id} says more than tests: {rest}"
