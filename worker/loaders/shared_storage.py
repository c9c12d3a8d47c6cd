"""Where views of storages go in a block: what several views share is placed once, as torch itself would hold it.

1. Views of a storage that overlap are one cluster: it is placed as it lies, and each view keeps its strides.
2. Unless the views, each made dense, take less: then each different view is placed dense.
3. A view that overlaps no other one is placed as it lies if it fills its span (also transposed or expanded), else
   it is made dense.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate

from protocol.record import Record
from worker.core.models import TensorInfo
from worker.loaders.base import ALIGNMENT_BYTES, Part, placed_dtype
from worker.loaders.dtypes import ITEM_BYTES
from worker.loaders.torch_values import StoredView


class Source(Record):
    """What a part of the block is read from: elements of a storage as they lie, or gathered by a view."""

    storage: str
    stored_dtype: str
    first: int
    """The first element of what lies as it is placed."""
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
    runs = _runs(dict.fromkeys(named.values()))
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
            at[run] = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            end = at[run] + run.count * item
            parts.append(Part(name, at[run], run.count * item, dtype, view.dtype))
            sources.append(run.source)
        dense = run.source.gathered is not None or _row_major(view)
        low, high = (0, math.prod(view.shape)) if run.source.gathered is not None else view.span
        tensors.append(
            TensorInfo(
                name, view.shape, view.dtype, (high - low) * ITEM_BYTES[view.dtype], dtype,
                at[run] + (low - run.source.first) * item, (high - low) * item,
                None if dense else view.strides,
            )
        )  # fmt: skip
    return Layout(tuple(tensors), tuple(parts), tuple(sources), end)


def _runs(views: Iterable[StoredView]) -> dict[StoredView, _Run]:
    by_storage: dict[tuple[str, str], list[StoredView]] = {}
    for view in views:
        by_storage.setdefault((view.storage, view.dtype), []).append(view)
    found: dict[StoredView, _Run] = {}
    for (storage, dtype), members in by_storage.items():
        for cluster in _clusters(members):
            low = min(each.span[0] for each in cluster)
            high = max(each.span[1] for each in cluster)
            dense = [math.prod(each.shape) for each in cluster]
            if high - low <= sum(dense):  # 1, 3
                run = _Run(Source(storage, dtype, low), high - low)
                found |= dict.fromkeys(cluster, run)
            else:  # 2, 3
                for view, count in zip(cluster, dense, strict=True):
                    found[view] = _Run(Source(storage, dtype, 0, view), count)
    return found


def _clusters(views: list[StoredView]) -> list[list[StoredView]]:
    """Group views that overlap, also by way of others. One without elements is by itself."""
    ordered = sorted(views, key=lambda each: each.span)
    ends = accumulate((each.span[1] for each in ordered), max)
    clusters: list[list[StoredView]] = []
    reached = 0
    for view, end in zip(ordered, ends, strict=True):
        if not clusters or view.span[0] >= reached:
            clusters.append([])
        clusters[-1].append(view)
        reached = end
    return clusters


def _row_major(view: StoredView) -> bool:
    """Tell whether a view's elements lie in the order of its indices, without gaps."""
    step = 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= max(1, size)
    return True
