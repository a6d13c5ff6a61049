"""What the demo model is trained and measured with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from demo.model import new_model, trimmed_tokens
from demo.packed import by_length, encode_text
from demo.queries import development_queries, hit_rate
from tests.pictures import gallery

# The shortest first.
TEXTS = ["猫", "狗", "烏龜", "红苹果", "海边的日落", "我们去看电影吧", "一张画着小狗和小猫的图片"]


def test_packed_phrases_encode_as_cn_clip_encodes_them() -> None:
    torch.manual_seed(1)
    model = new_model().eval()
    tokens = trimmed_tokens(TEXTS)
    groups = by_length(tokens)
    assert sum(group.numel() for group in groups) == int(tokens.ne(0).sum())
    with torch.no_grad():
        assert torch.allclose(encode_text(model, groups), model.encode_text(tokens), atol=1e-5)


def test_development_queries_are_a_hundred_and_can_be_answered() -> None:
    queries = development_queries()
    assert len({query.text for query in queries}) == len(queries) == 100
    known = {int(image.image_id) for image in gallery()}
    for query in queries:
        assert query.accepted, query
        assert query.accepted <= known, query


def test_hit_rate_counts_queries_with_an_accepted_image_among_the_first() -> None:
    queries = development_queries()
    none = [[-1, -1] for _ in queries]
    second = [[-1, min(query.accepted)] for query in queries]
    assert (hit_rate(none, 2), hit_rate(second, 1), hit_rate(second, 2)) == (0, 0, 100)
    assert hit_rate([*second[:25], *none[25:]], 2) == pytest.approx(25)


def test_extra_tags_are_of_emoji_in_the_gallery(project: Path) -> None:
    known = {chr(int(image.image_id)) for image in gallery()}
    lines = (project / "demo/extra_tags.tsv").read_text(encoding="utf-8").splitlines()
    emoji = [line.split("\t")[0] for line in lines]
    assert set(emoji) <= known
    assert len(set(emoji)) == len(emoji)
    assert all(line.split("\t")[1].split() for line in lines)
