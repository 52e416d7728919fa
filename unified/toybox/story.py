"""Dialogues of several turns: draw, ask, change, remember, refuse, undo.

A story keeps what was drawn and changed so far, so that every turn is true of the pictures before.
Knows nothing about seeds or tokens.
"""

from __future__ import annotations

import random
from typing import Any

from unified.toybox import talk
from unified.toybox.edits import Edit, edit, impossible
from unified.toybox.language import (
    NUMBERS,
    PLACE_PHRASES,
    a,
    amount,
    ask_to_draw,
    description,
    here_now,
    noise,
    noun,
    refer,
    request_for,
    say_noun,
    say_request,
    sentence,
    summary,
)
from unified.toybox.questions import OTHER_SKILLS, SKILLS, Focus, make_question
from unified.toybox.scene import Scene
from unified.toybox.staging import (
    CAPTION_FULL,
    CAPTION_SHORT,
    Dialogue,
    Turn,
    any_things,
    compose,
    drawn,
    reply,
    scene_facts,
    user,
)


class _Story:
    """A dialogue under construction: what was drawn and changed so far."""

    def __init__(self, rng: random.Random, split: str) -> None:
        self.rng, self.split = rng, split
        self.turns: list[Turn] = []
        self.draws: list[bool] = []
        self.steps: list[dict[str, Any]] = []
        self.scenes: list[Scene] = []  # all pictures in order
        self.drawn: list[Scene] = []  # the assistant's own
        self.edits: list[Edit] = []

    @property
    def scene(self) -> Scene:
        return self.scenes[-1]

    @property
    def cost(self) -> float:
        """About how many ids the turns take."""
        words = sum(len(t.text.split()) for t in self.turns)
        return 1.6 * words + 4 * len(self.turns) + 54 * len(self.scenes)

    def say(self, asked: Turn, said: Turn, step: dict[str, Any]) -> None:
        self.turns += [asked, said]
        for turn in (asked, said):
            if turn.scene:
                self.scenes.append(turn.scene)
        if said.scene:
            self.drawn.append(said.scene)
        self.draws.append(said.scene is not None)
        self.steps.append(step)

    def draw(self, scene: Scene, detail: float) -> None:
        rng = self.rng
        request = request_for(scene, rng, detail)
        text = noise(ask_to_draw(request, rng), rng)
        self.say(
            user(text),
            drawn(request, scene, rng),
            {"kind": "draw", "request": request.facts(), "scene": scene_facts(scene)},
        )

    def start(self) -> None:
        rng = self.rng
        scene = compose(rng, self.split, any_things)
        if rng.random() < 0.62:
            self.draw(scene, rng.choice((0.0, 0.5, 1.0)))
            return
        self.scenes.append(scene)  # so that the steps see it; taken back below
        step = rng.choice((self.change, self.change, self.change, self.question, self.refuse))
        before = len(self.turns)
        step()
        if len(self.turns) == before:
            self.describe()
        first = self.turns[0]
        parts = (scene, *first.parts) if rng.random() < 0.75 else (*first.parts, scene)
        self.turns[0] = Turn("user", parts)

    def change(self, plain: bool = False) -> None:
        rng = self.rng
        kind = rng.choice(
            (
                "recolour",
                "recolour",
                "add",
                "add",
                "remove",
                "remove",
                "move",
                "replace",
                "replace",
                "replace",
                "resize",
                "background",
                "swap",
            )
        )
        made = edit(self.scene, rng, self.split, kind, plain) or edit(self.scene, rng, self.split)
        if made is None:
            return
        self.edits.append(made)
        text = noise(made.request, rng)
        words = f"{made.reply} {here_now(made.after)}"
        said = reply(words, made.after) if rng.random() < 0.8 else reply(made.after)
        facts = {"kind": "edit", **made.facts, "before": scene_facts(made.before)}
        self.say(user(text), said, facts | {"after": scene_facts(made.after)})

    def question(self) -> None:
        skill = self.rng.choice((*SKILLS, *OTHER_SKILLS))
        found = make_question(self.scene, skill, self.rng, Focus(self.split))
        if found:
            text = noise(found.text, self.rng)
            self.say(user(text), reply(found.answer), {"kind": "question", **found.facts()})

    def describe(self) -> None:
        rng = self.rng
        full = rng.random() < 0.35
        text = rng.choice(CAPTION_FULL if full else CAPTION_SHORT)
        self.answer(text, description(self.scene) if full else summary(self.scene), "describe")

    def answer(self, text: str, words: str, kind: str) -> None:
        self.say(
            user(noise(text, self.rng)),
            reply(sentence(words)),
            {"kind": kind, "question": text, "answer": sentence(words), "answers": [words]},
        )

    def memory(self) -> None:
        """What was drawn, what was there before, what changed."""
        rng = self.rng
        options: list[tuple[str, str]] = []
        if self.drawn:
            text = rng.choice(
                (
                    "What did you draw?",
                    "What have you drawn?",
                    "What did you paint?",
                    "What did you just draw?",
                    "Which things did you draw?",
                    "What is in your picture?",
                    "What did you make?",
                    "Tell me what you drew.",
                    "What's in your drawing?",
                    "What did you draw last?",
                )
            )
            options += [(text, summary(self.drawn[-1]))] * 2
            many = rng.choice(
                (
                    "How many pictures have you drawn?",
                    "How many pictures did you draw?",
                    "How many pictures did you make so far?",
                )
            )
            options.append((many, NUMBERS[len(self.drawn)]))
        if len(self.scenes) > 1:
            before, first = self.scenes[-2], self.scenes[0]
            text = rng.choice(
                (
                    "What was there before?",
                    "What was in the picture before?",
                    "What was in the last picture?",
                    "What was there before the change?",
                    "What did the picture show before?",
                    "What was in the previous picture?",
                    "What did it look like before?",
                )
            )
            options += [(text, summary(before))] * 2
            text = rng.choice(
                (
                    "What was in the first picture?",
                    "What was there at first?",
                    "What did we start with?",
                    "What was there in the beginning?",
                    "What did the first picture show?",
                )
            )
            options.append((text, summary(first)))
        if self.edits:
            options += edit_memories(self.edits[-1], rng) * 2
        if options:
            text, words = rng.choice(options)
            self.answer(text, words, "memory")

    def refuse(self) -> None:
        rng = self.rng
        draw_ = rng.random()
        if draw_ < 0.6:
            absent = Focus(self.split).absent(self.scene, rng)
            if absent is None:
                return
            text, words = impossible(self.scene, rng, absent)
        elif draw_ < 0.85:
            thing = talk.unknown_thing(rng)
            text = rng.choice(
                (
                    "Add {x}.",
                    "Put {x} in it.",
                    "Can you add {x}?",
                    "Also draw {x}.",
                    "Now add {x}.",
                    "Draw {x} next to it.",
                    "I want {x} in it, too.",
                )
            )
            text = text.format(x=a(thing))
            words = f"I don't know how to draw {a(thing)}."
            self.say(
                user(noise(text, rng, thing.split())),
                reply(words),
                {"kind": "refuse", "answer": words},
            )
            return
        else:
            shapes = [t for t in self.scene.things if t.colour]
            if not shapes:
                return
            colour = rng.choice(talk.UNKNOWN_COLOURS)
            name = "it" if len(self.scene.things) == 1 else refer(self.scene, shapes[0])
            if name is None:
                return
            text = rng.choice(
                (f"Make {name} {colour}.", f"Paint {name} {colour}.", f"Turn {name} {colour}.")
            )
            words = talk.colour_reply(colour)
            self.say(
                user(noise(text, rng, colour.split())),
                reply(words),
                {"kind": "refuse", "answer": words},
            )
            return
        self.say(user(noise(text, rng)), reply(words), {"kind": "refuse", "answer": words})

    def ambiguous(self) -> None:
        """A change of one of several things alike that does not say which."""
        rng = self.rng
        names = [t.name for t in self.scene.things]
        alike = [n for n in dict.fromkeys(names) if names.count(n) > 1]
        if not alike:
            return
        name = rng.choice(alike)
        one = say_noun(name, 1, rng)
        text = rng.choice(
            (
                f"Remove the {one}.",
                f"Move the {one} to the left.",
                f"Delete the {one}.",
                f"Replace the {one} with something else.",
                f"Swap the {one} and something else.",
                f"Take the {one} away.",
                f"Put the {one} in the middle.",
                f"Please remove the {one}.",
                f"Where is the {one}?",
                f"Move the {one} to the top.",
            )
        )
        count = names.count(name)
        words = f"There are {NUMBERS[count]} {noun(name, count)}. Which one do you mean?"
        self.say(user(noise(text, rng)), reply(words), {"kind": "refuse", "answer": words})

    def told(self) -> Dialogue:
        facts = {
            "skill": "dialogue",
            "scene": scene_facts(self.scenes[0]),
            "steps": self.steps,
            "scenes": [scene_facts(s) for s in self.scenes],
            "draws": self.draws,
        }
        return self.turns, facts

    def undo(self) -> None:
        if len(self.scenes) < 2 or not self.edits:
            return
        rng, before = self.rng, self.scenes[-2]
        text = rng.choice(
            (
                "Undo that.",
                "Undo.",
                "Go back.",
                "Take that back.",
                "Show the previous picture again.",
                "Back to the picture before, please.",
                "Undo the last change.",
                "Revert that.",
                "I liked it better before.",
                "Please undo that.",
                "Show me the picture before that.",
            )
        )
        self.edits.clear()
        said = reply(f"Here is the picture as it was: {summary(before)}.", before)
        self.say(user(noise(text, rng)), said, {"kind": "undo", "after": scene_facts(before)})

    def draw_again(self) -> None:
        rng = self.rng
        scene = compose(rng, self.split, any_things)
        request = request_for(scene, rng, rng.choice((0.0, 0.5, 1.0)))
        lead = rng.choice(
            (
                "Now draw {x}.",
                "Draw a new picture: {x}.",
                "Next, draw {x}.",
                "Make a new picture of {x}.",
                "Forget that. Draw {x}.",
                "Please start over and draw {x}.",
                "A new picture: {x}.",
                "New picture with {x}.",
                "Let's draw something else: {x}.",
                "Draw {x} instead of all this.",
            )
        )
        words = ask_to_draw(request, rng)
        if rng.random() < 0.6:
            words = lead.format(x=say_request(request, rng))
        elif not any(w in words.lower() for w in ("draw", "paint", "sketch", "picture", "image")):
            return
        self.edits.clear()
        self.say(
            user(noise(words, rng)),
            drawn(request, scene, rng),
            {"kind": "draw", "request": request.facts(), "scene": scene_facts(scene)},
        )

    def chat(self) -> None:
        rng = self.rng
        name = rng.choice(
            (
                "thanks",
                "thanks",
                "praise",
                "praise",
                "blame",
                "ability",
                "colours",
                "most",
                "who",
                "not now",
                "bye",
                "edit ability",
            )
        )
        _, text, words = talk.intent(rng, name)
        self.say(user(noise(text, rng)), reply(words), {"kind": "talk", "intent": name})


