"""The tasks: what each asks for, which actions it has, and when it has succeeded. Needs no OpenGL."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TURN_LEFT, TURN_RIGHT, FORWARD, BACK = "turn left", "turn right", "move forward", "move back"
PICK_UP, DROP, STOP = "pick up", "drop", "stop"

_WALK = (TURN_LEFT, TURN_RIGHT, FORWARD, BACK)

REPEATED = {TURN_LEFT: "turn_repeat", TURN_RIGHT: "turn_repeat", FORWARD: "move_repeat", BACK: "move_repeat"}
"""Action -> the option that says how often it is repeated; other actions are done once."""


@dataclass(frozen=True)
class Task:
    """One of MiniWorld's tasks. `actions` are in upstream's order, so the numbers are upstream's."""

    name: str
    short: str
    """The task in a few words."""
    describing: str
    """The same with the place and the rules."""
    success: str
    succeeded: Callable[[Any], bool]
    """Whether the task is achieved in a world."""
    limit: float
    """Upstream's limit of steps."""
    actions: tuple[str, ...] = _WALK
    rewards: tuple[float, float] = (0.0, 1.0)
    """The least and the largest reward of one step."""
    turn: float = 15
    """Degrees of one turn."""
    move: float = 0.15
    """Metres of one move."""
    navigation: bool = False
    """Whether it is about reaching `world.box`."""
    randomises: bool = True
    """Whether upstream can randomise its looks."""


def _at_the_box(world: Any) -> bool:
    return bool(world.near(world.box))


def _box_task(name: str, place: str, limit: float, **others: Any) -> Task:
    return Task(
        name,
        short="Go to the red box.",
        describing=(
            f"{place} Somewhere there is a red box: find it and walk up to it until you stand next to it. "
            "The fewer steps it takes, the better."
        ),
        success="The agent reached the red box.",
        succeeded=_at_the_box,
        limit=limit,
        navigation=True,
        **others,
    )


_HALL = "You are in a long, straight hallway."
_ROOM = "You are in a rectangular room without any furniture."
_FOUR = "You are in one of four rooms, which doorways connect in a ring."
_GAP = "You are in a courtyard under the open sky. A wall divides it, and there is a gap in the wall."
_T = "You are in a corridor that ends at a crossing one, like the stem of a T."
_Y = "You are in one of three corridors that meet in the middle, like the strokes of a Y."
_MAZE = "You are in a maze of square cells with brick walls."
_STREET = "You are on a pavement beside a street, with cones along the kerb. Stepping onto the street ends everything."

TASKS = (
    _box_task("Hallway", _HALL, 250),
    _box_task("OneRoom", _ROOM, 180),
    _box_task("OneRoomS6", _ROOM, 100),
    _box_task("OneRoomS6Fast", _ROOM, 50, turn=45, move=0.7),
    _box_task("FourRooms", _FOUR, 250),
    _box_task("WallGap", _GAP, 300),
    _box_task("TMaze", _T, 280),
    _box_task("TMazeLeft", _T, 280),
    _box_task("TMazeRight", _T, 280),
    _box_task("YMaze", _Y, 280),
    _box_task("YMazeLeft", _Y, 280),
    _box_task("YMazeRight", _Y, 280),
    _box_task("Maze", _MAZE, 1536),
    _box_task("MazeS2", _MAZE, 96),
    _box_task("MazeS3", _MAZE, 216),
    _box_task("MazeS3Fast", _MAZE, 300, turn=45, move=0.7),
    _box_task("Sidewalk", _STREET, 150),
    Task(
        "Sign",
        short="Read the sign, and touch the {goal} of the colour that it names.",
        describing=(
            "Boxes and keys, one of each in blue, red and green, lie in a bent corridor. A sign on a wall names a "
            "colour. Walk up to the {goal} of that colour; coming close to anything else ends the game and costs a "
            "point."
        ),
        success="The agent touched the right thing.",
        succeeded=lambda world: world.near(world._objects[world._goal][world._color_index]),
        limit=20,
        actions=(TURN_LEFT, TURN_RIGHT, FORWARD, STOP),
        rewards=(-1.0, 1.0),
        turn=45,
        move=0.7,
        randomises=False,
    ),
    Task(
        "PickupObjects",
        short="Pick up everything.",
        describing=(
            "Boxes, balls and keys lie in a yard with brick walls. Go to each of them and pick it up, which makes it "
            "vanish and earns a point, until nothing is left."
        ),
        success="Everything was picked up.",
        succeeded=lambda world: world.num_picked_up == world.num_objs,
        limit=400,
        actions=(*_WALK, PICK_UP),
    ),
    Task(
        "PutNext",
        short="Put the red box next to the yellow box.",
        describing=(
            "Boxes in many colours stand in a room. Pick up the red one, carry it to the yellow one, and drop it "
            "so close that it almost touches. The fewer steps it takes, the better."
        ),
        success="The red box stands next to the yellow one.",
        succeeded=lambda world: not world.agent.carrying and world.near(world.red_box, world.yellow_box),
        limit=250,
        actions=(*_WALK, PICK_UP, DROP),
    ),
    Task(
        "CollectHealth",
        short="Stay alive: collect medkits.",
        describing=(
            "The floor of this room is poisonous: each step costs 2 of your 100 points of health. Picking up a medkit "
            "restores all of them, and another medkit appears elsewhere. Stay alive as long as you can."
        ),
        success="The agent was alive at the end.",
        succeeded=lambda world: world.health > 0,
        limit=1000,
        actions=(*_WALK, PICK_UP),
        rewards=(-100.0, 2.0),
    ),
    Task(
        "ThreeRooms",
        short="Look around the three rooms.",
        describing="Three rooms are connected, and several things lie in them. There is nothing to win: look around.",
        success="Never: there is nothing to achieve.",
        succeeded=lambda world: False,
        limit=400,
        rewards=(0.0, 0.0),
    ),
    Task(
        "RoomObjects",
        short="Look at the box, the ball and the key.",
        describing=(
            "A box, a ball and a key lie in a yard with brick walls. There is nothing to win: look at them from all "
            "sides, or carry them about."
        ),
        success="Never: there is nothing to achieve.",
        succeeded=lambda world: False,
        limit=math.inf,
        actions=(*_WALK, PICK_UP, DROP),
        rewards=(0.0, 0.0),
    ),
)
