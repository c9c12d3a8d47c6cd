"""The accounting: pure numbers under one lock."""
