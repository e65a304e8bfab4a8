"""Refinement keeps what costs least in bits and error, and counts both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nncodec import effort, encoding, tiling
from nncodec.config import Y_STRIDE
from nncodec.encoding import Chooser
from nncodec.objective import SquaredError
from nncodec.refine import Chosen, Frame, refine
from nncodec.tiling import Rect
from nncodec.weights import Model

QUALITY = 50


@pytest.fixture
def frame(tiny: Model, photo: np.ndarray) -> Frame:
    whole = Rect(0, 0, *(tiling.padded(side) for side in photo.shape[:2]))
    window, x, y = encoding.analyzed(tiny, photo, 0, whole, whole, QUALITY)
    seen = tiling.inside(Rect(0, 0, *photo.shape[:2]), window)
    return Frame(x, y, tiling.inside(whole, window, Y_STRIDE), seen)


def test_steps_that_cost_more_are_taken_back(tiny: Model, frame: Frame) -> None:
    with torch.no_grad():
        objective = SquaredError(tiny.net, frame.seen)
    y_hat, asked = frame.y.round(), []

    def target(bits: list[float]) -> Tensor | None:
        """After as many steps as what is chosen for them, at the same error, has `bits`; 100 without refinement."""
        asked.clear()

        def choose(target: Tensor) -> Chosen:
            asked.append(target)
            return y_hat, bits[len(asked) - 1]

        q = torch.tensor([float(QUALITY)])
        first = (y_hat, 100.0)
        return refine(tiny.net, frame, objective, first, q, False, len(bits), choose, tiny.config.lmbda(QUALITY))

    assert target([101.0]) is None
    assert target([99.0]) is asked[0]
    assert not torch.equal(asked[0], frame.y)
    assert target([99.0, 99.5]) is asked[0]
    assert target([99.0, 98.5, 99.0]) is asked[1]
    assert target([101.0, 99.0]) is asked[1]
    torch.testing.assert_close(asked[1], (frame.y + asked[0]) / 2)


def test_bits_are_those_of_the_stream(tiny: Model, frame: Frame) -> None:
    chooser = Chooser(tiny, QUALITY, effort.prices(tiny.entropy.tables))
    z_hat = chooser.hyper(frame.y)
    y_hat, bits = chooser.tried(frame.y, z_hat, False)
    (stream, *_), (without, *_) = (chooser.encode(y, z_hat)[0] for y in (frame.y, torch.zeros_like(frame.y)))
    nothing = chooser.tried(torch.zeros_like(frame.y), z_hat, False)[1]
    assert 8 * (len(stream) - len(without)) == pytest.approx(bits - nothing, abs=64)
    assert torch.equal(y_hat, chooser.reconstruct(frame.y, z_hat))
