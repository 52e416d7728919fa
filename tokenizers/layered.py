"""Layered tokenizer: a picture is a ground, and in every tile a form in a paint.

    pixels = (1 - cover) * ground + tint * paint + texture

One code names the ground (a whole backdrop), then two codes a tile name the form (cover, tint and
texture of each of its pixels) and the paint (one colour). What a thing is, which colour it has and
what it stands on are separate codes, so each is learnt once and combinations never seen together
can be written. The idea is that of learnt sprites (MarioNette, https://arxiv.org/abs/2104.14553);
here every codebook is a vector quantizer, and encoding is analysis by synthesis: the form and the
paint that give the tile back best. Codebooks are fitted by alternating that choice with least
squares, the choice weighted by code length so that no two codes say the same (entropy-constrained
vector quantization, Chou, Lookabaugh and Gray 1989).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from vector_quantize_pytorch import VectorQuantize

from unified.detokenizers.image import composite
from unified.layers import patchify, unpatchify
from unified.tokenizers.codec import Codec, CodecSpec

BLANK = 0  # the form that shows the bare ground; its paint is always 0
MEDIAN = 99  # pictures of which a ground is the median
BARE = 0.02  # a tile that differs less from its ground is not looked at


@dataclass(frozen=True)
class LayeredConfig:
    """Sizes of the codebooks.

    Attributes:
        same: share of equal pixels above which two pictures stand on the same ground.
        bit: squared error over a tile (values in [-1, 1]) that one nat of code length is worth.
    """

    image_size: int = 64
    patch: int = 16
    channels: int = 3
    grounds: int = 8
    forms: int = 416
    paints: int = 44
    same: float = 0.8
    bit: float = 0.03

    @property
    def spec(self) -> CodecSpec:
        side = self.image_size // self.patch
        return CodecSpec(
            codebooks=(self.grounds, self.forms, self.paints),
            books=(0, *(1, 2) * side**2),
            image_size=(self.image_size, self.image_size),
            channels=self.channels,
            grid=(side, side),
        )


class LayeredTokenizer(Codec):
    """The codec, and `fit`, which learns its codebooks.

    Shapes: B pictures, N tiles of P pixels, C channels, K forms.
    """

    kind = "layered"
    Config = LayeredConfig

    def __init__(self, config: LayeredConfig):
        super().__init__()
        self.config = config
        pixels, channels = config.patch**2, config.channels
        side = config.image_size
        self.register_buffer("grounds", torch.zeros(config.grounds, channels, side, side))
        self.register_buffer("cover", torch.zeros(config.forms, pixels))
        self.register_buffer("tint", torch.zeros(config.forms, pixels))
        self.register_buffer("texture", torch.zeros(config.forms, channels, pixels))
        self.register_buffer("nats", torch.zeros(config.forms))  # code length of each form
        self.paint = VectorQuantize(
            dim=channels, codebook_size=config.paints, kmeans_init=True, kmeans_iters=30
        )
        self.grounds: torch.Tensor
        self.cover: torch.Tensor
        self.tint: torch.Tensor
        self.texture: torch.Tensor
        self.nats: torch.Tensor

    @property
    def paints(self) -> torch.Tensor:
        """(paints, C)."""
        book: torch.Tensor = self.paint.codebook
        return book

    # --- the codec -----------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in [-1, 1] -> codes (B, length) int64: ground, then form, paint by tile."""
        self.check_pixels(pixels)
        ground = self._nearest_ground(pixels)
        x, g = self._tiles(pixels), self._tiles(self.grounds[ground])
        form = torch.full((len(x),), BLANK, device=x.device)
        paint = torch.zeros_like(form)
        drawn = (_apart(x, g) > BARE).nonzero()[:, 0]
        form[drawn], wanted, _ = self._assign(x[drawn], g[drawn])
        paint[drawn] = torch.cdist(wanted, self.paints).argmin(1)
        pairs = torch.stack([form, paint.masked_fill(form == BLANK, 0)], 1)
        start_form, start_paint = (r.start for r in self.spec.ranges[1:])
        pairs += torch.tensor([start_form, start_paint], device=pairs.device)
        return torch.cat([ground[:, None], pairs.view(len(pixels), -1)], 1)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, length) -> (B, C, H, W) in [-1, 1].

        Raises:
            ValueError: a wrong number of codes, or one outside the codebook of its place.
        """
        self.spec.check(codes)
        start_form, start_paint = (r.start for r in self.spec.ranges[1:])
        ground = self.grounds[codes[:, 0]]
        form = codes[:, 1::2].reshape(-1) - start_form
        paint = self.paints[codes[:, 2::2].reshape(-1) - start_paint]
        tiles = composite(
            self._tiles(ground), self.cover[form], self.tint[form], self.texture[form], paint
        )
        side = self.config.image_size // self.config.patch
        whole = unpatchify(tiles.view(len(codes), side * side, -1), (side, side), self.config.patch)
        return whole.clamp(-1, 1)

    def _tiles(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B * tiles, C, P)."""
        return (
            patchify(pixels, self.config.patch)
            .flatten(0, 1)
            .unflatten(1, (self.config.channels, -1))
        )

    def _nearest_ground(self, pixels: torch.Tensor) -> torch.Tensor:
        """The ground from which the fewest pixels differ, (B,): things on it do not pull."""
        grounds = self.grounds[..., ::2, ::2]
        parts = pixels[..., ::2, ::2].split(64)
        return torch.cat([_differing(part, grounds).argmin(1) for part in parts])

    def _explain(self, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Every form's best squared error on every tile, (N, K), and the paint that gives it,
        (N, C, K). With y = x - g, a form wants y = tint paint + texture - cover g."""
        y = x - g
        cover, tint, texture = self.cover, self.tint, self.texture
        error = (
            y.square().sum((1, 2))[:, None]
            + g.square().sum(1) @ cover.square().T
            + texture.square().sum((1, 2))
            + 2 * (y * g).sum(1) @ cover.T
            - 2 * y.flatten(1) @ texture.flatten(1).T
            - 2 * g.flatten(1) @ (cover[:, None] * texture).flatten(1).T
        )
        drawn = tint.square().sum(1)  # (K,)
        wanted = y @ tint.T + g @ (cover * tint).T - (texture @ tint[..., None])[..., 0].T
        paint = (wanted / drawn.clamp_min(1e-6)).clamp(-1, 1)  # (N, C, K)
        # |rest - tint paint|^2 - |rest|^2, for a paint that may have been clamped
        error = error + (drawn * paint.square() - 2 * wanted * paint).sum(1)
        return error.clamp_min(0), paint

    # --- learning ------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, pixels: torch.Tensor, rounds: int = 24) -> Iterator[dict[str, float]]:
        """Learn all codebooks from pictures (B, C, H, W), yielding after each round its mean
        squared error of a value and the forms in use."""
        self._fit_grounds(pixels)
        ground = self._nearest_ground(pixels)
        both = torch.stack([self._tiles(pixels), self._tiles(self.grounds[ground])], 1)
        both = torch.unique(both, dim=0)  # an appearance counts once, however common it is
        x, g = both.unbind(1)
        drawn = _apart(x, g) > BARE
        x, g = x[drawn], g[drawn]
        self._start_forms(x, g)
        for done in range(rounds):
            form, paint, error = self._assign(x, g)
            uses = torch.bincount(form, minlength=self.config.forms)
            if done >= rounds // 2:  # the palette settles last: textures take up what it leaves
                paint = self._quantize_paint(form, paint)
            self._refit(x, g, form, paint)
            self.nats = -((uses + 0.5) / (uses.sum() + 0.5 * len(uses))).log()
            self.nats[BLANK] = 0
            if done < rounds // 2:
                self._restart(x, g, error, uses)
            yield {
                "error": float(error.mean()) / x[0].numel(),
                "forms": float((uses[1:] > 0).sum()),
            }
        self._clean_grounds(pixels[:1024])

    def _fit_grounds(self, pixels: torch.Tensor) -> None:
        """Greedy clusters of pictures that agree in most pixels; a ground is their median."""
        few, limit = pixels[:1024], 1 - self.config.same
        sparse = few[..., ::4, ::4]  # enough to tell grounds apart
        near = torch.cat([_differing(part, sparse) for part in sparse.split(64)]) < limit
        for k in range(self.config.grounds):
            if not near.any():
                break
            members = near[int(near.sum(1).argmax())]
            for _ in range(2):  # the second time around the median instead of one picture
                ground = few[members][:MEDIAN].median(0).values
                members = _differing(sparse, ground[None, :, ::4, ::4])[:, 0] < limit
            self.grounds[k] = ground
            near[members], near[:, members] = False, False
        nearest = self._nearest_ground(few)
        for k in nearest.unique().tolist():
            self.grounds[k] = few[nearest == k][:MEDIAN].median(0).values

    def _clean_grounds(self, pixels: torch.Tensor) -> None:
        """Each tile of a ground again, from the pictures where nothing stands on it: a median over
        all of them keeps specks where things are common."""
        codes = self.encode(pixels)
        bare = codes[:, 1::2] == self.spec.ranges[1].start + BLANK  # (B, tiles)
        tiles = self._tiles(pixels).unflatten(0, bare.shape)
        side, patch = self.config.image_size // self.config.patch, self.config.patch
        for k in codes[:, 0].unique().tolist():
            ground = self._tiles(self.grounds[k : k + 1])
            for place in range(len(ground)):
                free = tiles[(codes[:, 0] == k) & bare[:, place], place]
                if len(free):
                    ground[place] = free.median(0).values
            self.grounds[k] = unpatchify(ground.flatten(1)[None], (side, side), patch)[0]

    def _start_forms(self, x: torch.Tensor, g: torch.Tensor) -> None:
        """Farthest first (Gonzalez 1985): every next form is the tile explained worst so far."""
        least = (x - g).square().sum((1, 2))
        for k in range(1, self.config.forms):
            self._seed(k, x, g, int(least.argmax()))
            least = torch.minimum(least, self._error_of(x, g, k))

    def _seed(self, k: int, x: torch.Tensor, g: torch.Tensor, tile: int) -> None:
        """Make form k of one tile: covered where it differs from its ground, in its mean colour."""
        differs = (x[tile] - g[tile]).abs().amax(0)
        cover = (2 * differs / differs.max().clamp_min(1e-3)).clamp(max=1)
        paint = (x[tile] * cover).sum(1) / cover.sum().clamp_min(1e-3)
        self.cover[k] = self.tint[k] = cover
        self.texture[k] = x[tile] - (1 - cover) * g[tile] - cover * paint[:, None]

    def _error_of(self, x: torch.Tensor, g: torch.Tensor, k: int) -> torch.Tensor:
        rest = x - (1 - self.cover[k]) * g - self.texture[k]
        wanted = rest @ self.tint[k] / self.tint[k].square().sum().clamp_min(1e-6)
        return (rest - self.tint[k] * wanted[..., None]).square().sum((1, 2))

    def _assign(
        self, x: torch.Tensor, g: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        error, paint = self._explain(x, g)
        form = (error + self.config.bit * self.nats).argmin(1)
        rows = torch.arange(len(form), device=x.device)
        return form, paint[rows, :, form], error[rows, form]

    def _quantize_paint(self, form: torch.Tensor, paint: torch.Tensor) -> torch.Tensor:
        """Update the palette with the wanted paints; the nearest of it for each, (N, C)."""
        drawn = form != BLANK
        self.paint.train()
        self.paint(paint[drawn][None])
        self.paint.eval()
        return self.paints[torch.cdist(paint, self.paints).argmin(1)]

    def _refit(
        self, x: torch.Tensor, g: torch.Tensor, form: torch.Tensor, paint: torch.Tensor
    ) -> None:
        """Least squares of cover, tint (held near what they were) and texture of every form."""
        keep = 0.05
        for k in form.unique().tolist():
            if k == BLANK:
                continue
            mine = form == k
            y, low, high = x[mine] - g[mine], -g[mine], paint[mine][..., None].expand_as(x[mine])
            y0, low0, high0 = (v - v.mean(0) for v in (y, low, high))
            # two unknowns a pixel, shared by the channels: [cover, tint]
            a, b, d = (
                (u * v).sum((0, 1)) for u, v in ((low0, low0), (low0, high0), (high0, high0))
            )
            e, f = (low0 * y0).sum((0, 1)), (high0 * y0).sum((0, 1))
            e, f = e + keep * self.cover[k], f + keep * self.tint[k]
            a, d = a + keep, d + keep
            determinant = a * d - b * b
            cover, tint = (d * e - b * f) / determinant, (a * f - b * e) / determinant
            self.cover[k], self.tint[k] = cover.clamp(0, 1), tint.clamp(0, 1)
            self.texture[k] = (y - self.cover[k] * low - self.tint[k] * high).mean(0)

    def _restart(
        self, x: torch.Tensor, g: torch.Tensor, error: torch.Tensor, uses: torch.Tensor
    ) -> None:
        """Forms without use go to the tiles that are explained worst."""
        idle = [k for k in range(1, self.config.forms) if uses[k] == 0]
        least = error.clone()
        for k in idle:
            worst = int(least.argmax())
            if float(least[worst]) < 2 * self.config.bit * float(self.nats.max()):
                return
            self._seed(k, x, g, worst)
            self.nats[k] = self.nats.median()
            least = torch.minimum(least, self._error_of(x, g, k))


def _apart(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Largest difference of a tile from its ground, (N,)."""
    return (x - g).abs().amax((1, 2))


def _differing(pictures: torch.Tensor, grounds: torch.Tensor, step: float = 0.1) -> torch.Tensor:
    """Share of pixels in which pictures (B, C, H, W) differ from grounds (G, C, H, W), (B, G)."""
    apart = (pictures[:, None] - grounds).abs().amax(2) > step
    return apart.float().mean((2, 3))
