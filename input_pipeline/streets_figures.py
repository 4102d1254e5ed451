"""Articulated walking figures: a small skeleton in space, projected, dressed and drawn as a sprite.

Lengths are thousandths of the person's height. The body has a forward, a lateral (to the person's left) and
an upward axis; facing 0 looks into the camera, 90 walks to the right of the picture.
"""

import math
from dataclasses import dataclass

import numpy as np

from input_pipeline.streets_drawing import FINENESS, Canvas, Colour, Sprite, average, shade
from input_pipeline.streets_looks import Look

_PITCH = 0.13  # the camera looks down a little: what is nearer stands lower in the picture
_SKIN, _HAIR, _TOP, _LOWER, _SHOES, _BAG, _HAT = range(1, 8)
_PARTS = 8  # labels are part + _PARTS * tone
_TONES = (104, 82, 84, 68)  # percent of the colour: lit, in shade, the same on the far side of the body
_FAR = 2  # added to the tone of a limb on the far side
_SHOULDER, _HIP, _HEAD = 815, 520, 922
_THIGH, _SHIN, _ANKLE, _UPPER_ARM, _FOREARM = 245, 235, 40, 160, 150


@dataclass(frozen=True)
class Pose:
    """What a person does in one scene; angles in whole degrees.

    Attributes:
      facing: direction of walking, 0 towards the camera, 90 to the right, 180 away.
      phase: phase of the step.
      stride: largest angle of the thighs, 0 (stands) to about 32.
      elbow: bend of the elbows.
    """

    facing: int
    phase: int
    stride: int
    elbow: int


class _Body:
    """Projection of the body's axes onto the picture, for one person in one pose."""

    def __init__(self, look: Look, pose: Pose, height: float):
        self.look, self.pose, self.scale = look, pose, height / 1000
        self.sine, self.cosine = math.sin(math.radians(pose.facing)), math.cos(math.radians(pose.facing))
        self.girth = look.girth / 100
        self.lift = 0.0

    def toward(self, forward: float, lateral: float) -> float:
        """How much nearer to the camera than the body's axis a place is."""
        return forward * self.cosine - lateral * self.sine

    def point(self, forward: float, lateral: float, up: float) -> tuple[float, float]:
        """The place in scene pixels, from the spot on the ground under the body."""
        across = forward * self.sine + lateral * self.cosine
        return across * self.scale, (self.toward(forward, lateral) * _PITCH - up - self.lift) * self.scale

    def breadth(self, side: float, depth: float) -> float:
        """Half width, as seen, of a rounded part with these half widths from the front and the side."""
        return math.hypot(side * self.cosine, depth * self.sine)

    def leg(self, side: int) -> list[tuple[float, float, float]]:
        """Hip, knee, ankle, heel and toe of the left (1) or right (-1) leg."""
        step = math.radians(self.pose.phase + (0 if side > 0 else 180))
        stride = math.radians(self.pose.stride)
        thigh = stride * math.sin(step) + 0.04
        shin = thigh - 0.06 - 1.5 * stride * max(0.0, math.cos(step))
        lateral = side * 52 * self.girth
        knee = (_THIGH * math.sin(thigh), lateral, _HIP - _THIGH * math.cos(thigh))
        ankle = (knee[0] + _SHIN * math.sin(shin), lateral, knee[2] - _SHIN * math.cos(shin))
        tilt = min(0.0, shin) * 0.8  # the heel lifts where the shin leans forward over the toes
        heel = (ankle[0] - 12, lateral, ankle[2] - _ANKLE * 0.5)
        toe = (ankle[0] + 82 * math.cos(tilt), lateral * 1.25, ankle[2] - _ANKLE * 0.55 + 82 * math.sin(tilt))
        return [(0, lateral, _HIP), knee, ankle, heel, toe]

    def arm(self, side: int) -> list[tuple[float, float, float]]:
        """Shoulder, elbow and hand of the left (1) or right (-1) arm."""
        step = math.radians(self.pose.phase + (180 if side > 0 else 0))
        carries = self.look.bag == "hand" and side == self.look.bag_side
        swing = math.radians(self.pose.stride) * (0.3 if carries else 0.9) * math.sin(step)
        bend = 0.12 if carries else math.radians(self.pose.elbow)
        lateral = side * 112 * self.girth
        elbow = (
            _UPPER_ARM * math.sin(swing),
            lateral + side * 18,
            _SHOULDER - 38 - _UPPER_ARM * math.cos(swing),
        )
        hand_angle = swing + bend
        hand = (
            elbow[0] + _FOREARM * math.sin(hand_angle),
            elbow[1],
            elbow[2] - _FOREARM * math.cos(hand_angle),
        )
        return [(0, lateral, _SHOULDER - 38), elbow, hand]


