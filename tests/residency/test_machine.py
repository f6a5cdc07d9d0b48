"""Reading the machine: fake procfs, cgroup files and GPU driver."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from gateway.residency.machine import DeviceReading, EngineReading, Gpus, Machine, Psutil, cgroup_limits

MIB = 1024**2
GIB = 1024 * MIB


class FakeProc:
    """A folder that looks like /proc to us. Sizes in MiB."""

    def __init__(self, root: Path, *, total: int = 16384, available: int = 12288) -> None:
        self.root = root
        (root / "self").mkdir(parents=True)
        self.memory(total, available)

    def memory(self, total: int, available: int) -> None:
        """/proc/meminfo."""
        (self.root / "meminfo").write_text(
            f"MemTotal: {total * 1024} kB\nMemFree: 1 kB\nMemAvailable: {available * 1024} kB\n"
        )

    def process(
        self, pid: int, parent: int, *, group: int = 0, anon: int = 0, shmem: int = 0, file: int = 0, rollup: str = ""
    ) -> None:
        """One process; `rollup` replaces the text of smaps_rollup."""
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(f"{pid} (odd) name) 1) S {parent} {group or pid} {pid} 0 -1 4194560 0 0")
        rss = anon + shmem + file
        (folder / "status").write_text(
            f"Name:\todd\nVmRSS:\t{rss * 1024} kB\nRssAnon:\t{anon * 1024} kB\n"
            f"RssFile:\t{file * 1024} kB\nRssShmem:\t{shmem * 1024} kB\n"
        )
        # half of the file's pages are shared with somebody
        (folder / "smaps_rollup").write_text(
            rollup
            or f"1000-2000 ---p 00000000 00:00 0 [rollup]\nRss: {rss * 1024} kB\nPss: {(anon + shmem) * 1024 + file * 512} kB\n"
            f"Pss_Anon: {anon * 1024} kB\nPss_File: {file * 512} kB\nPss_Shmem: {shmem * 1024} kB\n"
        )

    def ends(self, pid: int) -> None:
        """The process is gone."""
        for file in (self.root / str(pid)).iterdir():
            file.unlink()
        (self.root / str(pid)).rmdir()


class GpuMemory(msgspec.Struct):
    """What NVML says of one GPU's memory."""

    total: int
    free: int


class GpuProcess(msgspec.Struct):
    """What NVML says of one process on a GPU."""

    pid: int
    usedGpuMemory: int | None


class FakeNvml:
    """The functions of pynvml that we call, over plain lists."""

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self, gpus: list[GpuMemory], *, driver: bool = True) -> None:
        self.gpus = gpus
        self.processes: list[list[GpuProcess]] = [[] for _ in gpus]
        self.driver = driver
        self.broken = False
        self.open = False

    def nvmlInit(self) -> None:
        """Opens the library."""
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        self.open = True

    def nvmlShutdown(self) -> None:
        """Closes it."""
        self.open = False

    def nvmlDeviceGetCount(self) -> int:
        """How many GPUs."""
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """The handle is the index."""
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> GpuMemory:
        """Total and free."""
        if self.broken:
            raise self.NVMLError("GPU is lost")
        return self.gpus[handle]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[GpuProcess]:
        """Who holds what."""
        return self.processes[handle]


OWN = 100


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    """A machine of 16 GiB, 12 GiB of it available, with us as process 100 below init."""
    fake = FakeProc(tmp_path / "proc")
    fake.process(1, 0, anon=10)
    fake.process(OWN, 1, anon=50)
    return fake


def machine(proc: FakeProc, nvml: FakeNvml | None = None, cgroup: Path = Path("/nonexistent")) -> Machine:
    """The gauge over the fakes."""
    return Machine(proc=proc.root, cgroup=cgroup, nvml=nvml or FakeNvml([], driver=False), own_pid=OWN)


# process trees


def test_weigh_sums_the_tree_when_an_engine_has_children(proc: FakeProc) -> None:
    """Children and the daemonised members of its group count; mapped files are shared out, and are not private."""
    proc.process(200, OWN, anon=100, file=400)
    proc.process(201, 200, anon=30, shmem=20)
    proc.process(202, 201, anon=5)
    proc.process(203, 1, group=200, anon=7)  # its parent ended; it kept its process group
    proc.process(300, 1, anon=999)  # a stranger
    assert machine(proc).weigh(200) == EngineReading(
        footprint={"ram": (100 + 200 + 50 + 5 + 7) * MIB}, private={"ram": (100 + 50 + 5 + 7) * MIB}
    )


