"""The compute thread: the only place that touches the batch. Everything else talks to it through a command queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

import torch

from ais.rollout.engine import EngineObserver
from ais.rollout.engines.torch_engine.batch import Batch, ServedPolicy
from ais.rollout.engines.torch_engine.slots import Ended, Group, Told

Command = Callable[[Batch], None]
Deliver = Callable[[list[Ended], list[Told]], None]


class Worker:
    """Runs decode steps while there is work, and commands between them. Commands are obeyed in order."""

    def __init__(
        self, batch: Batch, observer: EngineObserver, deliver: Deliver, failed: Callable[[BaseException], None]
    ) -> None:
        """`deliver` gets what ended with each step and tokens of what goes on, `failed` the error that ended the
        thread; both in this thread."""
        self.running_sequences = 0
        """Sequences in the batch; read from any thread."""
        self._batch = batch
        self._observer = observer
        self._deliver = deliver
        self._failed = failed
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="torch-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, group: Group) -> None:
        self._commands.put(lambda batch: batch.submit(group))

    def cancel(self, ticket: int) -> None:
        self._commands.put(lambda batch: batch.cancel(ticket))

    def replace(self, policy: ServedPolicy) -> Future[float]:
        """Swaps the policy between two steps; the result is the time generation stood still, in seconds."""
        paused: Future[float] = Future()

        def swap(batch: Batch) -> None:
            begun = time.monotonic()
            batch.replace(policy)
            paused.set_result(time.monotonic() - begun)

        self._commands.put(swap)
        return paused

    def stop(self) -> None:
        """Ends the thread after the step it is in, and waits for that."""

        def stop(_batch: Batch) -> None:
            self._stopping = True

        self._commands.put(stop)
        self._thread.join()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while not self._stopping:
                    self._obey()
                    self.running_sequences = self._batch.slots.running
                    if not self._batch.slots.idle and not self._stopping:
                        self._step()
        except BaseException as error:
            self._failed(error)
            if not isinstance(error, Exception):
                raise

    def _obey(self) -> None:
        """Waits for a command when there is nothing else to do, then takes all there are."""
        if self._batch.slots.idle:
            self._commands.get()(self._batch)
        while not self._commands.empty():
            self._commands.get()(self._batch)

    def _step(self) -> None:
        begun = time.monotonic()
        ended = self._batch.step()
        self._observer.decode_step(time.monotonic() - begun, self._batch.slots.count)
        self.running_sequences = self._batch.slots.running
        told = self._batch.slots.newest()
        if ended or told:
            self._deliver(ended, told)
