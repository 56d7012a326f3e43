"""What only sets can do: look which tokens carry a region, lock them, resample the rest, mix and exchange sets.

Letters: C codes, M tokens, N tokens that occur, H height = width.
Tokens have no place of their own: each of them can change the whole picture. Regions are therefore measured, by leaving
a code out and looking where the picture changes, and an edit keeps tokens exactly, pixels outside it only nearly.
Source: TokenSet (arXiv 2503.16425) figure 5 for the idea that tokens carry regions; the operations are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genmm.core.errors import ShapeError, UsageError
from genmm.core.events import CancelToken, Event, drain
from genmm.core.seeds import derive_seed, fresh_seed
from genmm.quantizers.multiset import TokenSet
from genmm.systems.tokenset.request import PictureRequest, PictureSettings, read_wish
from genmm.systems.tokenset.result import ImageResult
from genmm.systems.tokenset.sampling import Row

if TYPE_CHECKING:
    from genmm.systems.tokenset.tokenizer import SetTokenizer

MAP_BATCH = 64
"""Pictures decoded together for a heat map."""
CARRIES = 0.5
"""Share of a token's effect inside a region from which on the token belongs to it."""


@dataclass(frozen=True)
class TokenMap:
    """Where the codes of a set act in its picture."""

    codes: tuple[int, ...]
    """The N codes that occur, ascending."""
    times: tuple[int, ...]
    """How often each occurs."""
    effect: np.ndarray
    """[N, H, H] float32: mean absolute change of the pixels (0 to 1) when the code is left out."""

    @property
    def heat(self) -> np.ndarray:
        """[H, H] float32 that sums to M: each token spread over the places where it acts."""
        whole = self.effect.sum((1, 2), keepdims=True)
        spread = self.effect / np.maximum(whole, 1e-12)
        return (spread * np.asarray(self.times, dtype=np.float32)[:, None, None]).sum(0)

    def shares(self, region: np.ndarray) -> np.ndarray:
        """[N] float32: how much of each code's effect lies inside the region [H, H] bool."""
        if region.shape != self.effect.shape[1:]:
            raise ShapeError(f"the region must be {self.effect.shape[1:]}, got {region.shape}")
        whole = self.effect.sum((1, 2))
        inside = (self.effect * region).sum((1, 2))
        return np.where(whole > 1e-9, inside / np.maximum(whole, 1e-12), 0.0).astype(np.float32)

    def inside(self, region: np.ndarray, share: float = CARRIES) -> tuple[int, ...]:
        """The codes of which at least `share` of the effect lies in the region; the strongest one if there is none."""
        shares = self.shares(region)
        chosen = tuple(code for code, own in zip(self.codes, shares, strict=True) if own >= share)
        return chosen or (self.codes[int(shares.argmax())],)


