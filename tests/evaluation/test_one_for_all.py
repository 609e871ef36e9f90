"""One prompt for a user's whole buffer, at the compute of the user's OVTs."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from nvcim_jax import tuning
from nvcim_jax.data import lamp, synthetic
from nvcim_jax.evaluation import one_for_all
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.pipeline import learn
from nvcim_jax.pipeline.block import Block
from nvcim_jax.pipeline.encode import fit_codecs
from nvcim_jax.pipeline.presets import RECOMMENDED
from nvcim_jax.pipeline.select import buffered, select

KEY = jax.random.key(0)


@pytest.mark.parametrize(("name", "per_sample"), [("LaMP-2", 1), ("LaMP-1", 2)])
def test_its_steps_read_as_many_samples_as_those_of_the_users_ovts(model, name, per_sample):
    task = lamp.task(name)
    users = buffered(synthetic.users(task, 2), 25)
    users[1] = users[1]._replace(history=users[1].history[:10])  # Eq. 2: three clusters instead of six
    selected = select(KEY, model, users, extra_domains=True)
    assert one_for_all.budget(task, selected, RECOMMENDED) == [30 * 6 * per_sample, 30 * 3 * per_sample]


def test_a_shuffled_history_is_the_whole_history_and_the_users_alone():
    task = lamp.task("LaMP-1")
    users = buffered(synthetic.users(task, 3), 25)
    pools = learn.shuffled(KEY, task, users)
    for user, pool in zip(users, pools, strict=True):
        assert set(pool[::2]) | set(pool[1::2]) >= set(user.history) and len(pool) == 2 * len(user.history)
        assert [sample.content for sample in pool[::2]] != [sample.content for sample in user.history]
        assert all(pool[at : at + 2] == list(lamp.both_orders(task, pool[at])) for at in range(0, len(pool), 2))
    assert learn.shuffled(KEY, task, users[1:2]) == [pools[1]]


def test_a_user_learns_the_same_alone_and_beside_one_with_a_shorter_history(model):
    task, settings = lamp.task("LaMP-2"), replace(RECOMMENDED, training=tuning.Training(steps=2))
    users = buffered(synthetic.users(task, 2), 25)
    users[1] = users[1]._replace(history=users[1].history[:10])

    def prompts(users):
        block = Block(task, users, select(KEY, model, users), fit_codecs(KEY, model, task, users))
        learned = one_for_all.learn(KEY, model, block, Condition(device("NVM-3"), 0.1), settings=settings)
        assert learned.count.tolist() == [1] * len(users)
        return np.asarray(learned.prompts[:, 0])  # codes: the axes of a user's codec are the same, signs too

    together = prompts(users)
    for at in range(2):
        np.testing.assert_allclose(prompts(users[at : at + 1])[0], together[at], atol=2e-3)
