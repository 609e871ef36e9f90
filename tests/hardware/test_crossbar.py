"""Three fidelities of one memory, and where they meet."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.quantise import DIFFERENTIAL, OFFSET_BINARY, SIGN_MAGNITUDE, Layout, signs_of
from nvcim_jax.hardware import ageing, cells, crossbar
from nvcim_jax.hardware.adc import Adc
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.crossbar import (
    PAPER_TILE,
    Plan,
    Tile,
    check_fits,
    multiply,
    plan,
    program,
    read,
    write_cells,
    write_values,
)
from nvcim_jax.hardware.devices import Device

KEY = jax.random.key(0)
EVEN = Device(jnp.ones(4))
TOP_ONLY = Device(jnp.array([0.0, 0.0, 0.0, 1.0]))  # only the highest level varies
RANDOM = np.random.default_rng(0)


def codes(shape, low=-32767, high=32767):
    return jnp.array(RANDOM.integers(low, high + 1, shape), jnp.int32)


@pytest.mark.parametrize(
    "write",
    [write_values, write_cells, partial(write_cells, layout=OFFSET_BINARY), partial(write_cells, layout=DIFFERENTIAL)],
)
def test_without_variation_a_read_is_exact(write):
    integers = jnp.array([[-32767, -1, 0], [1, 12345, 32767]], jnp.int16)
    np.testing.assert_array_equal(write(KEY, integers, EVEN, sigma=0.0), integers.astype(jnp.float32))


@pytest.mark.parametrize("write", [write_values, write_cells])
def test_only_the_varying_level_is_disturbed(write):
    loud = jnp.array([[68, 32767]], jnp.int16)
    read_back = write(KEY, loud, TOP_ONLY, sigma=0.1)
    assert float(read_back[0, 0]) == 68 and float(read_back[0, 1]) != 32767
    if write is write_cells:  # 0 is 2,0,0,0,0,0,0,0 in offset binary, and in sign and magnitude all zeros
        for layout in (SIGN_MAGNITUDE, OFFSET_BINARY):
            assert float(write(KEY, jnp.array([[0, 21845]]), TOP_ONLY, sigma=0.1, layout=layout)[0, 0]) == 0


@pytest.mark.parametrize("layout", [SIGN_MAGNITUDE, OFFSET_BINARY, DIFFERENTIAL, Layout(bits=9, cell_bits=4)])
def test_value_and_cell_meet_in_the_aggregate(layout):
    top = layout.limits[1]
    integers = jnp.full((200, 100), top, jnp.int32)
    even = Device(jnp.ones(layout.full + 1))
    each_cell = np.asarray(write_cells(KEY, integers, even, sigma=0.01, layout=layout))
    even_bins = EVEN  # Eq. 4 has four bins whatever the cells
    each_value = np.asarray(write_values(KEY, integers, even_bins, sigma=0.01 * cells.aggregate(layout)))
    for reads in (each_cell, each_value):
        assert abs(reads.std() / (0.01 * cells.aggregate(layout) * top) - 1) < 4 / (2 * reads.size) ** 0.5


def test_the_aggregate_is_the_labs():
    """Of the released codes: NF_Training takes sigma of a cell's range, set_four and SWIM of a level step."""
    assert cells.aggregate() == pytest.approx(0.7746, abs=5e-5)
    # NF_Training, 8-bit magnitudes in 2-bit cells: sqrt(1 + 16 + 256 + 4096) / (1 + 4 + 16 + 64) = 66.098 / 85
    assert cells.aggregate(Layout(bits=9)) == pytest.approx(0.777628, abs=1e-6)
    # set_four: sqrt(1/16 + 1/256 + 1/4096 + 1/65536) = 0.258197 of max|w| in level steps; it takes 255 for 256
    assert cells.aggregate(Layout(bits=9)) / 3 == pytest.approx(0.258197 * 256 / 255, abs=1e-6)
    # RRAM1, one bit a cell, steps and ranges alike: sqrt(1/4 + 1/16 + ... + 1/65536) = 0.577346
    assert cells.aggregate(Layout(bits=9, cell_bits=1)) == pytest.approx(0.577346 * 256 / 255, abs=1e-6)
    # offset binary spends a bit on the sign: the largest code is half of the range
    assert cells.aggregate(OFFSET_BINARY) == pytest.approx(2 * cells.aggregate(), rel=1e-4)
    assert cells.aggregate(DIFFERENTIAL) == pytest.approx(2**0.5 * cells.aggregate(OFFSET_BINARY))


