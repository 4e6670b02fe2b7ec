"""Logs of the launchers, which are those of every process."""

from actors.logs import configure_logs, level_of

__all__ = ["configure_logs", "level_of"]
