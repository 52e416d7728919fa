"""Words of the toybox: names, numbers, places, canonical phrases, and the noise people add.

The assistant speaks canonical words ("a red circle", "in the top left"); users say the same in
many ways. Knows nothing about conversations.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from unified.toybox.scene import BACKGROUNDS, Scene, Thing, relation
from unified.toybox.sprites import COLOURS, OBJECTS, SHAPES

# name -> "singular/plural" forms, the canonical one first; "_" stands for a space
_FORMS = {
    "cat": "cat/cats kitty/kitties kitten/kittens pussycat/pussycats",
    "dog": "dog/dogs puppy/puppies doggy/doggies pup/pups doggo/doggos",
    "fox": "fox/foxes foxy/foxies",
    "lion": "lion/lions",
    "cow": "cow/cows",
    "pig": "pig/pigs piggy/piggies piglet/piglets",
    "frog": "frog/frogs toad/toads froggy/froggies",
    "monkey": "monkey/monkeys chimp/chimps",
    "panda": "panda/pandas panda_bear/panda_bears",
    "rabbit": "rabbit/rabbits bunny/bunnies bunny_rabbit/bunny_rabbits",
    "bear": "bear/bears brown_bear/brown_bears teddy_bear/teddy_bears",
    "mouse": "mouse/mice",
    "penguin": "penguin/penguins",
    "chick": "chick/chicks bird/birds baby_chick/baby_chicks birdie/birdies",
    "fish": "fish/fish fish/fishes tropical_fish/tropical_fish",
    "turtle": "turtle/turtles tortoise/tortoises",
    "butterfly": "butterfly/butterflies",
    "bee": "bee/bees honeybee/honeybees bumblebee/bumblebees",
    "ladybug": "ladybug/ladybugs ladybird/ladybirds",
    "snail": "snail/snails",
    "octopus": "octopus/octopuses octopus/octopi",
    "whale": "whale/whales",
    "elephant": "elephant/elephants",
    "crab": "crab/crabs",
    "apple": "apple/apples",
    "banana": "banana/bananas",
    "grapes": "bunch_of_grapes/bunches_of_grapes grapes/grapes grapes/grapes",
    "strawberry": "strawberry/strawberries",
    "watermelon": "watermelon/watermelons slice_of_watermelon/slices_of_watermelon melon/melons",
    "lemon": "lemon/lemons",
    "pear": "pear/pears",
    "pineapple": "pineapple/pineapples",
    "carrot": "carrot/carrots",
    "corn": "ear_of_corn/ears_of_corn corn/corns corn_cob/corn_cobs corn/corn",
    "pizza": "pizza/pizzas slice_of_pizza/slices_of_pizza pizza_slice/pizza_slices",
    "hamburger": "hamburger/hamburgers burger/burgers cheeseburger/cheeseburgers",
    "cake": "cake/cakes piece_of_cake/pieces_of_cake slice_of_cake/slices_of_cake",
    "donut": "donut/donuts doughnut/doughnuts",
    "egg": "egg/eggs fried_egg/fried_eggs",
    "cheese": "piece_of_cheese/pieces_of_cheese cheese/cheeses cheese/cheeses",
    "car": "car/cars auto/autos automobile/automobiles",
    "bus": "bus/buses",
    "bicycle": "bicycle/bicycles bike/bikes",
    "rocket": "rocket/rockets spaceship/spaceships rocket_ship/rocket_ships",
    "boat": "boat/boats sailboat/sailboats ship/ships sailing_boat/sailing_boats",
    "train": "train/trains locomotive/locomotives steam_train/steam_trains",
    "tractor": "tractor/tractors",
    "helicopter": "helicopter/helicopters chopper/choppers",
    "house": "house/houses home/homes cottage/cottages",
    "umbrella": "umbrella/umbrellas",
    "key": "key/keys",
    "book": "book/books",
    "guitar": "guitar/guitars",
    "drum": "drum/drums",
    "balloon": "balloon/balloons",
    "clock": "clock/clocks alarm_clock/alarm_clocks",
    "gift": "gift/gifts present/presents gift_box/gift_boxes",
    "crown": "crown/crowns",
    "hat": "hat/hats top_hat/top_hats",
    "ball": "ball/balls soccer_ball/soccer_balls football/footballs",
    "robot": "robot/robots",
    "tree": "tree/trees",
    "flower": "flower/flowers sunflower/sunflowers",
    "cactus": "cactus/cacti cactus/cactuses",
    "mushroom": "mushroom/mushrooms toadstool/toadstools",
    "sun": "sun/suns",
    "moon": "moon/moons crescent_moon/crescent_moons",
    "cloud": "cloud/clouds",
    "rainbow": "rainbow/rainbows",
    "snowman": "snowman/snowmen",
    "circle": "circle/circles disc/discs dot/dots circle/circles",
    "square": "square/squares box/boxes square/squares",
    "triangle": "triangle/triangles",
    "star": "star/stars",
    "diamond": "diamond/diamonds rhombus/rhombuses",
    "heart": "heart/hearts",
}
FORMS: dict[str, tuple[tuple[str, str], ...]] = {
    name: tuple(
        (form.split("/")[0].replace("_", " "), form.split("/")[1].replace("_", " "))
        for form in forms.split()
    )
    for name, forms in _FORMS.items()
}
MASS = ("grapes", "corn", "cheese")  # forms that take no article
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
COLOUR_WORDS = {
    "red": ("red",) * 8 + ("scarlet", "crimson"),
    "gray": ("gray", "grey", "grey"),
    "purple": ("purple", "purple", "violet"),
}
SIZE_WORDS = {
    "small": ("small", "small", "little", "tiny"),
    "big": ("big", "big", "large", "huge"),
}
COMPARATIVES = {"small": ("smaller", "littler", "tinier"), "big": ("bigger", "larger")}
# colours that an object's fixed look has for everyone
NATURAL = {
    "apple": "red", "strawberry": "red", "crab": "red", "car": "red", "ladybug": "red",
    "banana": "yellow", "lemon": "yellow", "chick": "yellow", "sun": "yellow", "corn": "yellow",
    "cheese": "yellow", "frog": "green", "tree": "green", "cactus": "green", "turtle": "green",
    "pear": "green", "tractor": "green", "pig": "pink", "carrot": "orange", "fox": "orange",
    "monkey": "brown", "bear": "brown", "balloon": "red", "moon": "yellow", "elephant": "gray",
    "grapes": "purple", "whale": "blue", "book": "red", "helicopter": "yellow", "key": "yellow",
    "umbrella": "blue", "crown": "yellow", "hat": "black", "mouse": "gray", "bus": "blue",
    "guitar": "red", "drum": "red", "rabbit": "gray", "flower": "yellow", "snail": "brown",
    "mushroom": "red", "robot": "gray",
}  # fmt: skip
FRUIT = (
    "apple", "banana", "grapes", "strawberry", "watermelon", "lemon", "pear", "pineapple",
)  # fmt: skip

PLACE_PHRASES = {
    "top left": "in the top left", "top": "at the top", "top right": "in the top right",
    "left": "on the left", "middle": "in the middle", "right": "on the right",
    "bottom left": "in the bottom left", "bottom": "at the bottom",
    "bottom right": "in the bottom right",
}  # fmt: skip
PLACE_NAMES = tuple(PLACE_PHRASES)
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATION_PHRASES = {
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "above",
    "below": "below",
    "next to": "next to",
}
_RELATION_WORDS = {
    "left of": ("to the left of", "left of", "on the left of", "on the left side of"),
    "right of": ("to the right of", "right of", "on the right of", "on the right side of"),
    "above": ("above", "above", "over", "on top of"),
    "below": ("below", "under", "beneath", "underneath", "below"),
    "next to": ("next to", "beside", "by the side of", "right beside"),
}
_ITS_SIDE = {  # "a cat with a dog ..."
    "left of": ("to its left", "on its left", "on its left side", "to the left of it"),
    "right of": ("to its right", "on its right", "on its right side", "to the right of it"),
    "above": ("above it", "over it", "on top of it"),
    "below": ("below it", "under it", "beneath it", "underneath"),
    "next to": ("next to it", "beside it"),
}
BACKGROUND_PHRASES = {
    "white": "on a white background",
    "sky": "in the sky",
    "grass": "on grass",
    "sand": "on sand",
    "night": "at night",
    "pink": "on a pink background",
    "meadow": "in a meadow",
    "beach": "on a beach",
}
_BACKGROUND_WORDS = {
    "white": (
        "on a white background", "on white", "with a white background",
        "on a plain white background",
        "on an empty white page", "against a white background",
    ),
    "sky": (
        "in the sky", "against the sky", "up in the sky", "with the sky behind",
        "on a sky background",
        "on a light blue background", "in the air", "in a clear sky",
    ),
    "grass": (
        "on grass", "on the grass", "on green grass", "on a grass background", "on the lawn",
        "on a green background", "on a lawn",
    ),
    "sand": (
        "on sand", "on the sand", "in the sand", "in the desert", "in a desert",
        "on a sand background", "on a sandy background",
    ),
    "night": (
        "at night", "in the night", "by night", "in the dark", "on a dark background",
        "in the night sky", "on a dark blue background", "at nighttime",
    ),
    "pink": (
        "on a pink background", "on pink", "with a pink background", "against a pink background",
        "on a light pink background",
    ),
    "meadow": ("in a meadow", "on a meadow", "in the meadow", "in a field", "in the park",
    "outdoors"),
    "beach": ("on a beach", "at the beach", "on the beach", "at the seaside", "by the beach"),
}  # fmt: skip
_PLACE_WORDS = {
    "left": ("on the left", "on the left side", "at left", "at the left", "to the left", "left"),
    "right": ("on the right", "on the right side", "at right", "at the right", "to the right"),
    "top": ("at the top", "at the top", "at the top edge", "on the top side", "up top"),
    "bottom": ("at the bottom", "at the bottom", "at the bottom edge", "on the bottom side"),
    "middle": (
        "in the middle", "in the center", "in the centre", "at the center", "right in the middle",
    ),
}  # fmt: skip
_AN = re.compile(r"(?:[aeio]|u(?!ni[cfqv]|kul|sb|r[aeiou]|fo\b)|hour|heir)", re.IGNORECASE)


# --- canonical phrases -------------------------------------------------------------------------


def a(words: str) -> str:
    """With its indefinite article: "a cat", "an egg"."""
    return f"{'an' if _AN.match(words) else 'a'} {words}"


def noun(name: str, count: int = 1) -> str:
    """The canonical name of one or several."""
    return FORMS[name][0][count != 1]


def label(name: str, colour: str | None = None, count: int = 1) -> str:
    return f"{colour} {noun(name, count)}" if colour else noun(name, count)


def amount(name: str, colour: str | None = None, count: int = 1, size: str | None = None) -> str:
    """ "a small red circle", "two cats", "no dogs"."""
    words = label(name, colour, count)
    if size:
        words = f"{size} {words}"
    return a(words) if count == 1 else f"{NUMBERS[count] if count else 'no'} {words}"


def listing(items: Sequence[str]) -> str:
    """ "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def sentence(words: str) -> str:
    """With a capital and a full stop."""
    return f"{words[0].upper()}{words[1:]}."


