"""A picture's codes in a wavefront, several a step: what decoding chooses by is what training's
plain causal pass gives, and codecs, records and other requests notice nothing."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor

from unified import cli, jacobi
from unified.checkpoint import CheckpointError
from unified.configuration import UnifiedConfig
from unified.engine import Engine, Request
from unified.handle import DEFAULT, Unified, load
from unified.modeling import IGNORE, UnifiedForConditionalGeneration
from unified.pattern import pictured, raster, wavefront
from unified.processing import UnifiedProcessor
from unified.sampling import Sampling
from unified.sequence import Frame, Layout, Picture, Text, Turn
from unified.tokenizers.codec import Codec
from unified.tokenizers.kinds import new_codec
from unified.toybox.samples import TASKS, sample
from unified.train.batches import Batch, Batcher
from unified.train.conversations import POOL, Conversations
from unified.train.encoding import Encoder
from unified.train.model import ModelConfig, build, taken_up
from unified.train.prefer import log_probabilities
from unified.train.recipe import read, run
from unified.train.records import Message, Part, Record
from unified.vocabulary import Vocabulary

grids = st.tuples(st.integers(1, 5), st.integers(1, 5))

# Patterns


@given(grids, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2))
def test_a_tile_comes_after_those_left_of_it_and_above(
    grid: tuple[int, int], slope: int, codes: int, lead: int
) -> None:
    rows, columns = grid
    pattern = wavefront(rows, columns, slope, codes, lead)
    length = lead + rows * columns * codes
    written = {index: k for k, step in enumerate(pattern.steps) for index in step}
    assert len(pattern.steps) <= lead + columns + slope * (rows - 1) + codes - 1
    for index, step in written.items():
        if index < lead:
            assert index == step
            continue
        tile, code = divmod(index - lead, codes)
        assert all(written[k] < step for k in range(lead))
        assert code == 0 or written[index - 1] < step
        assert tile % columns == 0 or written[index - codes] < step
        assert tile < columns or written[index - codes * columns] < step
        if slope > 1 and tile >= columns and (tile + 1) % columns:  # above to the right
            assert written[index - codes * (columns - 1)] < step
    picture = list(range(length))
    assert pattern.read(pattern.write(picture)) == picture == pattern.write(pattern.read(picture))
    begun = [sum(map(len, pattern.steps[:k])) for k in range(len(pattern.steps))]
    assert sorted({k - lag for k, lag in enumerate(pattern.lags)}) == begun


def test_the_default_picture_takes_12_steps_of_33() -> None:
    assert [len(pictured("wavefront", 33, (4, 4), s).steps) for s in (1, 2)] == [9, 12]  # type: ignore[union-attr]
    assert pictured("wavefront", 16, (4, 4)) == wavefront(4, 4, 2)
    assert pictured("raster", 33, (4, 4)) is None
    assert raster(1, 5).lags == (0,) * 5


def test_what_is_no_pattern_is_named() -> None:
    for wrong, words in (
        ({"pattern": "zigzag"}, "unknown pattern 'zigzag'; one of raster, wavefront"),
        ({"pattern": "wavefront", "slope": 0}, "a slope of 0; it is a whole number, at least 1"),
        ({"slope": 1.5}, "a slope of 1.5"),
    ):
        with pytest.raises(ValueError, match=words):
            UnifiedConfig(image_config=wrong)
        sets = [f"model.image.{key}={value}" for key, value in wrong.items()]
        with pytest.raises(ValueError, match=f"model.image: {words}"):
            read("toybox", sets)
        sets = [f"refine.{key}={value}" for key, value in wrong.items()]
        if wrong.get("slope") != 1.5:
            with pytest.raises(ValueError, match=f"refine: {words}"):
                read("toybox", sets)
    with pytest.raises(ValueError, match="needs codes that belong to the tiles of a grid"):
        _ = UnifiedConfig(image_config={"pattern": "wavefront"}).layout
    with pytest.raises(ValueError, match="one by one: pattern raster"):
        Layout(Vocabulary(9, 4), (4,), (0,) * 4, 1, frame=Frame(row=2), pattern=wavefront(2, 2))
    with pytest.raises(ValueError, match="a pattern of 4 codes; a picture has 6"):
        Layout(Vocabulary(9, 4), (4,), (0,) * 6, 1, pattern=wavefront(2, 2))


LAYOUT = Layout(
    Vocabulary(text_size=20, image_size=12),
    codebooks=(3, 5, 4),
    books=(0, *(1, 2) * 6),
    view_length=2,
    pattern=wavefront(2, 3, 2, 2, 1),
)
form, paint = st.integers(3, 7), st.integers(8, 11)


@given(st.tuples(st.integers(0, 2), *(form, paint) * 6), st.booleans())
def test_codes_come_back_in_the_order_of_the_codec(codes: tuple[int, ...], view: bool) -> None:
    turns = [Turn("assistant", (Text((3,)), Picture(codes, view)))]
    flat = LAYOUT.flatten(turns)
    assert LAYOUT.parse(flat.ids) == turns
    start = LAYOUT.vocabulary.image_start
    written = [token - start for token in flat.ids if token >= start]
    assert LAYOUT.order.read(written) == list(codes) != written
    allowed = [book for step in LAYOUT.steps for book in step]
    for token, book in zip(LAYOUT.vocabulary.image_ids(written), allowed, strict=True):
        assert token in book  # type: ignore[operator]
    assert LAYOUT.flatten([Turn("user", (Picture(LAYOUT.first_codes),))])  # or a code is misplaced


# Models


def reordered(handle: Unified, slope: int = 2) -> Unified:
    """A handle's weights with codes in a wavefront, and aims that matter."""
    config = copy.deepcopy(handle.model.config)
    image = config.image_config
    image.pattern, image.slope, image.grid = "wavefront", slope, handle.codec.spec.grid
    model = UnifiedForConditionalGeneration(config)
    model.load_state_dict(handle.model.state_dict(), strict=False)
    assert model.code_aim is not None and not model.code_aim.told.down.weight.any()
    return finished(model, handle.processor.tokenizer, handle.codec)


