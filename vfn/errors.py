"""The one exception that users see: their input is wrong, and this is what to do about it."""


class UserError(Exception):
    """What the user gave cannot be used.

    The message is one line: the value that was found, the cause, the remedy. The command line
    prints it and exits with code 2, without a traceback.
    """

    def __init__(self, message: str) -> None:
        # Library messages may bring line breaks; spaces stay, since names of files have them.
        super().__init__(" ".join(filter(None, map(str.strip, message.splitlines()))))
