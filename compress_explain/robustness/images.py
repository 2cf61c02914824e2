"""Images as cameras and the world spoil them: noise, blur, weak contrast, something in the way.

They are changed as the model reads them, after its processor. What an image becomes depends on the seed, its row and
the name of the way alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

from compress_explain.robustness.texts import generator_of

Pixels = Float[np.ndarray, "channels height width"]
Change = Callable[[Pixels, float, float, np.random.Generator], Pixels]


@dataclass(frozen=True, kw_only=True)
class ImageChange:
    """One way to change an image; ``usual`` is its strength, in the ``unit`` that it documents, and ``most`` where more means nothing."""

    name: str
    usual: float
    unit: str
    change: Change = field(repr=False)
    most: float = 1.0
    right: bool = True

    def of(
        self, images: Sequence[Pixels], rows: Sequence[int], strength: float, deviation: float, seed: int
    ) -> list[Pixels]:
        """``images``, which stand in ``rows`` of their split, changed; ``deviation`` is that of all pixels of the split."""
        return [
            self.change(image, strength, deviation, generator_of(self.name, int(row), seed)).astype(image.dtype)
            for image, row in zip(images, rows, strict=True)
        ]


def noise(image: Pixels, strength: float, deviation: float, generator: np.random.Generator) -> Pixels:
    """Gaussian noise of ``strength`` standard deviations of the split's pixels."""
    return image + strength * deviation * generator.standard_normal(image.shape)


def blur(image: Pixels, strength: float, deviation: float, generator: np.random.Generator) -> Pixels:
    """Blurred by a Gaussian whose standard deviation is ``strength`` pixels."""
    return gaussian_filter(image, (0, strength, strength)) if strength > 0 else image


def contrast(image: Pixels, strength: float, deviation: float, generator: np.random.Generator) -> Pixels:
    """Pixels nearer to their image's mean, by a share ``strength`` of the way."""
    return image + min(strength, 1.0) * (image.mean() - image)


def occlusion(image: Pixels, strength: float, deviation: float, generator: np.random.Generator) -> Pixels:
    """A patch of a share ``strength`` of the image, somewhere, in the mean colour of the image."""
    side = min(strength, 1.0) ** 0.5
    height, width = (round(side * size) for size in image.shape[1:])
    top, left = (
        int(generator.integers(size - part + 1)) for size, part in zip(image.shape[1:], (height, width), strict=True)
    )
    covered = image.copy()
    covered[:, top : top + height, left : left + width] = image.mean((1, 2), keepdims=True)
    return covered


_CHANGES = (
    ImageChange(name="noise", usual=0.5, unit="standard deviations of pixels", change=noise, most=100.0),
    ImageChange(name="blur", usual=1.0, unit="pixels", change=blur, most=100.0),
    ImageChange(name="contrast", usual=0.5, unit="share of the contrast", change=contrast),
    ImageChange(name="occlusion", usual=0.1, unit="share of the image", change=occlusion),
)
IMAGE_CHANGES: Mapping[str, ImageChange] = MappingProxyType({each.name: each for each in _CHANGES})
USUAL_IMAGE_CHANGES = tuple(IMAGE_CHANGES)
