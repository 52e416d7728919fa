"""Parts of a model from directories of transformers: a causal LM as the decoder, SigLIP's tower as
the understanding encoder.

    config.json, *.safetensors, tokenizer.json -> sizes, weights by our names, text tokenizer

What our vocabulary has beside the LM's are new rows, each the mean of the old ones, of embedding
and head; the logits of text stay as they were. Nothing is unpickled, no code of a directory runs.
Knows nothing of recipes or training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, LlamaTokenizer

from unified import families
from unified.checkpoint import CheckpointError
from unified.configuration import CAUSAL_LMS
from unified.families.made import Prefixes, Weights, ours, published, read_json, read_weights
from unified.tokenizers.text import PublishedTokenizer

TOWERS = ("siglip", "siglip_vision_model")
NAMES: Prefixes = (("model.", "decoder."), ("lm_head.", "text_head."))
EMBEDDING, HEAD = "decoder.embed_tokens.weight", "text_head.weight"
# of its configuration, what is said elsewhere or is about its file
LEFT_OUT = ("dtype", "torch_dtype", "vocab_size", "tie_word_embeddings", "architectures",
            "transformers_version", "_name_or_path")  # fmt: skip
TABLES = (".rotary_emb.inv_freq",)  # computed, not learnt: old checkpoints hold them


@dataclass(frozen=True)
class CausalLM:
    """A directory's language model.

    Attributes:
        sizes: its configuration, `model_type` first.
        rows: ids of its vocabulary: rows of its embedding and head.
    """

    folder: Path
    sizes: dict[str, Any]
    rows: int

    def tokenizer(self) -> PublishedTokenizer:
        """Its own, from tokenizer.json or a SentencePiece model. No text gives a special token, and
        our control tokens have ids beyond all of its.

        Raises:
            CheckpointError: there is none, or it has more ids than the model has rows.
        """
        json = self.folder / "tokenizer.json"
        pieces = self.folder / "tokenizer.model"
        if not json.is_file() and not pieces.is_file():
            raise CheckpointError(f"{self.folder}: neither tokenizer.json nor tokenizer.model")
        try:
            if json.is_file():
                found = PublishedTokenizer.from_pretrained(str(self.folder), local_files_only=True)
            else:
                said = (self.folder / "tokenizer_config.json").is_file()
                kind = AutoTokenizer if said else LlamaTokenizer
                loaded = kind.from_pretrained(str(self.folder), local_files_only=True)
                named = {key: value for key, value in loaded.special_tokens_map.items()
                         if isinstance(value, str)}  # fmt: skip
                found = PublishedTokenizer(tokenizer_object=loaded.backend_tokenizer, **named)
        except (ValueError, OSError, KeyError, ImportError) as error:
            path = json if json.is_file() else pieces
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CheckpointError(f"{path}: not readable as a tokenizer: {reason}") from None
        vocabulary = found.get_vocab()
        token = max(vocabulary, key=vocabulary.__getitem__)
        if vocabulary[token] >= self.rows:
            raise CheckpointError(
                f"{self.folder}: token {token!r} of the tokenizer has id {vocabulary[token]};"
                f" config.json's vocab_size is {self.rows}"
            )
        return found

    def fill(self, model: torch.nn.Module) -> None:
        """Lay its weights into the decoder and the text head of a model made for `sizes`, in place.
        A head that is tied is the embedding again.

        Raises:
            CheckpointError: names the file and key of what is missing, left over or of another
                shape.
        """
        weights = _without_tables(read_weights(self.folder))
        own = {key: value for key, value in model.state_dict().items() if _mapped(key)}
        wanted = {published(key, NAMES): tuple(value.shape) for key, value in own.items()}
        embedding, head = published(EMBEDDING, NAMES), published(HEAD, NAMES)
        wanted |= {key: (self.rows, *wanted[key][1:]) for key in (embedding, head)}
        if head not in weights.tensors and embedding in weights.tensors and self._tied():
            weights.tensors[head] = weights.tensors[embedding]
            weights.files[head] = weights.files[embedding]
        weights.refuse_others(wanted)
        state = {str(ours(key, NAMES)): value for key, value in weights.fitted(wanted).items()}
        for key in (EMBEDDING, HEAD):
            state[key] = extended(state[key], len(own[key]))
        model.load_state_dict(state, strict=False)

    def _tied(self) -> bool:
        return bool(_config(self.folder).tie_word_embeddings)


def causal_lm(folder: Path) -> CausalLM:
    """The language model of a directory.

    Raises:
        CheckpointError: no directory, no configuration, or a model of a family that is not known.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such directory; name that of a causal LM as"
                              " transformers saves it")  # fmt: skip
    read_json(folder / "config.json")
    kind = families.model_type(folder)
    if kind not in CAUSAL_LMS:
        raise CheckpointError(
            f"{folder / 'config.json'}: a model of the family {kind!r} cannot be the decoder here;"
            f" one of {', '.join(CAUSAL_LMS)} can"
        )
    config = _config(folder)
    values = {key: value for key, value in config.to_dict().items() if key not in LEFT_OUT}
    return CausalLM(folder, values, int(config.vocab_size))


