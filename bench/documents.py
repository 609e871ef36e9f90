"""Encoding and searching documents against sentence-transformers and FAISS on the same weights, in one run.

    python -m bench.documents --encoder all-MiniLM-L6-v2 [--data LaMP_5_acl] [--texts 1000] [--sizes 10000]

Encoding: the same texts, truncated alike, by weights in float32 and bfloat16 against the peer's float32; where
sentence-transformers is not installed, transformers with its batching and pooling stands in, and the row says so.
Searching: 64 dimensions as an index (`memory.search`) against FAISS' flat inner product; each question is a noisy copy
of a stored vector, and the share found stands beside the time. Ratios are below 1 where ours is faster: aims 1.0 for
encoding, 0.6 for searching. A last row compares the closed form of who is among the first k with programming at an
equal standard error. Needs the extra `bench`.
"""

import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bench import harness
from nvcim_jax.data.users import read_lamp
from nvcim_jax.documents import encoder as encoders
from nvcim_jax.documents import stored, texts
from nvcim_jax.documents.stored import Format
from nvcim_jax.hardware.catalogue import condition
from nvcim_jax.memory import search

faiss, torch, transformers = harness.peers("faiss", "torch", "transformers")
jax.config.update("jax_cpu_enable_async_dispatch", False)  # a question is waited for: do not hand it to another thread
WORDS = "parser sentences learns trees graphs labels languages model corpus grammar".split()  # noqa: SIM905
DIM, K = 64, 10