@pytest.mark.parametrize(
    ("share", "deviation"),
    # RRAM4 at 0.1: 0.1 / sqrt(0.4 x 16 + 0.6) = 0.0377964, four times that between a quarter and three quarters
    [(1.0, 0.0377964 * 0.7746), (0.5, 0.1511858 * 0.7746), (0.1, 0.0377964 * 0.7746)],
)
def test_a_value_at_the_aggregate_is_the_released_noise(share, deviation):
    integers = jnp.full((1, 20_000), round(share * 32767)).at[0, 0].set(32767)
    read_back = write_values(KEY, integers, device("NVM-4"), sigma=0.1 * cells.aggregate()) - integers
    assert abs(float(read_back.std()) / 32767 / deviation - 1) < 4 / (2 * 20_000) ** 0.5


def test_small_codes_are_quiet_and_large_ones_are_not():
    """As in Eq. 4, and unlike offset binary, where a code near zero has its first cells at inner, noisy levels."""
    integers = jnp.repeat(jnp.array([0, 100, 21845, 32767]), 2000)[None]  # 21845: all cells at level 2 or 1
    found = {
        layout.sign: [
            float(part.std()) / 32767
            for part in np.split(write_cells(KEY, integers, device("NVM-5"), sigma=0.1, layout=layout)[0], 4)
        ]
        for layout in (SIGN_MAGNITUDE, OFFSET_BINARY)
    }
    outer, inner = 0.1 * 0.258199, 0.1 * 1.549193
    np.testing.assert_allclose(found["digital"], np.array([outer, outer, inner, outer]) * 0.7746, rtol=0.07)
    assert found["offset"][1] == pytest.approx(1.43 * inner, rel=0.07)  # 0.75 x 2 of its first cell at level 2 alone


@pytest.mark.parametrize("tile", [PAPER_TILE, Tile(rows=40, columns=3)], ids=["paper", "small"])
@pytest.mark.parametrize(
    "layout",
    [SIGN_MAGNITUDE, OFFSET_BINARY, DIFFERENTIAL, Layout(bits=9), Layout(bits=7, cell_bits=3, sign="pair")],
    ids=str,
)
def test_an_ideal_array_computes_exact_integers(layout, tile):
    low, high = layout.limits
    stored, query = codes((5, 50), low, high).at[0, 0].set(low), codes(50, -32768, 32767).at[0].set(-32768)
    held = program(KEY, stored, Device(jnp.ones(layout.full + 1)), sigma=0.0, layout=layout)
    product = multiply(KEY, query, held, Device(jnp.ones(layout.full + 1)), layout=layout, tile=tile)
    exact = np.asarray(stored, np.int64) @ np.asarray(query, np.int64)
    assert layout.bits < 16 or np.abs(exact).max() > 2**24  # where a plain float32 sum goes wrong
    np.testing.assert_array_equal(product, exact.astype(np.float32))


def products_are_exact(layout, stored, queries, input_bits, tile=PAPER_TILE):
    """What an ideal array makes of them is what Python's integers do, rounded to float32 once."""
    even = Device(jnp.ones(layout.full + 1))

    @jax.jit
    def products(stored, queries):
        held = program(KEY, stored, even, sigma=0.0, layout=layout)
        one = partial(multiply, KEY, matrix=held, device=even, layout=layout, input_bits=input_bits, tile=tile)
        return jax.lax.map(one, queries)

    exact = [[sum(int(a) * int(b) for a, b in zip(row, query)) for row in stored] for query in queries]
    found = products(jnp.asarray(stored, jnp.int32), jnp.asarray(queries))
    np.testing.assert_array_equal(found, np.array(exact, np.float64).astype(np.float32))


