"""A library whose import fails: it is installed, and lacks what the system should have."""

raise OSError("libcudart.so.12: cannot open shared object file")
