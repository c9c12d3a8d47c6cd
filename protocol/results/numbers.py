"""The numbers in answers: their units and limits."""

from typing import Annotated

from annotated_types import Ge, Le

from protocol.vocabulary import INT64_MAX

Bytes = Annotated[int, Ge(0), Le(INT64_MAX)]
Count = Annotated[int, Ge(0), Le(INT64_MAX)]
Milliseconds = Annotated[int, Ge(0), Le(INT64_MAX)]
Microseconds = Annotated[int, Ge(0), Le(INT64_MAX)]
Int64 = Annotated[int, Ge(-INT64_MAX), Le(INT64_MAX)]
Percent = Annotated[float, Ge(0), Le(100)]
Fraction = Annotated[float, Ge(0), Le(1)]
Cost = Annotated[float, Ge(0)]
"""Milliseconds, in parts: of a price by how often it is expected to be paid."""
