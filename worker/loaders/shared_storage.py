"""Where views of storages go in a block: what several views share is placed once, as torch itself would hold it.

1. Views of a storage that overlap are one cluster: it is placed as it lies, and each view keeps its strides. Views of
   different types, too, where none is cast: it is then placed as bytes.
2. Unless the views, each made dense, take less: then each different view is placed dense.
3. A view that overlaps no other one is placed as it lies if it fills its span (also transposed or expanded), else
   it is made dense.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate

from protocol.record import Record
from worker.core.models import TensorInfo
from worker.loaders.base import Part, aligned, placed_dtype
from worker.loaders.dtypes import ITEM_BYTES
from worker.loaders.torch_values import StoredView


class Source(Record):
    """What a part of the block is read from: elements of a storage as they lie, or gathered by a view."""

    storage: str
    stored_dtype: str
    first: int
    """The first element of what lies as it is placed: where what was stored has several types, the first byte."""
    gathered: StoredView | None = None


class Layout(Record):
    """The block."""

    tensors: tuple[TensorInfo, ...]
    parts: tuple[Part, ...]
    sources: tuple[Source, ...]
    """Of the parts, one each."""
    total_bytes: int


class _Run(Record):
    """A stretch of a storage that is placed as it lies, or one view that is gathered."""

    source: Source
    count: int


def lay_out_views(named: Mapping[str, StoredView], cast_to: str | None) -> Layout:
    """Give each tensor its place."""
    runs = _runs(dict.fromkeys(named.values()), cast_to)
    tensors: list[TensorInfo] = []
    parts: list[Part] = []
    sources: list[Source] = []
    at: dict[_Run, int] = {}
    end = 0
    for name, view in named.items():
        run = runs[view]
        dtype = placed_dtype(view.dtype, cast_to)
        item = ITEM_BYTES[dtype]
        if run not in at:
            at[run] = aligned(end) if run.count else 0
            stored = run.source.stored_dtype
            placed = placed_dtype(stored, cast_to)
            size = run.count * ITEM_BYTES[placed]
            end = at[run] + size if size else end
            parts.append(Part(name, at[run], size, placed, stored))
            sources.append(run.source)
        dense = run.source.gathered is not None or _row_major(view)
        low, high = (0, math.prod(view.shape)) if run.source.gathered is not None else view.span
        tensors.append(
            TensorInfo(
                name, view.shape, view.dtype, (high - low) * ITEM_BYTES[view.dtype], dtype,
                at[run] + _distance(run.source, view.dtype, low, item), (high - low) * item,
                None if dense else view.strides,
            )
        )  # fmt: skip
    return Layout(tuple(tensors), tuple(parts), tuple(sources), end)


def _distance(source: Source, dtype: str, low: int, item: int) -> int:
    """Return how many bytes after its part's beginning a view's first element is placed."""
    if source.gathered is None and source.stored_dtype != dtype:
        return low * item - source.first * ITEM_BYTES[source.stored_dtype]
    return (low - source.first) * item


def _runs(views: Iterable[StoredView], cast_to: str | None) -> dict[StoredView, _Run]:
    by_storage: dict[str, list[StoredView]] = {}
    for view in views:
        by_storage.setdefault(view.storage, []).append(view)
    found: dict[StoredView, _Run] = {}
    for members in by_storage.values():
        for cluster in _clusters(members):
            types = dict.fromkeys(each.dtype for each in cluster)
            whole = _as_bytes(cluster, cast_to) if len(types) > 1 else None
            if whole is not None:
                found |= dict.fromkeys(cluster, whole)
                continue
            for dtype in types:
                for alike in _clusters([each for each in cluster if each.dtype == dtype]):
                    found |= _of_one_type(alike)
    return found


def _as_bytes(cluster: list[StoredView], cast_to: str | None) -> _Run | None:
    """Place views of several types as they lie; None where one is cast, or where less is taken one by one."""
    if any(placed_dtype(each.dtype, cast_to) != each.dtype for each in cluster):
        return None
    spans = [_byte_span(each) for each in cluster]
    aligned = max(ITEM_BYTES[each.dtype] for each in cluster)
    low = min(begin for begin, _ in spans) // aligned * aligned
    high = max(end for _, end in spans)
    dense = sum(math.prod(each.shape) * ITEM_BYTES[each.dtype] for each in cluster)
    if high - low > dense:
        return None
    return _Run(Source(cluster[0].storage, "U8", low), high - low)


def _of_one_type(cluster: list[StoredView]) -> dict[StoredView, _Run]:
    storage, dtype = cluster[0].storage, cluster[0].dtype
    low = min(each.span[0] for each in cluster)
    high = max(each.span[1] for each in cluster)
    dense = [math.prod(each.shape) for each in cluster]
    if high - low <= sum(dense):  # 1, 3
        return dict.fromkeys(cluster, _Run(Source(storage, dtype, low), high - low))
    return {  # 2, 3
        view: _Run(Source(storage, dtype, 0, view), count) for view, count in zip(cluster, dense, strict=True)
    }


def _clusters(views: list[StoredView]) -> list[list[StoredView]]:
    """Group views of a storage that overlap, also by way of others. One without elements is by itself."""
    ordered = sorted(views, key=_byte_span)
    ends = accumulate((_byte_span(each)[1] for each in ordered), max)
    clusters: list[list[StoredView]] = []
    reached = 0
    for view, end in zip(ordered, ends, strict=True):
        if not clusters or _byte_span(view)[0] >= reached:
            clusters.append([])
        clusters[-1].append(view)
        reached = end
    return clusters


def _byte_span(view: StoredView) -> tuple[int, int]:
    low, high = view.span
    return low * ITEM_BYTES[view.dtype], high * ITEM_BYTES[view.dtype]


def _row_major(view: StoredView) -> bool:
    """Tell whether a view's elements lie in the order of its indices, without gaps; those of one without elements do."""
    if 0 in view.shape:
        return True
    step = 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= max(1, size)
    return True
