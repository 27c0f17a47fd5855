"""How a run of encoding goes: a live line, an early end when most fails, and where time went.

Pure Python, in the driver's one thread: the driver calls `add` for every written part and `tick`
about once a second. Times come from a monotonic clock, so the wall clock may jump.
"""

import contextlib
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from scipy.special import betainc
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from motif import bottleneck
from motif.errors import TooManyFailures

log = logging.getLogger(__name__)

STAGES: tuple[str, ...] = ("fetch", "decode", "encode", "write")

REDRAW_SECONDS = 0.25
FIRST_LOG_SECONDS = 5.0
LONGEST_LOG_SECONDS = 60.0
SMOOTHING_SECONDS = 30.0
QUIET_SECONDS = 60.0
"""Without a part for so long, the line says so in place of the time left."""
SHORT_SECONDS = 1.0
"""Too little steady state to tell a rate or a bottleneck from."""

IMAGES_TO_JUDGE = 200
IMAGES_PER_TRIAL = 50
CHANCE = 3e-5
"""Of ending a run whose true fraction of failures is just the limit; z = 4 of a normal."""

CLOCK_SECONDS = 1e-6
"""Fewer seconds are noise, and no rate follows from them."""


@dataclass(frozen=True, kw_only=True)
class StageCounts:
    """What one written part adds to the run."""

    embedded: int = 0
    """Images with an embedding."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Failed images by class."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Busy seconds of any of STAGES; `fetch` only counts what decoding waited for bytes."""
    precisions: Collection[str] = ()
    """That the encoder worked in, such as `bfloat16`."""
    example: str | None = None
    """`uri: message` of one failure, of the part's commonest class."""


