"""``python -m worker report``: a record as one page that shows what happened."""
