"""One kind of transaction each."""
