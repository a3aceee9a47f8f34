"""Unit vectors of one width, searched by brute force: cosines of all rows in one product.

10,000 rows of 384 floats are 15 MB, which a core reads faster than any index is worth.

Axes: N entries, D width.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

_FIRST_ROWS = 64


class Matrix:
    """Rows (N, D) that grow at the end, each with its entry's number and environment."""

    def __init__(self, width: int) -> None:
        self._rows_ND = np.zeros((_FIRST_ROWS, width), np.float32)
        self._ids: list[int] = []
        self._places: list[int] = []
        self._place_numbers: dict[str, int] = {}
        self._ids_N = self._places_N = np.zeros(0, np.int64)
        self._used_N = np.zeros(0, np.bool_)

    def append(self, entry_id: int, environment: str, vector_D: NDArray[np.float16]) -> None:
        """Add a row; it is found after the next `use`."""
        at = len(self._ids)
        if at == len(self._rows_ND):
            grown_ND = np.zeros((2 * at, self._rows_ND.shape[1]), np.float32)
            grown_ND[:at] = self._rows_ND
            self._rows_ND = grown_ND
        self._rows_ND[at] = unit(vector_D.astype(np.float32))
        self._ids.append(entry_id)
        self._places.append(self._place_numbers.setdefault(environment, len(self._place_numbers)))

    def use(self, ids: Collection[int]) -> None:
        """Let only the rows of these entries be found."""
        self._ids_N = np.array(self._ids, np.int64)
        self._places_N = np.array(self._places, np.int64)
        self._used_N = np.fromiter((i in ids for i in self._ids), np.bool_, len(self._ids))

    def nearest(
        self, direction_D: NDArray[np.float32], environment: str, at_least: float, k: int
    ) -> list[tuple[int, float]]:
        """Return up to `k` entries of this environment with their cosines, the closest first; of
        equals the newest."""
        place = self._place_numbers.get(environment)
        if place is None:
            return []
        cosines_N = self._rows_ND[: len(self._ids_N)] @ direction_D
        near_N = np.flatnonzero(self._used_N & (self._places_N == place) & (cosines_N >= at_least))
        if len(near_N) > k:  # sorting all of many is slower than the product
            least = np.partition(cosines_N[near_N], -k)[-k]
            near_N = near_N[cosines_N[near_N] >= least]
        order = np.lexsort((-self._ids_N[near_N], -cosines_N[near_N]))[:k]
        return [(int(self._ids_N[i]), float(cosines_N[i])) for i in near_N[order]]


def unit(vector_D: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector of length 1 in its direction."""
    return np.asarray(vector_D / max(float(np.linalg.norm(vector_D)), 1e-9), np.float32)
