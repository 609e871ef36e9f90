"""Rungs: the ways to answer that studies compare, from the model alone to OVTs in arrays.

A rung goes by its label. Most are rows of the ladder (`methods.rows`); beside them stand retrieved text, one adapter
for a user's whole buffer, and what an ablation changes in a preset.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax import tuning
from nvcim_jax.core.codec import fit_autoencoder, fit_pca
from nvcim_jax.data import lamp
from nvcim_jax.description import described
from nvcim_jax.evaluation import crowd, ladder, methods, one_for_all, retrieved
from nvcim_jax.evaluation.crowd import Shared
from nvcim_jax.evaluation.ladder import Score
from nvcim_jax.evaluation.methods import Cell, Method
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.pipeline import learn, presets
from nvcim_jax.pipeline.answer import answer_room, generate
from nvcim_jax.pipeline.presets import NAMES, Settings, fixed_rate, mitigated, relative_rate
from nvcim_jax.tuning.dept import Trained

TEXT = "retrieved text, BM25, 1 sample"
NARROW = 24  # dimensions of a code half as wide
BUDGETS = (1.1, 1.5, 2.0)  # pulses per cell that SWV may spend, beside that of `presets.SWV_BUDGET`
BEST, PAPER = methods.whole("recommended"), methods.whole("paper")


class Under(NamedTuple):
    """What a rung is measured under: the device and sigma, those that training is for (None: the same), the draws."""

    cell: Cell
    draws: int
    trained_for: Cell | None = None


class Rung(NamedTuple):
    """A way to answer."""

    label: str
    climb: Callable[[Shared, Under], Score]
    settings: Settings  # with which it learns, or asks
    is_stored: bool = True  # whether the device decides what it answers
    from_others: bool = False  # whether it starts from a prompt learned on other users
    choose: Callable = crowd.select
    needs_domains: bool = False

    def described(self) -> dict:
        """What decides its answers, as JSON."""
        told = {name: value for name, value in self._asdict().items() if name in ("is_stored", "from_others")}
        chosen = {} if self.choose is crowd.select else {"choose": described(self.choose, {})}
        return {**told, **chosen, **described_climb(self.climb), "settings": described(self.settings, NAMES)}


def described_climb(climb: Callable) -> dict:
    """The function of a rung and what is bound to it, but for settings, which the rung says itself."""
    bound = dict(climb.keywords) if isinstance(climb, partial) else {}
    method = bound.pop("method", None)
    if method is not None:
        bound |= {"learn": described(method.learn, {}), "known_domain": method.known_domain}
    named = {name: described(value, NAMES) for name, value in bound.items() if name != "settings"}
    return {"rung": described(getattr(climb, "func", climb), {}).rpartition(":")[2], **named}


def of_method(shared: Shared, under: Under, *, method: Method) -> Score:
    """A row of the ladder."""
    return ladder.climb(shared, method, under.cell, draws=under.draws, trained_for=under.trained_for)


def text(shared: Shared, under: Under, *, settings: Settings, way: str, count: int) -> Score:
    """The model with samples of the user's buffer in its context, as LaMP puts them there."""
    own = shared.crowd
    found = [near for user in own.users for near in retrieved.nearest(own.model, user, count, way=way)]
    asked = [retrieved.in_context(own.task, query, near) for query, near in zip(own.queries, found, strict=True)]
    answers = crowd.answers(own, shared.report, asked, None, settings)
    return ladder.score_of_answers(own, own.owners, answers, [near[0] for near in found])


def one_adapter(shared: Shared, under: Under, *, settings: Settings) -> Score:
    """One adapter for each user's buffer, at the compute of the user's OVTs; it is stored nowhere."""
    own = shared.crowd
    block = shared.block(settings.fit_codec)
    values = one_for_all.tune(shared.learn_key, own.model, block, _quiet(), settings=settings)
    return _with(shared, settings, values, own.owners)


def known_adapters(shared: Shared, under: Under, *, settings: Settings) -> Score:
    """One adapter for each representative sample, the question's domain known; they are stored nowhere."""
    own, block = shared.crowd, shared.block(settings.fit_codec)
    slots, samples = own.selected.slots, own.selected.learned
    rows = learn.Rows(slots, samples, [lamp.both_orders(own.task, sample) for sample in samples])
    tuned = learn.tune(shared.learn_key, own.model, block, rows, _quiet(), settings=settings)
    at = {slot: row for row, slot in enumerate(slots)}
    known = [] if own.known is None else own.known
    return _with(shared, settings, tuned.values, np.array([at[slot] for slot in zip(own.owners, known, strict=True)]))


def _quiet() -> Condition:
    return Condition(device("NVM-1"), 0.0)


