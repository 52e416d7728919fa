"""Small fixtures of benchmarks in their official formats, and a model that answers from a book.

Each function writes the files as their authors publish them, and returns what a perfect model says.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def image(number: int = 0) -> Image.Image:
    return Image.new("RGB", (20, 16), (number * 37 % 256, 90, 200))


def encoded(kind: str = "JPEG", number: int = 0) -> bytes:
    buffer = BytesIO()
    image(number).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, value: Any) -> Path:
    """Write text, bytes, a picture or JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    elif isinstance(value, Image.Image):
        value.save(path)
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@dataclass
class Model:
    """Answers from a book: the first entry that stands in the prompt. Draws flat pictures."""

    book: dict[str, str] = field(default_factory=dict)
    source: str = "oracle"
    revision: str = "1"
    shown: list[tuple[str, int]] = field(default_factory=list)
    draw: Callable[[str, int], Image.Image] = lambda prompt, seed: image(seed)

    def _say(self, prompt: str, pictures: int) -> str:
        self.shown.append((prompt, pictures))
        return next((said for key, said in self.book.items() if key in prompt), "I do not know.")

    def generate(self, prompt: list[str], *, seed: Sequence[int], **_: Any) -> list[Image.Image]:
        return [self.draw(text, seed[k]) for k, text in enumerate(prompt)]

    def animate(self, prompt: list[str], *, seed: Sequence[int], **_: Any) -> list[np.ndarray]:
        return [np.full((3, 16, 16, 3), seed[k] % 200, np.uint8) for k in range(len(prompt))]

    def ask(
        self, image: list[Image.Image], question: list[str], *, seed: Sequence[int], **_: Any
    ) -> Any:
        return [self._say(text, 1) for text in question]

    def rebuild(self, images: list[Image.Image]) -> list[Any]:
        return [(image, image.copy()) for image in images]

    def ask_sound(self) -> None:
        raise AssertionError("no sound is asked about here")

    def chat_batch(self, conversations: list[Any], *, seed: Sequence[int], **_: Any) -> list[Any]:
        out = []
        for (message,) in conversations:
            kinds = [part["type"] for part in message["content"]]
            text = self._say(message["content"][-1]["text"], kinds.count("image"))
            out.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
        return out

    def option_likelihoods(self, images: Any, question: str, options: Sequence[str]) -> Any:
        said = self._say(question, len(images))
        return [float(option == said) for option in options]


# The official formats, one function each: writes the files, returns what a perfect model says.


def pope(folder: Path) -> dict[str, str]:
    for k, kind in enumerate(("random", "popular", "adversarial")):
        rows = [
            {"question_id": 1, "image": "COCO_val2014_000000000001.jpg",
             "text": f"Is there a dog{k} in the image?", "label": "yes"},
            {"question_id": 2, "image": "COCO_val2014_000000000001.jpg",
             "text": f"Is there a car{k} in the image?", "label": "no"},
        ]  # fmt: skip
        put(folder / "coco" / f"coco_pope_{kind}.json", lines(rows))
    put(folder / "val2014" / "COCO_val2014_000000000001.jpg", encoded())
    return {"a dog": "Yes, there is.", "a car": "No, there is no car."}


def mme(folder: Path) -> dict[str, str]:
    home = folder / "MME_Benchmark_release_version"
    put(home / "eval_tool" / "readme.txt", "no questions here\n")
    for name, pictures, texts in (
        ("count", home / "count", home / "count"),
        ("OCR", home / "OCR" / "images", home / "OCR" / "questions_answers_YN"),
    ):
        put(pictures / "0001.jpg", encoded())
        put(texts / "0001.txt",
            f"Is it {name} one? Please answer yes or no.\tYes\n"
            f"Is it {name} two? Please answer yes or no.\tNo\n")  # fmt: skip
    return {"one?": "Yes", "two?": "no."}


