import json
import logging
import os
import pickle
import re
import subprocess
import sys
import termios
from collections import Counter

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from motif import bottleneck, progress
from motif.errors import TooManyFailures
from motif.progress import Progress, StageCounts

PART = 128


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def info(caplog) -> None:
    caplog.set_level(logging.INFO, logger="motif.progress")


def start(clock, planned: int = 100_000, **options) -> Progress:
    options = {
        "cpus": 8,
        "gpus": 1,
        "price_per_hour": None,
        "max_failed_fraction": 1.0,
        "stream": open(os.devnull, "w"),  # noqa: SIM115, PTH123
        **options,
    }
    return Progress(planned=planned, clock=clock, **options)


def part(embedded: int = PART, **options) -> StageCounts:
    return StageCounts(embedded=embedded, **options)


def run(clock, *, parts: int, seconds: float, of_part: StageCounts, **options) -> Progress:
    """Write so many parts at a steady pace, after 10 s of start-up."""
    found = start(clock, **options)
    clock.now += 10
    for i in range(parts):
        clock.now += seconds if i else 0
        found.add(of_part)
    found.close()
    return found


# --- plain lines -----------------------------------------------------------------------------


def test_log_line_says_it_all(clock, caplog):
    found = start(clock)
    clock.now += 4
    found.add(part(400, failed={"not_found": 30}))
    assert not caplog.messages
    for _ in range(31):
        clock.now += 1
        found.add(part(411, failed={"truncated": 1}))
    assert caplog.messages[-1] == (
        "encoded 13,141 of 100,000 images, 61 failed (truncated 31, not_found 30): 13.2 % done,"
        " 412 images/s, 3 min 31 s left"
    )


def test_lines_come_after_5_seconds_and_then_ever_more_seldom(clock, caplog):
    found = start(clock)
    times = []
    for second in range(1, 401):
        clock.now = 1000 + second
        found.tick()
        if len(caplog.messages) > len(times):
            times.append(second)
    assert times == [5, 15, 35, 75, 135, 195, 255, 315, 375]
    assert caplog.messages[0] == (
        "encoded 0 of 100,000 images, 0 failed: 0.0 % done, starting for 5 s"
    )


def test_last_line_tells_the_whole_run_and_comes_once(clock, caplog):
    found = run(clock, planned=1280, parts=10, seconds=2, of_part=part(127, failed={"denied": 1}))
    assert caplog.messages[-1] == (
        "encoded 1,270 of 1,280 images, 10 failed (denied 10): 100.0 % done, 64 images/s, in 28 s"
    )
    count = len(caplog.messages)
    clock.now += 100
    found.close()
    found.tick()
    assert len(caplog.messages) == count


def test_a_silent_run_says_so_in_place_of_a_time(clock, caplog):
    found = start(clock)
    for _ in range(20):
        clock.now += 1
        found.add(part())
    clock.now += 200
    found.tick()
    assert caplog.messages[-1].endswith("2.6 % done, nothing new for 3 min 20 s")


def test_rate_follows_the_recent_past_and_does_not_jump(clock, caplog):
    found = start(clock, planned=10**6)

    def rate() -> float:
        return float(found._pace(clock())[0].removesuffix(" images/s"))

    for _ in range(120):
        clock.now += 1
        found.add(part(100))
    assert rate() == pytest.approx(100, abs=3)
    clock.now += 1
    found.add(part(1000))
    assert rate() < 140
    for _ in range(120):
        clock.now += 1
        found.add(part(10))
    assert rate() == pytest.approx(12, abs=3)


# --- terminal --------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal: `stream` is its program's side, `read` what a person would be sent."""

    def __init__(self, columns: int) -> None:
        self._master, slave = os.openpty()
        termios.tcsetwinsize(slave, (24, columns))
        os.set_blocking(self._master, False)
        self.stream = open(slave, "w", encoding="utf-8")  # noqa: SIM115, PTH123

    def hang_up(self) -> None:
        os.close(self._master)

    def read(self) -> str:
        self.stream.flush()
        sent = b""
        while True:
            try:
                sent += os.read(self._master, 65536)
            except (BlockingIOError, OSError):
                return sent.decode("utf-8")


