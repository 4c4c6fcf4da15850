"""The student: the model being compressed, while it is trained and when it is finished."""

from lloydmax.student.attachment import codebooks, set_cache
from lloydmax.student.serving import set_kernel

__all__ = ["codebooks", "set_cache", "set_kernel"]
