"""A small Flowise of its own: the demo backend, the fake of the tests, the load of the benchmarks."""
