"""The process that runs users' functions. Started by path; imports nothing of this project.

Users have modules called ``api``, ``actors`` and ``runtime`` too, so this script hides ours: their
folders come first on ``sys.path``, our own folder is taken off it.

Threads: the main thread runs the loop for async functions; a pool of threads runs the sync ones; one
thread accepts connections and one per connection reads calls. So neither a blocking async function
nor a full pool stops calls from being read and cancelled. Whoever finishes a call writes its answer.

Frames are a 4-byte big-endian length and JSON. In: a call ``{"id", "module", "function", "mode",
"key", "state"?, "args"?, "kwargs"?, "timed"?}`` or ``{"cancel": id}``. Out: ``{"ready": pid}`` once,
``{"id", "event": "started"}`` for timed calls, ``{"id", "event": "stuck"}`` for a cancelled call that
cannot be stopped, and one answer for each call: ``{"id", "ok", ...}``.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import faulthandler
import functools
import importlib
import importlib.machinery
import inspect
import os
import queue
import re
import signal
import site
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import orjson

PR_SET_PDEATHSIG = 1
RESULT_BYTES_MAX = 4 * 1024 * 1024
ERROR_CHARS_MAX = 4096
DEPTH_MAX = 64
CONNECT_S = 30.0
"""How long a child waits for its first connection."""
LINGER_S = 5.0
"""How long it stays after its last connection has closed."""
HIDDEN = frozenset({"runtime", "actors", "api"})
ERROR_CLASSES = ((TimeoutError, "timeout"), (ConnectionResetError, "connection_reset"), (OSError, "io_error"))
FRAME_BYTES_MAX = 64 * 1024 * 1024
LENGTH = struct.Struct(">I")

_MODULE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_FUNCTION = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Refused(Exception):
    """A call that fails without its function's doing; ``error_class`` says how."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


# --- which function


@dataclasses.dataclass(frozen=True)
class Target:
    """A function that may be called, and how."""

    function: Callable[..., Any]
    is_async: bool
    key_position: int | None
    """Where its parameter ``idempotency_key`` stands among the positional ones; None: it has none."""


class Resolver:
    """The door: the only place where a name in a call becomes an object."""

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = patterns
        self._known: dict[tuple[str, str], Target] = {}

    def known(self, module: str, function: str) -> Target | None:
        return self._known.get((module, function))

    def resolve(self, module: str, function: str) -> Target:
        """Import the module and find the function, or raise ``Refused``."""
        target = self._known.get((module, function))
        if target is None:
            target = self._known[module, function] = self._find(module, function)
        return target

    def _find(self, module: str, function: str) -> Target:
        if not _MODULE.fullmatch(module) or not any(fnmatchcase(module, p) for p in self._patterns):
            raise Refused("not_allowed", f"module {module!r} is not among the allowed modules")
        if not _FUNCTION.fullmatch(function):
            raise Refused("not_allowed", f"{function!r} in module {module!r} is not a public function name")
        try:
            loaded = importlib.import_module(module)
        except BaseException as error:
            # Also SystemExit: a module that exits when imported must not end the other calls.
            raise Refused("import_error", f"cannot import {module!r}: {_say(error)}") from error
        found = getattr(loaded, function, None)
        if found is None:
            raise Refused("import_error", f"module {module!r} has no function {function!r}")
        if not callable(found) or not (_defined_in(found, module) or function in _exported(loaded)):
            raise Refused("not_allowed", f"{function!r} is not a function defined in module {module!r}")
        return Target(found, inspect.iscoroutinefunction(found), _key_position(found))


def _defined_in(found: Any, module: str) -> bool:
    return getattr(found, "__module__", None) == module and not inspect.isclass(found)


def _exported(module: Any) -> tuple[str, ...]:
    names = getattr(module, "__all__", ())
    return tuple(names) if isinstance(names, list | tuple) else ()


def _key_position(function: Callable[..., Any]) -> int | None:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    for position, parameter in enumerate(parameters):
        if parameter.name == "idempotency_key":
            by_name = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            return position if by_name else None
    return None


