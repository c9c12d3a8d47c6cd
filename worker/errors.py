"""The errors that plugins raise, under the name that they have always had; see ``worker.core.errors``."""

from worker.core.errors import *  # noqa: F403 - every error there is public
