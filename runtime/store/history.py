"""From what is stored to the state: the snapshot, and the tail folded onto it."""

from runtime.events import decode_event
from runtime.plan import Plan
from runtime.state import ExecutionState, decode_state, fold, new_state
from runtime.store.port import StoredExecution


def fold_stored(stored: StoredExecution, plan: Plan) -> ExecutionState:
    """The state of an execution as it was read."""
    if stored.snapshot is None:
        state = new_state(stored.row.execution_id, plan)
    else:
        state = decode_state(stored.snapshot)
    if not stored.tail:
        return state
    history = ((decode_event(row.type, row.data), row.created_at) for row in stored.tail)
    return fold(state, plan, history)
