"""Where the system says what may be had: control groups of both versions, commit limits, the live machine."""

import os
import sys
from pathlib import Path

import pytest

from protocol.vocabulary import Source
from tests.e2e.process import MIB, Worker
from tests.rigs.control_group import LIMIT, group, worker_in
from worker.telemetry.cgroup import CgroupMemory
from worker.telemetry.commit import Commitment, commitments
from worker.telemetry.system import SystemMemory

__all__ = ["group"]

V1_NONE = 9223372036854771712


class Tree:
    """A made-up root of a file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/self").mkdir(parents=True)

    def process(self, groups: str, mounts: str) -> None:
        """Say which groups this process is in, and what is mounted."""
        (self.root / "proc/self/cgroup").write_bytes(os.fsencode(groups))
        (self.root / "proc/self/mountinfo").write_bytes(os.fsencode(mounts))

    def v1(self, folder: str, limit: int, usage: int, inactive: int | None = None) -> None:
        """Make a group of version 1."""
        path = self.root / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (path / "memory.usage_in_bytes").write_text(f"{usage}\n")
        if inactive is not None:
            (path / "memory.stat").write_text(f"cache 1\ninactive_file 1\ntotal_inactive_file {inactive}\n")

    def v2(self, folder: str, limit: str, usage: int, inactive: int | None = None) -> None:
        """Make a group of version 2."""
        path = self.root / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "memory.max").write_text(f"{limit}\n")
        (path / "memory.current").write_text(f"{usage}\n")
        if inactive is not None:
            (path / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")

    def read(self) -> tuple[int | None, int | None]:
        """Read this tree."""
        return CgroupMemory(self.root).read()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return an empty tree."""
    return Tree(tmp_path)


MOUNT_V1 = "36 32 0:31 / /sys/fs/cgroup/memory rw,nosuid shared:15 - cgroup cgroup rw,memory\n"
MOUNT_V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OTHER = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n35 32 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"


def test_no_groups(tree: Tree) -> None:
    """A system without control groups has no limit from them."""
    assert tree.read() == (None, None)
    tree.process("", "")
    assert tree.read() == (None, None)


def test_v1(tree: Tree) -> None:
    """Version 1: the group's limit, and what it still gives, files that can be dropped included."""
    tree.process("5:cpu:/a\n4:memory:/a\n0::/b\n", OTHER + MOUNT_V1)
    tree.v1("sys/fs/cgroup/memory", V1_NONE, 10**9)
    tree.v1("sys/fs/cgroup/memory/a", 1000, 600, inactive=50)
    assert tree.read() == (1000, 450)


def test_v2(tree: Tree) -> None:
    """Version 2 likewise; the root has no limit file."""
    tree.process("0::/a/b\n", OTHER + MOUNT_V2)
    tree.v2("sys/fs/cgroup/a", "max", 5)
    tree.v2("sys/fs/cgroup/a/b", "1000", 600, inactive=50)
    assert tree.read() == (1000, 450)


def test_the_tightest_ancestor_binds(tree: Tree) -> None:
    """A limit further up counts, too: the smallest limit and the smallest room, each wherever it is."""
    tree.process("0::/a/b\n", MOUNT_V2)
    tree.v2("sys/fs/cgroup/a", "900", 880)
    tree.v2("sys/fs/cgroup/a/b", "1000", 100)
    assert tree.read() == (900, 20)


@pytest.mark.parametrize("limit", [V1_NONE, 2**63 - 1])
def test_no_limit_v1(tree: Tree, limit: int) -> None:
    """Version 1 says none with a number near 2**63."""
    tree.process("4:memory:/\n", MOUNT_V1)
    tree.v1("sys/fs/cgroup/memory", limit, 600)
    assert tree.read() == (None, None)


def test_no_limit_v2(tree: Tree) -> None:
    """Version 2 says none with a word."""
    tree.process("0::/\n", MOUNT_V2)
    tree.v2("sys/fs/cgroup", "max", 600)
    assert tree.read() == (None, None)


