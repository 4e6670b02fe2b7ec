"""Stands in for the HAProxy binary: corrects the configuration that Serve wrote, then becomes HAProxy.

Serve's configuration opens two ports on every interface (statistics and
metrics) and its admin socket to every user of the machine, answers its own
errors as ``500 text/plain``, and leaves HAProxy running when its manager is
killed, holding the port. Its one host is also that of every replica's own port.
Here the two ports are closed, the socket is our user's, HAProxy alone listens
where callers come from, and only when it knows of an application, errors become
the API's JSON, a GET whose replica died unanswered is tried again, and HAProxy
dies with the process that started it.

It is run by path with nothing on ``sys.path``: the standard library alone.
"""

import ctypes
import os
import re
import signal
import socket
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1

_UNAVAILABLE = (
    503,
    "Service Unavailable",
    '{"error":"unavailable: the server is starting or recovering, try again","code":"unavailable"}',
)
ERRORS = {
    400: (
        400,
        "Bad Request",
        '{"error":"bad request: the request is not valid HTTP","code":"bad_request"}',
    ),
    408: (
        408,
        "Request Timeout",
        '{"error":"request timeout: the request did not arrive in time","code":"request_timeout"}',
    ),
    500: (500, "Internal Server Error", '{"error":"internal error: the proxy failed","code":"internal"}'),
    502: _UNAVAILABLE,
    503: _UNAVAILABLE,
    504: _UNAVAILABLE,
}
"""For each of HAProxy's own errors: the status, reason and body that clients get instead."""

_PUBLIC_SECTIONS = ("frontend prometheus", "listen stats")
_SECTION = re.compile(r"(?=^(?:global|defaults|frontend|backend|listen)\b)", re.MULTILINE)
_BIND = re.compile(r"^ *bind \S+:(\d+).*\n", re.MULTILINE)
_NO_REUSEPORT = "-dR"
_OURS = f"""\
    http-request set-header X-Jamjet-Client-Address %[src]
    http-request disable-l7-retry if !METH_GET
    acl ours res.hdr(content-type) -m sub json
    acl refused status 404 500 502 503 504
    http-response return status 503 content-type application/json string '{_UNAVAILABLE[2]}' \
hdr Cache-Control no-store hdr Retry-After 1 if refused !ours
"""
"""Replicas are told who calls; what a client claims of that is overwritten.

Serve's ``retry-on`` is for every method: what was sent and may have run is repeated for GET and HEAD only.

The app answers in JSON, so an error in plain text is that of one of Serve's own proxies.
"""
_ADMIN_SOCKET = re.compile(r"^( *stats socket \S+ mode) 666\b", re.MULTILINE)
_ERRORFILE = re.compile(r"^ *errorfile .*\n", re.MULTILINE)


def corrected(config: str, host: str, error_folder: str) -> str:
    """Serve's configuration as we want it. Correcting it twice changes nothing more.

    Args:
        host: where HAProxy is to listen, on the port that the configuration names.
        error_folder: where the files of ``ERRORS`` are.
    """
    sections = [part for part in _SECTION.split(config) if not part.startswith(_PUBLIC_SECTIONS)]
    return "".join(_corrected_section(part, host, error_folder) for part in sections)


def error_response(status: int) -> str:
    """One of ``ERRORS`` as raw HTTP, as an ``errorfile`` holds it."""
    answered, reason, body = ERRORS[status]
    lines = [
        f"HTTP/1.1 {answered} {reason}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        *(["Retry-After: 1"] if answered == 503 else []),
    ]
    return "\r\n".join([*lines, "", body])


def _corrected_section(section: str, host: str, error_folder: str) -> str:
    if section.startswith("global"):
        return _ADMIN_SOCKET.sub(r"\1 600", section)
    if section.startswith("defaults"):
        files = "".join(f"    errorfile {status} {error_folder}/{status}.http\n" for status in ERRORS)
        return _ERRORFILE.sub("", section).rstrip("\n") + "\n" + files
    if section.startswith("frontend http_frontend"):
        if not _routes(section):
            # A caller who is refused goes to the next node; one who is told 503 does not.
            return _BIND.sub("", section)
        rules = "" if _OURS in section else _OURS
        return _BIND.sub(lambda bind: f"    bind {host}:{bind[1]}\n{rules}", section, count=1)
    if section.startswith("backend default_backend"):
        # No application is deployed any more: that is no "not found". An empty backend answers 503.
        return "backend default_backend\n"
    return section


def _routes(config: str) -> bool:
    return "use_backend" in config


def _correct_file(path: Path, host: str, *, alone: bool) -> None:
    """``alone``: no other process may listen on the same port."""
    folder = path.parent
    for status in ERRORS:
        (folder / f"{status}.http").write_text(error_response(status), newline="")
    config = path.read_text()
    if not _routes(config):
        _try_to_listen(config, host, alone=alone)
    path.write_text(corrected(config, host, str(folder)))


def _try_to_listen(config: str, host: str, *, alone: bool) -> None:
    """End here if HAProxy could not listen later, when Serve would not notice."""
    for port in _BIND.findall(config.partition("frontend http_frontend")[2])[:1]:
        address = host.strip("[]")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not alone:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                tried.bind((address, int(port)))
            except OSError as error:
                sys.exit(f"haproxy cannot listen on {host}:{port}: {error.strerror}")


def _die_with_parent(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the process that started haproxy has ended")


def main(host: str, binary: str, arguments: list[str]) -> None:
    parent = os.getppid()
    if "-f" in arguments:
        path = Path(arguments[arguments.index("-f") + 1])
        _correct_file(path, host, alone=_NO_REUSEPORT in arguments)
    _die_with_parent(parent)
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
