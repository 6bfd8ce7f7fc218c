"""The Responses API: parsing, rendering, storage, background runs, WebSockets."""
