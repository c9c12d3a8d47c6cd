"""Writes to a store in one process after another, each killed at some moment, and looks at what is left after each.

``python -m tests.rigs.killed_writer FOLDER TIMES SEED``. Exits with 0 where all that was acknowledged is there, and what was
under way is there whole or not at all.
"""

import hashlib
import os
import random
import select
import signal
import struct
import sys
import time
from pathlib import Path

from protocol.vocabulary import StoreKind
from tests.unit.stores.stores import HERE, World
from worker.stores.base import Choice, Content, Item, Options, Store

KEYS = 12


def content(version: int) -> bytes:
    """Return bytes that tell whether they are whole, of very different lengths."""
    head = struct.pack("<Q", version)
    body = hashlib.sha256(head).digest() * (version * 7919 % 3000)
    return head + body


def opened(world: World) -> Store:
    options = Options(persist=True, max_bytes=2**30)
    return world.stores.open("answers", HERE, StoreKind.CACHE, options).store


def write(folder: Path, chance: random.Random, version: int, ack: int) -> None:
    """Put, replace and delete until killed; say what is about to be done, and that it was."""
    store = opened(World(folder))
    while True:
        version += 1
        key = f"k{chance.randrange(KEYS)}"
        deletes = chance.random() < 0.2
        os.write(ack, struct.pack("<cB?Q", b"b", int(key[1:]), deletes, version))
        if deletes:
            store.delete(Choice(key=key))
        else:
            store.put(Item(key, Content(content(version))))
        os.write(ack, struct.pack("<cB?Q", b"e", int(key[1:]), deletes, version))


def look(folder: Path, known: dict[str, int | None], begun: tuple[str, int | None] | None) -> None:
    """Hold what is there against what was acknowledged, and take over which of the two the last one is."""
    world = World(folder)
    store = opened(world)
    if begun is not None:
        key, version = begun
        found = store.get(key)
        whole = None if found is None else bytes(found.content.data)
        allowed = {None if each is None else content(each) for each in (known.get(key), version)}
        assert whole in allowed, f"{key} is torn"
        known[key] = None if whole is None else struct.unpack_from("<Q", whole)[0]
    for key, version in known.items():
        found = store.get(key)
        whole = None if found is None else bytes(found.content.data)
        assert whole == (None if version is None else content(version)), (
            f"{key} is not as it was acknowledged"
        )
    world.stores.close()


def main() -> None:
    """Do it."""
    folder, times, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    known: dict[str, int | None] = {}
    version = written = 0
    for _ in range(times):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            write(folder, random.Random(chance.random()), version, writing)
        os.close(writing)
        select.select([reading], [], [], 60)  # it has begun
        time.sleep(chance.random() * 0.012)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = b""
        while piece := os.read(reading, 2**16):
            told += piece
        os.close(reading)
        begun = None
        for mark, number, deletes, version in struct.iter_unpack("<cB?Q", told):
            key, new = f"k{number}", None if deletes else version
            begun = (key, new) if mark == b"b" else None
            if mark == b"e":
                known[key] = new
                written += 1
        look(folder, known, begun)
    sys.stdout.write(f"{times} killed, {written} acknowledged\n")


if __name__ == "__main__":
    main()
