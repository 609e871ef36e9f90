"""Pretrain the toy language model, nvcim_jax/data/toy/model, on the synthetic population: 40 minutes on two cores.

    python experiments/toy_model.py --out first
    python experiments/toy_model.py --out second --start first --steps 700 --rate 1.5e-3 --citation 20 --seed 1
    python experiments/toy_model.py --out nvcim_jax/data/toy/model --start second --steps 600 --rate 2e-3 \\
        --citation 20 --deviate 0.5 --reminded 0.8 --seed 3

A Llama of one million parameters reads sequences of 128 tokens, each from one user and one task. Answers weigh 1 in
the loss, other tokens 0.1, and most sequences replace some examples by a short reminder ("a few words, Answer: y"),
so that the model knows the kind of prefix that virtual tokens start from. No held-out user is seen. The second and the
third command are a curriculum for citation: after the first the model still guesses; the second teaches it what most
people cite, the third to follow a reminder instead.
"""

import argparse
import json
import random
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.llm import decoder, weights
from nvcim_jax.llm.config import Config, plain_rope
from nvcim_jax.people import Sample

LENGTH, BATCH, VOCABULARY, THETA = 128, 32, 2400, 10000.0
END, PAD, ANSWER = "</s>", "<pad>", lamp.ANSWER
SIZES = Config(
    vocab_size=VOCABULARY, dim=128, hidden_dim=352, layers=4, heads=4, kv_heads=4, head_dim=32,
    context=512, rope=plain_rope(THETA, 32), norm_eps=1e-5, tied=True,
)  # fmt: skip


def sequence(
    rng: random.Random, citation: float = 3, deviate: float = 0.0, reminded: float = 0.0
) -> tuple[lamp.Task, list[Sample], list[bool]]:
    """Six samples of one population user and one task, and which of them appear as a short reminder.

    Citation comes up `citation` times for every two times of each other task; users give up all regard for the
    population's choice of references with probability `deviate`; and with probability `reminded` the samples are of
    one domain and begin with up to three reminders, as a question behind virtual tokens does.
    """
    task = rng.choices(list(synthetic.TASKS.values()), [citation, 2, 2, 2, 2])[0]
    habits = synthetic.persona(rng.randrange(synthetic.HELD_OUT))
    if rng.random() < deviate:
        habits = {domain: habit._replace(subtopic=rng.randrange(3)) for domain, habit in habits.items()}
    first = rng.randint(1, 3) if rng.random() < reminded else 0
    known = list(habits) if rng.random() < 0.45 and not first else [rng.choice(list(habits))]
    known = known[: rng.randint(2, 3)]
    chance = 0.45 if rng.random() < 0.6 and not first else 0.0
    samples = []
    for _ in range(6):
        domain = rng.choice(known)
        item = synthetic.example(rng, task, domain, habits[domain])
        samples.append(Sample(item["input"], item["output"], lamp.content(task, item["input"])))
    return task, samples, [at < first or rng.random() < chance for at in range(6)]


def reminder(rng: random.Random, words: list[str]) -> list[str]:
    """Some of the words a sample is about: a run from near the beginning, thinned out half of the time."""
    start = rng.randrange(3)
    kept = words[start : start + rng.randint(0, 12)]
    return kept if rng.random() < 0.5 else [word for word in kept if rng.random() < 0.6]


def texts(rng: random.Random, batch: int, **mixture: float) -> tuple[list[str], list[str]]:
    """Flat lists of questions (or reminders) and answers, six for each of `batch` sequences."""
    asked, answers = [], []
    for _ in range(batch):
        task, samples, short = sequence(rng, **mixture)
        for sample, is_short in zip(samples, short, strict=True):
            words = lamp.gist(task, sample).split()
            if is_short:
                words = words[:12] if mixture.get("reminded") and rng.random() < 0.7 else reminder(rng, words)
            asked.append((" ".join(words) if is_short else sample.question) + ANSWER)
            answers.append(f" {sample.answer}")
    return asked, answers


