"""The shared samples: validators and published schemas give the same verdict, and the one in the name."""

import json
from functools import cache
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from protocol.contract import adapter, contract_types

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"
SAMPLES = [pytest.param(path, id=path.stem) for path in sorted((SCHEMAS / "samples").iterdir())]


@pytest.mark.parametrize("sample", SAMPLES)
def test_both_sides_agree_with_the_name(sample: Path) -> None:
    """``<Type>-valid-<why>.json`` is taken by both sides, ``<Type>-invalid-<why>.json`` by neither."""
    name, verdict, why = sample.stem.split("-", 2)
    assert sample.suffix == ".json"
    assert verdict in {"valid", "invalid"}
    assert why
    text = sample.read_text(encoding="utf-8")
    expected = verdict == "valid"
    assert _validator_takes(name, text) is expected
    assert _schema(name).is_valid(json.loads(text)) is expected


@pytest.mark.parametrize("verdict", ["valid", "invalid"])
def test_every_type_has_both_kinds(verdict: str) -> None:
    """A type without samples would be held to nothing, here and in C#."""
    names = {path.name.partition("-")[0] for path in (SCHEMAS / "samples").glob(f"*-{verdict}-*.json")}
    assert names == set(contract_types())


@pytest.mark.parametrize("name", contract_types())
def test_a_schema_is_one(name: str) -> None:
    """What is published is itself valid by the draft that it names."""
    Draft202012Validator.check_schema(_schema(name).schema)


@cache
def _schema(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8")))


def _validator_takes(name: str, text: str) -> bool:
    try:
        adapter(name).validate_json(text)
    except ValidationError:
        return False
    return True
