"""The HTTP seam under the Flowise client: one protocol, two implementations."""