def mmbench(folder: Path) -> dict[str, str]:
    head = (
        "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsource\tl2-category\tsplit\n"
    )
    code = base64.b64encode(encoded()).decode()
    body = (
        f"241\tWhich one is red?\tLook well.\tcat\tdog\tfox\tpig\tB\tcolour\t{code}\tx\ty\tdev\n"
        "252\tWhich one is big?\tnan\tant\twhale\t\t\tB\tsize\t241\tx\ty\tdev\n"
        "1000241\tWhich one is red?\tLook well.\tdog\tfox\tpig\tcat\tA\tcolour\t241\tx\ty\tdev\n"
    )
    put(folder / "mmbench_dev_en_20231003.tsv", head + body)
    return {"red": "dog", "big": "whale"}


def mmmu(folder: Path) -> dict[str, str]:
    import pyarrow as pa
    from pyarrow import parquet

    def row(number: int, **fields: Any) -> dict[str, Any]:
        base: dict[str, Any] = {f"image_{k}": None for k in range(1, 8)}
        return base | {
            "id": f"validation_Art_Theory_{number}", "topic_difficulty": "Easy",
            "image_1": {"bytes": encoded("PNG"), "path": "a.png"},
        } | fields  # fmt: skip

    rows = [
        row(1, question="Who made <image 1>?", options="['Monet', \"O'Keeffe\"]", answer="B",
            question_type="multiple-choice"),
        row(2, question="How do <image 1> and <image 2> differ?", options="['size', 'colour']",
            answer="A", question_type="multiple-choice",
            image_2={"bytes": encoded("PNG", 3), "path": "b.png"}),
        row(3, question="What does <image 1> cost?", options="[]", answer="24.5",
            question_type="open"),
    ]  # fmt: skip
    path = folder / "Art_Theory" / "validation-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return {"Who made": "(B)", "differ": "A", "cost": "The answer is 24.50"}


def mmvet(folder: Path) -> dict[str, str]:
    put(folder / "mm-vet.json", {
        "v1_0": {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5",
                 "imagesource": "x", "capability": ["ocr", "math"]},
        "v1_1": {"imagename": "v1_1.png", "question": "Who is it?", "answer": "Ann<OR>Anna",
                 "imagesource": "x", "capability": ["rec"]},
    })  # fmt: skip
    for k in (0, 1):
        put(folder / "images" / f"v1_{k}.png", image(k))
    return {"What is x?": "-1 or -5", "Who": "It is Anna."}


def seed_bench(folder: Path) -> dict[str, str]:
    base = {"data_type": "image", "choice_a": "one", "choice_b": "two", "choice_c": "three",
            "choice_d": "four", "segment": None}  # fmt: skip
    put(folder / "SEED-Bench.json", {
        "questions": [
            base | {"question_id": "101", "data_id": "1454426_2591111986", "answer": "C",
                    "question": "How many towels?", "question_type_id": 5},
            base | {"question_id": "102", "data_id": "film.mp4", "data_type": "video",
                    "answer": "A", "question": "What happens?", "question_type_id": 10},
        ],
        "question_type": {"Instances Counting": 5, "Action Recognition": 10},
    })  # fmt: skip
    put(folder / "SEED-Bench-image" / "1454426_2591111986.jpg", encoded())
    return {"towels": "three"}


def vqav2(folder: Path) -> dict[str, str]:
    put(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {
        "info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "val2014",
        "questions": [{"image_id": 42, "question": "What colour?", "question_id": 42000}],
    })  # fmt: skip
    given = [{"answer": "light blue", "answer_confidence": "yes", "answer_id": k}
             for k in range(1, 11)]  # fmt: skip
    put(folder / "v2_mscoco_val2014_annotations.json", {
        "annotations": [{
            "question_type": "what", "multiple_choice_answer": "light blue", "answers": given,
            "image_id": 42, "answer_type": "other", "question_id": 42000,
        }],
    })  # fmt: skip
    put(folder / "val2014" / "COCO_val2014_000000000042.jpg", encoded())
    return {"colour": "A light blue."}


def gqa(folder: Path) -> dict[str, str]:
    put(folder / "testdev_balanced_questions.json", {
        "201307251": {"question": "Is it overcast?", "answer": "no", "imageId": "n161313",
                      "isBalanced": True, "fullAnswer": "No, it is clear.",
                      "types": {"detailed": "x", "semantic": "attr", "structural": "verify"}},
    })  # fmt: skip
    put(folder / "images" / "n161313.jpg", encoded())
    return {"overcast": "No."}


