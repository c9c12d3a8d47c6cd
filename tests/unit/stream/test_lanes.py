"""Work that conflicts begins in the order of its arrival."""

from hypothesis import given
from hypothesis import strategies as st

from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock
from worker.stream.lanes import Job, Lanes
from worker.stream.work import Claim, Work

PATIENCE_SECONDS = 5.0


CLAIMS = st.lists(st.builds(Claim, st.sampled_from("abcd"), st.booleans()), max_size=3).map(tuple)


def conflict(one: tuple[Claim, ...], other: tuple[Claim, ...]) -> bool:
    """Say again, in the test's own words, when two must not run at once."""
    return any(a.key == b.key and (a.exclusive or b.exclusive) for a in one for b in other)


class Started:
    """Threads that note which jobs they were given, and do nothing."""

    def __init__(self, started: list[int]) -> None:
        self.started = started

    def put(self, job: Job) -> None:
        """Note a job."""
        self.started.append(int(job.request_id))

    def discard(self, job: Job) -> None:
        """Do nothing."""


@given(claims=st.lists(CLAIMS, max_size=10), data=st.data())
def test_conflicting_work_is_in_arrival_order(claims: list[tuple[Claim, ...]], data: st.DataObject) -> None:
    """A job runs exactly when no earlier unfinished job conflicts with it, whoever finishes or gives up first."""
    lanes, started = Lanes(), list[int]()
    threads = Started(started)
    jobs = [
        Job(
            str(number),
            Work(action="x", run=lambda _: None, claims=each, quick=False),
            CancelToken(FixedClock().now_ns),
            lambda _: None,
            threads,
            lambda _: None,
        )
        for number, each in enumerate(claims)
    ]
    unfinished: list[int] = []

    def check() -> None:
        for place, number in enumerate(unfinished):
            blocked = any(conflict(claims[earlier], claims[number]) for earlier in unfinished[:place])
            assert jobs[number].running == (not blocked)

    for number, job in enumerate(jobs):
        free = not any(conflict(claims[earlier], claims[number]) for earlier in unfinished)
        assert lanes.free(claims[number]) == free
        unfinished.append(number)
        assert lanes.admit(job) == free
        check()
    while unfinished:
        number = data.draw(st.sampled_from(unfinished))
        if jobs[number].running and data.draw(st.booleans()):
            assert lanes.begin(jobs[number])
            assert not lanes.withdraw(jobs[number])
            lanes.finish(jobs[number])
        else:  # it waits for others, or has no thread yet
            assert lanes.withdraw(jobs[number])
            assert not lanes.begin(jobs[number])
        unfinished.remove(number)
        check()
    assert lanes.jobs() == ()
    assert len(started) == len(set(started))
    for later, number in enumerate(started):
        for earlier in started[later + 1 :]:
            if earlier < number:
                assert not conflict(claims[earlier], claims[number])