def edge_cases(layout, dim, input_bits):
    """Rows of all the lowest, all the highest, alternating, zero and random codes, and queries of that kind."""

    def rows(low, high):
        either = np.where(np.arange(dim) % 2, low, high)
        drawn = np.random.default_rng(dim).integers(low, high + 1, dim, np.int64)
        return np.stack([np.full(dim, low), np.full(dim, high), either, np.zeros(dim, np.int64), drawn])

    return rows(*layout.limits), rows(-(2 ** (input_bits - 1)), 2 ** (input_bits - 1) - 1).astype(np.int32)


@pytest.mark.parametrize(
    "bits, cell_bits, sign, input_bits, dim",
    [
        (16, 2, "offset", 16, 513),  # the sum of all the largest inputs takes more than 24 bits
        (16, 2, "pair", 16, 513),
        (16, 2, "digital", 16, 513),
        (24, 3, "digital", 16, 100),
        (24, 8, "pair", 23, 1),
        (2, 2, "digital", 32, 30),
        (8, 5, "offset", 27, 301),
        (5, 3, "digital", 1, 1),
        (8, 8, "offset", 8, 65793),  # the most rows of 8-bit cells whose sum 24 bits hold
    ],
)
def test_a_product_is_that_of_pythons_integers(bits, cell_bits, sign, input_bits, dim):
    layout = Layout(bits=bits, cell_bits=cell_bits, sign=sign)
    tile = Tile(rows=2**20) if dim > 1000 else PAPER_TILE
    products_are_exact(layout, *edge_cases(layout, dim, input_bits), input_bits, tile)


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["digital", "offset", "pair"])
@pytest.mark.parametrize("bits", [2, 8, 16, 24])
def test_every_size_is_exact_or_refused(bits, sign):
    taken = refused = 0
    for cell_bits in sorted({1, min(3, bits), min(8, bits)}):
        layout = Layout(bits=bits, cell_bits=cell_bits, sign=sign)
        small = Tile(rows=7 * len(layout.places), columns=3)
        for input_bits in (1, 8, 16, 24, 27, 32):
            for dim, tile in ((1, PAPER_TILE), (48, PAPER_TILE), (129, small), (513, PAPER_TILE)):
                try:
                    products_are_exact(layout, *edge_cases(layout, dim, input_bits), input_bits, tile)
                    taken += 1
                except ValueError as error:
                    assert "48 are summed exactly" in str(error)
                    refused += 1
    assert taken >= 20 and (refused > 0) == (bits > 2)


@pytest.mark.parametrize(
    ("layout", "input_bits", "dim", "tile", "said"),
    [
        (Layout(bits=24), 24, 2, PAPER_TILE, "2 values of 24 bits times inputs of 24 bits take 49 bits, but 48"),
        (OFFSET_BINARY, 16, 43692, PAPER_TILE, "43692 values of 16 bits times inputs of 16 bits take 49 bits"),
        (SIGN_MAGNITUDE, 16, 65539, PAPER_TILE, "65539 values of 16 bits times inputs of 16 bits take 49 bits"),
        (OFFSET_BINARY, 33, 4, PAPER_TILE, "inputs of 33 bits: 1 to 32"),
        (OFFSET_BINARY, 0, 4, PAPER_TILE, "inputs of 0 bits: 1 to 32"),
        (Layout(bits=8, cell_bits=8), 2, 65794, Tile(rows=2**20), "65794 rows of 8-bit cells.*at most 65793 values"),
    ],
)
def test_what_could_not_be_exact_is_refused(layout, input_bits, dim, tile, said):
    held = crossbar.Matrix(jnp.zeros((1, dim, len(layout.places))), signs_of(jnp.zeros((1, dim), int), layout))
    with pytest.raises(ValueError, match=said):
        multiply(
            KEY, jnp.zeros(dim, jnp.int32), held, Device(jnp.ones(layout.full + 1)),
            layout=layout, input_bits=input_bits, tile=tile,
        )  # fmt: skip


