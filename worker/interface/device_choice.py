"""Which devices a request means, and what of them is known."""

from protocol.vocabulary import DeviceState
from worker.backends.base import OwnProcess, ProbedBeside
from worker.core.cancellation import CancelToken
from worker.core.errors import InvalidRequestError
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core

ALL_DEVICES = "all"


class DeviceChoice:
    """From what a request names to devices that are there."""

    def __init__(self, core: Core, monitor: DeviceMonitor, asked_default: str | None) -> None:
        self._devices = core.manager.devices
        self._backends = core.backends
        self._monitor = monitor
        self._asked_default = asked_default

    def probe_here(self) -> None:
        """Begin to look for the devices whose libraries this process imports: that can hold all its threads up."""
        for backend in dict.fromkeys(self._backends.values()):
            if isinstance(backend, ProbedBeside) and not isinstance(backend, OwnProcess):
                self._monitor.begin(backend)

    def wait_until_known(self, token: CancelToken) -> None:
        """Wait for the end of every probe, also of devices that one of them reveals."""
        known: tuple[str, ...] = ()
        while (there := self.ids(None)) != known:
            self._monitor.wait_until_known(there, token)
            known = there

    def ids(self, device_id: str | None) -> tuple[str, ...]:
        """Return the devices that are meant. DeviceNotFoundError if there is none of that name."""
        if device_id is None or device_id == ALL_DEVICES:
            return self._devices.ids()
        return (self._devices.info(device_id).device_id,)

    def page(
        self, device_id: str | None, limit: int | None, after: str | None
    ) -> tuple[tuple[str, ...], str | None]:
        """Return at most so many of the devices that are meant, from the one after ``after``, and the next ``after``.

        DeviceNotFoundError if there is none of that name; InvalidRequestError for an ``after`` of no page.
        """
        meant = self.ids(device_id)
        if after is not None and after not in meant:
            raise InvalidRequestError.at("data.after", f"{after!r} is not the next of an earlier page")
        rest = meant if after is None else meant[meant.index(after) + 1 :]
        page = rest[:limit]
        return page, page[-1] if len(page) < len(rest) else None

    @property
    def default(self) -> str:
        """The device of requests that name none."""
        return self._devices.default(self._asked_default)

    def one(self, device_id: str | None, token: CancelToken | None = None) -> str:
        """Return the one device that is meant. DeviceNotFoundError if there is none of that name.

        With a token, a device that is being probed is waited for: which one is the default may hang on it.
        """
        while True:
            found = self._devices.info(device_id or self.default).device_id
            if token is None or self._devices.info(found).state is not DeviceState.PROBING:
                return found
            self._monitor.wait_until_known((found,), token)

    def candidates(self, device_id: str | None) -> tuple[str, ...]:
        """Return the devices that may turn out to be meant: one, once it is known which there are."""
        found = self.one(device_id)
        if device_id is None and self._devices.info(found).state is DeviceState.PROBING:
            return self._devices.ids()
        return (found,)

    def is_quick(self, device_id: str, touched_bytes: int) -> bool:
        """Tell whether making or freeing that many bytes keeps no one waiting."""
        return touched_bytes <= self._backends[device_id].quick_bytes

    def notes(self, device_id: str) -> tuple[str, ...]:
        """Say, for people, what can and can't be measured on a device, and why."""
        return self._backends[device_id].notes()
