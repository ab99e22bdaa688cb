"""Mixers of tokens in one layer: the right count for each kind."""

from __future__ import annotations

from gpuscout.sweeps.models.families import Family
from gpuscout.sweeps.models.fields import Fields
from gpuscout.sweeps.models.layers import Layer, Mixer
from gpuscout.sweeps.models.weights.attention import MixerSize, compressed, headed, latent
from gpuscout.sweeps.models.weights.recurrent import convolution, linear_attention, mamba


def mixer_sizes(fields: Fields, family: Family, layer: Layer) -> list[MixerSize]:
    """Return the mixers of one layer, none or one or two beside each other; the `layers` of each group are 1."""
    mixers = [mixer for mixer in (layer.mixer, layer.beside) if mixer not in (None, Mixer.NONE)]
    return [_mixer_size(fields, family, layer, mixer) for mixer in mixers if mixer is not None]


def _mixer_size(fields: Fields, family: Family, layer: Layer, mixer: Mixer) -> MixerSize:
    match mixer:
        case Mixer.MAMBA:
            return mamba(fields)
        case Mixer.LINEAR:
            return linear_attention(fields)
        case Mixer.CONVOLUTION:
            return convolution(fields)
    if fields.has("o_lora_rank") and fields.has("q_lora_rank"):
        return compressed(fields, layer)
    if fields.has("kv_lora_rank"):
        return latent(fields)
    return headed(fields, family, layer)
