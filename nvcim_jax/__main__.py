"""`python -m nvcim_jax` is `nvcim`."""

import os


def main() -> None:
    """`nvcim_jax.cli.main`, which can be interrupted while it is still being imported."""
    try:
        from nvcim_jax import cli

        cli.main()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
