"""NVCiM-PT in JAX: a person's history learned as virtual tokens, kept in noisy memory arrays, found again.

The front door: `import nvcim_jax as nv`. Five verbs (`learn`, `grow`, `answer`, `save`, `load`), three of a life
(`begin_life`, `observe`, `reply`), those of documents (`learn_documents`, `find_documents`, ...), what they are given,
and the pure functions that a script jits and vmaps itself. Each name is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
