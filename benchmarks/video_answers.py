"""`genmm bench video_answers`: what reducers keep of a video, measured by questions that a small network answers.

Every reducer turns the same clips into m tokens; the same answerer is trained on them with the same steps and seeds.
Finished cells of the table are kept in the cache folder, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.video_qa import ANSWERS, KINDS, WORDS, QuestionClips, at_side, encode_clips, read_features
from genmm.core.devices import multiplies_bfloat16
from genmm.core.files import read_json, write_json
from genmm.core.paths import genmm_home
from genmm.metrics.video_tokens import gain_density, tok_dense, wilson_interval
from genmm.quantizers.adaptive import AdaptiveK, calibrate_explained
from genmm.systems.vqtoken.answerer import Answerer, PlacedTokens, token_places
from genmm.systems.vqtoken.baselines import TokenLearner
from genmm.systems.vqtoken.blocks import OccupancyBlock, OfficialBlock, PaperBlock
from genmm.systems.vqtoken.config import AnswererConfig
from genmm.systems.vqtoken.geometry import describe_occupancy
from genmm.systems.vqtoken.methods import CLUSTERINGS
from genmm.systems.vqtoken.reduced import ReducedVideo
from genmm.systems.vqtoken.reducer import Budget, Fixed, reduce
from models.optim import MuonAdamW, OptimConfig, parameter_groups

DESCRIPTION = """\
Train a small answerer on the tokens of every reducer and compare how many questions
about unseen rendered videos it answers: what, where, which direction, how many, which
first. Takes minutes for the quick table and hours for all cells on a CPU."""
REDUCERS: Mapping[str, tuple[str, str]] = {
    "occupancy": ("k_center", "occupancy"),
    "adaptive": ("adaptive", "occupancy"),
    "occupancy_kmeans": ("kmeans", "occupancy"),
    "codebook": ("kmeans", "none"),
    "codebook_placed": ("kmeans", "placed"),
    "paper": ("kmeans", "paper"),
    "paper_k_center": ("k_center", "paper"),
    "official": ("kmeans", "official"),
    "k_center": ("k_center", "placed"),
    "pool": ("pool", "placed"),
    "tome": ("tome", "placed"),
    "norm": ("norm", "placed"),
    "uniform": ("uniform", "placed"),
    "random": ("random", "placed"),
    "tokenlearner": ("full", "learner"),
    "full": ("full", "placed"),
    "blind": ("blind", "none"),
}
"""Name in the table -> (how tokens are chosen, what is added to them). The first is what the embedded model does."""
LABELS: Mapping[str, str] = {
    "occupancy": "**k-center, occupancy block** (ours)",
    "adaptive": "k-center, occupancy block, as many as needed",
    "occupancy_kmeans": "k-means, occupancy block",
    "codebook": "k-means, codebook alone",
    "codebook_placed": "k-means, with places",
    "paper": "k-means, the paper's block",
    "paper_k_center": "k-center, the paper's block",
    "official": "k-means, the published block",
    "k_center": "k-center, with places",
    "pool": "pooling, with places",
    "tome": "ToMe, with places",
    "norm": "largest norm, with places",
    "uniform": "uniform, with places",
    "random": "random, with places",
    "tokenlearner": "TokenLearner",
    "full": "all tokens, with places",
    "blind": "no tokens",
}
"""Name -> what the table calls it."""
ANSWERED = {"what": "what", "where": "where", "direction": "which way", "count": "how many", "order": "which first"}
"""Kind of question -> head of its column."""
OPTIM = OptimConfig(learning_rate=2e-3, muon_rate=5e-3, weight_decay=0.02)
"""The same for every reducer. With AdamW alone answerers take three times the steps to learn what belongs together."""
BATCH = 32
TURNS = 4
"""Sets of five questions known of each training clip; a step asks one of them. Tests ask one set."""
CALIBRATED_ON = 512
"""Training clips on which the share of explained variance is found that gives as many tokens on average as asked."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--model", default="vqtoken", metavar="NAME", help="model whose encoder is used (vqtoken)")
    parser.add_argument("--reducers", nargs="+", choices=list(REDUCERS), default=list(REDUCERS), help="rows (all)")
    parser.add_argument("--budgets", nargs="+", type=int, default=[12, 4, 8, 32, 64], help="tokens (4 8 12 32 64)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each cell (3)")
    parser.add_argument("--clips", type=int, default=2000, help="clips to train on (2000)")
    parser.add_argument("--test-clips", type=int, default=400, help="clips to test on, five questions each (400)")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of a cell (1000)")
    parser.add_argument("--side", type=int, default=96, help="side of a frame in pixels (96)")
    parser.add_argument("--together", type=int, default=6, metavar="N", help="cells of a kind trained at once (6)")
    parser.add_argument("--compile", action="store_true", help="compile the training; needs a C++ compiler")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder for features and finished cells")


