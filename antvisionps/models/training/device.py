"""Which device the networks run on, and that they run reproducibly on it."""

import os

import mmengine.device.utils
import torch

from antvisionps.core.errors import ModelError


def select_device(choice: str, *, cpu_threads: int) -> torch.device:
    """The device for "auto", "cpu" or "cuda"; call it before anything touches CUDA.

    On the CPU torch takes `cpu_threads` whatever the machine and its environment say, as sums are split among threads
    and their number so decides the last bits; and it refuses operators whose result depends on the order of threads.
    Raises ModelError when CUDA is asked for and there is none.
    """
    torch.set_num_threads(cpu_threads)
    if choice == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for processes that this one starts
    on_gpu = choice != "cpu" and torch.cuda.is_available()
    if choice == "cuda" and not on_gpu:
        raise ModelError("runtime.device is cuda, but torch sees no CUDA device; set it to auto or cpu")
    # mmengine's Runner takes what mmengine saw when it was imported: a GPU, or a Mac's MPS.
    mmengine.device.utils.DEVICE = "cuda" if on_gpu else "cpu"
    if on_gpu:
        return torch.device("cuda")
    torch.use_deterministic_algorithms(True)
    # It would fill every new tensor, for debugging.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cpu")