class _Painter:
    """Draws the parts of one body, far ones first, as labels on a fine grid."""

    def __init__(self, body: _Body, light: int):
        reach, scale = int(560 * body.scale) + 3, body.scale
        self.board = Canvas(-reach, -int(1130 * scale) - 3, reach, int(120 * scale) + 3, mode="L")
        self.body, self.light = body, light

    def bar(self, start, end, start_radius: float, end_radius: float, part: int, far: bool = False) -> None:
        """A limb between two places of the body, lit from the camera's sunny side."""
        self._bar(self.body.point(*start), self.body.point(*end), start_radius, end_radius, part, far)

    def _bar(self, start, end, start_radius, end_radius, part, far=False) -> None:
        scale, tone = self.body.scale, _FAR if far else 0
        first, second = start_radius * scale, end_radius * scale
        self.board.limb(start, end, first, second, part + _PARTS * (tone + 1))
        shift = 0.22 * self.light
        lit_start, lit_end = (start[0] + shift * first, start[1]), (end[0] + shift * second, end[1])
        self.board.limb(lit_start, lit_end, first * 0.76, second * 0.76, part + _PARTS * tone)

    def slab(self, levels, part: int) -> None:
        """A trunk-like part given by (x, y, half width) from top to bottom, in pixels."""
        for tone, inset in ((1, 0.0), (0, 0.18)):
            sides = []
            for sign in (-1, 1):
                keep = 1 - 2 * inset if sign != self.light else 1
                side = [(x + sign * half * keep, y) for x, y, half in levels]
                sides.append(side)
            self.board.polygon(sides[0] + sides[1][::-1], part + _PARTS * tone)

    def leg(self, side: int, far: bool) -> None:
        body, look = self.body, self.body.look
        hip, knee, ankle, heel, toe = body.leg(side)
        girth = body.girth
        bare = look.lower != "trousers"
        self.bar(knee, ankle, 38 * girth, 24 * girth if bare else 31 * girth, _SKIN if bare else _LOWER, far)
        self.bar(hip, knee, 62 * girth, 47 * girth, _LOWER, far)
        self.bar(heel, toe, 25, 19, _SHOES, far)

    def arm(self, side: int, far: bool) -> None:
        shoulder, elbow, hand = self.body.arm(side)
        girth = self.body.girth
        bare = self.body.look.sleeves == "short"
        self.bar(hand, hand, 23, 23, _SKIN, far)
        self.bar(elbow, hand, 26 * girth, 20 * girth, _SKIN if bare else _TOP, far)
        self.bar(shoulder, elbow, 40 * girth, 30 * girth, _TOP, far)

    def trunk(self) -> None:
        """Shirt or coat, and the skirt under it."""
        body, look, scale = self.body, self.body.look, self.body.scale
        if look.lower == "skirt":
            knees = [body.point(*body.leg(side)[1]) for side in (1, -1)]
            hem = max(knee[1] for knee in knees) + 25 * scale
            half = (max(knee[0] for knee in knees) - min(knee[0] for knee in knees)) / 2 + 62 * scale
            middle = (knees[0][0] + knees[1][0]) / 2
            waist = body.point(0, 0, _HIP + 50)
            self.slab([(*waist, body.breadth(88, 70) * body.girth * scale), (middle, hem, half)], _LOWER)
        rows = [
            (_SHOULDER + 22, 46, 44),
            (_SHOULDER - 10, 116, 70),
            (660, 98, 72),
            (560, 96, 74),
            (492, 98, 78),
        ]
        if look.length == "coat":
            rows[-1] = (330, 116 + self.body.pose.stride, 88 + 2 * self.body.pose.stride)
        levels = [
            (*body.point(0, 0, up), body.breadth(side, depth) * body.girth * scale)
            for up, side, depth in rows
        ]
        self.slab(levels, _TOP)

    def head(self) -> None:
        body, look, scale = self.body, self.body.look, self.body.scale
        centre = body.point(14, 0, _HEAD)
        away = body.cosine < -0.35
        self.bar((0, 0, _SHOULDER), (10, 0, _HEAD - 40), 30, 28, _SKIN)
        if look.hair_style == "long":
            back = body.point(-22, 0, _HEAD - 50)
            self.slab([(*centre, 58 * scale), (back[0], back[1] + 55 * scale, 52 * scale)], _HAIR)
        if look.hair_style == "bun":
            self.bar((-58, 0, _HEAD + 42), (-58, 0, _HEAD + 42), 26, 26, _HAIR)
        hair = body.point(2, 0, _HEAD + 8)
        self._bar(hair, hair, 68, 68, _HAIR)
        if not away:
            face = body.point(26, 0, _HEAD - 14)
            self.board.ellipse(face, body.breadth(50, 46) * scale, 56 * scale, _SKIN)
        if look.hat == "none":
            return
        crown = body.point(6, 0, _HEAD + 30)
        top = [(crown[0], crown[1] - 52 * scale, 40 * scale), (*crown, 72 * scale)]
        self.slab(top, _HAT)
        if look.hat == "cap" and not away:
            self.bar((30, 0, _HEAD + 32), (108, 0, _HEAD + 24), 18, 14, _HAT)
        elif look.hat == "brim":
            self.board.ellipse(crown, 122 * scale, 24 * scale, _HAT + _PARTS)
        elif look.hat == "beanie":
            knob = (crown[0], crown[1] - 64 * scale)
            self._bar(knob, knob, 22, 22, _HAT)

    def backpack(self) -> None:
        body, scale = self.body, self.body.scale
        half = body.breadth(86, 58) * scale
        upper, lower = body.point(-112, 0, 790), body.point(-112, 0, 560)
        self.slab([(*upper, half * 0.8), (upper[0], upper[1] + 30 * scale, half), (*lower, half)], _BAG)

    def bag_straps(self) -> None:
        """What is seen of the bag in front of the trunk."""
        look, body = self.body.look, self.body
        if look.bag == "backpack" and body.cosine > -0.2:
            for side in (-1, 1):
                lateral = side * 62 * body.girth
                self.bar((30, lateral, _SHOULDER), (40, lateral, 640), 13, 13, _BAG)
        elif look.bag == "shoulder":
            near = 60 if body.cosine > 0 else -60
            opposite = -look.bag_side * 70 * body.girth
            self.bar((near, opposite, _SHOULDER + 5), (near, look.bag_side * 105, 540), 14, 14, _BAG)

    def hanging_bag(self) -> None:
        """The body of a shoulder bag or a hand bag."""
        look, body, scale = self.body.look, self.body, self.body.scale
        if look.bag == "shoulder":
            place, half, tall = (-10.0, look.bag_side * 135 * body.girth, 545.0), body.breadth(42, 92), 130
        else:
            hand = body.arm(look.bag_side)[2]
            place, half, tall = (hand[0], hand[1], hand[2] - 20), body.breadth(45, 88), 150
        x, y = body.point(*place)
        self.slab([(x, y, half * 0.85 * scale), (x, y + tall * scale, half * scale)], _BAG)