def test_a_traced_query_saturates():
    stored = codes((2, 5))
    held = program(KEY, stored, EVEN, sigma=0.0)
    product = jax.jit(partial(multiply, input_bits=4))(KEY, jnp.array([300, -300, 7, -8, 0]), held, EVEN)
    exact = np.asarray(stored, np.int64) @ [7, -8, 7, -8, 0]
    np.testing.assert_array_equal(product, exact.astype(np.float32))


def test_cell_and_array_meet_in_the_read_of_the_same_cells():
    stored, query = codes((6, 48)), codes(48, -128, 127)
    held = program(KEY, stored, device("NVM-3"), sigma=0.1)
    product = multiply(KEY, query, held, device("NVM-3"), input_bits=8)
    by_value = np.asarray(read(KEY, held, device("NVM-3")), np.float64) @ np.asarray(query, np.float64)
    np.testing.assert_allclose(product, by_value, atol=1e-6 * 48 * 128 * 65536)


@pytest.mark.parametrize("sign", ["digital", "offset"])
def test_the_array_is_its_plain_loop(sign):
    layout, tile, convert = Layout(bits=6, sign=sign), Tile(rows=12, columns=8), Adc(3, top=10.0)
    stored, query = codes((3, 10), -31, 31), codes(10, -8, 7)
    matrix = program(KEY, stored, EVEN, sigma=0.2, layout=layout)
    product = multiply(KEY, query, matrix, EVEN, layout=layout, input_bits=4, convert=convert, tile=tile)
    levels, expected = np.asarray(matrix.levels, np.float64), np.zeros(3)
    arrays = [lambda code: True] if sign == "offset" else [lambda code: code >= 0, lambda code: code < 0]
    worths = [16, 4, 1] if sign == "offset" else [8, 2, 0.5]
    for token in range(3):
        for way, lies_there in zip((1, -1), arrays):
            for bit, weight in enumerate([1, 2, 4, -8]):
                for first in range(0, 10, 4):  # 12 rows hold 4 values of 3 cells
                    rows = [i for i in range(first, min(first + 4, 10)) if lies_there(int(stored[token, i]))]
                    for place, worth in enumerate(worths):
                        total = sum(levels[token, i, place] for i in rows if int(query[i]) >> bit & 1)
                        digit = round(min(max(total, 0), 10) / (10 / 7))
                        expected[token] += way * weight * worth * digit * 10 / 7
    expected -= 32 * int(query.sum()) * (sign == "offset")
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-3)


def test_a_converter_with_enough_bits_changes_nothing():
    stored, query = codes((6, 48)), codes(48)
    held = program(KEY, stored, EVEN, sigma=0.0)
    exact = multiply(KEY, query, held, EVEN)
    np.testing.assert_array_equal(multiply(KEY, query, held, EVEN, convert=Adc(8)), exact)  # 48 x 3 < 256
    coarse = multiply(KEY, query, held, EVEN, convert=Adc(5))
    assert np.abs(np.asarray(coarse - exact)).max() > 0


def test_reading_through_two_bits_restores_quiet_cells():
    stored = codes((20, 48))
    quiet = write_cells(KEY, stored, EVEN, sigma=0.03, convert=Adc(2))  # a deviation of 0.09 levels never reaches 0.5
    np.testing.assert_array_equal(quiet, stored.astype(jnp.float32))
    assert float(jnp.abs(write_cells(KEY, stored, EVEN, sigma=0.03) - stored).max()) > 1000


