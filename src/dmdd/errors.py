"""The one exception that reaches a user as a single line."""


class UserError(Exception):
    """Input that cannot be used: the message says what is wrong and what would be right.

    Entry points print the message on one line of stderr and leave with exit code 2; every other exception is a defect
    of ours and keeps its traceback.
    """
