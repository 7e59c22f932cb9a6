"""The names of the assets, for modules that refer to another module's asset. Jobs and ops are named by their own objects."""

MANIFEST_INDEX = "manifest_index"
IMAGE_MANIFEST = "image_manifest"
SOURCE_IMAGES = "source_images"
PROFILE = "profile"
DEPTH_MAPS = "depth_maps"
ARTWORK_RECORDS = "artwork_records"
DEPTH_GALLERY = "depth_gallery"
REQUEST_RECORDS = "request_records"

GPU_POOL = "gpu"  # bulk runs wait here for a device

OF_A_CHUNK = (IMAGE_MANIFEST, SOURCE_IMAGES)
OF_A_PAIR = (DEPTH_MAPS, ARTWORK_RECORDS, DEPTH_GALLERY)  # of a chunk under a profile
OF_BULK = (MANIFEST_INDEX, PROFILE, *OF_A_CHUNK, *OF_A_PAIR)

INGEST_GROUP, DEPTH_GROUP, REQUESTS_GROUP = "ingest", "depth", "requests"
OWNERS = ["team:depth"]
