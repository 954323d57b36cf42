import os

# Threads of torch that wait for each other spin. Where other programs want the same cores, libgomp's default made a
# training step 2 to 5 times slower (2 cores, one busy neighbour); this many spins cost 5 % where the cores are free.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

from antvisionps.models.blocks.mmcv_ops import install_ops  # libgomp reads its settings when torch is imported

# mmdet imports mmcv's compiled operators, so their stand-ins have to be in place before any module of this package.
install_ops()
