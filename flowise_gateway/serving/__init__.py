"""The gunicorn and gevent server: sockets, workers, disconnected clients."""