class SetEditing:
    """Operations on token sets; `TokenSetPipeline` has them all."""

    tokenizer: SetTokenizer
    defaults: PictureSettings
    codes: int
    tokens: int
    labels: Mapping[str, tuple[str, ...]]
    tokenize: Callable[..., list[TokenSet]]
    decoded: Callable[[Sequence[TokenSet]], Tensor]
    made: Callable[..., Iterator[Event]]
    checked: Callable[[PictureRequest], PictureSettings]

    # ------------------------------------------------------------ looking

    def token_map(self, picture: Any) -> TokenMap:
        """Where each code of a picture (or of its set) acts. One decoding for each code that occurs."""
        own = self.as_token_set(picture)
        if len(own.pairs) < 2:
            raise UsageError("a set needs two different codes, so that one can be left out")
        without = [own - TokenSet(((code, times),), own.codes) for code, times in own.pairs]
        with torch.inference_mode():
            whole = self.decoded([own]).clamp(-1, 1)
            parts = []
            for first in range(0, len(without), MAP_BATCH):
                made = self.decoded(without[first : first + MAP_BATCH]).clamp(-1, 1)
                parts.append((made - whole).abs().mean(1) / 2.0)
            effect = torch.cat(parts).cpu().numpy()
        return TokenMap(tuple(code for code, _ in own.pairs), tuple(times for _, times in own.pairs), effect)

    def as_token_set(self, picture: Any) -> TokenSet:
        """The set of a picture; a set stays what it is."""
        return picture if isinstance(picture, TokenSet) else self.tokenize([picture])[0]

    # ------------------------------------------------------------ resampling

    def edit_events(
        self,
        picture: Any,
        *,
        free: Iterable[int],
        text: str | None = None,
        labels: Mapping[str, str] | None = None,
        strength: float = 1.0,
        at_least: Mapping[int, int] | None = None,
        at_most: Mapping[int, int] | None = None,
        count: int = 1,
        seed: int | None = None,
        seeds: Sequence[int] = (),
        settings: PictureSettings | Mapping[str, Any] | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Event]:
        """Resample the codes in `free`, keep all other codes exactly: Progress, at last Finished with an ImageResult.

        Every picture made has the locked codes exactly as often as before; the free tokens are drawn anew among all
        other codes, guided by text and labels. `strength` 1 starts them from noise, less stays nearer to what was
        there. `at_least` and `at_most` (code -> times) hold exactly for codes that are not locked.
        Raises: UsageError for codes that the set does not hold, a set of another size than drawn ones, and bounds that
        leave no way.
        """
        own, freed = self.as_token_set(picture), sorted({int(code) for code in free})
        foreign = [code for code in freed if code not in own]
        if foreign or not freed:
            raise UsageError(f"choose tokens of the picture to resample; it holds no {foreign or 'token without one'}")
        if len(own) != self.tokens:
            raise UsageError(f"drawn pictures have {self.tokens} tokens, this set has {len(own)}; tokenise it anew")
        if not 0.0 < strength <= 1.0:
            raise UsageError(f"strength must be above 0 and at most 1, got {strength!r}")
        request = PictureRequest(
            text=text, labels=labels or {}, count=count, seed=seed, seeds=tuple(seeds), settings=settings or {}
        )
        reads_text = self.network.config.text_rows > 0  # type: ignore[attr-defined]
        wish = read_wish(request.text, request.labels, self.labels, reads_text=reads_text)
        lower, upper = own.counts, torch.full((self.codes,), self.tokens)
        lower[freed] = 0
        held = lower > 0
        upper[held] = lower[held]
        self._bound(lower, upper, held, at_least or {}, at_most or {})
        rows = [
            Row(wish, one, lower=lower, upper=upper, origin=own.counts, from_t=1.0 - strength)
            for one in request.picture_seeds()
        ]
        about = {
            "operation": "edit", "source": list(own), "free": freed, "strength": strength, "text": text,
            "labels": dict(labels or {}),
            **{name: {str(code): times for code, times in bound.items()}
               for name, bound in (("at_least", at_least), ("at_most", at_most)) if bound},
        }  # fmt: skip
        yield from self.made(rows, self.checked(request), about, cancel=cancel)

    def _bound(
        self, lower: Tensor, upper: Tensor, held: Tensor, at_least: Mapping[int, int], at_most: Mapping[int, int]
    ) -> None:
        """Narrow bounds [C] in place. Raises: UsageError for locked codes and for bounds that leave no way."""
        for name, wanted, bound in (("at_least", at_least, lower), ("at_most", at_most, upper)):
            for code, times in wanted.items():
                if not 0 <= code < self.codes or times < 0:
                    raise UsageError(
                        f"{name} takes codes from 0 to {self.codes - 1} and times from 0, got {code}: {times}"
                    )
                if held[code]:
                    raise UsageError(
                        f"token {code} is locked and stays {int(lower[code])} times; set it free to bound it"
                    )
                bound[code] = times
        if bool((lower > upper).any()):
            code = int((lower > upper).nonzero()[0, 0])
            raise UsageError(
                f"token {code} cannot occur {int(lower[code])} times or more and {int(upper[code])} or less"
            )
        if int(lower.sum()) > self.tokens or int(upper.sum()) < self.tokens:
            raise UsageError(
                f"a picture has {self.tokens} tokens; with what is locked the bounds allow {int(lower.sum())} to "
                f"{int(upper.sum())}"
            )

    def edit(self, picture: Any, *, on_event: Callable[[Event], None] | None = None, **more: Any) -> ImageResult:
        """Resample some codes and keep the others exactly; see `edit_events` for the arguments."""
        return drain(self.edit_events(picture, **more), on_event)

    def inpaint(
        self,
        picture: Any,
        region: np.ndarray,
        *,
        share: float = CARRIES,
        on_event: Callable[[Event], None] | None = None,
        **more: Any,
    ) -> ImageResult:
        """Redraw a region [H, H] bool: codes that act mostly inside it are resampled, all others locked.

        Further arguments: as `edit_events`. Raises: UsageError for an empty region, ShapeError for another size.
        """
        region = np.asarray(region, dtype=bool)
        if not region.any():
            raise UsageError("the region is empty; mark the part that shall change")
        own = self.as_token_set(picture)
        return self.edit(own, free=self.token_map(own).inside(region, share), on_event=on_event, **more)

    def variations(self, picture: Any, *, strength: float = 0.5, **more: Any) -> ImageResult:
        """Pictures near a picture: all its tokens noised to `strength` and drawn anew; see `edit_events`."""
        own = self.as_token_set(picture)
        return self.edit(own, free=[code for code, _ in own.pairs], strength=strength, **more)

    # ------------------------------------------------------------ algebra

    def interpolate(self, one: Any, other: Any, steps: int = 5, seed: int | None = None) -> ImageResult:
        """From one picture to another in `steps` pictures, both ends included, by exchanging tokens one after another.

        Common tokens stay; the order in which the others change places comes from the seed, and each set holds the
        changes of the one before. All sets keep their size. Raises: UsageError for sets of different sizes.
        """
        a, b = self._pair(one, other)
        if not 2 <= steps <= 64:
            raise UsageError(f"steps must be from 2 to 64 pictures, got {steps}")
        seed = fresh_seed() if seed is None else seed
        leaving, coming = list(a - b), list(b - a)
        rng = np.random.default_rng(derive_seed(seed, "interpolate"))
        leaving, coming = rng.permutation(leaving).tolist(), rng.permutation(coming).tolist()
        sets = []
        for step in range(steps):
            moved = round(len(leaving) * step / (steps - 1))
            gone, new = (TokenSet.from_tokens(ids[:moved], self.codes) for ids in (leaving, coming))
            sets.append((a - gone) + new)
        about = {"operation": "interpolate", "source": list(a), "target": list(b), "steps": steps}
        return self._shown(sets, about, seed)

    def swap(self, one: Any, other: Any, from_one: Sequence[int], from_other: Sequence[int]) -> ImageResult:
        """Exchange tokens between two pictures: both new pictures. Lists name tokens, repeated as often as they move.

        Raises: UsageError when the lists differ in length or name tokens that are not there.
        """
        a, b = self.as_token_set(one), self.as_token_set(other)
        first, second = (TokenSet.from_tokens(ids, self.codes) for ids in (list(from_one), list(from_other)))
        if len(first) != len(second) or not len(first):
            raise UsageError(f"exchange equally many tokens, at least one; got {len(first)} and {len(second)}")
        for part, whole, which in ((first, a, "first"), (second, b, "second")):
            if len(part - whole):
                raise UsageError(f"the {which} picture does not hold the tokens {list(part - whole)[:8]}")
        about = {
            "operation": "swap", "source": list(a), "target": list(b), "from_one": list(first),
            "from_other": list(second),
        }  # fmt: skip
        return self._shown([(a - first) + second, (b - second) + first], about, 0)

    def swap_region(self, one: Any, other: Any, region: np.ndarray) -> ImageResult:
        """Exchange what carries a region [H, H] bool of two pictures: as many tokens as both have there.

        Raises: UsageError for an empty region, ShapeError for another size.
        """
        region = np.asarray(region, dtype=bool)
        if not region.any():
            raise UsageError("the region is empty; mark the part that shall change places")
        sets = self.as_token_set(one), self.as_token_set(other)
        lists = []
        for own in sets:
            inside = set(self.token_map(own).inside(region))
            lists.append([code for code in own if code in inside])
        many = min(map(len, lists))
        return self.swap(*sets, lists[0][:many], lists[1][:many])

    def denoise(self, picture: Any, rounds: int = 1) -> ImageResult:
        """Clean a noisy picture by tokenising it and decoding the set, `rounds` times."""
        if not 1 <= rounds <= 20:
            raise UsageError(f"rounds must be from 1 to 20, got {rounds}")
        own = self.as_token_set(picture)
        for _ in range(rounds - 1):
            own = self.tokenize([self.decode([own])[0]], len(own))[0]  # type: ignore[attr-defined]
        return self._shown([own], {"operation": "denoise", "rounds": rounds, "source": list(own)}, 0)

    def reconstruct(self, picture: Any, tokens: int | None = None) -> ImageResult:
        """A picture through its set of `tokens` tokens; a set stays what it is."""
        own = picture if isinstance(picture, TokenSet) else self.tokenize([picture], tokens)[0]
        return self._shown([own], {"operation": "reconstruct", "tokens": len(own), "source": list(own)}, 0)

    def again(self, recipe: Mapping[str, Any]) -> ImageResult:
        """The pictures of a recipe from the tokens in it, for operations that draw nothing new (interpolate, swap ...).

        Raises: UsageError when the recipe holds no tokens of this model.
        """
        lists = recipe.get("tokens")
        if not isinstance(lists, list) or not lists or not all(isinstance(tokens, list) for tokens in lists):
            raise UsageError("the recipe holds no tokens, so its pictures cannot be made again")
        made = self._shown([TokenSet.from_tokens(tokens, self.codes) for tokens in lists], recipe["settings"], 0)
        return replace(made, seeds=tuple(recipe["seeds"]))

    def _pair(self, one: Any, other: Any) -> tuple[TokenSet, TokenSet]:
        a, b = self.as_token_set(one), self.as_token_set(other)
        if len(a) != len(b):
            raise UsageError(f"the sets have {len(a)} and {len(b)} tokens; tokenise both to one size")
        return a, b

    def _shown(self, sets: Sequence[TokenSet], about: Mapping[str, Any], seed: int) -> ImageResult:
        images = tuple(self.decode(sets))  # type: ignore[attr-defined]
        return ImageResult(
            settings={**about, "count": len(sets)},
            seeds=(seed,) * len(sets),
            model=self.model,  # type: ignore[attr-defined]
            images=images,
            sets=tuple(sets),
        )