class Progress:
    """Counts what is written, shows it, and ends a run that mostly fails."""

    def __init__(
        self,
        *,
        planned: int,
        cpus: float,
        gpus: float,
        price_per_hour: float | None,
        max_failed_fraction: float,
        judged: int | None = None,
        there_already: int = 0,
        encoders: int | None = None,
        writers: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
    ) -> None:
        """Start the clock and, in a terminal, the line.

        Args:
            planned: Images to do.
            cpus: That fetching and decoding may take, in the whole cluster.
            gpus: That encode; 0 when CPUs do.
            price_per_hour: Of the whole cluster, in any currency.
            max_failed_fraction: Limit in [0, 1]; with 1 the run never ends early.
            judged: Images that the limit is a fraction of: more than those planned, when a run
                goes on with one that was cut off; by default those planned.
            there_already: Images of the archive that are not planned, since they are done.
            encoders: Processes that encode; by default one per GPU, or one on CPUs.
            writers: Parts that are written at a time at most; by default one per CPU.
            clock: Seconds that never go back.
            stream: Where the line goes, if it is a terminal; by default standard error. Otherwise
                plain lines go to the log.
        """
        self.planned = planned
        self._there = there_already
        self.embedded = 0
        self.failed: Counter[str] = Counter()
        self.precisions: set[str] = set()
        self._cpus, self._gpus = cpus, gpus
        self._encoders = encoders or max(round(gpus), 1)
        self._writers = writers or cpus
        self._price_per_hour = price_per_hour
        self._limit = max_failed_fraction
        self._allowed = max_failed_fraction * (planned if judged is None else judged)
        self._examples: dict[str, str] = {}
        self._busy: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._clock = clock
        self._started = clock()
        self._closed: float | None = None
        # Of the first part: what comes after it is the steady state, without start-up.
        self._first_part: tuple[float, int, dict[str, float]] | None = None
        self._last_part = self._started
        self._recent = _RecentRate(self._started)
        self._log_interval = FIRST_LOG_SECONDS
        self._next_show = self._started + FIRST_LOG_SECONDS
        self._line: tqdm | None = None
        self._redirected_log = contextlib.ExitStack()
        terminal = stream or sys.stderr
        if planned and terminal.isatty():
            self._next_show = self._started
            self._line = tqdm(
                total=planned,
                file=terminal,
                dynamic_ncols=True,
                position=0,
                bar_format="{percentage:5.1f} %|{bar}| {desc}",
            )
            # Log lines are written above the line instead of through it.
            self._redirected_log.enter_context(logging_redirect_tqdm())

    @property
    def done(self) -> int:
        """Images that were embedded or failed."""
        return self.embedded + self.failed.total()

    def add(self, part: StageCounts) -> None:
        """Count one written part.

        Raises:
            TooManyFailures: So many failed that the storage or the manifest must be broken.
        """
        now = self._clock()
        before = self.done
        self.embedded += part.embedded
        self.failed += Counter(part.failed)  # which drops zeros, unlike update
        self.precisions.update(part.precisions)
        for stage, seconds in part.seconds.items():
            self._busy[stage] += seconds
        if part.example and part.failed:
            commonest = max(part.failed, key=lambda name: part.failed[name])
            self._examples.setdefault(commonest, part.example)
        if self._first_part is None:
            self._first_part = (now, self.done, dict(self._busy))
            self._recent = _RecentRate(now)
        else:
            self._recent.add(self.done - before, now)
        self._last_part = now
        self._require_few_failures()
        self.tick()

    def tick(self) -> None:
        """Show how it goes, if it is time to."""
        now = self._clock()
        if self._closed is not None or not self.planned or now < self._next_show:
            return
        if self._line is not None:
            self._next_show = now + REDRAW_SECONDS
            self._draw(self._line, self._pace(now))
            return
        self._log_interval = min(2 * self._log_interval, LONGEST_LOG_SECONDS)
        self._next_show = now + self._log_interval
        self._log(self._pace(now))

    def told(self) -> dict[str, Any]:
        """Return how it goes, ready for JSON."""
        rate = self._recent.per_second()
        left = max(self.planned - self.done, 0)
        return {
            "planned": self.planned,
            "embedded": self.embedded,
            "failed_by_class": dict(sorted(self.failed.items())),
            "images_per_second": _rounded(rate),
            "seconds_left": round(left / rate) if rate else None,
        }

    def close(self) -> None:
        """Show the end; further calls do nothing."""
        if self._closed is not None:
            return
        self._closed = self._clock()
        # The whole run's rate: the recent one is only its tail.
        pace = [f"in {duration(self._closed - self._started)}"]
        if rate := self._images_per_second():
            pace.insert(0, f"{_number(rate)} images/s")
        if self._line is not None:
            self._draw(self._line, pace)
            self._line.close()
        elif self.planned:
            self._log(pace)
        else:
            log.info("nothing to encode")
        self._redirected_log.close()

    def summary(self) -> dict[str, Any]:
        """Return counts, rates, cost and the bottleneck, ready for JSON.

        `images_per_second`, and what follows from it (per GPU-hour, cost), is of the steady state:
        from the first part to the last, without start-up. Where that is too short to tell, it is
        of the whole run. What cannot be told is None.
        """
        steady = self._steady()
        rate = self._images_per_second()
        wall = self._wall_seconds()
        use = None if steady is None else self._utilisation(*steady)
        hourly = 3600 * rate if rate else None
        price = self._price_per_hour
        return {
            "planned": self.planned,
            "embedded": self.embedded,
            "failed": self.failed.total(),
            "failed_by_class": dict(sorted(self.failed.items())),
            "precisions": sorted(self.precisions),
            "wall_seconds": round(wall, 3),
            "startup_seconds": (
                round(self._first_part[0] - self._started, 3) if self._first_part else None
            ),
            "images_per_second": _rounded(rate),
            "images_per_second_with_startup": _rounded(_ratio(self.done, wall)),
            "stages": {
                stage: {
                    "busy_seconds": round(seconds, 3),
                    "images_per_busy_second": _rounded(_ratio(self.done, seconds)),
                    "utilisation": None if use is None else round(use[stage], 3),
                }
                for stage, seconds in self._busy.items()
            },
            "bottleneck": self._bottleneck(use),
            "images_per_gpu_hour": _rounded(hourly / self._gpus if hourly and self._gpus else None),
            "cost_per_million_images": _rounded(
                1e6 * price / hourly if hourly and price is not None else None
            ),
        }

    def _require_few_failures(self) -> None:
        """End the run as soon as too many failures are certain, or all but certain."""
        failed = self.failed.total()
        if self._limit >= 1 or not failed:
            return
        if failed <= self._allowed and (
            self.done < IMAGES_TO_JUDGE
            or self.planned <= self._allowed  # the last few of a long run may all fail
            or chance_of_failures(failed, self.done, self._limit) >= CHANCE
        ):
            return
        [(name, count)] = self.failed.most_common(1)
        example = self._examples.get(name)
        raise TooManyFailures(
            f"{failed:,} of the first {self.done:,} images failed, of {self.planned:,} planned,"
            f" too many for --max-failed-fraction {self._limit:g}; {count:,} are {name}"
            + (f", such as {' '.join(example.split())[:500]}" if example else "")
            + "; mend the storage or the manifest and run the same command again: what was"
            " encoded is kept"
        )

    def _steady(self) -> tuple[float, int, dict[str, float]] | None:
        """Return seconds, images and busy seconds from the first part to the last."""
        if self._first_part is None:
            return None
        since, images, busy = self._first_part
        seconds = self._last_part - since
        if seconds < SHORT_SECONDS:
            return None
        return seconds, self.done - images, {s: self._busy[s] - busy[s] for s in STAGES}

    def _images_per_second(self) -> float | None:
        steady = self._steady()
        if steady is not None:
            return steady[1] / steady[0]
        return _ratio(self.done, self._wall_seconds())

    def _wall_seconds(self) -> float:
        return (self._clock() if self._closed is None else self._closed) - self._started

    def _utilisation(self, seconds: float, _: int, busy: dict[str, float]) -> dict[str, float]:
        """Return, for every stage, the share in [0, 1] of its places' time in which it was busy."""
        places = {
            "fetch": self._cpus,
            "decode": self._cpus,
            "encode": self._encoders,
            "write": self._writers,
        }
        # A part that was begun before the first was written brings time from before, too.
        return {
            stage: min(_ratio(busy[stage], seconds * places[stage]) or 0.0, 1.0) for stage in STAGES
        }

    def _bottleneck(self, use: dict[str, float] | None) -> dict[str, str | None]:
        if not self.done:
            return {"stage": None, "verdict": "nothing was encoded"}
        if use is None:
            start = (self._first_part or (self._last_part,))[0] - self._started
            return {
                "stage": None,
                "verdict": f"too short a run to tell: start-up took {duration(start)} of"
                f" {duration(self._wall_seconds())}",
            }
        return bottleneck.find(use, cpus=self._cpus, gpus=self._gpus)

    def _draw(self, line: tqdm, pace: list[str]) -> None:
        line.n = min(self.done, self.planned)  # beyond its total, tqdm drops the percentage
        text = f"{self.embedded:,} of {self.planned:,}, {self.failed.total():,} failed"
        line.set_description_str(", ".join([text, *pace]), refresh=False)
        line.refresh()

    def _log(self, pace: list[str]) -> None:
        classes = ", ".join(f"{name} {count:,}" for name, count in self.failed.most_common())
        archive = self._there + self.planned
        log.info(
            "encoded %s of %s images, %s failed%s: %.1f %% done%s%s",
            f"{self.embedded:,}",
            f"{self.planned:,}",
            f"{self.failed.total():,}",
            f" ({classes})" if classes else "",
            min(100 * self.done / self.planned, 100),
            f", {min((self._there + self.done) / archive, 1):.1%} of the archive"
            if self._there
            else "",
            "".join(f", {words}" for words in pace),
        )

    def _pace(self, now: float) -> list[str]:
        """Say how fast it goes and how long it will take, as far as that can be told."""
        if self._first_part is None:
            return [f"starting for {duration(now - self._started)}"]
        if (quiet := now - self._last_part) >= QUIET_SECONDS:
            return [f"nothing new for {duration(quiet)}"]
        rate = self._recent.per_second()
        if not rate:
            return []
        left = max(self.planned - self.done, 0) / rate
        return [f"{_number(rate)} images/s", f"{duration(left)} left"]


