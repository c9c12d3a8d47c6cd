"""The accounts that the manager keeps. Pure: no I/O, no devices."""