def textvqa(folder: Path) -> dict[str, str]:
    put(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": [
        {"question_id": 34602, "image_id": "003a8ae2ef43b901", "question": "What brand?",
         "answers": ["nous les gosses"] * 7 + ["dakota"] * 3, "image_classes": ["Cassette deck"],
         "set_name": "val"},
    ]})  # fmt: skip
    put(folder / "train_images" / "003a8ae2ef43b901.jpg", encoded())
    return {"brand": "Nous les gosses"}


def scienceqa(folder: Path) -> dict[str, str]:
    base = {"hint": "", "task": "closed choice", "grade": "grade2", "subject": "natural science",
            "topic": "physics", "category": "x", "skill": "y", "lecture": "", "solution": "",
            "split": "test"}  # fmt: skip
    put(folder / "problems.json", {
        "4": base | {"question": "Which is the strongest?", "choices": ["iron", "wool", "wax"],
                     "answer": 0, "image": "image.png", "hint": "Think of magnets."},
        "5": base | {"question": "Which ends a sentence?", "choices": ["comma", "full stop"],
                     "answer": 1, "image": None, "subject": "language science"},
        "6": base | {"question": "Not asked", "choices": ["x", "y"], "answer": 1, "image": None,
                     "split": "train"},
    })  # fmt: skip
    put(folder / "pid_splits.json", {"train": ["6"], "val": [], "test": ["4", "5"]})
    put(folder / "test" / "4" / "image.png", image())
    return {"strongest": "A", "sentence": "B"}


def coco_captions(folder: Path) -> dict[str, str]:
    names = [f"COCO_val2014_{k:012d}.jpg" for k in (1, 2)]
    said = ["a red cat sits on a mat", "two big dogs run over green grass"]
    put(folder / "annotations" / "captions_val2014.json", {
        "info": {}, "licenses": [],
        "images": [{"id": k + 1, "file_name": name} for k, name in enumerate(names)],
        "annotations": [{"id": k, "image_id": k + 1, "caption": text}
                        for k, text in enumerate(said)],
    })  # fmt: skip
    for k, name in enumerate(names):
        put(folder / "val2014" / name, encoded(number=k))
    return {"caption": said[0]}


def geneval(folder: Path) -> dict[str, str]:
    put(folder / "prompts" / "evaluation_metadata.jsonl", lines([
        {"tag": "single_object", "include": [{"class": "dog", "count": 1}],
         "prompt": "a photo of a dog"},
        {"tag": "counting", "include": [{"class": "cat", "count": 2}],
         "exclude": [{"class": "cat", "count": 3}], "prompt": "a photo of two cats"},
        {"tag": "position", "include": [
            {"class": "cat", "count": 1},
            {"class": "dog", "count": 1, "position": ["left of", 0]}],
         "prompt": "a photo of a dog left of a cat"},
        {"tag": "two_object", "include": [{"class": "toaster", "count": 1},
                                          {"class": "cat", "count": 1}],
         "prompt": "a photo of a toaster and a cat"},
    ]))  # fmt: skip
    return {}


DPG_HEAD = ("item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,"
            "tuple,question_natural_language\n")  # fmt: skip


def dpg(folder: Path) -> dict[str, str]:
    put(folder / "dpg_bench.csv", DPG_HEAD + (
        'COCOval2014000000000001,"A cat, red.",x,1,0,entity,whole,entity - whole (cat),'
        "Is there a cat?\n"
        'COCOval2014000000000001,"A cat, red.",x,2,1,attribute,color,"attribute - color (cat, '
        'red)",Is the cat red?\n'
    ))  # fmt: skip
    put(folder / "prompts" / "COCOval2014000000000001.txt", "A cat, red.")
    return {"Is there a cat?": "Yes.", "Is the cat red?": "yes"}


