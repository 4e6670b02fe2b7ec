"""The admission table as Markdown, for ARCHITECTURE.md: which signal meets what in which status."""

from runtime.machine import ADMISSION

_LEGEND = """\
*accept*: the machine decides; what fits no node that waits or runs is still refused (an approval that nobody
asked for) or dropped (the result of another attempt). *refuse*: a `Conflict`, 409 to whoever sent it.
*ignore*: nothing happens, and that is right. A start is accepted once, by an execution that has no event yet.
A signal id that the log knows is answered from the log, in every status."""


def admission_table() -> str:
    """One row a signal, one column a status, and what the words mean."""
    signals = list(next(iter(ADMISSION.values())))
    rows = [
        ["signal", *(f"`{status}`" for status in ADMISSION)],
        ["---"] * (len(ADMISSION) + 1),
        *([f"`{signal.__name__}`", *(row[signal] for row in ADMISSION.values())] for signal in signals),
    ]
    lines = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join((*lines, "", _LEGEND))
