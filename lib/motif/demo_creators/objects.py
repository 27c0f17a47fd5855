"""The one list of objects that every creator draws, so that an object says nothing of its maker."""

from collections.abc import Callable

from motif.demo_creators import creatures, household, outdoors
from motif.demo_creators.pen import Pen

OBJECTS: dict[str, Callable[[Pen], None]] = {
    "apple": outdoors.apple,
    "bicycle": outdoors.bicycle,
    "bird": creatures.bird,
    "book": household.book,
    "butterfly": creatures.butterfly,
    "car": outdoors.car,
    "cat": creatures.cat,
    "chair": household.chair,
    "clock": household.clock,
    "coffee-cup": household.coffee_cup,
    "dog": creatures.dog,
    "fish": creatures.fish,
    "flower": outdoors.flower,
    "guitar": household.guitar,
    "hat": household.hat,
    "hot-air-balloon": outdoors.hot_air_balloon,
    "house": outdoors.house,
    "ice-cream": household.ice_cream,
    "key": household.key,
    "lamp": household.lamp,
    "lighthouse": outdoors.lighthouse,
    "mountain": outdoors.mountain,
    "mushroom": outdoors.mushroom,
    "penguin": creatures.penguin,
    "sailing-boat": outdoors.sailing_boat,
    "shoe": household.shoe,
    "strawberry": outdoors.strawberry,
    "teapot": household.teapot,
    "tree": outdoors.tree,
    "umbrella": household.umbrella,
}

FLOATING = frozenset({"bird", "butterfly", "fish", "hot-air-balloon", "umbrella", "key"})
"""Objects that cast no shadow on the ground below them."""
