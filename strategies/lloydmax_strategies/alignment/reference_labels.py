"""Labels of reference data, for those who have them and ask for their use."""

from __future__ import annotations

import torch
from lloydmax import RecoveryError
from lloydmax.extend import Source
from torch import Tensor


def reference_labels(source: Source) -> Tensor:
    """The labels of all samples of a source, int64 ``(samples,)`` or with positions after the first axis.

    Everywhere else in lloydmax labels are dropped when data are opened. They can still be had from a dataset (or a
    loader over one): of a tuple the last element, of a mapping the entry with the name of labels. Tensors go into a
    ``torch.utils.data.TensorDataset(inputs, labels)``. A ``Source`` of one's own may have an attribute ``labels``.

    Raises:
        RecoveryError: the source has none, or they are no class numbers.
    """
    labels = source.read_labels()
    if labels is None:
        raise RecoveryError(
            f"labels: true, but the reference data ({source.describe()}) have none: pass a dataset of (input, label) "
            "pairs, for example torch.utils.data.TensorDataset(inputs, labels)"
        )
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or len(labels) != len(source) or int(labels.min()) < 0:
        raise RecoveryError(
            f"labels must be class numbers from 0, one for each of the {len(source)} reference samples; "
            f"these are {labels.dtype} of shape {tuple(labels.shape)}, the least {labels.min().item()}"
        )
    return labels.long()
