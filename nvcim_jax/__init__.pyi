"""The names of the front door, and the room that each comes from; `__init__.py` reads them here."""

from .core.codec import (
    Codec as Codec,
)
from .core.codec import (
    decode as decode,
)
from .core.codec import (
    encode as encode,
)
from .core.codec import (
    fit_autoencoder as fit_autoencoder,
)
from .core.codec import (
    fit_pca as fit_pca,
)
from .core.noise import inject as inject
from .core.pooling import avg_pool as avg_pool
from .core.pooling import pyramid as pyramid
from .core.quantise import from_codes as from_codes
from .core.quantise import to_codes as to_codes
from .core.selection import kmeans as kmeans
from .core.selection import representatives as representatives
from .core.similarity import mips as mips
from .core.similarity import stored_wmsdp as stored_wmsdp
from .core.similarity import wmsdp as wmsdp
from .data.users import Users as Users
from .data.users import read_lamp as read_lamp
from .data.users import toy_users as toy_users
from .hardware.catalogue import (
    Sheet as Sheet,
)
from .hardware.catalogue import (
    device as device,
)
from .hardware.catalogue import (
    sheet as sheet,
)
from .hardware.devices import (
    Device as Device,
)
from .hardware.devices import (
    stack as stack,
)
from .hardware.devices import (
    sweep as sweep,
)
from .memory.bank import Bank as Bank
from .memory.monte_carlo import monte_carlo as monte_carlo
from .memory.variation import win_probabilities as win_probabilities
from .people import Sample as Sample
from .people import User as User
from .pipeline.answer import Answer as Answer
from .pipeline.answer import answer as answer
from .pipeline.answer import stream_answer as stream_answer
from .pipeline.learn import learn as learn
from .pipeline.memory import Memory as Memory
from .pipeline.memory import load as load
from .pipeline.memory import save as save
from .pipeline.model import load_model as load_model
from .pipeline.presets import (
    PAPER as PAPER,
)
from .pipeline.presets import (
    PAPER_LITERAL as PAPER_LITERAL,
)
from .pipeline.presets import (
    RECOMMENDED as RECOMMENDED,
)
from .pipeline.presets import (
    Settings as Settings,
)
from .pipeline.presets import (
    mitigated as mitigated,
)