def aim(model: UnifiedForConditionalGeneration) -> list[torch.nn.Parameter]:
    assert model.code_aim is not None
    return list(model.code_aim.parameters())


def finished(model: UnifiedForConditionalGeneration, text: Any, codec: Codec) -> Unified:
    torch.manual_seed(1)
    for weight in aim(model):
        torch.nn.init.normal_(weight, std=0.5)
    return Unified(model, UnifiedProcessor.of(model.config, text), codec)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
         "num_key_value_heads": 2, "intermediate_size": 64,
         "max_position_embeddings": 512}  # fmt: skip


@pytest.fixture(scope="module", params=["layers", "layers, slope 1", "one code a tile"])
def handle(tiny: Unified, request: pytest.FixtureRequest) -> Unified:
    if request.param != "one code a tile":
        return reordered(tiny, 1 if "1" in request.param else 2)
    torch.manual_seed(0)
    small = {"codebook_size": 32, "encoder_width": 16, "decoder_width": 16, "decoder_layers": 1,
             "decoder_heads": 2, "patch": 16}  # fmt: skip
    codec, text = new_codec("vq", small).eval(), tiny.processor.tokenizer
    config = ModelConfig(
        decoder=SMALL,
        vision={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        image={"pattern": "wavefront"},
    )
    return finished(build(config, text, codec, 0, "cpu"), text, codec)


@pytest.fixture
def eager(handle: Unified) -> Iterator[Engine]:
    """Eager to draw, so that replies hold pictures between words."""
    mark = handle.layout.vocabulary.control("image")

    def often(head: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., mark] = logits.logsumexp(-1) - 2
        return logits

    hook = handle.model.text_head.register_forward_hook(often)
    yield Engine(handle.model, handle.codec)
    hook.remove()


def requests(handle: Unified) -> list[Request]:
    """Words and pictures, guided and not, seen and drawn, of many lengths."""
    red = Image.new("RGB", (64, 64), (200, 30, 30))
    shown = [{"type": "image", "image": red}, {"type": "text", "text": "What is it?"}]
    plain = Sampling(text_temperature=1.0)
    guided = replace(plain, guidance_scale=3.0, schedule="linear", top_p=0.9)
    made: list[Request] = []
    for content, draw, sampling in (
        ("a cat", "only", guided),
        (shown, "auto", plain),
        ("a cat", "now", guided),
        ("Hello", "never", plain),
        ("two dogs at night", "first", replace(guided, temperature=0.0)),
    ):
        prompt = handle._fit([{"role": "user", "content": content}], 160)[0]
        made.append(Request(prompt.ids, prompt.views, len(made), sampling, draw, most=90))
    return made


@pytest.mark.parametrize("known", [True, False])
def test_cached_equals_naive_and_batched_equals_alone(
    handle: Unified, eager: Engine, known: bool
) -> None:
    """With the fast step and by the model as it is."""
    batch = requests(handle)
    layer = handle.model.decoder.layers[1].self_attn.v_proj
    hook = None if known else layer.register_forward_hook(lambda module, inputs, out: out * 0.5)
    together = eager.run(batch)
    assert (eager.step is not None) == known
    drawn = 0
    for request, reply in zip(batch, together, strict=True):
        assert eager.run([request])[0].ids == reply.ids
        if request.draw in (("now", "auto") if known else ("now",)):
            assert eager.naive(request).ids == reply.ids
        assert [token for token, _ in eager.stream(request)] == reply.ids
        turns = handle.layout.parse([*request.ids, *reply.ids, *ending(handle, reply.ids)])
        pictures = [p.codes for p in turns[-1].parts if isinstance(p, Picture)]
        pixels = [handle.codec.decode(torch.tensor([codes]))[0] for codes in pictures]
        torch.testing.assert_close(list(reply.pictures), pixels)
        drawn += len(pixels)
    assert drawn >= 3 and not together[3].pictures
    if hook is not None:
        hook.remove()


def ending(handle: Unified, ids: list[int]) -> list[int]:
    """What a reply that is over at its picture lacks of a turn."""
    end = handle.layout.vocabulary.control("end")
    return [] if ids[-1] == end else [end]


def test_requests_come_and_go(handle: Unified, eager: Engine) -> None:
    batch = requests(handle)
    wanted = [Engine(handle.model, handle.codec, memory=0).run([request])[0] for request in batch]
    chance = random.Random(0)
    order = [*range(len(batch)), 0, 1, 2]
    chance.shuffle(order)
    for rows in (2, 7):
        session, waiting = eager.serve(rows), list(order)
        replies, written = {}, dict.fromkeys(range(len(order)), 0)
        while waiting or session.busy:
            for _ in range(min(len(waiting), chance.choice([0, 0, 1, 2]))):
                number = session.add(batch[waiting.pop(0)])
                replies[number] = session.replies[number]
            for number, _ in session.step():
                written[number] += 1
        for number, reply in replies.items():
            assert reply.ids == wanted[order[number]].ids and len(reply.ids) == written[number]


def test_the_passes_of_a_picture_are_its_steps(tiny: Unified) -> None:
    for handle, steps in ((tiny, 33), (reordered(tiny), 12), (reordered(tiny, 1), 9)):
        for request in (requests(handle)[2], replace(requests(handle)[2], sampling=Sampling())):
            session = Engine(handle.model, handle.codec).serve(2)
            reply = session.replies[session.add(request)]
            session.step()  # the prompt, whose last position is followed by <image>
            step = session.engine.step
            assert step is not None
            calls: list[int] = []
            norm = step.norm

            def counted(x: torch.Tensor, norm: Any = norm, calls: list[int] = calls) -> Any:
                calls.append(1)
                return norm(x)

            step.norm = counted  # type: ignore[assignment]
            while len(reply.ids) < 34:
                session.step()
            assert len(calls) == len(handle.layout.steps) == steps


@torch.no_grad()
def test_what_training_predicts_by_is_what_decoding_chose_by(handle: Unified) -> None:
    """The greedy picture is the likeliest one of the plain pass, code by code; and the logits that
    training has are those of the step."""
    request = replace(requests(handle)[2], sampling=Sampling(temperature=0.0))
    ids = [*request.ids, *handle.engine.run([request])[0].ids]
    vocabulary, layout, model = handle.layout.vocabulary, handle.layout, handle.model
    row = torch.tensor([ids])
    hidden, start = model(row).hidden[0], ids.index(vocabulary.control("image"))
    shift = vocabulary.image_start
    nll: list[torch.Tensor] = []
    for step, books in zip(layout.order.steps, layout.steps, strict=True):
        state, before = hidden[start + len(nll)][None], torch.zeros(1, hidden.shape[-1])
        for place, book in zip(step, books, strict=True):
            own = model.image_logits(model.code_aim(state, torch.tensor([place]), before))
            at = start + 1 + len(nll)
            assert isinstance(book, range)
            inside = own[0, book.start - shift : book.stop - shift]
            assert book.start + int(inside.argmax()) == ids[at]
            nll.append(F.cross_entropy(own[0], torch.tensor(ids[at] - shift)))
            before = before + model.coded(row[0, at : at + 1] - shift, torch.tensor([place]))
    labels = torch.full_like(row, IGNORE)
    end = start + layout.image_length
    labels[0, start:end] = row[0, start + 1 : end + 1]
    torch.testing.assert_close(model.target_losses(row, None, labels)[1], torch.stack(nll))


def test_weights_of_raster_order_begin_as_they_are(tiny: Unified, tmp_path: Path) -> None:
    """Where a step is one code, the new order's loss is the old one's."""
    config = copy.deepcopy(tiny.model.config)
    image = config.image_config
    image.pattern, image.slope, image.grid = "wavefront", 1, (1, 33)
    tiny.model.save_pretrained(tmp_path)
    model = UnifiedForConditionalGeneration.from_pretrained(tmp_path, config=config).eval()
    assert model.config.layout.order.order == raster(1, 33).order
    part = batches(tiny)[0][0]
    with torch.inference_mode():
        for one, two in zip(*(m.target_losses(part.ids, part.views, part.labels)
                              for m in (tiny.model, model)), strict=True):  # fmt: skip
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    assert not any("aim" in name for name in tiny.model.state_dict())
    older = UnifiedConfig.from_pretrained(DEFAULT)  # which knew no patterns
    assert older.image_config.pattern == "raster" and older.layout.pattern is None


def test_weights_of_another_version_are_not_taken_up(tiny: Unified, tmp_path: Path) -> None:
    """An aim begins anew where the order does, and nowhere else."""
    tiny.model.save_pretrained(tmp_path / "raster")
    model = taken_up(tmp_path / "raster", tiny.codec, "cpu", "wavefront")
    assert model.code_aim is not None
    model.save_pretrained(tmp_path / "wave")
    again = taken_up(tmp_path / "wave", tiny.codec, "cpu")
    assert all(map(torch.equal, aim(again), aim(model)))
    assert taken_up(tmp_path / "wave", tiny.codec, "cpu", "raster").code_aim is None
    model.code_aim.told = torch.nn.Linear(1, 1)  # type: ignore[assignment]
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"other: lacks code_aim\.told"):
        taken_up(tmp_path / "other", tiny.codec, "cpu", "wavefront")


