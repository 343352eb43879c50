"""EfficientNet-Lite0 (Tan & Le 2019, the variant without squeeze-and-excitation), for pictures of 224 x 224 pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm._optional import require
from llama_index_mm.embeddings.base import fingerprint
from llama_index_mm.models import MODELS, ensure

__all__ = ["FEATURES", "EfficientNetLite", "prepare"]

FEATURES = 1280
_SIZE = 224  # pixels
_CROP = 0.875  # share of the shorter side that the centre crop keeps
_EPSILON = 1e-3  # of the batch normalisation
# repeats, kernel, stride of the first block, expansion, channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite:
    """Features and class probabilities of pictures, with the pinned ImageNet weights."""

    fingerprint = fingerprint("efficientnet-lite0", MODELS["efficientnet-lite0"].version, _SIZE, _CROP, "(x-127)/128")

    def __init__(self) -> None:
        torch: Any = require("torch", extra="offline")
        state = torch.load(ensure("efficientnet-lite0") / "weights.pth", map_location="cpu", weights_only=True)
        self._torch = torch
        self._state = {name: tensor.float() for name, tensor in state.items() if "num_batches" not in name}
        self._fold()

    @property
    def classifier(self) -> NDArray[np.float32]:
        """Rows of the last layer, ``(1000, 1280)`` float32."""
        rows: NDArray[np.float32] = self._state["_fc.weight"].numpy()
        return rows

    def __call__(self, pictures: Sequence[Image.Image]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the network.

        Args:
            pictures: RGB, any size.

        Returns:
            Pooled features ``(n, 1280)`` and class probabilities ``(n, 1000)``, float32.
        """
        return self.run(np.stack([prepare(picture) for picture in pictures]))

    def run(self, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The same on pictures that `prepare` made, ``(n, 224, 224, 3)`` float32."""
        torch = self._torch
        with torch.inference_mode():
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels last, which is twice as fast here
            features = self._forward(x).mean((2, 3))
            scores = features @ self._state["_fc.weight"].T + self._state["_fc.bias"]
            return features.numpy(), torch.softmax(scores, 1).numpy()

    def _fold(self) -> None:
        """Fold every batch normalisation into the convolution before it: the same result with half the passes."""
        self._layers: dict[str, tuple[Any, Any]] = {}
        pairs = [("_conv_stem", "_bn0"), ("_conv_head", "_bn1")]
        for at in range(sum(stage[0] for stage in _STAGES)):
            block = f"_blocks.{at}."
            steps = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
            pairs += [(block + conv, block + norm) for conv, norm in steps if f"{block}{conv}.weight" in self._state]
        for conv, norm in pairs:
            scale = self._state[norm + ".weight"] / (self._state[norm + ".running_var"] + _EPSILON).sqrt()
            weight = self._state[conv + ".weight"] * scale[:, None, None, None]
            self._layers[conv] = (
                weight.contiguous(memory_format=self._torch.channels_last),
                self._state[norm + ".bias"] - self._state[norm + ".running_mean"] * scale,
            )

    def _conv(self, x: Any, name: str, *, stride: int = 1, groups: int = 1, active: bool = True) -> Any:
        """Convolve with TensorFlow's "same" padding, which is uneven at stride 2; then ReLU6 if ``active``."""
        functional = self._torch.nn.functional
        weight, bias = self._layers[name]
        kernel = weight.shape[-1]
        size = x.shape[-1]
        pad = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        if pad % 2:
            x = functional.pad(x, (pad // 2, pad - pad // 2) * 2)
        x = functional.conv2d(x, weight, bias, stride=stride, padding=0 if pad % 2 else pad // 2, groups=groups)
        return x.clamp_(0, 6) if active else x

    def _forward(self, x: Any) -> Any:
        x = self._conv(x, "_conv_stem", stride=2)
        at = 0
        for repeats, _, first_stride, expansion, channels in _STAGES:
            for repeat in range(repeats):
                block = f"_blocks.{at}."
                stride = first_stride if repeat == 0 else 1
                y = self._conv(x, block + "_expand_conv") if expansion != 1 else x
                y = self._conv(y, block + "_depthwise_conv", stride=stride, groups=y.shape[1])
                y = self._conv(y, block + "_project_conv", active=False)
                x = x + y if stride == 1 and x.shape[1] == channels else y
                at += 1
        return self._conv(x, "_conv_head")


def prepare(picture: Image.Image) -> NDArray[np.float32]:
    """Centre crop to a square, scale to 224 pixels, values to about [-1, 1]: ``(224, 224, 3)`` float32."""
    side = min(picture.size) * _CROP
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    scaled = picture.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC, box=box)
    return (np.asarray(scaled, dtype=np.float32) - 127.0) / 128.0
