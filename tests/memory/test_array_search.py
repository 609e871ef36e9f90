"""A search at array fidelity: where it meets the plain scores, and what few bits do, by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from nvcim_jax.core.pooling import pyramid
from nvcim_jax.core.quantise import Layout
from nvcim_jax.core.similarity import aligned_mean, pairwise_mean, stored_wmsdp
from nvcim_jax.hardware.adc import Adc, Traced
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.cost import aligned, mean, pairs
from nvcim_jax.hardware.crossbar import Tile
from nvcim_jax.hardware.devices import with_levels
from nvcim_jax.memory import array_search

NVM3, KEY = device("NVM-3"), jax.random.key(0)


def scored(query, stored, **how):
    copies = array_search.program(KEY, jnp.asarray(stored, jnp.float32)[None], NVM3)
    own = jax.tree.map(lambda leaf: leaf[0], copies)
    return float(jax.jit(partial(array_search.score, **how))(KEY, jnp.asarray(query, jnp.float32), own, NVM3))


@pytest.mark.parametrize(
    ("product", "reduce"), [(mean, pairwise_mean), (pairs, pairwise_mean), (aligned, aligned_mean)]
)
def test_ideal_converters_give_the_score_of_codes(product, reduce):
    query, stored = (jax.random.normal(jax.random.key(seed), (6, 5)) for seed in (1, 2))  # a ragged last window
    said = stored_wmsdp(query, pyramid(stored), reduce=reduce)
    assert scored(query, stored, product=product, query_bits=16) == pytest.approx(float(said), abs=2e-4)


def test_what_few_bits_make_of_a_product_by_hand():
    """Codes 32767 and 0 lie as levels 3 3 3 3 3 3 3 3 and 2 0 0 0 0 0 0 0; the query (1, 1) fires both rows once.

    Columns sum to 5 in the first place and to 3 in the others, of at most 6; two codes' offset is 65536.
    """
    one = partial(scored, [[1.0, 1.0]], [[1.0, 0.0]], query_bits=2)
    assert one() == pytest.approx(1)
    # one bit, 0 or 6: 5 reads 6, 3 reads 0 (half to even), and 6 * 4^7 - 65536 = 32768
    assert one(convert=Adc(1)) == pytest.approx(32768 / 32767)
    # two bits, steps of 2: both sums lie half way and read 4; 4 * (4^8 - 1) / 3 - 65536 = 21844
    assert one(convert=Adc(2)) == pytest.approx(21844 / 32767)
    assert one(convert=Adc(3)) == pytest.approx(1)  # steps of one level


def test_a_query_is_cut_to_its_bits():
    # 0.2 of the largest is 25.4 of 127, so 25; of 7 it is 1.4, so 1; of 1 it is 0
    for bits, code, top in ((8, 25, 127), (4, 1, 7), (2, 0, 1)):
        assert scored([[0.2, 1.0]], [[1.0, 0.0]], query_bits=bits) == pytest.approx(code / top, abs=1e-4)


def test_the_mean_row_is_cut_after_it_is_taken():
    query = [[1.0, 0.2], [-1.0, 0.2]]  # the mean is (0, 0.2): with two bits 0.2 is the largest, a row would lose it
    assert scored(query, [[0.0, 1.0], [0.0, 1.0]], query_bits=2, product=mean) == pytest.approx(0.2, abs=1e-4)
    # all pairs of the first scale lose 0.2; the coarser scales hold the mean: (0.8 + 0.6) / 2.4
    assert scored(query, [[0.0, 1.0], [0.0, 1.0]], query_bits=2, product=pairs) == pytest.approx(
        0.2 * 1.4 / 2.4, abs=1e-4
    )


def test_the_best_valid_slot_is_found():
    keys = jnp.eye(4)[:, None] * jnp.ones((4, 3, 4))
    queries = jnp.eye(4)[jnp.array([2, 0, 3]), None] * jnp.ones((3, 3, 4))
    copies = array_search.program(KEY, keys, NVM3)
    every = array_search.find(KEY, queries, copies, jnp.ones(4, bool), NVM3, convert=Adc(8))
    assert every.tolist() == [2, 0, 3]
    some = array_search.find(KEY, queries, copies, jnp.array([True, True, False, False]), NVM3, convert=Adc(8))
    assert set(some.tolist()) <= {0, 1} and some[1] == 0


def test_variation_is_drawn_for_each_ovt_from_the_key():
    keys = jnp.ones((4, 3, 4))
    held = lambda key, sigma: array_search.program(key, keys, NVM3, sigma=sigma)[0].held.levels  # noqa: E731
    assert (held(KEY, 0.0) == held(jax.random.key(5), 0.0)).all()
    once, other = held(KEY, 0.1), held(jax.random.key(5), 0.1)
    assert (once == held(KEY, 0.1)).all() and (once != other).all() and (once[0] != once[1]).all()


def test_a_grid_of_converters_finds_what_each_of_them_finds():
    bits = (1, 3, 6)
    each = Traced(jnp.array([2.0**b - 1 for b in bits]), jnp.ones(3), jnp.ones(3, bool), jnp.ones(3, bool))
    keys, queries = (jax.random.normal(jax.random.key(seed), (count, 4, 6)) for seed, count in ((1, 5), (2, 7)))
    valid = jnp.array([True, True, True, True, False])
    found = array_search.find_with_each(KEY, queries, keys, valid, NVM3, jnp.float32(0.1), each)
    write, read = jax.random.split(KEY)
    copies = array_search.program(write, keys, NVM3, sigma=jnp.float32(0.1))
    for at, one in enumerate(bits):
        alone = array_search.find(read, queries, copies, valid, NVM3, convert=Adc(one))
        assert found[at].tolist() == alone.tolist(), one


@pytest.mark.parametrize(("cell_bits", "rows"), [(1, 6), (4, 6), (2, 2), (4, 1)])
def test_neither_cells_nor_passes_change_an_ideal_product(cell_bits, rows):
    query, stored = (jax.random.normal(jax.random.key(seed), (4, 6)) for seed in (1, 2))
    layout, of_bits = Layout(16, cell_bits, sign="offset"), with_levels(NVM3, 2**cell_bits)
    copies = array_search.write(KEY, stored, of_bits, sigma=0.0, layout=layout)
    how = {"layout": layout, "tile": Tile(rows=rows * len(layout.places)), "query_bits": 16}
    said = array_search.score(KEY, query, copies, of_bits, **how)
    assert float(said) == pytest.approx(float(stored_wmsdp(query, pyramid(stored), reduce=pairwise_mean)), abs=2e-4)
