"""Valid requests of every method. Each request is a list of messages: one message, or those of a stream.

A test fails if a method has no template. Requests may write only to SCRATCH, DIRECT, REBUILT and the names of MADE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protos import admin_pb2 as admin
from protos import encoder_pb2 as enc
from protos import imagestore_pb2 as sto
from protos import retriever_pb2 as ret
from protos import search_pb2 as pb
from protos import types_pb2 as types
from tests.fuzz.world import DIRECT, GUARDED, MADE, REBUILT, SCRATCH, TEXT, World, attributes, images

Requests = Sequence[Sequence[Any]]
STRONG, SESSION = types.CONSISTENCY_STRONG, types.CONSISTENCY_SESSION
EXISTS, MISSING = "COLLECTION_EXISTS", "COLLECTION_NOT_FOUND"
IMAGE_MISSING, UNDER_WAY, OTHER_MODEL = "IMAGE_NOT_FOUND", "WRITE_UNDER_WAY", "MODEL_MISMATCH"


@dataclass(frozen=True)
class Template:
    """Valid requests of a method.

    `reasons` are refusals that a valid request may get because of earlier writes. `share` is the part of the examples
    that the method gets: less than 1 if one call takes long.
    """

    make: Callable[[World], Requests]
    reasons: frozenset[str] = frozenset()
    share: float = 1.0


def _one(*messages: Any) -> Template:
    return Template(lambda world: [[each] for each in messages])


def filters() -> list[types.Filter]:
    text = types.FilterValue(string_value="n1")
    few = types.Filter(range=types.RangeCondition(attribute="place", lt=types.FilterValue(int_value=9)))
    named = types.Filter(equals=types.EqualsCondition(attribute="name", value=text))
    chosen = types.Filter(one_of=types.OneOfCondition(attribute="name", values=[text, text]))
    there = types.Filter(exists=types.ExistsCondition(attribute="标签"))
    absent = types.Filter()
    getattr(absent, "not").CopyFrom(there)
    either = types.Filter(any=types.AnyCondition(filters=[named, chosen, absent]))
    return [few, named, types.Filter(all=types.AllCondition(filters=[few, there, either]))]


def _search(world: World) -> Requests:
    text = pb.Query(text=TEXT)
    parts = [pb.HIT_PART_THUMBNAIL, pb.HIT_PART_EMBEDDING]
    parameters = types.SearchParameters(ef=200)
    mixture = pb.QueryMixture(terms=[pb.QueryTerm(query=text, weight=1), pb.QueryTerm(query=pb.Query(text="狗"))])
    full = pb.SearchRequest(collection=GUARDED, query=text, top_k=5, filter=filters()[2], min_score=-1, include=parts)
    full.parameters.CopyFrom(parameters)
    return [
        [pb.SearchRequest(collection=GUARDED, query=text)],
        [full],
        [pb.SearchRequest(collection=SCRATCH, query=text, exact=True, consistency=SESSION)],
        [pb.SearchRequest(collection=GUARDED, query=pb.Query(image=images()[0]))],
        [pb.SearchRequest(collection=GUARDED, query=pb.Query(image_id=world.guarded_ids[0]))],
        [pb.SearchRequest(collection=GUARDED, query=pb.Query(embedding=world.vector))],
        [pb.SearchRequest(collection=GUARDED, query=pb.Query(mixture=mixture))],
        [pb.SearchRequest(collection=GUARDED, query=text, group_by=pb.GroupBy(attribute="name", size=2))],
        [pb.SearchRequest(collection=GUARDED, query=text, fold_similarity=0.9)],
    ]


def _batch_search(world: World) -> Requests:
    queries = [pb.Query(text=TEXT), pb.Query(image_id=world.guarded_ids[0])]
    return [[pb.BatchSearchRequest(collection=GUARDED, queries=queries, top_k=3, filter=filters()[0])]]


def _score_texts(world: World) -> Requests:
    stored = pb.StoredImage(collection=GUARDED, image_id=world.guarded_ids[0])
    return [
        [pb.ScoreTextsRequest(image=images()[0], texts=[TEXT, "狗"])],
        [pb.ScoreTextsRequest(stored=stored, texts=[TEXT])],
    ]


def upload(world: World, place: int, data: bytes) -> types.ImageUpload:
    made = types.ImageUpload(image_id=f"new {place}", data=data)
    made.attributes.update(attributes(place))
    if place == 1:
        made.embedding.CopyFrom(world.vector)
        made.model.CopyFrom(world.model)
    return made


def _add_image(world: World) -> Requests:
    ways = (types.IF_EXISTS_UNSPECIFIED, types.IF_EXISTS_REPLACE, types.IF_EXISTS_SKIP, types.IF_EXISTS_REPLACE)
    pairs = enumerate(zip(images(), ways, strict=True))
    return [
        [pb.AddImageRequest(collection=SCRATCH, image=upload(world, place, data), if_exists=way)]
        for place, (data, way) in pairs
    ]


def _add_images(world: World) -> Requests:
    options = pb.AddImagesRequest(options=pb.AddImagesOptions(collection=SCRATCH, if_exists=types.IF_EXISTS_REPLACE))
    uploads = [pb.AddImagesRequest(image=upload(world, place, data)) for place, data in enumerate(images())]
    return [[options, *uploads], [options, uploads[0]]]


def _get_image(world: World) -> Requests:
    request = pb.GetImageRequest(collection=GUARDED, image_id=world.guarded_ids[0])
    thumbnail = pb.GetImageRequest(
        collection=GUARDED, image_id=world.guarded_ids[1], rendition=types.RENDITION_THUMBNAIL
    )
    return [[request], [thumbnail]]


def _details(world: World) -> Requests:
    ids = world.guarded_ids[:3]
    return [[pb.GetImageDetailsRequest(collection=GUARDED, image_ids=ids, include_embeddings=True)]]


def _list_images(world: World) -> Requests:
    return [
        [pb.ListImagesRequest(collection=GUARDED, page_size=2, page_token=world.image_token)],
        [pb.ListImagesRequest(collection=GUARDED, filter=filters()[2])],
    ]


def _delete_images(world: World) -> Requests:
    value = types.FilterValue(string_value="n2")
    named = types.Filter(equals=types.EqualsCondition(attribute="name", value=value))
    ids = pb.ImageIdList(image_ids=[world.scratch_ids[0], "never there"])
    return [
        [pb.DeleteImagesRequest(collection=SCRATCH, ids=ids)],
        [pb.DeleteImagesRequest(collection=SCRATCH, filter=named)],
    ]


def _create(world: World) -> Requests:
    ivf = types.IndexSpec(type=types.INDEX_TYPE_IVF_FLAT, nlist=16)
    plain = pb.CreateCollectionRequest(collection=MADE[0], description="用于测试")
    full = pb.CreateCollectionRequest(collection=MADE[1], metric=types.METRIC_COSINE, index=ivf, model=world.model)
    return [[plain], [full]]


def _snapshot(world: World) -> Requests:
    return [[admin.ImportSnapshotRequest(collection=MADE[0], part=each) for each in world.snapshot]]


def _create_vectors(world: World) -> Requests:
    flat = types.IndexSpec(type=types.INDEX_TYPE_FLAT)
    return [[ret.CreateVectorCollectionRequest(collection=MADE[1], model=world.model, index=flat, description="x")]]


def _upsert(world: World) -> Requests:
    records = [ret.VectorRecord(image_id=f"v{place}", embedding=world.vector) for place in range(3)]
    for place, each in enumerate(records):
        each.attributes.update(attributes(place))
    records[0].content_sha256 = "0" * 64
    return [[ret.UpsertVectorsRequest(collection=DIRECT, records=records, model=world.model)]]


def _search_vectors(world: World) -> Requests:
    plain = ret.SearchVectorsRequest(collection=GUARDED, queries=[world.vector], top_k=3, model=world.model)
    full = ret.SearchVectorsRequest(
        collection=DIRECT,
        queries=[world.vector, world.vector],
        top_k=5,
        model=world.model,
        filter=filters()[2],
        exact=True,
        consistency=SESSION,
        parameters=types.SearchParameters(ef=200, nprobe=4, search_list=30),
        min_score=0.1,
        include_embeddings=True,
    )
    return [[plain], [full]]


def _get_vectors(world: World) -> Requests:
    ids = [*world.guarded_ids[:2], "never there"]
    plain = ret.GetVectorsRequest(collection=GUARDED, image_ids=ids, include_embeddings=True)
    return [[plain], [ret.GetVectorsRequest(collection=DIRECT, image_ids=["v0"], consistency=SESSION)]]


def _list_vectors(world: World) -> Requests:
    page = ret.ListVectorsRequest(collection=GUARDED, page_size=2, page_token=world.vector_token)
    return [[page], [ret.ListVectorsRequest(collection=GUARDED, filter=filters()[2], include_embeddings=True)]]


def _count_vectors(world: World) -> Requests:
    return [
        [ret.CountVectorsRequest(collection=GUARDED)],
        [ret.CountVectorsRequest(collection=GUARDED, filter=filters()[2], consistency=SESSION)],
    ]


def _begin_rebuild(world: World) -> Requests:
    other = types.ModelFingerprint()
    other.CopyFrom(world.model)
    other.preprocessing_version += 1
    flat = types.IndexSpec(type=types.INDEX_TYPE_FLAT)
    return [[ret.BeginRebuildRequest(collection=REBUILT, model=each, index=flat)] for each in (other, world.model)]


def blob(place: int, data: bytes) -> sto.BlobUpload:
    made = sto.BlobUpload(image_id=f"blob {place}", data=data, media_type="image/png", width=32, height=32)
    made.attributes.update(attributes(place))
    return made


def _put_blobs(world: World) -> Requests:
    blobs = [blob(place, data) for place, data in enumerate(images())]
    return [[sto.PutBlobsRequest(collection=DIRECT, blobs=blobs)]]


def _get_blobs(world: World) -> Requests:
    ids = [*world.guarded_ids[:2], "never there"]
    full = sto.GetBlobsRequest(
        collection=GUARDED, image_ids=ids, include_thumbnails=True, include_data=True, include_attributes=True
    )
    return [[full], [sto.GetBlobsRequest(collection=DIRECT, image_ids=["blob 0"], include_thumbnails=True)]]


def _read_blob(world: World) -> Requests:
    plain = sto.ReadBlobRequest(collection=GUARDED, image_id=world.guarded_ids[0])
    thumbnail = sto.ReadBlobRequest(
        collection=GUARDED, image_id=world.guarded_ids[2], rendition=types.RENDITION_THUMBNAIL
    )
    return [[plain], [thumbnail]]


def _write_blob(world: World) -> Requests:
    data = images()[0]
    head = sto.WriteBlobRequest(head=sto.WriteBlobHead(collection=DIRECT, blob=blob(9, b"")))
    chunks = [sto.WriteBlobRequest(chunk=data[:50]), sto.WriteBlobRequest(chunk=data[50:])]
    return [[head, *chunks]]


def _list_blobs(world: World) -> Requests:
    page = sto.ListBlobsRequest(collection=GUARDED, page_size=2, page_token=world.blob_token)
    return [[page], [sto.ListBlobsRequest(collection=GUARDED, include_attributes=True)]]


def _list_collections(world: World) -> Requests:
    return [[pb.ListCollectionsRequest()], [pb.ListCollectionsRequest(page_size=1, page_token=world.collection_token)]]


def _list_vector_collections(world: World) -> Requests:
    token = world.collection_token
    return [[ret.ListVectorCollectionsRequest()], [ret.ListVectorCollectionsRequest(page_size=1, page_token=token)]]


_WRITES = frozenset({UNDER_WAY, OTHER_MODEL})
TEMPLATES: Mapping[str, Template] = {
    "SearchService.Search": Template(_search),
    "SearchService.BatchSearch": Template(_batch_search),
    "SearchService.ScoreTexts": Template(_score_texts),
    "SearchService.FindDuplicates": _one(pb.FindDuplicatesRequest(collection=GUARDED, min_score=0.9)),
    "ImageService.AddImage": Template(_add_image),
    "ImageService.AddImages": Template(_add_images),
    "ImageService.GetImage": Template(_get_image),
    "ImageService.GetImageDetails": Template(_details),
    "ImageService.ListImages": Template(_list_images),
    "ImageService.DeleteImages": Template(_delete_images),
    "CollectionService.CreateCollection": Template(_create, frozenset({EXISTS}), share=0.4),
    "CollectionService.GetCollection": _one(pb.GetCollectionRequest(collection=GUARDED)),
    "CollectionService.ListCollections": Template(_list_collections),
    "CollectionService.DeleteCollection": Template(
        lambda world: [[pb.DeleteCollectionRequest(collection=each)] for each in MADE], frozenset({MISSING}), share=0.4
    ),
    "AdminService.GetStatus": _one(admin.GetStatusRequest()),
    "AdminService.Reconcile": Template(
        lambda world: [
            [admin.ReconcileRequest(collection=SCRATCH, dry_run=True)],
            [admin.ReconcileRequest(collection=SCRATCH, remove_orphans=True)],
        ],
        frozenset({UNDER_WAY}),
        share=0.4,
    ),
    "AdminService.Reembed": Template(
        lambda world: [[admin.ReembedRequest(collection=REBUILT)]], frozenset({UNDER_WAY}), share=0.1
    ),
    "AdminService.VerifyIndex": _one(admin.VerifyIndexRequest(collection=GUARDED, samples=3, k=2)),
    "AdminService.ExportSnapshot": Template(
        lambda world: [[admin.ExportSnapshotRequest(collection=GUARDED)]], share=0.4
    ),
    "AdminService.ImportSnapshot": Template(_snapshot, frozenset({EXISTS}), share=0.4),
    "EncoderService.EncodeTexts": _one(enc.EncodeTextsRequest(texts=[TEXT, "狗", "a dog"])),
    "EncoderService.EncodeImages": _one(enc.EncodeImagesRequest(images=images())),
    "EncoderService.GetModel": _one(enc.GetModelRequest()),
    "EncoderService.CompareTexts": _one(enc.CompareTextsRequest(image=images()[0], texts=[TEXT, "狗"])),
    "RetrieverService.CreateVectorCollection": Template(_create_vectors, frozenset({EXISTS}), share=0.4),
    "RetrieverService.GetVectorCollection": _one(
        ret.GetVectorCollectionRequest(collection=GUARDED),
        ret.GetVectorCollectionRequest(collection=GUARDED, include_count=True),
    ),
    "RetrieverService.ListVectorCollections": Template(_list_vector_collections),
    "RetrieverService.DropVectorCollection": Template(
        lambda world: [[ret.DropVectorCollectionRequest(collection=MADE[1])]], share=0.4
    ),
    "RetrieverService.UpsertVectors": Template(_upsert),
    "RetrieverService.DeleteVectors": _one(ret.DeleteVectorsRequest(collection=DIRECT, image_ids=["v0", "v1", "no"])),
    "RetrieverService.SearchVectors": Template(_search_vectors),
    "RetrieverService.GetVectors": Template(_get_vectors),
    "RetrieverService.ListVectors": Template(_list_vectors),
    "RetrieverService.CountVectors": Template(_count_vectors),
    "RetrieverService.BeginRebuild": Template(_begin_rebuild, _WRITES, share=0.1),
    "RetrieverService.CommitRebuild": Template(
        lambda world: [[ret.CommitRebuildRequest(collection=REBUILT)]], _WRITES, share=0.1
    ),
    "RetrieverService.AbortRebuild": Template(
        lambda world: [[ret.AbortRebuildRequest(collection=REBUILT)]], _WRITES, share=0.1
    ),
    "RetrieverService.GetVectorStore": _one(ret.GetVectorStoreRequest()),
    "ImageStoreService.PutBlobs": Template(_put_blobs),
    "ImageStoreService.GetBlobs": Template(_get_blobs),
    "ImageStoreService.ReadBlob": Template(_read_blob),
    "ImageStoreService.WriteBlob": Template(_write_blob),
    "ImageStoreService.DeleteBlobs": _one(sto.DeleteBlobsRequest(collection=DIRECT, image_ids=["blob 0", "no"])),
    "ImageStoreService.ListBlobs": Template(_list_blobs),
    "ImageStoreService.ListCreations": _one(sto.ListCreationsRequest(collection=GUARDED)),
    "ImageStoreService.CountBlobs": _one(sto.CountBlobsRequest(collection=GUARDED)),
    "ImageStoreService.DropBlobs": Template(lambda world: [[sto.DropBlobsRequest(collection=each)] for each in MADE]),
    "ImageStoreService.GetBlobStore": _one(sto.GetBlobStoreRequest()),
}
