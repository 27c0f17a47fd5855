"""What Motif refuses, and the exit code of each refusal.

Every error a user can cause derives from `MotifError`; its message is one line that says what,
where and what to do. Messages are passed to `super().__init__`, so that errors pickle across Ray.
"""


class MotifError(Exception):
    """A run that cannot go on, for a reason that the user can mend."""

    exit_code = 2


class InputError(MotifError):
    """The input or the command line is wrong."""


class ContractError(MotifError):
    """Rows break the Arrow schema of their artefact."""


class SpaceError(MotifError):
    """Vectors of two spaces would meet."""


class OutputError(MotifError):
    """The output exists already and may not be touched."""


class ChecksFailed(MotifError):
    """A new version is not as good as it must be; readers keep the one before."""

    exit_code = 3


class TooManyFailures(MotifError):
    """More images failed, or more workers died, than the run allows."""

    exit_code = 4


class OutputHeld(MotifError):
    """Another run holds the output, or took it over from this one."""

    exit_code = 5


class NoProgress(MotifError):
    """The run stood still for longer than it may; the message says what is stuck."""

    exit_code = 6


class DeadlinePassed(MotifError):
    """The run took longer than it may; what it did is kept."""

    exit_code = 7


class Stopped(MotifError):
    """The process was told to end; what it did is kept."""

    exit_code = 143


class GaveWay(MotifError):
    """The run made room for work that goes first, and goes on later."""
