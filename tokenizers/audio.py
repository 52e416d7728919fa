"""Sound tokenizer: causal, streaming, residual codes.

    samples -> frames of `hop` -> causal blocks -> every `down` frames merged -> codes (Q a step)

Like SoundStream and Mimi (https://arxiv.org/abs/2107.03312, https://arxiv.org/abs/2410.00037) in
what it promises, but made of products of matrices at the frames' rate instead of convolutions at
the samples': several times faster on a CPU. A step's codes depend on samples up to its end alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unified.causal import CausalBlock, CausalStack, State
from unified.detokenizers.audio import SpectralDecoder
from unified.tokenizers.codec import CodecSpec, StreamCodec
from unified.tokenizers.quantizers import Residual


@dataclass(frozen=True)
class AudioConfig:
    """Sizes. Defaults: 16 kHz, 25 steps a second, 5 codebooks of 512: 1.1 kbit a second.

    Attributes:
        hop: samples of a frame of the encoder; down: frames of a step.
        up, window: frames a step and samples a window of the decoder.
    """

    rate: int = 16_000
    hop: int = 320
    down: int = 2
    width: int = 160
    layers: int = 6
    kernel: int = 7
    codebooks: int = 5
    codebook_size: int = 512
    code_width: int = 64
    decoder_width: int = 192
    decoder_layers: int = 6
    up: int = 4
    window: int = 640

    @property
    def stride(self) -> int:
        """Samples of a step."""
        return self.hop * self.down

    @property
    def spec(self) -> CodecSpec:
        return CodecSpec(
            codebooks=(self.codebook_size,) * self.codebooks,
            books=tuple(range(self.codebooks)),
            medium="audio",
            channels=1,
            rate=float(self.rate),
            first=self.stride,
            stride=self.stride,
            latency=self.window - self.stride // self.up,
        )


class AudioTokenizer(StreamCodec):
    """The codec; see the module's picture."""

    kind = "audio"
    Config = AudioConfig
    config: AudioConfig

    def __init__(self, config: AudioConfig):
        super().__init__()
        self.config = config
        if config.stride % config.up:
            raise ValueError(f"a step of {config.stride} samples does not split into {config.up}")
        if config.spec.latency >= config.stride:
            raise ValueError(f"a window of {config.window} samples is too long for a step of "
                             f"{config.stride}")  # fmt: skip
        half = config.layers // 2
        # a frame is seen with the one before it: edges between frames are no edges of sound
        self.embed = nn.Linear(2 * config.hop, config.width)
        self.fine = CausalStack([CausalBlock(config.width, config.kernel) for _ in range(half)])
        self.merge = nn.Linear(config.down * config.width, config.width)
        self.coarse = CausalStack(
            [CausalBlock(config.width, config.kernel) for _ in range(config.layers - half)]
        )
        self.norm = nn.LayerNorm(config.width)
        self.quantizer = Residual(
            config.width, config.codebooks, config.codebook_size, inner=config.code_width,
            dropout=True,
        )  # fmt: skip
        self.widen = nn.Linear(config.width, config.decoder_width)
        self.decoder = SpectralDecoder(
            config.decoder_width, config.decoder_layers, config.up, config.stride // config.up,
            config.window, config.kernel,
        )  # fmt: skip

    def latents(self, sound: torch.Tensor, past: State = None) -> tuple[torch.Tensor, State]:
        """Whole steps of samples (B, 1, steps * stride) -> (B, steps, width), and the state."""
        before, fine, coarse = (None, None, None) if past is None else past
        frames = sound[:, 0].unflatten(1, (-1, self.config.hop))
        if before is None:
            before = torch.zeros_like(frames[:, :1])
        x = self.embed(torch.cat([torch.cat([before, frames[:, :-1]], 1), frames], -1))
        x, fine = self.fine(x, fine)
        x = self.merge(x.unflatten(1, (-1, self.config.down)).flatten(2))
        x, coarse = self.coarse(x, coarse)
        return self.norm(x), [frames[:, -1:], fine, coarse]

    def forward(self, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Training pass over whole steps: sound (B, 1, N) again, codes (B, steps, Q), loss."""
        quantized, codes, loss = self.quantizer(self.latents(sound)[0])
        late, (_, _, tail) = self.decoder(self.widen(quantized))
        return torch.cat([late, tail], 1)[:, None, self.decoder.latency :], codes, loss

    # --- the codec, step by step ---------------------------------------------------------------

    def encode_steps(self, media: torch.Tensor, past: State) -> tuple[torch.Tensor, State]:
        latents, past = self.latents(media, past)
        return self.quantizer(latents)[1].flatten(1), past

    def decode_steps(self, codes: torch.Tensor, past: State) -> tuple[torch.Tensor, State]:
        begins = past is None
        split = codes.view(len(codes), -1, self.config.codebooks)
        sound, past = self.decoder(self.widen(self.quantizer.embed(split)), past)
        if begins:  # what lies before the first sample
            sound = sound[:, self.decoder.latency :]
        return sound[:, None].clamp(-1, 1), past

    def decode_rest(self, past: State) -> torch.Tensor:
        return past[2][:, None].clamp(-1, 1)
