"""The runtime: IR, normal form, events, state machine, expressions, templates, store.

Its core does no I/O, reads no clock and draws no random number; only
``runtime.store`` and ``runtime.nodes`` touch the world. Nothing here imports
ray or fastapi.
"""
