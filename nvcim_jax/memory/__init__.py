"""OVTs in arrays: the bank, its search, and what device noise does to both."""
