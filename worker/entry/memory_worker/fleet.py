"""What a fleet runs on its machines, by the name that no other package has: Ray looks for it by name.

Processes that Ray starts have a path of their own making, on which others' ``worker`` may come first.
"""

from memory_worker.own_packages import prepare

prepare()

from worker.fleet.directory import Directory as _Directory  # noqa: E402 - only now is it ours
from worker.fleet.node import Node as _Node  # noqa: E402 - as above


class Directory(_Directory):
    """The directory, as Ray finds it."""


class Node(_Node):
    """A node, as Ray finds it."""
