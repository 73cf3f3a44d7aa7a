"""Exceptions that mean "the input is at fault, not the program"."""


class UserError(ValueError):
    """Bad input. The message names the value, what is allowed and the next step.

    Scripts print it as one paragraph and exit with status 2; as a library call it is an
    ordinary ``ValueError``.
    """


class StoppedTogether(UserError):
    """Ends a training, and is raised by all of its processes after one and the same step.

    What they do together, such as writing a checkpoint, can therefore still be done.
    """
