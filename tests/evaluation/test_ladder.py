"""The ladder of methods: what each row is, and that rows differ in nothing else."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import llm, tuning
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.core.similarity import aligned, aligned_mean, pairwise_mean
from nvcim_jax.data import lamp, synthetic
from nvcim_jax.data.users import Users, toy_users
from nvcim_jax.evaluation import crowd, main_job, methods, one_for_all, statistics
from nvcim_jax.evaluation.ladder import Ladder, Score, climb, ladder, share, work
from nvcim_jax.hardware import mitigation
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.crossbar import write_values
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.memory import programming
from nvcim_jax.people import EMBEDDED_WORLD, Sample, User
from nvcim_jax.pipeline.block import Block
from nvcim_jax.pipeline.encode import fit_codecs
from nvcim_jax.pipeline.learn import tune_bank
from nvcim_jax.pipeline.presets import (
    MITIGATIONS,
    PAPER,
    PAPER_LITERAL,
    PERSONAL,
    PRESETS,
    RECOMMENDED,
    content_key,
    mitigated,
    prompt_key,
)
from nvcim_jax.pipeline.retrieve import sensitivities
from nvcim_jax.pipeline.select import buffered, select

KEY, CELL, TASK = jax.random.key(0), methods.Cell("NVM-3", 0.1), lamp.task("LaMP-2")
ROWS = {row.label: row for row in methods.rows()}

# label -> training noise as a multiple of the device's, clipping quantile, steps, what writes, probes, search
SHORT = {
    "own tokens, untuned": (2, 0.9, 0, "values", 0, "three copies, pairwise_mean"),
    "one prompt for all": (2, 0.9, 30, "values", 0, "three copies, pairwise_mean"),
    "own tokens, right domain known, clean": (0, 1.0, 0, "values", 0, "three copies, pairwise_mean"),
    "OVT, right domain known, clean": (0, 1.0, 30, "values", 0, "three copies, pairwise_mean"),
    "paper-literal: no training noise, flat MIPS": (0, 1.0, 30, "values", 0, "flat_mips"),
    "paper-literal: flat MIPS": (1, 1.0, 30, "values", 0, "flat_mips"),
    "paper-literal: mean-pooled MIPS": (1, 1.0, 30, "values", 0, "mean_mips"),
    "paper-literal: scaled search": (1, 1.0, 30, "values", 0, "three copies, aligned"),
    "paper: no training noise, flat MIPS": (0, 1.0, 30, "values", 0, "flat_mips"),
    "paper: flat MIPS": (1, 1.0, 30, "values", 0, "flat_mips"),
    "paper: mean-pooled MIPS": (1, 1.0, 30, "values", 0, "mean_mips"),
    "paper: by cell, no mitigation": (0, 1.0, 30, "plain", 0, "three copies, aligned_mean"),
    "paper: by cell, SWV": (0, 1.0, 30, "selective_write_verify", 8, "three copies, aligned_mean"),
    "paper: by cell, CxDNN": (0, 1.0, 30, "cxdnn", 0, "three copies, aligned_mean"),
    "paper: by cell, CorrectNet": (0, 1.0, 30, "correctnet", 0, "three copies, aligned_mean"),
    "paper: by cell": (1, 1.0, 30, "plain", 0, "three copies, aligned_mean"),
    "paper: scaled search": (1, 1.0, 30, "values", 0, "three copies, aligned_mean"),
    "recommended: no training noise, no clipping, flat MIPS": (0, 1.0, 30, "values", 0, "flat_mips"),
    "recommended: no training noise, flat MIPS": (0, 0.9, 30, "values", 0, "flat_mips"),
    "recommended: flat MIPS": (2, 0.9, 30, "values", 0, "flat_mips"),
    "recommended: mean-pooled MIPS": (2, 0.9, 30, "values", 0, "mean_mips"),
    "recommended: by cell, no mitigation": (0, 1.0, 30, "plain", 0, "three copies, pairwise_mean"),
    "recommended: by cell, SWV": (0, 1.0, 30, "selective_write_verify", 8, "three copies, pairwise_mean"),
    "recommended: by cell, CxDNN": (0, 1.0, 30, "cxdnn", 0, "three copies, pairwise_mean"),
    "recommended: by cell, CorrectNet": (0, 1.0, 30, "correctnet", 0, "three copies, pairwise_mean"),
    "recommended: by cell": (2, 0.9, 30, "plain", 0, "three copies, pairwise_mean"),
    "recommended: mean-pooled MIPS, three copies": (2, 0.9, 30, "values", 0, "three copies, pairwise_mean"),
}


def short(settings):
    own = settings.write.keywords["write"] if settings.write is not write_values else None
    write = "values" if own is None else getattr(own, "func", own).__name__
    score = settings.score
    search = f"three copies, {score.keywords['reduce'].__name__}" if hasattr(score, "keywords") else score.__name__
    return settings.train_sigma, settings.clip, settings.training.steps, write, settings.probes, search


def test_every_row_is_what_it_is_called():
    assert {label: short(row.settings) for label, row in ROWS.items() if row.settings} == SHORT
    assert [label for label, row in ROWS.items() if row.settings is None] == ["base model"]
    assert [label for label, row in ROWS.items() if row.learn is one_for_all.learn] == ["one prompt for all"]
    assert [label for label, row in ROWS.items() if row.known_domain] == [methods.OWN_KNOWN, methods.KNOWN]
    assert list(ROWS)[-1] == methods.whole("recommended") == "recommended: mean-pooled MIPS, three copies"


def test_the_short_table_has_what_a_model_of_ones_own_is_judged_by():
    few = [row.label for row in methods.short(methods.rows())]
    assert few == [methods.BASE, methods.OWN, methods.ONE, methods.whole("recommended")]


def test_presets_differ_as_their_definitions_say():
    def parts(preset):
        rate = preset.learning_rate
        return (preset.start, type(preset.method), preset.fit_codec.__name__, rate.func.__name__, rate.keywords,
                preset.train_sigma, preset.clip, preset.key, preset.score.keywords["reduce"])  # fmt: skip

    share, own = {"share": 0.06}, tuning.own_tokens
    assert parts(PAPER_LITERAL) == (
        tuning.random_tokens, tuning.Prompt, "fit_autoencoder", "fixed_rate", {"rate": 1e-4}, 1, 1, prompt_key, aligned
    )  # fmt: skip
    assert parts(PAPER) == (
        own, tuning.CodePrompt, "fit_pca", "relative_rate", share, 1, 1, prompt_key, aligned_mean
    )  # fmt: skip
    assert parts(RECOMMENDED) == (
        own, tuning.CodePrompt, "fit_pca", "relative_rate", share, 2, 0.9, content_key, pairwise_mean
    )  # fmt: skip
    for preset in (PAPER_LITERAL, PAPER, RECOMMENDED):
        assert (preset.tokens, preset.buffer, preset.training.steps, preset.start_text) == (16, 25, 30, None)
        assert preset.start_answer and preset.write is write_values and preset.probes == 0


def quick(label, **changes):
    row = ROWS[label]
    return row._replace(settings=row.settings and replace(row.settings, **changes))


def test_the_ladder_scores_its_rows_on_the_same_users(model):
    few = tuning.Training(steps=2)
    rows = [quick(methods.BASE), quick(methods.OWN), quick(methods.KNOWN, training=few)]
    rows += [quick(f"recommended: by cell, {name}", training=few) for name in ("no mitigation", "SWV")]
    rows.append(quick(methods.whole("recommended"), training=few))
    told = []
    users = Users(TASK, tuple(synthetic.users(TASK, 2, queries=2)), EMBEDDED_WORLD)
    climbed = ladder(KEY, model, users, [CELL], draws=2, rows=rows, report=told.append)
    scores = climbed.scores[CELL]
    assert list(scores) == [row.label for row in rows] and len(climbed.examples) == 4
    assert all(score.scores.shape == (2,) and 0 <= score.scores.min() <= score.scores.max() <= 1
               for score in scores.values())  # fmt: skip
    queries = [query for user in users for query in user.queries]
    for (
        label,
        score,
    ) in scores.items():  # the answers of each draw are those of the scores, in the order of the questions
        assert len(score.answers) == (1 if label in (methods.BASE, methods.KNOWN) else 2)
        right = [[told == query.answer for told, query in zip(own, queries, strict=True)] for own in score.answers]
        assert np.array_equal(np.mean(right, axis=0).reshape(2, 2).mean(axis=1), score.scores), label
    assert scores[methods.BASE].right_domain is None and scores[methods.OWN].right_domain.shape == (2,)
    assert sum(told) == pytest.approx(work(users, model, 1, 2, rows), rel=0.2)


def test_the_prompt_that_several_rows_start_from_is_tuned_once(model, monkeypatch):
    calls, start = [], crowd.start_together
    monkeypatch.setattr(crowd, "start_together", lambda *given, **how: calls.append(given) or start(*given, **how))
    few = tuning.Training(steps=2, per_step=1)
    best = replace(PERSONAL, training=few, together=replace(PERSONAL.together, training=few))
    rows, told = methods.short(methods.rows(PRESETS | {"recommended": best})), []
    people = toy_users(TASK, 2)
    climbed = ladder(KEY, model, people, [CELL], draws=1, rows=rows, report=told.append)
    assert len(calls) == 1 and list(climbed.scores[CELL]) == [row.label for row in rows]
    assert sum(told) == pytest.approx(work(people, model, 1, 1, rows), rel=0.2)
    own = methods.untuned(best)
    assert own.together is None and own.training.steps == 0


def test_the_ovt_of_the_right_domain_beats_the_base_model_by_far(model):
    rows = [ROWS[methods.BASE], ROWS[methods.KNOWN], ROWS[methods.whole("recommended")]]
    climbed = ladder(KEY, model, toy_users(TASK, 8), [CELL], draws=1, rows=rows)
    scores = {name: score.scores for name, score in climbed.scores[CELL].items()}
    for name in (methods.KNOWN, methods.whole("recommended")):
        assert statistics.difference(scores[name], scores[methods.BASE]).low > 0


def test_a_prompts_sensitivity_reaches_its_write_and_no_other():
    seen = []

    def write(key, integers, device, *, sigma, sensitivity=None):
        seen.append((integers.shape, sensitivity))
        return integers.astype(jnp.float32)

    code = jnp.ones((8, 48))
    programming.program_one(KEY, code, code, device("NVM-3"), sigma=0.1, write=write, sensitivity=2 * code)
    (prompt, given), *copies = seen
    assert prompt == (8, 48) and np.array_equal(given, 2 * code)
    assert [(shape, none) for shape, none in copies] == [((8, 48), None), ((4, 48), None), ((2, 48), None)]


def test_the_sensitivity_of_stored_values_is_the_curvature_of_their_samples_loss(model):
    """In the null space of what a code changes there is none; where the loss curves, finite differences agree."""
    users = buffered(synthetic.users(TASK, 1), 5)
    settings = replace(RECOMMENDED, training=tuning.Training(steps=0), tokens=4, probes=64)
    block = Block(TASK, users, select(KEY, model, users), fit_codecs(KEY, model, TASK, users))
    learned = tune_bank(KEY, model, block, Condition(device("NVM-3"), 0.0), settings=settings)
    found = np.asarray(sensitivities(KEY, model, block, learned, settings=settings))
    assert found.shape == learned.prompts.shape and (found[0, :3] > 0).any() and not found[0, 3:].any()
    other = sensitivities(jax.random.key(1), model, block, learned, settings=settings)
    assert np.corrcoef(found[0, :3].reshape(-1), np.asarray(other)[0, :3].reshape(-1))[0, 1] > 0.5
    half = sensitivities(KEY, llm.load(EMBEDDED, dtype="bfloat16"), block, learned, settings=settings)
    assert np.corrcoef(found[0, :3].reshape(-1), np.asarray(half)[0, :3].reshape(-1))[0, 1] > 0.9


def result(**scores):
    users = [User(str(at), (), ()) for at in range(len(scores["base"]))]
    names = {"base": methods.BASE, "known": methods.KNOWN, "own": methods.OWN, "one": methods.ONE, "best": methods.whole("recommended"),
             "flat": "recommended: flat MIPS"}  # fmt: skip
    return main_job.TaskResult(TASK, users, {names[name]: np.array(own) for name, own in scores.items()}, {}, [], {})


def test_answers_of_blocks_follow_each_other_within_a_draw():
    def part(name, *draws):
        user = User(name, (), (Sample("q", "gold", "c", id=name),))
        score = Score(np.array([0.5]), None, draws)
        return main_job.Part([user], Ladder({CELL: {methods.OWN: score}}, [], None, None))

    held = main_job.collect(TASK, CELL, [part("Ann", ["a1"], ["a2"]), part("Bob", ["b1"], ["b2"])])
    assert held.answers == {methods.OWN: [["a1", "b1"], ["a2", "b2"]]}
    assert [query.id for query in held.questions] == ["Ann", "Bob"]


def test_differences_are_the_first_less_the_second_over_the_same_users():
    held = result(base=[0.1, 0.2], one=[0.3, 0.3], own=[0.5, 0.4], known=[0.9, 0.7], best=[0.8, 0.9], flat=[0.6, 0.1])
    means = {title: statistics.difference(*pair).mean for title, pair in main_job.comparisons(held).items()}
    best = methods.whole("recommended")
    assert means == pytest.approx({
        "one prompt for all - base model": 0.15,
        "OVT, right domain known, clean - base model": 0.65,
        f"{best} - base model": 0.7,
        f"{best} - recommended: flat MIPS": 0.5,
        f"{best} - own tokens, untuned": 0.4,
        f"{best} - one prompt for all": 0.55,
    })  # fmt: skip


def test_the_gain_kept_is_a_share_of_the_known_domains_gain():
    held = result(base=[0.2, 0.2, 0.3], known=[0.8, 0.7, 0.9], best=[0.5, 0.45, 0.6])
    assert main_job.gain_kept(held).mean == pytest.approx(0.5)
    assert main_job.gain_kept(result(base=[0.2, 0.8], known=[0.8, 0.3], best=[0.5, 0.5])) is None  # no gain to share
    assert main_job.gain_kept(result(base=[0.2, 0.2], best=[0.5, 0.5])) is None  # domains unknown


def test_mitigations_are_those_of_the_paper():
    made = {name: mitigated(RECOMMENDED, name, budget=2.0) for name in MITIGATIONS}
    writes = {name: (each.write.keywords["write"], each.probes) for name, each in made.items()}
    swv, probes = writes.pop("swv")
    assert (swv.func, swv.keywords, probes) == (mitigation.selective_write_verify, {"budget": 2.0}, 8)
    assert writes == {
        "none": (mitigation.plain, 0),
        "cxdnn": (mitigation.cxdnn, 0),
        "correctnet": (mitigation.correctnet, 0),
    }
    with pytest.raises(ValueError, match="unknown mitigation 'best': choose one of none, swv, cxdnn, correctnet"):
        mitigated(RECOMMENDED, "best")
    with pytest.raises(ValueError, match=r"a budget of 0.5 pulses per cell: the first pulses alone take 1"):
        mitigated(RECOMMENDED, "swv", budget=0.5)


def test_texts_stand_before_the_question_and_change_no_search(model):
    rows = [*methods.with_texts(2), ROWS[methods.whole("recommended")]]
    quick = [
        row if row.settings is None else row._replace(settings=replace(row.settings, training=methods.UNTUNED))
        for row in rows
    ]
    shared = share(jax.random.key(0), model, toy_users("LaMP-2", 2), settings=quick[-1].settings)
    cell = methods.Cell("NVM-3", 0.1)
    asked = shared.behind(2, cell)
    assert all(long.question.endswith(query.question) for long, query in zip(asked, shared.crowd.queries))
    own = {sample.content for sample in shared.crowd.users[0].history}
    assert any(content in asked[0].question for content in own) and asked[0].content == shared.crowd.queries[0].content
    alone, both, ovt = (climb(shared, row, cell, draws=1) for row in quick)
    np.testing.assert_array_equal(both.right_domain, ovt.right_domain)
    assert alone.answers[0] != shared.alone()
