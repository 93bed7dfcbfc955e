"""The work itself, as a program: `python -m tgi_server.compress.worker TASK`, TASK being `task.Task` as JSON.

A block at a time: its float weights are read, the samples run through it while its layers' inputs are observed, it is
rounded and written, and the samples run through what became of it. So memory holds one block and a few samples; the
states of all samples are in a file.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

from tgi_server import host
from tgi_server.compress import finish, text
from tgi_server.compress.block import OneBlock, Source
from tgi_server.compress.forward import Samples, needs
from tgi_server.compress.options import QuantizeOptions
from tgi_server.compress.plan import sites
from tgi_server.compress.task import Task
from tgi_server.compress.work import Work
from tgi_server.errors import ModelError
from tgi_server.launcher import job
from tgi_server.models import adapter
from tgi_server.models.check import reader_of
from tgi_server.models.checkpoint import Checkpoint, Tensors
from tgi_server.models.families import read_spec
from tgi_server.models.merged import Merged
from tgi_server.models.spec import ModelSpec


class Quantizer:
    """Makes a checkpoint of the blocks of one model."""

    def __init__(self, task: Task, options: QuantizeOptions, report: job.Report) -> None:
        spec, self._model = read_spec(Path(task.model)), Path(task.model)
        assert isinstance(spec, ModelSpec)  # the launcher has looked
        base = Checkpoint(self._model)
        tensors: Tensors = base
        if task.adapter is not None:
            tensors = Merged(base, adapter.read(Path(task.adapter), spec))
        self._source = Source(spec, base, tensors, options, reader_of(self._model, spec), needs())
        self._report = report
        self._work = Work(Path(task.out))

    def run(self) -> None:
        """From where the work was left to the whole checkpoint."""
        source, work = self._source, self._work
        options, blocks = source.options, source.spec.blocks
        shape = options.samples, options.sample_tokens, source.spec.hidden_size
        samples = Samples(source.spec, source.needs, options.sample_tokens)
        done = work.done(len(blocks))
        if done == 0:
            self._begin(samples, shape)
        for number in range(done, len(blocks)):
            block = OneBlock(source, samples, number, self._report)
            states = work.states(number, shape)
            work.write_block(number, block.made(states))
            if number + 1 < len(blocks):
                with work.new_states(number + 1, shape) as following:
                    block.follow(states, following)
            work.finish_block(number)
            source.tensors.changes.clear()
        self._finish()

    def _begin(self, samples: Samples, shape: tuple[int, int, int]) -> None:
        self._report("Reading the calibration text", 0.0)
        source = self._source
        path = Path(source.options.calibration) if source.options.calibration else text.SHIPPED
        ids = text.samples(path, text.read(path), self._model / "tokenizer.json", *shape[:2])
        if (largest := int(ids.max())) >= source.spec.vocab_size:
            raise ModelError(f"the tokenizer gives the id {largest}, the model has {source.spec.vocab_size} tokens")
        with self._work.new_states(0, shape) as states:
            samples.embed(source.loader(), ids, states)

    def _finish(self) -> None:
        self._report("Writing the checkpoint", 0.0)
        source, spec = self._source, self._source.spec
        layers = [layer for own in spec.blocks for site in sites(own, spec.hidden_size) for layer in site.layers]
        blocks = [self._work.block(number) for number in range(len(spec.blocks))]
        gone = {source.name(f"{layer.name}.weight") for layer in layers}
        result = self._work.result()
        finish.write(result, finish.entries(source.base, source.tensors, blocks, gone, source.half))
        finish.describe(self._model, result, source.options, source.half)
        self._work.finish(result)


@torch.no_grad()
def work(task: Task, report: job.Report) -> str:
    """Do it; returns the directory of the checkpoint."""
    torch.set_num_threads(host.usable_cores())
    report("Looking at what is done", 0.0)
    with Work(Path(task.out)).held(task.job):
        Quantizer(task, task.options, report).run()
    return task.out


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of libraries about each other
    job.perform(lambda report: work(Task.read(sys.argv[1]), report))
