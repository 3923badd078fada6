"""Round-to-nearest 8-bit quantisation in blocks of 32, symmetric around 128."""
import numpy as np

BLOCK = 32
ZERO = 128


def blocks8(weight):
    """weight [..., K] float32 -> (uint8 [..., K], scales [..., K/32] float32); K a multiple of 32."""
    shaped = np.asarray(weight, np.float32).reshape(*weight.shape[:-1], -1, BLOCK)
    scales = np.abs(shaped).max(-1) / 127.0
    safe = np.where(scales == 0, 1.0, scales)[..., None]
    whole = np.clip(np.rint(shaped / safe), -127, 127) + ZERO
    return whole.astype(np.uint8).reshape(weight.shape), np.where(scales == 0, 1.0, scales).astype(np.float32)


def restore(whole, scales):
    """The weights that the quantised form stands for."""
    shaped = whole.astype(np.float32).reshape(*scales.shape, BLOCK) - ZERO
    return (shaped * scales[..., None]).reshape(whole.shape)
