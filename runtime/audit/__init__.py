"""The audit log: entries in chains, seals over them, and their verification."""
