"""encode_images in a process of its own, as its command line starts it: timed, watched, killed."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from benchmarks.peak_memory import PeakMemory

REPOSITORY = Path(__file__).resolve().parents[2]
WATCH_SECONDS = 0.2


@dataclass(frozen=True)
class Finished:
    """A run that ended well."""

    record: dict[str, Any]
    """run.json, or what `--dry-run` found."""
    seconds: float
    """Of the whole process."""
    peak_bytes: int
    """Of all its processes together (PSS); 0 if nobody watched."""
    driver_peak_bytes: int
    """Resident, of the driver alone (the kernel's own high-water mark)."""


class Job:
    """Context: the running command; what is left of it at the end is killed by id."""

    def __init__(
        self,
        images: Path,
        output: Path,
        encoder: str,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        watch_memory: bool = False,
        module: str = "jobs.encode_images",
    ) -> None:
        """Prepare the command.

        Args:
            images: Manifest.
            output: Folder of EMBEDDINGS.
            encoder: As of `--encoder`.
            flags: Further ones.
            environment: Added to this process's own.
            watch_memory: Add up the memory of all processes, which takes some of a core's time.
            module: The command, or one that takes the same flags.
        """
        self._command = [sys.executable, "-m", module, "--images", str(images)]
        self._command += ["--output", str(output), "--encoder", encoder, "--json", *flags]
        own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self._environment = {**own, "RAY_AUTH_MODE": "disabled", **(environment or {})}
        self._result = output.with_name(output.name + ".json")
        self._log = output.with_name(output.name + ".log")
        self._memory = PeakMemory() if watch_memory else None
        self._driver_peak = 0

    def __enter__(self) -> Self:
        """Start it."""
        self._result.parent.mkdir(parents=True, exist_ok=True)
        if self._memory is not None:
            self._memory.__enter__()
        self._started = time.perf_counter()
        with self._result.open("wb") as result, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=REPOSITORY,
                env=self._environment,
                stdout=result,
                stderr=log,
                start_new_session=True,
            )
        self._watcher = threading.Thread(target=self._watch_driver, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End what is left of it."""
        self.kill()
        if self._memory is not None:
            self._memory.__exit__()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait(self) -> Finished:
        """Wait for its end.

        Raises:
            RuntimeError: It failed.
        """
        code = self._process.wait()
        seconds = time.perf_counter() - self._started
        self._watcher.join()
        if code:
            told = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(self._command)} ended with {code}:\n{told}")
        return Finished(
            record=json.loads(self._result.read_text()),
            seconds=seconds,
            peak_bytes=self._memory.bytes if self._memory else 0,
            driver_peak_bytes=self._driver_peak,
        )

    def kill(self) -> None:
        """SIGKILL the driver and all that it has started, at once."""
        try:
            driver = psutil.Process(self._process.pid)
            family = [driver, *driver.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(family, timeout=30)

    def _watch_driver(self) -> None:
        status = Path(f"/proc/{self._process.pid}/status")
        while self.running:
            with contextlib.suppress(OSError, StopIteration):
                lines = status.read_text().splitlines()
                line = next(line for line in lines if line.startswith("VmHWM:"))
                self._driver_peak = int(line.split()[1]) * 1024
            time.sleep(WATCH_SECONDS)


def encode_images(
    images: Path,
    output: Path,
    encoder: str,
    *flags: str,
    anew: bool = True,
    environment: Mapping[str, str] | None = None,
    watch_memory: bool = False,
) -> Finished:
    """Run it to its end, after deleting the output unless it is to go on with it."""
    if anew:
        shutil.rmtree(output, ignore_errors=True)
    with Job(
        *(images, output, encoder, *flags), environment=environment, watch_memory=watch_memory
    ) as job:
        return job.wait()
