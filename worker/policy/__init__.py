"""Decisions, from numbers alone. Pure: no state, no I/O, no clock."""
