"""The memory worker. Nothing is imported here: the descriptors are claimed before any library loads."""

__version__ = "0.1.0"
