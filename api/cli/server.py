"""``jamjet-server``: the same installation without a terminal. It takes no arguments, only variables.

JAMJET_PORT or PORT, JAMJET_BIND, DATABASE_URL, JAMJET_DEV_MODE, JAMJET_LOG_LEVEL
or RUST_LOG, and the other settings of ``actors.settings``; below them the ``jamjet.toml`` of the
current folder, or the file that JAMJET_CONFIG names. It logs to stderr and
ends within 4 seconds of SIGTERM.
"""

import json
import sys
from typing import TYPE_CHECKING

from api.cli.dev import in_this_folder, require_safe_bind
from api.cli.exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CliError
from api.cli.output import note

if TYPE_CHECKING:
    from api.launch.launcher import Running


def main() -> int:
    """Serve until a signal, and return the exit code."""
    import asyncio

    import structlog

    from api.cli.config_file import load_project
    from api.launch.launcher import LaunchFailed, launch, with_absolute_database
    from api.launch.logs import configure_logs, level_of
    from api.launch.relay import record_of
    from runtime.errors import JamjetError

    log = structlog.get_logger("jamjet.server")

    async def on_ready(running: "Running") -> None:
        log.info("ready", url=running.url, docs=f"{running.url}/docs", logs=str(running.logs))

    def show(line: str) -> None:
        record = record_of(line)
        if record is None:
            log.info("output", line=line)
        else:
            # It is such a line as ours are, with its own time and level.
            note(json.dumps(record))

    try:
        warnings: list[str] = []
        settings = load_project(warnings.append)
        configure_logs(level_of(settings.log_level))
        for warning in warnings:
            log.warning(warning)
        require_safe_bind(settings)
        if settings.dev_mode:
            settings = in_this_folder(settings)
        asyncio.run(launch(with_absolute_database(settings), say=log.info, show=show, on_ready=on_ready))
    except LaunchFailed as error:
        log.error(error.detail)
        return EXIT_FAILED
    except (JamjetError, CliError) as error:
        log.error(str(error))
        return EXIT_USAGE
    log.info("ended")
    return EXIT_OK


def run() -> None:
    """The entry point of the ``jamjet-server`` script."""
    sys.exit(main())
