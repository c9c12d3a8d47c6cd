"""Which segments are written: of each band one, and beside it one more that had no room for what came, but has for less."""

from collections.abc import Iterator

from worker.stores.segment import Band, Segment


class Filling:
    """The segments of all bands that are written. Its owner locks."""

    def __init__(self) -> None:
        # All mutable state: of each band two at most, the one that was begun last at the end.
        self._bands: dict[Band, list[Segment]] = {}

    def with_room(self, size: int, band: Band) -> Segment | None:
        """Return where a record of a band goes: where there is the least room for it. None where it has none."""
        best = None
        for segment in self._bands.get(band, ()):
            if size <= segment.rest and (best is None or segment.rest < best.rest):
                best = segment
        return best

    def any_with_room(self, size: int) -> Segment | None:
        """Return where there is room, whatever lies there."""
        return next((each for each in self._all() if size <= each.rest), None)

    def begin(self, segment: Segment) -> list[Segment]:
        """Write a new one from now on. Returns those of its band that are full, or fuller than others, and no longer written."""
        open_ones = self._bands.get(segment.band, [])
        over = [each for each in open_ones if each.is_full]
        left = [each for each in open_ones if not each.is_full]
        if len(left) > 1:
            fullest = min(left, key=_rest)
            left.remove(fullest)
            over.append(fullest)
        self._bands[segment.band] = [*left, segment]
        return over

    def leave(self, segment: Segment) -> None:
        """Write one no more."""
        open_ones = self._bands.get(segment.band, [])
        if segment in open_ones:
            open_ones.remove(segment)
            if not open_ones:
                del self._bands[segment.band]

    def __contains__(self, segment: Segment) -> bool:
        return segment in self._bands.get(segment.band, ())

    def _all(self) -> Iterator[Segment]:
        return (each for open_ones in self._bands.values() for each in open_ones)


def _rest(segment: Segment) -> int:
    return segment.rest
