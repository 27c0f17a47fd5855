"""Run a command and print its seconds and the peak memory of all its processes together.

    .venv/bin/python benchmarks/peak_memory.py make demo

Memory is proportional set size, so that pages which processes share, as Ray's do, count once.
"""

import subprocess
import sys
import threading
import time

import psutil


class PeakMemory:
    """Context: the largest sum of PSS over this process and all below it."""

    def __init__(self, every_seconds: float = 0.5) -> None:
        self.bytes = 0
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
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue  # it has ended meanwhile
            self.bytes = max(self.bytes, total)


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