def edit_memories(made: Edit, rng: random.Random) -> list[tuple[str, str]]:
    """Questions about the last change, with their answers."""
    target = made.facts.get("target")
    changed = rng.choice(
        (
            "What did you change?",
            "What is different now?",
            "What have you changed?",
            "What was the last change?",
            "What did you do?",
        )
    )
    options = [(changed, made.reply[:-1])]
    if target is None:
        return options
    name, colour, count = target["name"], target["colour"], made.facts.get("count", 1)
    before = made.before
    if made.kind == "recolour":
        number = target.get("count", 1)
        alone = len({t.colour for t in before.things if t.name == name}) == 1
        now = len({t.colour for t in made.after.things if t.name == name}) == 1
        if alone and now:
            words = say_noun(name, number, rng)
            be = "was" if number == 1 else "were"
            do = "did"
            text = rng.choice(
                (
                    f"What colour {be} the {words} before?",
                    f"Which colour {do} the {words} have before?",
                    f"Which colour {be} the {words} before that?",
                    f"What color {do} the {words} have before?",
                )
            )
            options += [(text, str(made.facts["from"]))] * 4
    elif made.kind == "add":
        text = rng.choice(("What did you add?", "What have you added?", "What is new?"))
        options += [(text, amount(name, colour, count))] * 3
    elif made.kind == "remove":
        text = rng.choice(
            (
                "What did you remove?",
                "What have you removed?",
                "What is gone now?",
                "What did you take away?",
            )
        )
        options += [(text, amount(name, colour, count))] * 3
    elif made.kind == "replace":
        text = rng.choice(("What did you replace?", "What was replaced?"))
        options += [(text, amount(name, colour))] * 2
    elif made.kind == "move" and sum(t.name == name for t in before.things) == 1:
        words = say_noun(name, 1, rng)
        text = rng.choice(
            (f"Where was the {words} before?", f"Where did the {words} stand before?")
        )
        options += [(text, PLACE_PHRASES[target["place"]])] * 3
    return options


