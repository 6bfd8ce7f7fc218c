"""The pipeline host: Haystack pipelines behind Flowise's API, each in its own process (extra `haystack`)."""
