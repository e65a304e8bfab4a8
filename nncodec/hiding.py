"""Signs that cost nothing: hidden in the parities of magnitudes, with a syndrome-trellis code.

Of what a pass codes, the residuals of the highest scale indices are carriers: the signs of those that are not zero are
not coded. A decoder computes them from the parities of the pass's magnitudes; an encoder moves the magnitudes that
matter least by one until the parities say the right signs. Signs in parities are H.265's (Clare et al., JCTVC-G271);
which magnitudes to move is the least-cost embedding of Filler, Judas and Fridrich (IEEE TIFS 2011).

Integers only, and the same for encoder and decoder; what a move costs is `effort`'s to say. "Cover" is what the
parities are taken of: everything of a scale index that PAYLOAD gives some bits, in the reverse of coding order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEIGHT = 9
"""A magnitude counts in the bits of its own block and of up to HEIGHT - 1 blocks behind it."""
CHAIN_BITS = 128
"""A chain hides at least so many bits, where a pass has them, and less than twice as many."""
LEAST_BITS = 32
"""With fewer bits in all a pass hides none: the end of a chain costs more than it saves."""
UNIT = 1024
_BY_SCALE = [0] * 5 + [9, 22, 41, 72, 106, 141, 174, 196, 214, 220, 226, 229, 231, 233, 235, 238, 240] + [242] * 42
PAYLOAD = np.array(2 * _BY_SCALE, np.int64)
"""Bits that one magnitude of each row of tables (`freqs`) can hide for less than they are worth, in 1 / UNIT."""

COST_UNIT = 16
"""Costs are counted in 1 / COST_UNIT bits."""
COST_MAX = 1000
_NEVER = 20000
_TOGETHER = 64
"""So many chains are searched at once, which caches hold."""

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """Which elements of a pass are its cover, and which of them carriers: what scale indices alone say.

    weights
        int64 [elements], what each element of the cover can hide, in 1 / UNIT bits.
    carriers
        The first so many elements of the cover are carriers.
    """

    weights: NDArray[np.int64]
    carriers: int

    @property
    def elements(self) -> int:
        return len(self.weights)

    def signs(self, magnitudes: NDArray[np.int32]) -> Bits:
        """Whether each carrier is negative, from the magnitudes of the cover [elements]; bool [carriers], 0 is not."""
        negative = magnitudes[: self.carriers] > 0
        if negative.any():
            negative[negative] = self.code(magnitudes).signs(magnitudes)
        return negative

    def embed(self, magnitudes: NDArray[np.int32], cost: NDArray[np.float32], negative: Bits) -> Bits:
        """Elements whose parity to change, at the least cost, for `signs` to say `negative` of carriers other than 0.

        cost [elements]: bits that changing each costs, at least 0; negative [carriers]. No carrier may become 0, or
        0 something else. Returns bool [elements].
        """
        nonzero = magnitudes[: self.carriers] > 0
        if not nonzero.any():
            return np.zeros(self.elements, np.bool_)
        return self.code(magnitudes).embed(magnitudes, cost, negative[nonzero])

    def code(self, magnitudes: NDArray[np.int32]) -> Code:
        """The code over a cover of which some carriers are not 0."""
        hidden = int(np.count_nonzero(magnitudes[: self.carriers]))
        chains = max(1, hidden // CHAIN_BITS)
        bits = -(-hidden // chains)
        before = np.cumsum(self.weights) - self.weights
        block = before[::chains] * bits // int(self.weights.sum())
        steps = np.arange(1, len(block) + 1, dtype=np.uint64)
        random = (steps * np.uint64(2654435761) & np.uint64(0xFFFFFFFF)) >> np.uint64(16)
        columns = (random & np.uint64((1 << HEIGHT) - 1) | np.uint64(1 | 1 << (HEIGHT - 1))).astype(np.uint16)
        return Code(self.elements, hidden, chains, np.searchsorted(block, np.arange(bits)), columns)


@dataclass(frozen=True)
class Code:
    """Which bit each element of a cover counts in. T steps of G chains: element t G + g is step t of chain g.

    elements
        Elements of the cover; the last step may be cut short.
    hidden
        Signs that are hidden: those of carriers that are not 0, in their order. Sign b G + g, 1 for negative, is bit b
        of chain g; the last bits of some chains may be free.
    starts
        int64 [B], the first step of each block: there is one for each bit of a chain.
    columns
        uint16 [T]: with its lowest bit a step counts in the bit of its own block, with the next in that of the next.
    """

    elements: int
    hidden: int
    chains: int
    starts: NDArray[np.int64]
    columns: NDArray[np.uint16]

    @property
    def bits(self) -> int:
        """Of a chain, B."""
        return len(self.starts)

    def signs(self, magnitudes: NDArray[np.int32]) -> Bits:
        """The hidden signs [hidden], from the magnitudes of the cover [elements]."""
        return self._said(magnitudes).reshape(-1)[: self.hidden]

    def _said(self, magnitudes: NDArray[np.int32]) -> Bits:
        """Bits of all chains [B, G]."""
        words = self._steps((magnitudes & 1).astype(np.uint16)) * self.columns[:, None]
        words = np.bitwise_xor.reduceat(words, self.starts, axis=0)
        bits = words & 1
        for later in range(1, min(HEIGHT, self.bits)):
            bits[later:] ^= (words[:-later] >> later) & 1
        return bits.astype(bool)

    def embed(self, magnitudes: NDArray[np.int32], cost: NDArray[np.float32], negative: Bits) -> Bits:
        """Elements whose parity to change, at the least cost [elements], for `signs` to say `negative` [hidden]."""
        wrong = self._said(magnitudes)
        wrong.reshape(-1)[: self.hidden] ^= negative
        bound = np.arange(wrong.size).reshape(wrong.shape) < self.hidden
        price = self._steps(np.rint(np.minimum(cost * COST_UNIT, COST_MAX)).astype(np.int16), 4 * COST_MAX)
        groups = (slice(first, first + _TOGETHER) for first in range(0, self.chains, _TOGETHER))
        flips = [self._trellis(*(of[:, chains] for of in (price, wrong, bound))) for chains in groups]
        return np.concatenate(flips, 1).reshape(-1)[: self.elements]

    def _steps(self, values: NDArray[Any], fill: int = 0) -> NDArray[Any]:
        """[elements] -> [T, G]."""
        steps = np.full(len(self.columns) * self.chains, fill, values.dtype)
        steps[: self.elements] = values
        return steps.reshape(-1, self.chains)

    def _trellis(self, price: NDArray[Any], wrong: Bits, bound: Bits) -> Bits:
        """Viterbi over what is still wrong in a block's bit and the HEIGHT - 1 after it, some chains at once."""
        count, half, chains = 1 << HEIGHT, 1 << (HEIGHT - 1), price.shape[1]
        partner, chain = np.arange(count) ^ self.columns[:, None], np.arange(chains)
        cost = np.full((count, chains), _NEVER, np.int16)
        cost[0] = 0
        changed = np.empty_like(cost)
        change = np.empty((len(price), count, chains), np.bool_)
        low = np.empty((self.bits, half, chains), np.bool_)
        ends = [*self.starts[1:], len(price)]
        for b, (start, end) in enumerate(zip(self.starts, ends, strict=True)):
            for t in range(start, end):
                cost.take(partner[t], 0, out=changed, mode="clip")  # the other modes copy once more
                changed += price[t]
                np.less(changed, cost, out=change[t])
                np.minimum(cost, changed, out=cost)
            even = cost[0::2] + np.where(bound[b] & wrong[b], np.int16(_NEVER // 2), np.int16(0))
            odd = cost[1::2] + np.where(bound[b] & ~wrong[b], np.int16(_NEVER // 2), np.int16(0))
            np.less(odd, even, out=low[b])
            np.minimum(even, odd, out=cost[:half])
            cost[:half] -= cost[:half].min(0)
            np.minimum(cost[:half], _NEVER // 4, out=cost[:half])
            cost[half:] = _NEVER // 4
        flips = np.empty(price.shape, np.bool_)
        state = cost.argmin(0)
        for b in range(self.bits - 1, -1, -1):
            state = 2 * state + low[b][state, chain]
            for t in range(ends[b] - 1, self.starts[b] - 1, -1):
                flips[t] = change[t][state, chain]
                state ^= flips[t] * self.columns[t]
        return flips


def coding_order(index: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Positions of flat scale indices in coding order: by index, then by position. Those of index 0 are not coded."""
    return np.argsort(index, kind="stable")


def carriers(index: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Positions of the carriers among flat scale indices of a pass."""
    made = plan(np.bincount(index, minlength=len(PAYLOAD)))
    return coding_order(index)[::-1][: made.carriers if made else 0]


def plan(counts: NDArray[np.int64]) -> Plan | None:
    """The plan of a pass with counts int64 [freqs.ROWS] of rows; None where it hides nothing."""
    counts = np.where(PAYLOAD > 0, counts, 0)
    payload = int(counts @ PAYLOAD) // UNIT
    return Plan(np.repeat(PAYLOAD[::-1], counts[::-1]), payload) if payload >= LEAST_BITS else None
