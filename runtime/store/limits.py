"""How long rows are kept and heeded, in all stores alike."""

DEAD_SHOWN_MS = 60_000
"""A dead executor is listed this long."""

DEAD_KEPT_MS = 3_600_000
SILENT_KEPT_MS = 24 * 3_600_000
"""An executor that fell silent without being marked dead is forgotten after this."""

MESSAGE_KEPT_MS = 24 * 3_600_000
"""A consumed message stays this long, so that its id is known when it comes again."""

MESSAGE_LATE_MS = 1_000
"""An owner that lives has this long to read its inbox before the sweep reminds it."""