def summary(scene: Scene) -> str:
    """Things and counts in reading order: "a cat and two red circles"."""
    counts: dict[tuple[str, str | None], int] = {}
    for thing in scene.things:
        key = (thing.name, thing.colour)
        counts[key] = counts.get(key, 0) + 1
    return listing([amount(name, colour, n) for (name, colour), n in counts.items()])


def description(scene: Scene) -> str:
    """Every fact in reading order: "a big cat in the top left and a small dog …, on a beach"."""
    groups: dict[str, list[Thing]] = {}
    for thing in scene.things:
        groups.setdefault(thing.label, []).append(thing)
    items = []
    for things in groups.values():
        first = things[0]
        size = first.size if all(t.size == first.size for t in things) else None
        places = list(dict.fromkeys(PLACE_PHRASES[t.place] for t in things))
        items.append(f"{amount(first.name, first.colour, len(things), size)} {listing(places)}")
    plain = all(len(things) == 1 for things in groups.values())
    return (
        f"{listing(items) if plain else '; '.join(items)}, {BACKGROUND_PHRASES[scene.background]}"
    )


def refer(scene: Scene, thing: Thing) -> str | None:
    """The canonical way to single a thing out; None where neither label, size nor place does."""
    alike = [t for t in scene.things if t.label == thing.label]
    if len(alike) == 1:
        return f"the {noun(thing.name) if not thing.colour else label(thing.name, thing.colour)}"
    if sum(t.size == thing.size for t in alike) == 1:
        return f"the {thing.size} {label(thing.name, thing.colour)}"
    if sum(t.place == thing.place for t in alike) == 1:
        return f"the {label(thing.name, thing.colour)} {PLACE_PHRASES[thing.place]}"
    return None


