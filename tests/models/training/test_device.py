from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import torch
from antvisionps.models.training.device import select_device
select_device("cpu", cpu_threads=3)
print(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
"""


def test_the_environment_does_not_decide_the_number_of_threads():
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True)
    assert ran.stdout.split() == ["3", "True"]
