"""Banks that took no learning, for tests of what is done with a bank."""

from pathlib import Path

import jax
import jax.numpy as jnp

from nvcim_jax.core import codec
from nvcim_jax.data import lamp, synthetic
from nvcim_jax.llm.fingerprint import fingerprint
from nvcim_jax.memory import bank as banks
from nvcim_jax.memory.storage import store
from nvcim_jax.memory.storage.about import EMBEDDED_WORLD, About


def untrained(folder: Path, model, **said) -> Path:
    """A bank of the first embedded user, whose two OVTs are noise; `said` are settings that it names."""
    user = synthetic.users(lamp.task("LaMP-2"), 1)[0]
    samples = user.history[:2]
    domains = tuple(sorted({sample.domain for sample in samples}))
    words = model.params["embedding"]["embedding"][:64].astype(jnp.float32)
    own = jax.tree.map(lambda leaf: leaf[None], codec.fit_pca(jax.random.key(0), words, jnp.ones(64)))
    codes = jax.random.normal(jax.random.key(1), (1, 8, 16, 48))
    origin = banks.unknown((1, 8))._replace(sample=jnp.arange(8)[None] % 2)
    about = About(
        model=fingerprint(model), task="LaMP-2", source=EMBEDDED_WORLD, users=(user.id,), samples=(samples,),
        domains=domains, devices=("NVM-3",), settings={"preset": "recommended", **said},
    )  # fmt: skip
    store.save(folder, banks.new(codes, codes, origin, jnp.full(1, 2, jnp.int32)), own, about)
    return folder
