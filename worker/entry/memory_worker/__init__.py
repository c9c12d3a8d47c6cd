"""``python -m memory_worker``: the way in whose name no other package has.

``worker`` and ``protocol`` are names that a host may have packages of. From here on they are the ones that were
installed with this, wherever the current folder or PYTHONPATH have others, and libraries are not looked for in the
current folder. It has to be understood by Python 3.6, to say that this is too old.
"""

from memory_worker.own_packages import prepare


def main() -> None:
    """Run what the command line asks for."""
    prepare()
    from worker.__main__ import main as run  # noqa: PLC0415 - only now is it ours

    run()