def test_read_noise_adds_up_over_rows_places_and_bits():
    blurred = EVEN._replace(read_noise=jnp.float32(0.01))
    layout, query = (
        Layout(bits=6, sign="offset"),
        jnp.array([3, -1, 0]),
    )  # three, two, two and two ones in the columns of four bits
    held = crossbar.Matrix(jnp.zeros((20_000, 3, 3)), None)
    reads = np.asarray(multiply(KEY, query, held, blurred, layout=layout, input_bits=4)) - (-32 * 2)
    variance = 0.03**2 * (16**2 + 4**2 + 1) * (2 * 1 + 2 * 4 + 1 * 16 + 1 * 64)
    assert abs(reads.std() / variance**0.5 - 1) < 4 / (2 * 20_000) ** 0.5
    # with signs kept apart the same cells fire, in two arrays, each worth half
    signs = jnp.tile(jnp.array([[1, -1, -1]], jnp.int8), (20_000, 1))
    reads = np.asarray(
        multiply(KEY, query, crossbar.Matrix(held.levels, signs), blurred, layout=Layout(bits=6), input_bits=4)
    )
    assert abs(reads.std() / (variance / 4) ** 0.5 - 1) < 4 / (2 * 20_000) ** 0.5


def test_the_papers_tile_is_derived():
    assert (PAPER_TILE.rows, PAPER_TILE.columns) == (384, 128)
    assert plan(128, 48) == Plan(down=1, across=2, rows=48, passes=8)  # one array for each sign
    assert plan(128, 48, layout=OFFSET_BINARY) == Plan(down=1, across=1, rows=48, passes=8)
    assert plan(129, 48, layout=DIFFERENTIAL) == Plan(down=2, across=2, rows=24, passes=16)
    narrow = Layout(bits=8, sign="offset")
    assert plan(16, 8, layout=narrow, tile=Tile(256, 64)) == Plan(down=1, across=1, rows=8, passes=4)


def test_the_size_of_an_array_is_respected():
    check_fits(128, 48)
    with pytest.raises(ValueError, match="129 virtual tokens.*128 columns"):
        check_fits(129, 48)
    with pytest.raises(ValueError, match="49 dimensions need 392 rows"):
        check_fits(16, 49)
    with pytest.raises(ValueError, match="48 dimensions need 768 rows"):
        check_fits(16, 48, layout=DIFFERENTIAL)


def test_gradients_are_finite_with_everything_switched_on():
    busy = Device(
        jnp.array([0.25, 0.5, 1.0, 2.0]), jnp.float32(0.01), jnp.array([1.0, 20.0]), jnp.float32(0.05), jnp.array([0.01, 0.01])
    )  # fmt: skip
    stored, query = codes((4, 10), -127, 127), codes(10, -8, 7)
    layout = Layout(bits=8)

    @jax.jit
    def total(sigma, one, ohm):
        matrix = program(KEY, stored, one, sigma=sigma, layout=layout)
        matrix = matrix._replace(levels=ageing.age(matrix.levels, one, seconds=100.0))
        product = partial(multiply, layout=layout, input_bits=4, convert=Adc(6), tile=Tile(wire_ohm=ohm))
        return jnp.sum(product(KEY, query, matrix, one) ** 2)

    leaves = jax.tree.leaves(jax.grad(total, argnums=(0, 1, 2))(0.05, busy, 5.0))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves) and abs(float(leaves[0])) > 0


def test_bad_input_is_refused():
    held = program(KEY, codes((2, 3)), EVEN, sigma=0.0)
    with pytest.raises(ValueError, match="tile of 4 x 128 cells cannot hold one 16-bit value, which takes 8 rows"):
        multiply(KEY, codes(3), held, EVEN, tile=Tile(rows=4))
    with pytest.raises(ValueError, match="code 8 lies outside -8 to 7"):
        multiply(KEY, jnp.array([8, 0, 0]), held, EVEN, input_bits=4)
    with pytest.raises(ValueError, match="2 levels in cells of 2 bits, which need 4"):
        crossbar.program(KEY, codes((2, 3)), Device(jnp.ones(2)), sigma=0.1, layout=OFFSET_BINARY)
    with pytest.raises(ValueError, match="a device of 3 levels: a power of two"):
        crossbar.program(KEY, codes((2, 3)), Device(jnp.ones(3)), sigma=0.1)
    with pytest.raises(ValueError, match=r"empty matrix of codes, \(0, 48\)"):
        jax.jit(lambda x: write_cells(KEY, x, EVEN, sigma=0.1))(jnp.zeros((0, 48), jnp.int16))
