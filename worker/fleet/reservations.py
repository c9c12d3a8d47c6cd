"""What the holder of views knows beyond them: what it placed itself and who refused. Pure; not thread-safe: its owner locks."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from protocol.record import Record
from protocol.vocabulary import ModelState
from worker.fleet.known import KnownNode
from worker.fleet.pricing import load_ms
from worker.fleet.views import Choice, Step

_Revision = tuple[str, int]
"""Of a node: its incarnation, and the revision."""


class Held(Record):
    """One placement that a node's view does not show yet."""

    choice: Choice
    model_id: str | None
    uses: bool
    """Whether it works with the model, and is not answered yet."""
    shown_at: _Revision | None = None
    """The node's incarnation and revision whose view shows what it takes; None until the node said so."""
    shown: bool = False
    """Whether a view shows that."""

    @property
    def takes_memory(self) -> bool:
        """Whether it takes memory that no view shows: anything but the use of a model that is there already."""
        return not self.shown and (
            self.model_id is None or self.choice.step not in {Step.LOADED, Step.LOADING}
        )


class NodeHolds(Record):
    """What is held of one node."""

    bytes_by_device: Mapping[str, int]
    uses: Mapping[str, int]
    """Leases of models, by device: of all who placed here and have no answer. Views tell of others' alone (``others_only``)."""
    loads: Mapping[str, Choice]
    """Of models that are to be loaded there, by model."""
    queue_ms: Mapping[str, float]
    """How long those loads take, by device."""


_NONE: MappingProxyType[str, Any] = MappingProxyType({})
NOTHING = NodeHolds(_NONE, _NONE, _NONE, _NONE)


