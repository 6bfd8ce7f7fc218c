"""The Flask layer: from a request to its response."""
