"""transformers: ``from_pretrained`` compresses, ``save_pretrained`` writes codebooks, ``from_pretrained`` reads them.

One import makes transformers know the method ``lloydmax``::

    import lloydmax.integrations.transformers
"""

from lloydmax.integrations.transformers.config import LloydmaxConfig
from lloydmax.integrations.transformers.quantizer import LloydmaxQuantizer
from lloydmax.integrations.transformers.shards import CompressedFolder, compress_folder

__all__ = ["CompressedFolder", "LloydmaxConfig", "LloydmaxQuantizer", "compress_folder"]
