"""Thermal infrared photographs where there is no thermal camera: a simulation from visible ones, and an encoder for them.

What `simulate_thermal` gives is **not** thermal data. A visible photo does not tell how warm things are, so the temperatures
are made up from luminance and colour. It has what makes such pictures a modality of their own: one channel, few pixels, a
soft image, the noise of the sensor, and greys that no longer tell which of two things was the lighter. Use it to try how a
new modality joins a space; measure on pictures of a real camera before you rely on any figure.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm.embeddings.base import Encoder, Payload, fingerprint
from llama_index_mm.embeddings.cache import payload_digest
from llama_index_mm.embeddings.efficientnet import FEATURES, EfficientNetLite
from llama_index_mm.embeddings.events import Events
from llama_index_mm.errors import EncodeError, MediaError, SpaceError

__all__ = ["ThermalCamera", "ThermalEncoder", "ThermalOrPhotoEncoder", "made_up_temperatures", "simulate_thermal"]

_AIR = 291.0  # kelvin, about which all temperatures are made up
_OVER = 2  # samples of the scene for each pixel of the sensor, in both directions
_AROUND = 1 / 12  # share of the longer side over which the light of the neighbourhood is averaged
_CUT = (1.0, 99.0)  # percentiles that become black and white
_VERSION = 1


@dataclass(frozen=True)
class ThermalCamera:
    """A made-up camera for `simulate_thermal`.

    The defaults are near those of small uncooled microbolometers for 8 to 14 micrometres: the data sheet of the FLIR Lepton 3.5
    tells of 160 x 120 pixels and a noise-equivalent temperature difference (NETD) below 50 mK. Fixed-pattern noise, by which
    columns and single pixels are off by the same amount in every picture, is what the shutters of such cameras are for.

    Attributes:
        side: pixels of the longer side; the shorter one follows the picture's.
        blur: deviation of the optics' Gaussian point spread, in pixels of the sensor.
        netd: deviation of the noise of each pixel of each picture, in kelvin.
        pattern: deviation of the offsets of columns, and of pixels, in kelvin; the same in all pictures of a camera.
        least_span: kelvin that are spread over the whole range at least, so that automatic gain does not show noise alone.
        bits: of a pixel, 8 or 16.
        seed: which camera it is: its fixed pattern, and its noise.

    Raises:
        MediaError: a value is out of its range.
    """

    side: int = 160
    blur: float = 0.7
    netd: float = 0.05
    pattern: float = 0.1
    least_span: float = 2.0
    bits: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (8, 16):
            raise MediaError(f"Expected 8 or 16 bits, got {self.bits!r}.")
        for name, least in (("side", 8), ("blur", 0), ("netd", 0), ("pattern", 0), ("seed", 0)):
            if not getattr(self, name) >= least:
                raise MediaError(f"Expected {name} of at least {least}, got {getattr(self, name)!r}.")
        if not self.least_span > 0:
            raise MediaError(f"Expected a least_span above 0 kelvin, got {self.least_span!r}.")


def simulate_thermal(picture: Image.Image, camera: ThermalCamera | None = None) -> NDArray[Any]:
    """Simulate a long-wave infrared photograph of what a visible photo shows; it is no measurement of any temperature.

    The scene is sampled twice as finely as the sensor sees it and gets temperatures by `made_up_temperatures`. Then the optics
    blur it, each pixel averages over its area, fixed-pattern and random noise are added in kelvin, and automatic gain spreads
    the 1st to the 99th percentile over the range. So a grey value means something within its picture alone, as in the 8-bit
    pictures of real cameras. Left out are emissivity, reflections, the atmosphere and the parallax between two cameras.

    Args:
        picture: a visible photo, of any size; converted to RGB.
        camera: what takes it; the default one if not given.

    Returns:
        ``(height, width)`` uint8 or, with 16 bits, uint16: warm is light. The same photo and camera give the same pixels.

    Example:
        >>> Image.fromarray(simulate_thermal(load_image("street.jpg"))).save("street.thermal.png")
    """
    camera = camera or ThermalCamera()
    picture = picture.convert("RGB")
    width, height = (max(1, round(side * camera.side / max(picture.size))) for side in picture.size)
    scene = np.asarray(picture.resize((width * _OVER, height * _OVER), Image.Resampling.BOX), np.float64) / 255
    kelvin = _blurred(made_up_temperatures(scene), camera.blur * _OVER)
    kelvin = kelvin.reshape(height, _OVER, width, _OVER).mean((1, 3))
    fixed = np.random.default_rng([camera.seed, 0])
    kelvin += camera.pattern * fixed.normal(size=width)
    kelvin += camera.pattern * fixed.normal(size=(height, width))
    moment = np.random.default_rng([camera.seed, 1, *payload_digest(picture)])  # no two pictures have the same noise
    kelvin += camera.netd * moment.normal(size=(height, width))
    low, high = np.percentile(kelvin, _CUT)
    share = (kelvin - (low + high) / 2) / max(high - low, camera.least_span) + 0.5
    most = (1 << camera.bits) - 1
    pixels: NDArray[Any] = np.rint(np.clip(share, 0, 1) * most).astype(np.uint8 if camera.bits == 8 else np.uint16)
    return pixels


def made_up_temperatures(scene: NDArray[np.floating]) -> NDArray[np.float64]:
    """Make up a temperature for every point of a scene from its luminance, its hue and the light around it.

    With Y the luminance and M its mean over the neighbourhood, u red less green and v blue less the mean of both, all of sRGB
    in [0, 1]:

        T = 291 K + 7 sin(2 pi (0.9 Y + 0.5 M)) + 8 exp(-((u - 0.18) / 0.1)^2) - 9 max(v, 0) Y - 6 max(-u, 0)

    The wave makes it smooth but not monotonic: lighter is warmer here and colder there, and where the turning points lie
    changes over the picture. The other terms are a caricature of what thermal pictures show: skin is warm, the sky is cold,
    and leaves are colder than what is around them. Things of the same colour get much the same temperature, which is what real
    scenes do not do.

    Args:
        scene: ``(height, width, 3)`` sRGB in [0, 1].

    Returns:
        ``(height, width)`` in kelvin, between 269 and 306.
    """
    wide = np.asarray(scene, np.float64)
    luminance = wide @ (0.299, 0.587, 0.114)
    around = _blurred(luminance, _AROUND * max(luminance.shape))
    u = wide[..., 0] - wide[..., 1]
    v = wide[..., 2] - wide[..., :2].mean(-1)
    wave = 7 * np.sin(2 * np.pi * (0.9 * luminance + 0.5 * around))
    skin = 8 * np.exp(-(((u - 0.18) / 0.1) ** 2))
    kelvin: NDArray[np.float64] = _AIR + wave + skin - 9 * np.maximum(v, 0) * luminance - 6 * np.maximum(-u, 0)
    return kelvin


class ThermalEncoder(Encoder):
    """Thermal pictures to vectors that compare with nothing but one another, until an adapter brings them into a space.

    They are the pooled features ``(1280,)`` of EfficientNet-Lite0, which was trained on visible photos: the one channel takes
    the place of all three, stretched so that its 1st and 99th percentile become black and white. Nothing is trained here.

    Pictures come decoded from files, so those of 16 bits have been brought to 8 (see `load_picture`). Palettes of false colour
    are refused: the order of temperatures can't be read off them.

    Raises:
        MissingExtraError: torch is not installed; it belongs to the extra ``offline``.
    """

    payload: Payload = "image"
    dimension = FEATURES
    fingerprint = fingerprint("thermal", _VERSION, EfficientNetLite.fingerprint, *_CUT)

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def release(self) -> None:
        """Free the memory of the network."""
        with self._lock:
            self.__dict__.pop("_network", None)

    @cached_property
    def _network(self) -> EfficientNetLite:
        return EfficientNetLite()

    def _encode(self, items: Sequence[Image.Image], *, query: bool) -> NDArray[Any]:
        pictures = [_stretched(item) for item in items]
        with self._lock:
            return self._network(pictures)[0]


class ThermalOrPhotoEncoder(Encoder):
    """Pictures of both kinds into one space: what has no colour goes to one encoder, what has to the other.

    To an index a thermal picture is a picture. With this encoder a space beside the old one holds both kinds, so that each
    finds the other. Black-and-white photos are taken for thermal ones: where there are such, keep the two kinds apart by
    metadata filters instead.

    Args:
        thermal: for pictures without colour; aligned to the space of the other.
        photo: for the others.

    Raises:
        SpaceError: the two differ in dimension or do not take pictures.

    Example:
        >>> both = ThermalOrPhotoEncoder(aligned, picture.encoders["image"])
        >>> preset = preset.with_space(beside(picture, "image", both, name="thermal"))
    """

    payload: Payload = "image"
    events: Events = "none"

    def __init__(self, thermal: Encoder, photo: Encoder) -> None:
        if (thermal.payload, photo.payload) != ("image", "image") or thermal.dimension != photo.dimension:
            raise SpaceError(
                f"Expected two encoders of pictures with the same dimension, got {thermal.payload} ({thermal.dimension}) and "
                f"{photo.payload} ({photo.dimension}). Align the thermal one to the space of the other."
            )
        self.thermal = thermal
        self.photo = photo
        self.dimension = photo.dimension
        self.batch_size = photo.batch_size
        self.fingerprint = fingerprint("thermal-or-photo", _VERSION, thermal.fingerprint, photo.fingerprint)

    def release(self) -> None:
        """Free the memory of both encoders' models."""
        self.thermal.release()
        self.photo.release()

    def _encode(self, items: Sequence[Image.Image], *, query: bool) -> NDArray[Any]:
        grey = np.array([_colourless(item) for item in items])
        vectors = np.empty((len(items), self.dimension), np.float32)
        for encoder, chosen in ((self.thermal, grey), (self.photo, ~grey)):
            if chosen.any():
                vectors[chosen] = encoder.encode([items[at] for at in np.flatnonzero(chosen).tolist()], query=query)
        return vectors


