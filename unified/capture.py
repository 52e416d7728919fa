"""Work on tensors that stay in place, recorded once as a CUDA graph and then started as one.

A decode step is a few hundred small kernels, and to start each of them takes longer than most run.
Recorded work may read and write tensors that were there before and are there afterwards; it may not
look at their values, nor hand out what it makes. Knows nothing of models, and of no shapes: who
records says by a key what else the work depends on.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch

SETTING = "UNIFIED_GRAPHS"  # 0: no work is recorded
WARM = 2  # runs before the recording: products choose their kernels and take their workspace
MOST = 128  # graphs that are held; of more, the one that was used longest ago goes


def wanted(device: str | torch.device, asked: bool | None = None) -> bool:
    """Whether steps have fixed shapes and are recorded: on CUDA, unless the setting says no.

    Args:
        asked: True takes fixed shapes on any device (recorded on CUDA alone); False nowhere.
    """
    if asked is not None:
        return asked
    return torch.device(device).type == "cuda" and os.environ.get(SETTING, "1") != "0"


class Captures:
    """Recorded work by its key; all of it takes turns in one pool of memory.

    Attributes:
        recorded: how many pieces of work were recorded so far.
    """

    def __init__(self, device: torch.device, most: int = MOST):
        self.device, self.most = device, most
        self.recorded = 0
        self._graphs: OrderedDict[Hashable, torch.cuda.CUDAGraph] = OrderedDict()
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._pool = torch.cuda.graph_pool_handle()  # a new one whenever it was empty

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Forget all: tensors have moved."""
        if self._graphs:
            torch.cuda.synchronize(self.device)
            self._graphs.clear()
            self._pool = torch.cuda.graph_pool_handle()

    def run(self, key: Hashable, work: Callable[[], None], state: Sequence[torch.Tensor]) -> None:
        """Do the work: recorded the first time, from then on started as recorded. Where there is no
        CUDA it is done as it stands.

        Args:
            key: the same for the same work on the same tensors.
            state: tensors that the work both reads and changes.

        Raises:
            RuntimeError: it cannot be recorded.
        """
        if self.device.type != "cuda":
            work()
            return
        graph = self._graphs.get(key)
        if graph is None:
            while len(self._graphs) >= self.most:
                self._graphs.popitem(last=False)
            with torch.cuda.device(self.device):
                graph = self._graphs[key] = self._record(work, state)
        self._graphs.move_to_end(key)
        graph.replay()

    def _record(
        self, work: Callable[[], None], state: Sequence[torch.Tensor]
    ) -> torch.cuda.CUDAGraph:
        """Warmed up and recorded on a stream aside; the state is as before."""
        before = [tensor.clone() for tensor in state]
        here = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM):
                work()
                for tensor, value in zip(state, before, strict=True):
                    tensor.copy_(value)
        here.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads may take memory meanwhile, such as the one that decodes pixels
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                work()
        except RuntimeError as error:  # to end a recording that failed raises another one
            torch.cuda.set_stream(here)
            self._pool = torch.cuda.graph_pool_handle()
            found = error.__context__ or error
            if isinstance(found, torch.OutOfMemoryError):
                raise found from None
            first = (str(found).splitlines() or [""])[0]
            raise RuntimeError(
                f"a decode step could not be recorded as a CUDA graph ({first}); with {SETTING}=0"
                " in the environment steps run without"
            ) from found
        self.recorded += 1
        return graph
