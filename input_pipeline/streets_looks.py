"""How the people of generated streets look, from scene to scene: build, skin, hair, clothes, bag and hat.

People come in families of look-alikes who wear the same colours; what tells the members of a family apart is
the pattern of the clothes (each has another one), their cut, build, hair, bag and hat.
"""

from dataclasses import dataclass

import numpy as np

from input_pipeline.streets_drawing import Colour, shade

FAMILY = 4  # people who share the colours of their clothes
PATTERNS = ("hoops", "stripes", "checks", "diagonals", "dots", "block", "band", "yoke")

_CLOTHES: tuple[Colour, ...] = (
    (178, 44, 48),
    (44, 78, 156),
    (46, 122, 70),
    (208, 172, 62),
    (226, 222, 212),
    (44, 44, 52),
    (128, 128, 132),
    (122, 64, 128),
    (204, 112, 52),
    (92, 166, 188),
    (128, 92, 60),
    (214, 140, 160),
)
_TROUSERS: tuple[Colour, ...] = (
    (48, 50, 58),
    (62, 82, 124),
    (134, 116, 88),
    (104, 106, 110),
    (92, 64, 52),
    (190, 182, 164),
)
_SHOES: tuple[Colour, ...] = ((40, 36, 36), (224, 222, 218), (112, 74, 48))
_SKINS: tuple[Colour, ...] = ((238, 200, 172), (222, 176, 140), (186, 134, 98), (140, 94, 66), (96, 64, 48))
_HAIRS: tuple[Colour, ...] = ((32, 26, 26), (74, 50, 36), (128, 88, 52), (198, 164, 104), (150, 148, 146))
_BAGS: tuple[Colour, ...] = ((38, 38, 42), (118, 76, 44), (160, 44, 52), (52, 92, 82), (204, 186, 150))


@dataclass(frozen=True)
class Look:
    """The lasting appearance of one person.

    Attributes:
      stature: height in centimetres.
      girth: width in percent of the usual.
      top, accent: the two colours of the upper garment, laid out by `pattern`.
      length: "waist" or "coat" (down to the thighs).
      sleeves: "long" or "short".
      lower: "trousers", "shorts" or "skirt".
      hair_style: "short", "long" or "bun".
      bag: "none", "backpack", "shoulder" or "hand";  bag_side: 1 left, -1 right.
      hat: "none", "cap", "beanie" or "brim".
    """

    stature: int
    girth: int
    skin: Colour
    hair: Colour
    hair_style: str
    top: Colour
    accent: Colour
    pattern: str
    length: str
    sleeves: str
    lower: str
    lower_colour: Colour
    shoes: Colour
    bag: str
    bag_side: int
    bag_colour: Colour
    hat: str
    hat_colour: Colour


def _pick(random: np.random.Generator, choices):
    return choices[int(random.integers(len(choices)))]


def _family_colours(random: np.random.Generator) -> tuple[Colour, Colour, Colour]:
    first, second = (int(number) for number in random.permutation(len(_CLOTHES))[:2])
    brightness = [int(percent) for percent in random.integers(88, 113, 3)]
    garments = (_CLOTHES[first], _CLOTHES[second], _pick(random, _TROUSERS))
    top, accent, lower = (
        shade(colour, percent) for colour, percent in zip(garments, brightness, strict=True)
    )
    return top, accent, lower


def person_look(entropy: tuple[int, ...], number: int) -> Look:
    """The look of person `number` of the population that `entropy` names.

    Args:
      entropy: whole numbers that seed the population; one look depends on them and on `number` alone.
      number: the person; numbers of one block of `FAMILY` wear the same colours.
    """
    family, member = divmod(number, FAMILY)
    shared = np.random.default_rng(np.random.SeedSequence([*entropy, 0, family]))
    top, accent, lower_colour = _family_colours(shared)
    pattern = PATTERNS[int(shared.permutation(len(PATTERNS))[member])]
    bag = ("none", "backpack", "shoulder", "hand")[int(shared.permutation(4)[member])]
    random = np.random.default_rng(np.random.SeedSequence([*entropy, 1, number]))
    return Look(
        stature=int(random.integers(152, 194)),
        girth=int(random.integers(84, 125)),
        skin=_pick(random, _SKINS),
        hair=_pick(random, _HAIRS),
        hair_style=_pick(random, ("short", "short", "long", "bun")),
        top=top,
        accent=accent,
        pattern=pattern,
        length=_pick(random, ("waist", "waist", "coat")),
        sleeves=_pick(random, ("long", "long", "short")),
        lower=_pick(random, ("trousers", "trousers", "shorts", "skirt")),
        lower_colour=lower_colour,
        shoes=_pick(random, _SHOES),
        bag=bag,
        bag_side=_pick(random, (1, -1)),
        bag_colour=_pick(random, _BAGS),
        hat=_pick(random, ("none", "none", "cap", "beanie", "brim")),
        hat_colour=_pick(random, _CLOTHES),
    )
