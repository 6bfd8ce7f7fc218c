"""OpenAI-compatible API for Flowise: the packages behind the server, the adapter and the client."""

__version__ = "0.1.0"
