"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can put right: one sentence on what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with 2.
    """


class Cancelled(Exception):
    """The user asked for a long piece of work (loading, prefill, download) to stop."""


EXIT_USER_ERROR = 2  # of a process that ends with a UserError's sentence
