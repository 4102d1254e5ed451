"""Small pictures of queries and answers for pages: JPEG as data URIs, boxes drawn in."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from ps_jax.evaluation.contact_sheets import PAPER, WRONG
from ps_jax.evaluation.tiles import cut_tile

ANSWER = WRONG  # the colour of answers' boxes: seen on any ground
SCENE_SIDE = 1280  # longest side of a scene on a page, pixels
QUALITY = 80

Box = Sequence[float]


def tile(
    image: UInt8[np.ndarray, "height width 3"], box: Box, colour: tuple[int, int, int] = ANSWER
) -> bytes:
    """A person with its surroundings as JPEG, the box drawn."""
    picture, (x1, y1, x2, y2) = cut_tile(Image.fromarray(image), box)
    ImageDraw.Draw(picture).rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=2)
    return _jpeg(picture)


def scene(
    image: UInt8[np.ndarray, "height width 3"],
    boxes: Sequence[Box],
    colour: tuple[int, int, int] = ANSWER,
    numbered: bool = False,
) -> bytes:
    """A whole scene as JPEG, scaled down where it is large, with boxes drawn, numbered from 1 where asked for."""
    picture = Image.fromarray(image)
    scale = min(1.0, SCENE_SIDE / max(picture.size))
    if scale < 1:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(18)
    for number, box in enumerate(boxes, 1):
        # Clipped: Pillow walks along a border however far it is outside.
        x1, x2 = (min(max(float(value) * scale, 0.0), picture.width) for value in box[::2])
        y1, y2 = (min(max(float(value) * scale, 0.0), picture.height) for value in box[1::2])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=3)
        if numbered:
            left, top, right, bottom = draw.textbbox((x1 + 4, y1 + 2), str(number), font=font)
            draw.rectangle((left - 4, top - 3, right + 4, bottom + 3), fill=colour)
            draw.text((x1 + 4, y1 + 2), str(number), font=font, fill=PAPER)
    return _jpeg(picture)


def data_uri(jpeg: bytes) -> str:
    """JPEG bytes for the `src` of an image."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
