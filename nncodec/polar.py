"""Polar codes: of all words some bits of whose transform are given, one that is close to the bits one would like.

The transform is Arikan's (IEEE TIT 2009), the search successive cancellation with a list of paths (Tal and Vardy, IEEE
TIT 2015), here for lossy coding: what is given says something, the rest follows from what costs least (Korada and
Urbanke, IEEE TIT 2010; for steganography Li et al., IEEE TIFS 2020). Many words of one length go together.

Knows bits and costs; what they stand for is `hiding`'s. `transform` and `order` are integers only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]
"""Zeros and ones."""
Costs = NDArray[np.float32]

LENGTH_MAX = 4096
"""Of a word; 12 bits of position."""
_WHOLE = 4
"""Parts of a word of which nothing is given are decided as one from this length on, without more paths."""
_NEVER = np.float32(1e9)


def transform(bits: Bits) -> Bits:
    """The transform of words [..., length], a power of two; its own inverse."""
    length = bits.shape[-1]
    side = 1 << length.bit_length() // 2
    word = bits
    # Along the columns of a rectangle, then along its rows as columns: neighbors one by one take six times as long.
    for _ in range(2):
        word, half = word.copy(), side
        while half < length:
            _merge(word, half)
            half *= 2
        word = word.reshape(*bits.shape[:-1], -1, side).swapaxes(-1, -2).reshape(bits.shape)
        side = length // side
    return word


def _stages(bits: Bits) -> list[Bits]:
    """Of every part of 1, 2, 4 ... bits the transform, each [..., length]."""
    stages = [bits]
    half = 1
    while half < bits.shape[-1]:
        stages.append(stages[-1].copy())
        _merge(stages[-1], half)
        half *= 2
    return stages


def _merge(words: Bits, half: int) -> None:
    """Of contiguous words [..., length], in place: the first half of every 2 `half` bits takes the second in."""
    parts = words.reshape(*words.shape[:-1], -1, 2, half)
    parts[..., 0, :] ^= parts[..., 1, :]


def order(length: int) -> NDArray[np.int64]:
    """Positions 0..length - 1 of a transform, those first that say least of the word's bits.

    By the sum of 1.2^k over the bits k of a position that are set (He et al., GLOBECOM 2017, with 1.189), in integers.
    """
    position, weight = np.arange(length), np.zeros(length, np.int64)
    for k in range(length.bit_length() - 1):
        weight += (position >> k & 1) * 6**k * 5 ** (12 - k)
    return np.argsort(weight, kind="stable")


def nearest(
    wanted: Bits, cost: Costs, sites: NDArray[np.int64], given: Bits, loose: NDArray[np.bool_], paths: int
) -> Bits:
    """Words [G, length] whose transforms have the bits `given`, and which cost little.

    wanted, cost
        [G, length]: the bits one would like, and what each costs to be another: natural logarithms of odds.
    sites, given
        Positions [F] of the transforms, and what is there, [G, F].
    loose
        Words [G] of which the last site is not given after all.
    paths
        So many are followed for each word; twice as many take 1.5 times as long.
    """
    return _Search(cost * _signs(wanted), sites, given, loose, paths).found()


class _Search:
    """Goes through the transform from its first position on. Rows of arrays are paths, those of a word together.

    A log ratio is positive where a bit had better be 0. `spent` f32 [G, paths of a word] is what each path has cost.
    """

    def __init__(
        self, ratio: Costs, sites: NDArray[np.int64], given: Bits, loose: NDArray[np.bool_], paths: int
    ) -> None:
        self._words, length = ratio.shape
        self._ratio, self._paths = ratio, paths
        asked = np.zeros((self._words, length), np.uint8)
        asked[:, sites] = given
        self._asked = _stages(asked)
        # What each bit costs at the one site that is loose in some words, where it has to be the other.
        wrong = given[:, -1:] != np.arange(2)
        self._fine = np.where(wrong & ~loose[:, None], _NEVER, np.float32(0))
        self._loose = int(sites[-1]) if loose.any() else -1
        fixed = np.zeros(length + 1, np.int64)
        fixed[sites[: -1 if loose.any() else None] + 1] = 1
        free = 1 - fixed
        free[[0, self._loose + 1]] = 0
        self._fixed, self._free = fixed.cumsum().tolist(), free.cumsum().tolist()
        self.spent = np.zeros((self._words, 1), np.float32)

    def found(self) -> Bits:
        word, _ = self._part(self._ratio, 0)
        best: Bits = word[self.spent.argmin(1) + self.spent.shape[1] * np.arange(self._words)]
        return best

    def _part(self, ratio: Costs, first: int) -> tuple[Bits, NDArray[np.int64] | None]:
        """Bits of the part of the words whose transform begins at `first`, from their log ratios [rows, length].

        Returns them, [new rows, length], and which row each comes from: None for each from its own.
        """
        length = ratio.shape[1]
        if self._fixed[first + length] - self._fixed[first] == length:
            bits = self._asked[length.bit_length() - 1][:, first : first + length]
            bits = np.repeat(bits, len(ratio) // self._words, 0)
            self._spend(-ratio * _signs(bits))
            return bits, None
        if length >= _WHOLE and self._free[first + length] - self._free[first] == length:
            self._spend(-np.abs(ratio))
            return (ratio < 0).view(np.uint8), None
        if length == 1:
            return self._branched(ratio.reshape(self._words, -1), first)
        half = length // 2
        a, b = ratio[:, :half], ratio[:, half:]
        upper, rows = self._part(_either(a, b), first)
        if rows is not None:
            a, b = a[rows], b[rows]
        lower, later = self._part(b + a * _signs(upper), first + half)
        if later is not None:
            upper = upper[later]
            rows = later if rows is None else rows[later]
        return np.concatenate([upper ^ lower, lower], 1), rows

    def _branched(self, ratio: Costs, position: int) -> tuple[Bits, NDArray[np.int64]]:
        """Both bits on every path [G, paths], of which the cheapest stay."""
        count = ratio.shape[1]
        spent = np.concatenate([self.spent + _softplus(-ratio), self.spent + _softplus(ratio)], 1)
        if position == self._loose:
            spent += np.repeat(self._fine, count, 1)
        if 2 * count <= self._paths:
            kept = np.broadcast_to(np.arange(2 * count), spent.shape)
            self.spent = spent
        else:
            kept = np.argpartition(spent, self._paths - 1, axis=1)[:, : self._paths]
            self.spent = np.take_along_axis(spent, kept, 1)
        bits = kept >= count
        rows = kept - count * bits + count * np.arange(self._words)[:, None]
        return bits.view(np.uint8).reshape(-1, 1), rows.reshape(-1)

    def _spend(self, against: Costs) -> None:
        """Log ratios [rows, length] against the bits that were decided."""
        self.spent = self.spent + _softplus(against).sum(1).reshape(self.spent.shape)


def _signs(bits: Bits) -> Costs:
    """1 for 0, -1 for 1."""
    return np.float32(1) - 2 * bits


def _softplus(x: Costs) -> Costs:
    """log(1 + e^x)."""
    y: Costs = np.maximum(x, 0) + np.log(1 + np.exp(-np.abs(x)))  # numpy's log1p takes 16 times as long as its log
    return y


def _either(a: Costs, b: Costs) -> Costs:
    """Log ratio of the exclusive or of two bits from their own."""
    p, q = np.abs(a), np.abs(b)
    size = np.minimum(p, q) + np.log((1 + np.exp(-(p + q))) / (1 + np.exp(-np.abs(p - q))))
    ratio: Costs = np.copysign(size, a * b)
    return ratio
