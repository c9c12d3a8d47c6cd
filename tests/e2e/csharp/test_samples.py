"""C# takes exactly what the contract allows: the shared samples, and many more made from the schemas."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from protocol.contract import adapter, contract_types
from tests.e2e.csharp.wire import known_part, published, round_trip, same

SAMPLES = Path(__file__).resolve().parents[3] / "schemas" / "samples"
DOCUMENTS = 3
"""Valid documents made for each type; each is then broken in every place, of a list's elements in one."""


def samples(verdict: str) -> list[Path]:
    """Return the shared samples of one verdict."""
    return sorted(SAMPLES.glob(f"*-{verdict}-*.json"))


@pytest.mark.parametrize("sample", samples("valid"), ids=lambda sample: sample.stem)
def test_a_valid_sample_is_read_and_written_back(protocol: ModuleType, sample: Path) -> None:
    """Nothing is lost, nothing is added, whatever was left out stays left out."""
    name, text = sample.stem.partition("-")[0], sample.read_text(encoding="utf-8")
    assert same(round_trip(protocol, name, text), known_part(name, json.loads(text)))


@pytest.mark.parametrize("sample", samples("invalid"), ids=lambda sample: sample.stem)
def test_an_invalid_sample_is_refused(protocol: ModuleType, sample: Path) -> None:
    """Whatever the validators refuse, C# refuses."""
    from System.Text.Json import JsonException

    with pytest.raises(JsonException):
        round_trip(protocol, sample.stem.partition("-")[0], sample.read_text(encoding="utf-8"))


def test_every_type_has_samples() -> None:
    """A type without a valid sample would not be held to anything above."""
    missing = contract_types().keys() - {sample.stem.partition("-")[0] for sample in samples("valid")}
    assert not missing


@pytest.mark.parametrize("name", contract_types())
def test_both_sides_agree_on_made_documents(protocol: ModuleType, name: str) -> None:
    """Valid documents come back equal; broken in any one place, both sides give the same verdict."""
    from System.Text.Json import JsonException

    chance = random.Random(name)
    schema = published(name)
    for _ in range(DOCUMENTS):
        document = _made(schema, schema.get("$defs", {}), chance)
        for changed in (document, *_broken(document)):
            text = json.dumps(changed, ensure_ascii=chance.random() < 0.5)
            if _is_valid(name, text):
                assert same(round_trip(protocol, name, text), known_part(name, changed)), text
            else:
                with pytest.raises(JsonException):
                    pytest.fail(f"C# took {text} and wrote {round_trip(protocol, name, text)}")


def _is_valid(name: str, text: str) -> bool:
    """Ask the validators and the published schema; each states rules that the other cannot."""
    try:
        adapter(name).validate_json(text)
    except ValidationError:
        return False
    return Draft202012Validator(published(name)).is_valid(json.loads(text))


def _made(  # noqa: PLR0911, PLR0912  one branch for each kind of schema
    schema: dict[str, Any], definitions: dict[str, Any], chance: random.Random
) -> Any:
    """Make a value that a schema allows, near its bounds as often as not."""
    if "$ref" in schema:
        return _made(definitions[schema["$ref"].rpartition("/")[2]], definitions, chance)
    if "anyOf" in schema:
        return _made(chance.choice(schema["anyOf"]), definitions, chance)
    if "enum" in schema or "const" in schema:
        return chance.choice(schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case None:
            return chance.choice([None, True, -0.5, 2**40, "ä", [1, {"a": None}], {"b": []}])
        case "null":
            return None
        case "boolean":
            return chance.random() < 0.5
        case "integer":
            least, most = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
            return chance.choice([least, most, chance.randint(least, most), min(most, max(least, 2**53 + 1))])
        case "number":
            return _made_number(schema, chance)
        case "string" if "pattern" in schema:
            return f"{chance.randint(1, 999_999_999)}{chance.choice(['ms', 's', 'm', 'h', 'd'])}"
        case "string":
            least, most = schema.get("minLength", 0), schema.get("maxLength", 30)
            return "".join(chance.choice('a"\\\n/é…😀\u2028') for _ in range(chance.choice([least, 3, most])))
        case "array":
            count = chance.randint(schema.get("minItems", 0), 3)
            return [_made(schema["items"], definitions, chance) for _ in range(count)]
        case "object" if "properties" not in schema:
            return chance.choice([{}, {"a": [1, 2.5, None, True, "😀", {"b": 2**64}]}])
        case _:
            members = schema["properties"].items()
            kept = {key for key in schema["properties"] if chance.random() < 0.5} | {
                *schema.get("required", ())
            }
            return {key: _made(one, definitions, chance) for key, one in members if key in kept}


def _made_number(schema: dict[str, Any], chance: random.Random) -> float:
    """Make a number that a double can hold, at its upper bound as often as not."""
    least = schema.get("minimum", schema.get("exclusiveMinimum", -1e300))
    most = schema.get("maximum", 1e300)
    if float(most) > most:  # it lies between two doubles, of which the lower is allowed
        most = math.nextafter(float(most), 0)
    return chance.choice([most, chance.uniform(least, most), 0.1])


def _broken(value: Any) -> Iterator[Any]:
    """Yield copies of a document with one thing changed, which may or may not still be allowed."""
    if isinstance(value, dict):
        yield {**value, "unknown_member": 1}
        for key, held in value.items():
            yield {other: one for other, one in value.items() if other != key}
            yield from ({**value, key: changed} for changed in _broken(held))
    if isinstance(value, list) and value:  # its elements have one schema: the last stands for all
        yield from ([*value[:-1], changed] for changed in _broken(value[-1]))
    match value:
        case str():
            yield from (value + "😀", value + "\n", value.upper(), "", None, 1, "x" * 257)
        case bool():
            yield from (1, "true", None, not value)
        case int() | float():
            yield from (-1, 0, 0.5, 101, "1", True, None, [])
        case None:
            yield from (False, 0, "", {}, [])
        case list():
            yield from ([], {}, None, "", [None])
        case dict():
            yield from ([], None, "", [value])
