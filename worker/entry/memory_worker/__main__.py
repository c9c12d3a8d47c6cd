"""``python -m memory_worker``."""

from memory_worker import main

main()
