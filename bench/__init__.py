"""Benchmarks: each file measures one ratio against a peer, or against the machine. `python -m bench.NAME --help`."""
