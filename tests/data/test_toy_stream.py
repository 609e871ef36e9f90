"""Streams of the toy world: runs of one domain, domains that come back, questions from those met so far."""

from itertools import groupby

import pytest

from nvcim_jax.data import lamp, toy_stream
from nvcim_jax.data.toy_stream import stream

TASK = lamp.task("LaMP-2")
USERS = [stream(TASK, 2_000_000 + at, moments=400, run=20) for at in range(6)]


def main_domains(own, width=9):
    """What most moments around each are of, so that strays do not count."""
    names = [moment.domain for moment in own.moments]
    around = [names[max(0, at - width // 2) : at + width // 2 + 1] for at in range(len(names))]
    return [max(set(each), key=each.count) for each in around]


def test_four_to_eight_domains_come_back():
    for own in USERS:
        runs = [name for name, _ in groupby(main_domains(own))]
        assert 4 <= len({moment.domain for moment in own.moments}) <= 8
        assert len(runs) > len(set(runs)) and 8 <= len(runs) <= 60


def test_questions_are_of_domains_met_so_far_in_turn():
    for own in USERS:
        assert len(own.asked) == 400 // 25
        for number, row in enumerate(own.asked):
            met = {moment.domain for moment in own.moments[: 25 * (number + 1)]}
            asked = [query.domain for query in row]
            counts = [asked.count(name) for name in met]
            assert set(asked) <= met and max(counts) - min(counts) <= 1


def test_a_stream_follows_from_its_number_and_shuffling_changes_the_order_alone():
    own = USERS[0]
    assert stream(TASK, 2_000_000, moments=400, run=20) == own != USERS[1]
    mixed = stream(TASK, 2_000_000, moments=400, run=20, shuffled=True)
    assert sorted(mixed.moments) == sorted(own.moments) and mixed.moments != own.moments
    assert len(list(groupby(main_domains(mixed)))) > 2 * len(list(groupby(main_domains(own))))


def test_what_means_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one each"):
        stream(TASK, 1, moments=0)
    with pytest.raises(ValueError, match="the embedded world has no users of LaMP-4"):
        stream(lamp.task("LaMP-4"), 1)
    assert toy_stream.DOMAINS == (4, 8)
