"""Who holds the write lock of a SQLite file in WAL mode. SQLite itself tells only that somebody does."""

from pathlib import Path

WRITE_LOCK = 120
"""The byte of the ``-shm`` file that a writer locks: https://www.sqlite.org/walformat.html, section 2.3.1."""


def write_lock_holder(database: Path, *, locks: Path = Path("/proc/locks")) -> int | None:
    """The process id of the holder; None: nobody, or the system does not tell.

    Read from the kernel's list of locks. To ask for the lock one must open the file, and closing it again
    gives up all locks that the process has there, also those of its connections.
    """
    try:
        inode = str((database.parent / f"{database.name}-shm").stat().st_ino)
        lines = locks.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # As in "1: POSIX  ADVISORY  WRITE 4711 fe:00:2146371 120 120".
        fields = line.split()
        if fields[3:4] != ["WRITE"] or fields[5].rpartition(":")[2] != inode:
            continue
        if int(fields[6]) <= WRITE_LOCK and (fields[7] == "EOF" or int(fields[7]) >= WRITE_LOCK):
            return int(fields[4])
    return None
