"""Table II and the two fidelities of writing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.crossbar import check_fits, write_cells, write_values
from nvcim_jax.devices import Device, device

TABLE_II = {
    "NVM-1": ("0.0100", "0.0100", "0.0100", "0.0100"),
    "NVM-2": ("0.0067", "0.0135", "0.0135", "0.0067"),
    "NVM-3": ("0.0049", "0.0146", "0.0146", "0.0049"),
    "NVM-4": ("0.0038", "0.0151", "0.0151", "0.0038"),
    "NVM-5": ("0.0026", "0.0155", "0.0155", "0.0026"),
}
EVEN = Device(jnp.ones(4))
TOP_ONLY = Device(jnp.array([0.0, 0.0, 0.0, 1.0]))  # only the highest level varies


@pytest.mark.parametrize("name", TABLE_II)
def test_table_ii_to_the_last_digit(name):
    assert tuple(f"{0.01 * float(level):.4f}" for level in device(name).levels) == TABLE_II[name]


def test_factors_are_in_the_order_of_eq_4():
    np.testing.assert_array_equal(TOP_ONLY.factors, [1.0, 0.0, 0.0, 0.0])


def test_unknown_devices_are_refused_with_the_list():
    with pytest.raises(ValueError, match=r"NVM-6.*NVM-1, NVM-2"):
        device("NVM-6")


@pytest.mark.parametrize("write", [write_values, write_cells])
def test_without_variation_a_read_is_exact(write):
    integers = jnp.array([[-32767, -1, 0], [1, 12345, 32767]], jnp.int16)
    np.testing.assert_array_equal(write(jax.random.key(0), integers, EVEN, sigma=0.0), integers.astype(jnp.float32))


@pytest.mark.parametrize("write", [write_values, write_cells])
def test_only_the_varying_level_is_disturbed(write):
    quiet = jnp.array([[0, 21845]], jnp.int16)  # levels 2,0,... and 3,1,1,...: see below
    loud = jnp.array([[100, 32767]], jnp.int16)
    read = write(jax.random.key(0), loud, TOP_ONLY, sigma=0.1)
    assert float(read[0, 0]) == 100 and float(read[0, 1]) != 32767
    if write is write_cells:  # 0 is 2,0,0,0,0,0,0,0 in offset binary: no cell at the highest level
        assert float(write(jax.random.key(0), quiet, TOP_ONLY, sigma=0.1)[0, 0]) == 0


def test_the_slices_add_up_to_the_aggregate_of_the_lab():
    integers = jnp.zeros((1, 1), jnp.int16)
    keys = jax.random.split(jax.random.key(0), 20_000)
    reads = np.asarray(jax.vmap(partial(write_cells, integers=integers, device=EVEN, sigma=0.01))(keys))
    expected = 0.01 * 65535 * np.sqrt(sum(16**i for i in range(8))) / sum(4**i for i in range(8))
    assert abs(reads.std() / expected - 1) < 4 / (2 * 20_000) ** 0.5


def test_the_size_of_an_array_is_respected():
    check_fits(128, 48)
    with pytest.raises(ValueError, match="129 virtual tokens.*128 columns"):
        check_fits(129, 48)
    with pytest.raises(ValueError, match="49 dimensions need 392 rows"):
        check_fits(16, 49)