def draw_figure(look: Look, pose: Pose, height: float, light: int) -> Sprite:
    """Draws one person.

    Args:
      look: who.
      pose: doing what.
      height: height in scene pixels.
      light: side the light comes from, 1 right or -1 left.

    Returns:
      A sprite whose origin is the spot on the ground under the body.
    """
    body = _Body(look, pose, height)
    legs = {side: body.leg(side) for side in (1, -1)}
    body.lift = -min(min(leg[3][2], leg[4][2]) - 20 for leg in legs.values())
    painter = _Painter(body, light)
    bag_near = body.toward(-10, look.bag_side * 100) >= 0
    hanging = look.bag in ("shoulder", "hand")

    far_arms = [side for side in (1, -1) if body.toward(0, side) < -0.3]
    if look.bag == "backpack" and body.cosine >= 0:
        painter.backpack()
    for side in far_arms:
        painter.arm(side, far=True)
    if hanging and not bag_near:
        painter.hanging_bag()
    for side in sorted((1, -1), key=lambda side: body.toward(legs[side][2][0], legs[side][2][1])):
        painter.leg(side, far=body.toward(0, side) < -0.3)
    painter.trunk()
    painter.bag_straps()
    if look.bag == "backpack" and body.cosine < 0:
        painter.backpack()
    painter.head()
    for side in (1, -1):
        if side not in far_arms:
            painter.arm(side, far=False)
    if hanging and bag_near:
        painter.hanging_bag()

    board = painter.board
    labels = np.asarray(board.image)
    row, column = (round(value * FINENESS) for value in (-board.top, -board.left))
    shoulder_row = row + round(body.point(0, 0, _SHOULDER + 22)[1] * FINENESS)
    accent = _accent(look.pattern, labels.shape, shoulder_row, column, max(1, round(height * FINENESS)))
    accent &= labels % _PARTS == _TOP
    colour = _palette(look)[labels + len(_TONES) * _PARTS * accent.astype(np.uint8)]
    return average(board.left, board.top, colour, labels > 0)


def _palette(look: Look) -> np.ndarray:
    """u8[2 * tones * parts, 3]: colour of every label, then of every label where the accent shows."""
    rows: list[Colour] = []
    for top in (look.top, look.accent):
        parts = [(0, 0, 0), look.skin, look.hair, top, look.lower_colour, look.shoes, look.bag_colour]
        rows += [shade(colour, tone) for tone in _TONES for colour in [*parts, look.hat_colour]]
    return np.array(rows, np.uint8)


def _accent(pattern: str, shape: tuple[int, ...], shoulder: int, axis: int, height: int) -> np.ndarray:
    """bool[rows, columns]: where the second colour of the pattern lies, in body coordinates."""
    down = ((np.arange(shape[0]) - shoulder) * 1000 // height)[:, None]
    across = ((np.arange(shape[1]) - axis) * 1000 // height)[None, :]
    if pattern == "hoops":
        where = down // 42 % 2 == 1
    elif pattern == "stripes":
        where = (across + 20) // 40 % 2 == 1
    elif pattern == "checks":
        where = (down // 62 + across // 62) % 2 == 1
    elif pattern == "diagonals":
        where = (down + across) // 54 % 2 == 1
    elif pattern == "dots":
        where = (down % 84 - 42) ** 2 + ((across + 42) % 84 - 42) ** 2 < 31**2
    elif pattern == "block":
        where = down > 165
    elif pattern == "band":
        where = (down > 95) & (down < 225)
    else:
        where = down < 125
    return np.broadcast_to(where, shape).copy()
