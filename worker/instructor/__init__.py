"""Wire to records and back."""
