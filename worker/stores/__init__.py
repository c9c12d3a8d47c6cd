"""Stores: memory of an application that is bounded in bytes, priced, kept apart by scope, and given back.

How a request gets here: the instructor checks it, ``Stores`` (registry.py) finds the store that is open by that name in
that scope, and that store does it. A *scope* is a pair, user and project; what is open in it is in a table of its own,
so no operation can reach across.

A kind of store is one small file and one class, a ``Kind`` (base.py); ``KINDS`` in registry.py says where it is, and it is
imported when the first store of it is opened. There is one such object for all stores of that kind and name, whatever their
scopes: it is the *consumer* that takes part when headroom is made (``worker.plugins.Consumer``). Its ``open`` makes a
``Store``: what one scope keeps under that name, with an index and a file of its own.

What there is to build a kind of:

- ``segments.SegmentMemory``: records in anonymous maps (``segment.py`` is one, ``filling.py`` says which are written, ``maps.py`` asks the
  system for them) that the system has back when they are freed. ``entry.py`` says what a record is, ``key_index.py`` finds it by its key,
  ``key_order.py`` lists keys in their order, ``due.py`` finds it by its end, and ``table.EntryTable`` is all of that.
- ``entries.EntryKind`` and ``index.EntryStore``: entries by key with a bound, prices, lifetimes and tags. A cache is this
  and nothing more. ``held.py`` is what a store does in memory, ``prices.py`` what an entry is worth, ``giving.py`` what goes first,
  ``releasing.py`` how a segment does, ``owner.py`` what a store knows of its kind.
- ``kept.py``: stores of what can't be made again.
- ``files.py``: what persists (``file_format.py`` says how, ``folder.py`` where, ``disk.py`` what a disk has against it).
- ``Tools`` (base.py): the clock, where consumers are added, and where files go.

Nothing here imports anything of the worker's but ``worker.plugins`` and what lies in ``worker.core``.
"""
