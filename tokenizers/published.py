"""Published codecs through the contract of our own: one small adapter each.

`load_published(folder)` reads a directory as transformers' or diffusers' own `save_pretrained`
wrote it (safetensors only) and gives a `Codec`. Quirks are dealt with here; what a codec cannot do
is refused in a sentence.
"""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F

from unified.causal import State
from unified.tokenizers.codec import Codec, CodecSpec, EncodeStream
from unified.tokenizers.kinds import load_codec
from unified.tokenizers.vqgan import Autoencoder


class PublishedCodec(Codec):
    """A codec around a model of another library; subclasses adapt one class each.

    Attributes:
        source: the directory it came from.
    """

    kind = "published"

    def __init__(self, model: Any, folder: Path):
        super().__init__()
        self.model, self.source = model.eval().requires_grad_(False), folder
        self._spec = self.describe(model.config)

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @abstractmethod
    def describe(self, config: Any) -> CodecSpec:
        """The spec that follows from the model's configuration."""

    def train(self, mode: bool = True) -> Self:
        """Stays in eval: some of these have batch norms."""
        return super().train(False)

    def save(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """As its own library does.

        Raises:
            ValueError: it is no type of floating point, the only ones that these can be read in.
        """
        dtype = dtype or self.stored
        if not dtype.is_floating_point:
            raise ValueError(f"a published codec is saved in a floating type, not {dtype}")
        model = self.model if self.model.dtype == dtype else copy.deepcopy(self.model).to(dtype)
        model.save_pretrained(folder)

    def check_media(self, media: torch.Tensor) -> None:
        """Raise ValueError for media of another shape than the codec's, or with what is no
        number."""
        spec = self.spec
        timed = spec.medium != "image"
        want = (spec.channels, *spec.image_size)
        shape = (media.shape[1], *media.shape[3:]) if timed else tuple(media.shape[1:])
        if media.ndim != 2 + timed + len(spec.image_size) or tuple(shape) != want:
            raise ValueError(f"{spec.medium} of shape {tuple(media.shape)}; this codec takes {want}"
                             f"{' beside batch and time' if timed else ''}")  # fmt: skip
        if not torch.isfinite(media).all():
            raise ValueError(f"{spec.medium} holds values that are not numbers")

    def whole(self, media: torch.Tensor) -> torch.Tensor:
        """Media (B, C, T, ...) made whole steps.

        Raises:
            ValueError: there is nothing of them.
        """
        spec, time = self.spec, media.shape[2]
        if not time:
            raise ValueError(f"{spec.medium} without a single frame or sample")
        return self.fill(media, spec.time(spec.steps(time)) - time)


class _Grid(PublishedCodec):
    """Pictures as a grid of codes of one codebook, in raster order.

    `mean` and `std` of the model's configuration, where it has them, are those by which the weights
    want values in [0, 1] normalized, and give them. By default 0.5, which is [-1, 1].
    """

    def normalized(self, media: torch.Tensor) -> torch.Tensor:
        """Pictures in [-1, 1] as the weights want them."""
        mean, std = self._scale(media)
        normalized: torch.Tensor = ((media + 1) / 2 - mean) / std
        return normalized.to(self.model.dtype)

    def restored(self, media: torch.Tensor) -> torch.Tensor:
        """Inverse of `normalized`, clamped to [-1, 1]."""
        media = media.float()
        mean, std = self._scale(media)
        return (2 * (media * std + mean) - 1).clamp(-1, 1)

    def _scale(self, media: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = [getattr(self.model.config, key, (0.5,) * 3) for key in ("mean", "std")]
        mean, std = (media.new_tensor(values)[:, None, None] for values in given)
        return mean, std

    def _spec_of(self, size: int, side: int, grid: int, channels: int) -> CodecSpec:
        return CodecSpec(
            (size,), (0,) * grid**2, (side, side), channels, causal=False, grid=(grid, grid)
        )


class JanusCodec(_Grid):
    """JanusVQVAE. Its own `encode` compares lengths that its `decode` has normalized away; the
    codes were trained with cosine, so cosine it is. On a CPU in fp32 its layers are run by
    `vqgan.Autoencoder`."""

    def __init__(self, model: Any, folder: Path):
        super().__init__(model, folder)
        self._sooner: Autoencoder | None = None

    def describe(self, config: Any) -> CodecSpec:
        scale = 2 ** (len(config.channel_multiplier) - 1)
        return self._spec_of(
            config.num_embeddings, config.num_patches * scale, config.num_patches,
            config.in_channels,
        )  # fmt: skip

    @torch.no_grad()
    def encode(self, media: torch.Tensor) -> torch.Tensor:
        self.check_media(media)
        own = self._sooner = Autoencoder.of(self.model, self._sooner)
        if own is not None:
            latents = own.encode(media).flatten(1, 2)
        else:
            inner = self.model
            latents = inner.quant_conv(inner.encoder(media.to(inner.dtype)))
            latents = latents.flatten(2).transpose(1, 2)
        book = F.normalize(self.model.quantize.embedding.weight.float(), dim=-1)
        return (F.normalize(latents.float(), dim=-1) @ book.T).argmax(-1)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        self.spec.check(codes)
        own = self._sooner = Autoencoder.of(self.model, self._sooner)
        if own is None:
            return self.model.decode(codes).clamp(-1, 1)
        grid = int(self.spec.length**0.5)
        vectors = F.normalize(self.model.quantize.embedding(codes), dim=-1)
        return own.decode(vectors.unflatten(1, (grid, grid))).clamp(-1, 1)


class ChameleonCodec(_Grid):
    """ChameleonVQVAE: transformers has no decoder for it; `ChameleonVQ` has."""

    def __init__(self, model: Any, folder: Path):
        super().__init__(model, folder)
        self.decodes = hasattr(model, "decoder")

    def describe(self, config: Any) -> CodecSpec:
        grid = config.resolution // 2 ** (len(config.channel_multiplier) - 1)
        return self._spec_of(config.num_embeddings, config.resolution, grid, config.in_channels)

    @torch.no_grad()
    def encode(self, media: torch.Tensor) -> torch.Tensor:
        self.check_media(media)
        codes: torch.Tensor = self.model.encode(self.normalized(media)).image_tokens
        return codes.view(len(media), -1)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        if not self.decodes:
            raise ValueError("ChameleonVQVAE has no decoder in transformers: it can only encode")
        self.spec.check(codes)
        return self.restored(self.model.decode(codes))


class DiffusersVQCodec(_Grid):
    """diffusers' VQModel at its own sample size."""

    def describe(self, config: Any) -> CodecSpec:
        grid = config.sample_size // 2 ** (len(config.block_out_channels) - 1)
        return self._spec_of(config.num_vq_embeddings, config.sample_size, grid, config.in_channels)

    @torch.no_grad()
    def encode(self, media: torch.Tensor) -> torch.Tensor:
        self.check_media(media)
        latents = self.model.encode(media.to(self.model.dtype)).latents
        latents = latents.flatten(2).transpose(1, 2).float()
        return torch.cdist(latents, self.model.quantize.embedding.weight[None].float()).argmin(-1)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        self.spec.check(codes)
        grid = int(self.spec.length**0.5)
        vectors = self.model.quantize.embedding(codes).transpose(1, 2)
        latents = vectors.unflatten(2, (grid, grid))
        sample: torch.Tensor = self.model.decode(latents, force_not_quantize=True).sample
        return sample.clamp(-1, 1)


class Emu3Codec(PublishedCodec):
    """Emu3VQVAE: steps of `temporal_downsample_factor` frames; a picture is as many repeats.

    It takes films of any size and rate; `film_size` (pixels a side) and `film_rate` (frames a
    second) in its config.json say which. Without them those of the toybox.
    """

    SIDE, RATE = 64, 24.0

    def describe(self, config: Any) -> CodecSpec:
        side = getattr(config, "film_size", self.SIDE)
        stride = 2 ** (len(config.channel_multiplier) - 1)
        if side % stride:
            raise ValueError(f"film_size {side} is no multiple of this codec's {stride} pixels")
        frames = config.temporal_downsample_factor
        return CodecSpec(
            (config.codebook_size,), (0,) * (side // stride) ** 2, (side, side),
            config.in_channels, medium="video", rate=float(getattr(config, "film_rate", self.RATE)),
            first=frames, stride=frames, causal=False,
        )  # fmt: skip

    @torch.no_grad()
    def encode(self, media: torch.Tensor) -> torch.Tensor:
        self.check_media(media)
        # its own `encode` cuts every item to a size in pixels, as if frames were rows
        film = self.whole(media).transpose(1, 2)
        hidden = self.model.encoder(film.to(self.model.dtype)).permute(0, 2, 1, 3, 4)
        codes: torch.Tensor = self.model.quantize(
            self.model.quant_conv(hidden).permute(0, 2, 1, 3, 4)
        )
        return codes.flatten(1)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        self.spec.check(codes)
        grid = int(self.spec.length**0.5)
        film: torch.Tensor = self.model.decode(codes.view(len(codes), -1, grid, grid))
        return film.transpose(1, 2).clamp(-1, 1)


class Emu3PictureCodec(_Grid):
    """Emu3VQVAE for pictures alone, of the size that its configuration says (`picture_size`)."""

    def describe(self, config: Any) -> CodecSpec:
        side = config.picture_size
        grid = side // 2 ** (len(config.channel_multiplier) - 1)
        return self._spec_of(config.codebook_size, side, grid, config.in_channels)

    @torch.no_grad()
    def encode(self, media: torch.Tensor) -> torch.Tensor:
        self.check_media(media)
        sizes = [media.shape[-2:]] * len(media)
        return torch.stack(self.model.encode(self.normalized(media), sizes).image_tokens).flatten(1)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        self.spec.check(codes)
        grid = int(self.spec.length**0.5)
        return self.restored(self.model.decode(codes.view(len(codes), grid, grid)))


class _Sound(PublishedCodec):
    """Sound: codes (B, Q, steps) of the model <-> ours, step after step."""

    def _spec_of(
        self, sizes: tuple[int, ...], rate: int, hop: int, channels: int = 1, causal: bool = False
    ) -> CodecSpec:
        return CodecSpec(
            sizes, tuple(range(len(sizes))), (), channels, medium="audio", rate=float(rate),
            first=hop, stride=hop, causal=causal,
        )  # fmt: skip

    @abstractmethod
    def forth(self, sound: torch.Tensor) -> torch.Tensor:
        """Whole steps of sound (B, C, N) -> the model's codes (B, Q, steps)."""

    @abstractmethod
    def back(self, codes: torch.Tensor) -> torch.Tensor:
        """The model's codes -> sound (B, C, about N)."""

    @torch.no_grad()
    def encode(self, media: torch.Tensor) -> torch.Tensor:
        self.check_media(media)
        sound = self.whole(media)
        codes = self.forth(sound)[..., : self.spec.steps(sound.shape[2])].long()
        return (codes.transpose(1, 2) + self.starts.to(codes.device)).flatten(1)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        self.spec.check(codes)
        split = codes.view(len(codes), -1, self.spec.length) - self.starts.to(codes.device)
        sound, length = self.back(split.transpose(1, 2)), self.spec.time(split.shape[1])
        return F.pad(sound, (0, max(0, length - sound.shape[2])))[..., :length].clamp(-1, 1)


class EncodecCodec(_Sound):
    """EncodecModel without chunks (24 kHz), at its lowest bandwidth. Reflect padding lets its
    first frames see later samples, so it does not count as causal."""

    def describe(self, config: Any) -> CodecSpec:
        if config.chunk_length is not None or config.normalize:
            raise ValueError("this EnCodec works in normalized chunks (48 kHz); take one without")
        self.bandwidth = config.target_bandwidths[0]
        count = self.model.quantizer.get_num_quantizers_for_bandwidth(self.bandwidth)
        return self._spec_of((config.codebook_size,) * count, config.sampling_rate,
                             config.hop_length, config.audio_channels)  # fmt: skip

    def forth(self, sound: torch.Tensor) -> torch.Tensor:
        codes: torch.Tensor = self.model.encode(sound, bandwidth=self.bandwidth).audio_codes[0]
        return codes

    def back(self, codes: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self.model.decode(codes[None], [None]).audio_values
        return sound


class MimiCodec(_Sound):
    """MimiModel with all its codebooks; causal. Encodes chunk by chunk as well; its decoder keeps
    no cache of its convolutions."""

    def describe(self, config: Any) -> CodecSpec:
        hop = round(config.sampling_rate / config.frame_rate)
        return self._spec_of((config.codebook_size,) * config.num_quantizers, config.sampling_rate,
                             hop, config.audio_channels, causal=True)  # fmt: skip

    def forth(self, sound: torch.Tensor) -> torch.Tensor:
        codes: torch.Tensor = self.model.encode(sound).audio_codes
        return codes

    def encode_steps(self, media: torch.Tensor, past: State) -> tuple[torch.Tensor, State]:
        """Whole steps of sound -> codes (B, n), numbered from 0, and the state, which the next
        call changes in place."""
        keys, padding = past or (None, None)
        found = self.model.encode(
            media, encoder_past_key_values=keys, padding_cache=padding, use_streaming=True
        )
        past = found.encoder_past_key_values, found.padding_cache
        return found.audio_codes.transpose(1, 2).flatten(1), past

    def encode_stream(self) -> EncodeStream:
        """A stream: push sound of any length as it comes, get codes as soon as they are due."""
        return EncodeStream(self)

    def back(self, codes: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self.model.decode(codes).audio_values
        return sound


class DacCodec(_Sound):
    """DacModel; not causal."""

    def describe(self, config: Any) -> CodecSpec:
        return self._spec_of((config.codebook_size,) * config.n_codebooks, config.sampling_rate,
                             config.hop_length)  # fmt: skip

    def forth(self, sound: torch.Tensor) -> torch.Tensor:
        codes: torch.Tensor = self.model.encode(sound).audio_codes
        return codes

    def back(self, codes: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self.model.decode(audio_codes=codes).audio_values
        return sound[:, None]


class Xcodec2Codec(_Sound):
    """Xcodec2Model: one codebook; half of what it encodes are the features of a speech model.

    Those are made by SeamlessM4T's extractor, as in the original: transformers' own for this model
    needs torchaudio for the same values.
    """

    def __init__(self, model: Any, folder: Path):
        from transformers import SeamlessM4TFeatureExtractor

        super().__init__(model, folder)
        self.extractor = SeamlessM4TFeatureExtractor(sampling_rate=int(self.spec.rate))

    def describe(self, config: Any) -> CodecSpec:
        size = 1
        for level in config.quantization_levels:
            size *= level
        return self._spec_of((size,), config.sampling_rate, config.hop_length)

    def forth(self, sound: torch.Tensor) -> torch.Tensor:
        half = self.spec.stride // 2  # so that there is one feature a step
        waves = [F.pad(wave, (half, half)).cpu().numpy() for wave in sound[:, 0]]
        made = self.extractor(waves, sampling_rate=int(self.spec.rate), return_tensors="pt")
        features = made["input_features"].to(sound.device)
        codes: torch.Tensor = self.model.encode(sound, features).audio_codes
        return codes

    def back(self, codes: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self.model.decode(audio_codes=codes).audio_values
        return sound if sound.ndim == 3 else sound[:, None]


# what config.json calls the model -> class of transformers, adapter
PUBLISHED: dict[str, tuple[str, type[PublishedCodec]]] = {
    "janus_vqgan": ("JanusVQVAE", JanusCodec),
    "chameleon_vqgan": ("ChameleonVQVAE", ChameleonCodec),
    "emu3_vqgan": ("Emu3VQVAE", Emu3Codec),
    "encodec": ("EncodecModel", EncodecCodec),
    "mimi": ("MimiModel", MimiCodec),
    "dac": ("DacModel", DacCodec),
    "xcodec2": ("Xcodec2Model", Xcodec2Codec),
}


def load_either(folder: Path) -> Codec:
    """A saved codec, ours or a published one.

    Raises:
        ValueError: it is of no kind that is known, or its weights do not fit.
    """
    found = json.loads((folder / "config.json").read_text())
    published = "model_type" in found or "_class_name" in found
    return load_published(folder) if published else load_codec(folder)


def load_published(folder: str | Path) -> PublishedCodec:
    """A codec saved by transformers or diffusers.

    Raises:
        ValueError: no configuration there, or none of a codec that is known; they are listed.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json")
    config = json.loads((folder / "config.json").read_text())
    if config.get("_class_name") == "VQModel":
        try:
            from diffusers import VQModel
        except ImportError:
            raise ValueError(
                "a VQModel needs diffusers: pip install 'unified[diffusers]'"
            ) from None
        model = VQModel.from_pretrained(str(folder), use_safetensors=True)
        return DiffusersVQCodec(model, folder)
    kind = config.get("model_type")
    if kind not in PUBLISHED:
        known = ", ".join((*(name for name, _ in PUBLISHED.values()), "VQModel"))
        raise ValueError(f"{folder}: a model of type {kind!r} is no codec that is known; {known}")
    import transformers

    name, adapter = PUBLISHED[kind]
    own: Any = getattr(transformers, name)
    if kind == "chameleon_vqgan" and config.get("out_channels"):
        from unified.tokenizers.chameleon import ChameleonVQ as own  # noqa: N813
    if kind == "emu3_vqgan" and config.get("picture_size"):
        adapter = Emu3PictureCodec
    load: Callable[..., Any] = own.from_pretrained
    return adapter(load(str(folder), use_safetensors=True), folder)
