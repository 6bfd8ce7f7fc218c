"""The operator's configuration: the environment and `proxy.yaml`."""
