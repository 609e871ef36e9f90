"""NVCiM-PT in JAX: prompt tuning whose virtual tokens live in noisy non-volatile compute-in-memory.

Every module is a room of its own and is imported by name: `from nvcim_jax import noise, similarity, bank, llm`. The
mathematics is functions of one example; `pipeline` composes them for blocks of users, `nvcim run` shows the whole.
"""
