"""The CPU that arrays are compared with in Fig. 5: what a search takes there, and what it waits for.

To the CPU's advantage: every core at its full clock and full rate, the memory's full bandwidth, reading and computing
overlap, no thread is woken and no function called. To its disadvantage: `published` makes it multiply whatever the
arrays multiply; codes of 16 bits are multiplied at the rate of float32; the board's power counts the graphics
processor, the memory and all else, while the arrays are counted without a host. Pooling the query is left out on both
sides: what `equivalent` asks for takes as many additions as the scales of the arrays.
"""

from collections.abc import Callable
from typing import NamedTuple

from nvcim_jax.hardware.cost import Components, Cost, Workload, aligned


class Cpu(NamedTuple):
    """Jetson AGX Orin 64 GB in one power mode."""

    name: str
    cores: int
    ghz: float
    watt: float  # of the board: its power mode
    cores_watt: float  # of the rail VDD_CPU_CV under load: read by a user in NVIDIA's developer forum, without DRAM
    flop_per_cycle: int = 16  # of a core: two 128-bit fused multiply-adds in float32
    int8_per_cycle: int = 64  # of a core: two 128-bit dot products (SDOT); from memory, no official page was at hand
    dram_gb_s: float = 204.8  # 256-bit LPDDR5; from memory
    cache_mb: float = 6.0  # L3; NVIDIA's data sheet
    cache_byte_per_cycle: float = 16.0  # of a core; assumed
    ssd_gb_s: float = 7.0  # PCIe 4.0 x4, sequential; from memory
    ssd_us: float = 100.0  # first byte; from memory


ORIN_30W = Cpu("Orin, 30 W", 8, 1.728, 30.0, 5.6)  # the default power mode: nvpmodel's table
ORIN_MAXN = Cpu("Orin, MAXN", 12, 2.2, 60.0, 15.2)


class Work(NamedTuple):
    """What a CPU computes for one search, and reads for it."""

    name: str
    operations: int
    bytes: int
    bits: int = 16  # of a stored value


def published(workload: Workload) -> Work:
    """The products that the arrays form, of every scale: what the paper's ratios are over."""
    each = sum(vectors * columns for vectors, columns in map(workload.product, workload.rows_of_scales))
    rows = sum(workload.rows_of_scales)
    name = f"{each:,} products of rows per OVT, {rows} stored rows of {workload.dim} values"
    return Work(name, 2 * workload.ovts * workload.dim * each, workload.bytes, workload.code_bits)


def equivalent(workload: Workload, *, bits: int = 16) -> Work:
    """The least that ranks as an ideal read of the arrays does, each stored value kept in `bits` bits.

    Eq. 5 is linear in what is stored. Products of aligned rows fold into one vector as long as the OVT
    (`similarity.fold`). Products of all pairs of rows, or of the mean query row with all, are one product of means.
    """
    rows = workload.tokens if workload.product is aligned else means(workload)
    kind = "the folded OVT" if workload.product is aligned else "the mean row" if rows == 1 else f"{rows} mean rows"
    values = workload.ovts * rows * workload.dim
    name = f"one product per OVT with {kind}, {rows * workload.dim:,} values of {bits} bits"
    return Work(name, 2 * values, values * bits // 8, bits)


def means(workload: Workload) -> int:
    """Mean rows that products of means need: the mean of all, and that of each last window that is not full."""
    short = {workload.tokens % scale for scale in workload.scales if workload.tokens > scale} - {0}
    return min(1 + len(short), len(workload.scales))


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


def search(work: Work, cpu: Cpu = ORIN_30W, *, source: Callable[[int, Cpu], float] = dram) -> Components:
    """Nanoseconds of a search, and its energy at the board's power.

    Reading and computing overlap; what is listed adds up to the longer of the two.
    """
    rate = cpu.int8_per_cycle if work.bits <= 8 else cpu.flop_per_cycle
    compute = work.operations / (cpu.cores * cpu.ghz * rate)
    waiting = max(source(work.bytes, cpu) - compute, 0)
    return {part: Cost(ns, 1e3 * cpu.watt * ns) for part, ns in (("compute", compute), ("waiting for data", waiting))}
