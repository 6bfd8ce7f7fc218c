"""Log, metrics, traces and usage."""
