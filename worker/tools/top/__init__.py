"""``python -m memory_worker top``: a worker's memory as it happens, in a terminal. Needs the extra ``top``."""
