"""Train a tokenizer of pictures, films or sound: on endless samples of the toybox, or on files of
one's own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ConfigDict, field_validator, model_validator
from rich.progress import Progress
from safetensors.torch import save_file
from torch import nn

from unified.checkpoint import write_manifest
from unified.media.pixels import resized, to_pictures
from unified.media.sheet import spectrograms
from unified.spectrum import mel_distance
from unified.tokenizers.audio import AudioTokenizer
from unified.tokenizers.codec import Codec
from unified.tokenizers.conv import ConvTokenizer
from unified.tokenizers.image import ImageTokenizer
from unified.tokenizers.kinds import new_codec
from unified.tokenizers.layered import LayeredTokenizer
from unified.tokenizers.quantizers import perplexity
from unified.tokenizers.seed import SeedTokenizer
from unified.tokenizers.teacher import Teacher
from unified.tokenizers.text import TextTokenizer
from unified.tokenizers.video import VideoTokenizer
from unified.toybox.pixels import scenes
from unified.train.audio import AudioStage, clips, piece
from unified.train.loop import COLUMNS, LoopConfig, Stage, fit
from unified.train.losses import Critic, FeatureLoss, adversarial_losses, pyramid_loss
from unified.train.media import Media, MediaConfig
from unified.train.seed import STAGES as SEED_STAGES
from unified.train.seed import SeedStage, TeacherStage
from unified.train.settings import checked
from unified.train.video import FRAMES, VideoStage, films


class TokenizerConfig(BaseModel):
    """The tokenizer stage of a recipe: a kind of codec, its settings and how it is trained.

    "vq", "conv", "video" and "audio" codecs are trained by the loop; the codebooks of a "layered"
    one are fitted in closed form and need none; a "seed" one has a loop for each of its four
    stages. `data` names files of one's own to learn from in place of the toybox, by their path or
    with the keys of MediaConfig.
    """

    model_config = ConfigDict(extra="forbid")

    kind: str = "layered"
    model: dict[str, Any] = {}
    data: MediaConfig | None = None
    scenes: int = 4096  # pictures that codebooks are placed or fitted by
    rounds: int = 24  # of a layered codec's fit
    loop: LoopConfig | None = None
    loops: dict[str, LoopConfig] = {}  # of a seed codec
    stored: Literal["float32", "float16", "int8"] = "float32"  # how the model's weights are saved
    free: int = 0  # steps before the codebooks of an "audio" codec are placed
    squared: float = 1.0  # weight of a picture's squared error beside the absolute one
    detail: float = 0.0  # of its Laplacian pyramid
    perceptual: float = 0.0  # of the features that `encoder` finds in it
    encoder: str | None = None  # a seed tokenizer, or a vision encoder of transformers
    adversarial: float = 0.0  # of its critic
    critic_after: int = 0  # steps before the critic counts

    @field_validator("data", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        if value is None:
            return None
        return checked(MediaConfig, {"path": value} if isinstance(value, str) else value)

    @model_validator(mode="after")
    def _features_have_an_encoder(self) -> TokenizerConfig:
        if self.perceptual and self.encoder is None:
            raise ValueError(
                "tokenizer.perceptual: say whose features count: tokenizer.encoder=DIR of a seed"
                " tokenizer or a vision encoder of transformers"
            )
        return self

    @model_validator(mode="after")
    def _codebooks_are_placed(self) -> TokenizerConfig:
        loop = self.loop
        if loop and self.free and self.free >= min(loop.steps, loop.sample_every or loop.steps):
            raise ValueError(
                f"tokenizer.free: {self.free} steps without codebooks; the loop has {loop.steps} "
                f"steps and shows samples every {loop.sample_every}: give a smaller number"
            )
        return self


class PictureStage:
    """Absolute plus squared error of the pixels, plus the codebook's commitment; detail, features
    of a frozen encoder and a critic where they are asked for."""

    def __init__(
        self,
        config: TokenizerConfig,
        codec: ImageTokenizer | ConvTokenizer,
        size: int,
        seed: int,
        device: str,
        media: Media | None = None,
    ):
        self.config, self.seed, self.device, self.size = config, seed, device, size
        self.codec, self.media = codec, media
        self.critic = Critic(codec.config.channels) if config.adversarial else None
        self.features: FeatureLoss | None = None
        if config.perceptual and config.encoder:
            self.features = FeatureLoss(Path(config.encoder), device)
        parts = {"codec": codec} | ({"critic": self.critic} if self.critic else {})
        self.model: nn.Module = nn.ModuleDict(parts).to(device)

    def batch(self, step: int) -> list[torch.Tensor]:
        return [_pictures(self.codec, self.media, self.seed, step * self.size, self.size)]

    def loss(self, part: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        config = self.config
        if step == 0 and isinstance(self.codec, ImageTokenizer):
            self.codec.place_codebook(
                _pictures(self.codec, self.media, self.seed, 0, config.scenes)
            )
        rebuilt, codes, commitment = self.codec(part)
        rebuilt = rebuilt.float()
        absolute, squared = F.l1_loss(rebuilt, part), F.mse_loss(rebuilt, part)
        loss = absolute + config.squared * squared + commitment
        values = {
            "pixels": absolute.item(),
            "commitment": commitment.item(),
            "psnr": -10 * float(torch.log10(squared.detach() / 4)),
            "codes_in_batch": float(codes.unique().numel()),
        }
        if config.detail:
            loss = loss + config.detail * pyramid_loss(rebuilt, part)
        if self.features is not None:
            missed = self.features(rebuilt, part)
            loss = loss + config.perceptual * missed
            values["perceptual"] = missed.item()
        if self.critic is not None:
            fooled, critic = adversarial_losses(self.critic, rebuilt, part)
            on = step >= config.critic_after
            loss = loss + critic + (config.adversarial * fooled if on else 0)
            values |= {"fooled": fooled.item(), "critic": critic.item()}
        return loss, values


def train_tokenizer(
    config: TokenizerConfig,
    folder: Path,
    *,
    seed: int,
    text: TextTokenizer | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Codec:
    """Run the stage, unless it is finished; the codec is saved to folder/model and returned.

    Args:
        text: for a codec that learns from words ("seed").

    Raises:
        ValueError: an unknown kind or setting, or a codec without the loops or words it needs.
    """
    torch.manual_seed(seed)
    codec = new_codec(config.kind, config.model).to(device)
    media = None if config.data is None else _media(config, codec, folder, seed)
    finished = folder / "model" / "config.json"
    if isinstance(codec, LayeredTokenizer):
        if finished.is_file():
            return LayeredTokenizer.load(folder / "model")
        _fit_layered(codec, config, folder, seed, progress, media)
        _show(codec, folder, config.rounds, seed, device, media)
    elif isinstance(codec, SeedTokenizer):
        if text is None:
            raise ValueError("a tokenizer of kind 'seed' learns from words: it needs a text stage")
        _train_seed(codec, config, folder, text, seed, device, progress, media)
    else:
        if config.loop is None:
            raise ValueError(f"tokenizer.loop: a tokenizer of kind {config.kind!r} needs one")
        size = config.loop.batch_size
        stage: Stage
        if isinstance(codec, AudioTokenizer):
            stage = AudioStage(codec, size, seed, device, config.free, media)
        elif isinstance(codec, VideoTokenizer):
            stage = VideoStage(codec, size, seed, device, media=media)
        else:
            assert isinstance(codec, ImageTokenizer | ConvTokenizer)
            stage = PictureStage(config, codec, size, seed, device, media)
        show = partial(_show, codec, folder, seed=seed, device=device, media=media)
        fit(stage, config.loop, folder, name=f"{config.kind} tokenizer", seed=seed, device=device,
            on_sample=show, progress=progress)  # fmt: skip
    codec.save(folder / "model", dtype=getattr(torch, config.stored))
    write_manifest(folder / "model")
    return codec.eval()


def _media(config: TokenizerConfig, codec: Codec, folder: Path, seed: int) -> Media:
    """The files that the settings name, as a run in `folder` learns from them."""
    assert config.data is not None
    length = FRAMES if codec.spec.medium == "video" else 0
    if isinstance(codec, AudioTokenizer):
        length = piece(codec)
    loops = [config.loop] if config.loop else list(config.loops.values())
    most = loops[0].unreadable if loops else 0.01
    media = Media(config.data, codec.spec, length=length, seed=seed, unreadable=most)
    media.begin(folder, words=isinstance(codec, SeedTokenizer))
    return media


def _pictures(codec: Codec, media: Media | None, seed: int, start: int, count: int) -> torch.Tensor:
    """Pictures start..start+count that a codec learns from, of its size and on its device."""
    if media is not None:
        return media.batch(start, count).to(codec.device)
    return resized(scenes(seed, start, count), codec.spec.image_size).to(codec.device)


SHOWN, COUNTED = {"image": 16, "video": 4, "audio": 4}, {"image": 128, "video": 16, "audio": 32}


def _show(
    codec: Codec, folder: Path, step: int, seed: int, device: str, media: Media | None = None
) -> dict[str, float]:
    """A picture of held-out originals above what comes back, to folder/samples; how far apart they
    are, and how the codebook that is used least is used by more of the kind."""
    codec.eval()
    spec = codec.spec
    target = folder / "samples" / f"step-{step:06d}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    if media is None:
        items = _held_out(codec, seed).to(device)
    else:
        items = media.held_out(COUNTED[spec.medium]).to(device)
    codes = codec.encode(items)
    few = SHOWN[spec.medium]
    given, rebuilt = items[:few], codec.decode(codes[:few])
    spread, used = zip(*(_use(codes, book) for book in spec.ranges), strict=True)
    values = {"codebook_use": min(used), "perplexity": min(spread)}
    if spec.medium == "audio":
        pair = given[:, 0], rebuilt[:, 0, : given.shape[2]]
        spectrograms(*pair, int(spec.rate), target)
        return values | {"held_out_mel": float(mel_distance(*pair, spec.rate))}
    if spec.medium == "video":
        given, rebuilt = (x.transpose(1, 2).flatten(0, 1) for x in (given, rebuilt))
    rows = [np.concatenate(to_pictures(x), 1) for x in (given, rebuilt)]
    Image.fromarray(np.concatenate(rows, 0)).save(target)
    return values | {"held_out_psnr": -10 * float(torch.log10(F.mse_loss(rebuilt, given) / 4))}


def _held_out(codec: Codec, seed: int) -> torch.Tensor:
    """COUNTED held-out items of the codec's medium."""
    spec = codec.spec
    count = COUNTED[spec.medium]
    if spec.medium == "audio":
        return clips(seed, 0, count, "held_out", rate=int(spec.rate))
    if spec.medium == "video":
        return resized(films(seed, 0, count, "held_out", FRAMES), spec.image_size)
    return resized(scenes(seed, 0, count, "held_out"), spec.image_size)


