"""`python -m nvcim_jax` is `nvcim`."""

from nvcim_jax.cli import main

main()
