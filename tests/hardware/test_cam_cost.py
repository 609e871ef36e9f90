"""What a search by content takes: the source's own figures, and how arrays add up."""

import pytest

from nvcim_jax.hardware.cam_cost import CELLS, COMPARED, NS, PJ, ROWS, UM2, search_content
from nvcim_jax.hardware.circuit import total


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("rows", ROWS)
def test_at_the_sources_sizes_it_is_the_source(cells, rows):
    at = CELLS.index(cells), ROWS.index(rows)
    found = total(search_content(rows, cells))
    assert found == pytest.approx([each[at[0]][at[1]] for each in (NS, PJ, UM2)])


def test_between_them_it_lies_between():
    found = search_content(48, 48)["CAM arrays"]
    low, high = search_content(32, 32)["CAM arrays"], search_content(64, 64)["CAM arrays"]
    assert all(a < b < c for a, b, c in zip(low, found, high, strict=True))
    assert found.energy_pj == pytest.approx((0.749 + 1.506 + 1.186 + 2.339) / 4)  # in the middle of four, by hand


def test_several_arrays_work_at_once_and_their_winners_are_merged():
    one, four = search_content(256, 64), search_content(1024, 64)
    assert four["CAM arrays"].latency_ns == one["CAM arrays"].latency_ns
    assert four["CAM arrays"].energy_pj == pytest.approx(4 * 9.195) and one["merging"].latency_ns == 0
    assert four["merging"].latency_ns == pytest.approx(2 * COMPARED.latency_ns)  # two rounds of pairs
    assert four["merging"].energy_pj == pytest.approx(3 * COMPARED.energy_pj)
    assert search_content(257, 64)["CAM arrays"].energy_pj < 1.1 * one["CAM arrays"].energy_pj  # shared out evenly


def test_few_rows_take_the_smallest_array():
    assert search_content(1, 64) == search_content(16, 64)


@pytest.mark.parametrize(("ovts", "cells", "said"), [(10, 16, "16 cells"), (10, 512, "512 cells"), (0, 48, "0 OVTs")])
def test_what_the_source_does_not_have_is_refused(ovts, cells, said):
    with pytest.raises(ValueError, match=said):
        search_content(ovts, cells)
