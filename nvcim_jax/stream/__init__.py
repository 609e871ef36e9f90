"""Which moments of a stream are worth keeping, in a buffer of fixed size (Qin et al., DAC 2024, arXiv 2311.12275)."""
