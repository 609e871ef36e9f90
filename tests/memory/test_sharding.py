"""Several devices and several processes give the bits of one."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.memory import bank as banks
from nvcim_jax.memory import search, sharding
from nvcim_jax.memory.storage import store

WORKER = Path(__file__).parents[1] / "helpers" / "spread_worker.py"


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """A bank of 8192 slots, 7000 of them taken, saved by one device."""
    folder = tmp_path_factory.mktemp("spread") / "bank"
    codes = jax.random.normal(jax.random.key(0), (8192, 4, 8))
    keys = codes.at[6999].set(codes[0])  # an equal score on the last device
    store.save(folder, banks.new(codes, keys, banks.unknown((8192,)), jnp.int32(7000)))
    return folder


def answers(bank, tmp_path, *, devices=1, processes=1):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"PYTHONPATH": str(WORKER.parents[2])}
    out = [tmp_path / f"{process}.npz" for process in range(processes)]
    words = [[str(out[at]), str(bank), str(devices), str(processes), str(at), str(port)] for at in range(processes)]
    started = [
        subprocess.Popen([sys.executable, str(WORKER), *each], env=env, stderr=subprocess.PIPE, text=True)
        for each in words
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(text[-3000:] for text in said)
    return [dict(np.load(path)) for path in out]


@pytest.fixture(scope="module")
def alone(bank, tmp_path_factory):
    """The answers of one process with one device."""
    (one,) = answers(bank, tmp_path_factory.mktemp("alone"))
    assert one["float32 5 slots"].shape == (5, 7) and one["draw index"].shape == (9,)
    assert len(set(one["draw scores"][:, 0])) == 9  # every draw is another device
    return one


@pytest.mark.parametrize(("devices", "processes"), [(4, 1), (2, 2), (1, 4)])
def test_the_bits_are_those_of_one_device(bank, alone, tmp_path, devices, processes):
    for each in answers(bank, tmp_path, devices=devices, processes=processes):
        assert each.keys() == alone.keys()
        for name in alone:
            np.testing.assert_array_equal(each[name], alone[name], err_msg=name)
    again = bank.with_name("bank-again")
    if processes == 1:  # what four devices saved is loaded on one
        one, other = store.load(bank).bank, store.load(again).bank
        jax.tree.map(np.testing.assert_array_equal, one, other)
        shutil.rmtree(again)


def test_a_bank_that_does_not_cut_evenly_is_refused_with_the_remedy(tmp_path):
    codes = jnp.ones((100, 4, 8))
    store.save(tmp_path / "bank", banks.new(codes, codes, banks.unknown((100,)), jnp.int32(5)))
    with pytest.raises(store.StoreError, match="100 slots does not cut over 1 devices: grow it to 1024 first"):
        store.load(tmp_path / "bank", mesh=sharding.line(1))


def test_capacity_by_hand():
    one = sharding.line(1)
    assert [sharding.capacity(ovts, one) for ovts in (1, 1024, 1025)] == [1024, 1024, 2048]


def test_a_line_of_one_device_changes_nothing():
    keys, queries = jax.random.normal(jax.random.key(0), (2, 3000, 4, 8))[0], jnp.ones((3, 4, 8))
    index, mesh = search.build(keys, 2500), sharding.line(1)
    jax.tree.map(
        np.testing.assert_array_equal,
        search.top_k(sharding.over(mesh, index), queries, k=5, mesh=mesh),
        search.top_k(index, queries, k=5),
    )


def test_more_devices_or_draws_than_there_are():
    with pytest.raises(ValueError, match="ask for 1 to"):
        sharding.line(1000)
    with pytest.raises(ValueError, match="at least one"):
        sharding.draws(jax.random.normal, jax.random.key(0), 0)
