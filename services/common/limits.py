"""The limits that more than one place must know. Their numbers are written only here.

The contract's comments name the same numbers, and tests/unit/test_contract_limits.py compares them. The last two groups
are defaults of settings, so an operator may change them. The gateway compares its own settings with those of its
upstreams (gateway/upstreams/limits.py).
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
# The most vectors in one UpsertVectors, and the most images in one PutBlobs.
MAX_RECORDS = 1000
MAX_BLOBS = 256

# Searches: the most hits for a caller, and the most hits that the gateway may ask the retriever for.
DEFAULT_TOP_K = 10
MAX_TOP_K = 1000
MAX_VECTOR_TOP_K = 10_000
MAX_QUERIES = 64
MAX_HIT_PARTS = 16

# Attributes. The vector store takes 65,536 bytes of JSON, and the retriever keeps two checksums among them.
MAX_ATTRIBUTES_BYTES = 65_000
# One level of an object is three nested messages, and protobuf parses at most 100. An answer with attributes must stay
# well below that, or every search that finds the image fails.
MAX_ATTRIBUTES_DEPTH = 16

# Filters. A vector store cannot answer an expression of 30 MB.
MAX_FILTER_BYTES = MIB
MAX_FILTER_DEPTH = 16
MAX_FILTER_CONDITIONS = 1000
MAX_FILTER_VALUES = 10_000
MAX_FILTER_TEXT_BYTES = 65_535
MAX_ATTRIBUTE_NAME_BYTES = 255

# The parts of a streamed file: those that the services send, and the largest that they accept.
CHUNK_BYTES = 256 * KIB
MAX_WRITE_CHUNK_BYTES = MIB

# Defaults: the inputs of the encoder and of the image store.
MAX_TEXTS = 256
MAX_TEXT_CHARS = 10_000
MAX_IMAGES = 64
MAX_IMAGE_BYTES = 16 * MIB
MAX_IMAGE_PIXELS = 64_000_000

# Defaults: messages. A caller must accept the largest message that its service sends.
MAX_MESSAGE_BYTES = 64 * MIB
# For requests to the gateway. An image and 256 of the longest texts fit.
MAX_GATEWAY_REQUEST_BYTES = 32 * MIB
# The part of a message of images that is reserved for everything except their bytes.
MESSAGE_MARGIN_BYTES = MIB