def _with(shared: Shared, settings: Settings, values, rows: np.ndarray) -> Score:
    """Answers to question i with what was trained in row `rows[i]`, undisturbed."""
    own, method = shared.crowd, settings.method
    values = jax.tree.map(lambda leaf: leaf[rows], values)
    codec = jax.tree.map(lambda leaf: leaf[own.owners], shared.block(settings.fit_codec).codec)
    one = lambda own_values, codec: method.apply(own_values, codec, own.model.config, tuning.quiet)  # noqa: E731
    adapted = jax.jit(jax.vmap(one))(values, codec)
    room = answer_room(own.model, own.users)
    answers = generate(own.model, own.queries, adapted, new_tokens=room, wording=settings.wording)
    return ladder.score_of_answers(own, own.owners, answers)


def _both_rates(start: Trained, *, share: float) -> Trained:
    """DEPT's two learning rates: the factors' is a sixth of the prompt's share."""
    factors = jnp.float32(share / 6)
    return Trained(relative_rate(start.prompt, share=share), factors, factors)


# One adapter for everything: rates are the best of experiments/methods.py --pick, on users who are not reported.
RIVALS = {
    "prompt tuning": (tuning.Prompt(), partial(relative_rate, share=0.06)),
    "DEPT": (tuning.Dept(tokens=8, longest=64, rank=8), partial(_both_rates, share=0.06)),
    "P-tuning v2": (tuning.Prefix(), partial(fixed_rate, rate=0.03)),
    "prefix tuning": (tuning.Prefix(hidden=128), partial(fixed_rate, rate=0.001)),
    "LoRA": (tuning.Lora(), partial(fixed_rate, rate=0.01)),
    "IA3": (tuning.Ia3(), partial(fixed_rate, rate=0.1)),
}  # fmt: skip


def catalogue(*, real: bool, width: int) -> dict[str, Rung]:
    """All rungs by label, for the toy model or a `real` one whose embeddings are `width` wide.

    On a real model OVTs start from a prompt that was learned on other users, but for those that are not tuned.
    """
    rows = methods.of_a_real_model(has_others=True) if real else methods.rows()
    best = rows[-1].learned_with
    found = [_of_row(row, best) for row in rows]
    found.append(Rung(TEXT, partial(text, settings=best, way="bm25", count=1), best, is_stored=False))
    return {rung.label: rung for rung in [*found, *_adapters(best), *_ablations(best, width, real)]}


def _of_row(row: Method, best: Settings, choose: Callable = crowd.select) -> Rung:
    return Rung(
        row.label, partial(of_method, method=row), row.settings or best, choose=choose, needs_domains=row.known_domain,
        is_stored=row.settings is not None and not row.known_domain, from_others=row.from_others,
    )  # fmt: skip


def _adapters(best: Settings) -> list[Rung]:
    """Fig. 1: one adapter for everything, and one for each sample; nothing is stored."""
    clean = replace(best, clip=1.0, train_sigma=0.0)
    rows = [
        (
            f"one for all: {name}",
            one_adapter,
            replace(clean, method=method, learning_rate=rate, start=tuning.vocabulary_tokens),
        )
        for name, (method, rate) in RIVALS.items()
    ]
    prompt = replace(clean, method=tuning.Prompt())
    prefix, rate = RIVALS["prefix tuning"]
    rows += [
        ("OVT: prompt tuning", known_adapters, prompt),
        ("OVT: prompt tuning, random start", known_adapters, replace(prompt, start=tuning.random_tokens)),
        (
            "OVT: prefix tuning",
            known_adapters,
            replace(clean, method=prefix, learning_rate=rate, start=tuning.vocabulary_tokens),
        ),
    ]
    return [
        Rung(label, partial(how, settings=own), own, is_stored=False, needs_domains=how is known_adapters)
        for label, how, own in rows
    ]


def _ablations(best: Settings, width: int, real: bool) -> list[Rung]:
    """`recommended` with one thing changed."""
    noiseless, swv = replace(best, train_sigma=0.0), mitigated(best, "swv", budget=BUDGETS[0])
    bare = replace(noiseless, clip=1.0)
    changed: Mapping[str, Settings] = {
        "no training noise": noiseless,
        "no clipping": replace(best, clip=1.0),
        "no training noise, no clipping": bare,
        "the paper's autoencoder": replace(best, fit_codec=fit_autoencoder),
        f"code of {NARROW} dimensions": replace(best, fit_codec=partial(fit_pca, dim=NARROW)),
        "random start": replace(best, start=tuning.random_tokens),
        "start from any words": replace(best, start=tuning.vocabulary_tokens),
        "the OVT as its own key": replace(best, key=presets.prompt_key),
        "tuned in embedding space": replace(best, method=tuning.Prompt()),
        f"by cell, training noise and SWV, {BUDGETS[0]} pulses": swv,
        **{f"by cell, SWV, {b} pulses": mitigated(bare, "swv", budget=b) for b in BUDGETS},
    }
    row = partial(Method, group="recommended", from_others=real)
    rows = [_of_row(row(name, own), best) for name, own in changed.items()]
    rows.append(_of_row(row("latest samples", best), best, crowd.latest))
    clean = replace(bare, fit_codec=partial(fit_pca, dim=width))
    return [*rows, _of_row(Method(f"{methods.KNOWN}, no codec", clean, known_domain=True), best)]
