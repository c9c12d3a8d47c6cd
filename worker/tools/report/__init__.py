"""``python -m memory_worker report``: a record as one page that shows what happened."""