# --- a request for a picture -------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Things alike that a request asks for; None where it leaves the fact open."""

    name: str
    colour: str | None
    count: int
    size: str | None = None
    place: str | None = None
    open: str = ""  # "colour" or "count" where the user does not say it

    @property
    def label(self) -> str:
        return f"{self.colour} {self.name}" if self.colour else self.name


@dataclass(frozen=True)
class Request:
    """The facts that a request states: groups, one relation (i, name, j), a background."""

    groups: tuple[Group, ...]
    relation: tuple[int, str, int] | None = None
    background: str | None = None

    def facts(self) -> dict[str, Any]:
        things = [asdict(group) for group in self.groups]
        for thing in things:
            del thing["open"]
        return {
            "things": things,
            "relation": list(self.relation) if self.relation else None,
            "background": self.background,
        }

    def holds(self, scene: Scene) -> bool:
        """Whether everything it states is true of a scene, and nothing else stands there."""
        if scene.counts != {group.label: group.count for group in self.groups}:
            return False
        members = [[t for t in scene.things if t.label == g.label] for g in self.groups]
        for group, things in zip(self.groups, members, strict=True):
            if group.size and any(t.size != group.size for t in things):
                return False
            if group.place and any(t.place != group.place for t in things):
                return False
        if self.relation:
            i, name, j = self.relation
            found = relation(members[i][0], members[j][0])
            if found != name and not (name == "next to" and found in ("left of", "right of")):
                return False
        return self.background in (None, scene.background)


