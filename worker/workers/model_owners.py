"""Models that other processes hold: their owners say when they load and unload, and are asked to unload."""

from collections.abc import Callable, Iterable

from protocol.results import Eviction, UnloadedModel
from protocol.vocabulary import EventName, UnloadMode
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS
from worker.core.consumers import EXTERNAL_PREFIX
from worker.core.errors import ModelBusyError, UnsupportedError
from worker.core.events import ModelUnloaded, UnloadRequested
from worker.core.log import log
from worker.manager.model_entry import ModelEntry
from worker.manager.models import ModelManager
from worker.wiring import Core
from worker.workers.questions import Questions, silence

OwnerAnswers = dict[str, UnloadedModel | str]
"""For each model that was asked for: that it is gone, or why it is not."""


UNHEARD = f"nobody listens for {EventName.UNLOAD_REQUESTED}"


def external_id(model_id: str) -> str:
    """Return the name by which a model that another process holds is a consumer."""
    return f"{EXTERNAL_PREFIX}{model_id}"


class ExternalWorker:
    """Asks owners, and takes their word. It frees nothing itself."""

    def __init__(self, core: Core, models: ModelManager, questions: Questions) -> None:
        self._models = models
        self._table = core.manager.models
        self._history = core.history
        self._questions = questions
        self._publish = core.events.publish
        self._wanted = core.events.wanted
        # All mutable state: how the model servers that this worker follows are told, by name.
        self._servers: dict[str, Callable[[str, str], None]] = {}

    def serve(self, name: str, unload: Callable[[str, str], None]) -> None:
        """Have a server's models unloaded by ``unload(model_id, reason)``, which must not wait; its word follows."""
        self._servers = {**self._servers, name: unload}

    # ---- what owners say ----

    def loaded(self, model_id: str, device_id: str) -> None:
        """Note that its owner has a model loaded, or uses it again: then it keeps it, whoever asked.

        LimitExceededError where its bytes can't be added to those that are recorded.
        """
        self._models.loaded_externally(model_id, device_id)
        self._answer(model_id, "its owner keeps it")

    def unloaded(self, model_id: str, reason: str = "unloaded: its owner says so") -> UnloadedModel:
        """Note that its owner has unloaded a model, and why: from now on its memory counts as freed."""
        residence = self._models.unloaded_externally(model_id)
        if residence is None:
            return UnloadedModel(model_id, 0, None, None, "nothing to unload: it is unloaded")
        row = UnloadedModel(model_id, residence.size_bytes, None, None, reason)
        device_id, freed = residence.device_id, residence.size_bytes
        eviction = Eviction(model_id, device_id, 0, freed, None, reason)
        self._history.record_eviction(eviction)
        self._publish(ModelUnloaded(eviction))
        log("debug", "unloaded", model_id=model_id, device_id=device_id, freed_bytes=freed, reason=reason)
        self._answer(model_id, row)
        return row

    def unseen(self, model_id: str, why: str) -> None:
        """Note that a model's owner does not answer: what it had is not counted any more, though none of it came back."""
        residence = self._models.unloaded_externally(model_id, why)
        if residence is not None:
            reason = f"not counted any more: {why}"
            self._publish(ModelUnloaded(Eviction(model_id, residence.device_id, 0, 0, None, reason)))
        self._answer(model_id, why)

    # ---- what owners are asked ----

    def unload(
        self, entry: ModelEntry, reason: str, token: CancelToken, mode: UnloadMode, *, forced: bool
    ) -> UnloadedModel:
        """Ask for one model, and wait for the owner's word.

        Raises:
            ModelBusyError: pinned and not forced, or its owner has not unloaded it.
            UnsupportedError: it is to be offloaded or shrunk.
        """
        model_id = entry.model_id
        if mode is not UnloadMode.UNLOAD:
            done = "offloaded" if mode is UnloadMode.OFFLOAD else "shrunk"
            message = f"model {model_id!r} is held by another process: it can't be {done} from here"
            raise UnsupportedError(message, model_id=model_id)
        if entry.residence is None:
            return UnloadedModel(model_id, 0, None, None, f"nothing to unload: it is {entry.state}")
        if entry.pinned and not forced:
            message = f"model {model_id!r} is pinned"
            raise ModelBusyError(message, model_id=model_id, cause="pinned")
        said = self.ask((model_id,), reason.removeprefix("unloaded: "), token)[model_id]
        if isinstance(said, UnloadedModel):
            return said
        message = f"model {model_id!r} stays: {said}"
        raise ModelBusyError(message, model_id=model_id, cause="held_by_its_owner")

    def ask(
        self, model_ids: Iterable[str], reason: str, token: CancelToken, within_ns: int | None = None
    ) -> OwnerAnswers:
        """Ask owners to unload, all at once, and wait until each has answered or the time is over.

        ``within_ns`` is the longest to wait. With a deadline it is at most half of what is left of it, so
        that there is time to act on the answers. Raises what the token raises.
        """
        every = tuple(model_ids)
        asked = tuple(each for each in every if self._is_heard(each))
        unheard: OwnerAnswers = dict.fromkeys(set(every) - set(asked), UNHEARD)
        if not asked:
            return unheard
        wait_ns = self._questions.wait_ns(token, within_ns)

        def send() -> None:
            for model_id in asked:
                self.request(model_id, reason, wait_ns // NS_PER_MS)

        answers = self._questions.ask(map(external_id, asked), send, token, wait_ns)
        silent = silence(wait_ns, "unloaded it")
        return unheard | {each: answers.get(external_id(each), silent) for each in asked}

    def request(self, model_id: str, reason: str, wait_ms: int | None = None) -> None:
        """Ask an owner to unload, and wait for nothing; nothing happens if the model is not loaded."""
        entry = self._table.find(model_id)
        residence = None if entry is None else entry.residence
        if entry is None or residence is None:
            self._answer(model_id, "it is unloaded")
            return
        server = self._servers.get(entry.spec.server or "")
        if server is not None:
            server(model_id, reason)
            return
        device_id, size = residence.device_id, residence.size_bytes
        self._publish(UnloadRequested(model_id, device_id, size, reason, wait_ms))

    @property
    def listened_to(self) -> bool:
        """Whether anyone would hear the question."""
        return self._wanted(UnloadRequested)

    def refused(self, model_id: str, why: str) -> None:
        """Note that its owner keeps a model that it was asked for."""
        self._answer(model_id, why)

    def _is_heard(self, model_id: str) -> bool:
        entry = self._table.find(model_id)
        return entry is None or entry.spec.server is not None or self.listened_to

    def _answer(self, model_id: str, said: UnloadedModel | str) -> None:
        self._questions.answer(external_id(model_id), said)