def test_weigh_is_none_when_the_engine_has_ended(proc: FakeProc) -> None:
    """No zero that could be taken for a size."""
    assert machine(proc).weigh(200) is None


@pytest.mark.parametrize("rollup", ["absent", "Pss: 100 kB\n", ""])
def test_weigh_uses_counters_when_the_rollup_says_too_little(proc: FakeProc, rollup: str) -> None:
    """Without smaps_rollup (another user's process) or without its parts (an old kernel), the resident size stands in."""
    proc.process(200, OWN, anon=100, shmem=10, file=40, rollup=rollup or "\n")
    if rollup == "absent":
        (proc.root / "200" / "smaps_rollup").unlink()
    weighed = machine(proc).weigh(200)
    assert weighed == EngineReading(footprint={"ram": 150 * MIB}, private={"ram": 110 * MIB})


def test_look_holds_every_descendant_when_some_were_not_asked_for(proc: FakeProc) -> None:
    """An engine that is still loading is ours as well; shared memory of one tree's workers counts once."""
    proc.process(200, OWN, anon=100, shmem=64)
    proc.process(201, 200, anon=10, shmem=64)
    proc.process(210, OWN, anon=1000, file=5000)
    proc.process(211, 210, anon=4)  # an engine that something of ours started: held once, not twice
    proc.process(220, 1, anon=3)  # an engine of ours whose parent ended
    look = machine(proc).look((200, 211, 220, 999))
    assert look.private == {200: {"ram": 174 * MIB}, 211: {"ram": 4 * MIB}, 220: {"ram": 3 * MIB}}
    assert look.held == {"ram": (174 + 1004 + 3) * MIB}
    assert look.devices == {"ram": DeviceReading(total_bytes=16 * GIB, free_bytes=12 * GIB)}


# cgroups


