"""One source of the operating system's figures each. None of them decides anything."""
