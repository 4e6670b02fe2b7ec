"""Actors that stand still: stopped, or caught in a call that never returns.

Ray restarts an actor whose process ends. It does not see one whose process is there and does nothing, so
whoever listens to actors regularly notes here which it hears.
"""

SILENT_S = 30.0
"""An actor that was heard before, and then is not for so long, is better ended."""
STARTING_S = 300.0
"""The same for one that was never heard: it may be starting, or wait for its place."""


class Silences:
    """How long each actor has not been heard, by name."""

    def __init__(self) -> None:
        self._heard: set[str] = set()
        self._missed_at: dict[str, float] = {}
        """When each that is not heard was missed first."""

    def note(self, name: str, *, heard: bool, now: float) -> bool:
        """Whether it has been silent for too long. It is forgotten then: another will have its name."""
        if heard:
            self._heard.add(name)
            self._missed_at.pop(name, None)
            return False
        missed_s = now - self._missed_at.setdefault(name, now)
        if missed_s < (SILENT_S if name in self._heard else STARTING_S):
            return False
        self._heard.discard(name)
        del self._missed_at[name]
        return True

    def forget_others(self, present: set[str]) -> None:
        """Forget those that are not there any more."""
        self._heard &= present
        self._missed_at = {name: at for name, at in self._missed_at.items() if name in present}