@dataclass
class AnswerReport:
    """The table with everything that was measured."""

    settings: dict[str, Any]
    cells: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"name": "video_answers", "settings": self.settings, "cells": self.cells, "summary": self.summary()}

    def summary(self) -> dict[str, Any]:
        """Mean over seeds of each reducer and budget, with interval, spread, density."""
        groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for cell in self.cells.values():
            groups.setdefault((cell["reducer"], cell["tokens"]), []).append(cell)
        blind = [c["accuracy"] for c in self.cells.values() if c["reducer"] == "blind"]
        floor = 100 * sum(blind) / len(blind) if blind else math.nan
        out = {}
        for (name, tokens), cells in groups.items():
            out[f"{name}/{tokens}"] = self._row(name, tokens, cells, floor)
        return out

    def _row(self, name: str, tokens: int, cells: list[dict[str, Any]], floor: float) -> dict[str, Any]:
        mean = {kind: sum(c["kinds"][kind] for c in cells) / len(cells) for kind in KINDS}
        accuracy = sum(c["accuracy"] for c in cells) / len(cells)
        spread = [100 * c["accuracy"] for c in cells]
        asked = self.settings["test_clips"] * len(KINDS)
        row = {
            "reducer": name,
            "tokens": tokens,
            "token_share": tokens / self.settings["cells_per_clip"],
            "seeds": len(cells),
            "accuracy": round(100 * accuracy, 2),
            "interval": [round(100 * end, 2) for end in wilson_interval(accuracy * asked, asked)],
            "lowest": round(min(spread), 2),
            "highest": round(max(spread), 2),
            "kinds": {kind: round(100 * value, 1) for kind, value in mean.items()},
        }
        counts = cells[0].get("counts")
        if counts:
            row["counts"] = counts
        if tokens:
            mean = counts["mean"] if counts else tokens
            row["tok_dense"] = round(tok_dense(100 * accuracy, mean), 4)
            if math.isfinite(floor):
                row["gain_density"] = round(gain_density(100 * accuracy, floor, mean), 4)
        return row

    def to_markdown(self) -> str:
        """One table for each budget, best row first."""
        rows = list(self.summary().values())
        always = [row for row in rows if row["reducer"] in ("full", "blind")]
        lines = ["# Questions answered from reduced tokens", "", _about(self.settings), ""]
        for tokens in sorted({row["tokens"] for row in rows} - {row["tokens"] for row in always}):
            own = [row for row in rows if row["tokens"] == tokens and row not in always]
            share = tokens / self.settings["cells_per_clip"]
            lines += [f"## {tokens} tokens ({100 * share:.2g} % of {self.settings['cells_per_clip']})", "", HEADER]
            ordered = sorted(own, key=lambda row: -row["accuracy"])
            lines += [_line(row) for row in [*ordered, *sorted(always, key=lambda row: -row["accuracy"])]]
            lines.append("")
        return "\n".join(lines)


HEADER = (
    "| tokens by | all | " + " | ".join(ANSWERED[kind] for kind in KINDS) + " | trainings | TokDense | gain density |\n"
    "|---|---|" + "---|" * len(KINDS) + "---|---|---|"
)


def _line(row: dict[str, Any]) -> str:
    kinds = " | ".join(f"{row['kinds'][kind]:.1f}" for kind in KINDS)
    spread = f"{row['seeds']} ({row['lowest']:.1f} to {row['highest']:.1f})" if row["seeds"] > 1 else "1"
    dense = [f"{row[name]:.3g}" if name in row else "" for name in ("tok_dense", "gain_density")]
    low, high = row["interval"]
    label = LABELS[row["reducer"]]
    if counts := row.get("counts"):
        label += f": {counts['mean']:.1f} on average, {counts['lowest']} to {counts['highest']}"
    whole = f"{row['accuracy']:.1f} ({low:.1f} to {high:.1f})"
    return f"| {label} | {whole} | {kinds} | {spread} | {' | '.join(dense)} |"


