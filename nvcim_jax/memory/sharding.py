"""Past one device: a bank and Monte Carlo draws cut over a line of devices, on one host or many, with the same bits."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key, PRNGKeyArray, PyTree

from nvcim_jax.memory.bank import Bank
from nvcim_jax.memory.search import BLOCK, Index

AXIS = "line"


def line(devices: int | None = None) -> Mesh:
    """A mesh of one axis over the first `devices` devices of all hosts, or over all of them."""
    every = jax.devices()
    if devices is not None and not 1 <= devices <= len(every):
        raise ValueError(f"{devices} devices, but there are {len(every)}: ask for 1 to {len(every)}")
    return Mesh(np.array(every[:devices]), (AXIS,), axis_types=(AxisType.Auto,))


def capacity(ovts: int, mesh: Mesh) -> int:
    """The smallest capacity for `ovts` OVTs that cuts into whole blocks on every device of `mesh`."""
    return -(-ovts // (BLOCK * mesh.size)) * BLOCK * mesh.size


def sharding(mesh: Mesh, axis: int | None) -> NamedSharding:
    """Arrays cut along `axis` over the mesh, or with None whole on every device."""
    return NamedSharding(mesh, PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS))


def place(tree: PyTree, mesh: Mesh, *, axis: int | None = 0) -> PyTree:
    """`tree` with its arrays cut like `sharding`. Every process passes the same arrays."""
    cut = sharding(mesh, axis)

    def put(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:  # it lies on several hosts already
            return jax.jit(lambda x: x, out_shardings=cut)(leaf)
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, cut, lambda part: leaf[part])

    return jax.tree.map(put, tree)


def over(mesh: Mesh, index: Index) -> Index:
    """`index` with its blocks cut over the mesh. Blocks that no device can have evenly are filled up with empty ones.

    The index of a bank that was itself loaded onto the mesh stays where it is.
    """
    short = -index.values.shape[0] % mesh.size
    if short:
        index = index._replace(
            values=np.pad(index.values, ((0, short), (0, 0), (0, 0))), steps=np.pad(index.steps, ((0, short), (0, 0)))
        )
    return Index(place(index.values, mesh), place(index.steps, mesh), place(index.count, mesh, axis=None))


def held(bank: Bank) -> list[Bank]:
    """A bank as NumPy arrays: whole, or of one that is cut over several processes the parts that this one holds."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(bank) if isinstance(leaf, jax.Array)):
        return [jax.tree.map(np.asarray, bank)]
    parts = []
    for at, shard in enumerate(bank.prompts.addressable_shards):
        of_shard = lambda leaf, at=at: np.asarray(leaf.addressable_shards[at].data)  # noqa: E731
        prompts, keys, origin, writes = jax.tree.map(of_shard, (*bank[:3], bank.writes))
        count = np.clip(np.asarray(bank.count) - (shard.index[0].start or 0), 0, len(prompts))
        parts.append(bank._replace(prompts=prompts, keys=keys, origin=origin, count=count, writes=writes))
    return parts


@partial(jax.jit, static_argnames=("function", "mesh"))
def _draws(function: Callable, keys: Key[Array, "draws"], shared: PyTree, mesh: Mesh | None) -> PyTree:
    each = lambda keys, shared: jax.lax.map(lambda key: function(key, *shared), keys)  # noqa: E731
    if mesh is None:
        return each(keys, shared)

    def local(keys, shared):
        return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, AXIS, tiled=True), each(keys, shared))

    specs = (PartitionSpec(AXIS), PartitionSpec())
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)(keys, shared)


def draws(
    function: Callable[..., PyTree], key: PRNGKeyArray, count: int, *shared: PyTree, mesh: Mesh | None = None
) -> PyTree:
    """`function(key of the draw, *shared)` for `count` draws, cut over `mesh`: leaves [count, ...] on every device.

    Draw i depends on `key` and i alone, and each is computed by itself, so the bits do not depend on the mesh.
    """
    if count < 1:
        raise ValueError(f"{count} draws: at least one is needed")
    rounds = count if mesh is None else -(-count // mesh.size) * mesh.size
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rounds))
    if mesh is not None:
        data = place(jax.random.key_data(keys), mesh)
        keys = jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
        shared = place(shared, mesh, axis=None)
    return jax.tree.map(lambda leaf: leaf[:count], _draws(function, keys, shared, mesh))
