"""Flowise's wire and habits: predictions, events, failures, the catalog of flows."""
