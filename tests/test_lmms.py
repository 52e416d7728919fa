"""Our models inside lmms-eval: by the package itself where it is installed, else by a stand-in that
holds what its guide and its registry ask of a model."""

from __future__ import annotations

import abc
import importlib
import json
import logging
import math
import os
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unified.eval import lmms
from unified.eval.plan import seed_of
from unified.toybox.scene import Scene, Thing, render

ROOT = Path(__file__).resolve().parent.parent
GROUP = "lmms_eval.models"


class Base(abc.ABC):
    """What lmms_eval.api.model.lmms is to a model: three methods to have, and what it sets."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}
        names = (getattr(self, n, None) for n in ("model_name", "model_version", "pretrained"))
        self.cache_name = next((n for n in names if isinstance(n, str) and n), "")

    @abc.abstractmethod
    def loglikelihood(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: Any) -> Any: ...

    @classmethod
    def create_from_arg_string(cls, words: str, more: dict[str, Any]) -> Any:
        pairs = (word.split("=", 1) for word in words.split(",") if word)
        given = {key: float(v) if v.replace(".", "", 1).isdigit() else v for key, v in pairs}
        return cls(**given, **{key: value for key, value in more.items() if value is not None})


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class Instance:
    """A request: `args` is all that a model reads."""

    args: tuple[Any, ...]
    request_type: str = "generate_until"
    metadata: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Any]]:
    """lmms-eval, or its stand-in; the base class of its models."""
    try:
        base = importlib.import_module("lmms_eval.api.model").lmms
    except ImportError:
        base = Base
        for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        for name, key, value in (
            ("lmms_eval.api.model", "lmms", Base),
            ("lmms_eval.models.registry_v2", "ModelManifest", ModelManifest),
        ):
            module = types.ModuleType(name)
            setattr(module, key, value)
            monkeypatch.setitem(sys.modules, name, module)
    yield base
    for name in ("UnifiedChat", "UnifiedSimple"):
        vars(lmms).pop(name, None)


def resolved(base: type[Any], kind: str) -> Any:
    """The class as lmms-eval's registry gets it: from the entry point, checked by its rules."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, value),) = project["entry-points"][GROUP].items()
    manifest = EntryPoint(name, value, GROUP).load()()
    assert manifest.model_id == "unified"
    path = getattr(manifest, f"{kind}_class_path")
    module, _, attribute = path.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, type) and issubclass(found, base)
    assert found.is_simple is (kind == "simple")  # type: ignore[attr-defined]
    return found


def scene(*things: Thing) -> Image.Image:
    return Image.fromarray(render(Scene.of(things, "white")))


CAT = scene(Thing("cat", None, "big", 0, 0))
DOGS = scene(Thing("dog", None, "big", 0, 0), Thing("dog", None, "big", 2, 2))
DOCS = [
    {"picture": CAT, "question": "What is in the picture?"},
    {"picture": DOGS, "question": "How many dogs are there?"},
    {"picture": CAT, "question": "Where is the cat?"},
]


def messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """As the package makes them of a picture and a question."""
    return [{"role": "user", "content": [
        {"type": "image", "url": doc["picture"]}, {"type": "text", "text": doc["question"]},
    ]}]  # fmt: skip


def requests(
    count: int = 3, to_messages: Callable[[Any], Any] = messages, **settings: Any
) -> list[Instance]:
    given = {"max_new_tokens": 24, "until": ["\n\n"], **settings}
    return [Instance(("context", to_messages, given, k, "toys", "test")) for k in range(count)]


def visual(doc: dict[str, Any]) -> list[Any]:
    return [doc["picture"]]


def choices(options: list[str], doc_id: int) -> list[Instance]:
    question = DOCS[doc_id]["question"]
    return [Instance((question, f" {option}", visual, doc_id, "toys", "test"), "loglikelihood")
            for option in options]  # fmt: skip