def batch(rng: random.Random, tokenizer: Tokenizer, end: int, **mixture: float) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and loss weights, both [BATCH, LENGTH + 1]."""
    asked, answers = texts(rng, BATCH, **mixture)
    asked, answers = (tokenizer.encode_batch(part) for part in (asked, answers))
    ids = np.zeros((BATCH, LENGTH + 1), np.int32)
    loss_weights = np.zeros((BATCH, LENGTH + 1), np.float32)
    for row in range(BATCH):
        tokens, weight = [], []
        for at in range(6 * row, 6 * row + 6):
            question, answer = asked[at].ids, [*answers[at].ids, end]
            tokens += question + answer
            weight += [0.1] * len(question) + [1.0] * len(answer)
        size = min(len(tokens), LENGTH + 1)
        ids[row, :size], loss_weights[row, :size] = tokens[:size], weight[:size]
    return ids, loss_weights


def train_tokenizer(rng: random.Random) -> Tokenizer:
    """Byte-level BPE whose added tokens are the fixed parts of the task templates: a small model need not read them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    pieces = sorted({piece for task in synthetic.TASKS.values() for piece in task.pieces}, key=len, reverse=True)
    corpus = [text for _ in range(12000) for sample in sequence(rng)[1] for text in (sample.content, sample.answer)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(pieces) - 3,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([PAD, END])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in (ANSWER, *pieces)])
    return tokenizer


@partial(jax.jit, static_argnames=("optimiser",), donate_argnames=("params", "state"))
def step(params, state, ids, loss_weights, *, optimiser):
    """One AdamW step on the weighted next-token loss."""

    def loss(params):
        log_p = jax.nn.log_softmax(decoder.logits(params, SIZES, ids[:, :-1]))
        picked = jnp.take_along_axis(log_p, ids[:, 1:, None], axis=-1)[..., 0]
        return -jnp.sum(picked * loss_weights[:, 1:]) / jnp.sum(loss_weights[:, 1:])

    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimiser.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value


def save(out: Path, params, tokenizer: Tokenizer) -> None:
    """Write the Hugging Face folder: config.json, model.safetensors in float16, tokenizer files."""
    out.mkdir(parents=True, exist_ok=True)
    weights.save_weights(out / "model.safetensors", params, SIZES)
    (out / "model.safetensors").chmod(0o644)
    tokenizer.save(str(out / "tokenizer.json"))
    end, pad = (tokenizer.token_to_id(token) for token in (END, PAD))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": SIZES.vocab_size,
        "hidden_size": SIZES.dim, "intermediate_size": SIZES.hidden_dim, "num_hidden_layers": SIZES.layers,
        "num_attention_heads": SIZES.heads, "num_key_value_heads": SIZES.kv_heads, "head_dim": SIZES.head_dim,
        "max_position_embeddings": SIZES.context, "rms_norm_eps": SIZES.norm_eps, "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": THETA}, "tie_word_embeddings": True,
        "attention_bias": False, "mlp_bias": False, "eos_token_id": end, "pad_token_id": pad, "dtype": "float16",
    }  # fmt: skip
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint to")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--start", type=Path, help="checkpoint to go on from")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--citation", type=float, default=3, help="weight of LaMP-1, where the other tasks weigh 2")
    parser.add_argument("--deviate", type=float, default=0.0, help="share of users with their own taste in references")
    parser.add_argument("--reminded", type=float, default=0.0, help="share of sequences that begin with reminders")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    tokenizer = Tokenizer.from_file(str(args.start / "tokenizer.json")) if args.start else train_tokenizer(rng)
    end = tokenizer.token_to_id(END)
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.rate, 100, args.steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01))
    if args.start:
        params = weights.load(args.start).params
    else:
        params = decoder.Decoder(SIZES).init(jax.random.key(args.seed), jnp.zeros((1, 1), jnp.int32))["params"]
    state = optimiser.init(params)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    mixture = {"citation": args.citation, "deviate": args.deviate, "reminded": args.reminded}
    started = time.perf_counter()
    with Progress(*columns) as progress:
        bar = progress.add_task("pretraining", total=args.steps)
        for at in range(args.steps):
            params, state, loss = step(
                params,
                state,
                *batch(rng, tokenizer, end, **mixture),
                optimiser=optimiser,
            )
            progress.advance(bar)
            if at % 100 == 99:
                rate = (at + 1) * BATCH * LENGTH / (time.perf_counter() - started)
                progress.console.print(f"step {at + 1}: loss {float(loss):.3f}, {rate:,.0f} tokens/s")
                if at % 500 == 499:
                    save(args.out, params, tokenizer)
    save(args.out, params, tokenizer)


if __name__ == "__main__":
    main()
