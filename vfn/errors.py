"""The one exception that users see: their input is wrong, and this is what to do about it."""

import re


class UserError(Exception):
    """What the user gave cannot be used.

    The message is one line: the value that was found, the cause, the remedy. The command line
    prints it and exits with code 2, without a traceback.
    """

    def __init__(self, message: str) -> None:
        # Library messages may bring line breaks; spaces stay, since names of files have them.
        line = " ".join(filter(None, map(str.strip, message.splitlines())))
        # What a stranger's file says may be in it, and terminals obey control characters.
        super().__init__(re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", line))


class DiskFull(UserError):  # noqa: N818
    """What was to be written does not fit; the same command goes on once there is room."""