def groups_of(scene: Scene) -> dict[str, list[Thing]]:
    groups: dict[str, list[Thing]] = {}
    for thing in scene.things:
        groups.setdefault(thing.label, []).append(thing)
    return groups


def request_for(scene: Scene, rng: random.Random, detail: float = 1.0) -> Request:
    """A request that a scene fulfils: all things and counts, and a random subset of the rest.

    Args:
        detail: how much of the rest is stated, about; 0 for nothing but things and counts.
    """
    members = list(groups_of(scene).values())
    rng.shuffle(members)
    link: tuple[int, str, int] | None = None
    singles = [i for i, things in enumerate(members) if len(things) == 1]
    if len(singles) >= 2 and rng.random() < 0.55 * detail:
        i, j = rng.sample(singles, 2)
        name = relation(members[i][0], members[j][0])
        if name in ("left of", "right of") and rng.random() < 0.12:
            name = "next to"
        if name:
            link = (i, name, j)
    sized, placed = 0.22 * detail, (0.12 if link else 0.32) * detail
    groups = []
    for i, things in enumerate(members):
        first = things[0]
        size = place = None
        if rng.random() < sized and all(t.size == first.size for t in things):
            size = first.size
        if not (link and i in link) and rng.random() < placed:
            place = first.place if all(t.place == first.place for t in things) else None
        left_open = ""
        if detail:
            chance = rng.random()
            if (
                first.colour
                and chance < 0.06
                and sum(m[0].name == first.name for m in members) == 1
            ):
                left_open = "colour"
            elif len(things) > 1 and chance > 0.96:
                left_open = "count"
        groups.append(Group(first.name, first.colour, len(things), size, place, left_open))
    backed = scene.background if rng.random() < 0.3 * detail else None
    return Request(tuple(groups), link, backed)


