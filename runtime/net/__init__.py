"""HTTP to the outside: guarded, bounded, and without a way into the inside."""
