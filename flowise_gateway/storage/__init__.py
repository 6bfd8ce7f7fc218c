"""Persistent data, in memory, SQLite or Redis."""