def canonical(request: Request) -> str:
    """The request in the assistant's words: "a big cat to the left of a dog, on a beach"."""

    def words(group: Group) -> str:
        text = amount(group.name, group.colour, group.count, group.size)
        return f"{text} {PLACE_PHRASES[group.place]}" if group.place else text

    items = [words(group) for group in request.groups]
    if request.relation:
        i, name, j = request.relation
        linked = f"{items[i]} {RELATION_PHRASES[name]} {items[j]}"
        rest = [item for k, item in enumerate(items) if k not in (i, j)]
        text = f"{linked}, and {listing(rest)}" if rest else linked
    else:
        text = listing(items)
    if request.background:
        text += f", {BACKGROUND_PHRASES[request.background]}"
    return text


def here(request: Request) -> str:
    first = request.groups[request.relation[0] if request.relation else 0]
    return f"Here {'is' if first.count == 1 else 'are'} {canonical(request)}."


# --- the user's words --------------------------------------------------------------------------

_NICE = (
    "nice",
    "cute",
    "pretty",
    "lovely",
    "beautiful",
    "happy",
    "cool",
    "simple",
    "funny",
    "good",
)


def say_noun(name: str, count: int, rng: random.Random) -> str:
    forms = FORMS[name]
    form = forms[0] if rng.random() < 0.6 else rng.choice(forms)
    return form[count != 1]


def say_colour(colour: str, rng: random.Random) -> str:
    return rng.choice(COLOUR_WORDS.get(colour, (colour,)))


def say_place(place: str, rng: random.Random) -> str:
    if place in _PLACE_WORDS:
        return rng.choice(_PLACE_WORDS[place])
    vertical, side = place.split()
    upper = vertical if rng.random() < 0.8 else "upper" if vertical == "top" else "lower"
    return rng.choice(
        (
            f"in the {upper} {side}",
            f"in the {upper} {side} corner",
            f"at the {upper} {side}",
            f"in the {upper} {side}",
            f"{upper} {side}",
            f"in the {upper}-{side} corner",
        )
    )


def say_relation(name: str, rng: random.Random) -> str:
    return rng.choice(_RELATION_WORDS[name])


def say_background(name: str, rng: random.Random) -> str:
    return rng.choice(_BACKGROUND_WORDS[name])


def say_count(count: int, rng: random.Random) -> str:
    draw = rng.random()
    if count == 2 and draw < 0.15:
        return rng.choice(("a pair of", "a couple of"))
    return str(count) if draw > 0.75 else NUMBERS[count]


def say_group(group: Group, rng: random.Random, bare: bool = False) -> str:
    """One noun phrase: "two tiny grey boxes", "a kitty", bare: "kitty", "2 boxes"."""
    words = say_noun(group.name, group.count, rng)
    mass = words in MASS
    if group.colour and group.open != "colour":
        words = f"{say_colour(group.colour, rng)} {words}"
    if rng.random() < 0.04:
        words = f"{rng.choice(_NICE)} {words}"
    if group.size:
        words = f"{rng.choice(SIZE_WORDS[group.size])} {words}"
    if group.count > 1:
        if group.open == "count":
            return rng.choice((f"some {words}", words, f"a few {words}", f"several {words}"))
        return f"{say_count(group.count, rng)} {words}"
    if bare:
        return words
    if mass:
        return rng.choice((words, f"some {words}"))
    if group.name in ("sun", "moon") and rng.random() < 0.3:
        return f"the {words}"
    draw = rng.random()
    return f"one {words}" if draw < 0.04 else f"1 {words}" if draw < 0.07 else a(words)


