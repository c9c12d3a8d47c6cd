"""A plugin that blurs grey images in buffers of the worker: no image leaves memory behind, and none is counted nowhere.

Start the worker with it::

    python -m memory_worker --plugin examples.plugins.image_blur

    {"request_id": "1", "action": "image.blur", "data": {"width": 3, "height": 1, "radius": 1, "pixels": "AP8A"}}
"""

import base64
from typing import Any

import numpy as np

from worker.plugins import Call, InvalidRequestError, PluginHost

Image = np.ndarray[Any, np.dtype[Any]]


def register(host: PluginHost) -> None:
    """Add ``image.blur``."""

    def blur(data: dict[str, Any], call: Call) -> dict[str, Any]:
        image, radius = _image(data), data.get("radius", 1)
        height, width = image.shape
        if not isinstance(radius, int) or not 0 < radius <= min(image.shape) // 2 + 1:
            raise InvalidRequestError.at("data.radius", "at least 1, and at most half of the image")
        # Both are back when the block ends, however it does; the next image of this size finds them there.
        with (
            host.buffers.take((height, width), "float32", device="cpu", token=call.token) as across,
            host.buffers.take((height, width), "float32", device="cpu", token=call.token) as down,
        ):
            _mean(image.T, radius, across.numpy().T)
            call.token.check()
            _mean(across.numpy(), radius, down.numpy())
            blurred = np.rint(down.numpy()).astype(np.uint8)
        return {"pixels": base64.b64encode(blurred.tobytes()).decode(), "device_id": across.device_id}

    host.add_action("image.blur", blur)


def _image(data: dict[str, Any]) -> Image:
    """Read the image, a byte a pixel. InvalidRequestError for what is none."""
    width, height = data.get("width"), data.get("height")
    try:
        pixels = base64.b64decode(data.get("pixels", ""), validate=True)
        return np.frombuffer(pixels, np.uint8).reshape(height, width)
    except (TypeError, ValueError) as error:
        message = f"base64 of width x height bytes is wanted: {error}"
        raise InvalidRequestError.at("data.pixels", message) from error


def _mean(image: Image, radius: int, into: Image) -> None:
    """Write each pixel's mean over the lines around it; those beyond the edge are none."""
    lines = len(image)
    for at in range(lines):
        into[at] = image[max(0, at - radius) : min(lines, at + radius + 1)].mean(axis=0, dtype=np.float32)