def test_terminal_line_is_redrawn_in_place_four_times_a_second(clock, caplog):
    terminal = Terminal(columns=120)
    found = start(clock, planned=10_000, stream=terminal.stream)
    terminal.read()
    sent = ""
    for _ in range(1000):
        clock.now += 0.01
        found.add(part(9, failed={"not_found": 1}))
        found.tick()
        sent += terminal.read()
    assert "\n" not in sent
    assert 35 <= sent.count("\r") <= 41
    line = r" 98\.\d %\|█+.?\| 8,\d{3} of 10,000, 9\d\d failed, 1,000 images/s, 0 s left *"
    assert re.fullmatch(line, sent.split("\r")[-1])
    found.close()
    assert "█| 9,000 of 10,000, 1,000 failed, 1,00" in (last := terminal.read())
    assert last.endswith("\n")
    assert last.count("\n") == 1
    assert not caplog.messages


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_terminal_line_never_wraps(clock, columns):
    terminal = Terminal(columns)
    found = start(clock, planned=10**8, stream=terminal.stream)
    for _ in range(20):
        clock.now += 1
        found.add(part(2000))
    line = terminal.read().split("\r")[-1]
    found.close()
    sent = re.split(r"[\r\n]+", terminal.read())
    assert max(len(line) for line in [line, *sent]) <= columns
    assert columns < 80 or line.rstrip().endswith("0 failed, 2,000 images/s, 13 h 53 min left")


def test_terminal_line_stops_at_100_percent(clock):
    terminal = Terminal(columns=80)
    found = start(clock, planned=100, stream=terminal.stream)
    found.add(part(101))
    found.close()
    assert "100.0 %|" in terminal.read().split("\r")[-2]


def test_a_terminal_that_hangs_up_ends_nothing(clock):
    terminal = Terminal(columns=80)
    found = start(clock, stream=terminal.stream)
    terminal.hang_up()
    for _ in range(10):
        clock.now += 1
        found.add(part())
    found.close()
    assert found.done == 10 * PART


def test_log_lines_stand_above_the_terminal_line():
    script = """
import logging
from motif import command
from motif.progress import Progress, StageCounts
command.log_to_stderr()
found = Progress(planned=256, cpus=2, gpus=0, price_per_hour=None, max_failed_fraction=0.1)
found.add(StageCounts(embedded=128))
logging.getLogger("motif").info("a warning from elsewhere")
found.add(StageCounts(embedded=128))
found.close()
logging.getLogger("motif").info("the end")
"""
    terminal = Terminal(columns=100)
    subprocess.run([sys.executable, "-c", script], stderr=terminal.stream, check=True, timeout=60)
    # A terminal shows of each line what follows the last carriage return.
    shown = [line.rstrip("\r").split("\r")[-1] for line in terminal.read().split("\n")]
    first, line, last, rest = shown
    assert re.fullmatch(r"[\d:]{8} a warning from elsewhere", first)
    assert re.fullmatch(r"100\.0 %\|█+\| 256 of 256, 0 failed, .*in 0 s *", line)
    assert re.fullmatch(r"[\d:]{8} the end", last)
    assert not rest


# --- early end -------------------------------------------------------------------------------


def test_chance_is_the_binomial_tail_over_whole_trials():
    size = progress.IMAGES_PER_TRIAL
    for trials in (4, 20, 300):
        for failures in (1, 2, 4):
            for fraction in (0.01, 0.1, 0.5):
                expected = scipy.stats.binom.sf(failures - 1, trials, fraction)
                found = progress.chance_of_failures(failures * size, trials * size, fraction)
                assert found == pytest.approx(expected)


@pytest.mark.parametrize("limit", [0.001, 0.01, 0.05, 0.1])
def test_a_run_that_fails_altogether_stops_within_about_300_images(clock, limit):
    found = start(clock, planned=1_000_000, max_failed_fraction=limit)
    with pytest.raises(TooManyFailures):
        for _ in range(100):
            found.add(StageCounts(failed={"denied": 10}))
    assert found.done <= 300


def test_certain_failure_needs_no_statistics(clock):
    found = start(clock, planned=50, max_failed_fraction=0.1)
    found.add(part(10, failed={"not_found": 5}))
    with pytest.raises(TooManyFailures):
        found.add(part(0, failed={"not_found": 1}))