def _config(folder: Path) -> Any:
    """What config.json says, by transformers' own class.

    Raises:
        CheckpointError: a value that it does not take.
    """
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (ValueError, KeyError, TypeError, OSError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / 'config.json'}: {reason}") from None


def extended(rows: torch.Tensor, size: int) -> torch.Tensor:
    """(n, D) -> (size, D): rows beyond the n are their mean, as of Hewitt, "Initializing New Word
    Embeddings for Pretrained Language Models" (2021)."""
    mean = rows.float().mean(0, keepdim=True)
    return torch.cat([rows.float(), mean.expand(size - len(rows), -1)])


# --- the understanding encoder -------------------------------------------------------------------


def siglip_sizes(folder: Path) -> dict[str, Any]:
    """Keys of `vision_config` for the tower in a directory of SigLIP: Janus' ViT is the same.

    Raises:
        CheckpointError: no such directory, or a model of another family.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such directory; name that of a SigLIP")
    values = read_json(folder / "config.json")
    kind = families.model_type(folder)
    if kind not in TOWERS:
        raise CheckpointError(f"{folder / 'config.json'}: a model of the family {kind!r} cannot be"
                              f" the encoder here; one of {', '.join(TOWERS)} can")  # fmt: skip
    config = _config(folder)
    config = config.vision_config if "vision_config" in values else config
    return {
        "model_type": "janus_vision_model",
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_channels": config.num_channels,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
        "num_image_tokens": (config.image_size // config.patch_size) ** 2,
    }


def fill_tower(model: torch.nn.Module, folder: Path) -> None:
    """Lay SigLIP's weights into the encoder of a model made for `siglip_sizes`, in place. Its text
    side and its pooling head are left out.

    Raises:
        CheckpointError: names the file and key of what is missing or of another shape.
    """
    weights = read_weights(folder)
    start = "vision_model."
    start = start if any(key.startswith(start) for key in weights.tensors) else ""
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()
           if key.startswith("encoder.tower.")}  # fmt: skip

    def theirs(key: str) -> str:
        name = key.removeprefix("encoder.tower.").replace(".projection_layer.", ".out_proj.")
        return start + name

    found = weights.fitted({theirs(key): shape for key, shape in own.items()})
    model.load_state_dict({key: found[theirs(key)].float() for key in own}, strict=False)


def _mapped(key: str) -> bool:
    return any(key.startswith(own) for _, own in NAMES)


def _without_tables(weights: Weights) -> Weights:
    kept = {key: value for key, value in weights.tensors.items() if not key.endswith(TABLES)}
    return Weights(kept, weights.files, weights.source)


def source_of(part: str, values: Mapping[str, Any]) -> tuple[Path | None, dict[str, Any]]:
    """A section `decoder` or `vision` of a recipe's model: the directory that it starts from, if
    any, and the rest.

    Raises:
        ValueError: it shall start from one that is not given, and has no sizes instead.
    """
    rest = dict(values)
    source = rest.pop("from", None)
    if source is None and "from" in values and "hidden_size" not in rest:
        raise ValueError(f"model.{part}.from: name the directory to start from (--set"
                         f" model.{part}.from=DIR), or give sizes")  # fmt: skip
    return Path(source) if source is not None else None, rest


def settings_of(decoder: Mapping[str, Any]) -> tuple[CausalLM | None, dict[str, Any]]:
    """The causal LM that a section `decoder` starts from, if any, and its sizes.

    Raises:
        ValueError: sizes beside `from`, neither, or a directory that cannot be the decoder.
    """
    folder, values = source_of("decoder", decoder)
    if folder is None:
        return None, values
    others = sorted(set(values) - {"max_position_embeddings"})
    if others:
        raise ValueError(f"model.decoder.{others[0]}: {folder} says it; beside `from` only"
                         " max_position_embeddings can be given")  # fmt: skip
    found = causal_lm(folder)
    return found, {**found.sizes, **values}
