"""A backend in a process of its own: how the two processes talk, and how one notices the other's end."""