def _about(settings: dict[str, Any]) -> str:
    return (
        f"{settings['clips']} clips to train on, {settings['test_clips']} unseen ones to test on, five questions each; "
        f"{settings['frames']} frames of {settings['side']} x {settings['side']} pixels, {settings['cells_per_clip']} "
        f"tokens before the reduction; {settings['steps']} steps of {BATCH} clips. Accuracy in per cent, mean over the "
        "trainings, with the 95 % interval that the number of questions gives, and the lowest and highest training. "
        "TokDense is accuracy over tokens, gain density the accuracy above that without any token over tokens."
    )


def measure(args: argparse.Namespace) -> AnswerReport:
    """Fill the cells of the table that are not there yet."""
    import genmm

    if args.quick:
        args.clips, args.test_clips, args.steps, args.seeds, args.budgets, args.side = (
            32,
            16,
            6,
            1,
            args.budgets[:1],
            48,
        )
    pipeline = genmm.load(args.model, device="cpu", dtype="float32")
    at_side(pipeline, args.side)
    cache = args.cache or genmm_home() / "video_qa"
    sets = {
        "train": QuestionClips(args.clips, 0, side=args.side),
        "test": QuestionClips(args.test_clips, 2 * 10**6, side=args.side),
    }
    mark = pipeline.encoder_fingerprint
    files = {}
    for split, clips in sets.items():
        files[split] = encode_clips(clips, pipeline.features, cache / clips.file_name(mark, split))
    shape = read_features(files["test"], 0, 1).shape[1:]
    settings = {
        "encoder": mark,
        "clips": args.clips,
        "test_clips": args.test_clips,
        "steps": args.steps,
        "side": args.side,
        "frames": shape[0],
        "cells_per_clip": shape[0] * shape[1] * shape[2],
        "width": shape[3],
    }
    store = cache / f"answers-{mark}-{args.clips}-{args.test_clips}-{args.steps}-{args.side}-{TURNS}.json"
    report = AnswerReport(settings, read_json(store)["cells"] if store.is_file() else {})
    _fill(report, args, sets, files, store)
    return report


def _fill(
    report: AnswerReport, args: argparse.Namespace, sets: dict[str, QuestionClips], files: dict[str, Path], store: Path
) -> None:
    targets = {split: clips.targets(TURNS if split == "train" else 1) for split, clips in sets.items()}
    reduced: dict[str, dict[str, ReducedSet]] = {}
    for tokens in args.budgets:
        # Every way of choosing tokens is worked out once, and what no choice depends on once for all budgets.
        reduced = {name: data for name, data in reduced.items() if name in ("full", "blind")}
        for group in _groups(_missing(report, args, tokens), args.together):
            for name in dict.fromkeys(REDUCERS[name][0] for name, _, _ in group):
                if name not in reduced:
                    budget = _budget(name, tokens, files["train"], sets["train"].count)
                    reduced[name] = {s: ReducedSet(files[s], sets[s].count, name, budget, *targets[s]) for s in sets}
            started = time.perf_counter()
            cells = [Cell(*key, **reduced[REDUCERS[key[0]][0]]) for key in group]
            results = train_cells(cells, args.steps, report.settings, compiled=args.compile)
            seconds = round((time.perf_counter() - started) / len(cells), 1)
            for cell, result in zip(cells, results, strict=True):
                row = {"reducer": cell.name, "tokens": cell.tokens, "seed": cell.seed, **result}
                if cell.test.choose == "adaptive":
                    row["counts"] = cell.test.counts()
                report.cells[_key(cell.name, cell.tokens, cell.seed)] = {**row, "seconds": seconds}
                found = f"{100 * result['accuracy']:.1f} %"
                print(f"{cell.name} {cell.tokens} seed {cell.seed}: {found}", file=sys.stderr, flush=True)
            write_json(store, report.to_dict())