def test_over_the_limit(tree: Tree) -> None:
    """A group that is over its limit gives nothing more, not less than nothing."""
    tree.process("0::/\n", MOUNT_V2)
    tree.v2("sys/fs/cgroup", "100", 600)
    assert tree.read() == (100, 0)


def test_container_without_a_namespace(tree: Tree) -> None:
    """The group's path is the host's, the mount shows only the container's part of the tree."""
    mount = "36 32 0:31 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    tree.process("4:memory:/docker/abc/inner\n", mount)
    tree.v1("sys/fs/cgroup/memory", 1000, 100)
    tree.v1("sys/fs/cgroup/memory/inner", 700, 100)
    assert tree.read() == (700, 600)


def test_container_whose_group_is_outside(tree: Tree) -> None:
    """A process above its namespace's root is held to the mount's own limit."""
    tree.process("0::/../other\n", MOUNT_V2)
    tree.v2("sys/fs/cgroup", "1000", 100)
    assert tree.read() == (1000, 900)


@pytest.mark.parametrize("root", ["/../../..", "/docker/other"])
def test_a_mount_of_other_groups_comes_before_its_own(tree: Tree, root: str) -> None:
    """As where the machine's tree, or another container's, is a volume: its own group is the one whose limit holds."""
    other = f"29 23 0:26 {root} /host/sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"
    tree.process("0::/\n" if root.startswith("/..") else "0::/docker/abc\n", other + MOUNT_V2)
    tree.v2("host/sys/fs/cgroup", "max", 5)
    tree.v2("sys/fs/cgroup" if root.startswith("/..") else "sys/fs/cgroup/docker/abc", "1000", 100)
    assert tree.read() == (1000, 900)


