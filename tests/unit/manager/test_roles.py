"""Names for models: an alias, and a role, which is valid wherever a model's id is."""

import pytest

from worker.core.clock import FixedClock
from worker.core.errors import ModelNotFoundError
from worker.core.models import ModelSpec, Role
from worker.manager.manager_memory import MemoryManager


def test_a_role_stands_for_its_model_and_brings_its_own_fallbacks():
    """An alias is the model, with the model's own line of fallbacks."""
    table = MemoryManager(FixedClock()).models
    table.add(ModelSpec("coder", "torch", fallback="h", aliases=("c",)))
    table.add(ModelSpec("helper", "torch", fallback="small", aliases=("h",)))
    table.add(ModelSpec("small", "torch"))
    table.add_role(Role("review", "c", ("small", "h")))
    assert table.get("review") is table.get("c") is table.get("coder")
    assert [table.resolve(each) for each in ("review", "c", "coder", "none")] == [
        "coder",
        "coder",
        "coder",
        "none",
    ]
    assert list(table.fallbacks("review")) == ["small", "helper"]
    assert list(table.fallbacks("c")) == ["helper", "small"]
    assert {each.model_id: each.status(0).names for each in table} == {
        "coder": ("c", "review"),
        "helper": ("h",),
        "small": (),
    }
    with pytest.raises(ModelNotFoundError) as caught:
        table.get("none")
    assert caught.value.details["known_models"] == ["coder", "helper", "small", "review"]


def test_another_declaration_gives_models_other_names():
    """What a model is called goes by the last one alone."""
    table = MemoryManager(FixedClock()).models
    table.add(ModelSpec("coder", "torch", aliases=("c",)))
    table.add_role(Role("review", "coder", ()))
    table.declare(
        (ModelSpec("coder", "torch", aliases=("d",)), ModelSpec("helper", "torch")),
        (Role("review", "helper", ()),),
    )
    assert [each.status(0).names for each in table] == [("d",), ("review",)]
