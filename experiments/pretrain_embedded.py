"""Pretrain the embedded language model on the synthetic population; about 25 minutes on two cores.

    python experiments/pretrain_embedded.py --out nvcim_jax/embedded/model

A Llama of one million parameters reads sequences of 128 tokens, each from one user and one task. Answers weigh 1 in
the loss, other tokens 0.1, and most sequences replace some examples by a short reminder ("a few words,
Answer: y"), so that the model knows the kind of prefix that virtual tokens start from. No held-out user is seen.
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

from nvcim_jax import lamp, synthetic
from nvcim_jax.llm import decoder, weights
from nvcim_jax.llm.config import Config

LENGTH, BATCH, VOCABULARY = 128, 32, 2400
END, PAD, ANSWER = "</s>", "<pad>", lamp.ANSWER
SHARES = {"LaMP-1": 3, "LaMP-2": 2, "LaMP-3": 2, "LaMP-5": 2, "LaMP-7": 2}
SIZES = Config(
    vocab_size=VOCABULARY, dim=128, hidden_dim=352, layers=4, heads=4, kv_heads=4, head_dim=32,
    context=512, rope_theta=10000.0, norm_eps=1e-5, tied=True,
)  # fmt: skip


def sequence(rng: random.Random) -> tuple[lamp.Task, list[lamp.Sample], list[bool]]:
    """Six samples of one population user and one task, and which of them appear as a short reminder."""
    task = lamp.TASKS[rng.choices(list(SHARES), list(SHARES.values()))[0]]
    habits = synthetic.persona(rng.randrange(synthetic.HELD_OUT))
    known = list(habits) if rng.random() < 0.45 else [rng.choice(list(habits))]
    known = known[: rng.randint(2, 3)]
    reminders = rng.random() < 0.6
    samples = []
    for _ in range(6):
        domain = rng.choice(known)
        item = synthetic.example(rng, task, domain, habits[domain])
        samples.append(lamp.Sample(item["input"], item["output"], lamp.content(task, item["input"])))
    return task, samples, [reminders and rng.random() < 0.45 for _ in samples]


def texts(rng: random.Random, batch: int) -> tuple[list[str], list[str]]:
    """Flat lists of questions (or reminders) and answers, six for each of `batch` sequences."""
    asked, answers = [], []
    for _ in range(batch):
        task, samples, short = sequence(rng)
        for sample, is_short in zip(samples, short, strict=True):
            words = lamp.gist(task, sample).split()
            if is_short:
                start = rng.randrange(3)
                kept = words[start : start + rng.randint(0, 12)]
                words = kept if rng.random() < 0.5 else [word for word in kept if rng.random() < 0.6]
            asked.append((" ".join(words) if is_short else sample.question) + ANSWER)
            answers.append(f" {sample.answer}")
    return asked, answers


def batch(rng: random.Random, tokenizer: Tokenizer, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and loss weights, both [BATCH, LENGTH + 1]."""
    asked, answers = texts(rng, BATCH)
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
    pieces = sorted({piece for task in lamp.TASKS.values() for piece in task.pieces}, key=len, reverse=True)
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
        "rope_parameters": {"rope_type": "default", "rope_theta": SIZES.rope_theta}, "tie_word_embeddings": True,
        "attention_bias": False, "mlp_bias": False, "eos_token_id": end, "pad_token_id": pad, "dtype": "float16",
    }  # fmt: skip
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint to")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    tokenizer = train_tokenizer(rng)
    end = tokenizer.token_to_id(END)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 100, args.steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01))
    params = decoder.Decoder(SIZES).init(jax.random.key(args.seed), jnp.zeros((1, 1), jnp.int32))["params"]
    state = optimiser.init(params)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    started = time.perf_counter()
    with Progress(*columns) as progress:
        bar = progress.add_task("pretraining", total=args.steps)
        for at in range(args.steps):
            params, state, loss = step(params, state, *batch(rng, tokenizer, end), optimiser=optimiser)
            progress.advance(bar)
            if at % 100 == 99:
                rate = (at + 1) * BATCH * LENGTH / (time.perf_counter() - started)
                progress.console.print(f"step {at + 1}: loss {float(loss):.3f}, {rate:,.0f} tokens/s")
                if at % 500 == 499:
                    save(args.out, params, tokenizer)
    save(args.out, params, tokenizer)


if __name__ == "__main__":
    main()
