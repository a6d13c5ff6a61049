"""Train the demo model: cn_clip's own CLIP class in a small configuration, on emoji artwork.

    npm install --prefix demo          (the artwork, by package name)
    python -m demo.train --steps 5000

The loss is CLIP's symmetric cross-entropy (Radford et al. 2021, figure 3) with one change: a caption made of tags is
true of every picture whose concept has those tags, so the target of a row is spread evenly over all of its matches.
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

from demo.artwork import TRAINING_MAKERS, UNSEEN_MAKER, Maker, render_all
from demo.augment import augment, normalize
from demo.captions import draw_caption, truth
from demo.concepts import Concept, load_concepts
from services.encoder.cn_clip_import import CLIP, tokenize

CONFIG = {
    "embed_dim": 256,
    "image_resolution": 64,
    "vision_layers": [2, 2, 2, 2],
    "vision_width": 24,
    "vision_patch_size": None,
    "vocab_size": 21128,
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.1,
    "text_hidden_size": 128,
    "text_initializer_range": 0.02,
    "text_intermediate_size": 512,
    "text_max_position_embeddings": 64,
    "text_num_attention_heads": 4,
    "text_num_hidden_layers": 3,
    "text_type_vocab_size": 2,
}
RENDER_PIXELS = 80


class Artwork:
    """Every maker's pictures of every concept, uint8 [concepts, 4, h, w], and which of them exist."""

    def __init__(self, node_modules: Path, cache: Path, concepts: list[Concept]) -> None:
        self.pictures: dict[str, Tensor] = {}
        for name in (*TRAINING_MAKERS, UNSEEN_MAKER):
            path = cache / f"{name}-{RENDER_PIXELS}.pt"
            if not path.exists():
                cache.mkdir(parents=True, exist_ok=True)
                rendered = render_all(Maker(node_modules, name), [c.image_id for c in concepts], RENDER_PIXELS)
                torch.save(torch.from_numpy(rendered).permute(0, 3, 1, 2).contiguous(), path)
            self.pictures[name] = torch.load(path)
        self.exists = {name: pictures[:, 3].flatten(1).any(1) for name, pictures in self.pictures.items()}

    def sample(self, rows: list[int], rng: random.Random) -> Tensor:
        """One picture of each concept, of a random training maker that has it."""
        return torch.stack(
            [self.pictures[rng.choice([m for m in TRAINING_MAKERS if self.exists[m][row]])][row] for row in rows]
        )

    def clean(self, maker: str, resolution: int) -> Tensor:
        """A maker's pictures on white with a small margin, as the gallery shows them."""
        rgba = F.pad(self.pictures[maker].float() / 255, [round(RENDER_PIXELS * 0.06)] * 4)
        rgb = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
        return normalize(
            F.interpolate(rgb, size=resolution, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        )


def draw_rows(concepts: list[Concept], count: int, focus_share: float, rng: random.Random) -> list[int]:
    """Distinct concepts for a batch. The share `focus_share` of batches is filled from two groups first: harder."""
    rows = list(range(len(concepts)))
    rng.shuffle(rows)
    if rng.random() < focus_share:
        groups = rng.sample(sorted({concept.group for concept in concepts}), 2)
        rows.sort(key=lambda row: concepts[row].group not in groups)
    return rows[:count]


def trimmed_tokens(texts: list[str]) -> Tensor:
    tokens: Tensor = tokenize(texts)
    return tokens[:, : int(tokens.ne(0).sum(1).max())]


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, matches: Tensor) -> Tensor:
    """images, texts: [n, dim]; matches[i, j]: text i is true of image j."""
    logits = scale * F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    weights = matches.float()
    by_text = (weights / weights.sum(1, keepdim=True) * F.log_softmax(logits, 1)).sum(1)
    by_image = (weights / weights.sum(0, keepdim=True) * F.log_softmax(logits, 0)).sum(0)
    return -(by_text.mean() + by_image.mean()) / 2


@torch.no_grad()
def recall(model: Any, concepts: list[Concept], pictures: Tensor, exists: Tensor) -> dict[str, float]:
    """Text-to-image R@1, R@5, R@10 in per cent: each concept's name against one picture of every concept."""
    model.eval()
    rows = exists.nonzero().flatten()
    images = torch.cat([model.encode_image(part) for part in torch.split(pictures[rows], 128)])
    names = [concepts[row].name for row in rows.tolist()]
    texts = torch.cat([model.encode_text(trimmed_tokens(names[i : i + 128])) for i in range(0, len(names), 128)])
    scores = F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    ranks = (scores > scores.diag()[:, None]).sum(1)
    return {f"R@{k}": round((ranks < k).float().mean().item() * 100, 1) for k in (1, 5, 10)}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    decay = min(0.998, (1 + step) / (10 + step))
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.dtype.is_floating_point:
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def save(model: nn.Module, folder: Path, figures: dict[str, object]) -> None:
    """An ordinary cn_clip checkpoint (its `module.` names, fp16) with its configuration beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        f"module.{name}": value.half() if value.dtype.is_floating_point else value
        for name, value in model.state_dict().items()
    }
    torch.save({"epoch": 0, "name": "wentu-demo", "state_dict": state}, folder / "model.pt")
    (folder / "config.json").write_text(json.dumps({"name": "demo", **CONFIG}, indent=2) + "\n")
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    concepts = load_concepts(arguments.artwork)
    artwork = Artwork(arguments.artwork, arguments.cache, concepts)
    model = CLIP(**CONFIG).to(memory_format=torch.channels_last)
    if arguments.init:
        state = torch.load(arguments.init / "model.pt")["state_dict"]
        model.load_state_dict({name.removeprefix("module."): value.float() for name, value in state.items()})
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=arguments.lr, betas=(0.9, 0.98))
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
        pictures = augment(artwork.sample(rows, rng), resolution, generator)
        model.train()
        loss = contrastive_loss(
            model.encode_image(pictures.contiguous(memory_format=torch.channels_last)),
            model.encode_text(trimmed_tokens(list(captions))),
            model.logit_scale.exp().clamp(max=100),
            matches,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(average, model, step)
        losses.append(loss.item())
        if step % arguments.every == 0 or step == arguments.steps:
            figures = {name: recall(average, concepts, clean[name], artwork.exists[name]) for name in clean}
            seconds = round(time.monotonic() - started)
            mean_loss = round(sum(losses[-100:]) / len(losses[-100:]), 3)
            print(json.dumps({"step": step, "seconds": seconds, "loss": mean_loss, **figures}), flush=True)
            save(average, arguments.out, {"steps": step, "seconds": seconds, "seed": arguments.seed, **figures})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artwork", type=Path, default=Path("demo/node_modules"))
    parser.add_argument("--cache", type=Path, default=Path("build/artwork"))
    parser.add_argument("--out", type=Path, default=Path("services/encoder/demo_model"))
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
