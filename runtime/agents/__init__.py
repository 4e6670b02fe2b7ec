"""Agents: their cards, and the states that they may be in."""
