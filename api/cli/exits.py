"""The exit codes of the commands, and the error that carries one to the top."""

EXIT_OK = 0
EXIT_FAILED = 1
"""The run failed, or the server refused what was asked in its present state."""
EXIT_USAGE = 2
"""The command line, a file or a setting is wrong."""
EXIT_NOT_FOUND = 3
EXIT_NO_ACCESS = 4
"""No token, or one that may not do this."""
EXIT_UNREACHABLE = 5
"""No server answered, or it could not serve just now."""
EXIT_TIMED_OUT = 124
"""``--timeout`` passed while the run goes on."""
EXIT_DETACHED = 130
"""Ctrl-C: the run goes on without us."""


class CliError(Exception):
    """One sentence for the user, and the exit code that goes with it."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