@pytest.mark.parametrize("group", ["/", "/inner", "/../pod/inner"])
@pytest.mark.parametrize(("there", "limits"), [(True, (800, 100)), (False, (None, None))])
def test_a_namespace_without_a_mount_of_its_own(
    tree: Tree, group: str, limits: tuple[int | None, int | None], *, there: bool
) -> None:
    """The machine's mount has its groups, and does not say which is this process's: it is that which lists it."""
    tree.process(f"0::{group}\n", "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    tree.v2("sys/fs/cgroup/pods/other", "300", 5)
    tree.v2("sys/fs/cgroup/pods/pod/inner", "900", 700)
    tree.v2("sys/fs/cgroup/pods/pod", "800", 700)
    own = tree.root / "sys/fs/cgroup/pods/pod" / ("inner" if group.endswith("inner") else "")
    (own / "cgroup.procs").write_text(f"1\n{os.getpid()}\n" if there else "1\n")
    assert tree.read() == limits
    assert CgroupMemory(tree.root).is_hidden() is not there


@pytest.mark.parametrize("mounts", [OTHER, OTHER + MOUNT_V1])
@pytest.mark.parametrize("groups", ["4:memory:/a\n0::/\n", "4:cpu:/a\n0::/a\n"])
def test_a_group_that_can_not_be_looked_at(tree: Tree, groups: str, mounts: str) -> None:
    """Not mounted, or mounted below what hides it: no limit is seen, which is not said to be none."""
    tree.process(groups, mounts)
    assert tree.read() == (None, None)
    assert CgroupMemory(tree.root).is_hidden()


def test_a_group_that_can_be_looked_at_is_not_hidden(tree: Tree) -> None:
    """Whether it has a limit or none; and neither is one of a system that has no groups."""
    assert not CgroupMemory(tree.root).is_hidden()
    tree.process("4:cpu:/a\n0::/a\n", OTHER + MOUNT_V2)
    tree.v2("sys/fs/cgroup/a", "max", 5)
    assert not CgroupMemory(tree.root).is_hidden()


def test_controllers_mounted_together(tree: Tree) -> None:
    """Version 1 may mount memory along with others."""
    mount = "36 32 0:31 / /cg/both rw - cgroup cgroup rw,cpu,memory\n"
    tree.process("4:cpu,memory:/\n", mount)
    tree.v1("cg/both", 1000, 100)
    assert tree.read() == (1000, 900)


@pytest.mark.parametrize("name", ["a\rb", "a\fb", "a\x1eb", "a\x85b", "a\u2028b", "a\udcffb", "a\\040b"])
def test_names_of_mounts_and_groups_may_hold_anything(tree: Tree, name: str) -> None:
    """Only a newline ends a line, whatever else does so elsewhere; a blank in the name of a mount is written in octal."""
    mount = f"36 32 0:31 / /{name} rw - ext4 /dev/{name} rw\n37 32 0:32 / /cg/{name} rw - cgroup2 cgroup rw\n"
    tree.process(f"4:cpu:/{name}\n0::/{name}\n", mount)
    point = name.replace("\\040", " ")
    tree.v2(f"cg/{point}/{name}", "1000", 100)
    assert tree.read() == (1000, 900)


def test_hybrid_without_a_v1_limit_file(tree: Tree) -> None:
    """Where version 1 has no memory controller, version 2 is asked."""
    tree.process("4:cpu:/a\n0::/a\n", OTHER + MOUNT_V2)
    tree.v2("sys/fs/cgroup/a", "500", 100)
    assert tree.read() == (500, 400)


def test_group_that_goes_away(tree: Tree) -> None:
    """A group that cannot be read any more has no say; reading does not fail."""
    tree.process("0::/a\n", MOUNT_V2)
    tree.v2("sys/fs/cgroup/a", "500", 100)
    group = CgroupMemory(tree.root)
    assert group.read() == (500, 400)
    (tree.root / "sys/fs/cgroup/a/memory.max").unlink()
    assert group.read() == (None, None)


def test_moved_after_the_start(tree: Tree) -> None:
    """A supervisor may move the process at any time: its new group's limit holds from the next reading on."""
    tree.process("0::/a\n", MOUNT_V2)
    tree.v2("sys/fs/cgroup/a", "500", 100)
    tree.v2("sys/fs/cgroup/b", "300", 200)
    group = CgroupMemory(tree.root)
    assert group.read() == (500, 400)
    tree.process("0::/b\n", MOUNT_V2)
    assert group.read() == (300, 100)
    (tree.root / "sys/fs/cgroup/b/memory.max").write_text("250\n")
    assert group.read() == (250, 50)
    tree.process("0::/\n", MOUNT_V2)
    assert group.read() == (None, None)


def test_memory_high(tree: Tree) -> None:
    """Above memory.high the kernel holds a group's processes up: it is a limit like memory.max, at any depth."""
    tree.process("0::/a/b\n", MOUNT_V2)
    tree.v2("sys/fs/cgroup/a", "max", 100)
    tree.v2("sys/fs/cgroup/a/b", "1000", 100)
    (tree.root / "sys/fs/cgroup/a/memory.high").write_text("400\n")
    assert tree.read() == (400, 300)
    (tree.root / "sys/fs/cgroup/a/b/memory.high").write_text("max\n")
    assert tree.read() == (400, 300)
    (tree.root / "sys/fs/cgroup/a/b/memory.high").write_text("150\n")
    assert tree.read() == (150, 50)


def test_swap_counts_where_it_is_limited_too(tree: Tree) -> None:
    """Version 1 may limit memory and swap together: what is swapped out is gone of that."""
    tree.process("4:memory:/\n", MOUNT_V1)
    tree.v1("sys/fs/cgroup/memory", 1000, 300)
    (tree.root / "sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").write_text("1000\n")
    (tree.root / "sys/fs/cgroup/memory/memory.memsw.usage_in_bytes").write_text("900\n")
    assert tree.read() == (1000, 100)


def test_what_the_kernel_would_give_back(tree: Tree) -> None:
    """Pages of files and slab that can be reclaimed are available; shared memory and what is locked are not."""
    tree.process("0::/a\n", MOUNT_V2)
    tree.v2("sys/fs/cgroup/a", "1000", 900)
    stat = tree.root / "sys/fs/cgroup/a/memory.stat"
    stat.write_text(
        "anon 100\nfile 700\nshmem 300\ninactive_anon 300\nactive_anon 100\ninactive_file 250\n"
        "active_file 150\nunevictable 10\nslab_reclaimable 40\nslab_unreclaimable 60\nslab 100\n"
    )
    assert tree.read() == (1000, 100 + 250 + 150 + 40)


# ---- commit ----


def meminfo(proc: Path, mode: str, limit_kib: int = 1000, committed_kib: int = 400) -> None:
    """Make the files that say how much may be promised."""
    (proc / "sys/vm").mkdir(parents=True)
    (proc / "sys/vm/overcommit_memory").write_text(f"{mode}\n")
    text = f"MemTotal: 1 kB\nCommitLimit:    {limit_kib} kB\nCommitted_AS:   {committed_kib} kB\nHugePages_Total:       0\n"
    (proc / "meminfo").write_text(text)


@pytest.mark.skipif(sys.platform == "win32", reason="limits as on POSIX")
def test_strict_overcommit(tmp_path: Path) -> None:
    """Where the kernel counts promises, what is left of them bounds what can be mapped; never below zero."""
    meminfo(tmp_path / "a", "2")
    assert commitments(tmp_path / "a") == (Commitment("commit", 1000 * 1024, 600 * 1024),)
    meminfo(tmp_path / "b", "2", committed_kib=5000)
    assert commitments(tmp_path / "b") == (Commitment("commit", 1000 * 1024, 0),)
    for mode in ("0", "1"):
        meminfo(tmp_path / mode, mode)
        assert commitments(tmp_path / mode) == ()
    assert commitments(tmp_path / "nothing") == ()


@pytest.mark.skipif(sys.platform != "linux", reason="limits as on Linux")
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_process(limit: str) -> None:
    """A limit on addresses or data is the budget, and what it refuses is out of memory, not a crash."""
    script = f"import resource, sys, os; resource.setrlimit(resource.{limit}, (2**31, 2**31));"
    script += "os.execv(sys.executable, [sys.executable, '-m', 'worker'])"
    with Worker(command=(sys.executable, "-c", script)) as worker:
        status = worker.call("memory.get_status", {"device_id": "cpu"})["devices"][0]
        assert (status["budget_bytes"], status["budget_source"]) == (2**31, "os")
        assert 0 < status["available_bytes"] < 2**31
        error = worker.refused(
            "memory.allocate", {"size_bytes": 2**31, "initialize": "none", "device_id": "cpu"}
        )
        assert error["code"] in {"out_of_memory", "limit_exceeded"}
        room = worker.call("memory.get_status", {"device_id": "cpu"})["devices"][0]["available_bytes"]
        data = {"size_bytes": room, "initialize": "none", "device_id": "cpu"}
        worker.call("memory.allocate", data)
        assert worker.call("worker.ping")["uptime_ms"] >= 0


# ---- the live machine ----


def test_the_live_machine() -> None:
    """The figures of this machine are there and agree with one another."""
    reading = SystemMemory().read()
    assert reading.total_bytes is not None
    assert reading.budget_bytes is not None
    assert reading.free_bytes is not None
    assert reading.process_rss_bytes is not None
    assert 0 < reading.process_rss_bytes < reading.total_bytes
    assert 0 < reading.free_bytes <= reading.budget_bytes <= reading.total_bytes
    assert reading.budget_source in {Source.OS, Source.CGROUP}
    assert SystemMemory().notes()


@pytest.mark.parametrize("through", [(), ("unshare", "--cgroup")])
def test_worker_in_a_real_group(group: Path, through: tuple[str, ...]) -> None:
    """In a control group, the group's limit is the budget, and asking for more is refused, not killed.

    So it is in a namespace of groups, where the machine's own mount of them is all that there is.
    """
    with Worker(command=worker_in(group, *through)) as worker:
        status = worker.call("memory.get_status", {"device_id": "cpu"})["devices"][0]
        assert (status["budget_bytes"], status["budget_source"]) == (LIMIT, "cgroup")
        assert 0 < status["available_bytes"] < LIMIT
        data = {"size_bytes": LIMIT, "device_id": "cpu"}
        assert worker.refused("memory.allocate", data)["code"] == "out_of_memory"
        taken = 0
        while True:
            reply = worker.ask("memory.allocate", {"size_bytes": 32 * MIB, "device_id": "cpu"})
            if not reply["success"]:
                break
            taken += 32 * MIB
        assert reply["error"]["code"] in {"out_of_memory", "limit_exceeded"}
        assert LIMIT / 2 < taken < LIMIT
        rest = worker.call("memory.get_status", {"device_id": "cpu", "refresh": True})["devices"][0]
        if rest["available_bytes"]:
            worker.call("memory.allocate", {"size_bytes": rest["available_bytes"], "device_id": "cpu"})
        assert rest["pressure_level"] in {"high", "critical"}
        cleared = worker.call("memory.clear", {"device_id": "cpu", "clear_type": "all"})
        assert cleared["cleared_bytes"] >= taken
        after = worker.call("memory.get_status", {"device_id": "cpu", "refresh": True})["devices"][0]
        assert after["available_bytes"] > LIMIT / 2
        worker.close_input()
        assert worker.exit_code() == 0
    assert "oom_kill 0" in (group / "memory.oom_control").read_text()


def test_a_worker_that_is_moved(group: Path) -> None:
    """A worker that is put into a group after its start is held to that group's limit, and not ended by it."""
    with Worker() as worker:
        before = worker.call("memory.get_status", {"device_id": "cpu"})["devices"][0]
        assert before["budget_bytes"] > LIMIT
        (group / "cgroup.procs").write_text(str(worker.process.pid))
        after = worker.call("memory.get_status", {"device_id": "cpu", "refresh": True})["devices"][0]
        assert (after["budget_bytes"], after["budget_source"]) == (LIMIT, "cgroup")
        assert after["available_bytes"] > LIMIT * 3 // 4
        data = {"size_bytes": LIMIT + MIB, "device_id": "cpu"}
        assert worker.refused("memory.allocate", data)["code"] in {"out_of_memory", "limit_exceeded"}
        worker.close_input()
        assert worker.exit_code() == 0
    assert "oom_kill 0" in (group / "memory.oom_control").read_text()


def test_a_group_holds_where_no_descriptor_is_left(group: Path, tmp_path: Path) -> None:
    """A limit that can't be read for want of a descriptor is no missing limit: the kernel would end the worker by it."""
    command = ("prlimit", "--nofile=32:32", *worker_in(group))
    with Worker("--shared-folder", str(tmp_path), command=command) as worker:
        for _ in range(40):
            reply = worker.ask("memory.allocate", {"size_bytes": 4096, "memory_type": "shared"})
            if not reply["success"]:
                break
        assert reply["error"]["details"]["resource"] == "descriptors" and reply["error"]["retryable"]
        status = worker.call("memory.get_status", {"device_id": "cpu", "refresh": True})["devices"][0]
        assert (status["budget_bytes"], status["budget_source"]) == (LIMIT, "cgroup")
        assert LIMIT // 2 < status["available_bytes"] < LIMIT
        assert (
            worker.refused("memory.allocate", {"size_bytes": LIMIT, "device_id": "cpu"})["code"]
            == "out_of_memory"
        )
        worker.close_input()
        assert worker.exit_code() == 0
    assert "oom_kill 0" in (group / "memory.oom_control").read_text()
