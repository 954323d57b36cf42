import os

# Threads of torch that wait for each other spin, and libgomp's default takes the cores from other programs for long.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

from antvisionps.models.blocks.mmcv_ops import install_ops  # libgomp reads its settings when torch is imported

# mmdet imports mmcv's compiled operators, so their stand-ins have to be in place before any module of this package.
install_ops()
