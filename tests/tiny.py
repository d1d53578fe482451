"""Random models of a few thousand weights, built in code without a download: for tests that run in seconds."""

import string
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    EncoderDecoderModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from retort.records import Corpus, Passage, Query, Run
from retort.teachers.fid.loading import warm_start
from retort.teachers.fid.model import Reader

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


def tiny_masked_model(folder: Path, *, seed: int = 0, dropout: float = 0.0) -> Path:
    """`folder`, holding a random encoder with a masked-language-model head, as SPLADE starts from."""
    tokenizer = tiny_tokenizer(folder)
    config = tiny_bert(len(tokenizer), seed=seed, dropout=dropout).config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertForMaskedLM(config).save_pretrained(folder)
    return folder


def tiny_student(folder: Path, *, seed: int = 0, dropout: float = 0.0) -> Path:
    """`folder`, holding a random sentence-transformers model with mean pooling."""
    encoder = Transformer(str(tiny_encoder(folder / "encoder", seed=seed, dropout=dropout)))
    model = SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension(), "mean")], device="cpu")
    model.save(str(folder / "student"), create_model_card=False)
    return folder / "student"


def tiny_cross_encoder(folder: Path, *, labels: int = 1, seed: int = 0, dropout: float = 0.0) -> Path:
    """`folder`, holding a random BERT that gives a pair `labels` logits, a few units wide, as transformers saves it."""
    config = tiny_bert(len(tiny_tokenizer(folder)), dropout=dropout).config
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
        torch.nn.init.normal_(model.classifier.weight, std=2.0)
    model.save_pretrained(folder)
    return folder


def tiny_world(*, passages: int = 14, queries: int = 6, seed: int = 0) -> tuple[Corpus, list[Query], Run]:
    """A corpus of random sentences of different lengths, some without title; queries; and a full labelling of both."""
    rng = np.random.default_rng(seed)

    def sentence(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, int(rng.integers(low, high))))

    corpus = Corpus.from_passages(
        Passage(f"p{i}", sentence(1, 3) if i % 3 else "", sentence(3, 25)) for i in range(passages)
    )
    asked = [Query(f"q{i}", sentence(3, 9), (sentence(1, 2),)) for i in range(queries)]
    rows = [rng.permutation(passages)[: passages - i % 3] for i in range(queries)]
    labels = Run.build("teacher", [query.id for query in asked], rows, [2 * rng.standard_normal(len(r)) for r in rows])
    return corpus, asked, labels


def tiny_t5(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, dropout: float = 0.0) -> T5ForConditionalGeneration:
    """A random T5 of two layers on the tiny tokeniser; it starts from the pad and ends with [SEP]."""
    config = T5Config(
        vocab_size=len(tokenizer), d_model=24, d_kv=12, d_ff=48, num_layers=2, num_heads=2, relative_attention_num_buckets=8,
        dropout_rate=dropout, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.sep_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(config)


def tiny_bart(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, dropout: float = 0.0) -> BartForConditionalGeneration:
    """A random BART of two layers on the tiny tokeniser; it starts from [CLS] and ends with [SEP]."""
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, dropout=dropout,
        attention_dropout=0.0, init_std=0.2, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id, decoder_start_token_id=tokenizer.cls_token_id, forced_eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BartForConditionalGeneration(config)


def tiny_bert2bert(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, dropout: float = 0.0) -> EncoderDecoderModel:
    """A random BERT encoder of two layers with a decoder of two, warm-started from it."""
    encoder = tiny_bert(len(tokenizer), seed=seed, dropout=dropout)
    encoder.pooler = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return warm_start(encoder, tokenizer, decoder_layers=2)


READERS = {"t5": tiny_t5, "bart": tiny_bart, "bert": tiny_bert2bert}


def tiny_reader(
    kind: str, tokenizer: PreTrainedTokenizerFast, *, copies: bool = False, seed: int = 0, dropout: float = 0.0
) -> Reader:
    """A random reader in evaluation mode: `kind` is "t5", "bart" or "bert"."""
    model = READERS[kind](tokenizer, seed=seed, dropout=dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reader(model, tokenizer, copies=copies).eval()
