"""Bytes, lines, order, repetition and cancelling: what carries a request to its one reply."""
