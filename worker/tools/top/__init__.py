"""``python -m worker top``: a worker's memory as it happens, in a terminal. Needs the extra ``top``."""
