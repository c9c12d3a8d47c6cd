"""Plugins to learn from."""