def dialogue(rng: random.Random, split: str) -> Dialogue:
    """Draw, ask, change, remember."""
    story = _Story(rng, split)
    story.start()
    wanted = rng.randint(2, 5)
    steps = (
        [story.change] * 8
        + [story.question] * 4
        + [story.memory] * 5
        + [story.describe] * 2
        + [story.refuse] * 2
        + [story.ambiguous]
        + [story.undo]
        + [story.draw_again]
        + [story.chat]
    )
    for _ in range(12):
        if len(story.draws) >= wanted or story.cost > 370:
            break
        step = rng.choice(steps)
        drawing = step in (story.change, story.undo, story.draw_again)
        if drawing and (len(story.scenes) >= 3 or story.cost > 270):
            continue
        if not drawing and story.cost > 350:
            continue
        step()
    if len(story.draws) < 2:
        story.describe()
    return story.told()


def revise(rng: random.Random, split: str) -> Dialogue:
    """Draw a few things, change them once or twice, ask: all of it about the assistant's own
    pictures."""
    story = _Story(rng, split)
    story.draw(compose(rng, split, any_things), rng.choice((0.0, 0.0, 1.0)))
    while len(story.draws) < 6 and story.cost < 330:
        if len(story.scenes) < 3 and rng.random() < 0.6:
            story.change(plain=rng.random() < 0.7)
        else:
            rng.choice((story.question, story.question, story.memory, story.describe))()
        if len(story.scenes) == 3 and rng.random() < 0.35:
            break
    return story.told()
