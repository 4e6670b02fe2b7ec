"""What goes wrong on the way out."""


class EgressError(Exception):
    """An exchange failed; ``error_class`` is what a retry policy matches.

    ``address_refused``, ``bad_url``, ``too_large``, ``timeout``, ``connection_reset`` or ``io_error``.
    """

    def __init__(self, message: str, error_class: str) -> None:
        super().__init__(message)
        self.error_class = error_class
