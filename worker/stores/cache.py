"""Caches: what can be made again. The entries that are the cheapest to make again, by how soon that is, go first."""

from dataclasses import replace

from protocol.vocabulary import StoreKind, StorePreset
from worker.stores.base import Options
from worker.stores.entries import EntryKind

PRESETS = {
    StorePreset.RESPONSES: Options(max_entries=50, ttl_ms=300_000),
    StorePreset.RAG: Options(max_entries=100, ttl_ms=180_000),
    StorePreset.RESULTS: Options(persist=True),
}


class Caches(EntryKind):
    """All scopes' caches of one name."""

    word = StoreKind.CACHE

    def resolved(self, options: Options) -> Options:
        """Return options with those of their preset; what is given beside it counts."""
        if options.preset is not None:
            options = replace(options, preset=None).over(PRESETS[options.preset])
        return super().resolved(options)