def _missing(report: AnswerReport, args: argparse.Namespace, tokens: int) -> list[tuple[str, int, int]]:
    """(row, tokens, seed) of every cell at a number of tokens that is not there yet."""
    always = {"full": report.settings["cells_per_clip"], "blind": 0}
    keys = [(name, always.get(name, tokens), seed) for name in args.reducers for seed in range(args.seeds)]
    return [key for key in keys if _key(*key) not in report.cells]


def _groups(keys: list[tuple[str, int, int]], most: int) -> list[list[tuple[str, int, int]]]:
    """Cells that are trained together: those whose networks and batches have the same shapes, at most so many."""
    alike: dict[tuple, list[tuple[str, int, int]]] = defaultdict(list)
    for key in keys:
        choose, add = REDUCERS[key[0]]
        # Dropout differs from cell to cell, and where a clip has a thousand tokens the products are large already.
        own = key if add == "official" or choose == "full" else choose if choose in ("adaptive", "blind") else ""
        alike[add, own].append(key)
    return [group[i : i + most] for group in alike.values() for i in range(0, len(group), most)]


def _budget(choose: str, tokens: int, train: Path, clips: int) -> Budget:
    return mean_budget(train, min(CALIBRATED_ON, clips), tokens) if choose == "adaptive" else Fixed(tokens=tokens)


def _key(name: str, tokens: int, seed: int) -> str:
    return f"{name}/{tokens}/{seed}"


