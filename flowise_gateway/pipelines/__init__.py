"""The pipeline host: Haystack pipelines behind Flowise's wire, each in its own process (extra `haystack`)."""
