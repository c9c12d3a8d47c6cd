"""Engines: libraries that run models by themselves, each model's in a process that can be measured and ended."""
