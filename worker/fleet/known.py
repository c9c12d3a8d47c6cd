"""A node as its views told of it so far: what a directory and its readers keep. Pure; its owner locks."""

from worker.fleet.pricing import RoomCurve, spread
from worker.fleet.views import DeviceView, NodeChange, NodeView


class KnownNode:
    """One node, by name what it has."""

    __slots__ = (
        "_curves",
        "_names",
        "default_device_id",
        "devices",
        "down_ms",
        "draining",
        "incarnation",
        "leased_until_ns",
        "load_floors",
        "models",
        "node_id",
        "order",
        "place",
        "revision",
    )

    def __init__(self, view: NodeView) -> None:
        # All mutable state.
        self.node_id = view.node_id
        self.incarnation = view.incarnation
        self.revision = view.revision
        self.devices = {each.device_id: each for each in view.devices}
        self.models = {each.model_id: each for each in view.models}
        self.default_device_id = view.default_device_id
        self.order = tuple(sorted(self.devices, key=lambda each: each != view.default_device_id))
        """Its devices, the default one first, as its worker tries them."""
        self.draining = view.draining
        self.leased_until_ns = view.leased_until_ns
        self.down_ms = view.down_ms
        self.place = spread(self.node_id)
        """By which nodes stand on their ring."""
        self.load_floors: dict[str, float] = {}
        """The least that loading each model takes that can be loaded: its owner's, which looks there in place of the views."""
        self._curves: dict[str, RoomCurve] = {}
        self._names: dict[str, str] | None = None

    def apply(self, change: NodeChange) -> bool:
        """Take over what became different. False, and nothing is taken over, where it follows on another revision."""
        if change.incarnation != self.incarnation or change.since != self.revision:
            return False
        for device in change.devices:
            self.devices[device.device_id] = device
            self._curves.pop(device.device_id, None)
        if change.models:
            self._curves.clear()  # they go by what loading models takes
        self.models.update((each.model_id, each) for each in change.models)
        for model_id in change.models_gone:
            self.models.pop(model_id, None)
        if change.models or change.models_gone:
            self._names = None
        self.draining = change.draining
        self.revision = change.revision
        return True

    def meant(self, name: str) -> str | None:
        """Return the id of the model that a name stands for there, be it an id, an alias or a role; None where it stands for none."""
        if name in self.models:
            return name
        if self._names is None:
            self._names = {other: each.model_id for each in self.models.values() for other in each.names}
        return self._names.get(name)

    def curve(self, device: DeviceView) -> RoomCurve:
        """Return what making room on one of its devices costs."""
        curve = self._curves.get(device.device_id)
        if curve is None:
            curve = self._curves[device.device_id] = RoomCurve(device.prices, self.models)
        return curve

    def view(self) -> NodeView:
        """Return it as one view."""
        return NodeView(
            self.node_id,
            self.incarnation,
            self.revision,
            tuple(self.devices.values()),
            tuple(self.models.values()),
            self.default_device_id,
            self.draining,
            self.leased_until_ns,
            self.down_ms,
        )