def arguments(request: dict[str, Any], target: Target) -> tuple[list[Any], dict[str, Any]]:
    """The positional and keyword arguments of a call."""
    args, kwargs = request.get("args"), request.get("kwargs")
    if args is None and kwargs is None:
        args = [request.get("state") or {}]
    args, kwargs = list(args or ()), dict(kwargs or {})
    if target.key_position is not None and target.key_position >= len(args):
        kwargs.setdefault("idempotency_key", request["key"])
    return args, kwargs


# --- what it returned


def outcome(request: dict[str, Any], frame: bytes, value: Any) -> dict[str, Any]:
    """The fields of the answer for a returned value; raises ``Refused`` for one that cannot be kept."""
    if request["mode"] == "set":
        return {"result": orjson.Fragment(encode(value))}
    if value is None:
        return {"patch": {}}
    returned = orjson.loads(encode(value))
    if not isinstance(returned, dict):
        kind = type(value).__name__
        raise Refused(
            "invalid_result",
            f"the function returned {kind}; a function without output_key must return a dict",
        )
    # The function may have changed the state it was given in place: the frame still has it as it was.
    before = orjson.loads(frame).get("state")
    return {"patch": returned if before is None else difference(before, returned)}


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The smallest RFC 7396 patch that does to ``before`` what merging ``after`` into it would do.

    Keys that ``after`` leaves out stay; None deletes; a null that was there before is no change.
    """
    patch: dict[str, Any] = {}
    for key, value in after.items():
        if key not in before:
            if value is not None:
                patch[key] = value
            continue
        old = before[key]
        if isinstance(old, dict) and isinstance(value, dict):
            if inner := difference(old, value):
                patch[key] = inner
        elif not same(old, value):
            patch[key] = value
    return patch


def same(left: Any, right: Any) -> bool:
    """Equal as JSON: unlike Python, 1, 1.0 and true are three values."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def encode(value: Any) -> bytes:
    """JSON bytes of a returned value; ``Refused`` for what JSON or the store cannot hold."""
    try:
        data = orjson.dumps(value, default=plain, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise Refused("value_rejected", f"the result is not JSON: {error.__cause__ or error}") from error
    if len(data) > RESULT_BYTES_MAX:
        size = f"{len(data)} bytes, over the limit of {RESULT_BYTES_MAX}"
        raise Refused("value_rejected", f"the result is {size}")
    # orjson writes NaN and infinities as null, so a null wants a second look.
    if b"null" in data or b"\\u0000" in data or data.count(b"[") + data.count(b"{") > DEPTH_MAX:
        check(value)
    return data


def plain(value: Any) -> Any:
    """Models and dataclasses as dicts, one level; TypeError for anything else that is not JSON."""
    if isinstance(value, type):
        raise TypeError(f"type is not JSON serializable: class {value.__name__}")
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json") if hasattr(value, "__pydantic_serializer__") else dump()
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"type is not JSON serializable: {type(value).__name__}")


def check(value: Any) -> None:
    """Walk a value that encodes, and refuse the first thing in it that cannot be kept."""
    stack: list[tuple[Any, int]] = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if depth > DEPTH_MAX:
            raise Refused("value_rejected", f"the result is nested deeper than {DEPTH_MAX} levels")
        if isinstance(item, str):
            if "\x00" in item:
                raise Refused("value_rejected", "the result contains the character U+0000")
        elif isinstance(item, float):
            if item != item or item in (float("inf"), float("-inf")):
                raise Refused("value_rejected", f"the result contains the number {item}, which is not JSON")
        elif isinstance(item, dict):
            stack.extend((key, depth) for key in item)
            stack.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list | tuple):
            stack.extend((inner, depth + 1) for inner in item)
        elif dataclasses.is_dataclass(item) or hasattr(item, "model_dump"):
            stack.append((plain(item), depth))


# --- what it raised


def fault(error: BaseException) -> dict[str, Any]:
    """The fields of the answer for an exception."""
    own = isinstance(error, Refused)
    raised = error.__cause__ if own else error
    return {
        "error_class": _clean(_error_class(error))[:128],
        "error": _clean(str(error) if own else _say(error))[:ERROR_CHARS_MAX],
        "traceback": None if raised is None else _clean(_traceback(raised))[-ERROR_CHARS_MAX:],
    }


def _error_class(error: BaseException) -> str:
    try:
        named = getattr(error, "error_class", None)
    except Exception:
        named = None
    if isinstance(named, str) and named:
        return named
    for kind, name in (
        (TimeoutError, "timeout"),
        (ConnectionResetError, "connection_reset"),
        (OSError, "io_error"),
    ):
        if isinstance(error, kind):
            return name
    return type(error).__name__