def test_no_failures_at_all_can_be_asked_for(clock):
    found = start(clock, max_failed_fraction=0.0)
    found.add(part())
    with pytest.raises(TooManyFailures):
        found.add(part(127, failed={"timeout": 1}))


def test_the_last_few_of_a_long_run_are_judged_with_the_whole(clock):
    few = {"planned": 500, "max_failed_fraction": 0.1}
    with pytest.raises(TooManyFailures):
        start(clock, **few).add(StageCounts(failed={"not_found": 500}))
    start(clock, judged=5000, **few).add(StageCounts(failed={"not_found": 500}))
    with pytest.raises(TooManyFailures):
        start(clock, judged=4990, **few).add(StageCounts(failed={"not_found": 500}))


def test_everything_may_fail_where_that_is_allowed(clock):
    found = start(clock, planned=1000, max_failed_fraction=1.0)
    for _ in range(11):  # a part that was written twice is none of the limit's business
        found.add(StageCounts(failed={"not_found": 100}))
    assert found.failed == {"not_found": 1100}


def test_refusal_says_what_where_and_what_to_do(clock):
    found = start(clock, planned=1_000_000, max_failed_fraction=0.05)
    found.add(part(20, failed={"truncated": 3}, example="s3://b/t.jpg: cut off"))
    with pytest.raises(TooManyFailures) as refusal:
        found.add(
            part(7, failed={"not_found": 250, "truncated": 20}, example="s3://b/1.jpg: 404\nno key")
        )
    assert str(refusal.value) == (
        "273 of the first 300 images failed, of 1,000,000 planned, too many for"
        " --max-failed-fraction 0.05; 250 are not_found, such as s3://b/1.jpg: 404 no key; mend"
        " the storage or the manifest and run the same command again: what was encoded is kept"
    )
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)
    assert refusal.value.exit_code == 4
    found.close()
    assert found.summary()["failed_by_class"] == {"not_found": 250, "truncated": 23}


