"""Retrieval through a grid of converters, cells and rows."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.evaluation import converters, points
from nvcim_jax.evaluation.converters import Grid, Point
from nvcim_jax.evaluation.retrieval import Case
from nvcim_jax.pipeline.presets import PAPER_LITERAL, RECOMMENDED

KEY = jax.random.key(0)
(NVM3,) = points.rows(["NVM-3"], [0.1])


def case(users=2, ovts=6, questions=5, dim=8) -> Case:
    """Questions near one of the OVTs, which is right."""
    key_key, noise_key = jax.random.split(KEY)
    keys = jax.random.normal(key_key, (users, ovts, 1, dim)) * jnp.ones((1, 1, 4, 1))
    own = jnp.arange(questions) % ovts
    near = keys[:, own] + 0.5 * jax.random.normal(noise_key, (users, questions, 4, dim))
    right = jnp.broadcast_to(own[None, :, None] == jnp.arange(ovts)[None, None], (users, questions, ovts))
    return Case(near, jnp.ones((users, questions), bool), keys, jnp.ones((users, ovts), bool), right)


def point(energy, share, device="NVM-3"):
    shares = np.full((1, 2), share)
    return Point(device, 0.1, 2, 48, 6, shares, shares, shares, energy)


def test_every_converter_of_the_grid_is_measured_on_the_same_draws():
    told = []
    grid = Grid(adc=(8, 2), cell_bits=(2, 1), rows_at_once=(8, 4))
    found = converters.points(KEY, case(), [NVM3], grid, settings=RECOMMENDED, draws=3, report=told.append)
    assert sum(told) == 3 * len(converters.programs([NVM3], grid)) == 12
    assert [each.adc for each in found] == [None, 2, 8] * 4 and found[0].found.shape == (3, 2)
    for each in found:
        assert (each.energy_pj is None) == (each.adc is None)
        if each.adc == 8:  # as many steps as any of these sums has levels
            np.testing.assert_array_equal(each.found, each.saturating)
    assert {each.found.mean() for each in found if each.adc == 2} != {1.0}  # two bits lose answers
    again = converters.points(KEY, case(), [NVM3], grid._replace(adc=(2,)), settings=RECOMMENDED, draws=3)
    np.testing.assert_array_equal(found[1].found, again[1].found)  # whatever else is in the grid


def test_a_narrow_range_saturates_and_a_wide_one_rounds():
    grid = Grid(adc=(3,), rows_at_once=(8,))
    of = case(users=4, questions=12)
    wide, narrow = (
        converters.points(KEY, of, [NVM3], grid._replace(share=share), settings=RECOMMENDED, draws=4)[1]
        for share in (1.0, 0.1)
    )
    np.testing.assert_array_equal(wide.found, wide.rounding)
    assert wide.saturating.mean() > wide.rounding.mean()  # a full range cuts nothing off
    assert narrow.saturating.mean() < narrow.rounding.mean()


def test_more_bits_take_more_energy_and_more_rows_take_less():
    how = {"of": case(), "grid": Grid((6,)), "form": converters.product_of(RECOMMENDED), "cell_bits": 2}
    energy = lambda adc, rows: converters.energy_of(NVM3, adc=adc, at_once=rows, **how)  # noqa: E731
    assert energy(4, 8) < energy(6, 8) < energy(8, 8) and energy(6, 8) < energy(6, 4)


def test_the_front_holds_what_nothing_beats():
    cheap, dear, beaten, same = point(1.0, 0.5), point(3.0, 0.9), point(2.0, 0.4), point(4.0, 0.9)
    free = point(None, 1.0)
    assert converters.front([dear, same, beaten, cheap, free]) == [cheap, dear]
    other = point(9.0, 0.1, "NVM-1")
    assert converters.fronts([cheap, other]) == {("NVM-3", 0.1): [cheap], ("NVM-1", 0.1): [other]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"adc": (13,)}, "13 converter bits: 1 to 12"), ({"cell_bits": (5,)}, "5 cell bits: 1 to 4"),
        ({"rows_at_once": (9,)}, "9 rows at once: 1 to 8"), ({"share": 0.0}, "range of 0 of the highest"),
    ],
)  # fmt: skip
def test_what_no_array_can_do_is_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        converters.check(Grid((6,))._replace(**{"rows_at_once": (8,)} | changed), case())


def test_a_search_that_is_no_product_is_refused():
    assert converters.product_of(PAPER_LITERAL).__name__ == "aligned"
    with pytest.raises(ValueError, match="choose recommended or paper"):
        converters.product_of(replace(RECOMMENDED, score=max))
