"""What is made on a process's devices and given up again: blocks, and models' weights."""

from protocol.vocabulary import Executed
from worker.backends.base import Fill
from worker.backends.isolation.answers import LAST_WORD_S
from worker.backends.isolation.asking import PATIENCE_S
from worker.backends.isolation.carrying import Held
from worker.backends.isolation.codec import block_of, packed_request
from worker.backends.isolation.displaced import Displaced
from worker.backends.isolation.endings import EndedError
from worker.backends.isolation.held_blocks import HeldBlocks
from worker.backends.isolation.loading import Loading
from worker.backends.isolation.presence import Presence
from worker.backends.isolation.slots import Slots
from worker.core.cancellation import CancelToken
from worker.core.errors import DeviceLostError
from worker.core.records import AllocationRequest, Block


class Blocks:
    """Wherever a block is by now. Thread-safe."""

    def __init__(self, presence: Presence, slots: Slots, held: HeldBlocks, displaced: Displaced) -> None:
        self._presence = presence
        self._slots = slots
        self._held = held
        self._displaced = displaced
        # All mutable state: the largest size of each kind that is known to be possible.
        self._accepted: dict[tuple[object, ...], int] = {}

    def forget_accepted(self) -> None:
        """Note that the process is another: it may make other blocks."""
        self._accepted = {}

    def check(self, request: AllocationRequest) -> None:
        """Ask the process, unless a larger one of the same kind was possible."""
        kind = (request.device_id, request.memory_type, request.alignment, request.initialize)
        if request.size_bytes <= self._accepted.get(kind, 0):
            return
        with self._presence.using(request.device_id, Executed.NO) as child:
            child.call("check", packed_request(request), patience_s=PATIENCE_S)
            self._accepted[kind] = max(request.size_bytes, self._accepted.get(kind, 0))

    def allocate(self, allocation_id: str, request: AllocationRequest, token: CancelToken) -> Block:
        """Make a block there."""
        token.check()
        device_id, presence = request.device_id, self._presence
        child = presence.enter(device_id, token)
        try:
            undo = ("free", allocation_id)
            try:
                made = child.answers.call("allocate", (allocation_id, packed_request(request)), token, undo)
                block = block_of(made)
                self._held.add(child, allocation_id, Held(request, block.actual_bytes, False))  # noqa: FBT003 - by its place it takes half as long
            except MemoryError:  # of this process, maybe as it read the answer: there it may be made
                child.begin(*undo)
                raise
        except (EndedError, DeviceLostError) as error:
            raise presence.meaning(error, child, device_id, Executed.NO, request.size_bytes) from None
        else:
            return block
        finally:
            presence.leave()

    def unload(self, handle: str) -> int | None:
        """Give a model's block up."""
        return self.free(handle, "unload")

    def free(self, name: str, do: str = "free") -> int | None:
        """Give a block up; nothing is left to do for one that went with its process. KeyError for one that never was."""
        displaced, presence = self._displaced, self._presence
        held = self._held.blocks.get(name)
        if held is None:
            self._held.device_of(name)
            return 0
        device_id = held.request.device_id
        if displaced.any and (returned := self._drop_displaced(name)) is not None:
            return returned
        child = presence.enter(device_id)
        try:
            returned = self._drop_displaced(name) if displaced.any else None
            if returned is None:
                returned = child.answers.call(do, (name,))
                self._held.blocks.pop(name, None)
        except (EndedError, DeviceLostError) as error:  # gone is gone, in whichever way
            raise presence.meaning(error, child, device_id, Executed.YES, None) from None
        else:
            return returned
        finally:
            presence.leave()

    def _drop_displaced(self, name: str) -> int | None:
        """Give up a block that is in host memory. None if it is not there."""
        returned = self._displaced.drop(name)
        if returned is not None:
            self._held.blocks.pop(name, None)
            self._presence.tell()  # the device may have no contents elsewhere any more
        return returned

    def load(self, handle: str, request: AllocationRequest, fill: Fill, token: CancelToken) -> Block:
        """Have the backend load, and read model files by itself; send it all other bytes as they come."""
        with self._presence.using(request.device_id, Executed.NO, request.size_bytes, token=token) as child:
            undo = ("filled", handle, False)
            child.call("load", handle, packed_request(request), token=token, undo=undo)
            loading = Loading(child, self._slots, handle, token)
            try:
                with loading:
                    fill(None, loading)
            except BaseException:
                giving_up = child.begin("filled", handle, False)  # noqa: FBT003 - as on the wire
                if not loading.hangs:
                    child.answers.wait(giving_up, LAST_WORD_S)
                raise
            made = child.call("filled", handle, True, token=token, undo=("unload", handle))  # noqa: FBT003 - a message has no names
            try:
                block = block_of(made)
                self._held.add(child, handle, Held(request, block.actual_bytes, weights=True))
            except MemoryError:  # as above
                child.begin("unload", handle)
                raise
            return block
