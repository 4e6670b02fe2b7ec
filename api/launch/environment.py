"""The environment of one instance of Ray: its own ports, its own token, nothing of another's."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

_FALLBACK_HTTP, _FALLBACK_GRPC, _STATS, _METRICS, _FIRST_REPLICA = range(5)
PORTS = 128
"""How many ports in a row an instance needs: those above, and one for each life of a replica.

A port is not given to another replica for some minutes after its last one has ended.
"""

EVERYWHERE = {
    "PYTHONSAFEPATH": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    # Otherwise any client could name its own address in X-Forwarded-For.
    "FORWARDED_ALLOW_IPS": "",
}
"""What Ray's processes need wherever they run: here, and as ``deploy/ray.env`` on the nodes of a cluster."""

_NOT_INHERITED = ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_AUTH_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR")
_WRAPPER = Path(__file__).with_name("haproxy.py")
_DRAINING_S = "0.1"


def ray_environment(environ: Mapping[str, str], *, folder: Path, first_port: int) -> dict[str, str]:
    """What an instance's processes get: ``environ``, and what keeps them apart from any other.

    Args:
        folder: short (sockets' names are limited to 107 bytes), private to us.
        first_port: of ``PORTS`` free ones in a row.
    """
    kept = {name: value for name, value in environ.items() if name not in _NOT_INHERITED}
    proxy = folder / "h"
    return {
        **kept,
        **EVERYWHERE,
        "PYTHONPATH": _without_working_folder(environ.get("PYTHONPATH", "")),
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_DEDUP_LOGS": "0",
        # The node's address is then 127.0.0.1, and Ray listens nowhere else.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": _DRAINING_S,
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_port + _FIRST_REPLICA),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_port + PORTS - 1),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(first_port + _FALLBACK_HTTP),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(first_port + _FALLBACK_GRPC),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(first_port + _STATS),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(first_port + _METRICS),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
    }


def write_haproxy(path: Path, binary: str, host: str) -> None:
    """Write the executable that Serve takes for HAProxy: our wrapper around the binary."""
    command = shlex.join([sys.executable, "-IS", str(_WRAPPER), host, binary])
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o700)


def _without_working_folder(python_path: str) -> str:
    """``PYTHONPATH`` without the folder we were started in: its modules are the user's, not ours."""
    entries = [entry for entry in python_path.split(os.pathsep) if entry]
    here = Path.cwd().resolve()
    ours = Path(__file__).parents[2].resolve()
    return os.pathsep.join(entry for entry in entries if Path(entry).resolve() != here or here == ours)
