"""All that knows gunicorn and gevent's server: sockets, workers, clients that leave."""
