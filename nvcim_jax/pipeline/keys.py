"""Random keys that follow a user's name, a stage and a slot, so that a user draws the same numbers in any block."""

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray

from nvcim_jax.people import User

Slots = Sequence[tuple[int, int]]  # a user and a slot each


def of_users(key: PRNGKeyArray, users: Sequence[User], stage: str) -> Key[Array, "users"]:
    """One key per user, from the user's name and the stage that draws: no two stages see the same numbers."""
    own = jax.random.fold_in(key, zlib.crc32(stage.encode()))
    names = jnp.array([zlib.crc32(user.id.encode()) for user in users], jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(own, names)


def of_slots(key: PRNGKeyArray, users: Sequence[User], slots: Slots, stage: str) -> Key[Array, "slots"]:
    """One key per slot, from its user's and its number."""
    user, slot = np.array(slots).T
    return jax.vmap(jax.random.fold_in)(of_users(key, users, stage)[user], jnp.asarray(slot))