def _colourless(picture: Image.Image) -> bool:
    if picture.mode in ("1", "L", "I;16"):
        return True
    pixels = np.asarray(picture.convert("RGB"))
    return bool((pixels == pixels[..., :1]).all())


def _stretched(picture: Image.Image) -> Image.Image:
    if not _colourless(picture):
        raise EncodeError(
            f"Expected a thermal picture of one channel, got one with colours ({picture.mode}, {picture.size}). "
            "Save it in greys where warm is light, without a palette of false colours."
        )
    grey = np.asarray(picture if picture.mode == "I;16" else picture.convert("L"), np.float64)
    low, high = np.percentile(grey, _CUT)
    share = np.clip((grey - low) / max(high - low, 1.0), 0, 1)
    return Image.fromarray(np.rint(share * 255).astype(np.uint8)).convert("RGB")


def _blurred(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian blur of ``(height, width)``; what lies beyond the edges does not count."""
    if sigma <= 0:
        return values
    height, width = values.shape
    blurred: NDArray[np.float64] = _gaussian(height, sigma) @ values @ _gaussian(width, sigma).T
    return blurred


@lru_cache(maxsize=16)
def _gaussian(count: int, sigma: float) -> NDArray[np.float64]:
    """Weights of each of ``count`` points for each: ``(count, count)``, rows add up to 1."""
    at = np.arange(count)
    weights = np.exp(-0.5 * ((at[:, None] - at) / sigma) ** 2)
    shares: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return shares