_DEEDS = (
    "with", "with", "together with", "along with", "riding", "holding", "eating", "wearing",
    "looking at", "playing with", "chasing", "near", "who has", "carrying",
)  # fmt: skip


def say_request(request: Request, rng: random.Random) -> str:
    """The things, relation and background of a request in a user's words."""
    draw = rng.random()
    bare = draw < 0.1 and not request.relation
    dense = draw < 0.18 and not request.relation
    items = []
    for group in request.groups:
        words = say_group(group, rng, bare)
        items.append(f"{words} {say_place(group.place, rng)}" if group.place else words)
    loose = not any(group.place for group in request.groups)
    if request.relation:
        i, name, j = request.relation
        draw = rng.random()
        if draw < 0.12:
            linked = f"{items[j]} with {items[i]} {rng.choice(_ITS_SIDE[name])}"
        elif draw < 0.2:
            linked = f"{items[j]} and {items[i]} {rng.choice(_ITS_SIDE[name])}"
        elif draw < 0.28 and name in OPPOSITE:
            linked = f"{items[j]} {say_relation(OPPOSITE[name], rng)} {items[i]}"
        else:
            linked = f"{items[i]} {say_relation(name, rng)} {items[j]}"
        rest = [item for k, item in enumerate(items) if k not in (i, j)]
        text = linked
        if rest:
            text += f"{rng.choice((', and ', ' and also ', ', plus ', ', with '))}{listing(rest)}"
    elif dense:
        joins = (", ", ", ", " and ", " + ", "; ", " & ", *((" ",) if bare else ()))
        text = rng.choice(joins).join(items)
    elif len(items) == 1:
        text = items[0]
    elif len(items) == 2 and loose and rng.random() < 0.16:
        text = f"{items[0]} {rng.choice(_DEEDS)} {items[1]}"
    else:
        last = rng.choice((" and ",) * 6 + (", and ", " plus ", " as well as ", ", "))
        text = f"{', '.join(items[:-1])}{last}{items[-1]}"
    if request.background:
        where = say_background(request.background, rng)
        draw = rng.random()
        if dense:
            return f"{text}, {where}"
        if draw < 0.15:
            return f"{text}, all {where}" if len(items) > 1 else f"{text}, {where}"
        if draw < 0.5 or any(g.place for g in request.groups):
            return f"{text}, {where}"
        return f"{text} {where}"
    return text


