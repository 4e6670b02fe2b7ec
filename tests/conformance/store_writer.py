"""A process that commits turns until it is killed, and prints each one that was acknowledged.

python store_writer.py URL PRODUCERS
"""

import asyncio
import sys

from runtime.store import Outcome, Store, open_store
from tests.conformance.store_cases import first_turn, next_turn


async def produce(store: Store, execution_id: str) -> None:
    """Append one event a turn, for ever."""
    outcome = await store.journal.commit(first_turn(execution_id))
    sequence = 1
    while outcome is Outcome.COMMITTED:
        sys.stdout.write(f"{execution_id} {sequence}\n")
        sys.stdout.flush()
        snapshot = "{}" if sequence % 5 == 0 else None
        outcome = await store.journal.commit(next_turn(execution_id, sequence, snapshot=snapshot))
        sequence += 1


async def main(url: str, producers: int) -> None:
    """Drive ``producers`` executions at once."""
    store = await open_store(url)
    await asyncio.gather(*(produce(store, f"exec_{number}") for number in range(producers)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
