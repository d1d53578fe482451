"""FiD-KD's label G by hand: how much a reader attends to each passage before it has written a word.

The reader is a random T5 of two layers, so its labels mean nothing yet; put any trained encoder-decoder in its place.
"""

import torch
from transformers import T5Config, T5ForConditionalGeneration

from retort.config import Prompts
from retort.records import Group, Passage, Query
from retort.teachers.fid.attention import passage_scores
from retort.teachers.fid.prompts import passage_strings

GROUP = Group(
    Query("q1", "where does the river meet the sea"),
    (
        Passage("p1", "River", "The river meets the sea in the old city."),
        Passage("p2", "Moon", "The moon is far."),
        Passage("p3", "Bread", "Bread is made of flour, water and salt."),
    ),
)


def main() -> None:
    strings = [text.lower().split() for text in passage_strings(GROUP, Prompts())]  # question, title and text in each
    number = {word: i for i, word in enumerate(sorted({word for words in strings for word in words}), start=2)}
    longest = max(map(len, strings))
    ids = torch.tensor([[[number[word] for word in words] + [0] * (longest - len(words)) for words in strings]])

    torch.manual_seed(0)
    config = T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    reader = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        scores = passage_scores(reader, ids, (ids > 0).long())[0]  # raw, one for each passage
    for passage, score, share in zip(GROUP.passages, scores.tolist(), scores.softmax(-1).tolist(), strict=True):
        print(f"{passage.title:6} G {score:+.4f}  softmax {share:.3f}")


if __name__ == "__main__":
    main()
