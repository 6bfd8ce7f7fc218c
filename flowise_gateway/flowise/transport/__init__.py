"""How requests reach Flowise over HTTP: one protocol, two implementations."""
