"""OpenAI's API for Flowise flows: the rooms behind the server, its adapter and its client."""

__version__ = "0.1.0"
