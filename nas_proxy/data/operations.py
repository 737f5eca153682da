"""The names of the operations of `nas_proxy.data.augment`, for what only names them: no PyTorch is imported."""

FULL = ("colour", "crop", "cutout", "flip", "scale", "rotate")
# Digits and letters change their meaning when mirrored.
NO_FLIP = tuple(name for name in FULL if name != "flip")
