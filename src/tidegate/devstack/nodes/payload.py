"""A protobuf Struct as plain JSON values."""

import math
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

# Doubles hold every integer up to here.
_MAX_SAFE_INTEGER = 2**53


def from_struct(struct: Struct) -> dict[str, Any]:
    return {name: _from_value(value) for name, value in struct.fields.items()}


def _from_value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [_from_value(item) for item in value.list_value.values]
        case "number_value":
            return _from_number(value.number_value)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _from_number(number: float) -> float | str:
    # A Struct has only doubles: 3.0 was a 3 for whoever sent JSON.
    if number.is_integer() and abs(number) <= _MAX_SAFE_INTEGER:
        return int(number)
    if math.isfinite(number):
        return number
    # As protobuf's JSON form does, which has no other way either.
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