class Reservations:
    """Placements under way, from their decision on.

    What one takes counts until a view of its node shows it, its use of a model until it is answered, and nothing of it
    once it was refused.
    """

    def __init__(self) -> None:
        # All mutable state: by node, its placements by the id that whoever placed them gave, which of these take memory
        # that no view shows, what they add up to (made when it is asked for), the least revision that a view of it has to
        # have, and that of its last one.
        self._held: defaultdict[str, dict[str, Held]] = defaultdict(dict)
        self._taken: defaultdict[str, set[str]] = defaultdict(set)
        self._sums: dict[str, NodeHolds] = {}
        self._least: dict[str, _Revision] = {}
        self._seen: dict[str, _Revision] = {}
        self.changed: set[str] = set()
        """Nodes of which something else is held than when their owner emptied this last."""

    def add(self, key: str, choice: Choice, model_id: str | None, *, uses: bool = False) -> None:
        """Count a placement from now on; ``key``: such as the request's id, unique among those under way.

        ``uses``: whether it works with the model until it is answered.
        """
        self._put(key, Held(choice, model_id, uses))

    def add_named(
        self, key: str, node: KnownNode, device_id: str, model_id: str | None, size_bytes: int
    ) -> None:
        """Count what goes to a device that was named, as if it had been placed there."""
        model, loading = node.models.get(model_id or ""), 0.0
        if model is not None and model.state is not ModelState.LOADED:
            size_bytes, loading = model.size_bytes or 0, load_ms(model, model.size_bytes or 0)
        choice = Choice(node.node_id, device_id, node.revision, Step.FITS, 0.0, loading, 0.0, size_bytes, "")
        self.add(key, choice, model_id)

    def add_freed(self, key: str, node_id: str, device_id: str, size_bytes: int, at: _Revision) -> None:
        """Count bytes as free until a view of the node shows them, as from this revision on: what is placed next may need them."""
        self.add(key, Choice(node_id, device_id, at[1], Step.FITS, 0.0, 0.0, 0.0, -size_bytes, ""), None)
        self.accepted(key, node_id, *at)

    def accepted(self, key: str, node_id: str, incarnation: str, revision: int) -> None:
        """Note that a node took it: views from this revision on show what it takes, which is counted until then."""
        held = self._held.get(node_id, {}).get(key)
        if held is not None:
            at = incarnation, revision
            self._put(key, replace(held, shown_at=at, shown=_shows(self._seen.get(node_id), at)))

    def answered(self, key: str, node_id: str) -> None:
        """Note that it does not work with its model any more."""
        held = self._held.get(node_id, {}).get(key)
        if held is not None:
            self._put(key, replace(held, uses=False))

    def refused(self, key: str, node_id: str, incarnation: str | None = None, revision: int = 0) -> None:
        """Count it no more; where the node said at which revision it refused, views before that are stale from now on."""
        self._drop(node_id, key)
        if incarnation is not None:
            known = self._least.get(node_id)
            if known is None or known[0] != incarnation or known[1] < revision:
                self._least[node_id] = (incarnation, revision)

    def seen(self, node: KnownNode) -> None:
        """Take notice of a node's new view: what it shows is counted no more."""
        here = self._seen[node.node_id] = (node.incarnation, node.revision)
        for key, held in list(self._held.get(node.node_id, {}).items()):
            if not held.shown and (
                _has(node, held) or (held.shown_at is not None and _shows(here, held.shown_at))
            ):
                lives_on = held.shown_at is None or held.shown_at[0] == node.incarnation
                self._put(key, replace(held, shown=True, uses=held.uses and lives_on))
        least = self._least.get(node.node_id)
        if least is not None and _shows(here, least):
            del self._least[node.node_id]

    def lost(self, node_id: str) -> None:
        """Forget a node: what was placed there went with it."""
        for table in (self._held, self._taken, self._sums, self._least, self._seen):
            table.pop(node_id, None)
        self.changed.add(node_id)

    def is_stale(self, node: KnownNode) -> bool:
        """Tell whether a node is known to be further than what its views told."""
        least = self._least.get(node.node_id)
        return least is not None and least[0] == node.incarnation and node.revision < least[1]

    def taken_on(self) -> Iterable[str]:
        """Return the nodes where anything was placed that takes memory, and that no view shows yet."""
        return self._taken.keys()

    def of(self, node_id: str) -> NodeHolds:
        """Return what is held of a node."""
        if not self._held.get(node_id):
            return NOTHING
        sums = self._sums.get(node_id)
        if sums is None:
            sums = self._sums[node_id] = _sum(self._held[node_id].values())
        return sums

    def _put(self, key: str, held: Held) -> None:
        node_id = held.choice.node_id
        if held.shown and not held.uses:
            self._drop(node_id, key)
            return
        self._held[node_id][key] = held
        self._sums.pop(node_id, None)
        self.changed.add(node_id)
        if held.takes_memory:
            self._taken[node_id].add(key)
        else:
            self._take_no_more(node_id, key)

    def _drop(self, node_id: str, key: str) -> None:
        held = self._held.get(node_id)
        if held is not None and held.pop(key, None) is not None:
            self._sums.pop(node_id, None)
            self.changed.add(node_id)
            if not held:
                del self._held[node_id]
            self._take_no_more(node_id, key)

    def _take_no_more(self, node_id: str, key: str) -> None:
        taken = self._taken.get(node_id)
        if taken is not None:
            taken.discard(key)
            if not taken:
                del self._taken[node_id]


def _has(node: KnownNode, held: Held) -> bool:
    """Tell whether a view shows a model that was to be loaded there: long before work with it is answered."""
    model = node.models.get(held.model_id or "")
    return model is not None and model.state in {ModelState.LOADED, ModelState.LOADING}


def _shows(seen: _Revision | None, since: _Revision) -> bool:
    """Tell whether a view shows what views do from a revision on; one of another start of the node does."""
    return seen is not None and (seen[0] != since[0] or seen[1] >= since[1])


def _sum(placements: Iterable[Held]) -> NodeHolds:
    sizes: Counter[str] = Counter()
    uses: Counter[str] = Counter()
    loads: dict[str, Choice] = {}
    queues: defaultdict[str, float] = defaultdict(float)
    for held in placements:
        if held.uses:
            uses[held.choice.device_id] += 1
        if not held.takes_memory:
            continue
        if held.model_id is None:
            sizes[held.choice.device_id] += held.choice.size_bytes
        elif held.model_id not in loads:
            loads[held.model_id] = held.choice
            sizes[held.choice.device_id] += held.choice.size_bytes
            queues[held.choice.device_id] += held.choice.load_ms
    return NodeHolds(sizes, uses, loads, queues)
