"""A small real tokenizer: byte-level BPE, so that any text can be encoded and characters fall into several tokens."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|end|>", "<|turn|>"]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sentences = ["the quick brown fox jumps over the lazy dog", "déguster un ortolan", "Paris is the capital of France"]
    tokenizer.train_from_iterator(sentences * 10, trainer)
    return tokenizer