_VERBS = (
    "draw", "draw", "draw", "draw", "paint", "sketch", "make", "create", "generate", "render",
    "produce", "show me", "give me", "draw me", "make me", "paint me", "show", "depict", "doodle",
    "illustrate", "design", "sketch me", "create for me", "compose",
)  # fmt: skip
_OPENINGS = (
    "", "", "", "", "", "", "", "", "Please ", "Can you ", "Could you ", "Would you ", "Now ",
    "Can you please ", "Could you please ", "I want you to ", "I'd like you to ", "Will you ",
    "Go ahead and ", "Let's ", "Try to ", "Kindly ", "You could ", "Next, ", "Would you kindly ",
    "Would you mind trying to ", "I need you to ", "Hi! Please ", "Now please ", "Are you able to ",
)  # fmt: skip
_AS_PICTURE = (
    "{x}", "{x}", "{x}", "{x}", "{x}", "a picture of {x}", "an image of {x}", "a drawing of {x}",
    "a picture with {x}", "a scene with {x}", "an image with {x}", "a picture showing {x}",
    "a sketch of {x}", "a painting of {x}", "a picture that has {x}", "me a picture of {x}",
)  # fmt: skip
_FRAMES = (
    "I want {x}", "I'd like {x}", "I want to see {x}", "I would like to see {x}", "I wish for {x}",
    "I would like a picture of {x}", "I need {x}", "Can I have {x}?", "Could I get {x}?",
    "May I see {x}?", "Let me see {x}", "{x}, please", "Picture of {x}", "Image of {x}",
    "Drawing of {x}", "A picture of {x}", "An image of {x}", "How about {x}?", "{x} would be nice",
    "I'm looking for a picture of {x}", "There should be {x} in the picture", "Imagine {x}",
    "I was thinking of {x}", "Put {x} in a picture", "A picture with {x}, please", "Just {x}",
    "I need a picture of {x}", "Can I see {x}?", "I'd love to see {x}", "A scene with {x}",
    "Get me {x}", "I want a picture with {x} in it", "My wish is {x}", "This time {x}",
    "What does a picture of {x} look like?", "A photo of {x}", "Do a picture of {x}",
    "I'd like to have {x}", "Can we have {x}?", "Do you think you could draw {x}?",
    "It would be great to see {x}", "Picture: {x}", "Prompt: {x}", "Show us {x}",
    "I feel like seeing {x}", "Surprise me with {x}", "For my daughter: {x}", "Next one: {x}",
    "A drawing with {x}",
)  # fmt: skip


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def frame(words: str, rng: random.Random) -> str:
    """Wrap what is wanted into a request for a picture, or leave it bare."""
    draw = rng.random()
    if draw < 0.14:
        return rng.choice((capital(words), words, f"{capital(words)}."))
    if draw < 0.42:
        text = rng.choice(_FRAMES).format(x=words)
        return capital(text) + ("" if text.endswith("?") or rng.random() < 0.3 else ".")
    opening, verb, picture = rng.choice(_OPENINGS), rng.choice(_VERBS), rng.choice(_AS_PICTURE)
    if verb.endswith("me") and picture.startswith("me "):
        picture = picture[3:]
    text = capital(f"{opening}{verb} {picture.format(x=words)}")
    asks = opening.startswith(("Can", "Could", "Would", "Will", "Are"))
    return text + ("?" if asks else rng.choice((".", ".", "", "!")))


def ask_to_draw(request: Request, rng: random.Random) -> str:
    """A whole request for a picture, without noise."""
    if request.background and rng.random() < 0.08:
        where = say_background(request.background, rng)
        words = say_request(Request(request.groups, request.relation), rng)
        return f"{capital(where)}, {rng.choice(('draw', 'paint', 'show me', 'I want'))} {words}."
    return frame(say_request(request, rng), rng)


# --- noise -------------------------------------------------------------------------------------

_BEFORE = (
    "Hey, ", "Hi, ", "Hello, ", "Hi! ", "Hello! ", "Please, ", "OK, ", "So, ", "Um, ", "Well, ",
    "Alright, ", "Hey! ", "Ok ", "Dear computer, ", "Good morning, ", "Excuse me, ", "Great, ",
)  # fmt: skip
_AFTER = (
    " please", ", please", " please!", " thanks", ", thanks!", ", thank you", " pls", " plz",
    " :)", "!!", "...", " for me", " now", ", ok?", " thx", ". Thank you!", ". Thanks.",
)  # fmt: skip


@cache
def _known_words() -> frozenset[str]:
    """Words that a typo must not turn into."""
    from unified.toybox.talk import UNKNOWN

    words = {w for forms in FORMS.values() for pair in forms for form in pair for w in form.split()}
    words |= {*UNKNOWN, *COLOURS, *SHAPES, *OBJECTS, *NUMBERS, *BACKGROUNDS}
    words |= {"there", "their", "want", "what", "were", "where", "bellow", "fist", "bred", "right"}
    return frozenset(words)


def typo(word: str, rng: random.Random) -> str:
    """One letter swapped, dropped or doubled; the word itself where that reads as another one."""
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        wrong = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    elif kind == 1:
        wrong = word[:at] + word[at + 1 :]
    else:
        wrong = word[:at] + word[at] + word[at:]
    return word if wrong.lower() in _known_words() else wrong


