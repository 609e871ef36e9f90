"""A device's life: what fills a buffer is learned, what is learned is found, and nothing depends on when it stopped."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvcim_jax as nv
from nvcim_jax import tuning
from nvcim_jax.data import lamp, toy_words
from nvcim_jax.data.toy_stream import stream
from nvcim_jax.memory import bank
from nvcim_jax.pipeline import life, take_in
from nvcim_jax.pipeline.synthesis import Restate
from nvcim_jax.stream import policies

KEY = jax.random.key(0)
TASK = lamp.task("LaMP-2")
FAST = replace(nv.RECOMMENDED, training=tuning.Training(steps=0), tokens=8)  # starts are kept: nothing is compiled
RULES = nv.Rules(slots=4, capacity=5, settings=FAST)
MET = stream(TASK, 2_000_000).moments


def lived(model, moments, rules=RULES, people=("me",)):
    """The life after moments, each of all people, at 1000 seconds and one more each."""
    now = nv.begin_life(KEY, model, TASK, people, rules=rules)
    for number, moment in enumerate(moments):
        now = nv.observe(model, now, moment, time=1000 + number).life
    return now


def learned_from(now, person=0):
    """What the OVTs were learned from, by slot."""
    return [sample for sample in now.memory.block.selected.samples[person] if sample]


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.fixture(scope="module")
def once(model):
    """A life after its first learning."""
    return lived(model, MET[:4])


@pytest.fixture(scope="module")
def thrice(model):
    """A life after three."""
    return lived(model, MET[:12])


def test_a_device_learns_when_its_buffer_is_full_and_then_the_buffer_is_empty(model):
    now = nv.begin_life(KEY, model, TASK, rules=RULES)
    due = []
    for moment in MET[:9]:
        seen = nv.observe(model, now, moment)
        now = seen.life
        due.append(seen.has_learned)
    assert due == [False, False, False, True] * 2 + [False]
    assert now.counts[:4] == (9, 1, 2, 6) and int(now.buffer.held.sum()) == 1
    assert [told and told.sample for told in now.held[0]] == [MET[8], None, None, None]


def test_with_a_round_the_policy_chooses_what_is_learned(model):
    rules = replace(RULES, every=6, policy=policies.fifo)
    now = lived(model, MET[:6], rules)
    assert now.counts.rounds == 1 and set(learned_from(now)) <= set(MET[2:6])
    assert lived(model, MET[:5], rules).counts.rounds == 0


def test_the_shapes_of_a_life_never_change(model, once, thrice):
    shapes = lambda now: jax.tree.map(jnp.shape, (now.buffer, now.memory.bank, now.memory.codec))  # noqa: E731
    assert shapes(once) == shapes(thrice)
    assert jax.tree.map(jnp.shape, lived(model, MET[:1]).buffer) == jax.tree.map(jnp.shape, thrice.buffer)


def test_the_first_learning_is_what_learning_gives(model, once):
    """Selected, tuned and coded as `nv.learn` does, with the keys of the first learning."""
    own = life.key_of(KEY, "learn")
    gather_key, _, _, tune_key = jax.random.split(own, 4)
    users = [nv.User("me", MET[:4], ())]
    from nvcim_jax.hardware import catalogue
    from nvcim_jax.pipeline.block import gather
    from nvcim_jax.pipeline.learn import tune_bank

    block = gather(gather_key, model, TASK, users, settings=FAST)
    told = tune_bank(tune_key, model, block, catalogue.condition("NVM-3", 0.1), settings=FAST)
    count = int(told.count[0])
    assert count == 3 == int(once.memory.bank.count[0])
    assert_same(once.memory.bank.prompts[0, :count], told.prompts[0, :count])
    assert_same(once.memory.bank.keys[0, :count], told.keys[0, :count])
    assert learned_from(once) == block.selected.samples[0][:count]
    times = [1000 + MET.index(sample) for sample in learned_from(once)]
    assert np.asarray(once.memory.bank.origin.time)[0, :count].tolist() == times


def test_in_a_full_memory_the_oldest_make_room_and_nothing_more_is_said_of_them(thrice):
    held = learned_from(thrice)
    assert len(held) == 5 and thrice.counts.made_room == 4 and thrice.counts.tuned == 9
    numbers = [MET.index(sample) for sample in held]
    assert sum(number >= 8 for number in numbers) == 3 and min(numbers) >= 4
    assert thrice.memory.about.samples == (tuple(held),)
    assert thrice.memory.users[0].history == tuple(held)
    origin = jax.tree.map(lambda leaf: np.asarray(leaf)[0], thrice.memory.bank.origin)
    assert origin.sample.tolist() == [0, 1, 2, 3, 4]
    assert [thrice.memory.about.name("domains", int(each)) for each in origin.domain] == [s.domain for s in held]


def test_no_two_learnings_draw_alike(thrice):
    own = thrice.memory.bank
    keys = {tuple(row) for row in np.asarray(own.origin.key)[np.asarray(own.valid)].tolist()}
    assert len(keys) == int(own.count.sum()) > 3


def test_an_ovt_of_the_same_question_is_replaced(once):
    """And nobody makes room for it."""
    block, memory = once.memory.block, once.memory
    mended = [[sample and sample._replace(answer="comedy") for sample in row] for row in block.selected.samples]
    new = block._replace(selected=block.selected._replace(samples=mended))
    after = take_in.take_in(memory, new, memory.bank, {}, victim=bank.oldest)
    held = after.block.selected.samples[0]
    assert held == mended[0] and int(after.bank.count[0]) == 3
    one = new._replace(selected=new.selected._replace(samples=[[*mended[0][:1], *[None] * 4]]))
    only = memory.bank._replace(count=jnp.array([1]))
    after = take_in.take_in(memory, one, only, {mended[0][0]: 7}, victim=bank.oldest)
    assert after.block.selected.samples[0][:3] == [*block.selected.samples[0][1:3], mended[0][0]]
    assert np.asarray(after.bank.origin.time)[0, 2] == 7


def test_two_people_in_step_live_as_each_would_alone(model):
    other = stream(TASK, 2_000_001).moments
    both = lived(model, list(zip(MET[:8], other[:8], strict=True)), people=("me", "you"))
    alone = lived(model, MET[:8])
    assert learned_from(both) == learned_from(alone)
    np.testing.assert_allclose(both.memory.bank.prompts[0], alone.memory.bank.prompts[0], atol=2e-4)


def test_what_was_learned_answers_and_counts_its_uses(model, once):
    sample = learned_from(once)[1]
    now, told = nv.reply(model, once, sample._replace(answer=""))
    assert told.found == sample and told.slot == 1 and not told.is_abstained
    assert np.asarray(now.memory.bank.origin.uses)[0].tolist() == [0, 1, 0, 0, 0]
    assert nv.reply(model, once, sample.content).answer == told  # the noise of a slot is its own


def test_before_anything_is_learned_the_model_answers_alone(model):
    now = lived(model, MET[:2])
    same, told = nv.reply(model, now, MET[5].content)
    assert told.is_abstained and told.found is None and told.text and same is now


def test_older_ovts_are_read_with_the_codec_of_all(model, once, thrice):
    """Their search keys are those of their samples in the codec of now; their prompts lose what it cannot hold."""
    twice = lived(model, MET[:8])
    kept = [sample for sample in learned_from(once) if sample in learned_from(twice)]
    assert kept and not np.array_equal(once.memory.codec.encoder[0][0], twice.memory.codec.encoder[0][0])
    from nvcim_jax.pipeline import compiled, encode

    for sample in kept:
        old, new = learned_from(once).index(sample), learned_from(twice).index(sample)
        content = encode.content_codes(model, [[sample]], twice.memory.codec, FAST.tokens)[0, 0]
        np.testing.assert_allclose(twice.memory.bank.keys[0, new], FAST.key(content, content), atol=1e-5)
        before, after = (
            np.asarray(compiled.prompts_of(each.memory.codec, each.memory.bank.prompts))[0, slot]
            for each, slot in ((once, old), (twice, new))
        )
        assert np.linalg.norm(after - before) < 0.5 * np.linalg.norm(before)
        assert twice.memory.bank.writes[0, new] > 1  # coded anew, so written again


def test_without_older_ovts_a_codec_is_that_of_the_buffer(model, once):
    block = once.memory.block
    empty = once.memory._replace(block=block._replace(selected=block.selected._replace(samples=[[None] * 5])))
    memory, same = take_in.renewed(KEY, model, empty, block, fit=FAST.fit_codec)
    assert same is block and memory.codec is block.codec and memory.bank is empty.bank


def test_restatements_are_tuned_on_and_counted(model):
    rules = replace(RULES, restate=Restate(toy_words.restatements, count=2))
    now = lived(model, MET[:4], rules)
    assert now.counts.restated + now.counts.refused == 6 and now.counts.restated > 3
    assert now.counts.samples == 3 + now.counts.restated
    silent = replace(RULES, restate=Restate(lambda key, samples, count: [[] for _ in samples]))
    same = lived(model, MET[:4], silent)
    assert same.counts.refused == 9 and same.counts.samples == 3


def test_a_domain_that_nobody_names_is_the_lexicons(model):
    told = lived(model, [MET[0]._replace(domain=None)]).held[0][0]
    assert told.sample.domain == MET[0].domain
    blank = nv.Sample("zzz", "zzz", "zzz")
    assert lived(model, [blank]).held[0][0].sample.domain is None


@pytest.mark.parametrize("rule", bank.VICTIMS)
def test_every_rule_lets_a_memory_stay_full(model, rule):
    now = lived(model, MET[:8], replace(RULES, victim=bank.VICTIMS[rule]))
    assert len(learned_from(now)) == 5 and now.counts.made_room == 1


def test_what_means_nothing_is_refused(model, once):
    for rules, told in (({"slots": 0}, "a buffer of 0 moments"), ({"every": 0}, "learning every 0 moments"),
                        ({"capacity": 2}, "a buffer of 4 moments gives 3 at once")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            replace(RULES, **rules)
    for people in ([], ["me", "me"]):
        with pytest.raises(ValueError, match="one person at least"):
            nv.begin_life(KEY, model, TASK, people)
    for sample, told in ((nv.Sample("", "a", ""), "no question"), (nv.Sample("q", " ", "q"), "no answer")):
        with pytest.raises(ValueError, match=told):
            nv.observe(model, once, sample)
    with pytest.raises(ValueError, match="2 moments for 1 people"):
        nv.observe(model, once, MET[:2])
    with pytest.raises(ValueError, match="not the life of 'you'"):
        nv.reply(model, once, "why?", user="you")
    with pytest.raises(ValueError, match="ask something"):
        nv.reply(model, once, " ")
    with pytest.raises(ValueError, match="the buffer is empty"):
        life.learn(model, once)