# Training


def batches(handle: Unified, pack: int | None = None) -> list[list[Batch]]:
    samples = [sample(TASKS[k % len(TASKS)], 0, k) for k in range(8 * POOL)]
    made = Conversations(handle.layout, handle.processor.tokenizer, handle.codec)
    encoded = made.encode(samples, random.Random(0))
    return Batcher(handle.layout.vocabulary, 2, pack, "cpu").deal(encoded, POOL)


def test_packed_losses_are_those_of_samples_alone(handle: Unified) -> None:
    def losses(pack: int | None) -> tuple[torch.Tensor, ...]:
        found = []
        with torch.inference_mode():
            for part in (part for parts in batches(handle, pack) for part in parts):
                own = handle.model.target_losses(
                    part.ids, part.views, part.labels, positions=part.positions
                )
                found.append(own)
                if pack is None:
                    sums = -sum(float(kind.sum()) for kind in own)
                    whole = log_probabilities(handle.model, part).sum()
                    assert float(whole) == pytest.approx(sums, rel=1e-4)
        return tuple(torch.cat(kind).sort().values for kind in zip(*found, strict=True))

    for alone, shared in zip(losses(None), losses(512), strict=True):
        assert len(alone) == len(shared) > 50
        torch.testing.assert_close(alone, shared, atol=1e-4, rtol=1e-4)


