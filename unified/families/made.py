"""What every family gives and needs: the parts of a model, and tensors by name with their files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from unified.checkpoint import CheckpointError
from unified.configuration import UnifiedConfig
from unified.modeling import UnifiedForConditionalGeneration
from unified.processing import UnifiedProcessor
from unified.sampling import Sampling
from unified.tokenizers.codec import Codec
from unified.tokenizers.text import PublishedTokenizer

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CODEC = "codec."  # our prefix of the codec's weights, which are kept beside the model's
PICKLES = ("*.bin", "*.pt", "*.pth")

Prefixes = tuple[tuple[str, str], ...]  # (published, ours), both ending at a dot


@dataclass(frozen=True)
class Made:
    """A model on our modules.

    Attributes:
        revision: the first hex digits of the SHA-256 of its manifest, "" without one.
    """

    model: UnifiedForConditionalGeneration
    processor: UnifiedProcessor
    codec: Codec
    sampling: Sampling
    revision: str = ""


@dataclass(frozen=True)
class Weights:
    """Tensors of a checkpoint by name, and the file that each was in."""

    tensors: dict[str, torch.Tensor]
    files: dict[str, Path]
    source: Path  # the file that says which there are

    def fitted(self, wanted: Mapping[str, Iterable[int]]) -> dict[str, torch.Tensor]:
        """The tensors of these names.

        Raises:
            CheckpointError: names the file and key of what is missing or of another shape.
        """
        out = {}
        for key, shape in wanted.items():
            if key not in self.tensors:
                raise CheckpointError(f"{self.source}: no tensor {key!r}")
            tensor = self.tensors[key]
            if tuple(tensor.shape) != tuple(shape):
                raise CheckpointError(
                    f"{self.files[key]}: {key} has shape {tuple(tensor.shape)}, the configuration"
                    f" wants {tuple(shape)}"
                )
            out[key] = tensor
        return out

    def refuse_others(self, wanted: Iterable[str]) -> None:
        """Raise CheckpointError for a tensor of another name: the model would differ."""
        for key in sorted(set(self.tensors) - set(wanted)):
            raise CheckpointError(f"{self.files[key]}: {key} has no place in this model")


def read_weights(folder: Path) -> Weights:
    """All tensors of a directory's safetensors, whole or in shards.

    Raises:
        CheckpointError: a shard is missing or damaged, a key is not in its shard, or there are
            only pickles, which are not read.
    """
    source = folder / INDEX
    if source.is_file():
        try:
            found: dict[str, str] = json.loads(source.read_text())["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(f"{source}: not a readable index of shards") from None
        names = sorted(set(found.values()))
    else:
        source, found, names = folder / WHOLE, {}, [WHOLE]
        if not source.is_file():
            raise _without_weights(folder)
    tensors: dict[str, torch.Tensor] = {}
    files: dict[str, Path] = {}
    for name in names:
        path = folder / name
        if Path(name).name != name:
            raise CheckpointError(f"{source}: {name!r} is no name of a file beside it")
        if not path.is_file():
            first = next(key for key, file in found.items() if file == name)
            raise CheckpointError(f"{path}: missing; {source.name} places {first} and others there")
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():
                    tensors[key], files[key] = file.get_tensor(key), path
        except SafetensorError as error:
            raise CheckpointError(f"{path}: damaged: {error}") from None
    for key, name in found.items():
        if key not in tensors:
            raise CheckpointError(f"{folder / name}: no tensor {key!r}, which {source.name} names")
    return Weights(tensors, files, source)


def _without_weights(folder: Path) -> CheckpointError:
    pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
    if pickles:
        return CheckpointError(
            f"{folder / pickles[0]}: a pickle, which can run code and is not read; take the same"
            " weights as safetensors (for Janus: the hub's deepseek-community/Janus-…), or let"
            " `unified convert --from-pickles` rewrite it with torch's restricted unpickler"
        )
    return CheckpointError(f"{folder}: neither {WHOLE} nor {INDEX}")


def ours(name: str, table: Prefixes) -> str | None:
    """Our name of a published tensor, None where the table has none."""
    for theirs, own in table:
        if name.startswith(theirs):
            return own + name.removeprefix(theirs)
    return None


def published(name: str, table: Prefixes) -> str:
    """Inverse of `ours`."""
    return next(theirs + name.removeprefix(own) for theirs, own in table if name.startswith(own))


def filled(
    config: UnifiedConfig,
    codec: type[Any],
    codec_config: Any,
    weights: Weights,
    names: Prefixes,
    attention: str,
    dtype: Any,
) -> tuple[UnifiedForConditionalGeneration, Any]:
    """Model and transformers' codec with the weights, every one of which has its place.

    A head that is not there is tied: the embedding again.

    Raises:
        CheckpointError: see `Weights`.
    """
    head = published("text_head.weight", names)
    embedding = published("decoder.embed_tokens.weight", names)
    if head not in weights.tensors and embedding in weights.tensors:
        weights.tensors[head] = weights.tensors[embedding].clone()
        weights.files[head] = weights.files[embedding]
    if dtype == "auto" and embedding in weights.tensors:
        dtype = weights.tensors[embedding].dtype
    with torch.device("meta"):
        model, empty = UnifiedForConditionalGeneration(config), codec(codec_config)
    shapes = {published(k, names): v.shape for k, v in model.state_dict().items()}
    shapes |= {published(CODEC + k, names): v.shape for k, v in empty.state_dict().items()}
    weights.refuse_others(shapes)
    state = {str(ours(key, names)): value for key, value in weights.fitted(shapes).items()}
    coded = {k.removeprefix(CODEC): state.pop(k) for k in list(state) if k.startswith(CODEC)}
    model = UnifiedForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, attn_implementation=attention
    )
    return model, codec.from_pretrained(None, config=codec_config, state_dict=coded, dtype=dtype)


def token_ids(
    folder: Path,
    tokenizer: PublishedTokenizer,
    controls: Mapping[str, tuple[str, str]],
    size: int,
    family: str,
) -> dict[str, int]:
    """Where the control tokens lie.

    Args:
        controls: name -> attribute of the tokenizer, and how it is spelt without one.
        size: of the vocabulary, by the configuration.

    Raises:
        CheckpointError: a token is missing, or has an id beyond the vocabulary.
    """
    path = folder / "tokenizer.json"
    vocabulary = tokenizer.get_vocab()
    ids: dict[str, int] = {}
    for name, (attribute, spelling) in controls.items():
        token = getattr(tokenizer, attribute, None) or spelling
        if token not in vocabulary:
            raise CheckpointError(
                f"{path}: no token {token!r}, which is the {attribute} of {family}"
            )
        ids[name] = vocabulary[token]
    if max(vocabulary.values()) >= size:
        token = max(vocabulary, key=vocabulary.__getitem__)
        raise CheckpointError(
            f"{path}: token {token!r} has id {vocabulary[token]}; config.json's"
            f" text_config.vocab_size is {size}"
        )
    return ids


def code_ids(vocabulary: Mapping[str, int], name: re.Pattern[str], path: Path) -> list[int]:
    """The published id of every code, where codes are tokens of the vocabulary.

    Args:
        name: of such a token; its group is the number of the code, in digits or in letters from A.
        path: the file that the vocabulary is of.

    Raises:
        CheckpointError: codes are missing, or their ids are not a range.
    """
    digits = str.maketrans("ABCDEFGHIJ", "0123456789")
    matches = ((name.fullmatch(token), at) for token, at in vocabulary.items())
    found = {int(match[1].translate(digits)): at for match, at in matches if match}
    order = [found[code] for code in sorted(found)]
    if not order or max(found) != len(order) - 1:
        raise CheckpointError(f"{path}: no full set of picture codes ({name.pattern})")
    if sorted(order) != list(range(min(order), min(order) + len(order))):
        raise CheckpointError(f"{path}: the ids of picture codes do not follow each other")
    return order


def agreed_code_ids(
    given: Mapping[str, int] | None,
    tokenizer: PublishedTokenizer,
    name: re.Pattern[str],
    folder: Path,
    count: int,
) -> list[int]:
    """`code_ids` of config.json's vocabulary_map (`given`).

    Raises:
        CheckpointError: the tokenizer has others, or there are not as many as the codec's `count`.
    """
    order = code_ids(given or {}, name, folder / "config.json")
    if order != code_ids(tokenizer.get_vocab(), name, folder / "tokenizer.json"):
        raise CheckpointError(
            f"{folder / 'tokenizer.json'}: picture codes have other ids than config.json's"
            " vocabulary_map gives them"
        )
    if len(order) != count:
        raise CheckpointError(
            f"{folder / 'config.json'}: {len(order)} codes in vocabulary_map; vq_config has {count}"
        )
    return order


def reorder(state: dict[str, torch.Tensor], order: list[int], back: bool = False) -> None:
    """Put the rows of codes, which have the ids `order`, into the order of the codes, in place.

    Args:
        back: undo it.
    """
    own = slice(min(order), min(order) + len(order))
    for key in ("decoder.embed_tokens.weight", "text_head.weight"):
        if back:
            state[key][order] = state[key][own].clone()
        else:
            state[key][own] = state[key][order]


def published_state(made: Made, order: list[int], names: Prefixes) -> dict[str, torch.Tensor]:
    """All tensors of model and codec by their published names; a head that is tied is left out."""
    state = {key: value.clone() for key, value in made.model.state_dict().items()}
    reorder(state, order, back=True)
    if torch.equal(state["text_head.weight"], state["decoder.embed_tokens.weight"]):
        del state["text_head.weight"]
    inner: Any = made.codec.model
    state |= {CODEC + key: value for key, value in inner.state_dict().items()}
    return {published(key, names): value for key, value in state.items()}


def read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """The object in a file; {} where it is `optional` and not there.

    Raises:
        CheckpointError: names the file that is missing or no JSON object.
    """
    if optional and not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"{path}: missing or not readable as JSON") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return values


def image_settings(folder: Path) -> dict[str, Any]:
    """How pictures are prepared, by transformers' names."""
    values = read_json(folder / "processor_config.json", optional=True).get("image_processor")
    found: dict[str, Any] = values or read_json(folder / "preprocessor_config.json", optional=True)
    return found


def chat_template(folder: Path) -> str | None:
    """The program that comes with a checkpoint, kept and handed on, never run."""
    path = folder / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else None
