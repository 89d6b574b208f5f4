import re

import pytest

from tidegate.kernel import errors
from tidegate.kernel.errors import CODES, Code, ErrorKind, FieldProblem


def test_words_are_upper_case_and_stand_under_themselves() -> None:
    for word, code in CODES.items():
        assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", word)
        assert code.word == word


def test_every_code_is_a_constant_of_its_own_word() -> None:
    constants = {name: value for name, value in vars(errors).items() if isinstance(value, Code)}
    assert constants == CODES


def test_a_word_cannot_stand_twice() -> None:
    with pytest.raises(ValueError, match="FORBIDDEN stands twice"):
        errors._code("FORBIDDEN", ErrorKind.CONFLICT, "Again")
    assert CODES["FORBIDDEN"] is errors.FORBIDDEN


def test_every_code_has_a_title() -> None:
    assert all(code.title and not code.title.endswith(".") for code in CODES.values())


def test_invalid_names_the_field() -> None:
    refusal = errors.invalid("/email", "is not an address")
    assert refusal.code is errors.INVALID
    assert refusal.errors == (FieldProblem("/email", "is not an address"),)
    assert refusal.details == {}
