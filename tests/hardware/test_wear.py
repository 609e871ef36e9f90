"""How long cells live, by hand."""

import pytest

from nvcim_jax.hardware.wear import DAY, YEAR, life


def test_a_pace_by_hand():
    # 11 OVTs in 10 days are one a day; ten slots are each written every ten days, 36.5 times a year
    found = life(366.0, writes=[1] * 10, learned=[at * DAY for at in range(11)])
    assert found.writes_per_year == pytest.approx(36.5) and found.years == pytest.approx(10)
    assert "1 OVTs a day over 10 slots" in found.why


def test_pulses_and_refreshes_shorten_it():
    days = [at * DAY for at in range(11)]
    assert life(366.0, writes=[1] * 10, learned=days, pulses=2).years == pytest.approx(182 / 36.5)
    both = life(1001.0, writes=[1] * 10, learned=days, refresh=YEAR / 963.5)
    assert both.writes_per_year == pytest.approx(1000) and both.years == pytest.approx(1)
    assert life(1001.0, writes=[1] * 10, learned=[5.0, 6.0], refresh=YEAR / 10).years == pytest.approx(100)


def test_ovts_of_one_day_tell_no_pace():
    assert life(1e5, writes=[1] * 10, learned=[0.0, DAY - 1]) is None and life(1e5, writes=[1] * 10, learned=[]) is None


def test_the_most_written_slot_counts():
    # in the same ten days one slot was written eleven times: once a day after the first, 365 times a year
    days = [at * DAY for at in range(11)]
    found = life(376.0, writes=[11, *[1] * 9], learned=days)
    assert found.writes_per_year == pytest.approx(365) and found.years == pytest.approx(1)
    assert "a slot written 11 times in 10 days" in found.why
    assert life(10.0, writes=[11], learned=days).years == 0
