"""Telling those who watch: the record file, the metrics file, and the socket of a live view."""
