"""Who says whether a drawing is right: exact facts, an image-text model, the model, features.

A judge is named and has a revision, and both stand in every row that it had a part in. Judges that
are models are loaded when they are first asked. What a judge says that is no answer is `Unscored`,
never a score. Knows nothing of benchmarks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from unified.eval import judge as synthesis
from unified.eval.answers import chosen_option, yes_or_no
from unified.eval.features import (
    SHIPPED,
    EncoderFeatures,
    PixelFeatures,
    architecture,
    directory_revision,
    of_directory,
)
from unified.media.picture import named
from unified.toybox.sprites import COLOURS, OBJECTS, SHAPES

SELF = "self"
BUILT_IN = ("toybox", SELF, "features", SHIPPED)


class Unscored(ValueError):
    """A sample that cannot be scored: why; `outside` where it is not for this judge at all."""

    def __init__(self, reason: str, outside: bool = False):
        super().__init__(reason)
        self.outside = outside


class Judge(Protocol):
    """Attributes: name and revision, for the rows; kind: "facts", "questions", "features" or
    "similarity"."""

    name: str
    revision: str
    kind: str


class ToyboxJudge:
    """The exact judge of toybox pictures, as a detector of what the toybox has names for."""

    kind = "facts"
    name, revision = f"toybox {synthesis.NAME}", str(synthesis.VERSION)

    def fulfils(self, image: Image.Image, request: dict[str, Any]) -> bool:
        """Whether a picture shows what was asked for and nothing else."""
        return synthesis.check(synthesis.judge(image), request)

    def geneval(self, image: Image.Image, metadata: dict[str, Any]) -> bool:
        """GenEval's rule on one picture: at least so many of each class, of its colour, in its
        place, and fewer than so many of what is excluded.

        Raises:
            Unscored: a class or colour that the toybox has no name for.
        """
        included, excluded = metadata.get("include", []), metadata.get("exclude", [])
        for wanted in (*included, *excluded):
            self._check_known(wanted)
        found = synthesis.judge(image)
        groups: list[list[Any] | None] = []
        right = True
        for wanted in included:
            things = [t for t in found.things if t.name == _thing(wanted["class"])]
            if wanted.get("color"):
                things = [t for t in things if t.colour == _colour(wanted["color"])]
            matched = len(things) >= wanted["count"]
            if matched and wanted.get("position"):
                name, target = wanted["position"]
                others = groups[target] if target < len(groups) else None
                matched = bool(others) and all(
                    synthesis.relation(a, b) == name
                    for a in things[: wanted["count"]] for b in others or ()
                )  # fmt: skip
            groups.append(things[: wanted["count"]] if matched else None)
            right = right and matched
        for barred in excluded:
            count = sum(t.name == _thing(barred["class"]) for t in found.things)
            right = right and count < barred["count"]
        return right

    @staticmethod
    def _check_known(wanted: dict[str, Any]) -> None:
        """Shapes have a colour; an object has the one it is drawn in, and no other can be asked."""
        name, colour = _thing(wanted["class"]), wanted.get("color")
        if name not in OBJECTS and name not in SHAPES:
            raise Unscored(f"the toybox has no {wanted['class']!r}", outside=True)
        if colour and (name in OBJECTS or _colour(colour) not in COLOURS):
            raise Unscored(f"the toybox has no {colour} {wanted['class']}", outside=True)


_ALSO = {"sports ball": "ball", "grey": "gray"}


def _thing(name: str) -> str:
    return _ALSO.get(name, name)


def _colour(name: str) -> str:
    return _ALSO.get(name, name)


class Questioner(ABC):
    """What judges that answer questions have in common."""

    kind = "questions"
    name: str
    revision: str

    @abstractmethod
    def says(self, images: list[Image.Image], questions: list[str]) -> list[str]:
        """The answers as they are said."""

    def yes(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[bool]:
        """Yes or no to each question about its picture.

        Raises:
            Unscored: an answer is neither.
        """
        said = self.says(list(images), list(questions))
        out = []
        for question, text in zip(questions, said, strict=True):
            found = yes_or_no(text)
            if found is None:
                raise Unscored(f"the judge {self.name} answered {text[:40]!r} to {question[:60]!r}")
            out.append(found)
        return out

    def choose(self, image: Image.Image, question: str, choices: Sequence[str]) -> int:
        """Which of the choices is its answer.

        Raises:
            Unscored: it named none of them.
        """
        asked = f"{question} Choose one: {', '.join(choices)}."
        (text,) = self.says([image], [asked])
        found = chosen_option(text, choices)
        if found is None:
            raise Unscored(f"the judge {self.name} answered {text[:40]!r} to {asked[:60]!r}")
        return found


class SelfJudge(Questioner):
    """The model under test judging its own drawings; its rows say so, loudly."""

    def __init__(self, model: Any):
        self.model = model
        self.name = f"SELF-JUDGED by {getattr(model, 'source', '') or 'the model'}"
        self.revision = str(getattr(model, "revision", ""))

    def says(self, images: list[Image.Image], questions: list[str]) -> list[str]:
        answers: list[str] = self.model.ask(images, questions, seed=0)
        return answers


class TransformersJudge(Questioner):
    """Any image-text model of transformers itself, from a directory, safetensors only."""

    def __init__(self, folder: Path, longest: int = 16):
        self.folder, self.longest = folder, longest
        self.architecture = architecture(folder)
        self.name, self.revision = folder.name, directory_revision(folder)
        self._loaded: tuple[Any, Any] | None = None

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import transformers

            kind = getattr(transformers, self.architecture, None)
            if kind is None or not hasattr(kind, "generate"):
                raise ValueError(
                    f"{named(self.folder)}: {self.architecture} answers no questions in this"
                    " transformers; name an image-text model"
                )
            try:
                processor = transformers.AutoProcessor.from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False
                )
                model = kind.from_pretrained(
                    self.folder,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                )
            except (OSError, ValueError, RuntimeError, ImportError) as error:
                reason = " ".join(str(error).split())[:120]
                raise ValueError(f"{named(self.folder)}: cannot be loaded: {reason}") from None
            self._loaded = processor, model.eval()
        return self._loaded

    def says(self, images: list[Image.Image], questions: list[str]) -> list[str]:
        import torch

        processor, model = self._load()
        answers = []
        for image, question in zip(images, questions, strict=True):
            inputs = processor(
                images=image.convert("RGB"), text=self._words(processor, question),
                return_tensors="pt",
            )  # fmt: skip
            with torch.inference_mode():
                ids = model.generate(**inputs, max_new_tokens=self.longest, do_sample=False)
            if not model.config.is_encoder_decoder and ids.shape[1] > inputs["input_ids"].shape[1]:
                start = inputs["input_ids"].shape[1]
                if torch.equal(ids[:, :start].cpu(), inputs["input_ids"].cpu()):
                    ids = ids[:, start:]
            answers.append(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())
        return answers

    @staticmethod
    def _words(processor: Any, question: str) -> str:
        """The question in the model's own frame: its chat template, else its picture token."""
        if getattr(processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            words: str = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            return words
        token = getattr(processor, "image_token", None)
        return f"{token}\n{question}" if token else question


class TransformersSimilarity:
    """How near pictures and words are to an encoder of both (CLIP, SigLIP …) of transformers."""

    kind = "similarity"

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = f"{folder.name} ({architecture(folder)})"
        self.revision = directory_revision(folder)
        self._loaded: tuple[Any, Any] | None = None

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModel, AutoProcessor

            try:
                processor = AutoProcessor.from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False
                )
                model = AutoModel.from_pretrained(
                    self.folder,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                )
            except (OSError, ValueError, RuntimeError, ImportError) as error:
                reason = " ".join(str(error).split())[:120]
                raise ValueError(f"{named(self.folder)}: cannot be loaded: {reason}") from None
            if not hasattr(model, "get_text_features") or not hasattr(processor, "tokenizer"):
                raise ValueError(
                    f"{named(self.folder)}: {type(model).__name__} encodes no words; name an"
                    " encoder of pictures and words, such as CLIP"
                )
            self._loaded = processor, model.eval()
        return self._loaded

    def cosines(self, images: Sequence[Image.Image], text: str) -> list[float]:
        """The cosine between each picture and the words; words beyond its context are cut off."""
        import torch

        processor, model = self._load()
        room = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None)
        words = processor.tokenizer([text], return_tensors="pt", truncation=True, max_length=room)
        asked = model.get_text_features
        with torch.inference_mode():
            said = _vector(asked(**{k: v for k, v in words.items() if k != "token_type_ids"}))
            out = []
            for image in images:
                pixels = processor.image_processor(images=image.convert("RGB"), return_tensors="pt")
                seen = _vector(model.get_image_features(pixel_values=pixels["pixel_values"]))
                out.append(float(torch.cosine_similarity(seen, said, dim=0)))
        return out