def test_records_are_written_in_the_models_order(handle: Unified) -> None:
    picture = Image.new("RGB", (64, 64), (30, 30, 200))
    said = (Message("user", (Part("text", "a sea"),)),
            Message("assistant", (Part("image", media=picture, loss=True),)))  # fmt: skip
    encoder = Encoder(handle)
    ids = encoder.encode(Record("a", said)).ids
    (part,) = handle.layout.parse(ids)[-1].parts
    pixels = handle.processor.image_processor.pixels(picture)
    assert isinstance(part, Picture) and list(part.codes or ()) == handle.encode(pixels)
    assert len(encoder.encode(Record("a", said), draft=True).ids) == len(ids)
    plain = replace(handle.layout, pattern=None)
    marks, encoder.layout = encoder.marks, plain
    assert encoder.marks["layout"] != marks["layout"]


# Files


def test_saved_and_loaded_it_draws_the_same(tiny: Unified, tmp_path: Path) -> None:
    handle = reordered(tiny)
    handle.save(tmp_path)
    again = load(tmp_path, device="cpu")
    assert again.layout == handle.layout != tiny.layout
    assert AutoProcessor.from_pretrained(tmp_path).layout == handle.layout
    one, two = (h.generate("a cat", seed=3, guidance_scale=2.0)[0] for h in (handle, again))
    assert one.tobytes() == two.tobytes() != tiny.generate("a cat", seed=3)[0].tobytes()
    packed = load(tmp_path, device="cpu", weights="half")
    assert packed.generate("a cat", seed=3)[0].size == one.size
    shown = again.encode(again.processor.image_processor.pixels(two))
    torch.testing.assert_close(
        again.codec.decode(torch.tensor([shown])), tiny.codec.decode(torch.tensor([shown]))
    )
    with pytest.raises(ValueError, match="several codes a step as it is"):
        jacobi.check(again.engine, requests(again)[2])
    with pytest.raises(ValueError, match="the ids end within a picture"):
        ids = (*requests(again)[2].ids, again.layout.vocabulary.control("image"))
        again.engine.run([Request(ids)])


