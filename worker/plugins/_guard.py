"""What goes wrong in a plugin's code is said to be the plugin's, and what it returns has to be JSON."""

import traceback
import uuid
from typing import Any

import orjson

from protocol.vocabulary import Executed
from worker.backends.isolation.codec import RemoteError
from worker.core.errors import CancelledError, DeadlineExceededError, InternalError, WorkerError
from worker.core.log import log
from worker.stream.work import Call, PluginAction


def guarded(run: PluginAction, action: str, plugin: str) -> PluginAction:
    """Return an action that raises only WorkerError, whatever the plugin's code raises, and whose result is written."""

    def guarded_run(data: dict[str, Any], call: Call) -> Any:
        call.check()  # until here nothing was done
        try:
            result = run(data, call)
        except (CancelledError, DeadlineExceededError) as error:
            cut = "cancelled" if isinstance(error, CancelledError) else "the deadline passed"
            error.message = f"{cut} while the plugin's action ran; what it did until then is done"
            error.executed = Executed.UNKNOWN
            raise
        except WorkerError:
            raise
        except BaseException as error:
            # The device's process told its kind of what was raised over there.
            kind = error.kind if isinstance(error, RemoteError) else type(error).__name__
            raise _failed(error, f"raised {kind}", action, plugin) from error
        try:
            return orjson.Fragment(orjson.dumps(result))
        except TypeError as error:
            raise _failed(error, f"returned what is no JSON: {error}", action, plugin) from error

    return guarded_run


def _failed(error: BaseException, what: str, action: str, plugin: str) -> InternalError:
    error_id, said = uuid.uuid4().hex, f"the plugin's action {what}"
    text = "".join(traceback.format_exception(error))
    log("error", said, error_id=error_id, action=action, plugin=plugin, traceback=text)
    return InternalError(
        f"{said}; it is of {plugin}, and the log has the traceback under {error_id}",
        error_id=error_id, action=action, plugin=plugin,
    )  # fmt: skip
