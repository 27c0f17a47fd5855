"""Run a command and print its seconds and the peak memory of all its processes together.

    .venv/bin/python benchmarks/peak_memory.py make demo

Memory is proportional set size, so that pages which processes share, as Ray's do, count once.
"""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil


def proportional(processes: Sequence[psutil.Process]) -> int:
    """Return the sum of their PSS."""
    return sum(_of_each(processes, lambda process: process.memory_full_info().pss))


def largest_unmapped(title: str) -> Callable[[Sequence[psutil.Process]], int]:
    """Return what says how much one process of this title holds beside mapped files."""

    def measure(processes: Sequence[psutil.Process]) -> int:
        def unmapped(process: psutil.Process) -> int:
            return _unmapped(process.pid) if process.cmdline()[:1][0].startswith(title) else 0

        return max(_of_each(processes, unmapped), default=0)

    return measure


def _of_each(
    processes: Sequence[psutil.Process], measure: Callable[[psutil.Process], int]
) -> Iterator[int]:
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError, IndexError):  # it has ended meanwhile
            yield measure(process)


def _unmapped(pid: int) -> int:
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value
    # Kernel threads and processes that are ending have no such lines.
    return sum(1024 * int(fields.get(name, "0").split()[0]) for name in ("RssAnon", "RssShmem"))


class PeakMemory:
    """Context: the most that `measure` saw of the processes below this one, in bytes."""

    def __init__(
        self,
        measure: Callable[[Sequence[psutil.Process]], int] = proportional,
        *,
        every_seconds: float = 0.5,
    ) -> None:
        self.bytes = 0
        self._measure = measure
        self._every = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        """Start to watch."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            processes = psutil.Process().children(recursive=True)
            self.bytes = max(self.bytes, self._measure(processes))


def main() -> None:
    """Run the command line that follows; exit as it does."""
    start = time.perf_counter()
    with PeakMemory() as memory:
        done = subprocess.run(sys.argv[1:], check=False)
    seconds = time.perf_counter() - start
    sys.stderr.write(f"{seconds:.0f} s, {memory.bytes / 1e9:.1f} GB at most\n")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