def test_what_was_drawn_stays_as_its_codes(handle: Unified, eager: Engine) -> None:
    asked = {"role": "user", "content": "a cat"}
    reply = handle.chat([asked], text_temperature=1.0, seed=3)
    drawn = [part["image"] for part in reply["content"] if part["type"] == "image"]
    assert drawn
    prompt = handle._fit([asked, reply, asked], 5)[0]
    kept = [part.codes for turn in handle.layout.parse(prompt.ids[:-1]) for part in turn.parts
            if isinstance(part, Picture)]  # fmt: skip
    pixels = [handle.codec.decode(torch.tensor([codes]))[0] for codes in kept]
    assert [handle.processor.image_processor.picture(p).tobytes() for p in pixels] == [
        image.tobytes() for image in drawn
    ]


SHORT = "{steps: 2, batch_size: 8, learning_rate: 1.0e-3, save_every: 2, sample_every: 2}"


def test_a_stage_changes_over_from_raster(tiny_run: Path, tmp_path: Path) -> None:
    for name in ("text", "tokenizer", "polish"):
        (tmp_path / name).symlink_to(tiny_run / name)
    sets = ["scale=tiny", "scale=wavefront", f"wavefront.loop={SHORT}", "wavefront.micro_batch=4"]
    folder = run("toybox", ["wavefront"], sets, tmp_path, device="cpu", progress=False)
    made = load(folder, device="cpu")
    assert len(made.layout.steps) == 12
    assert all(weight.any() for weight in aim(made.model))
    assert len(made.generate("a cat", seed=1)) == 1
    before = UnifiedForConditionalGeneration.from_pretrained(tiny_run / "polish" / "model")
    assert before.config.layout.pattern is None
    for name, weight in before.named_parameters():
        assert weight.shape == made.model.get_parameter(name).shape
    assert "wavefront" not in read("toybox").stages
    with pytest.raises(ValueError, match=r"pretrain\.pattern: .* model.image.pattern=wavefront"):
        run("toybox", None, ["vision=null", "pretrain.pattern=wavefront"], tmp_path)


def test_it_is_learnt_from_scratch(tiny_run: Path, tmp_path: Path) -> None:
    for name in ("text", "tokenizer"):
        (tmp_path / name).symlink_to(tiny_run / name)
    sets = ["scale=tiny", "model.image.pattern=wavefront", "model.image.slope=1",
            *(f"{name}=null" for name in ("vision", "chat", "refine", "polish")),
            f"pretrain.loop={SHORT}"]  # fmt: skip
    folder = run("toybox", ["pretrain"], sets, tmp_path, device="cpu", progress=False)
    assert len(load(folder, device="cpu").layout.steps) == 9


def test_models_are_timed_beside_each_other(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, folder = tmp_path / "rows.json", str(tiny_run / "model")
    given = ["bench", "decode", "--rounds", "1", "--model", "wavefront"]
    assert cli.run([*given, "--model", folder, "--json", str(target)]) == 0
    assert "seconds a picture" in capsys.readouterr().out
    found = json.loads(target.read_text())
    assert [(row["way"], row["passes"]) for row in found] == [
        ("wavefront", 13), (folder, 34),
    ]  # fmt: skip
    assert all(row["unit"] == "pictures" and row["each"] > 0 for row in found)
    assert cli.run([*given, "--batch", "2"]) == 2
    assert "leave --batch out" in capsys.readouterr().err
