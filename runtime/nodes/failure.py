"""How an attempt of a node fails, whatever its kind."""


class CallFailed(Exception):
    """A call to the outside failed.

    ``error_class`` is what a retry policy matches. ``retryable`` None leaves it to the policy, False
    is for what another attempt cannot mend. The next attempt comes no sooner than ``retry_after_ms``.
    """

    def __init__(
        self, message: str, error_class: str, *, retryable: bool | None = None, retry_after_ms: int = 0
    ) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
