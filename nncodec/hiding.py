"""Signs that cost nothing: hidden in the parities of magnitudes, with a polar code.

Of what a pass codes, the residuals of the highest scale indices are carriers: the signs of those that are not zero are
not coded. A decoder computes them from the parities of the pass's magnitudes; an encoder moves the magnitudes that
matter least by one until the parities say the right signs. Signs in parities are H.265's (Clare et al., JCTVC-G271);
that the magnitudes to move are found by a code is steganography's (Filler, Judas and Fridrich, IEEE TIFS 2011).

Integers only, and the same for encoder and decoder; what a move costs is `effort`'s to say. "Cover" is what the
parities are taken of: everything of a scale index that PAYLOAD gives some bits, in the reverse of coding order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncodec import polar

LEAST_BITS = 4
"""With fewer bits in all a pass hides none."""
UNIT = 1024
_BY_SCALE = [0] * 7 + [30, 62, 104, 150, 205, 252, 280, 300] + [312] * 49
PAYLOAD = np.array(2 * _BY_SCALE, np.int64)
"""Bits that one magnitude of each row of tables (`freqs`) can hide for less than they are worth, in 1 / UNIT."""

COST_MAX = 60.0
"""Bits; what may not change costs as much."""
PATHS = 16
"""Paths that are followed in looking for the least cost, unless told otherwise."""

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """So many elements of a pass are its cover, the first of them carriers: what scale indices alone say."""

    elements: int
    carriers: int

    def signs(self, magnitudes: NDArray[np.int32]) -> Bits:
        """Whether each carrier is negative, from the magnitudes of the cover [elements]; bool [carriers], 0 is not."""
        negative = magnitudes[: self.carriers] > 0
        if negative.any():
            negative[negative] = self.code(magnitudes).signs(magnitudes)
        return negative

    def embed(
        self, magnitudes: NDArray[np.int32], cost: NDArray[np.float32], negative: Bits, paths: int = PATHS
    ) -> Bits:
        """Elements whose parity to change, at little cost, for `signs` to say `negative` of carriers other than 0.

        cost [elements]: bits that changing each costs, at least 0; negative [carriers]. No carrier may become 0, or
        0 something else. Returns bool [elements].
        """
        nonzero = magnitudes[: self.carriers] > 0
        if not nonzero.any():
            return np.zeros(self.elements, np.bool_)
        return self.code(magnitudes).embed(magnitudes, cost, negative[nonzero], paths)

    def code(self, magnitudes: NDArray[np.int32]) -> Code:
        """The code over a cover of which some carriers are not 0."""
        hidden = int(np.count_nonzero(magnitudes[: self.carriers]))
        words = -(-self.elements // polar.LENGTH_MAX)
        rounds = -(-self.elements // words)
        length = 1 << (rounds - 1).bit_length()
        scattered = np.argsort(np.arange(length, dtype=np.uint64) * np.uint64(2654435761) & np.uint64(0xFFFFFFFF))
        return Code(
            self.elements, hidden, words, length, scattered[:rounds], polar.order(length)[: -(-hidden // words)]
        )


@dataclass(frozen=True)
class Code:
    """A code over a cover: its elements are dealt out to `words`, each with `sites` in its transform that say signs.

    elements, hidden
        Elements of the cover; signs that are hidden: those of carriers that are not 0, in their order.
    places
        int64 [T]: where in its word the element stands that it is dealt in round t: element t words + g in word g.
    sites
        int64 [F], positions of a transform: the n-th sign, 1 for negative, is what word n mod words has at
        sites[n / words]. The last one may say nothing in some words.
    """

    elements: int
    hidden: int
    words: int
    length: int
    places: NDArray[np.int64]
    sites: NDArray[np.int64]

    def signs(self, magnitudes: NDArray[np.int32]) -> Bits:
        """The hidden signs [hidden], from the magnitudes of the cover [elements]."""
        said = polar.transform(self._dealt((magnitudes & 1).astype(np.uint8)))
        return said[:, self.sites].T.reshape(-1)[: self.hidden] > 0

    def embed(self, magnitudes: NDArray[np.int32], cost: NDArray[np.float32], negative: Bits, paths: int) -> Bits:
        """Elements whose parity to change, at little cost [elements], for `signs` to say `negative` [hidden].

        `paths` as for `polar.nearest`.
        """
        parity = self._dealt((magnitudes & 1).astype(np.uint8))
        asked = np.zeros(self.words * len(self.sites), np.uint8)
        asked[: self.hidden] = negative
        loose = np.arange(asked.size - self.words, asked.size) >= self.hidden
        given = asked.reshape(-1, self.words).T
        dear = self._dealt(np.minimum(cost, COST_MAX).astype(np.float32), COST_MAX)
        changed: Bits = polar.nearest(parity, dear, self.sites, given, loose, paths) != parity
        return changed[:, self.places].T.reshape(-1)[: self.elements]

    def _dealt(self, values: NDArray[Any], fill: float = 0) -> NDArray[Any]:
        """[elements] -> [words, length]; `fill` is where no element stands."""
        rounds = np.full(len(self.places) * self.words, fill, values.dtype)
        rounds[: self.elements] = values
        out = np.full((self.words, self.length), fill, values.dtype)
        out[:, self.places] = rounds.reshape(-1, self.words).T
        return out


def coding_order(index: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Positions of flat scale indices in coding order: by index, then by position. Those of index 0 are not coded."""
    return np.argsort(index, kind="stable")


def carriers(index: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Positions of the carriers among flat scale indices of a pass."""
    made = plan(np.bincount(index, minlength=len(PAYLOAD)))
    return coding_order(index)[::-1][: made.carriers if made else 0]


def plan(counts: NDArray[np.int64]) -> Plan | None:
    """The plan of a pass with counts int64 [freqs.ROWS] of rows; None where it hides nothing."""
    payload = int(counts @ PAYLOAD) // UNIT
    return Plan(int(counts @ (PAYLOAD > 0)), payload) if payload >= LEAST_BITS else None
