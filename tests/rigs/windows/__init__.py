"""Windows builds of Python and of our dependencies, run by Wine: see ``python_on_wine.py``."""
