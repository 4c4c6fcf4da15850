"""All networks of the zoo, by name."""

from __future__ import annotations

from zoo import detection, ocr, speech, tabular, text, vision
from zoo.network import Network

NETWORKS: dict[str, Network] = {
    network.name: network for family in (vision, detection, ocr, speech, text, tabular) for network in family.NETWORKS
}
