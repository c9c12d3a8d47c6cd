"""Actions for prefixes of prompts: text from a model of any name, and an engine that dies as it is given a prefix back."""

from examples.plugins.text_generation import generate
from tests.rigs.prefix_work import die_restoring, measured
from worker.plugins import PluginHost


def register(host: PluginHost) -> None:
    """Add ``test.write``, ``test.write_plainly``, ``test.measured`` and ``test.die_restoring``."""
    host.add_model_action("test.write", generate, "writer")
    host.add_model_action("test.write_plainly", generate, "plain")
    host.add_model_action("test.measured", measured, "writer")
    host.add_model_action("test.die_restoring", die_restoring, "writer")