def _vector(found: Any) -> Any:
    """The projected features, (D,), of what an encoder gives for one picture or text."""
    return getattr(found, "pooler_output", found).flatten().double()


def make(judge: str, kind: str, model: Any) -> Any:
    """The judge of a name, of the kind that a scorer needs.

    Args:
        judge: one of BUILT_IN, or a directory of transformers.
        kind: "facts", "questions", "features" or "similarity"; "" for none.

    Raises:
        ValueError: no such judge, or of another kind.
    """
    if not kind:
        return None
    if not judge:
        raise ValueError(f"it needs a judge that knows {kind}; name its directory with --judge")
    if judge == "toybox":
        found: Any = ToyboxJudge()
    elif judge == SELF:
        found = SelfJudge(model)
    elif judge == "features":
        found = PixelFeatures()
    elif judge == SHIPPED:
        found = EncoderFeatures()
    elif Path(judge).is_dir():
        kinds: dict[str, Any] = {"features": of_directory, "similarity": TransformersSimilarity}
        found = kinds.get(kind, TransformersJudge)(Path(judge))
    else:
        raise ValueError(
            f"unknown judge {judge!r}; one of {', '.join(BUILT_IN)}, or a model directory"
        )
    if found.kind != kind:
        raise ValueError(f"the judge {judge!r} knows {found.kind}; this benchmark needs {kind}")
    return found