def noise(text: str, rng: random.Random, keep: Iterable[str] = ()) -> str:
    """What people do to a sentence: politeness, case, punctuation, a typo, spaces.

    Args:
        keep: words that get no typo, for replies that repeat them.
    """
    draw = rng.random()
    if draw < 0.07:
        head = text if text.startswith(("I ", "I'")) else text[:1].lower() + text[1:]
        text = rng.choice(_BEFORE) + head
    elif draw < 0.16:
        end = "?" if text.endswith("?") else ""
        text = text.rstrip(".!?") + rng.choice(_AFTER) + (end if rng.random() < 0.5 else "")
    if rng.random() < 0.08:
        words = text.split(" ")
        guarded = set(keep)
        able = [i for i, w in enumerate(words) if len(w) > 4 and w.isalpha() and w not in guarded]
        if able:
            at = rng.choice(able)
            words[at] = typo(words[at], rng)
            text = " ".join(words)
    draw = rng.random()
    if draw < 0.2:
        text = text.lower()
    elif draw < 0.23 and not keep:
        text = text.upper()
    draw = rng.random()
    if draw < 0.15:
        text = text.rstrip(".!?")
    elif draw < 0.18:
        text = text.replace(",", "").replace("'", "").rstrip(".!?")
    elif draw < 0.2:
        text = text.replace(" ", "  ", 1) if rng.random() < 0.5 else f" {text} "
    return text or "?"


# --- checking a reply --------------------------------------------------------------------------

_DROPPED = {"a", "an", "the", "some"}


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, digits as words."""
    words = re.findall(r"[a-z0-9]+", text.lower().replace("grey", "gray"))
    words = [NUMBERS[int(w)] if w.isdigit() and int(w) < len(NUMBERS) else w for w in words]
    return " ".join(w for w in words if w not in _DROPPED)


@cache
def _families() -> tuple[frozenset[str], ...]:
    """Answers that exclude one another, by what kind of answer is expected."""
    return (
        frozenset(("yes", "no")),
        frozenset(NUMBERS) | {"none", "no"},
        frozenset(COLOURS),
        frozenset(("big", "small")),
        frozenset(PLACE_NAMES),
    )


@cache
def _names() -> frozenset[str]:
    return frozenset(normalise(word) for forms in FORMS.values() for pair in forms for word in pair)


def _mentions(text: str, family: Iterable[str]) -> list[str]:
    """Members of a family that stand in a text in order, the longest first, none in another."""
    found = []
    text = f" {text} "
    for member in sorted(family, key=len, reverse=True):
        while (at := text.find(f" {member} ")) >= 0:
            found.append((at, member))
            text = f"{text[:at]} {'|' * len(member)} {text[at + len(member) + 2 :]}"
    return [member for _, member in sorted(found)]


def matches(reply: str, answers: Sequence[str]) -> bool:
    """Whether a reply is one of the accepted answers, or a sentence that says exactly that one."""
    said = normalise(reply)
    accepted = [normalise(answer) for answer in answers]
    if said in accepted:
        return True
    if not any(f" {answer} " in f" {said} " for answer in accepted):
        return False
    if accepted[0] == "nothing":
        return said.startswith("nothing")
    if accepted[0] in ("yes", "no"):
        return said.startswith(accepted[0]) and set(_mentions(said, ("yes", "no"))) == {accepted[0]}
    for family in _families():
        if accepted[0] in family:
            return set(_mentions(said, family)) <= set(accepted)
    sides = set(_mentions(accepted[0], RELATIONS))
    if sides:
        return set(_mentions(said, RELATIONS)) == sides
    if any(
        f" {word} " in f" {said} " and word not in accepted[0].split() for word in ("and", "or")
    ):
        return False
    names = _mentions(said, _names())
    return not names or any(names[0] in _mentions(answer, _names()) for answer in accepted)
