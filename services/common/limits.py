"""The limits that more than one place must know, and the only place where they are numbers.

The contract's comments say the same numbers (tests/unit/test_contract_limits.py reads them there). An operator may set
those of the last two groups otherwise: they are defaults of settings. The gateway compares what its upstreams are set
to with its own settings (gateway/upstreams/limits.py).
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# Ids and names.
MAX_COLLECTION_CHARS = 63
MAX_IMAGE_ID_BYTES = 255
MAX_DESCRIPTION_CHARS = 1000
MAX_MODEL_NAME_CHARS = 200
MAX_MEDIA_TYPE_CHARS = 127
# Components of a vector.
MAX_DIM = 32_768

# Lists and pages. A page of ids fits into the calls that take ids.
MAX_IDS = 1000
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = MAX_IDS
MAX_PAGE_TOKEN_CHARS = 1024
# Vectors of one UpsertVectors, images of one PutBlobs.
MAX_RECORDS = 1000
MAX_BLOBS = 256

# Searches: hits that a caller may ask for, and hits that the gateway may ask the retriever for to choose among.
DEFAULT_TOP_K = 10
MAX_TOP_K = 1000
MAX_VECTOR_TOP_K = 10_000
MAX_QUERIES = 64
MAX_HIT_PARTS = 16

# Attributes. The vector store takes 65,536 bytes of JSON, and the retriever keeps two checksums among them.
MAX_ATTRIBUTES_BYTES = 65_000
# An object is three messages deep on the wire, and protobuf parses a hundred: an answer that holds attributes must stay
# well below, or it poisons every search that finds the image.
MAX_ATTRIBUTES_DEPTH = 16

# Filters. A vector store does not answer an expression of 30 MB.
MAX_FILTER_BYTES = MIB
MAX_FILTER_DEPTH = 16
MAX_FILTER_CONDITIONS = 1000
MAX_FILTER_VALUES = 10_000
MAX_FILTER_TEXT_BYTES = 65_535
MAX_ATTRIBUTE_NAME_BYTES = 255

# Parts of a streamed file.
CHUNK_BYTES = 256 * KIB
MAX_WRITE_CHUNK_BYTES = MIB

# Defaults: what the encoder takes, and the image store.
MAX_TEXTS = 256
MAX_TEXT_CHARS = 10_000
MAX_IMAGES = 64
MAX_IMAGE_BYTES = 16 * MIB
MAX_IMAGE_PIXELS = 64_000_000

# Defaults: messages. What a service sends, the ones that call it must take.
MAX_MESSAGE_BYTES = 64 * MIB
# To the gateway: an image and 256 texts of the longest fit.
MAX_GATEWAY_REQUEST_BYTES = 32 * MIB
# What a message of images has besides their bytes, at most: ids, sizes, media types.
MESSAGE_MARGIN_BYTES = 256 * KIB
