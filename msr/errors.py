"""The errors that msr raises on purpose; anything else that escapes is a bug in msr."""


class MsrError(Exception):
    """A failure that msr can put in one sentence; `exit_code` is what the command line returns for it."""

    exit_code = 1


class InputError(MsrError):
    """The call or its input is at fault: a missing file, an unknown model, an option that does not fit."""

    exit_code = 2


class WorkError(MsrError):
    """The input was fine and the work still failed: a full disk, a device that gave up."""

    exit_code = 1


class LastingError(WorkError):
    """Failed work that fails again however often it is tried in the same way."""
