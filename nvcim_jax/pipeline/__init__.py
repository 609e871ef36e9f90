"""Fig. 3 of the paper: select, encode, learn, retrieve, answer."""
