"""How other runtimes see this one: its DID document, its agent card, and its A2A server."""
