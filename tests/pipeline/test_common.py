"""What many people have in common: one codec and one prompt, from which the OVTs of others start."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvcim_jax as nv
from nvcim_jax import tuning
from nvcim_jax.core.codec import decode
from nvcim_jax.pipeline.block import gather
from nvcim_jax.pipeline.common import EVERYONE
from nvcim_jax.pipeline.learn import pools, tune_bank

KEY = jax.random.key(3)
SHORT = replace(nv.RECOMMENDED, training=tuning.Training(steps=4, per_step=1), tokens=4)


@pytest.fixture(scope="module")
def common(model):
    return nv.learn_common(KEY, model, nv.toy_users("LaMP-2", 3, first=7), "NVM-3", sigma=0.1, settings=SHORT)


@pytest.fixture(scope="module")
def people():
    return nv.toy_users("LaMP-2", 2)


def test_it_is_a_memory_of_one_prompt(common):
    assert [user.id for user in common.users] == [EVERYONE] and common.bank.count.tolist() == [1]
    assert common.about.device == "NVM-3" and common.about.sigma == 0.1
    assert len(common.users[0].history) == 75  # the buffers of three people


def test_of_all_texts_one_sample_is_said_about_it(common):
    assert [len(row) for row in common.about.samples] == [1]


def test_ovts_start_from_the_common_prompt_in_the_common_codec(model, people, common):
    still = replace(SHORT, training=tuning.Training(steps=0), clip=1.0)
    memory = nv.personalise(KEY, model, people, common, settings=still)
    own = jax.tree.map(lambda leaf: leaf[0], common.codec)
    for at in range(len(people)):
        assert jax.tree.all(jax.tree.map(lambda a, b, at=at: jnp.array_equal(a[at], b), memory.codec, own))
    start = decode(own, common.bank.prompts[0, 0])
    read = jax.vmap(jax.vmap(lambda code: decode(own, code)))(memory.bank.prompts)
    slots = tuple(np.array(memory.block.selected.slots).T)
    assert len(slots[0]) == 12 and jnp.allclose(read[slots], start[None], atol=1e-5)


def test_ovts_become_each_persons_own(model, people, common):
    memory = nv.personalise(KEY, model, people, common, settings=SHORT)
    taken = memory.bank.prompts[tuple(np.array(memory.block.selected.slots).T)]
    assert len({prompt.tobytes() for prompt in np.asarray(taken)}) == len(taken)
    (answer,) = nv.answer(KEY, model, memory, people[1].queries[:1], user=people[1].id)
    assert answer.found in people[1].history


def test_it_is_saved_and_starts_others_as_before(model, people, common, tmp_path):
    nv.save(tmp_path / "common", common)
    loaded = nv.load(tmp_path / "common", model, settings=SHORT)
    one, other = (nv.personalise(KEY, model, people, each, settings=SHORT) for each in (common, loaded))
    assert jnp.array_equal(one.bank.prompts, other.bank.prompts)


def test_what_does_not_fit_is_named(model, people, common):
    with pytest.raises(ValueError, match="for LaMP-2 with 4 virtual tokens, but these are users of LaMP-3 with 4"):
        nv.personalise(KEY, model, nv.toy_users("LaMP-3", 1), common, settings=SHORT)
    with pytest.raises(ValueError, match="but these are users of LaMP-2 with 16"):
        nv.personalise(KEY, model, people, common)
    with pytest.raises(ValueError, match="holds no user 'everyone'"):
        nv.personalise(KEY, model, people, nv.personalise(KEY, model, people, common, settings=SHORT), settings=SHORT)
    with pytest.raises(ValueError, match="no users: give at least one"):
        nv.learn_common(KEY, model, people[:0], "NVM-3", sigma=0.1, settings=SHORT)
    other = model._replace(params=jax.tree.map(lambda leaf: leaf + 1, model.params))
    with pytest.raises(ValueError, match="learned with another model"):
        nv.personalise(KEY, other, people, common, settings=SHORT)


def test_clusters_part_the_buffer_around_their_representatives(model, people):
    selected = gather(KEY, model, people.task, people, settings=SHORT).selected
    for user, samples, clusters in zip(people, selected.samples, selected.clusters, strict=True):
        parted = [sample for cluster in clusters for sample in cluster]
        assert sorted(parted) == sorted(user.history[-25:])
        assert all(sample in cluster for sample, cluster in zip(samples, clusters, strict=True) if sample)
        assert all(not cluster for sample, cluster in zip(samples, clusters, strict=True) if sample is None)


def test_an_ovt_of_a_cluster_sees_all_of_it(model, people):
    settings = replace(SHORT, learn_from="cluster")
    block = gather(KEY, model, people.task, people, settings=settings)
    sizes = [len(pool) for pool in pools(block, settings)]
    assert sum(sizes) == 50 and len(set(sizes)) > 1
    assert {len(pool) for pool in pools(block, SHORT)} == {1}


def test_what_is_not_tuned_sees_nothing_of_its_cluster(model, people):
    block = gather(KEY, model, people.task, people, settings=SHORT)
    untuned = replace(SHORT, training=tuning.Training(steps=0))
    of_clusters = replace(untuned, learn_from="cluster")
    alike = [
        tune_bank(KEY, model, block, nv.condition("NVM-3", 0.1), settings=settings)
        for settings in (untuned, of_clusters)
    ]
    assert jnp.array_equal(alike[0].prompts, alike[1].prompts)


def test_clusters_of_several_sizes_need_to_know_how_many_a_step_sees(model, people):
    whole = replace(SHORT, learn_from="cluster", training=tuning.Training(steps=4))
    with pytest.raises(ValueError, match=r"pools of \d+ to \d+ samples: say how many a step sees"):
        nv.learn(KEY, model, people, "NVM-3", sigma=0.1, settings=whole)
    with pytest.raises(ValueError, match="learn_from 'domain': choose sample or cluster"):
        replace(SHORT, learn_from="domain")


def test_an_ovt_of_a_cluster_of_one_is_that_of_its_sample(model):
    (user,) = nv.toy_users("LaMP-2", 1)
    few = replace(nv.toy_users("LaMP-2", 1), people=(user._replace(history=user.history[:3]),))  # three clusters
    sample, cluster = (
        nv.learn(KEY, model, few, "NVM-3", sigma=0.1, settings=replace(SHORT, learn_from=each))
        for each in ("sample", "cluster")
    )
    assert jnp.array_equal(sample.bank.prompts, cluster.bank.prompts)
