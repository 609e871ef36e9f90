"""What a search by content takes in arrays of FeFETs (`memory.cam`): all rows at once, by their match lines.

Figures are those of Eva-CAM (Liu et al., DATE 2022; MIT), commit 3289a85 with its own `2FeFET_TCAM` cell at 45 nm, run
for every size in the table: it models a cell that matches exactly, and so does not tell what sensing a distance, or
holding more than one bit, takes beyond that. Merging the winners of several arrays is a comparator of CAMASim (Li et
al., 2024, commit ddda05c).
"""

from math import ceil

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from nvcim_jax.hardware.circuit import Components, Cost

CELLS, ROWS = (32, 64, 128, 256), (16, 32, 64, 128, 256)  # of an array: along a match line, and match lines
NS = (  # by cells, then by rows
    (0.211, 0.226, 0.247, 0.282, 0.346), (0.352, 0.363, 0.380, 0.414, 0.479),
    (0.588, 0.586, 0.602, 0.635, 0.699), (1.201, 1.198, 1.200, 1.204, 1.209),
)  # fmt: skip
PJ = (
    (0.380, 0.749, 1.506, 2.996, 5.907), (0.612, 1.186, 2.339, 4.648, 9.195),
    (1.053, 2.037, 4.012, 7.965, 15.801), (1.942, 3.757, 7.394, 14.673, 29.159),
)  # fmt: skip
UM2 = (
    (531, 939, 1_729, 3_444, 6_557), (1_062, 1_816, 3_217, 6_400, 12_148),
    (2_038, 3_472, 6_147, 12_271, 23_284), (3_995, 6_798, 12_012, 24_016, 45_560),
)  # fmt: skip
COMPARED = Cost(0.244, 4.52e-4)  # two winners
_ARRAY = RegularGridInterpolator((CELLS, ROWS), np.stack([np.array(each) for each in (NS, PJ, UM2)], axis=-1))


def search_content(ovts: int, cells: int = 48) -> Components:
    """A search among `ovts` rows of `cells` multi-level cells, one for each dimension of a mean search key.

    Rows are shared out evenly over as few arrays as hold them, which work at the same time; their winners are then
    compared in pairs. ValueError for sizes that the source does not have.
    """
    if not CELLS[0] <= cells <= CELLS[-1]:
        raise ValueError(f"{cells} cells in a row: the source has {CELLS[0]} to {CELLS[-1]}")
    if ovts < 1:
        raise ValueError(f"{ovts} OVTs: at least one can be found")
    arrays = ceil(ovts / ROWS[-1])
    rows = max(ceil(ovts / arrays), ROWS[0])
    latency, energy, area = map(float, _ARRAY((cells, rows)))
    rounds = (arrays - 1).bit_length()
    return {
        "CAM arrays": Cost(latency, arrays * energy, arrays * area),
        "merging": Cost(rounds * COMPARED.latency_ns, (arrays - 1) * COMPARED.energy_pj),
    }