@pytest.mark.parametrize("limit", [0.01, 0.1])
@pytest.mark.parametrize("images_per_creator", [10, 50])
def test_bad_luck_with_whole_creators_does_not_end_a_run(clock, limit, images_per_creator):
    # Whole creators fail, at half the limit: 100 runs of 20,000 images each, watched throughout.
    rng = np.random.default_rng(images_per_creator)
    for _ in range(100):
        creators = rng.random(20_000 // images_per_creator) < limit / 2
        fails = np.repeat(creators, images_per_creator)
        found = start(clock, planned=1_000_000, max_failed_fraction=limit)
        for failed in np.add.reduceat(fails, np.arange(0, len(fails), PART)).tolist():
            found.add(part(PART - failed, failed={"not_found": failed} if failed else {}))


@pytest.mark.parametrize(("limit", "fraction", "within"), [(0.01, 0.1, 6000), (0.1, 0.3, 10_000)])
def test_a_run_far_above_its_limit_stops_early(clock, limit, fraction, within):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = start(clock, planned=1_000_000, max_failed_fraction=limit)
        with pytest.raises(TooManyFailures):
            while True:
                failed = int(rng.binomial(PART, fraction))
                found.add(part(PART - failed, failed={"not_found": failed}))
        assert found.done <= within


# --- summary ---------------------------------------------------------------------------------


def test_summary_of_a_steady_run(clock):
    busy = {"fetch": 0.5, "decode": 4.0, "encode": 1.9, "write": 0.1}
    found = run(
        clock,
        planned=12_800,
        parts=100,
        seconds=2,
        of_part=part(126, failed={"not_found": 2}, seconds=busy, precisions={"bfloat16"}),
        gpus=1,
        price_per_hour=3.6,
    )
    summary = json.loads(json.dumps(found.summary()))
    assert summary == {
        "planned": 12_800,
        "embedded": 12_600,
        "failed": 200,
        "failed_by_class": {"not_found": 200},
        "precisions": ["bfloat16"],
        "wall_seconds": 208.0,
        "startup_seconds": 10.0,
        "images_per_second": 64.0,
        "images_per_second_with_startup": 61.54,
        "stages": {
            "fetch": {"busy_seconds": 50, "images_per_busy_second": 256, "utilisation": 0.031},
            "decode": {"busy_seconds": 400, "images_per_busy_second": 32, "utilisation": 0.25},
            "encode": {"busy_seconds": 190, "images_per_busy_second": 67.37, "utilisation": 0.95},
            "write": {"busy_seconds": 10, "images_per_busy_second": 1280, "utilisation": 0.006},
        },
        "bottleneck": {
            "stage": "encode",
            "verdict": "encode-bound: the encoder was busy 95 % of the time; more or faster GPUs"
            " would help, more CPUs would not",
        },
        "images_per_gpu_hour": 230_400.0,
        "cost_per_million_images": 15.62,
    }


@pytest.mark.parametrize(
    ("options", "busy", "stage", "words"),
    [
        # 8 CPUs feed 60 % of what one GPU takes: 8 / 0.6 = 13.3 would feed it.
        (
            {"cpus": 8, "gpus": 1},
            {"fetch": 0.2, "decode": 7.6, "encode": 0.6},
            "decode",
            "decode-bound: about 6 more CPUs per GPU would help; the encoder was busy 60 %",
        ),
        (
            {"cpus": 32, "gpus": 4},
            {"decode": 31.0, "encode": 3.56},
            "decode",
            "decode-bound: about 1 more CPU per GPU would help; the encoder was busy 89 %",
        ),
        (
            {"cpus": 32, "gpus": 4},
            {"decode": 31.0, "encode": 3.8},
            "encode",
            "encode-bound: the encoder was busy 95 % of the time; more or faster GPUs would help",
        ),
        (
            {"cpus": 8, "gpus": 1},
            {"fetch": 6.0, "decode": 2.0, "encode": 0.3},
            "fetch",
            "fetch-bound: decoding waited for bytes 75 % of its time; more reads in flight"
            " (--in-flight) or a nearer store would help; the encoder was busy 30 %",
        ),
        (
            {"cpus": 8, "gpus": 1, "writers": 1},
            {"decode": 2.0, "encode": 0.3, "write": 0.99},
            "write",
            "write-bound: the writers were busy 99 % of the time",
        ),
        (
            {"cpus": 2, "gpus": 0},
            {"decode": 0.4, "encode": 0.97},
            "encode",
            "on CPUs, encode-bound: the encoder was busy 97 % of the time; more or faster CPUs,"
            " or a GPU, would help",
        ),
        (
            {"cpus": 16, "gpus": 0, "encoders": 4},
            {"decode": 6.0, "encode": 3.2},
            "encode",
            "on CPUs, encode-bound: the encoder was busy 80 %",
        ),
        (
            {"cpus": 2, "gpus": 0},
            {"decode": 0.8, "encode": 0.45},
            "encode",
            "on CPUs, encode-bound: the encoder was busy 45 %",
        ),
        (
            {"cpus": 2, "gpus": 0},
            {"decode": 1.8, "encode": 0.2},
            "decode",
            "on CPUs, decode-bound: more CPUs would help; the encoder was busy 20 %",
        ),
        (
            {"cpus": 8, "gpus": 1},
            {"decode": 1.0, "encode": 0.2},
            None,
            "no stage is busy: the encoder was busy 20 % of the time, fetching and decoding 12 %;"
            " the rest is start-up, scheduling or waiting",
        ),
        ({"cpus": 8, "gpus": 1}, {"decode": 8.0}, "decode", "decode-bound: more CPUs would help"),
        ({"cpus": 8, "gpus": 1}, {}, None, "no stage is busy"),
    ],
)
def test_verdict(clock, options, busy, stage, words):
    """`busy` is seconds per second of the run."""
    found = run(clock, parts=60, seconds=1, of_part=part(seconds=busy), **options)
    named = found.summary()["bottleneck"]
    assert named["stage"] == stage
    assert named["verdict"].startswith(words)


def test_as_many_cpus_as_the_verdict_asks_for_would_feed_the_encoder():
    for gpus, cpus, encode in [(1, 8, 0.5), (4, 30, 0.7), (8, 64, 0.13)]:
        use = {"fetch": 0.1, "decode": 0.9, "encode": encode, "write": 0.0}
        verdict = bottleneck.find(use, cpus=cpus, gpus=gpus)["verdict"]
        more = int(re.findall(r"about (\d+) more", str(verdict))[0])
        assert (
            encode * (cpus + more * gpus) / cpus >= 1 > encode * (cpus + (more - 1) * gpus) / cpus
        )


def test_work_before_the_steady_state_does_not_count_as_busy(clock):
    found = start(clock, planned=1280, cpus=1)
    clock.now += 60
    found.add(part(seconds={"encode": 50.0}))
    for _ in range(10):
        clock.now += 1
        found.add(part(seconds={"encode": 0.1, "decode": 0.9}))
    stages = found.summary()["stages"]
    assert stages["encode"] == {
        "busy_seconds": 51.0,
        "images_per_busy_second": 27.61,
        "utilisation": 0.1,
    }


def test_classes_that_did_not_happen_are_not_shown(clock, caplog):
    found = run(clock, parts=3, seconds=1, of_part=part(failed={"bomb": 0}))
    assert "0 failed: 0.4 % done" in caplog.messages[-1]
    assert found.summary()["failed_by_class"] == {}


def test_a_stage_that_does_not_exist_is_a_mistake(clock):
    with pytest.raises(KeyError):
        start(clock).add(part(seconds={"dekode": 1.0}))


def test_a_gpu_hour_is_of_one_gpu_and_the_price_of_all(clock):
    options = {"gpus": 4, "price_per_hour": 36.0}
    summary = run(clock, parts=11, seconds=1, of_part=part(100), **options).summary()
    assert summary["images_per_second"] == 100
    assert summary["images_per_gpu_hour"] == 90_000
    assert summary["cost_per_million_images"] == 100


def test_an_empty_run(clock, caplog):
    found = start(clock, planned=0, price_per_hour=5.0, max_failed_fraction=0.0)
    found.tick()
    found.close()
    assert caplog.messages == ["nothing to encode"]
    summary = json.loads(json.dumps(found.summary()))
    assert summary["bottleneck"] == {"stage": None, "verdict": "nothing was encoded"}
    assert summary["images_per_second"] is None
    assert summary["cost_per_million_images"] is None


def test_one_part_is_too_little_to_tell(clock):
    found = run(clock, parts=1, seconds=0, of_part=part(seconds={"decode": 1.0}), price_per_hour=36)
    summary = found.summary()
    assert summary["bottleneck"] == {
        "stage": None,
        "verdict": "too short a run to tell: start-up took 10 s of 10 s",
    }
    assert summary["images_per_second"] == summary["images_per_second_with_startup"] == 12.8
    assert summary["cost_per_million_images"] == pytest.approx(781.2)
    assert summary["stages"]["decode"]["utilisation"] is None


def test_without_gpus_or_a_price_there_is_no_cost(clock):
    summary = run(clock, parts=5, seconds=1, of_part=part(), gpus=0).summary()
    assert summary["images_per_gpu_hour"] is None
    assert summary["cost_per_million_images"] is None


PARTS = st.builds(
    StageCounts,
    embedded=st.integers(0, 10**6),
    failed=st.dictionaries(st.sampled_from(["not_found", "bomb"]), st.integers(0, 10**6)),
    seconds=st.dictionaries(st.sampled_from(progress.STAGES), st.floats(0, 1e6)),
    precisions=st.sets(st.sampled_from(["bfloat16", "float32"])),
    example=st.none() | st.text(),
)


@given(
    parts=st.lists(st.tuples(st.floats(0, 1e5), PARTS), max_size=20),
    planned=st.integers(0, 10**8),
    cpus=st.integers(1, 1000),
    gpus=st.integers(0, 100),
    limit=st.floats(0, 1),
)
@settings(deadline=None)
def test_whatever_comes_is_counted_and_fits_in_json(parts, planned, cpus, gpus, limit):
    clock = Clock()
    found = start(
        clock, planned, cpus=cpus, gpus=gpus, price_per_hour=2.0, max_failed_fraction=limit
    )
    embedded, failed = 0, Counter()
    for seconds, counts in parts:
        clock.now += seconds
        embedded += counts.embedded
        failed.update(counts.failed)
        try:
            found.add(counts)
        except TooManyFailures:
            # Whoever stops has seen more failures than the limit allows of these.
            assert failed.total() > limit * min(embedded + failed.total(), planned)
        else:
            assert failed.total() <= limit * planned or limit == 1
        found.tick()
    found.close()
    summary = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert (summary["embedded"], summary["failed"]) == (embedded, failed.total())
    for stage in summary["stages"].values():
        assert stage["utilisation"] is None or 0 <= stage["utilisation"] <= 1
