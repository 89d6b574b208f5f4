import math

import pytest
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.devstack.nodes.payload import from_struct

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner),
    max_leaves=10,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text("abc"), json_values))
def test_json_comes_back_through_a_struct(value: dict[str, object]) -> None:
    struct = Struct()
    struct.update(value)  # type: ignore[arg-type]
    assert from_struct(struct) == value


def test_whole_numbers_come_back_whole() -> None:
    struct = Struct()
    struct.update({"three": 3, "half": 0.5, "huge": 1e300})
    plain = from_struct(struct)
    assert {name: type(number) for name, number in plain.items()} == {
        "three": int,
        "half": float,
        "huge": float,
    }


@pytest.mark.parametrize(
    ("number", "text"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]
)
def test_a_number_that_json_lacks_is_named(number: float, text: str) -> None:
    struct = Struct()
    struct.update({"x": number})
    assert from_struct(struct) == {"x": text}


def test_a_value_of_no_kind_is_null() -> None:
    assert from_struct(Struct(fields={"x": Value()})) == {"x": None}
