"""CKL as the loss of a stock sentence-transformers trainer, on a model of word vectors that is made here."""

from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

from retort.integrations.sentence_transformers import ObjectiveLoss
from retort.losses.objectives import CKL

ROWS = {  # the first passage is the positive; a label holds the teacher's scores, then the student's ranks
    "query": ["when does snow fall", "who drinks milk", "what pulls the tide"],
    "passage_1": ["snow is for winter", "a cat drinks it", "the moon moves the sea"],
    "passage_2": ["when does rain fall", "who sells milk", "what pulls the cart"],  # hard: more words are the same
    "passage_3": ["ice melts", "a hen lays an egg", "bread needs flour"],
    "label": [[6.0, 2.0, -3.0, 2, 1, 3], [5.0, 3.0, -4.0, 2, 1, 3], [7.0, 1.0, -2.0, 2, 1, 3]],
}


def main() -> None:
    words = dict.fromkeys(" ".join(text for name in list(ROWS)[:4] for text in ROWS[name]).split())
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="when"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = StaticEmbedding(tokenizer, embedding_weights=torch.eye(len(words)))  # scores count words in common
    model = SentenceTransformer(modules=[vectors], similarity_fn_name="dot", device="cpu")
    loss = ObjectiveLoss(model, CKL(gamma=5.0, alpha=1.0), labels=("scores", "ranks"))
    for epochs in (0, 30):
        with TemporaryDirectory() as out:
            settings = SentenceTransformerTrainingArguments(out, num_train_epochs=epochs, learning_rate=0.05, use_cpu=True)
            SentenceTransformerTrainer(model, settings, train_dataset=Dataset.from_dict(ROWS), loss=loss).train()
        query, positive, hard = (model.encode(ROWS[name]) for name in list(ROWS)[:3])
        leads = (query * positive).sum(1) - (query * hard).sum(1)
        print(f"{epochs} epochs, positive - hard negative:", " ".join(f"{lead:+.2f}" for lead in leads))


if __name__ == "__main__":
    main()
