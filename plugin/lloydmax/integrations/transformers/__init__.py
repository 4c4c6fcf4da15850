"""transformers: ``from_pretrained`` compresses, ``save_pretrained`` writes codebooks, ``from_pretrained`` reads them.

One import makes transformers know the method ``lloydmax``::

    import lloydmax.integrations.transformers
"""

from lloydmax.integrations.transformers.config import LloydmaxConfig
from lloydmax.integrations.transformers.quantizer import LloydmaxQuantizer

__all__ = ["LloydmaxConfig", "LloydmaxQuantizer"]
