"""Maps a client's conversation to Flowise sessions, and requests to turns."""
