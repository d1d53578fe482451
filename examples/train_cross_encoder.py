"""A cross-encoder trained from labels by sentence-transformers' own trainer, on BM25's negatives; then it teaches in Retort.

BM25 cannot tell an animal's passages apart. The model is a random BERT, in the place of any encoder.
"""

from tempfile import TemporaryDirectory

from datasets import Dataset
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, set_seed

from retort.indexes.bm25 import BM25Index
from retort.records import Corpus, Group, Passage, Query
from retort.teachers.cross_encoder import CrossEncoderTeacher
from retort.teachers.loading import load_cross_encoder

ANIMALS = ["cat", "dog", "hen", "cow", "fox", "owl", "bee", "ant", "elk", "yak", "bat", "eel", "ape", "emu", "jay", "rat"]
ASKED = {"food": "what does the {} eat", "home": "where does the {} live", "age": "how old is the {}"}
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def main() -> None:
    queries = [Query(f"{animal} {fact}", text.format(animal), ()) for animal in ANIMALS for fact, text in ASKED.items()]
    corpus = Corpus.from_passages(Passage(query.id, "", query.id) for query in queries)  # the answer to each, in two words
    found = BM25Index.build(corpus).search(queries, 3, name="bm25")
    groups = [Group(query, tuple(corpus[row] for row in found.of(query.id)[0].tolist())) for query in queries]
    train, unseen = groups[:36], groups[36:]  # of the last four animals it has seen nothing
    rows = [{"query": g.query.text, "text": p.text, "label": float(p.id == g.query.id)} for g in train for p in g.passages]
    with TemporaryDirectory() as folder:
        model = untrained(folder)
        settings = CrossEncoderTrainingArguments(f"{folder}/training", num_train_epochs=8, learning_rate=2e-3, use_cpu=True)
        CrossEncoderTrainer(model, settings, Dataset.from_list(rows), loss=BinaryCrossEntropyLoss(model)).train()
        model.save_pretrained(f"{folder}/model")  # in a config: label: {teachers: [{kind: cross_encoder, model: FOLDER}]}
        teacher = CrossEncoderTeacher(load_cross_encoder(f"{folder}/model"), passage_format="{text}", tokens=16)
        labels = teacher.score(unseen)  # raw logits
    for group, scores in zip(unseen, labels, strict=True):
        best = group.passages[scores.argmax()].text
        print(f"{group.query.text:24} BM25: {group.passages[0].text:10} teacher: {best:10} {max(scores):+.2f}")


def untrained(folder: str) -> CrossEncoder:
    words = sorted({*ANIMALS, *ASKED, *" ".join(ASKED.values()).split()} - {"{}"})
    vocabulary = {word: i for i, word in enumerate([*SPECIAL.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary), num_labels=1, num_hidden_layers=2, hidden_size=64, intermediate_size=128,
        num_attention_heads=4, initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    set_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    return CrossEncoder(folder, num_labels=1, device="cpu")


if __name__ == "__main__":
    main()