@pytest.fixture
def make(package: type[Any], shipped: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a model as `--model unified --model_args WORDS` does, on weights that are loaded."""
    from unified import handle

    monkeypatch.setattr(handle, "load", lambda *_, **__: shipped)

    def made(words: str = "", kind: str = "chat", docs: Any = DOCS) -> Any:
        given = {"batch_size": 2, "device": "cpu"}
        model = resolved(package, kind).create_from_arg_string(words, given)
        model.task_dict["toys"] = {"test": docs}
        return model

    return made


@pytest.fixture(scope="module")
def shipped() -> Any:
    from unified.handle import load

    return load(device="cpu")


# Found by the package


def test_the_module_needs_no_package() -> None:
    assert "lmms_eval" not in sys.modules or importlib.util.find_spec("lmms_eval")
    with pytest.raises(AttributeError, match="no attribute 'UnifiedFilm'"):
        lmms.UnifiedFilm  # noqa: B018
    if importlib.util.find_spec("lmms_eval") is None:
        with pytest.raises(ModuleNotFoundError, match="lmms_eval"):
            lmms.manifest()
        with pytest.raises(ModuleNotFoundError, match="lmms_eval"):
            lmms.UnifiedChat  # noqa: B018


@pytest.mark.parametrize("kind", ["chat", "simple"])
def test_the_registry_takes_our_classes(kind: str, package: type[Any]) -> None:
    found = resolved(package, kind)
    assert not getattr(found, "__abstractmethods__", None)
    assert found is resolved(package, kind)


def test_what_lmms_eval_reads_of_a_model_is_there(make: Any) -> None:
    model = make()
    assert (model.rank, model.world_size, str(model.device)) == (0, 1, "cpu")
    assert model.batch_size == 2 and model.accelerator.num_processes == 1
    assert getattr(model, "cache_name", "unified/toybox") == "unified/toybox"


# Questions


def test_answers_are_those_of_the_model_in_the_order_asked(make: Any, shipped: Any) -> None:
    asked = requests(3)
    seeds = [seed_of(0, "toys", f"test/{k}") for k in range(3)]
    alone = [shipped.ask(doc["picture"], doc["question"], seed=seed, most=24)
             for doc, seed in zip(DOCS, seeds, strict=True)]  # fmt: skip
    model = make()
    assert model.generate_until(asked) == alone and all(alone)
    assert "cat" in alone[0].lower() and "two" in alone[1].lower()
    shuffled = [asked[2], asked[0], asked[1]]
    assert model.generate_until(shuffled) == [alone[2], alone[0], alone[1]]
    simple = [Instance((doc["question"], asked[0].args[2], visual, k, "toys", "test"))
              for k, doc in enumerate(DOCS)]  # fmt: skip
    assert make(kind="simple").generate_until(simple) == alone
    five = [Instance(request.args[1:]) for request in asked]  # as the guide has them
    assert model.generate_until(five) == alone


def test_text_and_pictures_keep_their_order(
    make: Any, shipped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def woven(doc: Any) -> list[dict[str, Any]]:
        return [
            {"role": "system", "content": [{"type": "text", "text": "Look."}]},
            {"role": "user", "content": [
                {"type": "text", "text": "This is one:"}, {"type": "image", "url": CAT},
                {"type": "text", "text": "How many dogs are here?"}, {"type": "image", "url": DOGS},
            ]},
        ]  # fmt: skip

    shown: list[Any] = []
    model = make()
    chat = shipped.chat

    def spied(given: Any, **how: Any) -> Any:
        shown.append((given, how))
        return chat(given, **how)

    monkeypatch.setattr(shipped, "chat", spied)
    (answer,) = model.generate_until(requests(1, woven))
    ((given_, how),) = shown
    (message,) = given_
    kinds = [part.get("text") or part["image"].tobytes() for part in message["content"]]
    assert kinds == ["Look.", "This is one:", CAT.tobytes(), "How many dogs are here?",
                     DOGS.tobytes()]  # fmt: skip
    assert how["draw"] == "never" and answer and not answer.startswith("{")


def test_a_stop_word_ends_an_answer_and_settings_are_the_task_s(
    make: Any, shipped: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = make("guidance_scale=2")
    (whole,) = model.generate_until(requests(1))
    (cut,) = model.generate_until(requests(1, until=whole[2:4]))
    assert cut == whole[: whole.index(whole[2:4])] and len(cut) < len(whole)
    seen: list[Any] = []

    def noted(images: list[Any], *_: Any, **how: Any) -> list[str]:
        seen.append(how)
        return ["x"] * len(images)

    monkeypatch.setattr(shipped, "ask", noted)
    model.generate_until(requests(1, temperature=0.5, top_p=0.9, num_beams=3))
    model.generate_until(requests(1, temperature=0.5, do_sample=False))
    model.generate_until([*requests(1, temperature=0.5)] * 2)  # the same one, repeated
    assert [how["text_temperature"] for how in seen] == [0.5, 0.0, 0.5]
    assert seen[0]["most"] == 24 and seen[0]["guidance_scale"] == 2
    assert len(set(seen[2]["seed"])) == 2 and seen[2]["seed"][0] == seen[0]["seed"][0]
    said = caplog.text
    assert "num_beams=3 is left out" in said and "top_p=0.9 is left out" in said
    assert said.count("left out") == 2


def test_what_cannot_be_answered_is_named_and_the_rest_goes_on(
    make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n123")
    docs = [DOCS[0], {**DOCS[1], "picture": str(broken)}, {**DOCS[2], "question": "why? " * 900}]
    model = make(docs=docs)
    with caplog.at_level(logging.WARNING):
        first, second, third = model.generate_until(requests(3))
    assert "cat" in first.lower() and second == third == ""
    assert "toys, test 1: not answered: " in caplog.text and "broken.png" in caplog.text
    assert "toys, test 2: not answered: the message takes" in caplog.text


def test_a_task_of_sound_is_refused_rather_than_scored_zero(make: Any) -> None:
    def heard(doc: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "audio", "url": {"array": []}}]}]

    with pytest.raises(ValueError, match="toys, test 0: this model takes no audio; it reads text"):
        make().generate_until(requests(1, heard))
    film = [Instance(("What?", {}, lambda doc: ["a.mp4"], 0, "toys", "test"))]
    with pytest.raises(ValueError, match="this model takes no video"):
        make(kind="simple").generate_until(film)
    with pytest.raises(NotImplementedError, match="several rounds"):
        make().generate_until_multi_round([])


# Drawings


def test_drawings_are_files_that_the_answer_names(make: Any, tmp_path: Path) -> None:
    def drawn(doc: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "text", "text": "Draw a cat."}]}]

    words = f"draw=only,image_folder={tmp_path / 'drawings'},seed=3"
    (answer,) = make(words).generate_until(requests(1, drawn, max_new_tokens=2))
    found = json.loads(answer)
    assert set(found) == {"text", "images"} and len(found["images"]) == 1
    path = Path(found["images"][0])
    assert path.is_absolute() and path.parent == tmp_path / "drawings" / "toys"
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (64, 64, 3)
    before = path.read_bytes()
    assert make(words).generate_until(requests(1, drawn)) == [answer]
    assert path.read_bytes() == before
    bad = make(words, docs=[{"picture": str(tmp_path / "none.png"), "question": "Change it."}])
    assert json.loads(bad.generate_until(requests(1))[0]) == {"text": "", "images": []}


# Likelihoods


def test_the_least_loss_is_the_right_answer(make: Any, shipped: Any) -> None:
    model = make(kind="simple")
    for doc_id, options, right in (
        (0, ["A dog.", "A cat.", "A tree."], 1),
        (1, ["One.", "Four.", "Two."], 2),
    ):
        found = model.loglikelihood(choices(options, doc_id))
        assert int(np.argmin([loss for loss, _ in found])) == right  # as the package chooses
        assert all(loss > 0 for loss, _ in found)
    doc = DOCS[0]
    said = shipped.ask(doc["picture"], doc["question"])
    ((loss, greedy), (_, other)) = model.loglikelihood(choices([said, "A dog."], 0))
    assert greedy and not other and 0 < loss < 0.5
    target = Instance((doc["question"], lambda doc: said, visual, 0, "toys", "test"))
    assert model.loglikelihood([target]) == [(loss, True)]


def test_an_option_without_a_likelihood_is_last(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(kind="simple", docs=[{**DOCS[0], "picture": "none.png"}])
    assert model.loglikelihood(choices(["A cat."], 0)) == [(math.inf, False)]
    assert "none.png: no such file" in caplog.text
    ((loss, _),) = model.loglikelihood([Instance(("", "A cat."))])  # by itself, without a picture
    assert 0 < loss < math.inf
    assert model.loglikelihood([Instance(("What?", " "))]) == [(math.inf, False)]


# Arguments and texts


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("draw=maybe", "draw=maybe: one of never, auto, first, only"),
        ("guidence_scale=2", "unknown sampling option 'guidence_scale'; one of guidance_scale"),
        ("top_p=3", "top_p is 3.0; it lies between 0 and 1"),
    ],
)
def test_wrong_arguments_are_refused(words: str, reason: str, make: Any) -> None:
    with pytest.raises(ValueError, match=reason):
        make(words)


@given(st.lists(st.text(alphabet="ab <>", max_size=6), min_size=1, max_size=5), st.data())
def test_pictures_stand_where_the_text_says(words: list[str], data: st.DataObject) -> None:
    """At the marks where there is one for each; else all in front, and no mark is left."""
    words = [word.replace(lmms.PLACE, "") for word in words]
    exact = data.draw(st.booleans())
    count = len(words) - 1 if exact else data.draw(st.integers(0, 6))
    visuals = [Image.new("RGB", (1, 1), (k, 0, 0)) for k in range(count)]
    parts = lmms.interleaved(lmms.PLACE.join(words), visuals)
    shown = [part["url"] for part in parts if part["type"] == "image"]
    assert shown == visuals
    texts = [part["text"] for part in parts if part["type"] == "text"]
    if count == len(words) - 1:
        assert texts == [word.strip() for word in words if word.strip()]
        order = [part.get("text", "") for part in parts]
        wanted = [w for word in words for w in (word.strip(), None)][:-1]
        assert order == [w or "" for w in wanted if w is None or w]
    else:
        assert [part["type"] for part in parts[:count]] == ["image"] * count
        assert texts == ["".join(words).strip()]


TASK = """task: toys
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_visual: !function toys.pictures
doc_to_text: !function toys.words
doc_to_messages: !function toys.messages
doc_to_target: answer
generation_kwargs: {max_new_tokens: 24}
process_results: !function toys.score
metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
"""
FUNCTIONS = """from PIL import Image

def pictures(doc): return [Image.open(doc["path"]).convert("RGB")]
def words(doc, kwargs=None): return doc["question"]
def messages(doc, kwargs=None):
    parts = [{"type": "image", "url": pictures(doc)[0]}, {"type": "text", "text": words(doc)}]
    return [{"role": "user", "content": parts}]
def score(doc, results): return {"right": float(doc["answer"] in results[0].lower())}
"""


@pytest.mark.skipif(not find_spec("lmms_eval"), reason="pip install lmms-eval")
@pytest.mark.parametrize("kind", [[], ["--force_simple"]])
def test_the_package_itself_scores_a_task(kind: list[str], tmp_path: Path) -> None:
    """A task of our own, because those of the package fetch their data; 3 pictures."""
    rows = []
    for name in ("dog", "cat", "car"):
        path = tmp_path / f"{name}.png"
        Image.fromarray(render(Scene.of([Thing(name, None, "big", 1, 1)], "sky"))).save(path)
        rows.append({"path": str(path), "question": "What is this?", "answer": name})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "toys.py").write_text(FUNCTIONS)
    (tmp_path / "toys.yaml").write_text(TASK.replace("DATA", str(tmp_path / "rows.jsonl")))
    command = [sys.executable, "-m", "lmms_eval", "--model", "unified", "--tasks", "toys",
               "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]  # fmt: skip
    alone = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([*command, *kind], capture_output=True, text=True, env=alone)
    assert run.returncode == 0, run.stderr[-2000:]
    (found,) = (tmp_path / "out").rglob("*results.json")
    assert json.loads(found.read_text())["results"]["toys"]["right,none"] == 1, run.stderr[-2000:]
