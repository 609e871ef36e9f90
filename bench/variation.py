"""Closed form against brute force, and brute force against a plain PyTorch loop and aihwkit.

    python -m bench.variation [--queries 200] [--ovts 200] [--error 0.001] [--json out/variation.json]

Speed at equal standard error, in two units. For the accuracy of ONE query brute force needs `p (1 - p) / error^2`
draws, on average over the queries. For the MEAN over all queries it needs `variance / error^2`, with the measured
variance of a draw's mean over queries: one draw of the bank serves all queries, whose errors average out. What a draw
takes is measured; the closed form's own error is that of its quadrature, far below. Accuracies of both stand beside
the times. Everything is warmed up and blocked on; the best of five.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bench import harness
from bench.harness import SEED, best
from nvcim_jax.core import noise, similarity
from nvcim_jax.hardware import catalogue
from nvcim_jax.memory import monte_carlo, variation

SCORE = partial(similarity.stored_wmsdp, reduce=similarity.aligned)
NVM3, SIGMA = catalogue.device("NVM-3"), 0.3


def closed_form(ovts: int, queries: int, error: float) -> dict[str, float]:
    """Expected accuracy of `queries` queries on a bank of 16 x 48 OVTs, both ways."""
    a, b = jax.random.split(jax.random.key(SEED))
    keys = jax.random.normal(a, (ovts, 16, 48))
    target = jnp.arange(queries) % ovts
    asked = 0.1 * keys[target] + 0.6 * jax.random.normal(b, (queries, 16, 48))
    valid, right = jnp.ones(ovts, bool), jnp.arange(ovts)[None] == target[:, None]
    table = jax.jit(lambda *arrays: variation.win_table(*arrays, NVM3, sigma=SIGMA, score=SCORE))
    expected = np.asarray(variation.expected_accuracy(table(asked, keys, valid), right))
    closed = best(lambda: table(asked, keys, valid))
    trial = partial(monte_carlo.retrieve_once, score=SCORE)
    arguments = (asked, keys, valid, NVM3, jnp.float32(SIGMA))
    draw = partial(monte_carlo.monte_carlo, jax.random.key(SEED + 1), trial, arguments)
    found = np.concatenate(list(draw(draws=500)))
    per_draw = best(lambda: list(draw(draws=100)), 3) / 100
    hits = (found == np.asarray(target)).mean(1)
    one, mean = draws_needed(expected, hits, error)
    return {
        "closed_form_seconds": closed, "brute_force_seconds_per_draw": per_draw, "draws_for_one_query": one,
        "draws_for_the_mean": mean, "speed_ratio_for_one_query": one * per_draw / closed,
        "speed_ratio_for_the_mean": mean * per_draw / closed, "speed_ratio_at_20000_draws": 20_000 * per_draw / closed,
        "expected_accuracy": float(expected.mean()), "accuracy_of_500_draws": float(hits.mean()),
        "standard_error_of_500_draws": float(hits.std() / 500**0.5),
    }  # fmt: skip


def draws_needed(expected: np.ndarray, hits: np.ndarray, error: float) -> tuple[float, float]:
    """Draws for a standard error of `error`: in one query's accuracy (on average over queries, whose expected
    accuracies are `expected`), and in the mean over queries, of which `hits` holds the one of each draw."""
    return float(np.mean(expected * (1 - expected)) / error**2), float(np.var(hits, ddof=1) / error**2)


def chips(ovts: int, queries: int) -> dict[str, float]:
    """Whole chips: scores drawn from their joint law against cells drawn one by one."""
    a, b = jax.random.split(jax.random.key(SEED))
    keys, asked = jax.random.normal(a, (ovts, 16, 48)), jax.random.normal(b, (queries, 16, 48))
    valid = jnp.ones(ovts, bool)
    copies = variation.bank_law(keys, NVM3, sigma=SIGMA)
    make = jax.jit(lambda copies: variation.chip_law(asked, copies, valid, score=SCORE))
    law = jax.block_until_ready(make(copies))
    in_scores = lambda key, law: jnp.argmax(variation.chip_scores(key, law), axis=-1)  # noqa: E731
    in_cells = partial(monte_carlo.retrieve_once, score=SCORE)
    arguments = (asked, keys, valid, NVM3, jnp.float32(SIGMA))
    scores = (
        best(lambda: list(monte_carlo.monte_carlo(jax.random.key(SEED + 1), in_scores, (law,), draws=200)), 3) / 200
    )
    cells = (
        best(lambda: list(monte_carlo.monte_carlo(jax.random.key(SEED + 1), in_cells, arguments, draws=100)), 3) / 100
    )
    return {
        "queries": queries, "law_seconds": best(lambda: make(copies), 3), "speed_ratio_per_chip": cells / scores,
        "seconds_per_chip_in_score_space": scores, "seconds_per_chip_in_cell_space": cells,
    }  # fmt: skip


def against_torch(ovts: int = 25, draws: int = 2000) -> dict[str, float | str]:
    """Draws of Eq. 4 over 25 OVTs a second, beside a loop over OVTs as the released code is used."""
    prompts = np.asarray(jax.random.normal(jax.random.key(SEED), (ovts, 16, 48)))

    def trial(key, prompts):
        one = partial(noise.inject, sigma=0.1, factors=NVM3.factors)
        return jax.vmap(one)(jax.random.split(key, ovts), prompts)

    draw = partial(monte_carlo.monte_carlo, jax.random.key(SEED + 1), trial, (jnp.asarray(prompts),))
    ours = best(lambda: list(draw(draws=draws, chunk=500))) / draws
    spread = np.concatenate(list(draw(draws=500))).std(0).mean()
    said = float(jnp.mean(jax.vmap(partial(noise.noise_std, sigma=0.1, factors=NVM3.factors))(jnp.asarray(prompts))))
    out = {"ours_draws_per_second": 1 / ours, "ours_std": float(spread), "std_by_formula": said}
    try:
        import torch
    except ImportError:
        return {**out, "torch": "not installed: skipped"}
    held = torch.from_numpy(prompts.copy())
    factors = [float(factor) for factor in NVM3.factors]

    def released(prompt):
        """The released noise in our words: signed bands of the share of the peak, each noised in place in turn."""
        share = prompt / prompt.abs().max().item()
        bands = (
            lambda x: x > 0.75, lambda x: (x <= 0.75) & (x >= 0.5),
            lambda x: (x <= 0.5) & (x >= 0.25), lambda x: x <= 0.25,
        )  # fmt: skip
        for inside, factor in zip(bands, factors, strict=True):
            at = inside(share)
            share[at] = share[at] + torch.randn_like(share[at]) * factor * 0.1
        return share

    theirs = best(lambda: [[released(prompt) for prompt in held] for _ in range(20)]) / 20
    return out | {
        "torch": torch.__version__, "torch_threads": torch.get_num_threads(), "torch_draws_per_second": 1 / theirs,
        "times_the_torch_loop": theirs / ours,
    }  # fmt: skip


def against_aihwkit(draws: int = 200) -> dict[str, float | str]:
    """A programmed-and-read tile of aihwkit holding the same 25 OVTs, if it can be imported."""
    try:
        import torch
        from aihwkit.inference import PCMLikeNoiseModel
    except ImportError:
        return {"aihwkit": "not installed: skipped"}
    weights, model = torch.randn(25, 768).clamp(-1, 1), PCMLikeNoiseModel()
    theirs = best(lambda: [model.apply_programming_noise(weights) for _ in range(draws)]) / draws
    return {"aihwkit_draws_per_second": 1 / theirs}


def measure(args):
    yield {"what": "closed form", **closed_form(args.ovts, args.queries, args.error)}
    yield {"what": "chips", **chips(args.ovts, min(args.queries, 50))}
    yield {"what": "PyTorch loop", **against_torch(draws=args.draws)}
    yield {"what": "aihwkit", **against_aihwkit()}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--ovts", type=harness.whole, default=200)
    parser.add_argument("--queries", type=harness.whole, default=200)
    parser.add_argument("--error", type=float, default=1e-3, help="wanted standard error of an accuracy")
    parser.add_argument("--draws", type=harness.whole, default=2000, help="of Eq. 4 beside the PyTorch loop")
    harness.run(parser, measure, quick={"ovts": 12, "queries": 8, "draws": 500})


if __name__ == "__main__":
    main()
