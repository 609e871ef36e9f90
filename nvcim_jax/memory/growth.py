"""Changes of a growing bank, compiled, in the bank's own memory: the bank that is given is used up."""

import jax

from nvcim_jax.memory import bank

_append = jax.jit(bank.append, donate_argnums=0)
replace = jax.jit(bank.replace, donate_argnums=0)
remove = jax.jit(bank.remove, donate_argnums=0)
add = jax.jit(bank.add, donate_argnums=0, static_argnames=("victim",))
evict = jax.jit(bank.evict, donate_argnums=0, static_argnames=("victim",))
used = jax.jit(bank.used, donate_argnums=0)


def append(grown: bank.Bank, ovt: bank.Ovt) -> bank.Bank:
    """`bank.append` in the bank's own memory. ValueError if it is full."""
    bank.require_room(grown)
    return _append(grown, ovt)
