"""Flowise's API and behaviour: predictions, events, failures, the catalog of flows."""
