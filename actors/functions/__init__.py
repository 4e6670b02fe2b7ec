"""Python functions of workflows, run in child processes that can be killed.

An owner holds a ``FunctionPool``; the pool gets children from a
``FunctionHost``: in its own process tree (``LocalHost``) or from the
``NodeWorker`` of its node (``node_worker.NodeWorkerHost``, imported apart
because it needs Ray). Calls travel over a Unix socket, straight from the owner
to the child.
"""

from actors.functions.call import FunctionCall, FunctionResult
from actors.functions.client import FunctionClient, WorkerLost
from actors.functions.host import Child, FunctionHost, LocalHost
from actors.functions.pool import FunctionPool
from actors.functions.process import FunctionProcess, FunctionSettings

__all__ = [
    "Child",
    "FunctionCall",
    "FunctionClient",
    "FunctionHost",
    "FunctionPool",
    "FunctionProcess",
    "FunctionResult",
    "FunctionSettings",
    "LocalHost",
    "WorkerLost",
]
