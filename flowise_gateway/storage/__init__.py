"""What outlives a request, in memory, SQLite or Redis."""
