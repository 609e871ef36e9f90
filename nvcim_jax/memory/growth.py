"""The changes of a growing bank, compiled and in place: the bank that is given is donated, so do not use it again."""

import jax

from nvcim_jax.memory import bank

_append = jax.jit(bank.append, donate_argnums=0)
replace = jax.jit(bank.replace, donate_argnums=0)
remove = jax.jit(bank.remove, donate_argnums=0)
add = jax.jit(bank.add, donate_argnums=0, static_argnames=("victim",))
evict = jax.jit(bank.evict, donate_argnums=0, static_argnames=("victim",))
used = jax.jit(bank.used, donate_argnums=0)


def append(grown: bank.Bank, ovt: bank.Ovt) -> bank.Bank:
    """`bank.append`, in place. ValueError if the bank is full."""
    bank.require_room(grown)
    return _append(grown, ovt)
