"""Train the demo model's towers on emoji artwork and its names and tags.

    python -m demo.train_images --steps 4500

The loss is CLIP's symmetric cross-entropy (Radford et al. 2021, figure 3) with one change: a caption made of tags is
true of every image whose concept has those tags, so the target of a row is spread evenly over all of its matches.
The weights that are kept are their exponential moving average.
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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.artwork import UNSEEN_MAKER
from demo.augment import augment
from demo.captions import draw_caption, truth
from demo.concepts import Concept, load_concepts
from demo.evaluate import encode_texts, recall
from demo.model import CONFIG, load, new_model, parameter_groups, save, trimmed_tokens, update_average
from demo.render import Artwork


def draw_rows(concepts: list[Concept], count: int, focus_share: float, rng: random.Random) -> list[int]:
    """Distinct concepts for a batch. A share `focus_share` of batches comes mostly from two groups: harder."""
    rows = list(range(len(concepts)))
    rng.shuffle(rows)
    if rng.random() < focus_share:
        groups = rng.sample(sorted({concept.group for concept in concepts}), 2)
        rows.sort(key=lambda row: concepts[row].group not in groups)
    return rows[:count]


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, matches: Tensor) -> Tensor:
    """images, texts: [n, dim]; matches[i, j]: text i is true of image j."""
    logits = scale * F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    weights = matches.float()
    by_text = (weights / weights.sum(1, keepdim=True) * F.log_softmax(logits, 1)).sum(1)
    by_image = (weights / weights.sum(0, keepdim=True) * F.log_softmax(logits, 0)).sum(0)
    return -(by_text.mean() + by_image.mean()) / 2


@torch.no_grad()
def encode_images(model: Any, images: Tensor) -> Tensor:
    model.eval()
    return torch.cat([model.encode_image(part) for part in torch.split(images, 128)])


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    concepts = load_concepts(arguments.artwork)
    artwork = Artwork(arguments.artwork, arguments.cache / "artwork", concepts)
    model = load(arguments.init) if arguments.init else new_model()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(parameter_groups(model.parameters(), 0.05), lr=arguments.lr, betas=(0.9, 0.98))
    resolution = int(str(CONFIG["image_resolution"]))
    clean = {name: artwork.clean(name, resolution) for name in ("noto", "twemoji", UNSEEN_MAKER)}
    started, losses = time.monotonic(), []
    for step in range(1, arguments.steps + 1):
        warm = min(1.0, step / 200)
        rate = arguments.lr * warm * (0.5 + 0.5 * math.cos(math.pi * step / arguments.steps)) + 1e-6
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = draw_rows(concepts, arguments.batch, arguments.focus_share, rng)
        drawn = [draw_caption(concepts[row], rng, arguments.name_share) for row in rows]
        captions, words = zip(*drawn, strict=True)
        matches = torch.tensor(truth(words, [concepts[row] for row in rows]))
        images = augment(artwork.sample(rows, rng), resolution, generator)
        model.train()
        loss = contrastive_loss(
            model.encode_image(images.contiguous(memory_format=torch.channels_last)),
            model.encode_text(trimmed_tokens(list(captions))),
            model.logit_scale.exp().clamp(max=100),
            matches,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(average.state_dict().values(), model.state_dict().values(), step)
        losses.append(loss.item())
        if step % arguments.every == 0 or step == arguments.steps:
            names = encode_texts(average, [concept.name for concept in concepts])
            figures = {
                name: recall(names, encode_images(average, images), artwork.exists[name])
                for name, images in clean.items()
            }
            seconds = round(time.monotonic() - started)
            mean_loss = round(sum(losses[-100:]) / len(losses[-100:]), 3)
            print(json.dumps({"step": step, "seconds": seconds, "loss": mean_loss, **figures}), flush=True)
            save(average, arguments.out, {"steps": step, "seconds": seconds, "seed": arguments.seed, **figures})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artwork", type=Path, default=Path("demo/node_modules"))
    parser.add_argument("--cache", type=Path, default=Path("build"))
    parser.add_argument("--out", type=Path, default=Path("build/images"))
    parser.add_argument("--init", type=Path, help="folder of a model to go on from")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--name-share", type=float, default=0.4, help="captions that are the name alone")
    parser.add_argument("--focus-share", type=float, default=0.0, help="batches of two groups of concepts")
    parser.add_argument("--seed", type=int, default=20260)
    parser.add_argument("--every", type=int, default=250)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