def t2i_compbench(folder: Path) -> dict[str, str]:
    put(folder / "examples" / "dataset" / "color_val.txt",
        "a green bench and a blue bowl\na red cat\textra\n")  # fmt: skip
    put(folder / "examples" / "dataset" / "non_spatial_val.txt", "a man/woman runs\n")
    return {"Does this figure show": "Yes"}


def tifa(folder: Path) -> dict[str, str]:
    put(
        folder / "tifa_v1.0_text_inputs.json",
        [{"id": "coco_301091", "caption": "On the gray street there are cars", "coco_val_id": "1"}],
    )
    put(folder / "tifa_v1.0_question_answers.json", [
        {"id": "coco_301091", "caption": "x", "question": "are there cars?",
         "choices": ["yes", "no"], "answer": "yes", "element_type": "object", "element": "cars"},
        {"id": "coco_301091", "caption": "x", "question": "what is the color of the street?",
         "choices": ["gray", "brown", "black", "red"], "answer": "gray", "element_type": "color",
         "element": "gray"},
    ])  # fmt: skip
    return {"cars?": "yes", "street?": "It is gray."}


def genai_bench(folder: Path) -> dict[str, str]:
    put(folder / "genai_image.json", {
        "00000": {"id": "00000", "prompt": "A baker pulls bread", "models": {"SDXL": [4, 4, 5]}},
        "00001": {"id": "00001", "prompt": "More cats than dogs", "models": {}},
    })  # fmt: skip
    put(folder / "genai_skills.json", {"basic": [0], "attribute": [0], "advanced": [1],
                                       "counting": [1]})  # fmt: skip
    return {"Does this figure show": "Yes."}


def wise(folder: Path) -> dict[str, str]:
    row = {"Prompt": "A tool of a baker", "Explanation": "a rolling pin", "Category": "Culture",
           "Subcategory": "Jobs"}  # fmt: skip
    put(folder / "data" / "cultural_common_sense.json", [row | {"prompt_id": 1}])
    put(folder / "data" / "natural_science.json", [row | {"prompt_id": 701, "Category": "Physics"}])
    return {"rolling pin": "yes"}


def vbench(folder: Path) -> dict[str, str]:
    put(folder / "VBench_full_info.json", [
        {"prompt_en": "a bear climbing a tree", "dimension": ["subject_consistency"]},
    ])  # fmt: skip
    return {}


def coco_fidelity(folder: Path) -> dict[str, str]:
    names = [f"COCO_val2014_{k:012d}.jpg" for k in range(1, 7)]
    put(folder / "captions_val2014.json", {
        "images": [{"id": k, "file_name": name} for k, name in enumerate(names)],
        "annotations": [{"id": k, "image_id": k, "caption": f"caption {k}"} for k in range(6)],
    })  # fmt: skip
    for k, name in enumerate(names):
        put(folder / "val2014" / name, encoded(number=k))
    return {}


def coco_similarity(folder: Path) -> dict[str, str]:
    return coco_fidelity(folder)


def rebuilt(folder: Path) -> dict[str, str]:
    for k in range(3):
        put(folder / "n01440764" / f"ILSVRC2012_val_{k}.JPEG", encoded(number=k))
    put(folder / "n01443537" / "a.png", image(9))
    put(folder / "LOC_synset_mapping.txt", "n01440764 tench\n")
    return {}


def clip(folder: Path) -> Path:
    """A tiny random CLIP, as transformers itself saves it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<unk>", "<pad>", "<end>", "caption", "a", "cat", *map(str, range(10))]
    core = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", eos_token="<end>"
    )
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    config = CLIPConfig(
        text_config=small | {"vocab_size": len(words), "max_position_embeddings": 12,
                             "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1},
        vision_config=small | {"image_size": 28, "patch_size": 14}, projection_dim=8,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tokenizer).save_pretrained(folder)
    return folder


FIXTURES: dict[str, Callable[[Path], dict[str, str]]] = {
    f.__name__: f
    for f in (pope, mme, mmbench, mmmu, mmvet, seed_bench, vqav2, gqa, textvqa, scienceqa,
              coco_captions, geneval, dpg, t2i_compbench, tifa, genai_bench, wise, vbench,
              coco_fidelity, coco_similarity, rebuilt)
}  # fmt: skip