def _say(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _traceback(error: BaseException) -> str:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:
        return ""


def _clean(text: str) -> str:
    """Text that JSON and the store can hold, whatever the user's code put into it."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


# --- calls and connections


class Call:
    """One call: queued, then running, then settled, each at most once."""

    def __init__(self, connection: Connection, request: dict[str, Any], frame: bytes) -> None:
        self.request = request
        self._connection = connection
        self._frame = frame
        self._lock = threading.Lock()
        self._running = False
        self._cancelled = False
        self._is_async = False
        self._task: asyncio.Task[None] | None = None
        self._started_at = 0.0

    def run(self, target: Target) -> None:
        """Run a sync function, in a thread of the pool."""
        if not self._begin():
            return
        try:
            args, kwargs = arguments(self.request, target)
            value = target.function(*args, **kwargs)
            if inspect.isawaitable(value):
                value = asyncio.run_coroutine_threadsafe(_await(value), self._connection.server.loop).result()
            self._succeed(value)
        except BaseException as error:
            self.fail(error)

    def start(self, target: Target) -> None:
        """Start an async function, in the loop's thread."""
        self._is_async = True
        if self._begin():
            self._task = self._connection.server.loop.create_task(self._run_async(target))
            self._task.add_done_callback(self._settled_unrun)

    async def _run_async(self, target: Target) -> None:
        try:
            args, kwargs = arguments(self.request, target)
            self._succeed(await target.function(*args, **kwargs))
        except BaseException as error:
            # Nothing may leave: SystemExit in a task would end the loop under all the other calls.
            if isinstance(error, asyncio.CancelledError) and self._cancelled:
                error = Refused("cancelled", "the call was cancelled")
            self.fail(error)

    def _settled_unrun(self, task: asyncio.Task[None]) -> None:
        # A task cancelled before its first step never enters its coroutine, so nothing in there answers.
        if task.cancelled():
            self.fail(Refused("cancelled", "the call was cancelled before it began"))

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def cancel(self) -> None:
        """Stop the call if that can be done; say so if it cannot."""
        with self._lock:
            self._cancelled = True
            running = self._running
        if not running:
            self.fail(Refused("cancelled", "the call was cancelled before it began"))
        elif self._is_async:
            self._connection.server.loop.call_soon_threadsafe(self._cancel_task)
        else:
            self._connection.send({"id": self.request["id"], "event": "stuck"})

    def fail(self, error: BaseException) -> None:
        self._settle({"ok": False, **fault(error)})

    def _succeed(self, value: Any) -> None:
        self._settle({"ok": True, **outcome(self.request, self._frame, value)})

    def _begin(self) -> bool:
        with self._lock:
            if self._cancelled:
                return False
            self._running = True
        self._started_at = time.monotonic()
        if self.request.get("timed"):
            self._connection.send({"id": self.request["id"], "event": "started"})
        return True

    def _settle(self, fields: dict[str, Any]) -> None:
        took = time.monotonic() - self._started_at if self._running else 0.0
        self._connection.answer(self, {"id": self.request["id"], "duration_ms": round(took * 1000), **fields})


async def _await(value: Any) -> Any:
    return await value


class Connection:
    """One owner's socket: reads its calls, writes their answers."""

    def __init__(self, server: Server, stream: socket.socket) -> None:
        self.server = server
        self._stream = stream
        self._lock = threading.Lock()
        self._calls: dict[int, Call] = {}

    def serve(self) -> None:
        """Read frames until the owner hangs up."""
        self.send({"ready": os.getpid()})
        try:
            with self._stream.makefile("rb", buffering=256 * 1024) as reader:
                while len(head := reader.read(LENGTH.size)) == LENGTH.size:
                    (length,) = LENGTH.unpack(head)
                    if length > FRAME_BYTES_MAX:
                        raise ValueError(f"a frame of {length} bytes is over the limit of {FRAME_BYTES_MAX}")
                    self._take(reader.read(length))
        except (OSError, ValueError):
            traceback.print_exc()  # Hanging up is the answer: the owner repeats its calls elsewhere.
        finally:
            for call in list(self._calls.values()):
                call.cancel()
            self._stream.close()
            self.server.closed(self)

    def send(self, message: dict[str, Any]) -> None:
        data = orjson.dumps(message)
        try:
            with self._lock:
                self._stream.sendall(LENGTH.pack(len(data)) + data)
        except OSError:
            pass  # The owner is gone; its calls are repeated by whoever takes over.

    def answer(self, call: Call, message: dict[str, Any]) -> None:
        if self._calls.pop(message["id"], None) is call:
            self.send(message)

    def _take(self, frame: bytes) -> None:
        request = orjson.loads(frame)
        if "cancel" in request:
            if call := self._calls.get(request["cancel"]):
                call.cancel()
            return
        call = self._calls[request["id"]] = Call(self, request, frame)
        self.server.dispatch(call)


class Server:
    """The listening socket, the pool of threads and the loop."""

    def __init__(self, listener: socket.socket, resolver: Resolver, *, threads: int) -> None:
        self.loop = asyncio.new_event_loop()
        self._listener = listener
        self._resolver = resolver
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._connections: set[Connection] = set()
        self._quiet_until = time.monotonic() + CONNECT_S
        for number in range(threads):
            threading.Thread(target=self._drudge, name=f"function-{number}", daemon=True).start()

    def run(self) -> None:
        """Serve until killed, or until there has been no owner for a while."""
        threading.Thread(target=self._accept, name="accept", daemon=True).start()
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
            except BaseException:
                # A task that user code started on its own raised SystemExit or KeyboardInterrupt.
                traceback.print_exc()

    def dispatch(self, call: Call) -> None:
        """Hand a call to where its function runs. A first call imports, so that goes to the pool."""
        target = self._resolver.known(call.request["module"], call.request["function"])
        if target is None:
            self._work.put(functools.partial(self._resolve, call))
        elif target.is_async:
            self.loop.call_soon_threadsafe(call.start, target)
        else:
            self._work.put(functools.partial(call.run, target))

    def closed(self, connection: Connection) -> None:
        self._quiet_until = time.monotonic() + LINGER_S
        self._connections.discard(connection)

    def _resolve(self, call: Call) -> None:
        try:
            target = self._resolver.resolve(call.request["module"], call.request["function"])
        except Refused as refusal:
            call.fail(refusal)
            return
        if target.is_async:
            self.loop.call_soon_threadsafe(call.start, target)
        else:
            call.run(target)

    def _drudge(self) -> None:
        while True:
            self._work.get()()

    def _accept(self) -> None:
        self._listener.settimeout(1.0)
        while True:
            try:
                stream, _ = self._listener.accept()
            except TimeoutError:
                if not self._connections and time.monotonic() > self._quiet_until:
                    os._exit(0)
                continue
            stream.settimeout(None)
            connection = Connection(self, stream)
            self._connections.add(connection)
            threading.Thread(target=connection.serve, name="connection", daemon=True).start()


# --- the process


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux; elsewhere the linger does)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # It died before the kernel was asked.


class HiddenPackages:
    """Finder that keeps our packages from being found under names that users' modules may have."""

    def __init__(self, ours: str) -> None:
        self._ours = ours

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if path is not None or name not in HIDDEN:
            return None
        folders = [folder for folder in sys.path if os.path.realpath(folder) != self._ours]
        spec = importlib.machinery.PathFinder.find_spec(name, folders)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return spec


def arrange_path(folders: list[str]) -> None:
    """Put users' folders first on ``sys.path``, and take ours out of reach."""
    ours = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
    if ours not in map(os.path.realpath, folders):
        shared = {os.path.realpath(folder) for folder in site.getsitepackages()}
        if ours not in shared:
            sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != ours]
        sys.meta_path.insert(0, HiddenPackages(ours))
    sys.path[:0] = folders


def main(config: dict[str, Any]) -> None:
    """Serve calls on the inherited socket ``config["fd"]``."""
    die_with_parent(config["parent"])
    os.dup2(2, 1)
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    arrange_path(config["folders"])
    sys.argv = ["function"]
    listener = socket.socket(fileno=config["fd"])
    Server(listener, Resolver(config["modules"]), threads=config["threads"]).run()


if __name__ == "__main__":
    main(orjson.loads(sys.argv[1]))
