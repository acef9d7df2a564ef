"""The exceptions that reach the user, and the exit status of a user's error."""


class UserError(Exception):
    """A problem that the user can solve.

    The message is one sentence: what is wrong, in which file, and what to do. The command line
    prints it without a traceback and exits with ``EXIT_USER_ERROR``.
    """


class Cancelled(Exception):
    """The user stopped a long operation: loading, prefill or a download."""


EXIT_USER_ERROR = 2  # exit status of a process that ended with a UserError
