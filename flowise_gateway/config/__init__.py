"""What the operator writes: the environment and `proxy.yaml`."""