def test_ram_is_the_cgroups_when_version_2_limits_it(proc: FakeProc, tmp_path: Path) -> None:
    """The limit is the total, and what cannot be dropped is used; a folder above without a limit changes nothing."""
    (proc.root / "self" / "cgroup").write_text("0::/app/one\n")
    mount = tmp_path / "cgroup"
    own = mount / "app" / "one"
    own.mkdir(parents=True)
    (own / "memory.max").write_text(f"{4 * GIB}\n")
    (own / "memory.current").write_text(f"{3 * GIB}\n")
    (own / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\nactive_file {GIB // 2}\n")
    (own.parent / "memory.max").write_text("max\n")
    (own.parent / "memory.current").write_text("1\n")
    (own.parent / "memory.stat").write_text("anon 1\n")
    ram = machine(proc, cgroup=mount).look(()).devices["ram"]
    assert ram == DeviceReading(total_bytes=4 * GIB, free_bytes=4 * GIB - 3 * GIB // 2)


def test_ram_is_the_containers_when_the_cgroup_path_is_the_hosts(proc: FakeProc, tmp_path: Path) -> None:
    """Version 1 in a container: the path does not exist below the mount, the mount's root is the container's own."""
    (proc.root / "self" / "cgroup").write_text("5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    root = tmp_path / "cgroup" / "memory"
    root.mkdir(parents=True)
    (root / "memory.limit_in_bytes").write_text(str(2 * GIB))
    (root / "memory.usage_in_bytes").write_text(str(GIB))
    (root / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {GIB // 4}\ntotal_active_file 0\n")
    assert cgroup_limits(proc.root, tmp_path / "cgroup") == [(2 * GIB, 3 * GIB // 4)]
    ram = machine(proc, cgroup=tmp_path / "cgroup").look(()).devices["ram"]
    assert ram == DeviceReading(total_bytes=2 * GIB, free_bytes=5 * GIB // 4)


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "", "nonsense"])
def test_ram_is_the_machines_when_the_cgroup_has_no_limit(proc: FakeProc, tmp_path: Path, limit: str) -> None:
    """No limit, or a file we cannot read, is no limit."""
    (proc.root / "self" / "cgroup").write_text("0::/\n1:memory:/x\ngarbage\n")
    for folder, name in ((tmp_path, "memory.max"), (tmp_path / "memory", "memory.limit_in_bytes")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(limit)
    assert cgroup_limits(proc.root, tmp_path) == []


def test_ram_is_what_the_machine_has_left_when_that_is_less_than_the_cgroup(proc: FakeProc, tmp_path: Path) -> None:
    """A generous limit does not make memory."""
    proc.memory(16384, 1024)
    (proc.root / "self" / "cgroup").write_text("0::/\n")
    (tmp_path / "memory.max").write_text(str(64 * GIB))
    (tmp_path / "memory.current").write_text("0")
    (tmp_path / "memory.stat").write_text("")
    ram = machine(proc, cgroup=tmp_path).look(()).devices["ram"]
    assert ram == DeviceReading(total_bytes=16 * GIB, free_bytes=GIB)


# GPUs


def test_gpus_are_read_per_process_when_the_driver_is_there(proc: FakeProc) -> None:
    """gpu0, gpu1 … in NVML's order; a process tree's share of each."""
    nvml = FakeNvml([GpuMemory(24 * GIB, 20 * GIB), GpuMemory(80 * GIB, 80 * GIB)])
    nvml.processes[0] = [GpuProcess(201, 3 * GIB), GpuProcess(300, GIB)]
    proc.process(200, OWN, anon=1)
    proc.process(201, 200, anon=1)
    proc.process(300, 1)
    gauge = machine(proc, nvml)
    look = gauge.look((200,))
    assert look.devices["gpu0"] == DeviceReading(total_bytes=24 * GIB, free_bytes=20 * GIB)
    assert set(look.devices) == {"ram", "gpu0", "gpu1"}
    assert look.private[200] == {"ram": 2 * MIB, "gpu0": 3 * GIB}
    assert look.blind == frozenset()
    weighed = gauge.weigh(200)
    assert weighed is not None
    assert weighed.footprint["gpu0"] == weighed.private["gpu0"] == 3 * GIB
    gauge.close()
    assert not nvml.open


def test_gpus_are_none_when_there_is_no_driver(proc: FakeProc) -> None:
    """No driver is an ordinary machine: no device, no complaint."""
    assert set(machine(proc).look(()).devices) == {"ram"}


def test_gpu_is_blind_when_its_processes_cannot_be_told_apart(proc: FakeProc) -> None:
    """A size the driver withholds, or a pid of another namespace."""
    for process in (GpuProcess(1, None), GpuProcess(31337, GIB)):
        nvml = FakeNvml([GpuMemory(24 * GIB, 20 * GIB)])
        nvml.processes[0] = [process]
        assert machine(proc, nvml).look(()).blind == {"gpu0"}


def test_gpu_keeps_its_last_reading_when_the_driver_fails(proc: FakeProc, caplog: pytest.LogCaptureFixture) -> None:
    """A device that vanished from the budget would evict everything on it; the failure is said once."""
    nvml = FakeNvml([GpuMemory(24 * GIB, 20 * GIB)])
    gauge = machine(proc, nvml)
    before = gauge.look(()).devices
    nvml.broken = True
    assert gauge.look(()).devices == before
    assert gauge.look(()).blind == {"gpu0"}
    assert caplog.text.count("gpu0 cannot be read") == 1


def test_gpus_are_looked_for_when_nothing_is_given() -> None:
    """The real library, driver or not, gives an answer and closes."""
    gpus = Gpus()
    devices, _, _ = gpus.read({os.getpid()})
    assert all(seen.total_bytes > 0 for seen in devices.values())
    gpus.close()


# other systems


def test_psutil_stands_in_when_there_is_no_procfs() -> None:
    """Other systems: the table holds us below our parent, our weight is our resident size."""
    processes = Psutil()
    assert processes.table()[os.getpid()] == (os.getppid(), os.getpgrp())
    weight = processes.weight(os.getpid())
    assert weight is not None
    assert weight[0] == weight[1] > MIB
    assert processes.private(2**31 - 1) == (0, 0)
