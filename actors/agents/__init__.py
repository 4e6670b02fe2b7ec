"""The agent registry: one actor that hears heartbeats and discovers, over the store."""
