"""The pool of buffers: what it keeps, for how long, and what goes back."""

from worker.backends.buffer_pool import KEEP_NS, MIN_BYTES, BufferPool
from worker.backends.host_memory import AnonymousBuffer, page_rounded, resident_bytes
from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock


class Pool:
    """A pool under a clock that the test moves."""

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self.clock = FixedClock()
        self.pool = BufferPool(max_bytes, self.clock.now_ns)

    def pass_ns(self, ns: int) -> None:
        """Let time pass."""
        self.clock.wait(ns / 1e9, CancelToken(self.clock.now_ns))

    def cycle(self, size: int) -> bool:
        """Take or make a buffer and free it; returns whether the pool kept it."""
        buffer = self.pool.take(page_rounded(size)) or AnonymousBuffer(size)
        buffer.touch(CancelToken(self.clock.now_ns))
        kept = self.pool.offer(buffer)
        if not kept:
            buffer.close()
        return kept


def test_single_frees_are_real() -> None:
    """A size is kept from its second quick return on; a first free always goes back."""
    pool = Pool()
    assert [pool.cycle(MIN_BYTES) for _ in range(4)] == [False, True, True, True]
    assert pool.pool.cached_bytes == MIN_BYTES
    assert not pool.cycle(2 * MIN_BYTES)
    assert pool.pool.drop() == MIN_BYTES
    assert pool.pool.cached_bytes == 0


def test_slow_returns_are_no_churn() -> None:
    """A size that comes back later than two seconds after its free is not kept."""
    pool = Pool()
    for _ in range(4):
        assert not pool.cycle(MIN_BYTES)
        pool.pass_ns(KEEP_NS + 1)


def test_what_is_not_reused_goes_back() -> None:
    """What was kept for nothing for two seconds is given up, and its size starts over."""
    pool = Pool()
    pool.cycle(MIN_BYTES)
    assert pool.cycle(MIN_BYTES)
    pool.pass_ns(KEEP_NS)
    assert pool.pool.drop_idle() == 0
    pool.pass_ns(1)
    assert pool.pool.drop_idle() == MIN_BYTES
    assert pool.pool.cached_bytes == 0
    pool.pass_ns(KEEP_NS)
    assert not pool.cycle(MIN_BYTES)


def test_pool_is_bounded() -> None:
    """The pool keeps no more than it may, small or untouched buffers never, and nothing where it may keep nothing."""
    pool = Pool(max_bytes=3 * MIN_BYTES)
    pool.cycle(2 * MIN_BYTES)
    assert pool.cycle(2 * MIN_BYTES)
    pool.cycle(MIN_BYTES + 4096)
    assert not pool.cycle(MIN_BYTES + 4096)
    assert pool.pool.cached_bytes == 2 * MIN_BYTES
    pool.pool.drop()
    assert not any(pool.cycle(MIN_BYTES - 4096) for _ in range(3))
    untouched = AnonymousBuffer(MIN_BYTES)
    assert not pool.pool.offer(untouched)
    untouched.close()
    assert not any(Pool(max_bytes=0).cycle(MIN_BYTES) for _ in range(5))


def test_many_sizes_are_forgotten() -> None:
    """Sizes beyond those remembered start over, and take no room."""
    pool = Pool()
    for number in range(200):
        assert not pool.cycle(MIN_BYTES + number * 4096)
    assert not pool.cycle(MIN_BYTES)


def test_residency_is_measured() -> None:
    """The system's own count of a buffer's pages follows what is touched, page by page."""
    buffer = AnonymousBuffer(8 * 2**20)
    assert resident_bytes(buffer.address, buffer.actual_bytes) == 0
    buffer.touch(CancelToken(FixedClock().now_ns))
    assert resident_bytes(buffer.address, buffer.actual_bytes) == buffer.actual_bytes
    assert buffer.close() == buffer.actual_bytes
