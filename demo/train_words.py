"""Teach the demo model everyday Chinese: which concepts any phrase is near to, as a sentence encoder sees it.

    python -m demo.train_words --init FOLDER

The loss is the cross-entropy of a phrase's target over ALL concepts, against the images of one maker per step. The text
tower and the last linear layer of the image tower are trained. If that layer were frozen, a phrase that means several
images (结婚: 💍 💒 👰) would end between them, near unrelated images. The exponential moving average of the weights is
kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.artwork import GALLERY_MAKER
from demo.bank import Bank, Shown, gallery_images
from demo.concepts import load_concepts
from demo.evaluate import encode_texts, hits, recall
from demo.model import load, parameter_groups, save, update_average
from demo.packed import by_length, encode_text
from demo.pools import Pool, load_pools
from demo.render import Artwork
from demo.traditional import start_from_simplified
from demo.words import load_words

SHARES = {"names": 0.1, "captions": 0.05, "words": 0.35, "composed": 0.5}
TRADITIONAL_SHARE = 0.15
WARM_STEPS = 200
DECAY_SHARE = 0.35
LARGEST_SCALE = math.log(100)


class Lessons:
    """Batches drawn from the pools, in the shares of `SHARES`."""

    def __init__(self, pools: dict[str, Pool], concept_count: int, seed: int) -> None:
        self._pools = pools
        self._concept_count = concept_count
        self._cumulative = {name: np.cumsum(pool.weights) for name, pool in pools.items()}
        self._random = np.random.default_rng(seed)

    def state(self) -> Any:
        return self._random.bit_generator.state

    def set_state(self, state: Any) -> None:
        self._random.bit_generator.state = state

    def _rows(self, name: str, count: int) -> npt.NDArray[np.intp]:
        cumulative = self._cumulative[name]
        rows: npt.NDArray[np.intp] = np.searchsorted(cumulative, self._random.random(count) * cumulative[-1], "right")
        return rows

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Tokens int64 [n, longest], the shortest phrases first, and targets float32 [n, concepts]."""
        parts = [(pool, self._rows(name, round(count * SHARES[name]))) for name, pool in self._pools.items()]
        tokens = np.concatenate([pool.tokens[rows] for pool, rows in parts])
        other = np.concatenate([pool.traditional[rows] for pool, rows in parts])
        chosen = self._random.random(len(tokens)) < TRADITIONAL_SHARE
        tokens = np.where(chosen[:, None], other, tokens)
        order = np.argsort((tokens > 0).sum(1), kind="stable")
        concepts = np.concatenate([pool.concepts[rows] for pool, rows in parts])[order]
        shares = np.concatenate([pool.shares[rows] for pool, rows in parts])[order]
        targets = torch.zeros(len(tokens), self._concept_count)
        targets.scatter_add_(1, torch.from_numpy(concepts.astype(np.int64)), torch.from_numpy(shares))
        return torch.from_numpy(tokens[order].astype(np.int64)), targets


def learning_rate(peak: float, step: int, steps: int) -> float:
    """The learning rate rises within `WARM_STEPS`, stays constant, and falls linearly to 0 over the last `DECAY_SHARE`.

    Before the fall it does not depend on `steps`, so that an interrupted run can continue with another `steps`.
    """
    return peak * min(1.0, step / WARM_STEPS, (steps - step) / (DECAY_SHARE * steps)) + 1e-6


def trained_parameters(model: Any) -> list[nn.Parameter]:
    last = model.visual.attnpool.c_proj
    return [*model.bert.parameters(), model.text_projection, *last.parameters(), model.logit_scale]


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    rng = random.Random(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    started = time.monotonic()

    def log(**values: object) -> None:
        print(json.dumps({"seconds": round(time.monotonic() - started), **values}), flush=True)

    concepts = load_concepts(arguments.artwork)
    pools = load_pools(arguments.cache / "words", concepts, load_words(arguments.artwork, concepts), arguments.seed)
    log(phrases={name: len(pool.weights) for name, pool in pools.items()})
    model = load(arguments.init)
    model.eval()  # eval mode: no dropout, and the statistics of the image tower's BatchNorm stay unchanged
    start_from_simplified(model)
    average = copy.deepcopy(model)
    lessons = Lessons(pools, len(concepts), arguments.seed)
    parameters = trained_parameters(model)
    optimizer = torch.optim.AdamW(parameter_groups(parameters, 0.01), lr=arguments.lr, betas=(0.9, 0.98), fused=True)
    image_ids, gallery = gallery_images(arguments.gallery, model.visual.input_resolution)
    if image_ids != [concept.image_id for concept in concepts]:
        raise ValueError(f"{arguments.gallery} is not the gallery of these concepts: run `make gallery`")

    done, losses = 0, list[float]()
    interrupted = arguments.cache / "interrupted.pt"
    if arguments.resume:
        state = torch.load(interrupted, weights_only=False)
        shown, bank, done = state["shown"], state["bank"], state["step"]
        started -= state["seconds"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        lessons.set_state(state["lessons"])
        rng.setstate(state["rng"])
    else:
        artwork = Artwork(arguments.artwork, arguments.cache / "artwork", concepts)
        shown = Shown.compute(model, artwork, gallery)
        bank = Bank.compute(model, artwork, shown.features[GALLERY_MAKER], generator)
    projection = model.visual.attnpool.c_proj

    def measure() -> dict[str, object]:
        with torch.no_grad():
            images = {name: average.visual.attnpool.c_proj(found) for name, found in shown.features.items()}
        names = encode_texts(average, [concept.name for concept in concepts])
        figures = {name: recall(names, found, shown.exists[name]) for name, found in images.items()}
        return {**figures, "queries": hits(average, image_ids, images[GALLERY_MAKER])}

    log(step=done, **measure())
    for step in range(done + 1, arguments.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(arguments.lr, step, arguments.steps)
        tokens, targets = lessons.draw(arguments.batch)
        images = F.normalize(projection(bank.draw(rng)), dim=-1)
        logits = (
            model.logit_scale.exp().clamp(max=100)
            * F.normalize(encode_text(model, by_length(tokens)), dim=-1)
            @ images.T
        )
        loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        update_average(trained_parameters(average), parameters, step)
        losses.append(loss.item())
        if step % arguments.every == 0 or step == arguments.steps:
            with torch.no_grad():
                average.logit_scale.clamp_(max=LARGEST_SCALE)
            figures = measure()
            log(step=step, loss=round(sum(losses[-100:]) / len(losses[-100:]), 3), **figures)
            seconds = round(time.monotonic() - started)
            save(average, arguments.out, {"steps": step, "seconds": seconds, "seed": arguments.seed, **figures})
            torch.save(
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "shown": shown,
                    "bank": bank,
                    "lessons": lessons.state(),
                    "rng": rng.getstate(),
                    "step": step,
                    "seconds": seconds,
                },
                interrupted,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", type=Path, required=True, help="folder of the model that demo.train_images made")
    parser.add_argument("--artwork", type=Path, default=Path("demo/node_modules"))
    parser.add_argument("--gallery", type=Path, default=Path("demo/gallery"))
    parser.add_argument("--cache", type=Path, default=Path("build"))
    parser.add_argument("--out", type=Path, default=Path("services/encoder/demo_model"))
    parser.add_argument("--resume", action="store_true", help="go on from the last measurement of an interrupted run")
    parser.add_argument("--steps", type=int, default=17000)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20261)
    parser.add_argument("--every", type=int, default=1000)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
