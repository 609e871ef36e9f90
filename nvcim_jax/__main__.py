"""`python -m nvcim_jax` is `nvcim`."""

from nvcim_jax.interrupts import ending_at_once


def main() -> None:
    """Entry point of `nvcim`."""
    with ending_at_once():
        from nvcim_jax import cli

        cli.main()


if __name__ == "__main__":
    main()
