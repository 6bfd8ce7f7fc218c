"""HTTP transports to Flowise: one protocol, two implementations."""