class _RecentRate:
    """Images per second, each second weighted by exp(-age / SMOOTHING_SECONDS)."""

    def __init__(self, now: float) -> None:
        self._since = self._at = now
        self._images = 0.0

    def add(self, images: int, now: float) -> None:
        """Count images that took all the time since the last."""
        age = (now - self._at) / SMOOTHING_SECONDS
        spread = -math.expm1(-age) / age if age > 0 else 1.0
        self._images = self._images * math.exp(-age) + images * spread
        self._at = now

    def per_second(self) -> float | None:
        """Return the rate at the last part, or None in the first seconds, when it is noise."""
        if self._at - self._since < 2 * SHORT_SECONDS:
            return None
        # Over the weight that the seconds so far have, so that the first minute is not too low.
        weight = -math.expm1((self._since - self._at) / SMOOTHING_SECONDS) * SMOOTHING_SECONDS
        return self._images / weight


def chance_of_failures(failed: int, done: int, fraction: float) -> float:
    """Return the chance that so many fail by bad luck, were the true fraction `fraction`.

    It is the upper tail of the binomial distribution, with fractional counts by the incomplete
    beta function. Images come creator by creator, and a creator's fail together (an account that
    was closed), so that `IMAGES_PER_TRIAL` images count as one trial (a design effect of 50).
    Simulated with runs of 100,000 images and half the limit: no run of 1,000 ended early with up
    to 50 images per creator, 1 in 100 with a long tail (mean 25 per creator, 105 per image). A
    Wilson bound at z = 4 and a design effect of 10 ended 1 in 10: it is too narrow for so few.

    Args:
        failed: Failed images, at least 1.
        done: Images that were embedded or failed.
        fraction: In [0, 1).
    """
    failures, trials = failed / IMAGES_PER_TRIAL, done / IMAGES_PER_TRIAL
    return float(betainc(failures, trials - failures + 1, fraction))


def _ratio(amount: float, per: float) -> float | None:
    return amount / per if per > CLOCK_SECONDS else None


def _rounded(value: float | None) -> float | None:
    """Return four significant digits."""
    return None if value is None else float(f"{value:.4g}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Return seconds as its two largest units, such as `3 min 32 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((i for i, (value, _) in enumerate(parts) if value), 3)
    return " ".join(f"{value:,} {unit}" for value, unit in parts[first : first + 2])
