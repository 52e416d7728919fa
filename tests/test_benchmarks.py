"""Every benchmark on a small fixture in its official format, by the code that reads the real."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.official import (
    FIXTURES,
    Model,
    clip,
    coco_similarity,
    dpg,
    image,
    lines,
    mme,
    mmmu,
    pope,
    put,
    scienceqa,
)
from unified.eval import benchmark, formats, judges, results, runner
from unified.eval.items import DataError
from unified.eval.paired import pair
from unified.media import film
from unified.media.picture import metadata
from unified.toybox.language import matches
from unified.toybox.questions import SKILLS
from unified.toybox.samples import benchmark_prompt
from unified.toybox.scene import Scene, Thing, render, sample_scene

GENERATION = [n for n in benchmark.names() if benchmark.load(n).side == "generation"]
BEST = {"mme": 200.0, "coco_captions": None, "coco_fidelity": None, "coco_similarity": None,
        "geneval": None, "rebuilt": 100.0}  # fmt: skip


def run(
    name: str, folder: Path, model: Model | None = None, **plan: Any
) -> tuple[results.Results, list[dict[str, Any]], Path]:
    """Run one benchmark on its fixture: results, records and where its files are."""
    book = FIXTURES[name](folder / "data")
    model = model or Model(book)
    task = runner.Task(benchmark.load(name), folder / "data")
    found = runner.run(model, [task], folder / "out", runner.Plan(**plan))
    assert not found.failed, found.failed
    return found, results.read_samples(folder / "out" / f"{name}.jsonl"), folder / "out" / name


def test_every_benchmark_has_a_fixture() -> None:
    made = {n for n in benchmark.names() if not formats.needs_data(benchmark.load(n))}
    unheard = {"librispeech", "film_questions"}
    assert set(FIXTURES) | made | unheard == set(benchmark.names())


@pytest.mark.parametrize("name", [n for n in FIXTURES if n not in BEST or BEST[n]])
def test_who_knows_all_scores_all(name: str, tmp_path: Path) -> None:
    found, records, _ = run(name, tmp_path)
    wanted = BEST.get(name, 1.0)
    first = [row for row in found.rows if row.metric == found.rows[0].metric]
    for row in first:
        sums = {"perception": 400.0}.get(row.skill, wanted) if name == "mme" else wanted
        assert row.value == sums, (row.skill, records)
    assert all(r.protocol == benchmark.load(name).protocol and r.unscored == 0 for r in found.rows)


@pytest.mark.parametrize("name", [n for n in FIXTURES if n not in (*GENERATION, "seed_bench")])
def test_who_knows_nothing_scores_little(name: str, tmp_path: Path) -> None:
    found, _, _ = run(name, tmp_path, Model())
    guessed = {"pope": 0.5, "mmmu": 2 / 3}  # yes to all; what the official code draws by lot
    assert found.rows[0].value <= guessed.get(name, 0.01)


def test_pope_answers_and_splits(tmp_path: Path) -> None:
    found, records, _ = run("pope", tmp_path, Model({"a dog": "Yes", "a car": "Yes"}))
    values = {(r.skill, r.metric): r.value for r in found.rows}
    assert values["overall", "precision"] == 0.5 and values["overall", "recall"] == 1
    assert values["random", "f1"] == pytest.approx(2 / 3)
    assert values["adversarial", "yes share"] == 1
    assert [r["id"] for r in records][:2] == ["adversarial/1", "adversarial/2"]


def test_mme_asks_once_a_line_and_writes_the_official_results(tmp_path: Path) -> None:
    model = Model()
    model.book = mme(tmp_path / "data")
    _, records, files = run("mme", tmp_path, model)
    assert len(records) == 4 and model.shown[0][0].startswith("Is it OCR one?")
    assert (files / "count.txt").read_text().splitlines() == [
        "0001\tIs it count one? Please answer yes or no.\tYes\tYes",
        "0001\tIs it count two? Please answer yes or no.\tNo\tno.",
    ]


def test_mmbench_turns_options_and_skips_the_file_s_own_turns(tmp_path: Path) -> None:
    found, records, _ = run("mmbench", tmp_path)
    assert [r["id"] for r in records] == ["241+0", "241+1", "241+2", "241+3", "252+0", "252+1"]
    assert "Hint: Look well." in records[0]["prompt"] and "Hint" not in records[4]["prompt"]
    assert records[1]["prompt"].index("dog") < records[1]["prompt"].index("cat")
    overall = next(r for r in found.rows if r.skill == "overall")
    assert overall.n == 2 and overall.split == "dev"
    stubborn = Model({"Which": "B"})  # always the same letter: right in one turn, never in all
    again, _, _ = run("mmbench", tmp_path / "again", stubborn)
    values = {r.metric: r.value for r in again.rows if r.skill == "overall"}
    assert values == {"circular accuracy": 0.0, "accuracy, first turn": 1.0}


def test_mmmu_shows_all_pictures_and_names_subjects(tmp_path: Path) -> None:
    model = Model()
    model.book = mmmu(tmp_path / "once")
    _, records, _ = run("mmmu", tmp_path, model)
    assert [pictures for _, pictures in sorted(model.shown, key=lambda s: "differ" in s[0])] == [
        1, 1, 2,
    ]  # fmt: skip
    assert {r["skill"] for r in records} == {"Art Theory"}
    assert "A. Monet\nB. O'Keeffe" in records[0]["prompt"]


def test_scienceqa_asks_without_a_picture_too(tmp_path: Path) -> None:
    model = Model()
    model.book = scienceqa(tmp_path / "once")
    run("scienceqa", tmp_path, model)
    assert sorted(pictures for _, pictures in model.shown) == [0, 1]


def test_scienceqa_counts_contexts_and_grades_as_officially(tmp_path: Path) -> None:
    """A question counts for its subject, for each context it has, and for its grades."""
    found, _, _ = run("scienceqa", tmp_path, Model({"strongest": "A", "sentence": "A"}))
    rows = {r.skill: (r.value, r.n) for r in found.rows}
    assert rows == {
        "overall": (0.5, 2), "natural science": (1, 1), "language science": (0, 1),
        "text context": (1, 1), "image context": (1, 1), "no context": (0, 1),
        "grades 1-6": (0.5, 2),
    }  # fmt: skip
    chances = {r.skill: r.chance for r in found.rows}
    assert chances["overall"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert chances["image context"] == pytest.approx(1 / 3)


def test_genai_bench_has_a_row_for_every_skill(tmp_path: Path) -> None:
    found, _, _ = run("genai_bench", tmp_path, Model({"More cats": "no", "baker": "yes"}))
    rows = {r.skill: (r.value, r.n) for r in found.rows}
    assert rows == {"overall": (0.5, 2), "attribute": (1, 1), "basic": (1, 1),
                    "advanced": (0, 1), "counting": (0, 1)}  # fmt: skip


def test_seed_bench_takes_the_likeliest_option(tmp_path: Path) -> None:
    found, records, _ = run("seed_bench", tmp_path)
    (record,) = records  # the question about a film is left out
    assert record["likelihoods"] == [0, 0, 1, 0] and record["skill"] == "Instances Counting"
    assert found.rows[0].value == 1


def test_captions_have_cider_and_the_official_file(tmp_path: Path) -> None:
    found, _, files = run("coco_captions", tmp_path)
    assert found.rows[0].metric == "CIDEr-D"
    assert found.rows[0].value == pytest.approx(5)  # ten for one picture, nothing for the other
    assert json.loads((files / "captions.json").read_text())[0]["image_id"] == 1


def test_karpathy_s_split_is_read(tmp_path: Path) -> None:
    put(tmp_path / "dataset_coco.json", {"images": [
        {"cocoid": 7, "filename": "a.jpg", "filepath": "val2014", "split": "test",
         "sentences": [{"raw": "A cat."}]},
        {"cocoid": 8, "filename": "b.jpg", "filepath": "val2014", "split": "train",
         "sentences": [{"raw": "A dog."}]},
    ]})  # fmt: skip
    (sample,) = formats.read(benchmark.load("coco_captions"), tmp_path)
    assert sample.id == "7" and sample.facts["references"] == ["A cat."]


@pytest.mark.parametrize(
    ("name", "file", "wanted"),
    [
        ("vqav2", "answers.json", [{"question_id": 42000, "answer": "A light blue."}]),
        ("gqa", "answers.json", [{"questionId": "201307251", "prediction": "No."}]),
        ("mmvet", "answers.json", {"v1_0": "-1 or -5", "v1_1": "It is Anna."}),
    ],
)
def test_answers_are_written_as_officially(
    name: str, file: str, wanted: Any, tmp_path: Path
) -> None:
    _, _, files = run(name, tmp_path)
    assert json.loads((files / file).read_text()) == wanted


# Drawings


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("geneval", [f"0000{p}/{f}" for p in range(4) for f in
                     ("metadata.jsonl", *(f"samples/000{k}.png" for k in range(4)))]),
        ("dpg", ["COCOval2014000000000001.png"]),
        ("tifa", ["coco_301091.png", "images.json"]),
        ("genai_bench", ["00000.jpeg", "00001.jpeg"]),
        ("wise", ["1.png", "701.png"]),
        ("vbench", [f"a bear climbing a tree-{k}.mp4" for k in range(5)]),
        ("t2i_compbench", [
            *(f"color_val/samples/a green bench and a blue bowl_{k:06d}.png" for k in range(10)),
            *(f"color_val/samples/a red cat_{k:06d}.png" for k in range(10, 20)),
            *(f"non_spatial_val/samples/a man woman runs_{k:06d}.png" for k in range(10)),
        ]),
    ],
)  # fmt: skip
def test_drawings_lie_where_the_official_scorer_looks(
    name: str, wanted: list[str], tmp_path: Path
) -> None:
    _, records, files = run(name, tmp_path)
    found = sorted(p.relative_to(files).as_posix() for p in files.rglob("*") if p.is_file())
    assert found == sorted(wanted)
    written = {path for record in records for path in record["files"]}
    assert all((files.parent / path).is_file() for path in written)


def test_layouts_hold_what_they_should(tmp_path: Path) -> None:
    _, _, files = run("geneval", tmp_path / "1")
    (line,) = (files / "00001" / "metadata.jsonl").read_text().splitlines()
    assert json.loads(line)["tag"] == "counting"
    about = metadata(files / "00001" / "samples" / "0000.png")
    assert about["prompt"] == "a photo of two cats" and about["model"] == "oracle 1"
    _, _, files = run("dpg", tmp_path / "2")
    assert Image.open(files / "COCOval2014000000000001.png").size == (40, 32)  # two by two
    _, _, files = run("tifa", tmp_path / "3")
    listed = json.loads((files / "images.json").read_text())
    assert listed == {"coco_301091": "coco_301091.png"}  # from where images.json lies
    _, _, files = run("vbench", tmp_path / "4")
    frames = film.read_film(files / "a bear climbing a tree-0.mp4", 8, 16)
    assert frames.shape == (3, 16, 16, 3)


def scene(*things: Thing) -> Image.Image:
    return Image.fromarray(render(Scene.of(things, "white")))


def test_geneval_counts_what_the_toybox_judge_finds(tmp_path: Path) -> None:
    cat, dog = Thing("cat", None, "big", 0, 0), Thing("dog", None, "big", 2, 2)
    other = Thing("cat", None, "big", 2, 0)
    wrong = iter([True, False, False, False] * 4)

    def draw(prompt: str, seed: int) -> Image.Image:
        if "two cats" in prompt:
            return scene(cat, other) if next(wrong) else scene(cat, other, dog.__class__(
                "cat", None, "small", 0, 3))  # fmt: skip
        return scene(cat, dog) if "left of" not in prompt else scene(
            Thing("dog", None, "big", 0, 0), Thing("cat", None, "big", 2, 0))  # fmt: skip

    found, records, _ = run("geneval", tmp_path, Model(draw=draw))
    values = {r.skill: r.value for r in found.rows}
    assert values["single object"] == 1 and values["position"] == 1 and values["counting"] == 0.25
    assert values["overall"] == pytest.approx((1 + 1 + 0.25) / 3)
    toaster = next(r for r in records if "toaster" in r["prompt"])
    assert toaster["unscored"] == "the toybox has no 'toaster'" and toaster["files"]
    assert {(r.unscored, r.left_out) for r in found.rows} == {(1, 1)} and found.rows[0].n == 3
    assert found.rows[0].settings.judge == "toybox synthesis" and found.rows[0].protocol == "proxy"


def test_fidelity_names_its_features(tmp_path: Path) -> None:
    number = iter(range(100))
    found, _, _ = run("coco_fidelity", tmp_path, Model(draw=lambda p, s: image(next(number))))
    values = {r.metric: r for r in found.rows}
    assert values["Fréchet distance"].value < 0.01  # the same pictures, but for JPEG
    assert not values["Fréchet distance"].higher_is_better and values["recall"].higher_is_better
    assert values["precision"].value == 1 and values["precision"].settings.judge == "pixels 8x8"
    far, _, _ = run("coco_fidelity", tmp_path / "far", Model(draw=lambda p, s: image(300 + s % 2)))
    assert far.rows[0].value > values["Fréchet distance"].value
    for row in (*found.rows, *far.rows):
        assert row.ci[0] <= row.value <= row.ci[1] and row.n == 6


# The toybox, both ways


@dataclass
class Painter(Model):
    """Knows every fact of the paired toybox."""

    def generate(self, prompt: list[str], *, seed: Sequence[int], **_: Any) -> list[Image.Image]:
        return [Image.fromarray(render(self.scenes[text])) for text in prompt]

    def ask(
        self, image: list[Image.Image], question: list[str], *, seed: Sequence[int], **_: Any
    ) -> Any:
        return [self.answers[i.tobytes(), q] for i, q in zip(image, question, strict=True)]

    def __post_init__(self) -> None:
        self.scenes: dict[str, Scene] = {}
        self.answers: dict[tuple[bytes, str], str] = {}
        for split in ("seen", "held_out"):
            for skill in SKILLS:
                for index in range(2):
                    shown, question, prompt, _ = pair(skill, split, index, 7)
                    self.scenes[prompt] = shown
                    self.answers[render(shown).tobytes(), question.text] = question.answer


def test_who_knows_the_toybox_is_right_both_ways(tmp_path: Path) -> None:
    tasks = [runner.Task(spec) for spec in benchmark.select("toybox_paired")]
    found = runner.run(Painter(), tasks, tmp_path, runner.Plan(seed=7, limit=24))
    assert not found.failed and {r.value for r in found.rows} == {1.0}
    sides = {r.side: r for r in found.rows}
    assert set(sides) == {"understanding", "generation"}
    assert {r.skill for r in found.rows} == {"overall", *SKILLS}
    ask, draw = (results.read_samples(tmp_path / f"toybox_paired_{s}.jsonl")
                 for s in ("ask", "draw"))  # fmt: skip
    assert [r["group"] for r in ask] == [r["group"] for r in draw] and len(ask) == 24


@pytest.mark.parametrize("skill", SKILLS)
def test_a_pair_is_one_fact(skill: str) -> None:
    for index in range(25):
        shown, question, prompt, request = pair(skill, "seen", index, 0)
        again = pair(skill, "seen", index, 0)
        assert (shown, question, prompt, request) == again
        assert judges.ToyboxJudge().fulfils(Image.fromarray(render(shown)), request)
        assert question.chance <= 0.34 and matches(question.answer, list(question.answers))
        names = {thing["name"] for thing in request["things"]}
        assert {thing.name for thing in shown.things} == names
        if skill == "counting":
            assert matches(question.answer, [str(len(shown.things))]) or any(
                str(number) in question.answers or word in question.answers
                for number, word in [(len(shown.things), ("zero", "one", "two", "three", "four")[
                    len(shown.things)])]
            )  # fmt: skip


# Judges


def test_a_judge_that_talks_nonsense_is_named(tmp_path: Path) -> None:
    found, records, _ = run("dpg", tmp_path, Model({"Is there a cat?": "banana"}))
    (record,) = records
    assert "answered 'banana' to 'Is there a cat?'" in record["unscored"]
    assert found.rows[0].value == 0 and found.rows[0].unscored == 1  # it counts as wrong
    assert found.rows[0].settings.judge.startswith("SELF-JUDGED by oracle")


@pytest.fixture(scope="module")
def vqa_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llava, as transformers itself saves it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<unk>", "<pad>", "<image>", "yes", "no", "is", "there", "a", "cat", "?", "red"]
    core = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                              num_attention_heads=2, image_size=28, patch_size=14)  # fmt: skip
    text = LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                       num_attention_heads=2, vocab_size=len(words))  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=2)
    folder = tmp_path_factory.mktemp("judge") / "tiny-llava"
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    LlavaProcessor(
        CLIPImageProcessor(size=size, crop_size=size), tokenizer, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_a_transformers_model_judges(vqa_folder: Path, tmp_path: Path) -> None:
    judge = judges.make(str(vqa_folder), "questions", None)
    assert isinstance(judge, judges.TransformersJudge) and len(judge.revision) == 12
    said = judge.says([image(1), image(2)], ["is there a cat ?", "is a cat red ?"])
    assert said == judge.says([image(1), image(2)], ["is there a cat ?", "is a cat red ?"])
    assert all("there a cat" not in text[:20] for text in said)  # the question is not its answer
    dpg(tmp_path / "data")
    task = runner.Task(benchmark.load("dpg"), tmp_path / "data", str(vqa_folder))
    found = runner.run(Model(), [task], tmp_path / "out")
    row = found.rows[0]  # random weights: nonsense, and named as such, or an answer
    assert row.settings.judge == "tiny-llava" and row.settings.judge_revision == judge.revision
    assert 0 <= row.value <= 1


def test_features_of_a_transformers_model(tmp_path: Path) -> None:
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                              num_attention_heads=2, image_size=28, patch_size=14)  # fmt: skip
    CLIPVisionModel(config).save_pretrained(tmp_path)
    size = {"height": 28, "width": 28}
    CLIPImageProcessor(size=size, crop_size=size).save_pretrained(tmp_path)
    found = judges.make(str(tmp_path), "features", None)
    assert found.features([image(1), image(2)]).shape == (2, 16)
    assert "CLIPVisionModel" in found.name


def test_an_encoder_of_pictures_and_words_is_named(tmp_path: Path) -> None:
    """The score is the encoder's own cosine, from transformers' own classes."""
    import torch
    from transformers import CLIPModel, CLIPProcessor

    folder = clip(tmp_path / "tiny-clip")
    coco_similarity(tmp_path / "data")
    spec = benchmark.load("coco_similarity")
    tasks = [runner.Task(spec, tmp_path / "data", str(folder))]
    found = runner.run(Model(draw=lambda p, s: image(s % 7)), tasks, tmp_path / "out")
    (row,) = found.rows
    assert row.metric == "CLIPScore-like" and row.protocol == "proxy" and row.n == 6
    assert row.settings.judge == "tiny-clip (CLIPModel)" and len(row.settings.judge_revision) == 12
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    wanted = []
    for record in results.read_samples(tmp_path / "out" / "coco_similarity.jsonl"):
        drawn = Image.open(tmp_path / "out" / record["files"][0])
        inputs = processor(text=[record["prompt"]], images=drawn, return_tensors="pt")
        with torch.inference_mode():
            said = model(**{k: v for k, v in inputs.items() if k != "token_type_ids"})
            cosine = float(said.logits_per_image / model.logit_scale.exp())
        wanted.append(2.5 * max(0.0, cosine))
        assert record["marks"] == {"similarity": pytest.approx(wanted[-1], abs=1e-5)}
    assert row.value == pytest.approx(sum(wanted) / 6, abs=1e-5)
    judge = judges.make(str(folder), "similarity", None)
    assert len(judge.cosines([image()], "a cat " * 50)) == 1  # cut to its context
    unnamed = runner.run(Model(), [runner.Task(spec, tmp_path / "data")], tmp_path / "none")
    assert "name its directory with --judge" in unnamed.failed["coco_similarity"]


@pytest.mark.parametrize(
    ("judge", "kind", "reason"),
    [
        ("nobody", "questions", "unknown judge 'nobody'; one of toybox, self, features"),
        ("self", "facts", "the judge 'self' knows questions; this benchmark needs facts"),
        ("EMPTY", "questions", "no model of transformers there"),
    ],
)
def test_a_judge_that_is_none_is_refused(
    judge: str, kind: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=reason):
        judges.make(str(tmp_path) if judge == "EMPTY" else judge, kind, Model())


def test_the_toybox_judge_on_renders_and_wrong_renders() -> None:
    import random

    judge, right, rejected = judges.ToyboxJudge(), [], []
    for index in range(12):
        rng = random.Random(index)
        wanted = sample_scene(rng, "seen", 2)
        names = [t for t in wanted.things if not t.is_shape]
        if not names:
            continue
        include = [{"class": names[0].name, "count": 1}]
        right.append(judge.geneval(Image.fromarray(render(wanted)), {"include": include}))
        missing = Scene.of([t for t in wanted.things if t.name != names[0].name], "white")
        shown = Image.fromarray(render(missing))
        rejected.append(not judge.geneval(shown, {"include": include}))
    assert len(right) > 5 and all(right) and all(rejected)


# Files that are wrong


def spec_file(tmp_path: Path, **changes: Any) -> str:
    spec = benchmark.load("pope").model_dump() | changes
    return str(put(tmp_path / "mine.yaml", yaml.safe_dump({k: v for k, v in spec.items()
                                                           if v is not None})))  # fmt: skip


def test_a_benchmark_is_one_file(tmp_path: Path) -> None:
    pope(tmp_path / "data")
    spec = benchmark.load(spec_file(tmp_path, name="mine", prompt="Look: {question}"))
    found = runner.run(Model({"a dog": "yes"}), [runner.Task(spec, tmp_path / "data")],
                       tmp_path / "out")  # fmt: skip
    assert found.rows[0].task == "mine" and found.rows[0].settings.template == "Look: {question}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"colour": "red"}, "unknown field 'colour'; one of name, about, side, .*chance"),
        ({"data": {"reader": "pope", "files": "x", "sauce": 1}},
         "unknown field 'data.sauce'; one of reader, files, url"),
        ({"side": "inside"}, "side: Input should be 'understanding' or 'generation'"),
        ({"prompt": "{questoin}"}, "unknown field {questoin}; one of question"),
        ({"scorer": None}, "the field 'scorer' is missing"),
        ({"name": "Bad Name"}, "name: String should match"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_explained(changes: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(benchmark.BenchmarkError, match=reason):
        benchmark.load(spec_file(tmp_path, **changes))


def test_unknown_names_list_the_known(tmp_path: Path) -> None:
    with pytest.raises(
        benchmark.BenchmarkError, match="'imagenet'; one of toybox_paired, toybox_tok"
    ):
        benchmark.load("imagenet")
    put(tmp_path / "x.yaml", "a: [")
    with pytest.raises(benchmark.BenchmarkError, match="not readable as YAML"):
        benchmark.load(str(tmp_path / "x.yaml"))
    spec = benchmark.load("pope").model_copy(
        update={"data": benchmark.Source(reader="nope", files="x")}
    )
    with pytest.raises(benchmark.BenchmarkError, match="unknown reader 'nope'; one of pope, mme"):
        formats.read(spec, tmp_path)


@pytest.mark.parametrize("name", list(FIXTURES))
def test_an_empty_folder_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it needs"):
        formats.read(benchmark.load(name), tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        formats.read(benchmark.load(name), tmp_path / "none")


@pytest.mark.parametrize("name", [n for n in FIXTURES if n not in ("t2i_compbench", "rebuilt")])
@pytest.mark.parametrize("damage", ["cut", "garbage", "other"])
def test_damaged_files_are_named(name: str, damage: str, tmp_path: Path) -> None:
    """Whatever is in the file, there are samples or one sentence about it."""
    FIXTURES[name](tmp_path)
    table = next(
        p for pattern in ("*.jsonl", "*.json", "*.tsv", "*.csv", "*.parquet", "0001.txt")
        for p in sorted(tmp_path.rglob(pattern))
    )  # fmt: skip
    data = table.read_bytes()
    table.write_bytes({"cut": data[: len(data) // 2], "garbage": b"\x00\xff\xfe" * 50,
                       "other": b'[{"a": 1}]\n'}[damage])  # fmt: skip
    try:
        formats.read(benchmark.load(name), tmp_path)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 400


def test_hub_data_needs_the_network_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        DataError, match="MMMU/MMMU cannot be had from the hub .offline.; name its data"
    ):
        formats.read(benchmark.load("mmmu"), None)
    with pytest.raises(DataError, match="pope: name its data with --data PATH"):
        formats.read(benchmark.load("pope"), None)


def test_limit_takes_of_every_skill_and_keeps_groups_whole(tmp_path: Path) -> None:
    mme(tmp_path / "mme")
    kept = formats.read(benchmark.load("mme"), tmp_path / "mme", limit=1)
    assert len(kept) == 2 and len({s.unit for s in kept}) == 1
    pope(tmp_path / "pope")
    kept = formats.read(benchmark.load("pope"), tmp_path / "pope", limit=3)
    assert {s.skill for s in kept} == {"random", "popular", "adversarial"}


def test_sound_and_film_are_read_but_not_yet_asked(tmp_path: Path) -> None:
    put(tmp_path / "LibriSpeech/test-clean/61/70968/61-70968.trans.txt",
        "61-70968-0000 HE BEGAN A CONFUSED COMPLAINT\n")  # fmt: skip
    (sample,) = formats.read(benchmark.load("librispeech"), tmp_path)
    assert sample.id == "61-70968-0000" and sample.facts["transcript"].startswith("HE BEGAN")
    assert sample.facts["sound"].endswith("61-70968-0000.flac")
    put(tmp_path / "film" / "qa.jsonl", lines([
        {"question_id": 1, "video": "a.mp4", "question": "Who?", "options": ["x", "y"],
         "answer": "B"},
    ]))  # fmt: skip
    (sample,) = formats.read(benchmark.load("film_questions"), tmp_path / "film")
    assert sample.facts["answer"] == 1
    task = runner.Task(benchmark.load("film_questions"), tmp_path / "film")
    found = runner.run(Model(), [task], tmp_path / "out")
    assert found.failed == {
        "film_questions": "film_questions: oracle takes no film (it has no `ask_film`)"
    }


def test_pictures_of_a_prompt_come_from_the_benchmark_s_words() -> None:
    prompt, _ = benchmark_prompt("counting", 0, 0, "seen")
    assert benchmark.load("geneval").ask(prompt=prompt) == prompt
