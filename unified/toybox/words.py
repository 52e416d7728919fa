"""Tables of words: forms of every name, numbers, colours, sizes, places, relations, backgrounds.

Knows nothing about sentences.
"""

from __future__ import annotations

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
RELATION_WORDS = {
    "left of": ("to the left of", "left of", "on the left of", "on the left side of"),
    "right of": ("to the right of", "right of", "on the right of", "on the right side of"),
    "above": ("above", "above", "over", "on top of"),
    "below": ("below", "under", "beneath", "underneath", "below"),
    "next to": ("next to", "beside", "by the side of", "right beside"),
}
ITS_SIDE = {  # "a cat with a dog ..."
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
BACKGROUND_WORDS = {
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
PLACE_WORDS = {
    "left": ("on the left", "on the left side", "at left", "at the left", "to the left", "left"),
    "right": ("on the right", "on the right side", "at right", "at the right", "to the right"),
    "top": ("at the top", "at the top", "at the top edge", "on the top side", "up top"),
    "bottom": ("at the bottom", "at the bottom", "at the bottom edge", "on the bottom side"),
    "middle": (
        "in the middle", "in the center", "in the centre", "at the center", "right in the middle",
    ),
}  # fmt: skip
