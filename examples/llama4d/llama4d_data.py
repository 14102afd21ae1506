"""Token batches that every layout draws alike, and a state small enough to sit in a checkpoint as one string.

The whole global batch is drawn on every rank from one seeded generator, and each rank then takes the rows of its data
index and the positions of its context index. So what is trained on does not depend on the mesh, and the state is the
same on every rank: a job saved on one mesh goes on with the same batches on another.
"""

import json

import numpy
import torch


class Batches:
    """An endless stream of synthetic text with something to learn in it.

    Even positions are drawn from a Zipf-like distribution; each odd one follows from the token before it. A model
    first learns the frequencies and then the rule, so the loss keeps falling.
    """

    def __init__(self, seed: int, vocab: int, batch: int, sequence: int) -> None:
        self._generator = numpy.random.Generator(numpy.random.PCG64(seed))
        self._batch = batch
        self._sequence = sequence
        self._drawn = 0
        weights = 1.0 / numpy.arange(1, vocab + 1)
        self._weights = weights / weights.sum()
        self._successor = numpy.random.Generator(numpy.random.PCG64(vocab)).permutation(vocab)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next global batch: tokens and the tokens that follow them, both (batch, sequence) int64."""
        text = self._generator.choice(len(self._weights), size=(self._batch, self._sequence + 2), p=self._weights)
        text[:, 1::2] = self._successor[text[:, 0:-1:2]]
        self._drawn += 1
        whole = torch.from_numpy(text)
        return whole[:, : self._sequence].contiguous(), whole[:, 1 : self._sequence + 1].contiguous()

    def state(self) -> str:
        """Everything that the next draw depends on, as JSON."""
        return json.dumps({"drawn": self._drawn, "generator": self._generator.bit_generator.state})

    def restore(self, state: str) -> None:
        """Goes on where `state()` was taken."""
        record = json.loads(state)
        self._drawn = record["drawn"]
        self._generator.bit_generator.state = record["generator"]
