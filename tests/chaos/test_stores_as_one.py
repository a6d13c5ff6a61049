"""Random sequences of user actions, compared with a plain dict, on both pairs of stores."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from protos import admin_pb2, types_pb2
from protos import search_pb2 as pb
from tests.support.images import noise
from tests.support.system import CALL_SECONDS, System, new_system

IDS = st.sampled_from(["a", "b", "ä", "图", "a/b", "it's", "x" * 255])
IMAGES = st.integers(0, 4)
KINDS = st.sampled_from(["cat", "dog"])
# `make chaos` tries 6 sequences.
EXAMPLES = int(os.environ.get("WENTU_TEST_SEQUENCES", "1"))
MAX_RESTARTS = 2
CHOICES = {"replace": types_pb2.IF_EXISTS_REPLACE, "skip": types_pb2.IF_EXISTS_SKIP, "fail": types_pb2.IF_EXISTS_FAIL}


def of_kind(kind: str) -> types_pb2.Filter:
    value = types_pb2.FilterValue(string_value=kind)
    return types_pb2.Filter(equals=types_pb2.EqualsCondition(attribute="kind", value=value))


class StoresAsOne(RuleBasedStateMachine):
    """The system, and the dict that it must agree with."""

    data: Path
    flags: tuple[str, ...] = ()
    runs = 0

    @initialize()
    def start(self) -> None:
        StoresAsOne.runs += 1
        self.collection = f"m{StoresAsOne.runs}"
        self.truth: dict[str, tuple[int, str]] = {}
        self.restarts = 0
        self.stack = ExitStack()
        self.system: System = self.stack.enter_context(new_system(self.data, *self.flags).running())
        self.system.create(self.collection)

    @rule(image_id=IDS, image=IMAGES, kind=KINDS, choice=st.sampled_from(sorted(CHOICES)))
    def add(self, image_id: str, image: int, kind: str, choice: str) -> None:
        upload = types_pb2.ImageUpload(image_id=image_id, data=noise(image))
        upload.attributes.update({"kind": kind})
        options = pb.AddImagesOptions(collection=self.collection, if_exists=CHOICES[choice])
        requests = [pb.AddImagesRequest(options=options), pb.AddImagesRequest(image=upload)]
        [answer] = self.system.client.images.AddImages(iter(requests), timeout=CALL_SECONDS)
        if image_id not in self.truth:
            expected = pb.ADD_STATUS_ADDED
        else:
            expected = {
                "replace": pb.ADD_STATUS_REPLACED,
                "skip": pb.ADD_STATUS_SKIPPED,
                "fail": pb.ADD_STATUS_FAILED,
            }[choice]
        assert answer.status == expected
        if expected in (pb.ADD_STATUS_ADDED, pb.ADD_STATUS_REPLACED):
            self.truth[image_id] = (image, kind)

    @rule(image_id=IDS)
    def delete(self, image_id: str) -> None:
        request = pb.DeleteImagesRequest(collection=self.collection, ids=pb.ImageIdList(image_ids=[image_id]))
        answer = self.system.client.images.DeleteImages(request, timeout=CALL_SECONDS)
        assert answer.outcomes[0].deleted == (image_id in self.truth)
        self.truth.pop(image_id, None)

    @rule(kind=KINDS)
    def delete_a_kind(self, kind: str) -> None:
        gone = [image_id for image_id, (_, own) in self.truth.items() if own == kind]
        request = pb.DeleteImagesRequest(collection=self.collection, filter=of_kind(kind))
        assert self.system.client.images.DeleteImages(request, timeout=CALL_SECONDS).deleted_count == len(gone)
        for image_id in gone:
            del self.truth[image_id]

    @rule(kind=st.one_of(st.none(), KINDS), exact=st.booleans())
    def search(self, kind: str | None, exact: bool) -> None:
        narrowed: dict[str, Any] = {"filter": of_kind(kind)} if kind else {}
        found = self.system.search(
            self.collection, "一只猫", top_k=20, exact=exact, consistency=types_pb2.CONSISTENCY_STRONG, **narrowed
        )
        expected = {
            image_id: hashlib.sha256(noise(image)).hexdigest()
            for image_id, (image, own) in self.truth.items()
            if kind in (None, own)
        }
        assert {hit.image_id: hit.image.sha256 for hit in found.hits} == expected
        assert (found.dropped_hits, found.images_unavailable) == (0, False)
        places = [(-round(hit.score, 6), hit.image_id.encode()) for hit in found.hits]
        assert places == sorted(places), "best first, ties by id"

    @rule()
    def read(self) -> None:
        for image_id, (image, _) in self.truth.items():
            assert self.system.read(self.collection, image_id) == noise(image)
        assert self.system.count(self.collection) == len(self.truth)

    @rule()
    def reconcile(self) -> None:
        request = admin_pb2.ReconcileRequest(collection=self.collection)
        answers = list(self.system.client.admin.Reconcile(request, timeout=CALL_SECONDS))
        assert [(answer.image_id, answer.checked_count) for answer in answers] == [("", len(self.truth))]

    @precondition(lambda self: self.restarts < MAX_RESTARTS)
    @rule()
    def restart(self) -> None:
        self.restarts += 1
        self.stack.close()
        self.stack.enter_context(self.system.running())

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.system.drop(self.collection)
            self.stack.close()


@pytest.mark.parametrize("pair", ["embedded", "served"])
def test_stores_are_as_one(pair: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    StoresAsOne.data, StoresAsOne.flags = tmp_path, ()
    if pair == "served":
        milvus, mariadb = (request.getfixturevalue(f"{name}_address") for name in ("milvus", "mariadb"))
        StoresAsOne.flags = ("--milvus", milvus, "--mysql", mariadb)
    run_state_machine_as_test(
        StoresAsOne,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
