"""The automaton that keeps media blocks well formed and says which head is live.

It follows a sequence id by id. In a reply the model chooses in two states only: "text" (text,
<image>, <end>) and "codes" (a picture code). Everything else is forced and never sampled, ids that
stand among the codes (`Frame`) too.

Where one id opens both codes and a view, a reply that opens it draws, and one that reads back what
it drew views; in a prompt the id that follows tells which it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unified.sequence import Layout


class Grammar:
    """State of one sequence.

    Attributes:
        state: "start", "turn" (between turns), "text", "codes", "image_end" (due),
            "after_codes", "slots" or "view_end" (due).
        left: slots, or codes and what stands among them, still to come.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.state = "start"
        self.left = 0

    def advance(self, token: int) -> None:
        """Take one id.

        Raises:
            ValueError: the id may not stand here; the state is unchanged.
        """
        vocabulary = self.layout.vocabulary
        if self.due is not None:
            if token != self.due:
                wanted = vocabulary.name(self.due)
                raise ValueError(f"{vocabulary.name(token)} where {wanted} is due in a picture")
            self.left -= 1
            self.state = "codes" if self.left else "image_end"
            return
        names = vocabulary.names(token)
        if len(names) > 1 and self.state == "after_codes":  # <image> or <view>: read back first
            names = names[::-1] if self.layout.reread else names
        found = next((after for name in names if (after := self._next(name))), None)
        if found is None:
            raise ValueError(f"<{names[0]}> may not stand in state {self.state!r}")
        if names == ("code",):
            self.layout.check_code(token, self._place if self.state == "codes" else 0)
        self.state, self.left = found

    @property
    def due(self) -> int | None:
        """The id that must come next among the codes of a picture, None where any may."""
        return self.layout.written[-self.left] if self.state == "codes" else None

    @property
    def _place(self) -> int:
        """Of the next code in its picture."""
        return self.layout.places[-self.left]

    def _next(self, name: str) -> tuple[str, int] | None:
        """State and rest after a token of this name; None where it may not stand."""
        layout, left, state = self.layout, self.left - 1, self.state
        lengths = {"codes": len(layout.written), "slots": layout.view_length}
        control = layout.vocabulary.controls.get
        if control("image") == control("view") and self.left == lengths.get(state):
            state = {"code": "codes", "slot": "slots"}.get(name, state)  # just opened: either
            left = lengths[state] - 1
        if state == "turn" and not layout.roles and name != "end":
            state = "text"
        match state, name:
            case "start", "bos":
                return "turn", 0
            case "turn", "user" | "assistant":
                return "text", 0
            case "text" | "after_codes", "text":
                return "text", 0
            case "text" | "after_codes", "image":
                return "codes", lengths["codes"]
            case "text" | "after_codes", "view":
                return "slots", layout.view_length
            case "text" | "after_codes", "end":
                return "turn", 0
            case "codes", "code":
                return ("codes", left) if left else ("image_end", 0)
            case "image_end", "image_end":
                return "after_codes", 0
            case "slots", "slot":
                return ("slots", left) if left else ("view_end", 0)
            case "view_end", "view_end":
                return "text", 0
        return None

    @property
    def is_complete(self) -> bool:
        """Between turns: the sequence may end here."""
        return self.state == "turn"

    @property
    def head(self) -> str | None:
        """Which head chooses the next id of a reply: "text", "image", None where it is forced."""
        if self.state == "after_codes" and not self.layout.reread:
            return "text"
        if self.due is not None:
            return None
        return {"text": "text", "codes": "image"}.get(self.state)

    @property
    def forced(self) -> int:
        """The id that must come next in a reply; what was drawn is read back if it ever is."""
        if self.due is not None:
            return self.due
        names = {
            "image_end": "image_end",
            "after_codes": "view",
            "slots": "slot",
            "view_end": "view_end",
        }
        if self.head is not None or self.state not in names:
            raise ValueError(f"nothing is forced in state {self.state!r}")
        return self.layout.vocabulary.control(names[self.state])

    def choices(self, draw: bool = True) -> list[range]:
        """Ranges of ids that the live head may choose from; `draw` allows to open a picture."""
        vocabulary = self.layout.vocabulary
        if self.head == "image":
            return [self.layout.codes_at(self._place)]
        if self.head == "text":
            names = ("end", "image") if draw else ("end",)
            marks = [vocabulary.control(name) for name in names]
            return [*vocabulary.text_ranges, *(range(mark, mark + 1) for mark in marks)]
        return [range(self.forced, self.forced + 1)]
