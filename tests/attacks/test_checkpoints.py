"""A checkpoint that somebody forged or a disk damaged is taken with finite answers, or refused in one sentence."""

import pytest

from nvcim_jax import llm
from tests.attacks.checkpoints import every, sound
from tests.helpers.attacks import outcomes

SAMPLE = 37  # every so many attacks in the ordinary suite


@pytest.mark.slow
def test_every_checkpoint_is_sound_or_refused(tmp_path):
    counts = outcomes(every(tmp_path), refusals=(llm.CheckpointError,), is_sound=sound)
    assert counts.total() > 1000
    print(counts)


def test_a_sample_of_checkpoints_is_sound_or_refused(tmp_path):
    outcomes(list(every(tmp_path))[::SAMPLE], refusals=(llm.CheckpointError,), is_sound=sound)
