"""Random models of a few thousand weights, built in code without a download: for tests that run in seconds."""

import string
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = """
the a an of in on at to is was are were be by for from with and or not no as it its this that who what where when how
why which year city river king queen war peace book song ship star moon sun sea lake hill road house tree bird fish dog
cat horse man woman child name north south east west old new big small long short red blue green white black gold snow
rain fire water stone iron wood glass paper light night day week month one two three four five six seven eight nine ten
first last capital country language mother father brother sister friend game team music film play door window table
chair bread milk question title context text answer
"""
WORDS = TEXT.split()


def tiny_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A WordPiece tokeniser of about 200 entries, saved in `folder`: common words, and letters for all the others."""
    letters = list(string.ascii_lowercase + string.digits)
    entries = [*SPECIAL, *WORDS, *string.punctuation, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    wrapped.save_pretrained(folder)
    return wrapped


def tiny_bert(vocabulary: int, *, seed: int = 0, dropout: float = 0.0, layers: int = 2, width: int = 24) -> BertModel:
    """A random BERT encoder; larger weights than BERT's own start, so that different texts get different vectors."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertModel(config)


def tiny_encoder(folder: Path, *, seed: int = 0, dropout: float = 0.0) -> Path:
    """`folder`, holding a bare random encoder and its tokeniser as transformers saves them."""
    tokenizer = tiny_tokenizer(folder)
    tiny_bert(len(tokenizer), seed=seed, dropout=dropout).save_pretrained(folder)
    return folder


def tiny_student(folder: Path, *, seed: int = 0, dropout: float = 0.0) -> Path:
    """`folder`, holding a random sentence-transformers model with mean pooling."""
    encoder = Transformer(str(tiny_encoder(folder / "encoder", seed=seed, dropout=dropout)))
    model = SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension(), "mean")], device="cpu")
    model.save(str(folder / "student"), create_model_card=False)
    return folder / "student"
