"""Models that the operator's own code makes. The factory is named in the operator's file, never in a request."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from worker.core.errors import WorkerError
from worker.core.models import ModelSpec
from worker.core.operator_code import import_operators
from worker.core.text import nearest
from worker.loaders.base import load_failed
from worker.loaders.model_path import resolved_file
from worker.loaders.params import unknown


class ModuleLoader:
    """Imports ``package.module`` and calls ``function`` in it.

    The factory is handed, by name, whichever of these it has parameters for: ``path`` (checked to lie below
    the model root; None without one), ``device_id``, ``dtype``, ``spec``, and the model's ``params`` by name.
    """

    def estimate(self, spec: ModelSpec) -> int | None:  # noqa: ARG002 - there is no header
        """Return None: only making it tells."""
        return None

    def check(self, spec: ModelSpec) -> None:
        """Import the factory, and see that it can be called as it wants to be."""
        with _blaming(spec):
            _wanted(spec, _find(spec), _offered(spec, ""))

    def build(self, spec: ModelSpec, device_id: str) -> object:
        """Make it; whatever the operator's code raises is the cause."""
        with _blaming(spec):
            factory = _find(spec)
            return factory(**_wanted(spec, factory, _offered(spec, device_id)))


@contextmanager
def _blaming(spec: ModelSpec) -> Iterator[None]:
    """Name the factory for whatever it raises."""
    try:
        yield
    except (WorkerError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a library's panic (Rust) and a task that was cancelled are no Exception
        text = f"{type(error).__name__}: {error}"
        raise load_failed(spec, f"its factory {spec.factory} raised {text}") from error


def _offered(spec: ModelSpec, device_id: str) -> dict[str, object]:
    path = None if spec.path is None else resolved_file(spec)
    return dict(spec.params) | {"path": path, "device_id": device_id, "dtype": spec.dtype, "spec": spec}


def _find(spec: ModelSpec) -> Callable[..., object]:
    module_name, _, function = (spec.factory or "").partition(":")
    if not module_name or not function:
        raise load_failed(spec, f"its factory {spec.factory!r} is not package.module:function")
    found: Any = _imported(spec, module_name)
    for part in function.split("."):
        there = found
        found = getattr(there, part, None)
        if found is None:
            near = nearest(part, dir(there))
            hint = f"; did you mean {near!r}?" if near else ""
            raise load_failed(
                spec, f"its factory {spec.factory} is not there: no {part!r} in {module_name}{hint}"
            )
    if not callable(found):
        raise load_failed(spec, f"its factory {spec.factory} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]  # it was just seen to be one


def _imported(spec: ModelSpec, name: str) -> object:
    try:
        return import_operators(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, and imports something that is not
        where = "install it, or start the worker in the folder that has it"
        raise load_failed(
            spec, f"its factory {spec.factory} is not there: no module {error.name!r}; {where}"
        ) from None


def _wanted(spec: ModelSpec, factory: Callable[..., object], offered: dict[str, object]) -> dict[str, object]:
    parameters = tuple(inspect.signature(factory).parameters.values())
    given = offered
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        names = [each.name for each in parameters]
        for name, _ in spec.params:
            if name not in names:
                raise unknown(spec, "params.", name, f"parameter of its factory {spec.factory}", names)
        given = {name: offered[name] for name in names if name in offered}
    for each in parameters:
        variadic = each.kind in {each.VAR_POSITIONAL, each.VAR_KEYWORD}
        if each.name not in given and each.default is each.empty and not variadic:
            there = ", ".join(offered)
            raise load_failed(
                spec,
                f"its factory {spec.factory} wants {each.name!r}, which is not in params; there are {there}",
            )
    return given
