"""The process that owns an instance of Ray: it starts everything on it, and ends with it.

The launcher starts it in a session of its own, writes one line of JSON (a
``Plan``), and later ``go``; the answer is one line of JSON for each stage that
is reached. Ray and Serve are imported meanwhile: that alone takes a second.
"""

import importlib
import json
import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import IO, Any

GO = "go"
RAY_FOLDER = "r"
INTERNAL_HOST = "127.0.0.1"
"""Where Serve's own parts listen; only HAProxy listens on the address that was asked for."""
_DRAIN_S = 2.0
_OBJECT_STORE_BYTES = 128 * 2**20
"""Executions pass small messages; large ones have no business in the object store."""


@dataclass(frozen=True)
class Plan:
    """What to start.

    Attributes:
        settings: of the installation, by name.
        folder: private to the instance, and short.
        app: ``module:function`` that makes the Serve application from ``settings``.
        debug: Ray's own log and its workers' output come to stderr too.
    """

    settings: dict[str, Any]
    folder: str
    app: str
    num_cpus: int
    debug: bool

    def to_line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Plan":
        return cls(**json.loads(line))


class Instance:
    """Ray, Serve, the actors and the application of one installation, on this machine."""

    def __init__(self, plan: Plan, status: IO[str]) -> None:
        self._plan = plan
        self._status = status
        self._asked_to_stop = threading.Event()

    def run(self) -> None:
        """Start everything, serve until SIGTERM, and stop what needs an orderly end."""
        self._start_ray()
        self._tell("ray")
        # Ray has set its own handler, so ours comes after it.
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: self._asked_to_stop.set())
        with ThreadPoolExecutor(thread_name_prefix="start") as pool:
            actors = pool.submit(self._start_actors)
            self._start_serve()
            self._tell("serve")
            actors.result()
        self._tell("actors")
        self._asked_to_stop.wait()
        self._stop()

    def _start_ray(self) -> None:
        import ray

        plan = self._plan
        ray.init(
            address="local",
            num_cpus=plan.num_cpus,
            namespace=plan.settings["namespace"],
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=True,
            logging_level=logging.DEBUG if plan.debug else logging.WARNING,
            _temp_dir=os.path.join(plan.folder, RAY_FOLDER),
        )

    def _start_serve(self) -> None:
        from ray import serve

        from api.serve import APP_NAME

        settings = self._plan.settings
        serve.start(
            http_options={"host": INTERNAL_HOST, "port": settings["port"]},
            logging_config={"log_level": "DEBUG" if self._plan.debug else "WARNING"},
        )
        module, _, function = self._plan.app.partition(":")
        application = getattr(importlib.import_module(module), function)(settings)
        serve.run(application, name=APP_NAME, route_prefix="/")

    def _start_actors(self) -> None:
        from actors.bootstrap import ensure_supervisor
        from actors.settings import Settings

        ensure_supervisor(Settings.from_dict(self._plan.settings))

    def _stop(self) -> None:
        """Let requests end, and the application close what it opened. The rest may be killed at any time.

        Not Serve itself: that ends HAProxy while requests are under way.
        """
        from ray import serve

        from api.serve import APP_NAME

        ending = threading.Thread(target=serve.delete, args=(APP_NAME,), daemon=True)
        ending.start()
        ending.join(_DRAIN_S)

    def _tell(self, stage: str, **more: Any) -> None:
        self._status.write(json.dumps({"stage": stage, **more}) + "\n")
        self._status.flush()


def main() -> None:
    """Read the plan from stdin and carry it out. The status goes to the descriptor in ``argv[1]``."""
    status = os.fdopen(int(sys.argv[1]), "w")
    plan = Plan.from_line(sys.stdin.readline())
    # Ray puts the driver's folder on every worker's path: it must hold nobody's modules.
    os.chdir(plan.folder)
    sys.argv = [""]
    for module in ("ray", "ray.serve", plan.app.partition(":")[0], "actors.bootstrap"):
        importlib.import_module(module)
    if sys.stdin.readline().strip() != GO:
        return
    instance = Instance(plan, status)
    try:
        instance.run()
    except BaseException as error:
        instance._tell("failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    # Ray's own way out takes seconds; the launcher ends what is left of the session.
    os._exit(0)


if __name__ == "__main__":
    main()
