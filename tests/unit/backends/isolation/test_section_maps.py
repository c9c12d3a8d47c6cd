"""Copies between a device's process and the section that a host opens: through a view that the process keeps."""

import sys

import pytest

from tests.unit.isolation import (
    MIB,
    SHARED_BYTES,
    shared_content,
    shared_name,
)
from worker.backends.cpu import CpuBackend
from worker.backends.isolation.section_map import SectionMap
from worker.backends.isolation.shared_maps import SharedMaps
from worker.backends.isolation.touch_guard import TouchGuard

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="only Windows has sections")


def test_a_view_is_kept_as_long_as_its_section(host: CpuBackend) -> None:
    """One for all copies; once the worker and the host have closed theirs it goes, and the name before it."""
    maps, name = SharedMaps(TouchGuard()), shared_name(host)
    maps.add(name, SHARED_BYTES)
    first = maps._maps[name]
    with maps.using(name, SHARED_BYTES) as view:
        assert view == shared_content(host)
        maps.prune()
    maps.add(name, SHARED_BYTES)
    assert maps._maps[name] is first
    host.free("shared")
    assert first.is_freed
    with maps.using(name, SHARED_BYTES):
        maps.prune()
        assert maps._maps[name] is first
    maps.prune()
    assert maps._maps == {}


def test_a_view_that_a_copy_still_holds_stays_readable(host: CpuBackend) -> None:
    """What was cut short may look at it after it was given up."""
    expected, mapped = shared_content(host), SectionMap(shared_name(host), SHARED_BYTES)
    view = mapped.view
    host.free("shared")
    mapped.close()
    assert view == expected


def test_what_is_no_such_section_is_not_mapped(host: CpuBackend) -> None:
    """Neither one that is gone nor one that is shorter; none is made by that."""
    name = shared_name(host)
    with pytest.raises(OSError):  # noqa: PT011 - what Windows says has its own letters
        SectionMap(name, SHARED_BYTES + MIB)
    host.free("shared")
    for _ in range(2):
        with pytest.raises(OSError):  # noqa: PT011 - as above
            SectionMap(name, SHARED_BYTES)