def _use(codes: torch.Tensor, book: range) -> tuple[float, float]:
    """`perplexity` of one codebook's codes among all."""
    own = codes[(codes >= book.start) & (codes < book.stop)] - book.start
    return perplexity(own, len(book))


def _train_seed(
    codec: SeedTokenizer, config: TokenizerConfig, folder: Path, text: TextTokenizer, seed: int,
    device: str, progress: bool, media: Media | None,
) -> None:  # fmt: skip
    """The four stages, each from its own last checkpoint."""
    missing = [name for name in SEED_STAGES if name not in config.loops]
    if missing:
        raise ValueError(f"tokenizer.loops: a tokenizer of kind 'seed' also needs {missing}")
    teacher = Teacher(codec.config.teacher_config).to(device)
    for name in SEED_STAGES:
        loop = config.loops[name]
        stage: Stage
        if name == "teacher":
            stage = TeacherStage(teacher, text, loop.batch_size, seed, device, media)
        else:
            codec.teacher.load_state_dict(teacher.image.state_dict())
            stage = SeedStage(name, codec, teacher, text, loop.batch_size, seed, device, media)
        show = partial(_show, codec, folder / name, seed=seed, device=device, media=media)
        fit(stage, loop, folder / name, name=f"seed: {name}", seed=seed, device=device,
            on_sample=show if name == "flow" else None, progress=progress)  # fmt: skip
    (folder / "teacher" / "model").mkdir(exist_ok=True)
    save_file(teacher.state_dict(), folder / "teacher" / "model" / "model.safetensors")


def _fit_layered(
    codec: LayeredTokenizer, config: TokenizerConfig, folder: Path, seed: int, progress: bool,
    media: Media | None,
) -> None:  # fmt: skip
    """Closed form, under a minute: it starts afresh where it was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = _pictures(codec, media, seed, 0, config.scenes)
    with Progress(*COLUMNS, disable=not progress) as bar, (folder / "log.jsonl").open("w") as log:
        task = bar.add_task("image tokenizer", total=config.rounds)
        for step, row in enumerate(codec.fit(pixels, config.rounds), 1):
            log.write(json.dumps({"step": step, **row}) + "\n")
            bar.update(task, completed=step)