def mean_budget(path: Path, clips: int, tokens: int) -> AdaptiveK:
    """The rule that gives the first clips `tokens` tokens on average, and each a quarter to four times as many."""
    budget = AdaptiveK(rule="explained", least=max(1, tokens // 4), most=4 * tokens)
    parts = [_reduced(path, s, min(clips, s + 16), "k_center", Fixed(tokens=budget.most)) for s in range(0, clips, 16)]
    curves = torch.cat([_widened(one.curve, budget.most) for one in parts])
    used = torch.cat([one.mask.sum(1) for one in parts])
    return replace(budget, explained=calibrate_explained(curves, used, tokens, budget))


def _widened(curve: Tensor, width: int) -> Tensor:
    """Curves [B, K] with the last value repeated: more tokens than there are change nothing."""
    return torch.cat([curve, curve[:, -1:].expand(-1, width - curve.shape[1])], 1)


def _reduced(path: Path, start: int, end: int, choose: str, budget: Budget) -> ReducedVideo:
    with torch.no_grad():
        return reduce(read_features(path, start, end), budget, method=choose, seeds=list(range(start, end)))


class ReducedSet:
    """All clips of a split, reduced once; `full` keeps the features in their file."""

    def __init__(self, path: Path, clips: int, choose: str, budget: Budget, words: Tensor, answers: Tensor) -> None:
        self.path, self.choose, self.words, self.answers = path, choose, words, answers
        self.parts: dict[str, Tensor] = {}
        if choose == "full":
            self.parts["codebook"] = torch.cat([_half(path, s, min(clips, s + 64)) for s in range(0, clips, 64)])
        elif choose != "blind":
            self._reduce(clips, budget)

    def counts(self) -> dict[str, Any]:
        """How many tokens the clips have: mean, standard deviation, lowest and highest."""
        counts = self.parts["mask"].sum(1)
        spread = {"lowest": int(counts.min()), "highest": int(counts.max())}
        return {"mean": round(float(counts.float().mean()), 3), "std": round(float(counts.float().std()), 3), **spread}

    def _reduce(self, clips: int, budget: Budget) -> None:
        rows: dict[str, list[Tensor]] = defaultdict(list)
        method = "k_center" if self.choose == "adaptive" else self.choose
        tokens = budget.tokens if isinstance(budget, Fixed) else budget.most
        for start in range(0, clips, 16):
            one = _reduced(self.path, start, min(clips, start + 16), method, budget)
            pad = max(0, tokens - one.codebook.shape[1])
            rows["codebook"].append(F.pad(one.codebook, (0, 0, 0, pad)))
            rows["places"].append(F.pad(token_places(one), (0, 0, 0, pad)))
            rows["mask"].append(F.pad(one.mask, (0, pad)))
            rows["index_map"].append(one.index_map.to(torch.int16))
            if method in CLUSTERINGS:  # what the occupancy block would work out in every step
                seen = describe_occupancy(one.index_map, one.codebook.shape[1])
                rows["description"].append(F.pad(seen, (0, 0, 0, pad)))
        self.parts = {name: torch.cat(tensors) for name, tensors in rows.items()}

    def __len__(self) -> int:
        return len(self.words)

    def batch(self, index: Tensor, add: str, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Some clips with what a model reads that adds `add`; the generator chooses one of their sets of questions."""
        wanted = ("codebook", "mask", *READ[add])
        out = {name: tensor[index] for name, tensor in self.parts.items() if name in wanted}
        if self.choose == "full":
            out = _placed_cells(out["codebook"].float())
        if "index_map" in out:
            out["index_map"] = out["index_map"].long()
        turns = self.words.shape[1] // len(KINDS)
        turn = torch.zeros(len(index), 1, dtype=torch.int64)
        if turns > 1:
            turn = torch.randint(turns, (len(index), 1), generator=generator)
        asked = turn * len(KINDS) + torch.arange(len(KINDS))
        rows = index.unsqueeze(1)
        return {**out, "words": self.words[rows, asked], "answers": self.answers[rows, asked]}


def _half(path: Path, start: int, end: int) -> Tensor:
    return read_features(path, start, end).half()


def _placed_cells(features: Tensor) -> dict[str, Tensor]:
    """All cells of a clip as tokens with their places: features [B, T, h, w, D]."""
    batch, *grid, width = features.shape
    axes = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in grid), indexing="ij")
    # One row of places serves all clips of a batch: what a model makes of them is then computed once.
    places = F.pad(torch.stack(axes, -1).view(1, -1, 3), (0, 4))
    tokens = features.reshape(batch, -1, width)
    return {"codebook": tokens, "places": places, "mask": torch.ones(tokens.shape[:2], dtype=torch.bool)}


READ: Mapping[str, tuple[str, ...]] = {
    "occupancy": ("description",),
    "paper": ("index_map",),
    "official": ("index_map",),
    "placed": ("places",),
    "learner": ("places",),
    "none": (),
}
"""What is added to the tokens -> what is read for it, beside the tokens and their mask."""


class AnswerModel(nn.Module):
    """What is added to the tokens, and the answerer."""

    def __init__(self, add: str, width: int, tokens: int, cells: int) -> None:
        super().__init__()
        self.add = add
        blocks: dict[str, Callable[[], nn.Module]] = {
            "occupancy": lambda: OccupancyBlock(width, 4),
            "paper": lambda: PaperBlock(width, 4),
            "official": lambda: OfficialBlock(cells, width, 4),
            "placed": lambda: PlacedTokens(width),
            "learner": lambda: TokenLearner(width, tokens),
        }
        self.block = blocks[add]() if add in blocks else None
        self.answerer = Answerer(AnswererConfig(words=WORDS, answers=ANSWERS), width)
        self.width = width

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Scores [B, Q, A]."""
        words = batch["words"]
        if "codebook" not in batch:
            empty = torch.zeros(len(words), 1, self.width)
            return self.answerer(empty, torch.zeros(len(words), 1, dtype=torch.bool), words)
        tokens, mask = batch["codebook"], batch["mask"]
        if self.add == "placed":
            tokens = self.block(tokens, batch["places"])
        elif self.add == "learner":
            tokens, _ = self.block(tokens, mask, batch["places"][..., :3])
            mask = mask[:, : tokens.shape[1]]
        elif self.add == "occupancy":
            tokens = self.block.described(tokens, batch["description"], mask)
        elif self.block is not None:
            tokens, mask = self.block(tokens, batch["index_map"], mask)
        return self.answerer(tokens, mask, words)


@dataclass(frozen=True)
class Cell:
    """One training: a row of the table, its number of tokens, the seed, and the clips."""

    name: str
    tokens: int
    seed: int
    train: ReducedSet
    test: ReducedSet


class Team:
    """Networks of one shape that are trained at the same time, each on batches of its own.

    Networks this small keep a processor busy with everything but products; together they take half the time of one
    after the other, compiled a third. `weights` holds every parameter as [N, ...].
    """

    def __init__(self, models: list[nn.Module], *, compiled: bool = False) -> None:
        self.one, self.count = models[0], len(models)
        self.weights, _ = torch.func.stack_module_state(models)
        # A single network is called as it is: what is random in it or depends on values cannot be mapped over, and
        # compiled it takes as long or longer.
        self.run = torch.func.vmap(self._call) if self.count > 1 else self._call_only
        if compiled and self.count > 1:
            self.run = torch.compile(self.run, dynamic=False)

    def _call(self, weights: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(self.one, weights, (batch,))

    def _call_only(self, weights: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return self._call(_member(weights, 0), _member(batch, 0)).unsqueeze(0)

    def scores(self, batches: list[dict[str, Tensor]]) -> Tensor:
        """Scores [N, B, Q, A] of one batch for each network."""
        if self.count == 1:  # stacking would copy all tokens of a clip
            return self.run(self.weights, {name: tensor.unsqueeze(0) for name, tensor in batches[0].items()})
        return self.run(self.weights, {name: torch.stack([b[name] for b in batches]) for name in batches[0]})

    def member_scores(self, index: int, batch: dict[str, Tensor]) -> Tensor:
        """Scores [B, Q, A] of one network."""
        return self._call(_member(self.weights, index), batch)

    def optimizer(self, config: OptimConfig) -> torch.optim.Optimizer:
        """What each network would have alone."""
        names = {id(parameter): name for name, parameter in self.one.named_parameters()}
        groups = parameter_groups(self.one, config)
        groups = [{**group, "params": [self.weights[names[id(p)]] for p in group["params"]]} for group in groups]
        return MuonAdamW(groups, betas=config.betas, eps=config.eps)

    @torch.no_grad()
    def clip(self, most: float) -> None:
        """Bound the norm of each network's gradient."""
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        norm = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        factor = (most / (norm + 1e-6)).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))


def _member(stacked: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: tensor[index] for name, tensor in stacked.items()}


def train_cells(
    cells: list[Cell], steps: int, settings: dict[str, Any], *, compiled: bool = False
) -> list[dict[str, Any]]:
    """Train the answerers of cells of one shape and test them: accuracy over all questions and for each kind.

    What a cell gives does not depend on those beside it, but for rounding.
    """
    halved = multiplies_bfloat16()
    (add,) = {REDUCERS[cell.name][1] for cell in cells}
    cells_per_frame = settings["cells_per_clip"] // settings["frames"]
    with torch.random.fork_rng():
        models, generators = [], []
        for cell in cells:
            torch.manual_seed(1000 + cell.seed)
            models.append(AnswerModel(add, settings["width"], cell.tokens, cells_per_frame))
            generators.append(torch.Generator())
            generators[-1].set_state(torch.get_rng_state())
        team = Team(models, compiled=compiled)
        optimizer = team.optimizer(OPTIM)
        warm = max(1, steps // 20)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min(1.0, (s + 1) / warm) * 0.5 * (1 + math.cos(math.pi * s / steps))
        )
        for rows in zip(*(_batches(len(cell.train), steps, cell.seed) for cell in cells), strict=True):
            batches = [c.train.batch(row, add, g) for c, row, g in zip(cells, rows, generators, strict=True)]
            answers = torch.stack([batch.pop("answers") for batch in batches])
            with torch.autocast("cpu", torch.bfloat16, enabled=halved):  # half the time; the same for every reducer
                scores = team.scores(batches)
            losses = F.cross_entropy(scores.float().flatten(0, -2), answers.flatten(), reduction="none")
            losses = losses.view(len(cells), -1).mean(1)
            optimizer.zero_grad()
            losses.sum().backward()
            team.clip(1.0)
            optimizer.step()
            schedule.step()
    team.one.eval()
    return [{**_tested(team, i, cell.test, add), "loss": float(losses[i].detach())} for i, cell in enumerate(cells)]


def _tested(team: Team, member: int, test: ReducedSet, add: str) -> dict[str, Any]:
    right = []
    with torch.inference_mode():
        for index in torch.arange(len(test)).split(50):
            batch = test.batch(index, add)
            right.append((team.member_scores(member, batch).argmax(-1) == batch["answers"]).float())
    table = torch.cat(right)
    kinds = {kind: float(table[:, number].mean()) for number, kind in enumerate(KINDS)}
    return {"accuracy": float(table.mean()), "kinds": kinds}


def _batches(clips: int, steps: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < BATCH:
            order = torch.cat([order, torch.randperm(clips, generator=generator)])
        yield order[: min(BATCH, clips)]
        order = order[BATCH:]
