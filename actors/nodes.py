"""The nodes of a Ray cluster, as far as they matter to us."""

import msgspec

from runtime.demand import Machine

HEAD_RESOURCE = "node:__internal_head__"
"""Ray gives it to the head node alone."""


class ClusterNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the cluster that is alive."""

    id: str
    address: str
    port: int = 0
    """Of its raylet."""
    machine: Machine
    drained_by: int | None = None
    """It is to go: the latest time (ms since the epoch by its clock), or 0 if none was said."""

    @property
    def head(self) -> bool:
        return HEAD_RESOURCE in self.machine.total

    @property
    def draining(self) -> bool:
        return self.drained_by is not None

    @property
    def cpus(self) -> float:
        return self.machine.total.get("CPU", 0)


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster at one moment."""

    nodes: tuple[ClusterNode, ...] = ()
    """Those that are alive, the head first."""
    lost: frozenset[str] = frozenset()
    """The ids of nodes that Ray says are dead."""
