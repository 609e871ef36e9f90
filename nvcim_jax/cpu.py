"""The CPU that arrays are compared with in Fig. 5: what the same search takes there, and what it waits for."""

from collections.abc import Callable
from typing import NamedTuple

from nvcim_jax.cost import Components, Cost, Workload


class Cpu(NamedTuple):
    """Jetson AGX Orin 64 GB in one power mode. Every assumption is to the CPU's advantage: full rates, no overhead."""

    name: str
    cores: int
    ghz: float
    watt: float  # of the board
    flop_per_cycle: int = 16  # of a core: two 128-bit fused multiply-adds in float32
    dram_gb_s: float = 204.8  # 256-bit LPDDR5; from memory, no official page was at hand
    cache_mb: float = 6.0  # L3; NVIDIA's data sheet
    cache_byte_per_cycle: float = 16.0  # of a core; assumed
    ssd_gb_s: float = 7.0  # PCIe 4.0 x4, sequential; from memory
    ssd_us: float = 100.0  # first byte; from memory


ORIN_30W = Cpu("Orin, 30 W", 8, 1.728, 30.0)  # the default power mode: nvpmodel's table
ORIN_MAXN = Cpu("Orin, MAXN", 12, 2.2, 60.0)


def dram(size: int, cpu: Cpu) -> float:
    """Nanoseconds to read `size` bytes from DRAM."""
    return size / cpu.dram_gb_s


def cache(size: int, cpu: Cpu) -> float:
    """Nanoseconds to read `size` bytes from the last-level cache; infinite when they do not fit."""
    if size > cpu.cache_mb * 2**20:
        return float("inf")
    return size / (cpu.cores * cpu.ghz * cpu.cache_byte_per_cycle)


def ssd(size: int, cpu: Cpu) -> float:
    """Nanoseconds to bring `size` bytes from the SSD."""
    return 1e3 * cpu.ssd_us + size / cpu.ssd_gb_s


def search(workload: Workload, cpu: Cpu = ORIN_30W, *, source: Callable[[int, Cpu], float] = dram) -> Components:
    """The same products on the CPU. Reading and computing overlap; what is listed adds up to the longer of the two."""
    operations = (
        2 * workload.ovts * workload.dim * sum(v * c for v, c in map(workload.product, workload.rows_of_scales))
    )
    compute = operations / (cpu.cores * cpu.ghz * cpu.flop_per_cycle)
    waiting = max(source(workload.bytes, cpu) - compute, 0)
    return {part: Cost(ns, 1e3 * cpu.watt * ns) for part, ns in (("compute", compute), ("waiting for data", waiting))}
