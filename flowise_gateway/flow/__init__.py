"""The types that all packages share: turns, flow events, transcripts, errors."""
