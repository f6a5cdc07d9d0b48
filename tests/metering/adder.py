"""A process that adds rows to a ledger and says how far it is: `python -m tests.metering.adder URL SPOOL FIRST END`.

It writes the number of the first row that is not on disk yet, one line a turn. TERM ends it as it ends the gateway.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from gateway.metering.ledger import Ledger
from gateway.storage.database import Database
from tests.metering.kept import entry

TURN_ROWS = 50


async def main(url: str, spool: str, first: int, end: int) -> None:
    """Add rows until told to end; write what is there."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    database = Database(url)
    ledger = Ledger(database, Path(spool))
    await ledger.open()
    number = first
    while number < end and not ended.is_set():
        for _ in range(TURN_ROWS):
            # all of a turn is on disk at its end where one of it has to be
            (ledger.add if number % TURN_ROWS == 0 else ledger.add_soon)(entry(number))
            number += 1
        await asyncio.sleep(0.002)  # some requests come, and what was added is on disk
        os.write(1, b"%d\n" % number)
    await ledger.aclose()
    await database.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