def real_texts(args) -> list[str]:
    """So many texts of LaMP-5, or made up ones of 20 to 200 words where there is no folder."""
    if args.data:
        people = read_lamp(args.data, "LaMP-5")
        told = [texts.document(people.task, sample) for user in people for sample in user.history]
        return (told * (args.texts // len(told) + 1))[: args.texts]
    rng = np.random.default_rng(harness.SEED)
    return [" ".join(rng.choice(WORDS, rng.integers(20, 200))) for _ in range(args.texts)]


def peer_encoder(folder: Path, window: int):
    """sentence-transformers, or what it does: batches of 32 sorted by length, mean over the mask, length one."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        pass
    else:
        model = SentenceTransformer(str(folder))
        return "sentence-transformers", lambda told: model.encode(told, batch_size=32, show_progress_bar=False)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def encode(told):
        order = np.argsort([-len(each) for each in told], kind="stable")
        out = np.zeros((len(told), model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for start in range(0, len(told), 32):
                chosen = order[start : start + 32]
                given = tokenizer(
                    [told[at] for at in chosen], padding=True, truncation=True, max_length=window, return_tensors="pt"
                )
                states, mask = model(**given).last_hidden_state, given["attention_mask"][..., None]
                mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
                out[chosen] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return out

    return "transformers, as sentence-transformers does", encode


def encoding(args):
    """Cold and warm, ours and the peer's, and how far the vectors are apart: with weights in float32 and bfloat16."""
    told = real_texts(args)
    for dtype in args.dtypes:
        begun = time.perf_counter()
        ours = encoders.load_encoder(args.encoder, dtype=dtype)
        encoders.encode(ours, told[:1], is_question=True)
        first = time.perf_counter() - begun
        name, peer = peer_encoder(args.encoder, ours.window)
        taken = harness.turns(
            {"ours": lambda ours=ours: encoders.encode(ours, told).vectors, "peer": partial(peer, told)},
            seconds=args.seconds,
        )
        best = {side: float(np.min(each)) for side, each in taken.items()}
        apart = float(np.abs(encoders.encode(ours, told).vectors - peer(told)).max())
        yield {
            "encoding": len(told), "weights": dtype, "peer": name, "first_question_s": first, "s": best["ours"],
            "peer_s": best["peer"], "ratio": best["ours"] / best["peer"], "aim": 1.0, "apart": apart,
        }  # fmt: skip


def searching(args):
    """One question and many, over stores of several sizes."""
    rng = np.random.default_rng(harness.SEED)
    for size in args.sizes:
        vectors = rng.normal(size=(size, DIM)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        peer = faiss.IndexFlatIP(DIM)
        peer.add(vectors)
        for format in args.formats:
            index = search.build(jnp.asarray(vectors[:, None]), size, fold=search.flat, format=format)
            for count in args.queries:
                slots = np.linspace(0, size - 1, count, dtype=int)
                asked = vectors[slots] + 0.05 * rng.normal(size=(count, DIM)).astype(np.float32)
                given = jnp.asarray(asked[:, None])
                ours = partial(search.top_k, index, given, k=K)
                taken = harness.turns({"ours": ours, "peer": partial(peer.search, asked, K)}, seconds=args.seconds)
                best = {side: float(np.min(each)) for side, each in taken.items()}
                yield {
                    "documents": size, "questions": count, "format": format, "ms": 1e3 * best["ours"],
                    "faiss_ms": 1e3 * best["peer"], "ratio": best["ours"] / best["peer"], "aim": 0.6,
                    "found": float(np.mean(np.asarray(ours().slots)[:, 0] == slots)),
                    "faiss_found": float(np.mean(peer.search(asked, 1)[1][:, 0] == slots)),
                }  # fmt: skip


def closed_form(args):
    """The chance of each of 200 documents to be among the first k against programming them `draws` times."""
    codes = jax.random.normal(jax.random.key(harness.SEED), (args.documents, DIM))
    codes = codes / jnp.linalg.norm(codes, axis=1, keepdims=True)
    asked, there = codes[:16] + 0.1, jnp.ones(args.documents, bool)
    for device in args.devices:
        chip = condition(device, 0.2)

        @jax.jit
        def integrated(asked, chip=chip):
            return stored.chances(asked, stored.law(codes, chip, format=Format()), there, k=K)

        @jax.jit
        def programmed(key, asked, chip=chip):
            def one(key):
                slots = stored.rank(asked, stored.program(key, codes, chip, format=Format()), there, k=K).slots
                return jnp.zeros((len(asked), args.documents)).at[jnp.arange(len(asked))[:, None], slots].add(1.0)

            more = lambda total, key: (total + one(key), None)  # noqa: E731
            return jax.lax.scan(more, jnp.zeros((len(asked), args.documents)), jax.random.split(key, args.draws))[0]

        ours = np.asarray(integrated(asked))
        begun = time.perf_counter()
        jax.block_until_ready(integrated(asked))
        seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        share = np.asarray(programmed(jax.random.key(1), asked)) / args.draws
        drawn = time.perf_counter() - begun
        error = np.sqrt(np.maximum(ours * (1 - ours), 1e-4) / args.draws)
        apart = np.abs(ours - share) / error
        yield {
            "closed_form": device, "documents": args.documents, "draws": args.draws, "ms": 1e3 * seconds,
            "drawn_s": drawn, "times_slower": drawn / seconds, "beyond_3_errors": float(np.mean(apart > 3)),
            "largest": float(apart.max()),
        }  # fmt: skip


def measure(args):
    if args.encoder:
        yield from encoding(args)
    yield from searching(args)
    yield from closed_form(args)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--encoder", type=Path, help="folder of a sentence encoder; without one nothing is encoded")
    parser.add_argument("--data", type=Path, help="folder with LaMP-5's files")
    parser.add_argument("--texts", type=harness.whole, default=1000)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--sizes", type=harness.whole, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--queries", type=harness.whole, nargs="+", default=[1, 16, 256, 1000])
    parser.add_argument("--formats", nargs="+", choices=search.FORMATS, default=["float32", "bfloat16"])
    parser.add_argument("--documents", type=harness.whole, default=200, help="of the closed form")
    parser.add_argument("--draws", type=harness.whole, default=20_000)
    parser.add_argument("--devices", nargs="+", default=[f"NVM-{number}" for number in range(1, 6)])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each row")
    quick = {"texts": 16, "sizes": [200], "queries": [1, 16], "documents": 20, "draws": 200, "devices": ["NVM-3"],
             "seconds": 0.1}  # fmt: skip
    harness.run(parser, measure, quick=quick, peers=(faiss, torch, transformers))


if __name__ == "__main__":
    main()
