"""The Responses API, whole: parsed, rendered, stored, run in the background, over WebSockets."""
