"""An end in time for a job, whatever it is waiting for."""

import contextlib
import re
import signal
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import NoReturn

from motif.errors import DeadlinePassed, InputError, MotifError, Stopped

AGAIN_SECONDS = 30.0
"""After these a deadline is raised again: Python drops it where an object is being deleted."""

_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class _Ended(BaseException):
    """Carries an error past whatever catches `Exception`, and would take it for its own failure."""

    def __init__(self, error: MotifError) -> None:
        super().__init__(error)
        self.error = error


def parse_duration(text: str, flag: str) -> timedelta | None:
    """Return a duration such as `90m`, `5h` or `30d`; None for an empty text or `never`.

    Raises:
        InputError: It is none, or nothing.
    """
    if text.strip() in ("", "never"):
        return None
    if not (match := _DURATION.fullmatch(text.strip())) or not float(match[1]):
        raise InputError(f"{flag} {text!r}: expected a number and s, m, h, d or w, such as 5h")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


@contextlib.contextmanager
def ended_by(deadline: timedelta | None) -> Iterator[None]:
    """Raise in the block, in the main thread, when the time is over or the process is told to end.

    What may be killed at any moment may be ended at any moment: nothing else must be in the block.
    Inside it, no `except Exception` sees the end; what the block does on its way out may take
    `AGAIN_SECONDS`.

    Args:
        deadline: From now on; None for no end.

    Raises:
        DeadlinePassed: The time is over.
        Stopped: SIGTERM came, as from `ray job stop` or a node that goes.
    """

    def too_late(number: int, frame: FrameType | None) -> NoReturn:
        text = f"the deadline of {deadline} passed; what was done is kept: the same command goes on"
        raise _Ended(DeadlinePassed(text))

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise _Ended(Stopped("told to stop; what was done is kept: the same command goes on"))

    try:
        with contextlib.ExitStack() as before:
            before.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, stop))
            if deadline is not None:  # else the alarm stays whose it is
                alarm = signal.signal(signal.SIGALRM, too_late)
                before.callback(signal.signal, signal.SIGALRM, alarm)
                seconds = deadline.total_seconds()
                left, _ = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
                before.callback(signal.setitimer, signal.ITIMER_REAL, left)
            yield
    except _Ended as ended:
        raise ended.error from None
